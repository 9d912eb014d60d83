"""What an on-policy update works on: the batch, and what is learned from it. Everything is time first: [T, B, …]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    minibatches: list[Tensor | None]  # of every epoch, one after the other: indices over B; None: all
    order: list[int]  # in which the turns are taken


@dataclass
class Experience:
    """What an update learns from, in every one of its steps; [T, B, N], or [T, B, 1] where agents do not differ."""

    prepared: Prepared
    log_prob: Tensor  # log π of the actions
    weight: Tensor  # min(ρ̄, π/μ)
    advantage: Tensor
    outputs: Tensor  # of the critic, before the update
    returns: Tensor  # what they are drawn to
    factor: Tensor  # M, [T, B, 1]: what those who have had their turn make of an advantage

    def part(self, episodes: Tensor | None) -> Experience:
        """That of some episodes; None: all."""
        if episodes is None:
            return self

        def cut(tensor: Tensor) -> Tensor:
            return tensor.index_select(1, episodes)

        def cut_all(record: Prepared | Experience) -> dict[str, Any]:
            return {name: cut(value) if isinstance(value, Tensor) else value for name, value in vars(record).items()}

        return Experience(**{**cut_all(self), "prepared": Prepared(**cut_all(self.prepared))})


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Over valid steps and all agents. values: [T, B, N]; mask: [T, B]."""
    return masked_mean(values.movedim(-1, 0), mask)


def standardised(advantage: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over valid steps and all agents; 0 elsewhere."""
    mean = mean_over(advantage, mask)
    centred = (advantage - mean).masked_fill(~mask.unsqueeze(-1), 0.0)
    deviation = mean_over(centred.square(), mask).sqrt()
    return centred / (deviation + LEAST_DEVIATION)
