"""What an on-policy update works on: the batch, and what is learned from it. Everything is time first: [T, B, …]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phalanx.algorithms.common.losses import masked_mean

LEAST_DEVIATION = 1e-5  # of advantages: those that hardly differ are not blown up


@dataclass
class Prepared:
    """The batch, time first, and what was drawn for its update."""

    inputs: Tensor  # [T+1, B, N, I] of the agent networks
    state: Tensor  # [T+1, B, S]
    avail: Tensor  # [T+1, B, N, A]
    actions: Tensor  # [T, B, N] or [T, B, N, D]
    played: Tensor  # [T, B, N], log μ of the actions
    reward: Tensor  # [T, B, 1], the team's, or [T, B, N]
    terminated: Tensor  # [T, B]
    mask: Tensor  # [T, B] bool
    minibatches: list[Tensor | None]  # of every epoch, one after the other: indices over B or chunks; None: all
    order: list[int]  # in which the turns are taken
    memory: dict[str, Tensor]  # of chunks: by actors' and critic's names, what they knew before, [1, B, n, H]


@dataclass
class Experience:
    """What an update learns from, in every one of its steps; [T, B, N], or [T, B, 1] where agents do not differ."""

    prepared: Prepared
    log_prob: Tensor  # log π of the actions
    weight: Tensor  # min(ρ̄, π/μ)
    advantage: Tensor
    outputs: Tensor  # of the critic, before the update
    returns: Tensor  # what they are drawn to
    states: dict[
        str, Tensor
    ]  # by the same names, [T+1, B, n, H]: of recurrent networks after each step; for chunks alone
    factor: Tensor  # M, [T, B, 1]: what those who have had their turn make of an advantage

    def part(self, episodes: Tensor | None) -> Experience:
        """That of some episodes; None: all."""
        if episodes is None:
            return self

        def cut(tensor: Tensor) -> Tensor:
            return tensor.index_select(1, episodes)

        def cut_all(record: Prepared | Experience) -> dict[str, Any]:
            return {name: cut(value) if isinstance(value, Tensor) else value for name, value in vars(record).items()}

        prepared = cut_all(self.prepared)
        prepared["memory"] = {name: cut(value) for name, value in self.prepared.memory.items()}
        return Experience(**{**cut_all(self), "prepared": Prepared(**prepared)})

    def chunks(self, length: int) -> Experience:
        """The same in pieces of `length` steps, each an episode of its own, without those in which nothing is
        learned."""
        prepared, kept = self.prepared, kept_chunks(self.prepared.mask, length)
        steps = len(prepared.mask)

        def cut(tensor: Tensor) -> Tensor:
            return in_chunks(tensor, length, len(tensor) - steps).index_select(1, kept)

        def cut_all(record: Prepared | Experience) -> dict[str, Any]:
            return {name: cut(value) if isinstance(value, Tensor) else value for name, value in vars(record).items()}

        own = cut_all(prepared)
        # Before an episode's first chunk nothing is known, before another what the last step of the one before left.
        own["memory"] = {
            name: in_chunks(torch.cat([torch.zeros_like(state[:1]), state[:-1]]), length, 1)[:1].index_select(1, kept)
            for name, state in self.states.items()
        }
        return Experience(**{**cut_all(self), "prepared": Prepared(**own), "states": {}})


def in_chunks(tensor: Tensor, length: int, more: int) -> Tensor:
    """tensor: [T + more, B, …], padded with zeros to whole chunks. Returns [length + more, chunks·B, …], of which the
    last `more` rows are the next chunk's first."""
    steps = len(tensor) - more
    count = -(-steps // length)
    missing = count * length - steps
    padded = torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor
    begin = torch.arange(0, count * length, length, device=tensor.device)
    rows = begin + torch.arange(length + more, device=tensor.device).unsqueeze(1)  # [length + more, chunks]
    return padded[rows].flatten(1, 2)


def kept_chunks(mask: Tensor, length: int) -> Tensor:
    """Indices of the chunks of `in_chunks` in which there is something to learn. mask: [T, B] bool."""
    return in_chunks(mask, length, 0).any(0).nonzero().squeeze(-1)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Over valid steps and all agents. values: [T, B, N]; mask: [T, B]."""
    return masked_mean(values.movedim(-1, 0), mask)


def standardised(advantage: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over valid steps and all agents; 0 elsewhere."""
    mean = mean_over(advantage, mask)
    centred = (advantage - mean).masked_fill(~mask.unsqueeze(-1), 0.0)
    deviation = mean_over(centred.square(), mask).sqrt()
    return centred / (deviation + LEAST_DEVIATION)
