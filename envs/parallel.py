"""PettingZoo's Parallel API from the outside: importing a module's environment and finding out what it is made of."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import RunFailed, UserError
from phalanx.envs import parallel_calls as calls
from phalanx.envs.faults import FAULTS, in_words

PROBED_STEPS = 30
FIRST_STEPS = 100


@dataclass(frozen=True)
class Source:
    """Where environments with the Parallel API come from, and how they are spoken of."""

    name: str  # spec.env_name
    label: str  # the setting that names them, with which errors begin: env.module=mpe2.simple_tag_v3
    make: Callable[[], Any]  # one environment
    arguments: Mapping[str, Any]  # what `make` gives it
    argument_key: str = "env.kwargs"  # the setting that they come from
    packages: tuple[str, ...] = ()  # distributions whose versions are recorded
    scripted: Callable[[str], Any] | None = None  # agent's name -> function of (observation, Generator) to an action
    groups: Mapping[str, str] | None = None  # agent's name -> its group; None: same name but for a number, same sizes

    def build(self) -> Any:
        """One environment; what its constructor refuses is a UserError."""
        try:
            env = self.make()
            names = list(getattr(env, "possible_agents", ()))
        except UserError:
            raise
        except RunFailed as error:
            raise UserError(str(error)) from error
        except FAULTS as error:
            raise UserError(
                f"{self.label} cannot be made with {self.argument_key}={dict(self.arguments)}: {in_words(error)}"
            ) from error
        if not names:
            raise UserError(
                f"{self.label}: the environment names no possible_agents, so the team is unknown: list in it all agents"
                " that can ever appear, when the environment is made"
            )
        if not all(isinstance(name, str) for name in names):
            raise UserError(
                f"{self.label}: possible_agents are {list(names)}, but agents are named by text: write '{names[0]}'"
            )
        return env


@dataclass(frozen=True)
class Agent:
    """One agent: how its observation becomes numbers and what its actions are."""

    label: str  # with which errors begin
    name: str
    size: int  # of the flat observation
    plain: bool  # the observation is a vector already
    masked: bool  # the observation is a Dict with an "action_mask" beside what is seen
    key: str | None  # of what is seen, where a Dict holds nothing else but the mask
    observation_space: Any  # without the mask
    action_space: Any
    choices: int  # number of discrete actions; 0 where they are something else
    first: int  # the environment's number for our action 0

    def read(self, observation: Any) -> npt.NDArray[Any]:
        """The observation as a vector [size]; a RunFailed where it does not have the form of its space."""
        from gymnasium.spaces import Box, Discrete, flatten

        space = self.observation_space
        try:
            content = observation[self.key] if self.key else observation
            if isinstance(space, Discrete) and np.any(np.asarray(content) < space.start):
                raise ValueError(f"it begins at {space.start}")  # `flatten` would count from its end
            vector = np.asarray(content if isinstance(space, Box) else flatten(space, content)).reshape(-1)
            if vector.dtype.kind not in "buif":
                vector = vector.astype(np.float32)
        except Exception as error:
            raise RunFailed(
                f"{self.label}: {self.name} observes {reprlib.repr(observation)}, which is not in its"
                f" observation_space {space} ({type(error).__name__}: {error})"
            ) from error
        if vector.size != self.size:
            raise RunFailed(
                f"{self.label}: {self.name} observes {vector.size} numbers but its observation_space declares"
                f" {self.size}"
            )
        return vector

    def mask(self, observation: Any, info: Any) -> npt.NDArray[np.bool_] | None:
        """[choices]: the legal actions, or None where the environment gives no mask now. A mask that forbids
        everything is read as allowing the first action, because something must be done."""
        raw = (observation if self.masked else info or {}).get("action_mask")
        if raw is None:
            return None
        mask = np.array(raw, dtype=np.bool_).reshape(-1)
        if mask.size != self.choices:
            raise RunFailed(
                f"{self.label}: the action_mask of {self.name} has {mask.size} entries, but its action_space"
                f" {self.choices} actions"
            )
        if not mask.any():
            mask[0] = True
        return mask

    def fitted(self, action: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The agent's own components of a continuous action [D], as its space has them."""
        space = self.action_space
        own: npt.NDArray[Any] = action[: math.prod(space.shape)].astype(space.dtype).reshape(space.shape)
        # Bounds are kept in float32, which may lie beyond those of a float64 space by rounding.
        return np.clip(own, space.low, space.high) if space.dtype == np.float64 else own


