"""More toys (see toys.py): what one meets in environments of other people that nobody planned for."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from tests.envs.toys import MaskInInfo, MaskInObservation, Pictures, Toy

Everyone = dict[str, Any]


class MaskGoneAtTheEnd(MaskInObservation):
    def see(self, agent: str) -> Any:
        seen = super().see(agent)
        return {"observation": seen["observation"]} if self.t >= self.max_cycles else seen


class NoMaskAtTheEnd(MaskInInfo):
    def info(self, agent: str) -> dict[str, Any]:
        return {"action_mask": None} if self.t >= self.max_cycles else super().info(agent)


class MaskBesideOthers(MaskInObservation):
    """The mask, of truth values, lies beside two other entries."""

    def observation_space(self, agent: str) -> Any:
        return Dict(place=Box(-9, 9, (2,), np.float64), seat=Discrete(3), action_mask=MultiBinary(3))

    def see(self, agent: str) -> Any:
        place = np.array([self.secret, self.t])
        return {"place": place, "seat": self.possible_agents.index(agent), "action_mask": self.mask(agent) > 0}


class MaskBesideOne(MaskInObservation):
    """As the examples of RLlib have it: observations, in the plural."""

    def observation_space(self, agent: str) -> Any:
        return Dict(observations=Toy.observation_space(self, agent), action_mask=Box(0, 1, (3,), np.float32))

    def see(self, agent: str) -> Any:
        return {"observations": Toy.see(self, agent), "action_mask": self.mask(agent).astype(np.float32)}


class MaskTooShort(MaskInInfo):
    def info(self, agent: str) -> dict[str, Any]:
        return {"action_mask": [1, 1]}


class ForgetsInfos(Toy):
    def step(self, actions: Everyone) -> Any:
        return (*super().step(actions)[:4], None)


class OldStep(Toy):
    def step(self, actions: Everyone) -> Any:
        return super().step(actions)[:4]


class Renamed(Toy):
    """From some episode on, all have agents of their own."""

    episode = 0

    def __init__(self, kept: int = 0) -> None:
        super().__init__()
        self.kept = kept

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Everyone, Everyone]:
        self.episode += 1
        if self.episode > self.kept:
            self.possible_agents = [f"{name}{self.episode}" for name in ("red_", "blue_")]
        self.agents = list(self.possible_agents)
        return dict.fromkeys(self.agents, np.zeros(3)), {}

    def step(self, actions: Everyone) -> Any:
        self.agents = []
        return {}, {}, dict.fromkeys(actions, True), {}, {}


class Fewer(Toy):
    """A drawn number of agents in every episode; they are the first ones."""

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Everyone, Everyone]:
        observations, infos = super().reset(seed)
        self.agents = self.agents[: 1 + int(3 * self.secret)]
        return {a: observations[a] for a in self.agents}, {a: infos[a] for a in self.agents}


class NobodyComes(Toy):
    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Everyone, Everyone]:
        answer = super().reset(seed)
        self.agents = []
        return answer


class ComesBack(Toy):
    """red_0 is away in step 2 and there again from step 3 on."""

    def step(self, actions: Everyone) -> Any:
        parts = super().step(actions)
        parts[2]["red_0"] = self.t == 2
        if self.t == 2:
            self.agents.remove("red_0")
        elif self.t == 3:
            self.agents.insert(0, "red_0")
            parts[0]["red_0"] = self.see("red_0")
        return parts


class SeesNothing(Toy):
    """red_1 is shown nothing in step 2."""

    def step(self, actions: Everyone) -> Any:
        parts = super().step(actions)
        if self.t == 2:
            del parts[0]["red_1"]
        return parts


class Widens(Toy):
    """red_1 sees one number in step 150, which numpy would make three of."""

    def see(self, agent: str) -> Any:
        return super().see(agent)[: 1 if self.t == 150 and agent == "red_1" else 3]


class EndsUnseen(Toy):
    """Nothing is shown to those who are cut off."""

    def step(self, actions: Everyone) -> Any:
        parts = super().step(actions)
        return ({a: parts[0][a] for a in self.agents}, *parts[1:])


class EndsOnNone(Toy):
    def step(self, actions: Everyone) -> Any:
        parts = super().step(actions)
        return (dict.fromkeys(parts[0]), *parts[1:]) if not self.agents else parts


class DiesUnseen(Toy):
    """Everybody is terminated in step 2, where red_0 sees no numbers."""

    def ends(self) -> tuple[set[str], set[str]]:
        return set(self.agents) if self.t == 2 else set(), set()

    def see(self, agent: str) -> Any:
        return super().see(agent) * (np.nan if self.t == 2 and agent == "red_0" else 1)


class StateGrows(Toy):
    def state(self) -> Any:
        return np.zeros(2 + self.t)


class StateGrowsLate(Toy):
    def state(self) -> Any:
        return np.zeros(2 + (self.t == 150))


class StateIsEmpty(Toy):
    def state(self) -> Any:
        return np.zeros(0)


class BelowItsStart(Toy):
    """A number below those of its space, as for somebody who sees nothing."""

    def observation_space(self, agent: str) -> Any:
        return Discrete(3)

    def see(self, agent: str) -> Any:
        return -1


class SeesWords(Toy):
    def see(self, agent: str) -> Any:
        return ["far", "near", "far"]


class Narrow(Toy):
    """Bounds that float32 cannot hold, watched closely; the actions are kept in float64."""

    def action_space(self, agent: str) -> Any:
        return Box(np.array([-0.1, 0.1]), np.array([0.1, 0.7]), dtype=np.float64)

    def step(self, actions: Everyone) -> Any:
        assert all(self.action_space(a).contains(action) for a, action in actions.items()), actions
        return super().step(actions)


class TakesNumpy(Toy):
    """Reads actions as what `sample` gives."""

    def step(self, actions: Everyone) -> Any:
        return super().step({a: action.item() for a, action in actions.items()})


class NamedByArray(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = np.array(self.possible_agents)  # type: ignore[assignment]


class CannotBeClosed(Toy):
    def close(self) -> None:
        self.agents = ["closed"]
        raise RuntimeError("the window is gone")


class Drawn(Pictures):
    """Makes pictures of every kind."""

    def __init__(self, picture: str, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.picture = picture

    def render(self) -> Any:
        brightness = np.full((4, 5, 3), 0.5)
        return {
            "grey": np.full((4, 5), 127, np.uint8),
            "opacity": np.full((4, 5, 4), 127, np.uint8),
            "shares": brightness,
            "numbers": np.full((4, 5, 3), 127),
            "text": "###",
            "list": [brightness],
        }[self.picture]


KINDS = {cls.__name__: cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, Toy)}


def parallel_env(kind: str, **kwargs: Any) -> Toy:
    return KINDS[kind](**kwargs)
