"""Searches: Ray Tune runs the same coordinator once for each point, and ASHA gives up on those that lag behind."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from phalanx.cluster.metrics import ENV_STEPS
from phalanx.cluster.placement import require_placeable
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.cluster.service import FAILURE, Coordinator, connect, nodes
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.search import Point, asha_env_steps, base_run, trial_points, trial_run
from phalanx.configs.search_settings import SearchSettings
from phalanx.configs.settings import RunSettings

log = logging.getLogger("phalanx.tuning")

SAY_EVERY_S = 10.0  # of one trial
MOST_FAILURES = 3  # of one trial
TRIALS = "trials"  # folder of the trials' run folders
TUNE = "tune"  # folder of what Tune keeps


@dataclass(frozen=True)
class Trial:
    """One point of a search and how far it came."""

    point: Point
    folder: Path  # its run folder
    score: float  # the search's metric at the end; NaN where the trial broke
    metrics: dict[str, Any]  # its last result
    error: str | None = None

    @property
    def env_steps(self) -> int:
        """How far it was trained."""
        return int(self.metrics.get(ENV_STEPS, 0))


def run_search(search: SearchSettings, out: Path, *, resume: bool = False) -> list[Trial]:
    """Runs the search in the folder `out`, or with `resume` goes on with the one that is there; trials, best first.

    UserError where the folder is occupied (or holds no search to go on with), or a trial could never be placed.
    RunFailed where every trial broke.
    """
    base = base_run(search, catalogue=CATALOGUE)
    if search.asha.max_env_steps is not None:
        base = base.model_copy(update={"total_env_steps": min(base.total_env_steps, search.asha.max_env_steps)})
    points = trial_points(search, base)
    _require_folder(out, resume)
    # A trial's process stays in the folder where the command was given: relative paths in settings mean that one.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # The last result of a trial that broke has no metric; a metric that no trial has is refused below.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    ours = connect(base.cluster)
    try:
        for point in points:
            require_placeable(trial_run(base, point, catalogue=CATALOGUE), nodes(), in_group=True)
        tuner = _restored(out) if resume else _new(search, base, points, out)
        results: Any = tuner.fit()
    finally:
        if ours:
            ray.shutdown()
    trials = [_trial(search.metric, result) for result in results]
    if all(trial.error for trial in trials):
        raise RunFailed(f"all {len(trials)} trials broke; the first: {trials[0].error}")
    missing = [trial for trial in trials if not trial.error and math.isnan(trial.score)]
    if len(missing) == len(trials):
        known = ", ".join(sorted(key for key in missing[0].metrics if key.startswith("eval/")))
        raise UserError(f"metric={search.metric} is not among what the trials report ({known})")
    sign = -1 if search.mode == "max" else 1
    return sorted(trials, key=lambda trial: (math.isnan(trial.score), sign * trial.score))


def _new(search: SearchSettings, base: RunSettings, points: Sequence[Point], out: Path) -> tune.Tuner:
    folder = out.resolve()
    trials = [
        {"point": point, "folder": str(folder / TRIALS / f"{number:03d}"), "number": number}
        for number, point in enumerate(points)
    ]
    return tune.Tuner(
        Coordinator,
        param_space={"run": base.model_dump(mode="json"), "trial": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=search.mode,
            scheduler=_scheduler(search, base),
            max_concurrent_trials=search.max_concurrent,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=MOST_FAILURES),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            callbacks=[_Announcer(search.metric, len(points))],
            verbose=0,
        ),
    )


def _scheduler(search: SearchSettings, base: RunSettings) -> TrialScheduler:
    """ASHA with rungs below `longest`: a trial that came so far ends by itself, after its last evaluation."""
    grace, longest = asha_env_steps(search, base)
    if grace >= longest:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return ASHAScheduler(
        time_attr=ENV_STEPS,
        max_t=longest - 1,
        grace_period=grace,
        reduction_factor=search.asha.reduction_factor,
        stop_last_trials=False,
    )


class _Announcer(tune.Callback):
    """Says in the log how the trials come along."""

    def __init__(self, metric: str, trials: int) -> None:
        self._metric = metric
        self._trials = trials
        self._said_at: dict[str, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        point = trial.config["trial"]["point"]
        log.info("%s of %d: %s", trial, self._trials, ", ".join(f"{key}={value}" for key, value in point.items()))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        now = monotonic()
        if now - self._said_at.get(str(trial), 0.0) >= SAY_EVERY_S:
            self._said_at[str(trial)] = now
            log.info("%s: %s", trial, self._standing(result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        log.info("%s ends: %s", trial, self._standing(trial.last_result))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        log.warning("%s broke; what it said is in %s", trial, trial.local_path)

    def _standing(self, result: Mapping[str, Any]) -> str:
        return f"{result.get(ENV_STEPS, 0):,} env steps, {self._metric} {result.get(self._metric, math.nan):.4g}"


def _restored(out: Path) -> tune.Tuner:
    return tune.Tuner.restore(str(out.resolve() / TUNE), Coordinator, resume_errored=True)


def _require_folder(out: Path, resume: bool) -> None:
    if resume:
        if not tune.Tuner.can_restore(str(out.resolve() / TUNE)):
            raise UserError(f"{out} holds no search that could be gone on with: give the folder of one, or start anew")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} is there already, and nothing is overwritten: choose another --out, or go on with --resume {out}"
        )


def _name(trial: Any) -> str:
    return f"trial_{trial.config['trial']['number']:03d}"


def _trial(metric: str, result: Any) -> Trial:
    config = result.config["trial"]
    metrics = dict(result.metrics or {})
    error = metrics.get(FAILURE)
    if error is None and result.error:
        error = (str(result.error).strip().splitlines() or ["unknown"])[-1]
    score = math.nan if error else float(metrics.get(metric, math.nan))
    return Trial(config["point"], Path(config["folder"]), score, metrics, error)
