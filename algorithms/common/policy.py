"""What policies on recurrent networks have in common, and the acting side of value methods: ε-greedy on the ensemble's
mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phalanx.algorithms.base import Policy
from phalanx.algorithms.common.actors import ActingNetworks
from phalanx.algorithms.common.native.pick import pick_kernel
from phalanx.algorithms.common.networks.base import AgentNetworks, Layers
from phalanx.algorithms.common.networks.view import action_size
from phalanx.algorithms.common.noise import noisy
from phalanx.algorithms.common.targets import UNAVAILABLE
from phalanx.envs.team import Bools, Floats, TeamSpec

Networks = TypeVar("Networks", AgentNetworks, ActingNetworks)


@dataclass
class RecurrentState:
    """hidden: [K, E·N, …], the networks' memory; inputs: [E, N, O+A+N], of which last actions and ids are kept.

    What is done to these few numbers between two forwards is numpy's, whose calls cost half of what torch's do.
    """

    hidden: Tensor
    inputs: Floats
    rows: Tensor = field(init=False)  # [E·N, O+A+N], the same numbers as `inputs`

    def __post_init__(self) -> None:
        self.rows = torch.from_numpy(self.inputs).flatten(0, 1)


class NetworkPolicy(Policy, Generic[Networks]):
    """Asks networks once for each step of a stream, and keeps what they remember. They are not trained here.

    `input_noise` is `env.noise.demar`: what the networks see is noisy, drawn before anything else of the step.
    """

    def __init__(self, spec: TeamSpec, agents: Networks, input_noise: float = 0.0) -> None:
        self.spec = spec
        self.agents: Networks = agents
        self.agents.requires_grad_(False)
        self._input_noise = input_noise
        self._layers: Layers | None = None  # generated or gathered once for all steps with the same weights
        self._first: Floats = agents.initial_state(1).numpy()[:, :, None]  # [K, 1, 1, …]
        self._one_hot = np.eye(spec.n_actions, dtype=np.float32)
        self._last_actions = slice(spec.obs_dim, spec.obs_dim + action_size(spec))

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self.agents.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        self._layers = None

    def initial_state(self, num_envs: int) -> RecurrentState:
        n, ids = self.spec.n_agents, self._last_actions.stop
        inputs = np.zeros((num_envs, n, ids + n), np.float32)
        inputs[..., ids:] = np.eye(n)
        return RecurrentState(self.agents.initial_state(num_envs * n), inputs)

    def reset_rows(self, state: RecurrentState, rows: npt.NDArray[Any]) -> None:
        if state.hidden.numel():
            rows_of = (self.agents.members, -1, self.spec.n_agents, *self.agents.state_shape)
            state.hidden.view(rows_of).numpy()[:, np.atleast_1d(rows)] = self._first
        state.inputs[rows, :, self._last_actions] = 0

    def outputs(self, obs: Floats, state: RecurrentState, rng: np.random.Generator) -> Tensor:
        """What the networks give for obs [E, N, O], [K, E, N, X]; `state` moves on."""
        envs, n = obs.shape[:2]
        state.inputs[..., : self.spec.obs_dim] = obs
        if self._layers is None:
            self._layers = self.agents.for_acting(self.agents.chosen())
        inputs = noisy(state.rows, self._input_noise, rng)
        outputs, state.hidden = self.agents.step(inputs, state.hidden, self._layers)
        return outputs.view(len(outputs), envs, n, -1)

    def remember(self, state: RecurrentState, actions: npt.NDArray[Any]) -> None:
        """The actions [E, N] or [E, N, D], which agents see next."""
        shown = self._one_hot[actions] if self.spec.discrete else actions
        state.inputs[..., self._last_actions] = shown


class ValuePolicy(NetworkPolicy[AgentNetworks]):
    """Greedy in Q̄ = mean over the K agent networks, random with probability ε per agent."""

    def act(
        self, obs: Floats, state: RecurrentState, avail: Bools, rng: np.random.Generator, epsilon: float
    ) -> npt.NDArray[np.int64]:
        values = self.outputs(obs, state, rng)
        mean = (values[0] if self.agents.members == 1 else values.mean(0)).numpy()
        pick = pick_kernel() if mean.dtype == np.float32 else None
        if pick is not None:
            return pick(mean, avail, rng, epsilon, state.inputs, self._last_actions.start)
        greedy = np.where(avail, mean, UNAVAILABLE).argmax(-1)
        actions = explore(greedy, avail, rng, epsilon)
        self.remember(state, actions)
        return actions


def explore(
    greedy: npt.NDArray[np.int64], avail: Bools, rng: np.random.Generator, epsilon: float
) -> npt.NDArray[np.int64]:
    """Replaces each action [E, N] by a uniformly drawn available one with probability ε. Draws nothing for ε = 0."""
    if epsilon <= 0:
        return greedy
    draws = rng.random((2, *greedy.shape))
    anew = draws[0] < epsilon
    if not anew.any():
        return greedy
    counts = avail[anew].cumsum(axis=-1)  # the k-th available action is the first whose count exceeds k - 1
    chosen = np.floor(draws[1, anew] * counts[..., -1])
    actions = greedy.copy()
    actions[anew] = (counts <= chosen[..., None]).sum(axis=-1)
    return actions
