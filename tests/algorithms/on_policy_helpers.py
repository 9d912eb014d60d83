"""Small on-policy algorithms in double precision, and batches that they could have played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.algorithms.on_policy import OnPolicy
from phalanx.algorithms.registry import ALGORITHMS, algorithm_class, algorithm_settings
from phalanx.configs.settings import NetworkSettings
from phalanx.envs.team import TeamSpec
from tests.algorithms.helpers import SPEC, doubles, random_batch

ON_POLICY = tuple(name for name in ALGORITHMS if algorithm_settings(name).on_policy)
SEQUENTIAL = ("happo", "hatrpo", "haa2c")
PAID = replace(SPEC, agent_rewards=True)
CONTINUOUS = replace(SPEC, discrete=False, n_actions=0, action_dims=(2, 2, 1))
MLP = {"network": "mlp", "hidden": 6, "depth": 1}
GRU = {"network": "gru", "hidden": 6}


def build(
    name: str, *, spec: TeamSpec = SPEC, agent: dict[str, Any] | None = None, seed: int = 0, **settings: Any
) -> OnPolicy:
    """In double precision, its weights large enough that nothing is nearly constant. Torch's own generator is left
    alone."""
    networks = NetworkSettings.model_validate({"agent": agent or MLP})
    kind = algorithm_class(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        algorithm = kind(spec, kind.Settings.model_validate({"name": name, **settings}), networks).double()
        for parameter in algorithm.parameters():
            parameter.data.uniform_(-0.6, 0.6)
    assert isinstance(algorithm, OnPolicy)
    return algorithm


def played(
    algorithm: OnPolicy, seed: int, lengths: Sequence[int], steps: int | None = None, stale: float = 0.0
) -> EpisodeBatch:
    """Random episodes whose stored log-probabilities are the algorithm's own, off by about `stale`."""
    spec, rng = algorithm.spec, np.random.default_rng(seed)
    batch = random_batch(seed, lengths, spec, steps) if spec.discrete else random_continuous(seed, lengths, spec, steps)
    batch.log_prob = np.zeros((*batch.reward.shape, spec.n_agents), np.float64)  # type: ignore[assignment]
    if spec.agent_rewards:
        filled = batch.filled[:, :-1, None]
        batch.agent_reward = rng.normal(size=batch.log_prob.shape).astype(np.float32) * filled
    prepared = algorithm.prepare(doubles(batch), np.random.default_rng(0))
    with torch.no_grad():
        log_prob = algorithm.distribution(prepared).log_prob(prepared.actions).transpose(0, 1).numpy()
    off = stale * rng.normal(size=log_prob.shape)
    batch.log_prob = np.where(batch.filled[:, :-1, None], log_prob + off, 0.0)
    return batch


def random_continuous(seed: int, lengths: Sequence[int], spec: TeamSpec, steps: int | None = None) -> EpisodeBatch:
    """`random_batch` with actions drawn from a normal distribution."""
    rng = np.random.default_rng(seed)
    batch = random_batch(seed, lengths, replace(SPEC, discrete=True), steps)
    shape = (*batch.reward.shape, spec.n_agents, max(spec.action_dims))
    batch.actions = rng.normal(size=shape).astype(np.float32) * batch.filled[:, :-1, None, None]
    for agent, size in enumerate(spec.action_dims):
        batch.actions[:, :, agent, size:] = 0
    batch.avail = np.zeros((*batch.avail.shape[:-1], 0), np.bool_)
    return batch


def update(algorithm: OnPolicy, batch: EpisodeBatch, *, seed: int = 0, lr: float = 0.05) -> dict[str, list[float]]:
    """One update by plain gradient descent; what every step told, by name."""
    groups, told = algorithm.parameter_groups(), {}
    for step in algorithm.steps(algorithm.prepare(doubles(batch), np.random.default_rng(seed))):
        if not step.made:
            gradients = torch.autograd.grad(step.loss, groups[step.group], allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(groups[step.group], gradients, strict=True):
                    if gradient is not None:
                        parameter -= lr * gradient
        for name, value in step.metrics.items():
            told.setdefault(name, []).append(float(value))
    return told


def parameters(algorithm: OnPolicy) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in algorithm.trained_parameters()]
