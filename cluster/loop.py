"""The reference of sync mode: everything in one process, in order. What the Ray service must equal bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from phalanx.algorithms.common.batch import EpisodeErrors, PrioritisedBatch
from phalanx.cluster import metrics
from phalanx.cluster.diary import Diary, resume_point
from phalanx.cluster.evaluation import Evaluator
from phalanx.cluster.learner import Learner, use_threads
from phalanx.cluster.limiter import SamplesPerInsert
from phalanx.cluster.metrics import Row
from phalanx.cluster.policy import load_policy
from phalanx.cluster.progress import Progress
from phalanx.cluster.replay import Replay
from phalanx.cluster.rollout import Rollout
from phalanx.cluster.run_folder import RunFolder
from phalanx.cluster.snapshot import read_learner, replay_folder
from phalanx.configs.settings import RunSettings

log = logging.getLogger("phalanx.loop")


class SerialLoop:
    """Rollout, replay, learner and evaluator in rounds, writing the same run folder as the service.

    A round: every stream plays one episode of each of its environments with the same weights and epsilon; their
    chunks are inserted in the order of the streams; all owed updates are made; then evaluation, report and checkpoint
    where they are due. The run is complete when its env steps are made, which is seen between rounds.
    """

    def __init__(
        self, run: RunSettings, out: Path, *, resume: bool = False, on_report: Callable[[Row], None] | None = None
    ) -> None:
        """A new run in the folder `out`, or with `resume` the one that is there (as `run` says) from its newest
        intact checkpoint. UserError where the folder is occupied or holds nothing to go on from."""
        use_threads(1)
        self.run = run
        if resume:
            folder = RunFolder.open(out)
            checkpoint, progress, problems = resume_point(run, folder)
            for problem in problems:
                log.warning("%s; going on from %s", problem, checkpoint.name)
        else:
            folder, checkpoint, progress = RunFolder.create(out, run), None, None
        self.rollout = Rollout(run, range(run.rollout.streams), load_policy)
        spec = self.rollout.spec
        self.evaluator = Evaluator(run, load_policy)
        self.replay = Replay(spec, run.replay, run.seed, run.least_capacity)
        self.learner = Learner(run, spec)
        self.limiter = SamplesPerInsert(run.replay, run.learner.batch_episodes, rounds=True)
        if checkpoint is not None and progress is not None:
            self._restore(checkpoint, progress)
        else:
            folder.write_metadata(run, spec)
        self.diary = Diary(run, folder, progress, on_report)
        self._share_weights()

    @property
    def progress(self) -> Progress:
        return self.diary.progress

    def train(self) -> dict[str, Any]:
        """Rounds until the end; the summary."""
        self._write_what_is_due()
        while not self.diary.complete:
            self.round()
        return self.diary.close("completed")

    def round(self) -> None:
        """One round, and what is due after it."""
        epsilon = self.diary.epsilon
        chunks = [
            self.rollout.play_round(stream, self.progress.sequences[stream], epsilon)
            for stream in range(self.run.rollout.streams)
        ]
        for chunk in chunks:
            self.limiter.inserted(self.replay.insert(chunk))
            self.diary.played(chunk)
        self._learn()
        self._share_weights()
        self._write_what_is_due()

    def close(self) -> None:
        """Closes the environments."""
        self.rollout.close()
        self.evaluator.close()

    def _learn(self) -> None:
        """All owed updates, one batch at a time: the batches of a round need not fit into memory together. What they
        tell of priorities counts from the next round on."""
        batch = self.limiter.batch_episodes
        told: list[EpisodeErrors] = []
        for _ in range(self.limiter.may_sample()):
            batches = self.replay.sample(batch)
            if self.run.replay.sampling == "prioritised":
                self.progress.updates, errors = self.learner.update_prioritised(cast("list[PrioritisedBatch]", batches))
                told.append(errors)
            else:
                self.progress.updates = self.learner.update(batches)
            self.limiter.sampled(batch)
        for errors in told:
            self.replay.update_priorities(errors)

    def _share_weights(self) -> None:
        self._weights, version = self.learner.weights()
        self.rollout.set_weights(self._weights, version)
        self.evaluator.set_weights(self._weights, version)

    def _write_what_is_due(self) -> None:
        diary = self.diary
        if diary.evaluation_due:
            diary.evaluated(self.progress.env_steps, self.evaluator.evaluate(film=diary.clip_due))
        if diary.report_due:
            diary.report(
                self.learner.metrics(),
                {
                    metrics.REPLAY_SIZE: self.replay.size,
                    metrics.SAMPLES_PER_INSERT: self.limiter.samples_per_insert(),
                    metrics.POLICY_LAG: 0.0,
                },
            )
        if diary.checkpoint_due:
            self.progress.limiter = self.limiter.state()
            diary.checkpoint(self.rollout.spec, self.learner.state(), self._weights, self.replay.save)

    def _restore(self, checkpoint: Path, progress: Progress) -> None:
        self.learner.load_state(read_learner(checkpoint))
        self.limiter.load_state(progress.limiter)
        saved = replay_folder(checkpoint)
        if saved is not None:
            self.replay.load(saved)
        else:
            log.warning("%s holds no replay (checkpoint.replay=none): learning waits for new episodes", checkpoint.name)
            self.limiter.note_replay_size(0)


def train_serially(
    run: RunSettings, out: Path, resume: bool = False, on_report: Callable[[Row], None] | None = None
) -> dict[str, Any]:
    """A whole run in this process; the summary."""
    loop = SerialLoop(run, out, resume=resume, on_report=on_report)
    try:
        return loop.train()
    finally:
        loop.close()
