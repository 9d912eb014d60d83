"""What the serial loop and the Ray service write down alike: counters, reports, evaluations, checkpoints. Plain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy.typing as npt

from phalanx.cluster import metrics
from phalanx.cluster.checkpoint import newest_intact, save_checkpoint
from phalanx.cluster.chunk import ChunkStats
from phalanx.cluster.evaluation import EvaluationResult
from phalanx.cluster.metrics import RolloutMeter, Row
from phalanx.cluster.progress import Progress, due, epsilon_at
from phalanx.cluster.run_folder import RunFolder
from phalanx.cluster.signatures import Watch
from phalanx.cluster.sinks import Sinks, open_sinks, read_rows
from phalanx.cluster.snapshot import Snapshot, read_progress, require_same_run
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import TeamSpec

log = logging.getLogger("phalanx.report")


class Diary:
    """The run folder's author. Knows what is due, and in which order things at one moment are written:
    evaluation, report, checkpoint; so that a checkpoint holds everything that was written before it.
    """

    def __init__(
        self,
        run: RunSettings,
        folder: RunFolder,
        progress: Progress | None = None,
        on_report: Callable[[Row], None] | None = None,
    ) -> None:
        """A new run, or with `progress` (from `resume_point`) one that goes on."""
        self.run = run
        self.folder = folder
        resumed = progress is not None
        self.progress = progress or Progress(
            sequences=[0] * run.rollout.streams, incarnations=[0] * run.rollout.streams
        )
        self._on_report = on_report
        self._sinks: Sinks = open_sinks(run, folder.path, resume=resumed)
        self._watch = Watch(run).catch_up(read_rows(folder.path) if resumed else ())
        self._meter = RolloutMeter()
        self._began = monotonic() - self.progress.wall_s
        self._reported_s = monotonic()
        self._reported_updates = self.progress.updates
        self._new_evaluation: Row = {}

    @property
    def epsilon(self) -> float:
        """Exploration now. On-policy methods draw from their policies, whatever the settings of exploration."""
        return 1.0 if self.run.algorithm.on_policy else epsilon_at(self.run.exploration, self.progress.env_steps)

    @property
    def complete(self) -> bool:
        """Whether all env steps were made."""
        return self.progress.env_steps >= self.run.total_env_steps

    @property
    def evaluation_due(self) -> bool:
        """At env step 0, every `evaluation.every_env_steps`, and in the end."""
        every, progress = self.run.evaluation.every_env_steps, self.progress
        if self.complete and progress.evaluated_at < progress.env_steps:
            return True
        return due(every, progress.evaluated_at, progress.env_steps)

    @property
    def clip_due(self) -> bool:
        """Whether the evaluation that is due is filmed: one in `sinks.clip_every_evaluations`, and the last."""
        every = self.run.sinks.clip_every_evaluations
        return every is not None and (self.complete or self.progress.evaluations % every == 0)

    @property
    def checkpoint_due(self) -> bool:
        """Every `checkpoint.every_env_steps`, and in the end."""
        every, progress = self.run.checkpoint.every_env_steps, self.progress
        if self.complete and progress.checkpointed_at < progress.env_steps:
            return True
        return due(every, progress.checkpointed_at, progress.env_steps)

    @property
    def report_due(self) -> bool:
        """Sync: every `report.every_env_steps`; async: every `report.every_s`; with each evaluation, so that none is
        missing in metrics.jsonl; and in the end."""
        progress = self.progress
        if self._new_evaluation or (self.complete and progress.reported_at < progress.env_steps):
            return True
        if self.run.mode == "sync":
            return due(self.run.report.every_env_steps, progress.reported_at, progress.env_steps)
        return monotonic() - self._reported_s >= self.run.report.every_s

    def played(self, chunk: ChunkStats) -> None:
        """Counts a chunk whose episodes were inserted."""
        progress = self.progress
        progress.env_steps += chunk.env_steps
        progress.episodes += chunk.episodes
        progress.sequences[chunk.stream] = max(progress.sequences[chunk.stream], chunk.sequence + 1)
        self._meter.add(chunk)

    def evaluated(self, env_steps: int, result: EvaluationResult) -> Row:
        """Writes an evaluation of the weights of `env_steps` into evaluations.json; the next report carries it."""
        progress = self.progress
        self.folder.record_evaluation(self.run, env_steps, result)
        row = result.as_metrics()
        progress.evaluations += 1
        progress.evaluated_at = env_steps
        progress.final = {metrics.ENV_STEPS: env_steps, **row}
        if not progress.best or row[metrics.EVAL_RETURN] > progress.best[metrics.EVAL_RETURN]:
            progress.best = dict(progress.final)
        self._new_evaluation = {metrics.EVAL_ENV_STEPS: env_steps, **row}
        if result.clip is not None:
            self._sinks.write_clip(env_steps, result.clip)
        elif result.no_clip:
            log.warning("no clip of the evaluation after %d env steps: %s", env_steps, result.no_clip)
        return row

    def report(self, *parts: Mapping[str, float | int]) -> Row:
        """Writes a row to all sinks: the rollout since the last one, the newest evaluation where it is new, and the
        `parts` (the learner's metrics, the replay's size, …). A failure signature that begins is logged."""
        progress = self.progress
        now = monotonic()
        self._mark_time()
        seconds = max(now - self._reported_s, 1e-9)
        row = metrics.report_row(
            progress.env_steps,
            progress.updates,
            progress.episodes,
            progress.wall_s,
            self._meter.row(),
            {
                **({} if self.run.algorithm.on_policy else {metrics.ROLLOUT_EPSILON: self.epsilon}),
                metrics.UPDATE_SPEED: (progress.updates - self._reported_updates) / seconds,
                metrics.RESTARTS: progress.restarts,
                metrics.EPISODES_LOST: progress.episodes_lost,
            },
            self._new_evaluation,
            *parts,
        )
        self._new_evaluation = {}
        self._reported_s, self._reported_updates = now, progress.updates
        progress.reported_at = progress.env_steps
        warnings, begun = self._watch.look(row)
        row.update(warnings)
        for sentence in begun:
            log.warning("after %d updates: %s", progress.updates, sentence)
        self._sinks.write(row)
        if self._on_report is not None:
            self._on_report(row)
        return row

    def checkpoint(
        self,
        spec: TeamSpec,
        learner: dict[str, Any],
        weights: Mapping[str, npt.NDArray[Any]],
        save_replay: Callable[[Path], object],
        **cut: Any,
    ) -> Path:
        """Writes a checkpoint of now: `learner` is Learner.state(), `weights` the policy's, `save_replay(folder)`
        writes the replay (called where the settings want it kept); `cut` are counters as they were for `learner`,
        where the run has gone on since."""
        self._mark_time()
        progress = self.progress
        before, progress.checkpointed_at = progress.checkpointed_at, progress.env_steps
        snapshot = Snapshot(self.run, spec, replace(progress, **cut), learner, weights)
        try:
            return save_checkpoint(
                self.folder.checkpoints,
                progress.env_steps,
                lambda folder: snapshot.write(folder, save_replay),
                snapshot.manifest(),
                self.run.checkpoint.keep,
            )
        except BaseException:
            progress.checkpointed_at = before
            raise

    def close(self, exit_reason: str) -> dict[str, Any]:
        """Closes the sinks and writes summary.json, which it returns."""
        self._mark_time()
        self._sinks.close()
        return self.folder.write_summary(self.progress, exit_reason)

    def _mark_time(self) -> None:
        self.progress.wall_s = monotonic() - self._began


def resume_point(run: RunSettings, folder: RunFolder) -> tuple[Path, Progress, list[str]]:
    """The newest intact checkpoint, its progress, and a sentence for each newer one that is damaged; metrics and
    evaluations beyond it are cut off. UserError where there is none or it is of other settings."""
    found = newest_intact(folder.checkpoints)
    require_same_run(run, found.path, found.manifest)
    progress = read_progress(found.path)
    folder.truncate_to(run, progress)
    return found.path, progress, found.problems
