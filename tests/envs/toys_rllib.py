"""Multi-agent environments in RLlib's form, without RLlib; each agent sees (a number drawn at reset, the step)."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

SPACE = Box(-np.inf, np.inf, (2,), np.float64)
Everyone = dict[Any, Any]


class Together:
    """Everybody acts in every step and is paid its action + 10 × its number; truncated after `length` steps."""

    def __init__(self, config: Everyone) -> None:
        self.length = config.get("length", 4)
        self.possible_agents: list[Any] = ["car_0", "car_1", "light"]
        self.agents = list(self.possible_agents)
        self.observation_spaces: Any = dict.fromkeys(self.possible_agents, SPACE)
        self.action_spaces: Any = {"car_0": Discrete(3), "car_1": Discrete(3), "light": Discrete(2)}
        self.orders: list[Everyone] = []

    def see(self) -> Everyone:
        return {agent: np.array([self.secret, self.t]) for agent in self.possible_agents}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Everyone, Everyone]:
        self.secret, self.t = np.random.default_rng(seed).random(), 0
        return self.see(), {}

    def ends(self) -> tuple[Everyone, Everyone]:
        return {"__all__": False}, {"__all__": self.t >= self.length}

    def step(self, actions: Everyone) -> tuple[Everyone, ...]:
        self.orders.append(dict(actions))
        self.t += 1
        pays = {agent: action + 10.0 * self.possible_agents.index(agent) for agent, action in actions.items()}
        return (self.see(), pays, *self.ends(), {})


class Drawn(Together):
    """Makes pictures, as bright as the episode is old."""

    render_mode = "rgb_array"

    def render(self) -> Any:
        return np.full((5, 6, 3), self.t, np.uint8)


class Turns(Together):
    """Even steps are the cars', odd ones the light's, which is paid in the step after its own."""

    def see(self) -> Everyone:
        return {agent: seen for agent, seen in super().see().items() if (agent == "light") == (self.t % 2 == 1)}

    def step(self, actions: Everyone) -> tuple[Everyone, ...]:
        assert set(actions) == ({"light"} if self.t % 2 else {"car_0", "car_1"}), actions
        observations, pays, *rest = super().step(actions)
        pays["light"] = None if self.t % 2 else 5.0
        return (observations, pays, *rest)


class Leaves(Together):
    """car_0 is terminated by step 2; everything ends, really, by step 3."""

    def see(self) -> Everyone:
        seen = super().see()
        if self.t > 2:
            seen.pop("car_0")
        return seen

    def ends(self) -> tuple[Everyone, Everyone]:
        return {"car_0": self.t == 2, "__all__": self.t >= 3}, {"__all__": False}


class Old(Together):
    """Agents by number, told by the first observations alone; one space for all; no configuration."""

    def __init__(self) -> None:
        super().__init__({})
        del self.observation_spaces, self.action_spaces, self.possible_agents, self.agents
        self.observation_space, self.action_space = SPACE, Discrete(3)

    def see(self) -> Everyone:
        return {agent: np.array([self.secret, self.t]) for agent in (0, 1)}

    def step(self, actions: Everyone) -> tuple[Everyone, ...]:
        self.orders.append(dict(actions))
        self.t += 1
        return (self.see(), {agent: float(action) for agent, action in actions.items()}, *self.ends(), {})


class InDicts(Together):
    """Spaces are one Dict by agent; observations carry masks, which allow the last action alone."""

    def __init__(self, config: Everyone) -> None:
        super().__init__(config)
        masked = Dict(observation=SPACE, action_mask=Box(0, 1, (3,), np.int8))
        self.observation_space = Dict(a=masked, b=masked)
        self.action_space = Dict(a=Discrete(3), b=Discrete(3))
        del self.observation_spaces, self.action_spaces, self.agents
        self.possible_agents = ["a", "b"]

    def see(self) -> Everyone:
        mask = np.array([0, 0, 1], np.int8)
        return {agent: {"observation": seen, "action_mask": mask} for agent, seen in super().see().items()}


class MaskedTurns(InDicts):
    """a acts in even steps, b in odd ones."""

    def see(self) -> Everyone:
        return {agent: seen for agent, seen in super().see().items() if agent == "ab"[self.t % 2]}

    def step(self, actions: Everyone) -> tuple[Everyone, ...]:
        assert actions == {"ab"[self.t % 2]: 2}, actions
        return super().step(actions)


class Stranger(Together):
    """Shows something to somebody who is not among its agents."""

    def see(self) -> Everyone:
        return {**super().see(), "ghost": np.zeros(2)}


class OldStep(Together):
    def step(self, actions: Everyone) -> tuple[Everyone, ...]:
        return super().step(actions)[:4]


class EndsUnseen(Together):
    """Shows nothing in the last step."""

    def see(self) -> Everyone:
        return {} if self.t >= self.length else super().see()


class Spaceless(Together):
    def __init__(self, config: Everyone) -> None:
        super().__init__(config)
        del self.action_spaces


class OldReset(Together):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()[0]


not_a_class = 3
