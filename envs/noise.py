"""Noise on what any environment shows. An episode still depends on its seed and the team's actions alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.settings import NoiseSettings
from phalanx.envs.team import Floats, Ints, Obs, Step, TeamEnv
from phalanx.envs.wrappers import Wrapper

KEY = 0x4E6F6973  # after the episode's seed, so that noise shares no random number with the environment
DRAWN_AT_ONCE = 8192  # numbers of one environment, about


class Noise(Wrapper):
    """Adds the settings' noise to the observations and states of `env`: the same at the same step of an episode with
    the same seed, whatever stands beside it. An observation that is stored twice (as the next one of a step, as the
    present one of the following) has the same noise both times."""

    def __init__(self, env: TeamEnv, settings: NoiseSettings) -> None:
        super().__init__(env)
        spec = env.spec
        self.spec = replace(
            spec,
            obs_range=_widened(spec.obs_range, settings.obs_uniform, settings.obs_gaussian),
            state_range=_widened(spec.state_range, settings.state_uniform, settings.state_gaussian),
        )
        own = np.arange(spec.obs_dim) < np.array(spec.obs_dims)[:, None]  # [N, O]
        block = max(1, min(spec.episode_limit + 1, DRAWN_AT_ONCE // (own.size + spec.state_dim)))
        self._obs = _Source(settings.obs_uniform, settings.obs_gaussian, (env.num_envs, block, *own.shape))
        self._state = _Source(settings.state_uniform, settings.state_gaussian, (env.num_envs, block, spec.state_dim))
        self._own, self._block = own, block
        self._shown = np.zeros(env.num_envs, np.int64)  # observations of the running episodes so far
        self._seeds: list[_LastSeed] = []
        self._generators: list[np.random.Generator] = [np.random.default_rng(0)] * env.num_envs  # until the first reset

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        self._seeds = [_LastSeed(of_one) for of_one in seeds]
        obs = self.env.reset(self._seeds)
        rows = np.arange(self.num_envs)
        self._begin(rows)
        return self._noisy(obs, rows)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = self.env.step(actions)
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
            self._obs.draw(self._generators[e], e)
            self._state.draw(self._generators[e], e)
        self._shown[rows] += 1
        if self._obs.active:
            added = self._obs.drawn[rows, now]
            added *= self._own & obs.alive[:, :, None]
            obs = replace(obs, obs=obs.obs + added)
        if self._state.active:
            obs = replace(obs, state=obs.state + self._state.drawn[rows, now])
        return obs


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


class _LastSeed(Iterator[int]):
    """Seeds as they come, and the one that was taken last."""

    def __init__(self, seeds: Iterator[int]) -> None:
        self._seeds = seeds
        self.last = 0

    def __next__(self) -> int:
        self.last = next(self._seeds)
        return self.last


def _widened(limits: tuple[float, float] | None, uniform: float, gaussian: float) -> tuple[float, float] | None:
    return None if limits is None or gaussian > 0 else (limits[0], limits[1] + uniform)
