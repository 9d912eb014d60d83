"""Environments with the Parallel API (PettingZoo's, and what is brought into its form), seen as one team."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import RunFailed, UserError
from phalanx.envs import parallel
from phalanx.envs import parallel_calls as calls
from phalanx.envs.faults import FAULTS, in_words
from phalanx.envs.importing import versions
from phalanx.envs.parallel import Agent, Bounds, Source
from phalanx.envs.parallel_calls import Everyone
from phalanx.envs.parallel_frames import Frame, Side, stacked
from phalanx.envs.parallel_opponents import Opponents, make_opponents
from phalanx.envs.parallel_settings import ParallelSettings, TwoSidedSettings
from phalanx.envs.pictures import as_picture
from phalanx.envs.team import Bools, Floats, Obs, Step, TeamEnv, TeamPolicy, TeamSpec

LOG = logging.getLogger(__name__)


class ParallelTeam(TeamEnv):
    """E ParallelEnvs in one process, one after the other.

    *Ends.* An agent that is terminated, truncated or no longer among `env.agents` has vanished: zero observation, not
    alive, only action 0 (which is not sent), reward 0. The episode ends when the whole team has vanished, whatever
    the opponents do: truncated where any of the agents that vanished last was truncated, terminated otherwise; or,
    truncated, after `max_steps`. The final observation of a truncated episode is what the agents saw last, be it a step
    before: some environments show nothing to those who are cut off.

    *Actions.* Discrete ones count from 0 whatever the space's `start`, and are sent as `sample` gives them (int64).
    Continuous ones (every team space a Box of numbers) are in [-1, 1], clipped, then stretched to the space's bounds
    (`Bounds` says to which where it has none).

    *Masks* come from `action_mask` in Dict observations, or from `infos[agent]["action_mask"]`; where there is none (or
    None) at a time, every action is legal.
    """

    def __init__(
        self,
        source: Source,
        settings: ParallelSettings,
        num_envs: int,
        load_policy: Callable[[str], TeamPolicy] | None = None,
    ) -> None:
        label = self._label = source.label
        self.num_envs = num_envs
        self._settings = settings
        self._envs = [source.build()]
        self._render_mode = source.arguments.get("render_mode")  # MaMuJoCo's environments do not say it themselves
        self.why_no_picture = (
            f"{label} gives none; an environment of another library can be drawn where it takes render_mode=rgb_array"
            " (has that as its render_mode) and its render() then returns an array"
        )
        try:
            self._set_up(source, load_policy)
        except BaseException:  # windows and processes of those that are there already must not stay
            self.close()
            raise

    def _set_up(self, source: Source, load_policy: Callable[[str], TeamPolicy] | None) -> None:
        """Asks the first environment what it is and makes the others like it."""
        label, settings, num_envs, probe = self._label, self._settings, self.num_envs, self._envs[0]
        limit = parallel.episode_limit(probe, source.arguments, settings.max_steps, label)
        agents = [parallel.describe(probe, name, label) for name in probe.possible_agents]
        two_sided = settings if isinstance(settings, TwoSidedSettings) else None
        team = parallel.choose_team(agents, two_sided.team if two_sided else None)
        discrete = parallel.one_kind_of_action(team, label)
        facts = parallel.try_out(probe, agents, label)
        self._seeded = calls.can_be_seeded(probe)
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
        self._team = Side.of(team, slices, discrete)
        self._team_order = [agent.name for agent in team]
        self._team_names = frozenset(self._team_order)
        others = [agent for agent in agents if agent.name not in self._team_names]
        self._others = Side.of(others, slices, all(agent.choices > 0 for agent in others))
        opponents = two_sided.opponents if two_sided else "random"
        self._opponents: Opponents = make_opponents(opponents, source, others, num_envs, load_policy)
        self._state_from = _state_source(settings.state, facts, label)
        self._state_size = facts.state_size
        self._elapsed = [0] * num_envs
        self._before: list[Everyone] = [{}] * num_envs  # what each environment showed last
        self._live: list[frozenset[str]] = [self._everyone] * num_envs
        self._seeds: Sequence[Iterator[int]] = ()
        self.spec = self._make_spec(source, team, discrete, limit, facts.reproducible)
        self._first = np.array([agent.first for agent in team], np.int64)
        self._bounds = None if discrete else Bounds.of([agent.action_space for agent in team])
        # Continuous actions of one form can be handed over as they are.
        forms = {(agent.action_space.shape, agent.action_space.dtype) for agent in team}
        self._even_vectors = forms == {((max(self.spec.action_dims),), np.dtype(np.float32))}

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
            observations, rewards, ends, cuts, infos = calls.step(env, orders, self._label)
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
                observations = self._seen_last(e, observations, ends if truncated[e] else None)
                shown = self._present(tuple(observations))
            else:
                truncated[e] = self._elapsed[e] >= self.spec.episode_limit
                shown = left
            self._write(frame, e, observations, infos, shown)
            self._live[e], self._before[e] = left, observations
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
            final=self._view(stacked(finals)) if finals else None,
            agent_reward=np.array(pay, np.float32),
        )

    def render(self, index: int) -> npt.NDArray[np.uint8] | None:
        """The environment's own picture, where `env.kwargs` has `render_mode: rgb_array`."""
        env = self._envs[index]
        if (getattr(env, "render_mode", None) or self._render_mode) != "rgb_array":
            return None
        try:
            picture = env.render()
            return None if picture is None else as_picture(picture)
        except UserError as error:
            self.why_no_picture = str(error)
        except Exception as error:
            self.why_no_picture = f"its render() failed with {type(error).__name__}: {error}"
        return None

    def close(self) -> None:
        """Closes all of them: one that cannot be closed must not keep the others, or a finished run, from it."""
        failed = []
        for env in self._envs:
            try:
                getattr(env, "close", lambda: None)()
            except FAULTS as error:
                failed.append(in_words(error))
        if failed:
            LOG.warning("%s: close() failed in %d of %d: %s", self._label, len(failed), self.num_envs, failed[0])

    def _start(self, e: int, frame: Frame) -> None:
        seed = next(self._seeds[e])
        observations, infos = calls.reset(self._envs[e], seed if self._seeded else None, self._label)
        self._elapsed[e], self._before[e] = 0, observations
        live = self._live[e] = self._present(self._envs[e].agents)
        if live.isdisjoint(self._team_names):
            raise RunFailed(
                f"{self._label}: nobody of the team ({', '.join(self._team_order)}) is there after reset: env.agents is"
                f" {sorted(live)}; an episode needs somebody to act"
            )
        self._opponents.begin(e, seed)
        self._write(frame, e, observations, infos, self._live[e])

    def _present(self, names: Sequence[str]) -> frozenset[str]:
        """The constant set where everybody is there: comparing it is then free."""
        if names == self._names:
            return self._everyone
        present = frozenset(names)
        calls.require_known(present, self._names, self._label)
        return self._everyone if len(present) == len(self._everyone) else present

    def _seen_last(self, e: int, observations: Everyone, ends: Everyone | None) -> Everyone:
        """The final observations of environment e, whose team has vanished: with `ends`, who was terminated, those of
        all others, the step before's where nothing is shown any more; without it the episode was terminated and
        nothing follows from what is seen, so that whoever sees nothing, or no numbers, is left out."""
        live = self._live[e]
        given = {name: seen for name, seen in observations.items() if name in live and seen is not None}
        if ends is not None:
            before = {name: seen for name, seen in self._before[e].items() if name in live}
            return {name: seen for name, seen in {**before, **given}.items() if not ends.get(name)}
        agents = [agent for agent in self._agents if agent.name in given]
        return {a.name: given[a.name] for a in agents if np.isfinite(a.read(given[a.name]).astype(np.float32)).all()}

    def _left(self, env: Any, ends: Everyone, cuts: Everyone) -> frozenset[str]:
        """Who plays on after a step."""
        present = self._present(env.agents)
        if any(ends.values()) or any(cuts.values()):
            return frozenset(name for name in present if not (ends.get(name) or cuts.get(name)))
        return present

    def _paid(self, rewards: Everyone, live: frozenset[str]) -> list[float]:
        """What each agent of the team was paid; nothing for who is not there."""
        everyone = live is self._everyone
        try:
            return [float(rewards.get(name, 0.0)) if everyone or name in live else 0.0 for name in self._team_order]
        except (TypeError, ValueError):
            shown = ", ".join(f"{name}: {rewards.get(name)!r}" for name in self._team_order if name in live)
            raise RunFailed(
                f"{self._label}: rewards must be numbers, one for each agent, but they are {shown}"
            ) from None

    def _team_reward(self, paid: list[float], live: frozenset[str]) -> float:
        if self._settings.reward == "first":
            return next((pay for pay, name in zip(paid, self._team_order, strict=True) if name in live), 0.0)
        return sum(paid) if self._settings.reward == "sum" else sum(paid) / len(paid)

    def _native(self, actions: npt.NDArray[Any]) -> list[list[Any]]:
        """Actions as the environments want them, [E][N]."""
        if self._bounds is None:
            return [list(row) for row in actions + self._first]
        stretched = self._bounds.stretch(actions)
        if self._even_vectors:
            return [list(row) for row in stretched.astype(np.float32)]
        return [[a.fitted(part) for part, a in zip(row, self._team.agents, strict=True)] for row in stretched]

    # ---- what is seen

    def _new_frame(self) -> Frame:
        state = np.zeros((self.num_envs, self._state_size or 0), np.float32) if self._state_from == "env" else None
        return Frame(np.zeros((self.num_envs, self._total), np.float32), state, self._everyone)

    def _write(self, frame: Frame, e: int, observations: Everyone, infos: Everyone, shown: frozenset[str]) -> None:
        masks: dict[str, Bools] = {}
        self._fill(frame.flat[e], observations, shown)
        for agent in self._agents if self._masked or (self._chooses and any(infos.values())) else ():
            info = infos.get(agent.name)
            if (agent.masked or info) and agent.choices and agent.name in shown:
                mask = agent.mask(observations[agent.name], info)
                if mask is not None:
                    masks[agent.name] = mask
        frame.shown[e], frame.masks[e] = shown, masks
        if frame.state is not None:
            state = np.ravel(self._envs[e].state())
            if state.size != self._state_size:
                raise RunFailed(
                    f"{self._label}: state() gave {state.size} numbers, and {self._state_size} before: a state has"
                    " always the same size; env.state=all_obs takes the observations instead"
                )
            frame.state[e] = state
        self._opponents.see(e, observations, masks)

    def _fill(self, row: Floats, observations: Everyone, shown: frozenset[str]) -> None:
        """The observations of who is there, one after the other, in `row` [total]."""
        if self._plain and shown is self._everyone:
            try:
                np.concatenate([observations[name] for name in self._names], out=row, casting="unsafe")
                return
            except (KeyError, TypeError, ValueError):
                pass  # what is wrong, if anything, is seen one by one
        start = 0
        for agent in self._agents:
            if agent.name in shown:
                seen = observations.get(agent.name)
                if seen is None:
                    raise RunFailed(
                        f"{self._label}: there is no observation of {agent.name}, although it is among env.agents"
                    )
                row[start : start + agent.size] = agent.read(seen)
            start += agent.size

    def _show(self, frame: Frame) -> Obs:
        if self._opponents.needs_arrays:
            self._opponents.look(*self._others.view(frame)[:2])
        return self._view(frame)

    def _view(self, frame: Frame) -> Obs:
        obs, avail, alive = self._team.view(frame)
        if self._state_from == "env":
            assert frame.state is not None
            state = frame.state
        elif self._state_from == "all_obs":
            state = frame.flat
        else:
            state = np.concatenate([frame.flat[:, place] for place in self._team.slices], axis=1)
        return Obs(obs, state, avail, alive)


def _state_source(wanted: str, facts: parallel.Facts, label: str) -> str:
    if wanted == "env" and facts.state_size is None:
        raise UserError(f"env.state=env: {label} has no state() of always the same size; choose all_obs or team_obs")
    if wanted != "auto":
        return wanted
    return "all_obs" if facts.state_size is None or facts.state_is_observations else "env"
