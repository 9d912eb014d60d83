"""AEC games: `env(kind=…)`; two agents, who see (a number drawn at reset, the cycle) and are paid their action."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo.utils.env import AECEnv

from tests.envs.toys import Toy


class Cycle(AECEnv):  # type: ignore[type-arg]
    """Everybody chooses, then the world moves."""

    metadata = {"name": "cycle", "is_parallelizable": True}  # noqa: RUF012
    render_mode = None

    def __init__(self, max_cycles: int = 4) -> None:
        super().__init__()
        self.possible_agents = ["a_0", "a_1"]
        self.max_cycles = max_cycles

    def observation_space(self, agent: str) -> Any:
        return Box(-np.inf, np.inf, (2,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(3)

    def observe(self, agent: str) -> Any:
        return np.array([self.secret, self.cycle], np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.secret = np.random.default_rng(seed).random()
        self.cycle = 0
        self.agents = self.possible_agents[:]
        self.rewards = self._cumulative_rewards = dict.fromkeys(self.agents, 0)
        self.terminations, self.truncations = (dict.fromkeys(self.agents, False) for _ in range(2))
        self.infos: dict[str, Any] = {a: {} for a in self.agents}
        self.agent_selection = self.agents[0]
        self.chosen: dict[str, int] = {}

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self.chosen[agent] = action
        self.rewards = dict.fromkeys(self.agents, 0)
        if len(self.chosen) == len(self.agents):
            self.rewards, self.chosen = dict(self.chosen), {}
            self.cycle += 1
            self.truncations = dict.fromkeys(self.agents, self.cycle >= self.max_cycles)
        self.agent_selection = self.agents[(self.agents.index(agent) + 1) % len(self.agents)]


class Turns(Cycle):
    """Does not say that it can be played in cycles."""

    metadata = {"name": "turns"}  # noqa: RUF012


def not_aec(**kwargs: Any) -> Any:
    """A ParallelEnv from where AEC games come from."""
    return Toy(**kwargs)


def env(kind: str = "Cycle", **kwargs: Any) -> Any:
    return {"Cycle": Cycle, "Turns": Turns}[kind](**kwargs)
