"""Gymnasium environments of two agents, one for each form of a joint action. Importing this registers them as
PhalanxTuple-v0, …; the agents see (a number drawn at reset, the step, their own number), forbidden is action `step`
mod 3, agent i is paid its action + 10 i."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

ROW = Box(-np.inf, np.inf, (3,), np.float64)
ROWS = Box(-np.inf, np.inf, (2, 3), np.float64)


class AsTuple(gymnasium.Env):  # type: ignore[type-arg]
    """As level-based foraging: tuples of observations, lists of rewards."""

    action_space: Any = Tuple((Discrete(3), Discrete(3)))
    observation_space: Any = Tuple((ROW, ROW))
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    last: list[Any] = []  # noqa: RUF012  # what the last step was given, for the tests

    def __init__(self, length: int = 4, masked: bool = False, render_mode: str | None = None) -> None:
        self.length, self.masked, self.render_mode = length, masked, render_mode

    def see(self) -> Any:
        return tuple(np.array([self.secret, self.t, i]) for i in range(2))

    def info(self) -> dict[str, Any]:
        return {"action_mask": [np.arange(3) != self.t % 3] * 2} if self.masked else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.secret, self.t = self.np_random.random(), 0
        return self.see(), self.info()

    def pay(self, action: Any) -> Any:
        return [float(np.sum(a)) + 10 * i for i, a in enumerate(action)]

    def ends(self) -> Any:
        return False, self.t >= self.length

    def step(self, action: Any) -> Any:
        AsTuple.last[:] = [action]
        assert self.action_space.contains(action), action
        assert not self.masked or all(a != self.t % 3 for a in action)
        pay = self.pay(action)
        self.t += 1
        return (self.see(), pay, *self.ends(), self.info())

    def render(self) -> Any:
        return np.full((4, 5, 3), self.t, np.uint8)


class AsArray(AsTuple):
    """One MultiDiscrete action, an array with a row for each agent, one reward, a state of its own."""

    action_space = MultiDiscrete([3, 2])
    observation_space = ROWS

    def see(self) -> Any:
        return np.stack(super().see())

    def pay(self, action: Any) -> Any:
        return float(np.sum(action))

    def state(self) -> Any:
        return np.array([self.secret, self.t])


class AsShared(AsTuple):
    """All see one array."""

    action_space = MultiDiscrete([3, 3])
    observation_space = ROW

    def see(self) -> Any:
        return super().see()[0]


class AsDict(AsTuple):
    """Everything by name; left ends after step 2, right after 3, and then the episode."""

    action_space = Dict({"left": Discrete(3), "right": Discrete(2, start=4)})
    observation_space = Dict({"left": ROW, "right": ROW})

    def see(self) -> Any:
        return dict(zip(("left", "right"), super().see(), strict=True))

    def pay(self, action: Any) -> Any:
        return {key: float(value) for key, value in action.items()}

    def info(self) -> Any:
        return {"avail_actions": {"left": [1, 0, 1], "right": [1, 1]}}

    def ends(self) -> Any:
        return {"left": self.t >= 2, "right": self.t >= 3}, False


class AsBox(AsTuple):
    """A row of two numbers in [0, 4] for each agent."""

    action_space = Box(0, 4, (2, 2), np.float32)


class Alone(AsTuple):
    """A team of one."""

    action_space = Discrete(3)
    observation_space = ROW

    def see(self) -> Any:
        return super().see()[0]

    def pay(self, action: Any) -> Any:
        return float(action)


class AloneInABox(Alone):
    action_space = Box(-1, 1, (2,), np.float32)

    def pay(self, action: Any) -> Any:
        return float(action.sum())


class Odd(AsTuple):
    action_space = MultiBinary(2)


class OldReset(AsTuple):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class MaskInObservation(AsTuple):
    """The joint observation is a Dict of rows and masks, padded to the agent that has most actions."""

    action_space = MultiDiscrete([3, 2])
    observation_space = Dict({"rows": ROWS, "action_mask": Box(0, 1, (2, 3), np.int8)})

    def see(self) -> Any:
        return {"rows": np.stack(super().see()), "action_mask": np.array([[0, 1, 1], [1, 0, 0]], np.int8)}


class FlatMask(AsTuple):
    """The masks of both, one after the other."""

    def info(self) -> Any:
        return {"action_mask": np.array([0, 1, 1, 1, 0, 0], np.int8)}


class MisshapenMask(AsTuple):
    def info(self) -> Any:
        return {"action_mask": np.ones(4, np.int8)}


class PaysNobody(AsTuple):
    def pay(self, action: Any) -> Any:
        return None


class PaysThree(AsTuple):
    def pay(self, action: Any) -> Any:
        return [1, 2, 3]


class PaysStrangers(AsTuple):
    def pay(self, action: Any) -> Any:
        return {"left": 1}


class OldStep(AsTuple):
    def step(self, action: Any) -> Any:
        return super().step(action)[1:]


class ForgetsInfos(AsTuple):
    def info(self) -> Any:
        return None


class Seedless(AsTuple):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


for kind in (AsTuple, AloneInABox, *AsTuple.__subclasses__()):
    gymnasium.register(f"Phalanx{kind.__name__}-v0", entry_point=kind, order_enforce=False)
gymnasium.register("PhalanxLimited-v0", entry_point=AsTuple, kwargs={"length": 99}, max_episode_steps=3)
