"""Environments with the Parallel API (PettingZoo's, and what is brought into its form), seen as one team."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.envs import parallel
from phalanx.envs.importing import versions
from phalanx.envs.parallel import Agent, Bounds, Source
from phalanx.envs.parallel_opponents import Opponents, make_opponents
from phalanx.envs.parallel_settings import ParallelSettings, TwoSidedSettings
from phalanx.envs.team import Bools, Floats, Obs, Step, TeamEnv, TeamPolicy, TeamSpec

LOG = logging.getLogger(__name__)


@dataclass
class _Side:
    """Some agents (the team, or its opponents) and where their observations lie in the flat vector of all."""

    agents: list[Agent]
    slices: list[slice]
    width: int  # largest observation
    choices: int  # largest number of actions; 0 where they are continuous
    legal: Bools  # [n, choices]: each agent's own actions

    @classmethod
    def of(cls, agents: list[Agent], slices: dict[str, slice], discrete: bool) -> _Side:
        sizes = [agent.choices if discrete else 0 for agent in agents]
        choices = max(sizes, default=0)
        legal = np.arange(choices) < np.array(sizes, dtype=np.int64)[:, None]
        width = max((agent.size for agent in agents), default=0)
        return cls(agents, [slices[agent.name] for agent in agents], width, choices, legal)

    def view(self, frame: _Frame) -> tuple[Floats, Bools, Bools]:
        """obs [R, n, width], avail [R, n, choices] and alive [R, n], new arrays."""
        rows = len(frame.flat)
        obs = np.zeros((rows, len(self.agents), self.width), np.float32)
        for i, place in enumerate(self.slices):
            obs[:, i, : place.stop - place.start] = frame.flat[:, place]
        avail = np.repeat(self.legal[None], rows, axis=0)
        alive = np.ones((rows, len(self.agents)), np.bool_)
        for r in range(rows):
            shown, masks = frame.shown[r], frame.masks[r]
            if not masks and shown is frame.everyone:
                continue
            for i, agent in enumerate(self.agents):
                if agent.name not in shown:
                    alive[r, i] = False
                    avail[r, i] = False
                    avail[r, i, :1] = True
                elif agent.name in masks:
                    mask = masks[agent.name]
                    avail[r, i, : mask.size] = mask
        return obs, avail, alive


class _Frame:
    """What R environments show: everything that an `Obs` is made from, in arrays of its own."""

    def __init__(self, flat: Floats, state: Floats | None, everyone: frozenset[str]) -> None:
        self.flat = flat  # [R, total]: every agent's observation, zeros for who is not there
        self.state = state  # [R, S] of env.state(), where it is asked for
        self.everyone = everyone
        self.shown: list[frozenset[str]] = [everyone] * len(flat)  # who is there
        self.masks: list[dict[str, Bools]] = [{} for _ in range(len(flat))]  # the masks that were given

    def row(self, r: int) -> _Frame:
        copy = _Frame(
            self.flat[r : r + 1].copy(), None if self.state is None else self.state[r : r + 1].copy(), self.everyone
        )
        copy.shown, copy.masks = [self.shown[r]], [self.masks[r]]
        return copy


class ParallelTeam(TeamEnv):
    """E ParallelEnvs in one process, one after the other.

    *Ends.* An agent that is terminated, truncated or no longer among `env.agents` has vanished: zero observation, not
    alive, only action 0 (which is not sent), reward 0. The episode ends when the whole team has vanished, whatever
    the opponents do: truncated where any of the agents that vanished last was truncated, terminated otherwise; or,
    truncated, after `max_steps`. The final observation of a truncated episode is what the agents saw last.

    *Actions.* Discrete ones count from 0 whatever the space's `start`. Continuous ones (every team space a Box of
    numbers) are in [-1, 1], clipped, then stretched to the space's bounds (`Bounds` says to which where it has none).

    *Masks* come from Dict observations of `observation` and `action_mask`, or from `infos[agent]["action_mask"]`.
    """

    def __init__(
        self,
        source: Source,
        settings: ParallelSettings,
        num_envs: int,
        load_policy: Callable[[str], TeamPolicy] | None = None,
    ) -> None:
        label = source.label
        self.num_envs = num_envs
        self._settings = settings
        self._envs = [source.build()]
        probe = self._envs[0]
        self._render_mode = source.arguments.get("render_mode")  # MaMuJoCo's environments do not say it themselves
        self.why_no_picture = (
            f"{label} gives none; an environment of another library can be drawn where it takes render_mode=rgb_array"
            " (has that as its render_mode) and its render() then returns an array"
        )
        limit = parallel.episode_limit(probe, source.arguments, settings.max_steps, label)
        agents = [parallel.describe(probe, name, label) for name in probe.possible_agents]
        two_sided = settings if isinstance(settings, TwoSidedSettings) else None
        team = parallel.choose_team(agents, two_sided.team if two_sided else None)
        discrete = parallel.one_kind_of_action(team, label)
        facts = parallel.try_out(probe, agents, label)
        self._seeded = parallel.can_be_seeded(probe)
        if not facts.reproducible:
            LOG.warning(
                "%s cannot be seeded (the same seed gave different episodes): runs on it are not reproducible", label
            )
        self._envs += [source.build() for _ in range(num_envs - 1)]
        self._agents, self._everyone = agents, frozenset(agent.name for agent in agents)
        self._names = [agent.name for agent in agents]
        self._plain = all(agent.plain for agent in agents)
        self._masked = any(agent.masked for agent in agents)
        self._chooses = any(agent.choices for agent in agents)
        ends = np.cumsum([agent.size for agent in agents]).tolist()
        slices = {a.name: slice(end - a.size, end) for a, end in zip(agents, ends, strict=True)}
        self._total = ends[-1]
        self._team = _Side.of(team, slices, discrete)
        self._team_order = [agent.name for agent in team]
        self._team_names = frozenset(self._team_order)
        others = [agent for agent in agents if agent.name not in self._team_names]
        self._others = _Side.of(others, slices, all(agent.choices > 0 for agent in others))
        opponents = two_sided.opponents if two_sided else "random"
        self._opponents: Opponents = make_opponents(opponents, source, others, num_envs, load_policy)
        self._state_from = _state_source(settings.state, facts, label)
        self._state_size = facts.state_size
        self._elapsed = [0] * num_envs
        self._live: list[frozenset[str]] = [self._everyone] * num_envs
        self._seeds: Sequence[Iterator[int]] = ()
        self.spec = self._make_spec(source, team, discrete, limit, facts.reproducible)
        self._bounds = None if discrete else Bounds.of([agent.action_space for agent in team])
        # Continuous actions of one form can be handed over as they are.
        self._even_vectors = len({(agent.action_space.shape, agent.action_space.dtype) for agent in team}) == 1 and (
            len(team[0].action_space.shape) == 1
        )

    def _make_spec(self, source: Source, team: list[Agent], discrete: bool, limit: int, reproducible: bool) -> TeamSpec:
        sizes = {
            "env": self._state_size or 0,
            "all_obs": self._total,
            "team_obs": sum(agent.size for agent in team),
        }
        action_dims = tuple(agent.choices if discrete else int(np.prod(agent.action_space.shape)) for agent in team)
        names, obs_dims = tuple(agent.name for agent in team), tuple(agent.size for agent in team)
        group_ids, group_names = parallel.groups_of(names, obs_dims, action_dims, source.groups)
        return TeamSpec(
            env_name=source.name,
            n_agents=len(team),
            obs_dim=self._team.width,
            state_dim=sizes[self._state_from],
            n_actions=self._team.choices,
            episode_limit=limit,
            agent_names=names,
            obs_dims=obs_dims,
            action_dims=action_dims,
            discrete=discrete,
            group_ids=group_ids,
            group_names=group_names,
            agent_rewards=True,
            obs_range=parallel.observed_range(team),
            reproducible=reproducible,
            versions=versions(source.packages),
        )

    # ---- episodes

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        if len(seeds) != self.num_envs:
            raise ValueError(f"got {len(seeds)} seed sequences for {self.num_envs} environments")
        self._seeds = seeds
        self._opponents.reset()
        frame = self._new_frame()
        for e in range(self.num_envs):
            self._start(e, frame)
        return self._show(frame)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        chosen = self._native(np.asarray(actions))
        frame, finals = self._new_frame(), []
        pay, reward = [], []  # lists of numbers: cheaper to fill one by one than arrays
        terminated, truncated = [False] * self.num_envs, [False] * self.num_envs
        replies = self._opponents.act()
        for e, env in enumerate(self._envs):
            live = self._live[e]
            together = live is self._everyone
            pairs = zip(self._team_order, chosen[e], strict=True)
            orders = dict(pairs) if together else {name: action for name, action in pairs if name in live}
            orders.update(replies(e, live))
            observations, rewards, ends, cuts, infos = env.step(orders)
            self._elapsed[e] += 1
            paid = self._paid(rewards, live)
            pay.append(paid)
            reward.append(self._team_reward(paid, live))
            left = self._left(env, ends, cuts)
            if left.isdisjoint(self._team_names):
                # Whoever vanished earlier decides nothing: those who were there until now do.
                last = [name for name in self._team_names if name in live]
                truncated[e] = any(cuts.get(name) and not ends.get(name) for name in last)
                terminated[e] = not truncated[e]
                shown = live if terminated[e] else frozenset(name for name in live if not ends.get(name))
                shown = shown & frozenset(observations)
            else:
                truncated[e] = self._elapsed[e] >= self.spec.episode_limit
                shown = left
            self._write(frame, e, observations, infos, shown)
            self._live[e] = left
            if terminated[e] or truncated[e]:
                finals.append(frame.row(e))
                self._draw_last(np.array([e]))
                frame.flat[e] = 0
                self._start(e, frame)
        return Step(
            next=self._show(frame),
            reward=np.array(reward, np.float32),
            terminated=np.array(terminated, np.bool_),
            truncated=np.array(truncated, np.bool_),
            final=self._view(_stack(finals)) if finals else None,
            agent_reward=np.array(pay, np.float32),
        )

    def render(self, index: int) -> npt.NDArray[np.uint8] | None:
        """The environment's own picture, where `env.kwargs` has `render_mode: rgb_array`."""
        env = self._envs[index]
        if (getattr(env, "render_mode", None) or self._render_mode) != "rgb_array":
            return None
        try:
            picture = env.render()
        except Exception as error:
            self.why_no_picture = f"its render() failed with {type(error).__name__}: {error}"
            return None
        return None if picture is None else np.array(picture, np.uint8)

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _start(self, e: int, frame: _Frame) -> None:
        seed = next(self._seeds[e])
        observations, infos = parallel.reset(self._envs[e], seed if self._seeded else None)
        self._elapsed[e] = 0
        self._live[e] = self._present(self._envs[e].agents)
        self._opponents.begin(e, seed)
        self._write(frame, e, observations, infos, self._live[e])

    def _present(self, names: Sequence[str]) -> frozenset[str]:
        """The constant set where everybody is there: comparing it is then free."""
        return self._everyone if len(names) == len(self._names) else frozenset(names)

    def _left(self, env: Any, ends: dict[str, bool], cuts: dict[str, bool]) -> frozenset[str]:
        """Who plays on after a step."""
        present = self._present(env.agents)
        if any(ends.values()) or any(cuts.values()):
            return frozenset(name for name in present if not (ends.get(name) or cuts.get(name)))
        return present

    def _paid(self, rewards: dict[str, Any], live: frozenset[str]) -> list[float]:
        """What each agent of the team was paid; nothing for who is not there."""
        everyone = live is self._everyone
        try:
            return [float(rewards.get(name, 0.0)) if everyone or name in live else 0.0 for name in self._team_order]
        except (TypeError, ValueError):
            shown = ", ".join(f"{name}: {rewards.get(name)!r}" for name in self._team_order if name in live)
            raise TypeError(f"rewards must be numbers, one for each agent, but they are {shown}") from None

    def _team_reward(self, paid: list[float], live: frozenset[str]) -> float:
        if self._settings.reward == "first":
            return next((pay for pay, name in zip(paid, self._team_order, strict=True) if name in live), 0.0)
        return sum(paid) if self._settings.reward == "sum" else sum(paid) / len(paid)

    def _native(self, actions: npt.NDArray[Any]) -> list[list[Any]]:
        """Actions as the environments want them, [E][N]."""
        if self._bounds is None:
            first = [agent.first for agent in self._team.agents]
            return [[a + f for a, f in zip(row, first, strict=True)] for row in actions.tolist()]
        stretched = self._bounds.stretch(actions)
        spaces = [agent.action_space for agent in self._team.agents]
        if self._even_vectors:
            return [list(row) for row in stretched.astype(spaces[0].dtype)]
        return [
            [
                part[: math.prod(space.shape)].astype(space.dtype).reshape(space.shape)
                for part, space in zip(row, spaces, strict=True)
            ]
            for row in stretched
        ]

    # ---- what is seen

    def _new_frame(self) -> _Frame:
        state = np.zeros((self.num_envs, self._state_size or 0), np.float32) if self._state_from == "env" else None
        return _Frame(np.zeros((self.num_envs, self._total), np.float32), state, self._everyone)

    def _write(
        self, frame: _Frame, e: int, observations: dict[str, Any], infos: dict[str, Any], shown: frozenset[str]
    ) -> None:
        row = frame.flat[e]
        masks: dict[str, Bools] = {}
        if self._plain and shown is self._everyone and len(observations) == len(self._names):
            np.concatenate([observations[name] for name in self._names], out=row, casting="unsafe")
        else:
            start = 0
            for agent in self._agents:
                if agent.name in shown and agent.name in observations:
                    row[start : start + agent.size] = agent.read(observations[agent.name])
                start += agent.size
        for agent in self._agents if self._masked or (self._chooses and any(infos.values())) else ():
            info = infos.get(agent.name)
            if (agent.masked or info) and agent.choices and agent.name in shown and agent.name in observations:
                mask = agent.mask(observations[agent.name], info)
                if mask is not None:
                    masks[agent.name] = mask
        frame.shown[e], frame.masks[e] = shown, masks
        if frame.state is not None:
            frame.state[e] = np.ravel(self._envs[e].state())
        self._opponents.see(e, observations, masks)

    def _show(self, frame: _Frame) -> Obs:
        if self._opponents.needs_arrays:
            self._opponents.look(*self._others.view(frame)[:2])
        return self._view(frame)

    def _view(self, frame: _Frame) -> Obs:
        obs, avail, alive = self._team.view(frame)
        if self._state_from == "env":
            assert frame.state is not None
            state = frame.state
        elif self._state_from == "all_obs":
            state = frame.flat
        else:
            state = np.concatenate([frame.flat[:, place] for place in self._team.slices], axis=1)
        return Obs(obs, state, avail, alive)


def _stack(rows: list[_Frame]) -> _Frame:
    states = [row.state for row in rows if row.state is not None]
    stacked = _Frame(
        np.concatenate([row.flat for row in rows]), np.concatenate(states) if states else None, rows[0].everyone
    )
    stacked.shown = [row.shown[0] for row in rows]
    stacked.masks = [row.masks[0] for row in rows]
    return stacked


def _state_source(wanted: str, facts: parallel.Facts, label: str) -> str:
    if wanted == "env" and facts.state_size is None:
        raise UserError(f"env.state=env: {label} has no state(); choose all_obs or team_obs")
    if wanted != "auto":
        return wanted
    return "all_obs" if facts.state_size is None or facts.state_is_observations else "env"
