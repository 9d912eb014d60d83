"""Async mode: rollout, replay, learning and evaluation overlap, held together by samples per insert. Plain: no ray.

Every worker has one chunk under way or waiting to be inserted, and the learner has one call running with the next
one queued behind it, whose batches the replay gathers meanwhile. What is inserted and sampled counts once the replay
has confirmed it. A lost actor is brought back while the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phalanx.cluster import metrics
from phalanx.cluster.calls import RETRY_S, ActorLost, Calls
from phalanx.cluster.collecting import Collecting
from phalanx.cluster.learning import Learning, Published, require_finite
from phalanx.cluster.limiter import SamplesPerInsert
from phalanx.cluster.metrics import Row
from phalanx.cluster.snapshot import read_learner, replay_folder

if TYPE_CHECKING:
    from phalanx.cluster.diary import Diary
    from phalanx.cluster.evaluation import EvaluationResult
    from phalanx.cluster.fleet import Fleet, Member, ReplayCount
    from phalanx.configs.settings import RunSettings
    from phalanx.envs.team import TeamSpec

log = logging.getLogger("phalanx.service")

SLACK_UPDATES = 8  # by which the workers may run ahead of the learner; of a queue, one
PATIENCE_S = 0.5  # longest wait for an answer, so that a request to stop is seen


@dataclass(frozen=True)
class _Evaluation:
    env_steps: int
    of: Published


class Pipeline:
    """One asynchronous run, going on from where the diary's progress says."""

    def __init__(self, run: RunSettings, spec: TeamSpec, fleet: Fleet, diary: Diary) -> None:
        self._run, self._spec, self._fleet, self.diary = run, spec, fleet, diary
        self._progress = diary.progress
        batch = run.learner.batch_episodes
        slack = 1 if run.algorithm.on_policy else SLACK_UPDATES
        self._limiter = SamplesPerInsert(run.replay, batch, slack * batch / run.replay.samples_per_insert)
        self._calls = Calls(fleet, self._actor_lost)
        self._learning = Learning(run, spec, fleet, self._calls, self._limiter, self._progress, self._advance)
        self._collecting = Collecting(run, fleet, self._calls, self._limiter, diary, self._learning, self._advance)
        self.newest_checkpoint: Path | None = None
        self._evaluation: _Evaluation | None = None
        self._evaluator_up = True
        self._halted = False

    def begin(self, checkpoint: Path | None) -> None:
        """Loads the checkpoint, if any, into the started fleet and sets everything going."""
        self.newest_checkpoint = checkpoint
        if checkpoint is not None:
            self._limiter.load_state(self._progress.limiter)
            state = read_learner(checkpoint)
            self._learning.loaded(self._fleet.value(self._fleet.learner.handle.load_state.remote(state)))
            held = replay_folder(checkpoint)
            if held is not None:
                count = self._fleet.value(self._fleet.replay.handle.load.remote(held))
                self._collecting.note_replay(count)
                self._limiter.note_replay_size(count.size)
            else:
                log.warning(
                    "%s holds no replay (checkpoint.replay=none): learning waits for new episodes", checkpoint.name
                )
                self._limiter.note_replay_size(0)
        self._collecting.begin()
        self._learning.begin()

    def period(self, stop: Callable[[], bool]) -> Row:
        """Goes on until a report is due, the run is complete or `stop` says so; the report. Checkpoints on the way
        and in the end."""
        while not (self.diary.report_due or self.finished or stop()):
            self._turn()
            if self.diary.checkpoint_due and not self.diary.complete:
                self.save()
        row = self._report()
        if self.finished and self.diary.checkpoint_due:
            self.save()
        return row

    @property
    def finished(self) -> bool:
        """All env steps are inserted, all owed updates made, and their weights evaluated."""
        settled = self._collecting.settled and self._learning.settled
        return settled and not self.diary.evaluation_due and self._evaluation is None

    def save(self) -> Path:
        """Writes a checkpoint; collecting goes on meanwhile, and learning, unless it takes episodes from a queue: each
        of them is either learned from in the checkpoint or still queued in it."""
        self._learning.held = self._limiter.queue
        try:
            path = self._save()
        finally:
            self._learning.held = False
        self._advance()  # perhaps everybody waited for the learner
        return path

    def _save(self) -> Path:
        learner = self._fleet.learner

        def ask() -> tuple[Any, Any, Any, int]:
            # One right after the other, so that no update comes between them. The learner answers in order: its state
            # has seen every batch asked for so far, and none of those asked for while the coordinator waits for it.
            state, _ = learner.handle.state.remote()
            weights, version = learner.handle.weights.remote()
            return version, state, weights, self._learning.asked_for

        version, state, weights, sampled = self._persistently(learner, lambda: self._learning.learner_up, ask)
        self.newest_checkpoint = self.diary.checkpoint(
            self._spec,
            require_finite(self._fleet.value(state)),
            self._fleet.value(weights),
            self._save_replay,
            updates=self._learning.made(self._fleet.value(version)),
            limiter={**self._limiter.state(), "sampled": sampled},
        )
        return self.newest_checkpoint

    def rescue(self) -> Path:
        """A checkpoint after a failure, while nothing goes on."""
        self._halted = True
        self._calls.forget()
        return self.save()

    def _save_replay(self, folder: Path) -> None:
        replay = self._fleet.replay
        self._persistently(replay, lambda: self._learning.replay_up, lambda: (replay.handle.save.remote(folder),))

    def _persistently(
        self, member: Member, up: Callable[[], bool], ask: Callable[[], tuple[Any, ...]]
    ) -> tuple[Any, ...]:
        """The references that `ask` gives, once the first is there. Asked again where the actor is lost meanwhile."""
        answered: list[tuple[Any, ...]] = []
        asked: list[tuple[Any, ...]] = []
        while not answered:
            if not asked and up():
                refs = ask()
                asked.append(refs)
                self._calls.add(member, refs[0], partial(self._keep, answered, refs), lambda _: asked.clear())
            self._turn()
        return answered[0]

    @staticmethod
    def _keep(kept: list[tuple[Any, ...]], refs: tuple[Any, ...], _: Any) -> None:
        kept.append(refs)

    def _turn(self) -> None:
        self._calls.turn(PATIENCE_S)
        self._advance()

    def _advance(self) -> None:
        """Does whatever can be done now."""
        if self._halted:
            return
        self._collecting.advance()
        self._learning.advance()
        self._evaluate_if_due()

    def _report(self) -> Row:
        learner: list[dict[str, float]] = []
        if self._learning.learner_up:
            ref = self._fleet.learner.handle.metrics.remote()
            self._calls.add(self._fleet.learner, ref, learner.append, lambda _: learner.append({}))
        else:
            learner.append({})
        while not learner:
            self._turn()
        service: Row = {
            metrics.REPLAY_SIZE: self._limiter.replay_size if self._limiter.queue else self._collecting.replay_size,
            metrics.SAMPLES_PER_INSERT: self._limiter.samples_per_insert(),
        }
        lag = self._collecting.lag()
        if lag is not None:
            service[metrics.POLICY_LAG] = lag
        return self.diary.report(learner[0], service)

    def _evaluate_if_due(self) -> None:
        """Has the published weights evaluated; one evaluation at a time, so a slow one delays the next."""
        published = self._learning.published
        if self._evaluation is not None or published is None or not self.diary.evaluation_due:
            return
        if self.diary.complete and not (self._collecting.settled and self._learning.settled):
            return  # the last evaluation is of the last weights
        self._evaluation = _Evaluation(self._progress.env_steps, published)
        if self._evaluator_up:
            self._evaluate(self._evaluation)

    def _evaluate(self, evaluation: _Evaluation) -> None:
        evaluator = self._fleet.evaluator

        def evaluated(result: EvaluationResult) -> None:
            self._evaluation = None
            self.diary.evaluated(evaluation.env_steps, result)

        def lost(lost: ActorLost) -> None:
            if lost.name is None:  # the evaluator is well, but the weights are gone
                self._evaluation = None
                self._learning.forget_published()

        ref = evaluator.handle.evaluate.remote(evaluation.of.weights, evaluation.of.version, self.diary.clip_due)
        self._calls.add(evaluator, ref, evaluated, lost)

    def _actor_lost(self, member: Member) -> None:
        log.warning("the %s was lost at %d env steps; bringing it back", member.name, self._progress.env_steps)
        self._progress.restarts += 1
        if member is self._fleet.learner:
            self._learning.restore_learner()
        elif member is self._fleet.replay:
            self._restore_replay()
        elif member is self._fleet.evaluator:
            self._restore_evaluator()
        else:
            self._collecting.restore_worker(member)

    def _restore_evaluator(self) -> None:
        self._evaluator_up = False

        def started() -> None:
            self._evaluator_up = True
            if self._evaluation is not None:
                self._evaluate(self._evaluation)

        self._calls.revive(self._fleet.evaluator, started)

    def _restore_replay(self) -> None:
        """A new process with what the newest checkpoint holds, otherwise empty. A queue is always empty then, because
        what the checkpoint's held was learned from since."""
        self._learning.replay_up = False
        replay = self._fleet.replay

        def started() -> None:
            newest = None if self._limiter.queue else self.newest_checkpoint
            saved = None if newest is None else replay_folder(newest)
            ask = replay.handle.count.remote() if saved is None else replay.handle.load.remote(saved)
            self._calls.add(replay, ask, loaded, not_loaded)

        def not_loaded(lost: ActorLost) -> None:
            if lost.name is None:  # nobody is said to be lost, so nobody would be brought back
                self._calls.later(RETRY_S, started)

        def loaded(count: ReplayCount) -> None:
            held = self._limiter.replay_size if self._limiter.queue else self._collecting.replay_size
            self._progress.episodes_lost += max(0, held - count.size)
            self._collecting.note_replay(count)
            self._limiter.note_replay_size(count.size)
            self._learning.replay_up = True
            self._advance()

        self._calls.revive(replay, started)
