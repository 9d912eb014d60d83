"""The acting side of value methods: ε-greedy on the ensemble's mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phalanx.algorithms.base import Policy
from phalanx.algorithms.common.networks.base import AgentNetworks, Layers
from phalanx.algorithms.common.targets import mask_unavailable
from phalanx.envs.team import Bools, Floats, TeamSpec


@dataclass
class RecurrentState:
    """hidden: [K, E·N, …], the networks' memory; inputs: [E, N, O+A+N], of which last actions and ids are kept."""

    hidden: Tensor
    inputs: Tensor


class ValuePolicy(Policy):
    """Greedy in Q̄ = mean over the K agent networks, random with probability ε per agent."""

    def __init__(self, spec: TeamSpec, agents: AgentNetworks) -> None:
        self.spec = spec
        self.agents = agents.requires_grad_(False)
        self._layers: Layers | None = None  # generated or gathered once for all steps with the same weights
        self._first = agents.initial_state(1)  # [K, 1, …]
        self._zeros_at_start = slice(spec.obs_dim, spec.obs_dim + spec.n_actions)

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self.agents.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        self._layers = None

    def initial_state(self, num_envs: int) -> RecurrentState:
        n, a = self.spec.n_agents, self.spec.n_actions
        inputs = torch.zeros(num_envs, n, self.spec.obs_dim + a + n)
        inputs[..., self.spec.obs_dim + a :] = torch.eye(n)
        return RecurrentState(self.agents.initial_state(num_envs * n), inputs)

    @torch.inference_mode()
    def reset_rows(self, state: RecurrentState, rows: npt.NDArray[Any]) -> None:
        index = torch.from_numpy(np.atleast_1d(rows))
        rows_of = (self.agents.members, -1, self.spec.n_agents, *self.agents.state_shape)
        if state.hidden.numel():
            state.hidden.view(rows_of)[:, index] = self._first.unsqueeze(1)
        state.inputs[index, :, self._zeros_at_start] = 0

    @torch.inference_mode()
    def act(
        self, obs: Floats, state: RecurrentState, avail: Bools, rng: np.random.Generator, epsilon: float
    ) -> npt.NDArray[np.int64]:
        envs, n = obs.shape[:2]
        state.inputs[..., : self.spec.obs_dim] = torch.from_numpy(obs)
        if self._layers is None:
            self._layers = self.agents.chosen()
        values, state.hidden = self.agents.step(state.inputs.view(envs * n, -1), state.hidden, self._layers)
        mean = values[0] if self.agents.members == 1 else values.mean(0)
        greedy = mask_unavailable(mean.view(envs, n, -1), torch.from_numpy(avail)).argmax(-1)
        actions = explore(greedy.numpy(), avail, rng, epsilon)
        last_actions = state.inputs[..., self._zeros_at_start].zero_()
        last_actions.scatter_(-1, torch.from_numpy(actions).unsqueeze(-1), 1.0)
        return actions


def explore(
    greedy: npt.NDArray[np.int64], avail: Bools, rng: np.random.Generator, epsilon: float
) -> npt.NDArray[np.int64]:
    """Replaces each action [E, N] by a uniformly drawn available one with probability ε. Draws nothing for ε = 0."""
    if epsilon <= 0:
        return greedy
    draws = rng.random((2, *greedy.shape))
    counts = avail.cumsum(axis=-1)  # the k-th available action is the first whose count exceeds k - 1
    chosen = np.floor(draws[1] * counts[..., -1]).astype(np.int64)
    random = (counts <= chosen[..., None]).sum(axis=-1)
    return np.where(draws[0] < epsilon, random, greedy)
