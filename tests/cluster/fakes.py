"""An environment whose every number is known, for tests of the plain runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from phalanx.algorithms.common.batch import EpisodeBatch, empty_batch
from phalanx.algorithms.registry import algorithm_settings
from phalanx.cluster.chunk import Chunk
from phalanx.configs.noise_settings import NoiseSettings
from phalanx.configs.settings import EnvSettings, RunSettings
from phalanx.envs.noise import Noise
from phalanx.envs.team import BatchedTeamEnv, Bools, Floats, Obs, Step, TeamEnv, TeamSpec

LIMIT = 6
AGENTS = 2
ACTIONS = 3

SPEC = TeamSpec(
    env_name="clockwork",
    n_agents=AGENTS,
    obs_dim=3,
    state_dim=2,
    n_actions=ACTIONS,
    episode_limit=LIMIT,
    agent_names=("a", "b"),
    obs_dims=(3, 3),
    action_dims=(ACTIONS, ACTIONS),
    has_win=True,
    metrics=("ticks",),
)


class Clockwork(BatchedTeamEnv):
    """The episode with seed s lasts 1 + s % LIMIT steps and ends terminated where s is odd or shorter than LIMIT.

    obs: (s % 65536, t, agent); state: (t, last action of agent 0); reward of step t: t + 1; ticks: 1 a step; won where
    s % 3 == 0. `crash_every`: episodes with s % crash_every == 0 crash in their last step, rewarded with NaN.
    `pays_agents`: agent i is paid the reward and 10 i.
    """

    def __init__(
        self,
        num_envs: int,
        crash_every: int = 0,
        poison: tuple[str, int, int] | None = None,
        pays_agents: bool = False,
    ) -> None:
        super().__init__(replace(SPEC, agent_rewards=pays_agents), num_envs)
        self.seed = np.zeros(num_envs, np.int64)
        self.last = np.zeros(num_envs, np.int64)
        self.crash_every = crash_every
        self.poison = poison  # (what, environment, step of the episode) that is NaN
        self.closed = False

    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = super().step(actions)
        return replace(step, agent_reward=step.reward[:, None] + 10 * np.arange(AGENTS, dtype=np.float32))

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        self.seed[rows] = seeds
        self.last[rows] = 0

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        self.last = np.asarray(actions)[:, 0].copy()
        steps = self._elapsed + 1
        terminated = (steps >= episode_length(self.seed)) & ~((steps == LIMIT) & (self.seed % 2 == 0))
        reward = steps.astype(np.float32)
        info: dict[str, npt.NDArray[Any]] = {"ticks": np.ones(self.num_envs, np.int64), "win": self.seed % 3 == 0}
        if self.crash_every:
            info["crashed"] = (steps >= episode_length(self.seed)) & (self.seed % self.crash_every == 0)
            reward[info["crashed"]] = np.nan
        if self.poison is not None and self.poison[0] == "reward" and self._elapsed[self.poison[1]] == self.poison[2]:
            reward[self.poison[1]] = np.nan
        return reward, terminated, info

    def _observe(self) -> Obs:
        obs = np.zeros((self.num_envs, AGENTS, 3), np.float32)
        obs[..., 0] = (self.seed % 65536)[:, None]
        obs[..., 1] = self._elapsed[:, None]
        obs[..., 2] = np.arange(AGENTS)
        state = np.stack([self._elapsed, self.last], axis=1).astype(np.float32)
        if self.poison is not None and self._elapsed[self.poison[1]] == self.poison[2]:
            if self.poison[0] == "observation":
                obs[self.poison[1], 1, 2] = np.inf
            if self.poison[0] == "state":
                state[self.poison[1], 1] = np.nan
        avail = np.ones((self.num_envs, AGENTS, ACTIONS), np.bool_)
        avail[:, 0, 2] = False
        return Obs(obs, state, avail, np.ones((self.num_envs, AGENTS), np.bool_))

    def close(self) -> None:
        self.closed = True


def episode_length(seed: Any) -> Any:
    return 1 + np.asarray(seed) % LIMIT


def install(monkeypatch: pytest.MonkeyPatch, noise: NoiseSettings | None = None, **options: Any) -> list[Clockwork]:
    """Makes rollout and evaluation play Clockwork, with `noise` around it; the environments that were made are
    collected in the list."""
    made: list[Clockwork] = []

    def make(settings: EnvSettings, num_envs: int, load_policy: object = None) -> TeamEnv:
        made.append(Clockwork(num_envs, **options))
        return made[-1] if noise is None else Noise(made[-1], noise)

    monkeypatch.setattr("phalanx.cluster.rollout.make_env", make)
    monkeypatch.setattr("phalanx.cluster.evaluation.make_env", make)
    return made


def settings(algorithm: str = "vdn", **sections: Any) -> RunSettings:
    """A sync run of Clockwork with a small network."""
    sections.setdefault("mode", "sync")
    sections.setdefault("agent", {"hidden": 8})
    return RunSettings.model_validate(
        {"env": EnvSettings(name="clockwork"), "algorithm": algorithm_settings(algorithm)(name=algorithm), **sections}
    )


def random_batch(
    rng: np.random.Generator,
    lengths: Sequence[int],
    spec: TeamSpec = SPEC,
    steps: int | None = None,
    with_log_prob: bool = False,
) -> EpisodeBatch:
    """Random episodes of these lengths, padded as EpisodeBatch says."""
    batch = empty_batch(spec, len(lengths), steps or max(lengths, default=1), with_log_prob=with_log_prob)
    for row, length in enumerate(lengths):
        batch.obs[row, : length + 1] = rng.normal(size=(length + 1, spec.n_agents, spec.obs_dim))
        batch.state[row, : length + 1] = rng.normal(size=(length + 1, spec.state_dim))
        batch.avail[row, : length + 1] = rng.random((length + 1, spec.n_agents, spec.n_actions)) < 0.5
        batch.avail[row, : length + 1, :, -1] = True
        batch.actions[row, :length] = rng.integers(spec.n_actions, size=(length, spec.n_agents))
        batch.reward[row, :length] = rng.normal(size=length)
        for optional in (batch.log_prob, batch.agent_reward):
            optional[row, :length] = rng.normal(size=optional[row, :length].shape)
        batch.terminated[row, length - 1] = rng.random() < 0.5
        batch.filled[row, :length] = True
    return batch


def chunk_of(batch: EpisodeBatch, stream: int = 0, sequence: int = 0) -> Chunk:
    return Chunk(
        batch=batch,
        stream=stream,
        sequence=sequence,
        weights_version=0,
        epsilon=0.0,
        env_steps=int(batch.lengths.sum()),
        returns=batch.reward.sum(axis=1),
        lengths=batch.lengths,
        wins=None,
        metrics={},
    )
