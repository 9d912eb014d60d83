"""The workers' side of async mode: chunks are played and inserted. Plain: no ray."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from phalanx.cluster.calls import ActorLost, Calls
from phalanx.cluster.chunk import ChunkStats
from phalanx.cluster.learning import Learning
from phalanx.cluster.limiter import SamplesPerInsert

if TYPE_CHECKING:
    from phalanx.cluster.diary import Diary
    from phalanx.cluster.fleet import Fleet, Member, ReplayCount
    from phalanx.configs.settings import RunSettings

PART_UPDATES = 8  # most updates that the episodes inserted at once may stand for: samples per insert swing by so much


@dataclass
class _Seat:
    """A worker: the streams it hosts and what it is doing."""

    member: Member
    streams: list[int]
    turns: int = 0
    version: int = -1  # of the weights it has; -1: none
    busy: bool = False  # plays, or its chunks wait to be inserted
    up: bool = True


@dataclass
class _Played:
    seat: _Seat
    chunk: Any  # a reference: the coordinator never fetches episodes
    stats: ChunkStats
    order: int  # of playing, over all workers: a stream's chunks are inserted in theirs
    last: bool  # of what the worker played at once: it may go on


def parts(run: RunSettings) -> int:
    """Into how many chunks what a worker plays at once is cut, so that it can be inserted bit by bit."""
    at_once = max(1, int(PART_UPDATES * run.learner.batch_episodes / run.replay.samples_per_insert))
    return math.ceil(run.rollout.envs_per_stream / at_once)


class Collecting:
    """Keeps every worker playing as long as the limiter lets its chunks in.

    A worker goes on when its chunks were handed to the replay, so that what it plays is fresh; while chunks wait,
    the learner has more than enough to do.
    """

    def __init__(
        self,
        run: RunSettings,
        fleet: Fleet,
        calls: Calls,
        limiter: SamplesPerInsert,
        diary: Diary,
        learning: Learning,
        on_change: Callable[[], None],
    ) -> None:
        self._run, self._fleet, self._calls, self._limiter = run, fleet, calls, limiter
        self._diary, self._learning, self._on_change = diary, learning, on_change
        self._progress = diary.progress
        self._seats = [_Seat(m, s) for m, s in zip(fleet.workers, fleet.hosting, strict=True)]
        self._waiting: deque[_Played] = deque()  # oldest first
        self._inserting = 0  # episodes
        self._env_steps_sent = diary.progress.env_steps  # inserted or under way
        self._parts = parts(run)
        self._count = 0
        self._lags: list[int] = []
        self.replay_size = 0  # episodes
        self._newest = 0  # episodes inserted by then: answers may be looked at in any order

    @property
    def complete(self) -> bool:
        """The env steps asked for are inserted, or will be by what is under way."""
        return self._env_steps_sent >= self._run.total_env_steps

    @property
    def settled(self) -> bool:
        """Everything is inserted, and confirmed."""
        return self._diary.complete and self._inserting == 0

    def begin(self) -> None:
        """Every stream begins with episodes that were never played before."""
        self._progress.incarnations = [number + 1 for number in self._progress.incarnations]

    def advance(self) -> None:
        """Inserts what may be inserted and has idle workers play."""
        while self._waiting and self._may_insert():
            self._insert(self._waiting.popleft())
        for seat in self._seats:
            if seat.up and not seat.busy and not self.complete:
                self._play(seat)

    def note_replay(self, count: ReplayCount) -> None:
        """What the replay holds, also where that is less than before."""
        self.replay_size, self._newest = count.size, count.inserted

    def lag(self) -> float | None:
        """Mean policy lag of the chunks since the last call, in updates; None where there were none."""
        lags, self._lags = self._lags, []
        return sum(lags) / len(lags) if lags else None

    def _may_insert(self) -> bool:
        return self._learning.replay_up and not self.complete and self._limiter.may_insert(self._inserting)

    def _play(self, seat: _Seat) -> None:
        published = self._learning.published
        if published is None:
            return
        stream = seat.streams[seat.turns % len(seat.streams)]
        seat.turns += 1
        sequence = self._progress.sequences[stream]
        self._progress.sequences[stream] += self._parts
        newer = (published.weights, published.version) if published.version != seat.version else (None, 0)
        seat.version = published.version
        seat.busy = True
        play_on = seat.member.handle.play_on.options(num_returns=self._parts + 1)
        *chunks, stats = play_on.remote(
            stream, sequence, self._diary.epsilon, self._progress.incarnations[stream], self._parts, *newer
        )
        self._calls.add(
            seat.member,
            stats,
            lambda stats: self._played(seat, chunks, stats),
            lambda lost: self._not_played(seat, lost),
        )

    def _played(self, seat: _Seat, chunks: list[Any], stats: list[ChunkStats]) -> None:
        for chunk, each in zip(chunks, stats, strict=True):
            self._count += 1
            self._waiting.append(_Played(seat, chunk, each, self._count, last=each is stats[-1]))
        self._on_change()

    def _not_played(self, seat: _Seat, lost: ActorLost) -> None:
        seat.busy = False
        seat.version = -1
        self._progress.episodes_lost += self._run.rollout.envs_per_stream
        if lost.name is None:  # the worker is well, but the weights it was sent are gone
            self._learning.forget_published()

    def _insert(self, played: _Played) -> None:
        self._lags.append(self._learning.lag(played.stats.weights_version))
        count = self._fleet.replay.handle.insert.remote(played.chunk)
        self._inserting += played.stats.episodes
        self._env_steps_sent += played.stats.env_steps
        if played.last:
            played.seat.busy = False
        self._calls.add(
            self._fleet.replay,
            count,
            lambda count: self._inserted(played, count),
            lambda lost: self._not_inserted(played, lost),
        )

    def _inserted(self, played: _Played, count: ReplayCount) -> None:
        self._inserting -= played.stats.episodes
        self._limiter.inserted(count.episodes)
        if count.inserted >= self._newest:
            self.note_replay(count)
        self._diary.played(played.stats)
        self._on_change()

    def _not_inserted(self, played: _Played, lost: ActorLost) -> None:
        self._inserting -= played.stats.episodes
        self._env_steps_sent -= played.stats.env_steps
        if lost.name is None:
            self._progress.episodes_lost += played.stats.episodes
        else:  # the chunk itself is still there, and its worker has gone on already
            again = replace(played, last=False)
            self._waiting = deque(sorted([again, *self._waiting], key=lambda each: each.order))

    def restore_worker(self, member: Member) -> None:
        """Brings a worker back: a new process, whose streams begin anew."""
        seat = next(seat for seat in self._seats if seat.member is member)
        seat.up = False

        def started() -> None:
            for stream in seat.streams:
                self._progress.incarnations[stream] += 1
            seat.up = True
            self._on_change()

        self._calls.revive(member, started)
