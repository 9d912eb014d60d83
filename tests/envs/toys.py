"""Small ParallelEnvs with one peculiarity each. `env.module=tests.envs.toys env.kwargs={kind: …}` reaches them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Sequence, Tuple

Everyone = dict[str, Any]
NAMES = ("red_0", "red_1", "blue_0")


class Toy:
    """Three agents that see (a random number drawn at reset, the step, their own number); the reward of agent i is
    its action + 10 i. Ends by truncation after `max_cycles` steps. Has a state() of its own."""

    metadata = {"name": "toy"}  # noqa: RUF012
    render_mode = None

    def __init__(self, max_cycles: int = 4) -> None:
        self.possible_agents = list(NAMES)
        self.agents: list[str] = []
        self.max_cycles = max_cycles
        self.orders: list[Everyone] = []  # what step was given, for the tests
        self.buffer = np.zeros(3, np.float64)  # one array for all: an adapter must copy

    def observation_space(self, agent: str) -> Any:
        return Box(-np.inf, np.inf, (3,), np.float64)

    def action_space(self, agent: str) -> Any:
        return Discrete(3)

    def see(self, agent: str) -> Any:
        return np.array([self.secret, self.t, NAMES.index(agent)])

    def info(self, agent: str) -> dict[str, Any]:
        return {}

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Everyone, Everyone]:
        self.secret = float(np.random.default_rng(seed).random())
        self.t = 0
        self.agents = list(self.possible_agents)
        return {a: self.see(a) for a in self.agents}, {a: self.info(a) for a in self.agents}

    def ends(self) -> tuple[set[str], set[str]]:
        """Who is terminated and who truncated after this step."""
        return set(), set(self.agents) if self.t >= self.max_cycles else set()

    def step(self, actions: Everyone) -> tuple[Everyone, Everyone, Everyone, Everyone, Everyone]:
        assert set(actions) == set(self.agents), f"actions for {sorted(actions)}, present are {self.agents}"
        self.orders.append(dict(actions))
        self.t += 1
        here = list(self.agents)
        rewards = {a: float(np.sum(actions[a])) + 10 * NAMES.index(a) for a in here}
        over, cut = self.ends()
        self.agents = [a for a in here if a not in over | cut]
        return (
            {a: self.see(a) for a in here},
            rewards,
            {a: a in over for a in here},
            {a: a in cut for a in here},
            {a: self.info(a) for a in here},
        )

    def state(self) -> Any:
        return np.array([[self.secret, self.t]])

    def close(self) -> None:
        self.agents = []


class NoState(Toy):
    def state(self) -> Any:
        raise NotImplementedError


class StateIsObservations(Toy):
    def state(self) -> Any:
        return np.concatenate([self.see(a) for a in NAMES])


class MaskInObservation(Toy):
    """Action t mod 3 is forbidden to everybody, and everything but 2 to blue_0."""

    def mask(self, agent: str) -> Any:
        legal = np.ones(3, np.int8)
        legal[self.t % 3] = 0
        return np.array([0, 0, 1], np.int8) if agent == "blue_0" else legal

    def observation_space(self, agent: str) -> Any:
        return Dict(observation=super().observation_space(agent), action_mask=Box(0, 1, (3,), np.int8))

    def see(self, agent: str) -> Any:
        return {"observation": super().see(agent), "action_mask": self.mask(agent)}

    def step(self, actions: Everyone) -> Any:
        assert all(self.mask(a)[actions[a]] for a in actions), f"illegal {actions}"
        return super().step(actions)


class MaskInInfo(Toy):
    mask = MaskInObservation.mask

    def info(self, agent: str) -> dict[str, Any]:
        return {"action_mask": self.mask(agent)}

    def step(self, actions: Everyone) -> Any:
        assert all(self.mask(a)[actions[a]] for a in actions), f"illegal {actions}"
        return super().step(actions)


class ForbidsEverything(MaskInInfo):
    def mask(self, agent: str) -> Any:
        return np.zeros(3, np.int8)

    def step(self, actions: Everyone) -> Any:
        assert all(action == 0 for action in actions.values())
        return Toy.step(self, actions)


class Vanishing(Toy):
    """red_0 is terminated after step 1, red_1 after step 2; blue_0 plays to the end."""

    def ends(self) -> tuple[set[str], set[str]]:
        over, cut = super().ends()
        dies = {1: "red_0", 2: "red_1"}.get(self.t)
        return over | ({dies} if dies in self.agents else set()), cut - {dies}  # type: ignore[arg-type]


class Silent(Vanishing):
    """Like Vanishing, but the dicts hold those who go on only, as some environments have it."""

    def step(self, actions: Everyone) -> Any:
        parts = super().step(actions)
        return tuple({a: v for a, v in part.items() if a in self.agents} for part in parts)


class TeamCut(Toy):
    """red_0 is terminated and red_1 truncated after step 2; blue_0 plays on."""

    def ends(self) -> tuple[set[str], set[str]]:
        return ({"red_0"}, {"red_1"}) if self.t == 2 else super().ends()


class Goal(Toy):
    """Everybody is terminated after step 2."""

    def ends(self) -> tuple[set[str], set[str]]:
        return set(self.agents) if self.t == 2 else set(), set()


class NoPay(Toy):
    """No reward for red_1."""

    def step(self, actions: Everyone) -> Any:
        obs, rewards, *rest = super().step(actions)
        rewards.pop("red_1", None)
        return (obs, rewards, *rest)


class Unequal(NoState):
    """Observations and actions of every kind: an image, a Dict and a number; actions from 5 on for red_1."""

    spaces = {  # noqa: RUF012
        "red_0": Box(0, 255, (2, 2), np.uint8),
        "red_1": Dict(a=Discrete(3, start=1), b=Tuple((Box(-1, 1, (2,), np.float32),))),
        "blue_0": Discrete(4),
    }

    def observation_space(self, agent: str) -> Any:
        return self.spaces[agent]

    def action_space(self, agent: str) -> Any:
        return {"red_0": Discrete(2), "red_1": Discrete(4, start=5), "blue_0": Discrete(3)}[agent]

    def see(self, agent: str) -> Any:
        b = (np.array([self.t / 10, 0.25], np.float32),)
        image = np.array([[1, 2], [3, self.t]], np.uint8)
        return {"red_0": image, "red_1": {"a": 2, "b": b}, "blue_0": 3}[agent]


class Continuous(Toy):
    """Actions in [0, 1] × [-2, 2] × anything."""

    def action_space(self, agent: str) -> Any:
        return Box(np.array([0, -2, -np.inf], np.float32), np.array([1, 2, np.inf], np.float32))


class UnequalBoxes(Toy):
    """red_0 has one number in [0, 4] to choose, the others two in [-1, 1]."""

    def action_space(self, agent: str) -> Any:
        return Box(0, 4, (1,), np.float32) if agent == "red_0" else Box(-1, 1, (2,), np.float32)


class Mixed(Toy):
    def action_space(self, agent: str) -> Any:
        return Box(-1, 1, (2,), np.float32) if agent == "red_1" else Discrete(3)


class Several(Toy):
    def action_space(self, agent: str) -> Any:
        return MultiDiscrete([2, 3])


class BoxOpponent(Toy):
    def action_space(self, agent: str) -> Any:
        return Box(1, 3, (2,), np.float32) if agent == "blue_0" else Discrete(3)


class OddOpponent(Toy):
    def action_space(self, agent: str) -> Any:
        return MultiDiscrete([2, 3]) if agent == "blue_0" else Discrete(3)


class Endless(Toy):
    """Does not say how long it lasts."""

    def __init__(self) -> None:
        super().__init__(10**9)
        del self.max_cycles

    def ends(self) -> tuple[set[str], set[str]]:
        return set(), set()


class SharedArray(Toy):
    """Always returns the same array, filled anew."""

    def see(self, agent: str) -> Any:
        self.buffer[:] = super().see(agent)
        return self.buffer

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Everyone, Everyone]:
        self.possible_agents = ["red_0"]
        return super().reset(seed)

    def __init__(self, max_cycles: int = 4) -> None:
        super().__init__(max_cycles)
        self.possible_agents = ["red_0"]

    def state(self) -> Any:
        return self.buffer


class Unseeded(Toy):
    """Takes a seed and ignores it."""

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Everyone, Everyone]:
        return super().reset(None)


class SeedlessReset(Toy):
    def reset(self) -> tuple[Everyone, Everyone]:  # type: ignore[override]
        return super().reset(None)


class RandomLater(Toy):
    """The start is seeded, what follows is not."""

    def step(self, actions: Everyone) -> Any:
        self.secret = float(np.random.default_rng().random())
        return super().step(actions)


class CarriesOver(Toy):
    """Whoever ends an episode changes the next one."""

    def step(self, actions: Everyone) -> Any:
        parts = super().step(actions)
        self.carried = len(self.agents) == 0
        return parts

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Everyone, Everyone]:
        carried = getattr(self, "carried", False)
        answer = super().reset(seed)
        self.secret += carried
        return ({a: self.see(a) for a in self.agents}, answer[1])


class BrokenState(Toy):
    def state(self) -> Any:
        raise TypeError("'dict' object is not callable")


class Boundless(Toy):
    def observation_space(self, agent: str) -> Any:
        return Sequence(Discrete(2))


class Bounded(Toy):
    """The numbers lie from 0 to 4: the secret, the step, the agent's own."""

    highest = 4.0

    def observation_space(self, agent: str) -> Any:
        return Box(0, self.highest, (3,), np.float64)


