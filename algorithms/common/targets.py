"""Masks, greedy actions and targets, time first: [T, B, …].

Targets of several steps look ahead over the transitions that were stored, and differ in what they bootstrap from.
With V the target networks' value of the greedy joint action and Q(u) that of the joint action taken, b the one or the
other, an episode of L transitions, and G(t:t+n) = Σ_{k<n} γ^k r_{t+k} + γ^n b_{t+n}, the λ-return is

    y_t = (1 − λ) Σ_{n=1}^{L−t−1} λ^{n−1} G(t:t+n) + λ^{L−t−1} G(t:L)
        = r_t + γ [(1 − λ) b_{t+1} + λ y_{t+1}].

* `n_step`: G(t:t+n), from V. What was taken in between is not corrected for.
* `td_lambda`: from the value of what was taken, b = Q(u): the return of TD(λ) and Sarsa(λ) (Sutton and Barto 2018,
  sections 12.1 and 12.7). PyMARL trains COMA's critic so, SMIX(λ) (Wen et al. 2020) a QMIX from replay. It evaluates
  the team as it played, exploration included; λ = 0 is Sarsa(0).
* `peng_lambda`: from the greedy value, b = V: Peng's Q(λ) (Peng and Williams 1996; Kozuno et al. 2021: uncorrected,
  converges to the optimum where the behaviour slowly follows the greedy policy). λ = 0 is Q-learning, that is `td0`.
  PyMARL2's `td_lambda` for QMIX is this one. It mixes greedy bootstraps with returns of the actions taken and, unlike
  Watkins's Q(λ), does not stop at the first action that is not greedy: a joint action of many exploring agents rarely
  is. Weighted QMIX itself uses one step.

With λ = 1 both are the discounted return to the end. Nothing was taken in the last state of an episode: it counts with
V where the time limit cut the episode off, and with 0 where the episode terminated.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNAVAILABLE = -9999999.0  # PyMARL's stand-in for an impossible action's value: finite, so that 0 · value stays 0


def transition_mask(filled: Tensor, terminated: Tensor) -> Tensor:
    """What is learned from: filled transitions up to and including the terminal one.

    filled: [B, T+1], terminated: [B, T], bool. Returns [T, B] bool.
    """
    mask = filled[:, :-1].clone()
    mask[:, 1:] &= ~terminated[:, :-1]
    return mask.t()


def mask_unavailable(values: Tensor, avail: Tensor) -> Tensor:
    """values, avail: [..., A]. Impossible actions get a value that no maximum picks."""
    return values.masked_fill(~avail, UNAVAILABLE)


def take(values: Tensor, actions: Tensor) -> Tensor:
    """values: [..., N, A], actions: [..., N]. The values of the actions, [..., N]."""
    return values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def one_step_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """y = r + γ (1 − terminated) · next. reward, terminated: [T, B]; next_value: [..., T, B]."""
    return reward + gamma * torch.where(terminated, torch.zeros_like(next_value), next_value)


def discounted_sums(values: Tensor, mask: Tensor, discount: float, steps: int | None = None) -> Tensor:
    """Σ_{0≤k<steps} discount^k values_{t+k} within each episode; `steps` None: to its end.

    values: [..., T, B]; mask: [T, B] bool, the valid transitions, which begin each column. Returns [..., T, B].
    """
    # One product with a triangular matrix of powers instead of a loop over time. 0 ** 0 is 1.
    length = mask.shape[0]
    ahead = torch.arange(length, device=values.device)
    ahead = ahead - ahead.unsqueeze(1)
    reached = (ahead >= 0) & (ahead < (length if steps is None else steps))
    powers = (discount ** ahead.clamp(min=0).to(values.dtype)).where(reached, values.new_zeros(()))
    return powers @ values.masked_fill(~mask, 0.0)


def n_step_target(
    reward: Tensor, terminated: Tensor, mask: Tensor, next_value: Tensor, gamma: float, steps: int
) -> Tensor:
    """y_t = Σ_{k<n} γ^k r_{t+k} + γ^n V_{t+n}, with n = `steps`, or as many as the episode still had.

    reward, terminated, mask: [T, B]; next_value: [..., T, B], of the states after each transition. Returns like
    `next_value`; what is not valid is finite but means nothing.
    """
    step = torch.arange(mask.shape[0], device=mask.device).unsqueeze(1)
    last = torch.minimum(step + steps, mask.sum(0)).sub(1).clamp(min=0)  # the last transition that is looked at
    bootstrap = one_step_target(torch.zeros_like(reward), terminated, next_value, 1.0)
    bootstrap = bootstrap.gather(-2, last.expand_as(next_value))
    discount = gamma ** (last + 1 - step).clamp(min=0).to(reward.dtype)
    return discounted_sums(reward, mask, gamma, steps) + discount * bootstrap


def lambda_target(
    reward: Tensor,
    terminated: Tensor,
    mask: Tensor,
    next_value: Tensor,
    gamma: float,
    trace: float,
    next_taken: Tensor | None = None,
) -> Tensor:
    """The λ-return (see above) with λ = `trace`. Shapes as in `n_step_target`.

    next_taken: like `next_value`, the value of the joint action taken after each transition (whatever it says where
    nothing was taken); None: the greedy one.
    """
    goes_on = torch.zeros_like(mask)
    goes_on[:-1] = mask[1:]
    following = next_value if next_taken is None else next_taken
    value = torch.where(goes_on, (1 - trace) * following, next_value)
    return discounted_sums(one_step_target(reward, terminated, value, gamma), mask, gamma * trace)
