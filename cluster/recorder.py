"""Turning vector steps into whole episodes, with one write per array and step. numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.algorithms.common.batch import EpisodeBatch, empty_batch
from phalanx.configs.errors import RunFailed
from phalanx.envs.team import Floats, Obs, Step, TeamSpec

Rows = npt.NDArray[np.int64]


class Harvest:
    """Whole episodes on their way into a chunk, in the order in which they ended."""

    def __init__(self, spec: TeamSpec, room: int, with_log_prob: bool = False) -> None:
        self.spec = spec
        self.count = 0
        self.crashed = 0
        self.batch = empty_batch(spec, room, with_log_prob=with_log_prob)
        self.returns = np.zeros(room, np.float32)
        self.agent_returns = np.zeros((room, spec.n_agents), np.float32) if spec.agent_rewards else None
        self.lengths = np.zeros(room, np.int64)
        self.wins = np.zeros(room, np.bool_)
        self.metrics = {name: np.zeros(room, np.float32) for name in spec.metrics}

    def result(self) -> EpisodeBatch:
        """The episodes, padded to the longest of them, contiguous (so that they travel without a copy)."""
        full = self.batch
        kept = EpisodeBatch(*(getattr(full, name)[: self.count] for name in EpisodeBatch.__dataclass_fields__))
        trimmed = kept.trimmed()
        return EpisodeBatch(
            *(np.ascontiguousarray(getattr(trimmed, name)) for name in EpisodeBatch.__dataclass_fields__)
        )


class Recorder:
    """The last `episode_limit` vector steps of one stream, from which ended episodes are copied out.

    The arrays are time-major rings, [T, E, ...]: a vector step is one contiguous write for all E environments,
    however far each of them is in its episode.
    """

    def __init__(self, spec: TeamSpec, num_envs: int, stream: int, with_log_prob: bool = False) -> None:
        """`with_log_prob`: whether the log-probabilities of actions are kept, and therefore given."""
        room = empty_batch(spec, num_envs, spec.episode_limit, with_log_prob=with_log_prob)

        def ring(like: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.zeros((spec.episode_limit, *like.shape[:1], *like.shape[2:]), like.dtype)

        self.spec = spec
        self.stream = stream
        self.num_envs = num_envs
        self._obs, self._state, self._avail = ring(room.obs), ring(room.state), ring(room.avail)
        self._actions, self._reward = ring(room.actions), ring(room.reward)
        self._agent_reward = ring(room.agent_reward) if spec.agent_rewards else None
        self._log_prob = ring(room.log_prob) if with_log_prob else None
        rings = {
            "obs": self._obs,
            "state": self._state,
            "avail": self._avail,
            "actions": self._actions,
            "log_prob": self._log_prob,
            "reward": self._reward,
            "agent_reward": self._agent_reward,
        }
        self._rings = {name: kept for name, kept in rings.items() if kept is not None}
        self._metrics = np.zeros((len(spec.metrics), num_envs))
        self._now = 0  # vector steps so far
        self._began = np.zeros(num_envs, np.int64)  # `_now` at each environment's first step of its episode
        self._crashes_in_a_row = 0

    def restart(self) -> None:
        """Forgets unfinished episodes: every environment is at the beginning of one."""
        self._began[:] = self._now
        self._metrics[:] = 0

    def record(self, seen: Obs, actions: npt.NDArray[Any], step: Step, log_prob: Floats | None = None) -> None:
        """One vector step: what was seen, what was done (how likely that was: [E, N]), what came of it."""
        at = self._now % self.spec.episode_limit
        self._obs[at] = seen.obs
        self._state[at] = seen.state
        self._avail[at] = seen.avail
        self._actions[at] = actions
        self._reward[at] = step.reward
        if self._agent_reward is not None:
            self._agent_reward[at] = step.agent_reward  # None becomes NaN, which no episode may hold
        if self._log_prob is not None:
            self._log_prob[at] = log_prob
        for total, name in zip(self._metrics, self.spec.metrics, strict=True):
            total += step.info[name]
        self._now += 1

    def collect(self, rows: Rows, ended: Rows, step: Step, into: Harvest) -> None:
        """Copies the episodes of `rows` (some of `ended`, the environments that ended with this step, ascending) out;
        crashed ones are only counted. All of `ended` begin anew."""
        crashed = step.info.get("crashed")
        kept = rows
        if crashed is not None and crashed[rows].any():
            kept = rows[~crashed[rows].astype(bool)]
            into.crashed += len(rows) - len(kept)
            self._watch_crashes(len(rows) - len(kept))
        if len(kept):
            self._crashes_in_a_row = 0
        if len(kept) and step.final is None:
            raise RunFailed(f"environment {self.spec.env_name} ended episodes without a final observation")
        for group in self._of_one_beginning(kept):
            self._copy(group, np.searchsorted(ended, group), step, into)
        self._began[ended] = self._now
        self._metrics[:, ended] = 0

    def _watch_crashes(self, crashed: int) -> None:
        self._crashes_in_a_row += crashed
        if self._crashes_in_a_row > max(20, 4 * self.num_envs):
            raise RunFailed(
                f"environment {self.spec.env_name} crashed {self._crashes_in_a_row} times in a row in stream"
                f" {self.stream}: no episode can be finished"
            )

    def _of_one_beginning(self, rows: Rows) -> Iterator[Rows]:
        """`rows` in groups whose episodes are equally long; nearly always there is one."""
        began = self._began[rows]
        if len(rows) and (began == began[0]).all():
            yield rows
        else:
            for first in np.unique(began):
                yield rows[began == first]

    def _copy(self, rows: Rows, final_rows: Rows, step: Step, into: Harvest) -> None:
        limit = self.spec.episode_limit
        began = int(self._began[rows[0]])
        length = self._now - began
        if length > limit:
            raise RunFailed(
                f"environment {self.spec.env_name} played {length} steps in one episode, but its spec says"
                f" episode_limit={limit}"
            )
        j = slice(into.count, into.count + len(rows))
        batch, final = into.batch, step.final
        assert final is not None
        pick: Any = slice(None) if len(rows) == self.num_envs else rows
        first = began % limit
        before_wrap = min(length, limit - first)
        for ring, t in (
            (slice(first, first + before_wrap), slice(0, before_wrap)),
            (slice(0, length - before_wrap), slice(before_wrap, length)),
        ):
            if t.start == t.stop:
                continue
            for name, kept in self._rings.items():
                getattr(batch, name)[j, t] = kept[ring, pick].swapaxes(0, 1)
        batch.obs[j, length] = final.obs[final_rows]
        batch.state[j, length] = final.state[final_rows]
        batch.avail[j, length] = final.avail[final_rows]
        batch.terminated[j, length - 1] = step.terminated[rows]
        batch.filled[j, :length] = True
        self._require_finite(batch, j, length, rows)
        into.returns[j] = batch.reward[j, :length].sum(axis=1, dtype=np.float64)
        if into.agent_returns is not None:
            into.agent_returns[j] = batch.agent_reward[j, :length].sum(axis=1, dtype=np.float64)
        into.lengths[j] = length
        if self.spec.has_win:
            into.wins[j] = step.info["win"][rows]
        for total, name in zip(self._metrics, self.spec.metrics, strict=True):
            into.metrics[name][j] = total[rows]
        into.count = j.stop

    def _require_finite(self, batch: EpisodeBatch, j: slice, length: int, rows: Rows) -> None:
        # Once per episode, not per step: checking small arrays costs as much as recording them.
        parts = {
            "reward": batch.reward[j, :length],
            "reward of an agent": batch.agent_reward[j, :length],
            "log-probability of an action": batch.log_prob[j, :length],
            "observation": batch.obs[j, : length + 1],
            "state": batch.state[j, : length + 1],
        }
        for what, values in parts.items():
            if not np.isfinite(values).all():
                bad = np.argwhere(~np.isfinite(values))[0]
                raise RunFailed(
                    f"environment {self.spec.env_name} gave a {what} of {values[tuple(bad)]} in stream {self.stream},"
                    f" environment {rows[bad[0]]}, step {bad[1]} of its episode: nothing can be learned from that"
                )
