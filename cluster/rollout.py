"""Playing: streams of environments under one policy. Plain: no ray; torch is loaded by the policy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.cluster.chunk import Chunk as Chunk
from phalanx.cluster.chunk import ChunkStats as ChunkStats
from phalanx.cluster.recorder import Harvest, Recorder, Rows
from phalanx.configs.settings import RunSettings
from phalanx.envs.faults import reset_env, step_env
from phalanx.envs.registry import make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose, generator
from phalanx.envs.team import Obs, Step, TeamEnv, TeamPolicy


@dataclass
class _Stream:
    """One vector of environments and where it stands."""

    env: TeamEnv
    recorder: Recorder
    memory: Any = None  # the policy's recurrent state
    seen: Obs | None = None  # None: not begun
    rng: np.random.Generator = field(default_factory=np.random.default_rng)  # replaced at every beginning
    incarnation: int = -1
    env_s: float = 0.0
    policy_s: float = 0.0


class Rollout:
    """Hosts streams: for each a vector of environments, one policy for all. `spec` is the environments'.

    A policy forward is always one stream at a time with its fixed number of environments, so that what a stream
    plays does not depend on which other streams are hosted here.
    """

    def __init__(
        self, run: RunSettings, streams: Sequence[int], load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        from phalanx.algorithms.registry import make_policy  # loads torch; chunks are unpickled without it

        if not streams:
            raise ValueError("a rollout hosts at least one stream")
        self._run = run
        self._num_envs = run.rollout.envs_per_stream
        self._streams: dict[int, _Stream] = {}
        for stream in streams:
            env = make_env(run.env, self._num_envs, load_policy)
            self._streams[stream] = _Stream(env, Recorder(env.spec, self._num_envs, stream, run.algorithm.on_policy))
        self.spec = self._streams[streams[0]].env.spec
        self._policy = make_policy(run, self.spec)
        self._version = 0

    def set_weights(self, weights: Mapping[str, npt.NDArray[Any]], version: int) -> None:
        """Weights for all chunks from now on; `version` is the number of updates they have seen."""
        self._policy.load_weights(weights)
        self._version = version

    def play_round(self, stream: int, sequence: int, epsilon: float) -> Chunk:
        """Sync mode: one whole episode of every environment, begun anew; depends on (run.seed, stream, sequence,
        weights, epsilon) alone. Raises RunFailed on a reward or observation that is not finite."""
        started = perf_counter()
        seed = self._run.seed
        one = self._streams[stream]
        self._begin(
            one,
            [EpisodeSeeds(seed, Purpose.EPISODE, stream, 0, e, first=sequence) for e in range(self._num_envs)],
            generator(seed, Purpose.EXPLORATION, stream, 0, sequence),
        )
        one.incarnation = -1
        harvest = Harvest(self.spec, self._num_envs, self._run.algorithm.on_policy)
        playing = np.ones(self._num_envs, np.bool_)
        while playing.any():
            step, ended = self._advance(one, epsilon)
            if len(ended):
                # Environments that are done step on, because the batch of a forward must not shrink; what they
                # play is not recorded.
                first_end = ended[playing[ended]]
                one.recorder.collect(first_end, ended, step, harvest)
                playing[ended] = False
        return self._chunk(one, harvest, stream, sequence, epsilon, started)

    def play_on(self, stream: int, sequence: int, epsilon: float, incarnation: int) -> Chunk:
        """Async mode: goes on until at least `rollout.envs_per_stream` episodes have ended; unfinished ones stay for
        the next call. A new `incarnation` (from 1) begins anew with episodes that were never played before."""
        started = perf_counter()
        if incarnation < 1:
            raise ValueError(f"incarnations count from 1, got {incarnation}: 0 is sync mode's")
        seed = self._run.seed
        one = self._streams[stream]
        if one.incarnation != incarnation:
            self._begin(
                one,
                [EpisodeSeeds(seed, Purpose.EPISODE, stream, incarnation, e) for e in range(self._num_envs)],
                generator(seed, Purpose.EXPLORATION, stream, incarnation),
            )
            one.incarnation = incarnation
        harvest = Harvest(self.spec, 2 * self._num_envs - 1, self._run.algorithm.on_policy)
        while harvest.count < self._num_envs:
            step, ended = self._advance(one, epsilon)
            if len(ended):
                one.recorder.collect(ended, ended, step, harvest)
        return self._chunk(one, harvest, stream, sequence, epsilon, started)

    def close(self) -> None:
        """Closes the environments."""
        for one in self._streams.values():
            one.env.close()

    def _begin(self, one: _Stream, seeds: Sequence[EpisodeSeeds], rng: np.random.Generator) -> None:
        started = perf_counter()
        one.seen = reset_env(one.env, seeds)
        one.env_s += perf_counter() - started
        one.memory = self._policy.initial_state(self._num_envs)
        one.rng = rng
        one.recorder.restart()

    def _advance(self, one: _Stream, epsilon: float) -> tuple[Step, Rows]:
        """One vector step; the environments that ended with it, whose policy rows are reset already."""
        seen = one.seen
        assert seen is not None
        t0 = perf_counter()
        actions = self._policy.act(seen.obs, one.memory, seen.avail, one.rng, epsilon)
        t1 = perf_counter()
        step = step_env(one.env, actions)
        t2 = perf_counter()
        one.policy_s += t1 - t0
        one.env_s += t2 - t1
        one.recorder.record(seen, actions, step, self._policy.log_prob)
        ended = np.flatnonzero(step.ended)
        if len(ended):
            self._policy.reset_rows(one.memory, ended)
        one.seen = step.next
        return step, ended

    def _chunk(
        self, one: _Stream, harvest: Harvest, stream: int, sequence: int, epsilon: float, started: float
    ) -> Chunk:
        one.recorder.settle()
        m = harvest.count
        batch = harvest.result()
        total = perf_counter() - started
        timing = {"env": one.env_s, "policy": one.policy_s, "bookkeeping": total - one.env_s - one.policy_s}
        one.env_s = one.policy_s = 0.0
        return Chunk(
            batch=batch,
            stream=stream,
            sequence=sequence,
            weights_version=self._version,
            epsilon=epsilon,
            env_steps=int(harvest.lengths[:m].sum()),
            returns=harvest.returns[:m],
            agent_returns=None if harvest.agent_returns is None else harvest.agent_returns[:m],
            lengths=harvest.lengths[:m],
            wins=harvest.wins[:m] if self.spec.has_win else None,
            metrics={name: values[:m] for name, values in harvest.metrics.items()},
            crashed=harvest.crashed,
            timing=timing,
        )