class BeyondItsBounds(Bounded):
    """Declares less than it shows from step 3 on."""

    highest = 2.5


class LyingSpace(Toy):
    def observation_space(self, agent: str) -> Any:
        return Box(-1, 1, (2,), np.float32)


class OldReset(Toy):
    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed)[0]


class Nobody(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = []


class Breaks(Toy):
    def step(self, actions: Everyone) -> Any:
        raise RuntimeError("the simulator went away")


class BreaksLate(Toy):
    """Breaks in step 200, which is beyond what the adapter tries out."""

    fault: BaseException = RuntimeError("the simulator went away")
    made = 0

    def step(self, actions: Everyone) -> Any:
        self.made += 1
        if self.made >= 200:
            raise self.fault
        return super().step(actions)


class LeavesLate(BreaksLate):
    """Asks the whole process to exit."""

    fault = SystemExit(3)


class Leaves(Toy):
    def step(self, actions: Everyone) -> Any:
        raise SystemExit(3)


class Numbered(Toy):
    """Agents are numbers, where PettingZoo has text."""

    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = [0, 1]  # type: ignore[list-item]


class NoSpace(Toy):
    def observation_space(self, agent: str) -> Any:
        return (3,)


class SpaceFails(Toy):
    def action_space(self, agent: str) -> Any:
        return {}[agent]


class SeesNothing(NoState):
    def observation_space(self, agent: str) -> Any:
        return Box(0, 1, (0,), np.float32)

    def see(self, agent: str) -> Any:
        return np.zeros(0, np.float32)


class PaysInLists(Toy):
    def step(self, actions: Everyone) -> Any:
        obs, rewards, *rest = super().step(actions)
        return (obs, {agent: [pay] for agent, pay in rewards.items()}, *rest)


class NotANumber(Toy):
    def see(self, agent: str) -> Any:
        return super().see(agent) * (np.nan if self.t == 3 else 1)


class Pictures(Toy):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((5, 6, 3), self.t, np.uint8)


KINDS = {cls.__name__: cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, Toy)}


def parallel_env(kind: str = "Toy", **kwargs: Any) -> Toy:
    return KINDS[kind](**kwargs)


def scripted_policy(agent: str) -> Any:
    """Action = the step that is seen, mod 3."""
    return lambda observation, rng: int(observation[1]) % 3
