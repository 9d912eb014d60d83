"""The agents of a PettingZoo environment that are not in the team, driven by something else than learning."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.envs.opponents import checkpoint_path, load_opponents, parse_opponents
from phalanx.envs.parallel import Agent, Bounds, Source
from phalanx.envs.team import Bools, Floats, TeamPolicy

Reply = Callable[[int, frozenset[str]], dict[str, Any]]
"""(environment, who is there) -> the opponents' actions by name."""


class Opponents:
    """Nobody; also the base of the others. All that is random comes from the episode's seed."""

    needs_arrays = False  # whether `look` is called

    def reset(self) -> None:
        """Every environment is about to begin."""

    def begin(self, e: int, seed: int) -> None:
        """The episode with `seed` begins in environment e."""

    def see(self, e: int, observations: Mapping[str, Any], masks: Mapping[str, Bools]) -> None:
        """What environment e shows, as it gave it."""

    def look(self, obs: Floats, avail: Bools) -> None:
        """What all environments show to the opponents: [E, M, O] and [E, M, A]."""

    def act(self) -> Reply:
        """Decides for every environment what has been seen last."""
        return lambda e, live: {}


class _Independent(Opponents):
    """Each opponent by itself, without a view of the others."""

    def __init__(self, agents: Sequence[Agent], num_envs: int) -> None:
        self._agents = agents
        self._masks: list[Mapping[str, Bools]] = [{}] * num_envs

    def see(self, e: int, observations: Mapping[str, Any], masks: Mapping[str, Bools]) -> None:
        self._masks[e] = masks

    def act(self) -> Reply:
        return lambda e, live: {
            a.name: self._choose(e, a, self._masks[e].get(a.name)) for a in self._agents if a.name in live
        }

    def _choose(self, e: int, agent: Agent, mask: Bools | None) -> Any:
        raise NotImplementedError


class Still(_Independent):
    """Action 0 (the first legal one), or what is nearest to zero in a continuous space."""

    def _choose(self, e: int, agent: Agent, mask: Bools | None) -> Any:
        if agent.choices:
            return np.int64(agent.first + (0 if mask is None else mask.argmax()))
        return _nothing(agent)


class Random(_Independent):
    """Uniform over the legal actions, or the action space's own `sample`."""

    def __init__(self, agents: Sequence[Agent], num_envs: int) -> None:
        super().__init__(agents, num_envs)
        self._generators: list[np.random.Generator] = [np.random.default_rng(0)] * num_envs
        # Samplers of our own, one for each environment: the environment's spaces may be shared.
        self._spaces = [
            {a.name: copy.deepcopy(a.action_space) for a in agents if not a.choices} for _ in range(num_envs)
        ]

    def begin(self, e: int, seed: int) -> None:
        rng = self._generators[e] = np.random.default_rng((seed, 1))  # 1: not the environment's own numbers
        for space in self._spaces[e].values():
            space.seed(int(rng.integers(2**31)))

    def _choose(self, e: int, agent: Agent, mask: Bools | None) -> Any:
        if not agent.choices:
            return self._spaces[e][agent.name].sample()
        if mask is None:
            return agent.first + self._generators[e].integers(agent.choices)
        return agent.first + self._generators[e].choice(np.flatnonzero(mask))


class Scripted(_Independent):
    """What the source's `scripted(agent)` gives: a function of (observation, numpy Generator) to an action.
    The generator is the episode's own, so a scripted opponent is as reproducible as its function."""

    def __init__(self, source: Source, agents: Sequence[Agent], num_envs: int) -> None:
        super().__init__(agents, num_envs)
        make = source.scripted
        if make is None:
            raise UserError(
                f"env.opponents=scripted: {source.label} offers no scripted_policy(agent); choose random, still or"
                " checkpoint:DIR"
            )
        self._policies = {agent.name: make(agent.name) for agent in agents}
        for name, policy in self._policies.items():
            if not callable(policy):
                raise UserError(
                    f"env.opponents=scripted: scripted_policy({name!r}) of {source.label} is {policy!r}, but it must be"
                    " a function of (observation, numpy Generator) to an action"
                )
        self._observations: list[Mapping[str, Any]] = [{}] * num_envs
        self._generators: list[np.random.Generator] = [np.random.default_rng(0)] * num_envs

    def begin(self, e: int, seed: int) -> None:
        self._generators[e] = np.random.default_rng((seed, 1))

    def see(self, e: int, observations: Mapping[str, Any], masks: Mapping[str, Bools]) -> None:
        self._observations[e] = observations

    def _choose(self, e: int, agent: Agent, mask: Bools | None) -> Any:
        return self._policies[agent.name](self._observations[e].get(agent.name), self._generators[e])


