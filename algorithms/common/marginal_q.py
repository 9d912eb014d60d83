"""The optimal marginal Q and the pessimism of its critics (OMDPG, arXiv 2507.09989; docs/omdpg.md says what is ours).

    φ*(s, a_{1:i}) = max over a_{i+1:n} of min_c Q_c(s, a_{1:i}, a_{i+1:n})

is what the first i agents of an order can still reach: φ*(s, a_{1:n}) = min_c Q_c(s, a). With the true maximum, agent i
contributes φ*(s, a_{1:i}) − φ*(s, a_{1:i−1}) ≤ 0, and the contributions sum to min_c Q_c(s, a) − max_a min_c Q_c(s, a).
The maximum is approached: by the actors' greedy actions, or from there by one pass of coordinate ascent.

Shapes: P joint actions are looked at in each of R states, by C critics; actions have D numbers, one-hot if discrete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from phalanx.algorithms.common.losses import masked_mean

JointValues = Callable[[Tensor], Tensor]
"""Critics in R states: joint actions [P, R, N, D] -> [C, P, R]."""


def before(order: Sequence[int]) -> Tensor:
    """[N+1, N] bool: row i holds the first i agents of `order`, whose actions are given; the others' continue them."""
    given = torch.zeros(len(order) + 1, len(order), dtype=torch.bool)
    for i, agent in enumerate(order):
        given[i + 1 :, agent] = True
    return given


def continued(given: Tensor, taken: Tensor, greedy: Tensor) -> Tensor:
    """`taken` where the agents' actions are given, else `greedy`.

    given: bool, [P, N] or [P, R, N]; taken, greedy: [R, N, D] or [P, R, N, D]. Returns [P, R, N, D].
    """
    given = given.unsqueeze(1) if given.dim() == 2 else given
    return torch.where(given.unsqueeze(-1), taken, greedy)


@torch.no_grad()
def coordinate_ascent(values: JointValues, joint: Tensor, given: Tensor, avail: Tensor, order: Sequence[int]) -> Tensor:
    """Improves the actions that are not given, one agent after the other in `order`: the best available one for
    min_c Q_c, the others' as they are by then. An agent keeps its action where no other is better, so that no value
    ever falls (but for rounding); where none is available, too.

    joint: [P, R, N, A] one-hot; given: bool, [P, N] or [P, R, N]; avail: [R, N, A] bool. Returns [P, R, N, A].
    N·A evaluations for each joint action, A of them at a time.
    """
    free = ~(given.unsqueeze(1) if given.dim() == 2 else given).expand(joint.shape[:-1])
    joint = joint.clone()
    actions = joint.shape[-1]
    choices = torch.eye(actions, dtype=joint.dtype, device=joint.device)
    for agent in order:
        asked = free[..., agent].any(1).nonzero().squeeze(1)  # of the P: those whose continuation has this agent
        if len(asked) == 0:
            continue
        now = joint[asked]
        candidates = now.repeat_interleave(actions, 0)  # [P'·A, R, N, A]
        candidates[:, :, agent] = choices.repeat(len(asked), 1).unsqueeze(1)
        value = values(candidates).amin(0).view(len(asked), actions, -1).transpose(1, 2)  # [P', R, A]
        value = value.masked_fill(~avail[:, agent], -torch.inf)
        best, choice = value.max(-1)
        current = value.gather(-1, now[:, :, agent].argmax(-1, keepdim=True)).squeeze(-1)
        better = (free[asked, :, agent] & (best > current)).unsqueeze(-1)
        now[:, :, agent] = torch.where(better, choices[choice], now[:, :, agent])
        joint[asked] = now
    return joint


def marginal_q(
    values: JointValues, taken: Tensor, greedy: Tensor, order: Sequence[int], avail: Tensor | None = None
) -> Tensor:
    """φ*(s, a_{1:i}) for i = 0 … N at once: [N+1, R]. taken, greedy: [R, N, D].

    Continued by `greedy`, or, where actions are discrete and `avail` [R, N, A] is given, by coordinate ascent from
    there. Gradients pass through `taken` and `greedy`.
    """
    given = before(order).to(taken.device)
    joint = continued(given, taken, greedy)
    if avail is not None:
        best = coordinate_ascent(values, joint.detach(), given, avail, order)
        joint = continued(given, joint, best)
    return values(joint).amin(0)


def contributions(marginal: Tensor) -> Tensor:
    """φ*(s, a_{1:i}) − φ*(s, a_{1:i−1}), i = 1 … N, in the order's order. marginal: [N+1, R]. Returns [N, R]."""
    return marginal[1:] - marginal[:-1]


def pessimistic_loss(values: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Σ_c (Q_c − y)², y = mean_c Q_c − β std_c Q_c held fixed: the mean over valid rows, a scalar.

    Critics that agree, and a single one, are left alone; where they differ, their mean falls, at a rate of 2 β std.
    The standard deviation is the population's. values: [C, *rows], mask: [*rows] bool.
    """
    with torch.no_grad():
        target = values.mean(0) - beta * values.std(0, correction=0)
    return masked_mean((values - target).square().sum(0), mask)
