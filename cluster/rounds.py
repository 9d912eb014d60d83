"""Sync mode: the rounds of `SerialLoop`, played by many workers, equal to it bit for bit. Plain: no ray.

A round's chunks depend on the seed, the weights and epsilon alone, so which worker plays a stream does not matter,
and a lost worker's part of a round is simply played again. Evaluation runs beside the next round. A lost learner or
replay cannot go on in the middle: `Rewind` asks for the newest checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phalanx.cluster import metrics
from phalanx.cluster.calls import ActorLost, Calls
from phalanx.cluster.chunk import ChunkStats
from phalanx.cluster.learning import ask_for_updates, require_finite, updates_per_call
from phalanx.cluster.limiter import SamplesPerInsert
from phalanx.cluster.metrics import Row
from phalanx.cluster.progress import due
from phalanx.cluster.snapshot import read_learner, replay_folder

if TYPE_CHECKING:
    from phalanx.cluster.diary import Diary
    from phalanx.cluster.evaluation import EvaluationResult
    from phalanx.cluster.fleet import Fleet, Member, ReplayCount
    from phalanx.configs.settings import RunSettings
    from phalanx.envs.team import TeamSpec

log = logging.getLogger("phalanx.service")

MOST_UPDATES = 16  # in one call of the learner
PATIENCE_S = 5.0


class Rewind(Exception):
    """The learner or the replay was lost: only a checkpoint (or the beginning) continues exactly."""


class Rounds:
    """One synchronous run, going on from where the diary's progress says."""

    def __init__(self, run: RunSettings, spec: TeamSpec, fleet: Fleet, diary: Diary) -> None:
        self._run, self._spec, self._fleet, self.diary = run, spec, fleet, diary
        self._progress = diary.progress
        self._limiter = SamplesPerInsert(run.replay, run.learner.batch_episodes, rounds=True)
        self._calls = Calls(fleet, self._actor_lost)
        self._most_updates = min(MOST_UPDATES, updates_per_call(run, spec))
        self._weights: Any = None  # a reference
        self._version = 0
        self._replay_size = 0
        self._chunks: dict[int, tuple[Any, ChunkStats]] = {}  # of this round, by stream
        self._playing = False
        self._evaluation: tuple[int, Any, int] | None = None  # env steps, weights, version
        self._due_at_begin = True
        self.newest_checkpoint: Path | None = None

    def begin(self, checkpoint: Path | None) -> None:
        """Loads the checkpoint, if any, into the started fleet; otherwise writes what is due before the first round."""
        self.newest_checkpoint = checkpoint
        if checkpoint is not None:
            self._limiter.load_state(self._progress.limiter)
            self._ask(self._fleet.learner, self._fleet.learner.handle.load_state.remote(read_learner(checkpoint)))
            held = replay_folder(checkpoint)
            if held is not None:
                count: ReplayCount = self._ask(self._fleet.replay, self._fleet.replay.handle.load.remote(held))
                self._replay_size = count.size
            else:
                log.warning("%s holds no replay (checkpoint.replay=none): learning waits for episodes", checkpoint.name)
                self._limiter.note_replay_size(0)
        self._fetch_weights()

    def period(self, stop: Callable[[], bool]) -> Row | None:
        """Rounds until a report is written or `stop` says so (None without a report)."""
        row = None
        if self._due_at_begin:
            self._due_at_begin = False
            row = self._write_what_is_due()
        while row is None and not self.finished and not stop():
            self._round()
            row = self._write_what_is_due()
        return row

    @property
    def finished(self) -> bool:
        return self.diary.complete

    def save(self) -> Path:
        """Writes a checkpoint; the evaluation under way is waited for, so that the checkpoint knows it."""
        self._await_evaluation()
        learner, replay = self._fleet.learner, self._fleet.replay
        state, updates = learner.handle.state.remote()
        self._ask(learner, updates)
        self._progress.limiter = self._limiter.state()
        self.newest_checkpoint = self.diary.checkpoint(
            self._spec,
            require_finite(self._fleet.value(state)),
            self._fleet.value(self._weights),
            lambda folder: self._ask(replay, replay.handle.save.remote(folder)),
        )
        return self.newest_checkpoint

    def rescue(self) -> Path:
        """A checkpoint after a failure in the middle of a round; what is left of the round is lost."""
        self._calls.forget()
        self._evaluation = None
        return self.save()

    def _round(self) -> None:
        self._play()
        stats = [self._chunks[stream][1] for stream in sorted(self._chunks)]
        chunks = [self._chunks[stream][0] for stream in sorted(self._chunks)]
        replay = self._fleet.replay
        count: ReplayCount = self._ask(replay, replay.handle.insert.remote(*chunks))
        self._chunks.clear()
        self._limiter.inserted(count.episodes)
        self._replay_size = count.size
        for each in stats:
            self.diary.played(each)
        self._learn()

    def _play(self) -> None:
        self._playing = True
        for member, streams in zip(self._fleet.workers, self._fleet.hosting, strict=True):
            self._play_streams(member, streams)
        while len(self._chunks) < self._run.rollout.streams:
            self._calls.turn(PATIENCE_S)
        self._playing = False

    def _play_streams(self, member: Member, streams: list[int]) -> None:
        """Has the worker take the round's weights and play those streams whose chunk is not there yet."""
        taken = member.handle.set_weights.remote(self._weights, self._version)
        self._calls.add(member, taken, lambda _: None, self._rewind_for_objects)
        for stream in streams:
            if stream not in self._chunks:
                chunk, stats = member.handle.play_round.remote(
                    stream, self._progress.sequences[stream], self.diary.epsilon
                )
                self._calls.add(member, stats, self._keeper(stream, chunk), self._rewind_for_objects)

    def _keeper(self, stream: int, chunk: Any) -> Callable[[ChunkStats], None]:
        def keep(stats: ChunkStats) -> None:
            self._chunks[stream] = (chunk, stats)

        return keep

    def _learn(self) -> None:
        """All owed updates; the batches of the next call are gathered while the learner works on the last one's. What
        they tell of priorities counts from the next round on, so that it does not matter how calls are cut."""
        owed = self._limiter.may_sample()
        batch, learner, replay = self._limiter.batch_episodes, self._fleet.learner, self._fleet.replay
        asked: list[Any] = []
        told: list[Any] = []  # references
        while owed or asked:
            while owed and len(asked) < 2:
                count = min(owed, self._most_updates)
                owed -= count
                batches, _ = replay.handle.sample.remote(batch, count)
                updates, errors = ask_for_updates(self._run, learner, batches)
                asked.append((count, updates))
                if errors is not None:
                    told.append(errors)
            count, updates = asked.pop(0)
            self._progress.updates = self._ask(learner, updates, needs=[replay])
            self._limiter.sampled(count * batch)
        if self._limiter.queue:
            self._replay_size = self._limiter.replay_size
        if told:
            self._ask(replay, replay.handle.update_priorities.remote(*told), needs=[learner])
        self._fetch_weights()

    def _fetch_weights(self) -> None:
        weights, version = self._fleet.learner.handle.weights.remote()
        self._version = self._ask(self._fleet.learner, version)
        self._weights = weights

    def _write_what_is_due(self) -> Row | None:
        diary, row = self.diary, None
        self._evaluate_if_due()
        if diary.complete:
            self._await_evaluation()
        if diary.report_due:
            learner = self._fleet.learner
            service = {
                metrics.REPLAY_SIZE: self._replay_size,
                metrics.SAMPLES_PER_INSERT: self._limiter.samples_per_insert(),
                metrics.POLICY_LAG: 0.0,
            }
            row = diary.report(self._ask(learner, learner.handle.metrics.remote()), service)
        if diary.checkpoint_due:
            self.save()
        return row

    def _evaluate_if_due(self) -> None:
        """Begins an evaluation of this round's weights. It is recorded when it is there, at the latest when the next
        one is due, so that they are written in order."""
        if self._evaluation is not None:
            every, asked_at = self._run.evaluation.every_env_steps, self._evaluation[0]
            if not (self.diary.complete or due(every, asked_at, self._progress.env_steps)):
                return
            self._await_evaluation()
        if self.diary.evaluation_due:
            self._evaluation = (self._progress.env_steps, self._weights, self._version)
            self._evaluate()

    def _evaluate(self) -> None:
        assert self._evaluation is not None
        env_steps, weights, version = self._evaluation

        def evaluated(result: EvaluationResult) -> None:
            self._evaluation = None
            self.diary.evaluated(env_steps, result)

        evaluator = self._fleet.evaluator
        ref = evaluator.handle.evaluate.remote(weights, version, self.diary.clip_due)
        self._calls.add(evaluator, ref, evaluated, self._rewind_for_objects)

    def _await_evaluation(self) -> None:
        while self._evaluation is not None:
            self._calls.turn(PATIENCE_S)

    def _ask(self, member: Member, ref: Any, *, needs: list[Member] | None = None) -> Any:
        """The answer, waiting for it. Rewind where the learner or the replay is lost meanwhile."""
        answers: list[Any] = []
        self._calls.add(member, ref, answers.append, self._must_rewind, needs=needs or [])
        while not answers:
            self._calls.turn(PATIENCE_S)
        return answers[0]

    def _must_rewind(self, lost: ActorLost) -> None:
        self._progress.restarts += lost.name is not None
        raise Rewind(f"{lost} at {self._progress.env_steps} env steps")

    def _rewind_for_objects(self, lost: ActorLost) -> None:
        """Weights were lost with their node. (A lost worker or evaluator is brought back and asked again.)"""
        if lost.name is None:
            self._must_rewind(lost)

    def _actor_lost(self, member: Member) -> None:
        if member in (self._fleet.learner, self._fleet.replay):
            return  # the call that was lost with it has asked for the rewind
        log.warning("the %s was lost at %d env steps; bringing it back", member.name, self._progress.env_steps)
        self._progress.restarts += 1
        if member is self._fleet.evaluator:
            self._calls.revive(member, lambda: self._evaluate() if self._evaluation is not None else None)
        else:
            self._calls.revive(member, lambda: self._worker_back(member))

    def _worker_back(self, member: Member) -> None:
        if self._playing:
            self._play_streams(member, self._fleet.hosting[self._fleet.workers.index(member)])
