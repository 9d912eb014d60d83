"""Small actor-critic methods in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from phalanx.algorithms.actor_critic import ActorCritic, Prepared
from phalanx.algorithms.actor_critic_settings import ActorCriticSettings
from phalanx.algorithms.base import OptimiserStep
from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.algorithms.registry import ALGORITHMS, algorithm_class, algorithm_settings
from phalanx.configs.catalogue import published_settings
from phalanx.configs.settings import NetworkSettings
from phalanx.envs.team import TeamSpec
from tests.algorithms.helpers import SPEC, doubles, random_batch

ACTORS = ("maddpg", "matd3", "masac", "haddpg", "hatd3", "hasac")
SOFT, SEQUENTIAL = ("masac", "hasac"), ("haddpg", "hatd3", "hasac")
CONTINUOUS = replace(SPEC, discrete=False, n_actions=0, action_dims=(2, 1, 2))
SIDES = replace(SPEC, agent_rewards=True, group_ids=(0, 1, 0), group_names=("x", "y"))


def settings_of(name: str, **settings: Any) -> ActorCriticSettings:
    """With the method's published defaults."""
    given = {**published_settings(name).data, **settings}
    given["critic"] = {**published_settings(name).data.get("critic", {}), "hidden": 7, **settings.get("critic", {})}
    model = algorithm_settings(name).model_validate({"name": name, **given})
    assert isinstance(model, ActorCriticSettings)
    return model


def build(name: str, spec: TeamSpec = SPEC, *, agent: dict[str, Any] | None = None, **settings: Any) -> ActorCritic:
    """The method with large weights, its targets different from what is trained."""
    assert name in ALGORITHMS
    networks = NetworkSettings.model_validate({"agent": {"hidden": 6, **(agent or {})}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        algorithm = algorithm_class(name)(spec, settings_of(name, **settings), networks).double()
        for parameter_name, parameter in algorithm.named_parameters():
            if "temperature" not in parameter_name:
                parameter.data.uniform_(-0.8, 0.8)
    assert isinstance(algorithm, ActorCritic)
    return algorithm


def batch_of(spec: TeamSpec = SPEC, lengths: Sequence[int] = (6, 3, 4), seed: int = 0) -> EpisodeBatch:
    """Random episodes; continuous actions where the spec says so, in the components that agents have."""
    batch = random_batch(seed, lengths, replace(spec, discrete=True, n_actions=4, action_dims=(4, 4, 4)))
    rng = np.random.default_rng(seed)
    if spec.agent_rewards:
        shape = (*batch.reward.shape, spec.n_agents)
        batch.agent_reward = rng.normal(size=shape).astype(np.float32)
    if not spec.discrete:
        used = np.arange(max(spec.action_dims)) < np.array(spec.action_dims)[:, None]
        actions = rng.uniform(-1, 1, (*batch.reward.shape, *used.shape)) * used
        batch.actions = actions.astype(np.float32)
        batch.avail = np.zeros((*batch.avail.shape[:-1], 0), np.bool_)
    return batch


def prepared(algorithm: ActorCritic, seed: int = 0, batch: EpisodeBatch | None = None) -> Prepared:
    batch = batch_of(algorithm.spec) if batch is None else batch
    return algorithm.prepare(doubles(batch), np.random.default_rng(seed))


def update(algorithm: ActorCritic, number: int, given: Prepared, lr: float = 0.1) -> list[OptimiserStep]:
    """One update by plain gradient steps, as the learner makes them."""
    groups, made = algorithm.parameter_groups(), []
    for step in algorithm.steps(given, with_errors=True):
        gradients = torch.autograd.grad(step.loss, groups[step.group], allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(groups[step.group], gradients, strict=True):
                if gradient is not None:
                    parameter -= lr * gradient
        made.append(step)
    algorithm.after_update(number)
    return made
