"""What an algorithm and its policy are. No Ray, no files, no command line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from phalanx.algorithms.common.batch import EpisodeBatch, PrioritisedBatch
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings, ReplaySettings
from phalanx.envs.team import Bools, Floats, TeamSpec

EVERYTHING = "all"  # the only group of parameters, where there is one
Weights = dict[str, npt.NDArray[Any]]
Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Capabilities:
    """What an algorithm can be used for; the wrong combination is refused with a sentence when a run is built."""

    discrete: bool = True
    continuous: bool = False
    on_policy: bool = False
    needs_state: bool = False
    state_use: str = "mixes with the global state"  # where it needs one
    errors: bool = True  # whether `steps` can tell the temporal-difference errors that a prioritised replay goes by

    @property
    def in_words(self) -> str:
        """For lists: the actions it takes, and which data it learns from."""
        actions = " or ".join(kind for kind in ("discrete", "continuous") if getattr(self, kind))
        return f"{actions} actions, {'on' if self.on_policy else 'off'}-policy"

    input_noise: bool = False  # env.noise.demar


@dataclass
class TensorBatch:
    """An `EpisodeBatch` on the learner's device (same shapes); numbers in the parameters' precision, discrete actions
    int64, flags bool."""

    obs: Tensor
    state: Tensor
    avail: Tensor
    actions: Tensor
    log_prob: Tensor
    reward: Tensor
    agent_reward: Tensor
    terminated: Tensor
    filled: Tensor
    importance: Tensor | None = None  # [B], where the replay is prioritised

    @classmethod
    def of(cls, batch: EpisodeBatch, device: torch.device, dtype: torch.dtype = torch.float32) -> TensorBatch:
        def moved(array: npt.NDArray[Any], to: torch.dtype) -> Tensor:
            # numpy refuses to share read-only memory (Ray's) silently: copy there, share elsewhere.
            tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
            if device.type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(device=device, dtype=to, non_blocking=True)

        integer = np.issubdtype(batch.actions.dtype, np.integer)
        return cls(
            obs=moved(batch.obs, dtype),
            state=moved(batch.state, dtype),
            avail=moved(batch.avail, torch.bool),
            actions=moved(batch.actions, torch.int64 if integer else dtype),
            log_prob=moved(batch.log_prob, dtype),
            reward=moved(batch.reward, dtype),
            agent_reward=moved(batch.agent_reward, dtype),
            terminated=moved(batch.terminated, torch.bool),
            filled=moved(batch.filled, torch.bool),
            importance=moved(batch.importance, dtype) if isinstance(batch, PrioritisedBatch) else None,
        )


@dataclass(frozen=True)
class OptimiserStep:
    """A loss, and which of `Algorithm.parameter_groups` it moves."""

    group: str
    loss: Tensor  # the scalar to minimise
    metrics: Metrics  # detached scalars, names without an area (`loss_td`, …)
    errors: Tensor | None = None  # [B], the size of each episode's error, detached: where they were asked for
    made: bool = False  # the parameters have moved, in place, without an optimiser (trust regions): `loss` is history


class Policy(ABC):
    """What workers run. A forward is always one stream with its fixed number of environments, because the rows of a
    GRU differ in bits when the batch size does."""

    log_prob: Floats | None = None
    """[E, N], log-probabilities of the actions that `act` gave last; None where no learner asks for them."""

    @abstractmethod
    def initial_state(self, num_envs: int) -> Any:
        """Recurrent state of `num_envs` environments at the beginning of an episode."""

    @abstractmethod
    def reset_rows(self, state: Any, rows: npt.NDArray[Any]) -> None:
        """Puts the rows (integers or booleans over E) of `state` back to the beginning of an episode, in place."""

    @abstractmethod
    def act(self, obs: Floats, state: Any, avail: Bools, rng: np.random.Generator, epsilon: float) -> npt.NDArray[Any]:
        """Actions [E, N] int64, or [E, N, D] float32 where continuous, for obs [E, N, O] and avail [E, N, A]; updates
        `state` in place. Epsilon 0 is greedy and draws nothing from `rng`; above 0 the policy explores: randomly
        (among the available) with that probability per agent, or by sampling, however large it is."""

    @abstractmethod
    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Takes what `Algorithm.policy_weights` gave."""


class Algorithm(nn.Module, ABC):
    """Networks, loss and target updates of one method.

    Built from the team's spec and settings alone; initial weights come from torch's global generator, which the
    caller seeds. `state_dict()` holds everything that a checkpoint needs besides the optimiser.
    """

    Settings: ClassVar[type[AlgorithmSettings]]
    capabilities: ClassVar[Capabilities]

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__()
        self.spec = spec
        self.settings = settings
        self.networks = networks

    @classmethod
    @abstractmethod
    def make_policy(cls, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> Policy:
        """The policy alone, with arbitrary weights: what a worker builds, without mixers or targets."""

    @abstractmethod
    def policy_weights(self) -> Weights:
        """What the policy needs, as numpy arrays that share no memory with the parameters."""

    @abstractmethod
    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser changes (target networks are not among them)."""

    @abstractmethod
    def prepare(self, batch: TensorBatch, rng: np.random.Generator) -> Any:
        """All of an update that no trained parameter enters, for `loss`. May run while the update before it is under
        way, in another thread, unless that one moves the targets. `rng` is the learner's: everything random in an
        update (ensemble subsets, …) is drawn from it here."""

    @abstractmethod
    def steps(self, prepared: Any, *, with_errors: bool = False) -> Iterator[OptimiserStep]:
        """The optimiser steps of one update, one after the other: when the next one is asked for, the parameters of the
        one before have moved. With `with_errors`, one of them has the errors that a prioritised replay goes by: never
        asked where `capabilities.errors` is False."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What has an optimiser of its own, by name. By default all that is trained, together."""
        return {EVERYTHING: self.trained_parameters()}

    def learning_rate(self, group: str) -> float:
        """Of one of the groups."""
        return self.settings.lr

    def diagnostics(self, batch: TensorBatch) -> Metrics:
        """Further figures about one batch, made once per report; names without an area."""
        return {}

    @abstractmethod
    def moves_targets(self, updates: int) -> bool:
        """Whether `after_update(updates)` will change what `prepare` reads."""

    @abstractmethod
    def after_update(self, updates: int) -> None:
        """Called after update number `updates` (from 1): target networks."""


def require_errors(algorithm: type[Algorithm], name: str, replay: ReplaySettings) -> None:
    """UserError where a prioritised replay would ask the algorithm for errors that it does not have."""
    if replay.sampling == "prioritised" and not algorithm.capabilities.errors:
        raise UserError(
            f"replay.sampling=prioritised needs a method that learns from temporal differences, and"
            f" algorithm.name={name} does not: set replay.sampling=uniform"
        )


def require_compatible(algorithm: type[Algorithm], name: str, spec: TeamSpec) -> None:
    """Raises a UserError where the algorithm cannot learn in the environment."""
    can = algorithm.capabilities
    if spec.discrete and not can.discrete:
        raise UserError(f"algorithm.name={name} needs continuous actions, but {spec.env_name} has discrete ones")
    if not spec.discrete and not can.continuous:
        raise UserError(
            f"algorithm.name={name} needs discrete actions, but {spec.env_name} has continuous ones:"
            " choose another algorithm or an environment with discrete actions"
        )
    if can.needs_state and spec.state_dim == 0:
        raise UserError(
            f"algorithm.name={name} {can.state_use}, but {spec.env_name} has none: choose a method that does without,"
            f" such as {'ippo' if can.on_policy else 'vdn'}, or an environment with a state"
        )
