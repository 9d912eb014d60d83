"""What reports say of centralised critics besides their losses: the figures of `common/diagnostics` that make sense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from phalanx.algorithms.base import Metrics, TensorBatch
from phalanx.algorithms.common.diagnostics import overestimation, spread, td_errors

if TYPE_CHECKING:
    from phalanx.algorithms.actor_critic import ActorCritic


@torch.no_grad()
def critic_diagnostics(algorithm: ActorCritic, batch: TensorBatch) -> Metrics:
    """Critics against returns and targets, and how far the target critics differ; of the first part of the team, where
    parts have rewards of their own. With soft methods values hold the worth of entropy too, which returns do not."""
    given = algorithm.prepare(batch, np.random.default_rng(0))  # of a batch that nothing is learned from
    gamma, count = algorithm.settings.gamma, algorithm.settings.critic.members
    values = algorithm.critics(given.state[:-1], given.joint.flatten(-2))[:count]
    figures = overestimation(values, given.reward[0], given.terminated, given.mask, gamma)
    figures |= td_errors(values - algorithm.target(given)[0], given.mask)
    if count > 1:
        actions, _ = algorithm.next_actions(given)
        following = algorithm.target_critics(given.state, actions.flatten(-2))[:count, 1:]
        figures["target_spread"] = gamma * spread(following.masked_fill(given.terminated, 0.0), given.mask)
    return figures
