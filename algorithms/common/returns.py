"""What on-policy methods learn from: advantages and value targets, time first: [T, B, N].

With δ_t = r_t + γ (1 − terminated_t) V_{t+1} − V_t, both are one recurrence from the end of each episode,

    x_t = a_t + b_t x_{t+1},

which `backward_recurrence` solves for all steps in log₂ T rounds, by doubling.

* GAE (Schulman et al. 2016, equation 16): A_t = δ_t + γ λ A_{t+1}; the value target is A_t + V_t.
* V-trace (Espeholt et al. 2018, remark 1): with ratios w = π / μ of the policy that learns and the one that played,
  v_t − V_t = min(ρ̄, w_t) δ_t + γ λ min(c̄, w_t) (v_{t+1} − V_{t+1}).
  The advantage is δ_t + γ λ (v_{t+1} − V_{t+1}). The paper has no λ there, so that its advantage on-policy is that of
  λ = 1 whatever λ is; with it, V-trace of ratios 1 is GAE, and what is corrected for is staleness alone.

The last transition of an episode is followed by row `length` of the values: an episode that was cut off bootstraps from
what it saw last, one that terminated does not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def backward_recurrence(added: Tensor, factor: Tensor) -> Tensor:
    """x_t = added_t + factor_t x_{t+1}, x_T = 0. Both [T, …]; new memory."""
    total, factor = added.clone(), factor.clone()
    reach = 1
    while reach < len(total):
        # x_t so far counts `reach` steps; what it lacks is that of x_{t+reach}, weighted with the product up to there.
        # The last `reach` rows are done. Products are new tensors: rows are read before they are written.
        total[:-reach] += factor[:-reach] * total[reach:]
        factor[:-reach] = factor[:-reach] * factor[reach:]
        reach *= 2
    return total


def temporal_differences(
    reward: Tensor, values: Tensor, terminated: Tensor, mask: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """δ_t [T, B, N], zero where nothing is learned, and whether the episode goes on after t, [T, B, 1], as 0 or 1.

    reward: [T, B, N] or [T, B, 1]; values: [T+1, B, N]; terminated, mask: [T, B] bool, `mask` the valid transitions,
    which begin each column. What lies beyond them may be anything.
    """
    following = values[1:].masked_fill(terminated.unsqueeze(-1), 0.0)
    error = (reward + gamma * following - values[:-1]).masked_fill(~mask.unsqueeze(-1), 0.0)
    goes_on = torch.zeros_like(mask)
    goes_on[:-1] = mask[1:]
    return error, goes_on.unsqueeze(-1).to(values.dtype)


def gae(
    reward: Tensor, values: Tensor, terminated: Tensor, mask: Tensor, gamma: float, trace: float
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets, [T, B, N] each, with λ = `trace`; advantages are zero where nothing is learned.
    Shapes as in `temporal_differences`."""
    error, goes_on = temporal_differences(reward, values, terminated, mask, gamma)
    advantage = backward_recurrence(error, (gamma * trace * goes_on).expand_as(error))
    return advantage, advantage + values[:-1]


def vtrace(
    reward: Tensor,
    values: Tensor,
    terminated: Tensor,
    mask: Tensor,
    ratio: Tensor,
    gamma: float,
    trace: float,
    rho_max: float = 1.0,
    c_max: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """As `gae`, corrected for another policy having played. ratio: [T, B, N], π / μ, finite where something is learned.

    The policy's own weight min(ρ̄, w_t) of a step is not part of the advantage: the loss has it.
    """
    error, goes_on = temporal_differences(reward, values, terminated, mask, gamma)
    ratio = ratio.masked_fill(~mask.unsqueeze(-1), 1.0)
    decay = gamma * trace * goes_on
    correction = backward_recurrence(ratio.clamp(max=rho_max) * error, ratio.clamp(max=c_max) * decay)
    following = torch.zeros_like(correction)
    following[:-1] = correction[1:]
    return error + decay * following, correction + values[:-1]
