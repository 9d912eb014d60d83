"""RES, with halves S-QMIX (its softmax) and RE-QMIX (its penalty): Pan et al., NeurIPS 2021, arXiv 2103.11883."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from phalanx.algorithms.base import TensorBatch
from phalanx.algorithms.common.mixers import MixingWeights
from phalanx.algorithms.common.targets import discounted_sums, mask_unavailable, take
from phalanx.algorithms.value_mixing import Prepared, Terms, ValueMixing, ValueMixingSettings
from phalanx.configs.settings import AlgorithmSettings

HIDDEN_AT_ONCE = 2**22  # numbers


class RESSettings(ValueMixingSettings):
    double_q: Literal[True] = Field(default=True, description="always: the online networks choose and weigh")
    softmax: bool = Field(
        default=True, description="the softmax operator for the target; false takes the greedy joint action (RE-QMIX)"
    )
    softmax_beta: float = Field(
        default=0.05, gt=0, description="β, inverse temperature of the softmax; the larger, the nearer to the maximum"
    )
    softmax_over: Literal["available", "all"] = Field(
        default="available",
        description="all keeps joint actions in the softmax that are not available, as the authors' code does",
    )
    penalty_lambda: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="λ, weight of the squared distance to the episode's own return; 0 leaves it out (S-QMIX)",
    )


@dataclass
class RESPrepared(Prepared):
    """`Prepared` with what the episodes earned, where the penalty asks for it."""

    returns: Tensor | None = None  # [T, B], discounted, to the end of the episode


class RES(ValueMixing):
    """Against overestimation: a softmax over nearby joint actions, and a penalty for leaving what was earned.

    y = r + γ (1 - term) Σ_u w(u) Q_tot^-(s', u) over the n·|A| joint actions in which one agent departs from the online
    greedy joint action (which counts n times), w = softmax(β Q_tot(s', u)) of the online networks. The loss adds
    λ (Q_tot - R_t)², R_t the discounted return that followed, without a bootstrap where the episode was cut.

    With ensembles the weights come from the mean of the online mixers, each drawn target mixer values the joint actions
    with the minimum of the drawn agent networks, and the least of their softmax values counts. Differences from the
    authors' code: none with `softmax_over: all`; joint actions that are not available are left out by default (in
    theirs the mixer's ELU turns them into moderate values with considerable weight).
    """

    Settings: ClassVar[type[AlgorithmSettings]] = RESSettings
    settings: RESSettings

    @torch.no_grad()
    def prepare(self, batch: TensorBatch, rng: np.random.Generator) -> Prepared:
        prepared = super().prepare(batch, rng)
        returns = None
        if self.settings.penalty_lambda > 0:
            returns = discounted_sums(prepared.reward, prepared.mask, self.settings.gamma)
        return RESPrepared(**vars(prepared), returns=returns)

    def greedy_values(self, terms: Terms) -> Tensor:
        if not self.settings.softmax:
            return super().greedy_values(terms)
        _, target, weight = self.counterfactuals(terms)
        return (weight * target).sum((-2, -1))

    def counterfactuals(self, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """Of the greedy joint action with one agent's action exchanged, at every step: the online Q_tot (mean over
        mixers) [T+1, B, N, A], the target Q_tot [N_H, T+1, B, N, A] and the softmax weight [T+1, B, N, A]."""
        prepared, greedy = terms.prepared, terms.greedy
        assert terms.generated is not None and prepared.target_mixing is not None
        generated = extended(terms.generated, self.mixer.generate(prepared.state[-1]))
        values = mask_unavailable(terms.mean_values.detach(), prepared.avail)
        online = exchanged(values.flatten(0, 1), greedy.flatten(0, 1), generated).mean(0).view_as(values)
        target_values = self.target_agent_values(prepared)
        target = exchanged(target_values.flatten(0, 1), greedy.flatten(0, 1), prepared.target_mixing)
        scores = self.settings.softmax_beta * online
        if self.settings.softmax_over == "available":
            scores = scores.masked_fill(~prepared.avail, -torch.inf)
        weight = scores.flatten(-2).softmax(-1).view_as(scores)
        return online, target.view(-1, *values.shape), weight

    def add_losses(self, terms: Terms) -> None:
        super().add_losses(terms)
        prepared = terms.prepared
        if isinstance(prepared, RESPrepared) and prepared.returns is not None:
            distance = self.regression(terms, terms.q_tot, prepared.returns)
            terms.losses["loss_return"] = self.settings.penalty_lambda * distance


def extended(first: MixingWeights, last: MixingWeights | None) -> MixingWeights:
    """The weights of T steps and those of one more. No gradient."""
    assert last is not None
    pairs = zip(vars(first).values(), vars(last).values(), strict=True)
    return MixingWeights(*(torch.cat([a.detach(), b.detach()], dim=1) for a, b in pairs))


def exchanged(values: Tensor, greedy: Tensor, weights: MixingWeights) -> Tensor:
    """Q_tot of all n·|A| joint actions in one pass per mixer, each of whose weights were generated once.

    An exchange changes one agent's summand of the mixing layer. values: [R, N, A], greedy: [R, N]. Returns
    [H, R, N, A]. Large batches are taken in parts, which bounds the memory.
    """
    best = take(values, greedy)
    change = (values - best.unsqueeze(-1)).unsqueeze(-1)
    at_once = max(1, HIDDEN_AT_ONCE // (values[0].numel() * weights.bias.shape[-1]))
    members = []
    for first, bias, last, value in zip(*vars(weights).values(), strict=True):
        before = (best.unsqueeze(-1) * first).sum(-2) + bias  # [R, E], of the greedy joint action
        parts = zip(*(x.split(at_once) for x in (before, change, first, last)), strict=True)
        members.append(torch.cat([_mixed(*part) for part in parts]) + value[:, None, None])
    return torch.stack(members)


def _mixed(before: Tensor, change: Tensor, first: Tensor, last: Tensor) -> Tensor:
    hidden = torch.addcmul(before[:, None, None], change, first.unsqueeze(-2))  # [R, N, A, E]
    return functional.elu_(hidden).mul_(last[:, None, None]).sum(-1)
