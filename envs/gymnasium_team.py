"""Gymnasium environments that hold a whole team behind one joint action, as level-based foraging and RWARE do."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from phalanx.configs.errors import RunFailed, UserError
from phalanx.envs.importing import import_module
from phalanx.envs.parallel import Source, without_mask
from phalanx.envs.parallel_calls import can_be_seeded, in_short
from phalanx.envs.parallel_settings import ParallelSettings
from phalanx.envs.parallel_team import ParallelTeam
from phalanx.envs.team import TeamPolicy

Everyone = dict[str, Any]
Split = Callable[[Any], Sequence[Any]]
"""From what belongs to all to one part for each agent."""


class GymnasiumSettings(ParallelSettings):
    """`env.name=gymnasium`."""

    name: Literal["gymnasium"] = Field(
        default="gymnasium", description="gymnasium: any Gymnasium environment whose actions are those of a team"
    )
    id: str = Field(
        description="id that Gymnasium knows, such as lbforaging:Foraging-8x8-2p-2f-v3; what stands before the colon is"
        " the module that registers it and is imported, so its code runs"
    )
    kwargs: dict[str, Any] = Field(
        default={},
        description="arguments of gymnasium.make; for films, render_mode: rgb_array is added where it is taken",
    )
    observations: Literal["auto", "each", "shared"] = Field(
        default="auto",
        description="a joint observation that is one array: each agent sees its own row, or all see (shared) the whole;"
        " auto takes rows where there are as many as agents",
    )


class GymnasiumTeam(ParallelTeam):
    """E Gymnasium environments in one process.

    The joint action (and the observation) is a Tuple with an entry for each agent, a Dict with a space for each agent's
    name, MultiDiscrete [N], or a Box [N, D]; Discrete and other Boxes are a team of one. Rewards are one number, which
    every agent is paid then, or one for each agent; ends are one flag, or one for each agent: the episode goes on until
    all are set. Masks: `info["action_mask"]` (or "avail_actions"), or "action_mask" in a joint observation that is a
    Dict; by name, [N, A] or one after the other. State: the environment's `state()` or `get_state()`, or a joint
    observation that all share.
    """

    Settings = GymnasiumSettings

    def __init__(
        self, settings: GymnasiumSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        module = settings.id.partition(":")[0] if ":" in settings.id else ""
        if module:
            import_module(module, "env.id", "lbforaging:Foraging-8x8-2p-2f-v3")
        source = Source(
            name=f"gymnasium:{settings.id}",
            label=f"env.id={settings.id}",
            make=lambda: JointEnv(settings),
            arguments=settings.kwargs,
            packages=("gymnasium", module.partition(".")[0]),
        )
        super().__init__(source, settings, num_envs, load_policy)


class JointEnv:
    """One Gymnasium environment in the form of the Parallel API."""

    def __init__(self, settings: GymnasiumSettings) -> None:
        import gymnasium

        label = f"env.id={settings.id}"
        try:
            # The checker of Gymnasium would refuse rewards that are lists.
            self._env = gymnasium.make(settings.id, disable_env_checker=True, **settings.kwargs)
        except gymnasium.error.UnregisteredEnv as error:
            raise UserError(
                f"{label}: {error}; an id of a package is written package:id, as in lbforaging:Foraging-8x8-2p-2f-v3"
            ) from error
        self.render_mode = getattr(self._env, "render_mode", None)
        self._label = label
        self._actions = _shape_of_actions(self._env.action_space, label)
        self.possible_agents = list(self._actions)
        self.agents: list[str] = []
        if not all(can_be_seeded(self._env.unwrapped, key) for key in ("seed", "options")):
            raise UserError(
                f"{label}: Gymnasium calls reset(seed=…, options=…), and this environment's takes not both: write it as"
                " def reset(self, *, seed=None, options=None)"
            )
        self._choices = {name: int(getattr(space, "n", 0)) for name, space in self._actions.items()}
        seen, self._key, self._masked = self._env.observation_space, None, False
        if set(map(str, getattr(seen, "spaces", ()))) != set(self.possible_agents):
            seen, self._key, self._masked = without_mask(seen)
        self._observations, self._split, self._shared = _shape_of_observations(
            seen, self.possible_agents, settings.observations, label
        )
        self._whole: Any = None
        limits = (getattr(self._env.spec, "max_episode_steps", None), *map(self._own, _LIMITS))
        self.max_steps = next((limit for limit in limits if limit), None)

    def observation_space(self, agent: str) -> Any:
        return self._observations[agent]

    def action_space(self, agent: str) -> Any:
        return self._actions[agent]

    def reset(self, seed: int | None = None) -> tuple[Everyone, Everyone]:
        answer = self._env.reset(seed=seed)
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
            raise RunFailed(
                f"{self._label} must have the API of Gymnasium, whose reset returns (observation, info: a dict); this"
                f" one returned {in_short(answer)}"
            )
        self.agents = list(self.possible_agents)
        return self._see(answer[0]), self._infos(*answer)

    def step(self, actions: Everyone) -> tuple[Everyone, Everyone, Everyone, Everyone, Everyone]:
        answer = self._env.step(self._join(actions))
        if not (isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[4], Mapping)):
            raise RunFailed(
                f"{self._label} must have the API of Gymnasium, whose step returns (observation, reward, terminated,"
                f" truncated, info: a dict); this one returned {in_short(answer)}"
            )
        observation, reward, terminated, truncated, info = answer
        over, cut = self._flags(terminated, "terminated"), self._flags(truncated, "truncated")
        ended = all(a or b for a, b in zip(over, cut, strict=True))
        infos, names = self._infos(observation, info), self.possible_agents
        if ended:
            self.agents = []
        return (
            self._see(observation),
            self._pay(reward),
            {name: ended and flag for name, flag in zip(names, over, strict=True)},
            {name: ended and flag for name, flag in zip(names, cut, strict=True)},
            infos,
        )

    def state(self) -> Any:
        if self._shared is not None:
            return self._shared(self._whole)
        for name in ("state", "get_state"):
            if callable(self._own(name)):
                return self._own(name)()
        raise NotImplementedError

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()

    def _own(self, name: str) -> Any:
        return getattr(self._env.unwrapped, name, None)

    def _see(self, observation: Any) -> Everyone:
        self._whole = observation = observation[self._key] if self._key else observation
        return dict(zip(self.possible_agents, self._split(observation), strict=True))

    def _join(self, actions: Everyone) -> Any:
        from gymnasium.spaces import Box, Dict, Discrete, Tuple

        space = self._env.action_space
        chosen = [actions[name] for name in self.possible_agents]
        if isinstance(space, Dict):
            return {key: actions[str(key)] for key in space.spaces}
        if isinstance(space, Tuple):
            return tuple(chosen)
        if isinstance(space, Discrete) or (isinstance(space, Box) and space.shape == chosen[0].shape):
            return chosen[0]
        return np.array(chosen, space.dtype)

    def _pay(self, reward: Any) -> Everyone:
        if not isinstance(reward, Mapping):
            return dict(zip(self.possible_agents, self._each(reward, np.float64, "reward"), strict=True))
        pays = {str(key): pay for key, pay in reward.items()}
        if not pays.keys() <= self._actions.keys():
            raise RunFailed(
                f"{self._label}: rewards are given to {', '.join(pays)}, but the agents are"
                f" {', '.join(self.possible_agents)}, as in its action_space"
            )
        return pays

    def _flags(self, value: Any, what: str) -> list[bool]:
        if isinstance(value, Mapping):
            flags = {str(key): bool(flag) for key, flag in value.items()}
            return [flags.get(name, flags.get("__all__", False)) for name in self.possible_agents]
        return self._each(value, np.bool_, what)

    def _each(self, value: Any, kind: type, what: str) -> list[Any]:
        """One for each agent, of something for all or for each."""
        count = len(self.possible_agents)
        try:
            if value is not None:
                return np.broadcast_to(np.asarray(value, kind).reshape(-1), count).tolist()  # type: ignore[no-any-return]
        except (TypeError, ValueError):
            pass
        raise RunFailed(
            f"{self._label}: {what} is {reprlib.repr(value)}, but it must be one for all, or one for each of the"
            f" {count} agents"
        )

    def _infos(self, observation: Any, info: Mapping[str, Any]) -> Everyone:
        masks = observation.get("action_mask") if self._masked else info.get("action_mask", info.get("avail_actions"))
        if masks is None:
            return {}
        if isinstance(masks, Mapping):
            return {str(key): {"action_mask": mask} for key, mask in masks.items()}
        sizes, rows = list(self._choices.values()), list(masks)
        if len(rows) == len(sizes) and all(np.ndim(row) == 1 for row in rows):
            rows = [row[:size] for row, size in zip(rows, sizes, strict=True)]  # where they are padded
        elif np.size(masks) == sum(sizes):
            rows = np.split(np.ravel(masks), np.cumsum(sizes)[:-1])
        else:
            raise RunFailed(
                f"{self._label}: the action_mask is {reprlib.repr(masks)}, but it must have a row for each of the"
                f" {len(sizes)} agents, or {sum(sizes)} entries one after the other, or be a dict by agent"
            )
        return {name: {"action_mask": row} for name, row in zip(self.possible_agents, rows, strict=True)}


_LIMITS = ("max_cycles", "max_steps", "max_episode_steps", "_max_episode_steps")


def _shape_of_actions(space: Any, label: str) -> dict[str, Any]:
    """Each agent's action space, by name and in order."""
    from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

    if isinstance(space, Dict):
        return {str(name): part for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        parts = list(space.spaces)
    elif isinstance(space, MultiDiscrete) and space.nvec.ndim == 1:
        starts = getattr(space, "start", np.zeros_like(space.nvec))
        parts = [Discrete(int(n), start=int(first)) for n, first in zip(space.nvec, starts, strict=True)]
    elif isinstance(space, Box) and len(space.shape) == 2:
        parts = [Box(low, high, dtype=space.dtype) for low, high in zip(space.low, space.high, strict=True)]
    elif isinstance(space, Box | Discrete):
        parts = [space]
    else:
        raise UserError(
            f"{label}: the actions are {space}; a team's are a Tuple or Dict with a space for each agent, MultiDiscrete"
            " with one number for each, or a Box with one row for each"
        )
    return {f"agent_{i}": part for i, part in enumerate(parts)}


def _shape_of_observations(
    space: Any, names: list[str], wanted: str, label: str
) -> tuple[dict[str, Any], Split, Callable[[Any], npt.NDArray[Any]] | None]:
    """Each agent's observation space, how a joint observation is split, and, where all share one, how it is made a
    vector."""
    from gymnasium.spaces import Box, Dict, Tuple, flatten

    count = len(names)
    if isinstance(space, Dict) and {str(key) for key in space.spaces} == set(names):
        keys = {str(key): key for key in space.spaces}
        return {name: space[keys[name]] for name in names}, lambda seen: [seen[keys[name]] for name in names], None
    if isinstance(space, Tuple) and len(space.spaces) == count:
        return dict(zip(names, space.spaces, strict=True)), lambda seen: seen, None
    rows = isinstance(space, Box) and len(space.shape) > 1 and space.shape[0] == count
    if wanted == "each" and not rows:
        raise UserError(
            f"{label}: env.observations=each needs an observation for each of the {count} agents (a Tuple, a Dict by"
            f" name, or a Box with a row for each), but they are {space}; choose shared"
        )
    if rows and wanted != "shared":
        boxes = [Box(low, high, dtype=space.dtype) for low, high in zip(space.low, space.high, strict=True)]
        return dict(zip(names, boxes, strict=True)), list, None
    return dict.fromkeys(names, space), lambda seen: [seen] * count, lambda seen: np.asarray(flatten(space, seen))