def describe(env: Any, name: str, label: str) -> Agent:
    """Reads one agent's spaces; a UserError where its observations cannot be made numbers."""
    from gymnasium.spaces import Box, Discrete, flatdim

    whole, actions = _space(env, "observation_space", name, label), _space(env, "action_space", name, label)
    space, key, masked = without_mask(whole)
    try:
        size = int(flatdim(space))
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"{label}: the observations of {name} are {space}, which has no fixed number of values, so that"
            " a network cannot read them"
        ) from error
    plain = isinstance(space, Box) and len(space.shape) == 1 and not masked
    choices, first = (int(actions.n), int(actions.start)) if isinstance(actions, Discrete) else (0, 0)
    return Agent(label, name, size, plain, masked, key, space, actions, choices, first)


def without_mask(space: Any) -> tuple[Any, str | None, bool]:
    """What is seen in a Dict with an "action_mask" beside it, under which key where it is one thing, and whether the
    space is such a Dict."""
    from gymnasium.spaces import Dict

    if not isinstance(space, Dict) or "action_mask" not in space.spaces or len(space.spaces) < 2:
        return space, None, False
    rest = {key: part for key, part in space.spaces.items() if key != "action_mask"}
    key = next(iter(rest)) if len(rest) == 1 else None
    return (rest[key] if key else Dict(rest)), key, True


def _space(env: Any, method: str, name: str, label: str) -> Any:
    """The space that `env.method(name)` gives; a UserError where it gives none."""
    from gymnasium.spaces import Space

    try:
        found = getattr(env, method)(name)
    except FAULTS as error:
        raise UserError(f"{label}: {method}({name!r}) failed: {in_words(error)}") from error
    if not isinstance(found, Space):
        raise UserError(
            f"{label}: {method}({name!r}) is {found!r}, which is no space of Gymnasium (gymnasium.spaces): networks are"
            " built by it"
        )
    return found


def observed_range(agents: Sequence[Agent]) -> tuple[float, float] | None:
    """The least and the greatest number that the agents' Boxes allow, 0 (padding, and what nobody is there to see)
    included; None where one of them is no Box or knows no limit."""
    from gymnasium.spaces import Box

    spaces = [agent.observation_space for agent in agents]
    if not all(isinstance(space, Box) and space.is_bounded() for space in spaces):
        return None
    low, high = ([getattr(space, side) for space in spaces] for side in ("low", "high"))  # some may be empty
    return float(min(part.min(initial=0) for part in low)), float(max(part.max(initial=0) for part in high))


def choose_team(agents: list[Agent], wanted: list[str] | None) -> list[Agent]:
    """The agents that `env.team` names, in the environment's order; all where it is None."""
    if wanted is None:
        return agents
    names = ", ".join(agent.name for agent in agents)
    for pattern in wanted:
        if not any(fnmatchcase(agent.name, pattern) for agent in agents):
            raise UserError(f"env.team: there is no agent {pattern}; the agents are {names}")
    if not wanted:
        raise UserError(f"env.team=[] leaves nobody to learn; choose among {names}")
    return [agent for agent in agents if any(fnmatchcase(agent.name, pattern) for pattern in wanted)]


def one_kind_of_action(team: Sequence[Agent], label: str) -> bool:
    """True: all discrete; False: all continuous; a UserError otherwise."""
    from gymnasium.spaces import Box

    if all(agent.choices for agent in team):
        return True
    spaces = [agent.action_space for agent in team]
    if all(isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) for space in spaces):
        return False
    shown = ", ".join(f"{agent.name}: {agent.action_space}" for agent in team)
    raise UserError(
        f"{label}: the team's actions must all be Discrete, or all be float Boxes, but they are"
        f" {shown}; choose another env.team or env.kwargs, or convert the actions in the environment"
    )


NO_BOUND = 1e30  # of an action: some spaces say the largest float where they mean that there is none


