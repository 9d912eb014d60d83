"""The part of VMAS's interface that the adapter uses, with scenarios of its own: `drift` (agents wander, the episode
ends where all have walked 5 steps to the right), `gusts` (as drift, but the wind is drawn in every step) and `column`
(as drift, but pays [E, 1])."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

made: list[Any] = []


class Drift:
    """A scenario of somebody's own."""


class Environment:
    def __init__(self, scenario: Any, num_envs: int, continuous_actions: bool, n_agents: int = 2) -> None:
        scenario = "drift" if isinstance(scenario, Drift) else scenario
        if scenario not in ("drift", "gusts", "nested", "several", "column"):
            raise ValueError(f"unknown scenario {scenario}")
        self.scenario, self.num_envs, self.continuous = scenario, num_envs, continuous_actions
        self.agents = [SimpleNamespace(name=f"walker_{i}") for i in range(n_agents)]
        discrete = SimpleNamespace(nvec=[3, 2]) if scenario == "several" else SimpleNamespace(n=3)
        box = SimpleNamespace(low=np.array([-0.5, -2]), high=np.array([0.5, 2]), shape=(2,))
        self.action_space = [box if continuous_actions else discrete for _ in range(n_agents)]
        self.rng = np.random.default_rng(0)
        self.place = np.zeros((num_envs, n_agents, 2), np.float32)
        self.orders: Any = None

    def seed(self, seed: int) -> list[int]:
        self.rng = np.random.default_rng(seed)
        return [seed]

    def reset(self) -> Any:
        for row in range(self.num_envs):
            self.reset_at(row)
        return self.look()

    def reset_at(self, index: int) -> Any:
        self.place[index] = self.rng.random(self.place.shape[1:])
        return self.look()

    def look(self) -> Any:
        """The first agent sees where everybody is, the others where they are themselves; always the same arrays."""
        if self.scenario == "nested":
            return [{"place": self.place[:, i]} for i in range(len(self.agents))]
        views = [self.place[:, i] for i in range(len(self.agents))]
        return [self.place.reshape(self.num_envs, -1), *views[1:]]

    def step(self, actions: list[Any]) -> Any:
        self.orders = [np.array(action) for action in actions]
        assert all(action.shape == (self.num_envs, 2 if self.continuous else 1) for action in actions)
        for i, action in enumerate(self.orders):
            self.place[:, i] += action if self.continuous else (action == 2) * np.float32(1)
        if self.scenario == "gusts":
            self.place += self.rng.random(self.place.shape).astype(np.float32)
        rewards = [self.place[:, i, 0] for i in range(len(self.agents))]
        if self.scenario == "column":
            rewards = [reward[:, None] for reward in rewards]
        return self.look(), rewards, (self.place[:, :, 0] > 5).all(axis=1), [{} for _ in self.agents]


def make_env(
    scenario: Any,
    num_envs: int,
    device: str,
    continuous_actions: bool,
    dict_spaces: bool,
    max_steps: int | None,
    seed: int,
    **kwargs: Any,
) -> Environment:
    assert (device, dict_spaces, max_steps) == ("cpu", False, None)
    made.append(Environment(scenario, num_envs, continuous_actions, **kwargs))
    return made[-1]  # type: ignore[no-any-return]
