"""Turning vector steps into whole episodes, with one write per array and step. numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.algorithms.common.batch import EpisodeBatch, empty_batch
from phalanx.configs.errors import RunFailed
from phalanx.envs.team import Floats, Obs, Step, TeamSpec

Rows = npt.NDArray[np.int64]


@dataclass
class _Ended:
    """Equally long episodes that ended with the same step."""

    rows: Rows  # their environments
    began: int  # the vector step that they began with
    length: int
    final: Obs  # of everyone who ended with the step
    final_rows: Rows


class Harvest:
    """Whole episodes on their way into a chunk, in the order in which they ended."""

    def __init__(self, spec: TeamSpec, room: int, with_log_prob: bool = False) -> None:
        self.spec = spec
        self.count = 0
        self.crashed = 0
        self.returns = np.zeros(room, np.float32)
        self.agent_returns = np.zeros((room, spec.n_agents), np.float32) if spec.agent_rewards else None
        self.lengths = np.zeros(room, np.int64)
        self.terminated = np.zeros(room, np.bool_)
        self.wins = np.zeros(room, np.bool_)
        self.metrics = {name: np.zeros(room, np.float32) for name in spec.metrics}
        self.waiting: list[_Ended] = []  # counted, but their steps are the recorder's still
        self._with_log_prob = with_log_prob
        self._pieces: list[EpisodeBatch] = []

    def add(self) -> EpisodeBatch:
        """Room for the steps of all that wait, as long as the longest of them; flags, which are known, are set."""
        first = sum(map(len, self._pieces))
        lengths = self.lengths[first : self.count]
        longest = int(lengths.max())
        piece = empty_batch(self.spec, len(lengths), longest, with_log_prob=self._with_log_prob)
        piece.filled[:] = np.arange(longest + 1) < lengths[:, None]
        piece.terminated[np.arange(len(lengths)), lengths - 1] = self.terminated[first : self.count]
        self._pieces.append(piece)
        return piece

    def result(self) -> EpisodeBatch:
        """The episodes, padded to the longest of them, contiguous (so that they travel without a copy)."""
        if len(self._pieces) == 1:
            return self._pieces[0]
        longest = int(self.lengths[: self.count].max(initial=1))
        whole = empty_batch(self.spec, self.count, longest, with_log_prob=self._with_log_prob)
        for name in EpisodeBatch.__dataclass_fields__:
            into, row = getattr(whole, name), 0
            for piece in self._pieces:
                part = getattr(piece, name)
                into[row : row + len(part), : part.shape[1]] = part
                row += len(part)
        return whole


class Recorder:
    """The last `episode_limit` vector steps of one stream, from which ended episodes are copied out.

    The arrays are time-major rings, [T, E, ...]: a vector step is one contiguous write for all E environments,
    however far each of them is in its episode. Episodes that have ended stay in there until `settle` copies them out
    together, or until the rings come round to where the oldest of them began.
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
        self._earned = np.zeros(num_envs)  # returns without noise, which is told from the rewards
        self._noisy = False  # rewards have noise on them
        self._now = 0  # vector steps so far
        self._began = np.zeros(num_envs, np.int64)  # `_now` at each environment's first step of its episode
        self._crashes_in_a_row = 0
        self._into: Harvest | None = None  # whose episodes wait here
        self._oldest = 0  # the step with which the oldest of them began

    def restart(self) -> None:
        """Forgets unfinished episodes, and what was not copied out: every environment is at the beginning of one."""
        self._into = None
        self._began[:] = self._now
        self._metrics[:] = self._earned[:] = 0

    def record(self, seen: Obs, actions: npt.NDArray[Any], step: Step, log_prob: Floats | None = None) -> None:
        """One vector step: what was seen, what was done (how likely that was: [E, N]), what came of it."""
        if self._into is not None and self._oldest + self.spec.episode_limit <= self._now:
            self.settle()
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
        if step.raw_reward is not None:
            self._noisy = True
            self._earned += step.raw_reward
        self._now += 1

    def collect(self, rows: Rows, ended: Rows, step: Step, into: Harvest) -> None:
        """Notes the episodes of `rows` (some of `ended`, the environments that ended with this step, ascending);
        crashed ones are only counted. All of `ended` begin anew. `into` has them after `settle`."""
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
            self._note(group, np.searchsorted(ended, group), step, into)
        self._began[ended] = self._now
        self._metrics[:, ended] = self._earned[ended] = 0

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

    def _note(self, rows: Rows, final_rows: Rows, step: Step, into: Harvest) -> None:
        began = int(self._began[rows[0]])
        length = self._now - began
        if length > self.spec.episode_limit:
            raise RunFailed(
                f"environment {self.spec.env_name} played {length} steps in one episode, but its spec says"
                f" episode_limit={self.spec.episode_limit}"
            )
        assert step.final is not None
        if not into.waiting:
            self._into, self._oldest = into, began
        self._oldest = min(self._oldest, began)
        into.waiting.append(_Ended(rows, began, length, step.final, final_rows))
        j = slice(into.count, into.count + len(rows))
        into.count = j.stop
        into.lengths[j] = length
        into.terminated[j] = step.terminated[rows]
        into.returns[j] = self._earned[rows]
        if self.spec.has_win:
            into.wins[j] = step.info["win"][rows]
        for total, name in zip(self._metrics, self.spec.metrics, strict=True):
            into.metrics[name][j] = total[rows]

    def settle(self) -> None:
        """Copies what waits into its harvest. RunFailed on a number that is not finite."""
        into, self._into = self._into, None
        if into is None:
            return
        batch, row = into.add(), 0
        for ended in into.waiting:
            self._copy(ended, batch, slice(row, row + len(ended.rows)))
            row += len(ended.rows)
        self._require_finite(batch, np.concatenate([ended.rows for ended in into.waiting]))
        into.waiting.clear()
        j = slice(into.count - row, into.count)
        noise, rewards = 0.0, batch.reward.sum(axis=1, dtype=np.float64)
        if self._noisy:
            noise = (rewards - into.returns[j])[:, None]
        else:
            into.returns[j] = rewards
        if into.agent_returns is not None:
            into.agent_returns[j] = batch.agent_reward.sum(axis=1, dtype=np.float64) - noise

    def _copy(self, ended: _Ended, batch: EpisodeBatch, j: slice) -> None:
        limit, rows, length = self.spec.episode_limit, ended.rows, ended.length
        neighbours = rows[-1] - rows[0] + 1 == len(rows)  # looked at where they are; others are gathered first
        pick: Any = slice(rows[0], rows[-1] + 1) if neighbours else rows
        first = ended.began % limit
        before_wrap = min(length, limit - first)
        for ring, t in (
            (slice(first, first + before_wrap), slice(0, before_wrap)),
            (slice(0, length - before_wrap), slice(before_wrap, length)),
        ):
            if t.start == t.stop:
                continue
            for name, kept in self._rings.items():
                getattr(batch, name)[j, t] = kept[ring, pick].swapaxes(0, 1)
        batch.obs[j, length] = ended.final.obs[ended.final_rows]
        batch.state[j, length] = ended.final.state[ended.final_rows]
        batch.avail[j, length] = ended.final.avail[ended.final_rows]

    def _require_finite(self, batch: EpisodeBatch, rows: Rows) -> None:
        # Once per chunk, not per step: checking small arrays costs as much as recording them.
        parts = {
            "a reward": batch.reward,
            "a reward of an agent": batch.agent_reward,
            "a log-probability of an action": batch.log_prob,
            "an observation": batch.obs,
            "a state": batch.state,
        }
        for what, values in parts.items():
            if not np.isfinite(values).all():
                bad = np.argwhere(~np.isfinite(values))[0]
                raise RunFailed(
                    f"environment {self.spec.env_name} gave {what} of {values[tuple(bad)]} in stream {self.stream},"
                    f" environment {rows[bad[0]]}, step {bad[1]} of its episode: nothing can be learned from that"
                )