@dataclass(frozen=True)
class Bounds:
    """Bounds of continuous actions, [N, D] each; D is the largest agent's, the others are padded.

    A component that its space does not bound on both sides moves over a length of 2: from the bound that it has,
    otherwise from -1 to 1.
    """

    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]

    @cached_property
    def _symmetric(self) -> bool:
        return bool((self.low == -self.high).all())

    @classmethod
    def of(cls, spaces: Sequence[Any]) -> Bounds:
        """Of the agents' Boxes."""
        widest = max(math.prod(space.shape) for space in spaces)
        low, high = np.zeros((2, len(spaces), widest), np.float32)
        for i, space in enumerate(spaces):
            size = math.prod(space.shape)
            low[i, :size], high[i, :size] = space.low.reshape(-1), space.high.reshape(-1)
        below, above = np.abs(low) < NO_BOUND, np.abs(high) < NO_BOUND
        least = np.where(below, low, np.where(above, high - 2, np.float32(-1)))
        return cls(least, np.where(below & above, high, least + 2))

    def stretch(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Actions [E, N, D] in [-1, 1], clipped, in the bounds."""
        if self._symmetric:
            return np.asarray(np.minimum(np.maximum(actions, np.float32(-1)), np.float32(1)) * self.high)
        # About the middle, so that symmetric bounds lose no digits.
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        inside: npt.NDArray[Any] = np.clip(middle + np.clip(actions, -1, 1) * half, self.low, self.high)
        return inside


def groups_of(
    names: Sequence[str], obs_dims: Sequence[int], action_dims: Sequence[int], known: Mapping[str, str] | None = None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """spec.group_ids and spec.group_names, both () for one group: `known` by the agents' names or, without it, agents
    whose names differ by a number alone and who see and do equally much (`red_1`, `red_2`, … where reds do not)."""
    kinds: list[Any] = [known[name] for name in names] if known is not None else []
    if known is None:
        prefixes = [re.sub(r"_?\d+$", "", name) for name in names]
        kinds = list(zip(prefixes, obs_dims, action_dims, strict=True))
    groups = list(dict.fromkeys(kinds))
    if len(groups) < 2:
        return (), ()
    bare = [kind if isinstance(kind, str) else kind[0] for kind in groups]
    named = [f"{name}_{bare[: i + 1].count(name)}" if bare.count(name) > 1 else name for i, name in enumerate(bare)]
    return tuple(map(groups.index, kinds)), tuple(named)


@dataclass(frozen=True)
class Facts:
    """What trying the environment out showed."""

    reproducible: bool
    state_size: int | None  # of env.state(); None where there is none, or where its size changes
    state_is_observations: bool  # env.state() was every agent's observation, one after the other


def try_out(env: Any, agents: Sequence[Agent], label: str) -> Facts:
    """Plays the beginning of an episode twice and compares. An environment that fails in it is a UserError.

    The first time it is played further, because some environments carry things over from one episode to the next.
    """
    seedable = calls.can_be_seeded(env)
    seed = 12345 if seedable else None
    try:
        first, second = (_play(env, agents, label, seed, steps) for steps in (FIRST_STEPS, PROBED_STEPS))
    except UserError:
        raise
    except RunFailed as error:
        raise UserError(str(error)) from error
    except FAULTS as error:
        raise UserError(f"{label}: the environment failed in its first steps: {in_words(error)}") from error
    same = len(second) == min(len(first), PROBED_STEPS) and all(
        np.array_equal(a, b, equal_nan=True) and _same(s, t) for (a, s), (b, t) in zip(first, second, strict=False)
    )
    states = [state for _, state in first + second]
    known = [state for state in states if state is not None]
    complete = len(known) == len(states) and len({state.size for state in known}) == 1
    return Facts(
        reproducible=seedable and same,
        state_size=known[0].size if complete else None,
        state_is_observations=complete and all(_same(seen, state) for seen, state in first + second),
    )


def _same(a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b, equal_nan=True))


def _play(env: Any, agents: Sequence[Agent], label: str, seed: int | None, steps: int) -> list[tuple[Any, Any]]:
    """(all observations, state) of the first steps of an episode with fixed random actions."""
    rng, record = np.random.default_rng(0), []
    observations, infos = calls.reset(env, seed, label)
    for agent in agents:
        agent.action_space.seed(0)
    for _ in range(steps):
        seen = [
            np.zeros(agent.size, np.float32)
            if observations.get(agent.name) is None
            else agent.read(observations[agent.name]).astype(np.float32)
            for agent in agents
        ]
        record.append((np.concatenate(seen), calls.read_state(env)))
        calls.require_known(frozenset(env.agents), [agent.name for agent in agents], label)
        live = [agent for agent in agents if agent.name in env.agents]
        if not live:
            break
        actions = {}
        for agent in live:
            mask = agent.mask(observations.get(agent.name), infos.get(agent.name)) if agent.choices else None
            legal = None if mask is None else agent.first + rng.choice(np.flatnonzero(mask))
            actions[agent.name] = agent.action_space.sample() if legal is None else legal
        observations, _, _, _, infos = calls.step(env, actions, label)
    return record


def episode_limit(env: Any, kwargs: Mapping[str, Any], wanted: int | None, label: str) -> int:
    """`env.max_steps`, or what the environment says of itself; a UserError where it says nothing."""
    if wanted is not None:
        return wanted
    for holder in (env, getattr(env, "unwrapped", env)):
        for key in ("max_cycles", "max_steps", "max_episode_steps", "_max_episode_steps"):
            value = kwargs.get(key, getattr(holder, key, None))
            if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0:
                return int(value)
    raise UserError(
        f"env.max_steps is needed: {label} does not say how long its episodes are (neither env.kwargs.max_cycles nor"
        " an attribute max_cycles); set the number of steps after which they are cut off"
    )
