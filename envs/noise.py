"""Noise on what any environment shows, pays and is told. An episode still depends on its seed and the team's actions
alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.configs.noise_settings import NoiseSettings
from phalanx.envs.seeding import FollowedSeeds
from phalanx.envs.team import Bools, Floats, Ints, Obs, Step, TeamEnv, TeamSpec
from phalanx.envs.wrappers import Wrapper

KEY = 0x4E6F6973  # after the episode's seed, so that noise shares no random number with the environment
DRAWN_AT_ONCE = 8192  # numbers of one environment, about


class Noise(Wrapper):
    """Puts the settings' noise on the observations, states and rewards of `env`, and on the actions it is given: the
    same at the same step of an episode with the same seed, whatever stands beside it. An observation that is stored
    twice (as the next one of a step, as the present one of the following) has the same noise both times."""

    def __init__(self, env: TeamEnv, settings: NoiseSettings) -> None:
        super().__init__(env)
        self._settings, spec = settings, env.spec
        self.spec = replace(
            spec,
            obs_range=_with_zero(
                _widened(spec.obs_range, settings.obs_uniform, settings.obs_gaussian), settings.entity_dropout
            ),
            state_range=_widened(spec.state_range, settings.state_uniform, settings.state_gaussian),
        )
        self._own = np.arange(spec.obs_dim) < np.array(spec.obs_dims)[:, None]  # [N, O]
        self._own[:, list(spec.kind_columns)] = False  # whose parameters are used is no matter of noise
        self._entities = _entities(spec) if settings.entity_dropout else np.zeros((0, spec.obs_dim), np.bool_)
        self._block = max(1, min(spec.episode_limit + 1, DRAWN_AT_ONCE // (self._own.size + spec.state_dim)))
        steps, n, tries = (env.num_envs, self._block), spec.n_agents, 1 if spec.discrete else max(spec.action_dims)
        self._obs = _Source(settings.obs_uniform, settings.obs_gaussian, (*steps, *self._own.shape))
        self._state = _Source(settings.state_uniform, settings.state_gaussian, (*steps, spec.state_dim))
        self._missed = _Source(float(settings.entity_dropout > 0), 0.0, (*steps, n, len(self._entities)))
        self._pay = _Source(0.0, settings.reward_gaussian, steps)
        self._slip = _Source(float(settings.action_slip > 0), 0.0, (*steps, n, 1 + tries))  # whether, and what instead
        self._shown = np.zeros(env.num_envs, np.int64)  # observations of the running episodes so far
        self._legal: Bools = np.zeros((env.num_envs, n, spec.n_actions), np.bool_)
        self._seeds: list[FollowedSeeds] = []
        self._generators: list[np.random.Generator] = [np.random.default_rng(0)] * env.num_envs  # until the first reset

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        self._seeds = [FollowedSeeds(of_one) for of_one in seeds]
        obs = self.env.reset(self._seeds)
        rows = np.arange(self.num_envs)
        self._begin(rows)
        return self._noisy(obs, rows)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        now = np.arange(self.num_envs), (self._shown - 1) % self._block  # as what was seen last
        step = self.env.step(self._slipped(actions, self._slip.drawn[now]) if self._slip.active else actions)
        if self._pay.active:
            step = _paid(step, self._pay.drawn[now])
        ended = np.flatnonzero(step.ended)
        final = None if step.final is None else self._noisy(step.final, ended)
        self._begin(ended)
        return replace(step, next=self._noisy(step.next, np.arange(self.num_envs)), final=final)

    def _begin(self, rows: Ints) -> None:
        for e in rows:
            self._generators[e] = np.random.default_rng((self._seeds[e].last, KEY))
        self._shown[rows] = 0

    def _noisy(self, obs: Obs, rows: Ints) -> Obs:
        """What the environments `rows` show, with the next noise of their episodes."""
        now = self._shown[rows] % self._block
        for e in rows[now == 0]:
            for source in (self._obs, self._state, self._missed, self._pay, self._slip):
                source.draw(self._generators[e], e)
        self._shown[rows] += 1
        if self._slip.active:
            self._legal[rows] = obs.avail  # its own copy
        if self._missed.active:
            missed = self._missed.drawn[rows, now] < self._settings.entity_dropout  # [rows, N, entities]
            obs = replace(obs, obs=np.where(missed @ self._entities, np.float32(0), obs.obs))
        if self._obs.active:
            added = self._obs.drawn[rows, now]
            added *= self._own & obs.alive[:, :, None]
            obs = replace(obs, obs=obs.obs + added)
        if self._state.active:
            obs = replace(obs, state=obs.state + self._state.drawn[rows, now])
        return obs

    def _slipped(self, actions: npt.NDArray[Any], drawn: Floats) -> npt.NDArray[Any]:
        """The actions, some of them replaced by legal ones that `drawn` (in [0, 1), [E, N, 1 + …]) picks."""
        slips, pick = drawn[..., 0] < self._settings.action_slip, drawn[..., 1:]
        if not self.spec.discrete:
            return np.where(slips[..., None], 2 * pick - 1, actions)
        count = self._legal.cumsum(axis=2)
        nth = 1 + (pick * count[..., -1:]).astype(np.int64)  # of the legal ones, from 1 on
        return np.where(slips, (count >= nth).argmax(axis=2), actions)


class _Source:
    """Noise of one kind for some steps of every environment, drawn together: `drawn` [E, steps, ...]."""

    def __init__(self, uniform: float, gaussian: float, shape: tuple[int, ...]) -> None:
        self._uniform, self._gaussian = np.float32(uniform), np.float32(gaussian)
        self.active = uniform > 0 or gaussian > 0
        self.drawn: Floats = np.zeros(shape if self.active else 0, np.float32)

    def draw(self, rng: np.random.Generator, env: int) -> None:
        """The next steps of environment `env`."""
        if not self.active:
            return
        numbers = self.drawn[env]
        if self._uniform:
            rng.random(dtype=np.float32, out=numbers)
            numbers *= self._uniform
        else:
            numbers[...] = 0
        if self._gaussian:
            numbers += self._gaussian * rng.standard_normal(numbers.shape, np.float32)


def _paid(step: Step, noise: Floats) -> Step:
    """`step` with the same noise on the team's reward and on every agent's: noise [E]."""
    of_agents = None if step.agent_reward is None else step.agent_reward + noise[:, None]
    return replace(step, reward=step.reward + noise, agent_reward=of_agents, raw_reward=step.earned)


def _entities(spec: TeamSpec) -> Bools:
    """Which numbers of an observation are each entity's alone: [entities, O]."""
    view = spec.entities
    others = () if view is None else (*view.allies, *view.enemies, *view.objects)
    if view is None or not others:
        raise UserError(
            "env.noise.entity_dropout hides entities, but the observations of"
            f" {spec.env_name} are not told apart into entities (TeamSpec.entities); use env.noise.obs_gaussian or"
            " env.noise.obs_uniform, or an environment with entities, such as smax or simple_spread"
        )
    alone = [[column for column in columns if column not in view.own] for columns in others]
    hidden = np.zeros((len(others), spec.obs_dim), np.bool_)
    for of_one, columns in zip(hidden, alone, strict=True):
        of_one[columns] = True
    return hidden


def _widened(limits: tuple[float, float] | None, uniform: float, gaussian: float) -> tuple[float, float] | None:
    return None if limits is None or gaussian > 0 else (limits[0], limits[1] + uniform)


def _with_zero(limits: tuple[float, float] | None, dropout: float) -> tuple[float, float] | None:
    return limits if limits is None or not dropout else (min(limits[0], 0.0), max(limits[1], 0.0))