class Trained(Opponents):
    """A policy that was trained on the other side of the same environment."""

    needs_arrays = True

    def __init__(self, policy: TeamPolicy, agents: Sequence[Agent], num_envs: int) -> None:
        self._policy = policy
        self._agents = agents
        self._num_envs = num_envs
        self._bounds = None if agents[0].choices else Bounds.of([agent.action_space for agent in agents])
        self._seen: tuple[Floats, Bools] | None = None

    def reset(self) -> None:
        self._policy.reset(self._num_envs)

    def begin(self, e: int, seed: int) -> None:
        self._policy.reset_rows(np.array([e]))

    def look(self, obs: Floats, avail: Bools) -> None:
        self._seen = obs, avail

    def act(self) -> Reply:
        assert self._seen is not None
        chosen: npt.NDArray[Any] = np.asarray(self._policy.act(*self._seen))
        if self._bounds is not None:
            vectors = self._bounds.stretch(chosen)
            return lambda e, live: {
                agent.name: agent.fitted(vectors[e, i]) for i, agent in enumerate(self._agents) if agent.name in live
            }
        return lambda e, live: {
            agent.name: agent.first + np.int64(chosen[e, i])
            for i, agent in enumerate(self._agents)
            if agent.name in live
        }


def make_opponents(
    text: str,
    source: Source,
    agents: Sequence[Agent],
    num_envs: int,
    load_policy: Callable[[str], TeamPolicy] | None,
) -> Opponents:
    """Whoever `env.opponents` asks for; a UserError where that is impossible here."""
    kind = parse_opponents(text, ("random", "still", "scripted", "checkpoint"))
    if not agents:
        return Opponents()
    if kind == "random":
        return Random(agents, num_envs)
    if kind == "still":
        for agent in agents:
            if not agent.choices:
                _nothing(agent)
        return Still(agents, num_envs)
    if kind == "scripted":
        return Scripted(source, agents, num_envs)
    directory = checkpoint_path(text) or ""
    width, choices = max(agent.size for agent in agents), max(agent.choices for agent in agents)
    if not all(agent.choices if choices else _is_vector(agent) for agent in agents):
        raise UserError(
            f"env.opponents={text} needs opponents whose actions are all discrete or all vectors (Box), which"
            f" {source.label} does not have"
        )
    sizes = tuple(agent.choices or math.prod(agent.action_space.shape) for agent in agents)
    policy = load_opponents(load_policy, directory, len(agents), width, choices)
    known = getattr(getattr(policy, "spec", None), "action_dims", sizes)
    if not choices and known != sizes:
        raise UserError(
            f"env.opponents={text} holds a policy that acts in {list(known)} numbers, one entry for each agent, but"
            f" the opponents here act in {list(sizes)}; train one with these sizes"
        )
    return Trained(policy, agents, num_envs)


def _is_vector(agent: Agent) -> bool:
    from gymnasium.spaces import Box

    return isinstance(agent.action_space, Box)


def _nothing(agent: Agent) -> npt.NDArray[Any]:
    """Zeros, or what is nearest to them, in a space that is not Discrete."""
    from gymnasium.spaces import Box

    space = agent.action_space
    if isinstance(space, Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    raise UserError(f"env.opponents=still: standing still is not defined for {agent.name}, whose actions are {space}")
