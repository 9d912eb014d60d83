"""Small teams, random episodes and algorithms in double precision."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch
from torch import Tensor, nn

from phalanx.algorithms.base import TensorBatch
from phalanx.algorithms.common.batch import EpisodeBatch, empty_batch
from phalanx.algorithms.registry import ALGORITHMS, algorithm_class, algorithm_settings
from phalanx.algorithms.value_mixing import Terms, ValueMixing, ValueMixingSettings
from phalanx.configs.settings import NetworkSettings
from phalanx.envs.team import TeamSpec

NAMES = tuple(name for name in ALGORITHMS if issubclass(algorithm_settings(name), ValueMixingSettings))
UNMIXED = ("vdn", "iql", "qtran_base")  # without mixing weights that depend on the state
STATELESS = ("vdn", "iql")
MIXING = tuple(name for name in NAMES if name not in UNMIXED)
NETWORKS = NetworkSettings.model_validate({"agent": {"hidden": 6}, "mixer": {"embed": 4, "hypernet": 5}})
SPEC = TeamSpec(
    env_name="nowhere",
    n_agents=3,
    obs_dim=4,
    state_dim=5,
    n_actions=4,
    episode_limit=6,
    agent_names=("a", "b", "c"),
    obs_dims=(4, 4, 4),
    action_dims=(4, 4, 4),
)


def build(name: str, *, seed: int = 0, spec: TeamSpec = SPEC, **settings: Any) -> ValueMixing:
    """The algorithm in double precision, its targets different from its online networks and all weights large enough
    that nothing is nearly constant. Torch's global generator is left alone."""
    kind = algorithm_class(name)
    if name in ("ow_qmix", "cw_qmix"):
        settings.setdefault("central", {"embed": 6})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        algorithm = kind(spec, kind.Settings.model_validate({"name": name, **settings}), NETWORKS).double()
        for parameter in algorithm.parameters():
            parameter.data.uniform_(-0.8, 0.8)
    assert isinstance(algorithm, ValueMixing)
    return algorithm


def allowed_double_q(name: str) -> tuple[bool, ...]:
    """The values of `double_q` that the method takes."""
    kind = algorithm_class(name).Settings.model_fields["double_q"].annotation
    return get_args(kind) if get_origin(kind) is Literal else (True, False)


def random_batch(seed: int, lengths: Sequence[int], spec: TeamSpec = SPEC, steps: int | None = None) -> EpisodeBatch:
    """Random episodes of these lengths, about half of them terminated, padded as EpisodeBatch says."""
    rng = np.random.default_rng(seed)
    batch = empty_batch(spec, len(lengths), steps or max(lengths))
    for row, length in enumerate(lengths):
        batch.obs[row, : length + 1] = rng.normal(size=(length + 1, spec.n_agents, spec.obs_dim))
        batch.state[row, : length + 1] = rng.normal(size=(length + 1, spec.state_dim))
        avail = random_avail(rng, (length + 1, spec.n_agents), spec.n_actions)
        batch.avail[row, : length + 1] = avail
        batch.actions[row, :length] = np.where(avail, rng.random(avail.shape), -1.0).argmax(-1)[:-1]
        batch.reward[row, :length] = rng.normal(size=length)
        batch.terminated[row, length - 1] = rng.random() < 0.5
        batch.filled[row, :length] = True
    return batch


def random_avail(rng: np.random.Generator, shape: tuple[int, ...], actions: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Every row has at least one available action."""
    avail = rng.random((*shape, actions)) < 0.5
    np.put_along_axis(avail, rng.integers(actions, size=(*shape, 1)), True, -1)
    return avail


def with_garbage(batch: EpisodeBatch, seed: int) -> EpisodeBatch:
    """The same episodes with random contents wherever nothing was seen."""
    rng = np.random.default_rng(seed)
    garbage = copy.deepcopy(batch)
    for row, length in enumerate(batch.lengths):
        seen, made = slice(length + 1, None), slice(length, None)
        for array in (garbage.obs, garbage.state):
            array[row, seen] = rng.normal(scale=5, size=array[row, seen].shape)
        shape = garbage.avail[row, seen].shape
        garbage.avail[row, seen] = random_avail(rng, shape[:-1], shape[-1])
        garbage.actions[row, made] = rng.integers(batch.avail.shape[-1], size=garbage.actions[row, made].shape)
        garbage.reward[row, made] = rng.normal(scale=100, size=garbage.reward[row, made].shape)
        garbage.terminated[row, made] = rng.random(garbage.terminated[row, made].shape) < 0.5
    return garbage


def rows(batch: EpisodeBatch, order: Sequence[int]) -> EpisodeBatch:
    """The episodes in another order."""
    return EpisodeBatch(**{name: array[list(order)] for name, array in vars(batch).items()})


def doubles(batch: EpisodeBatch) -> TensorBatch:
    return TensorBatch.of(batch, torch.device("cpu"), torch.float64)


def terms(algorithm: ValueMixing, batch: EpisodeBatch, seed: int = 0) -> Terms:
    return algorithm.terms(algorithm.prepare(doubles(batch), np.random.default_rng(seed)))


def learned(algorithm: ValueMixing, batch: EpisodeBatch, seed: int = 0) -> list[Tensor]:
    """The loss and every gradient."""
    loss, _ = algorithm.loss(algorithm.prepare(doubles(batch), np.random.default_rng(seed)))
    parameters = algorithm.trained_parameters()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert not any(g is None for g in gradients)
    return [loss.detach(), *(g for g in gradients if g is not None)]


def assert_same(first: Sequence[Tensor], second: Sequence[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
