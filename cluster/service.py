"""The coordinator: one run on Ray, the same object for `phalanx train`, Tune and `ray job`."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RaySystemError
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from phalanx.cluster import metrics
from phalanx.cluster.actors import RayFleet
from phalanx.cluster.calls import Calls
from phalanx.cluster.diary import Diary, resume_point
from phalanx.cluster.fleet import Member
from phalanx.cluster.metrics import Row
from phalanx.cluster.pipeline import Pipeline
from phalanx.cluster.placement import bundles, require_placeable
from phalanx.cluster.progress import Progress
from phalanx.cluster.rounds import Rewind, Rounds
from phalanx.cluster.run_folder import CATALOGUE, RunFolder
from phalanx.cluster.snapshot import read_progress
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.load import run_from_dict
from phalanx.configs.search import trial_run
from phalanx.configs.settings import ClusterSettings, RunSettings

log = logging.getLogger("phalanx.service")

OBJECT_STORE_BYTES = 768 * 2**20  # of a Ray that we start: chunks, batches and weights pass through, none stays
MOST_REWINDS = 5  # to the same checkpoint
FAILURE = "failure"  # in a trial's last result: why the run broke
IN_TUNE = "phalanx"  # folder of our checkpoint within Tune's


def connect(settings: ClusterSettings) -> bool:
    """Joins the cluster that is configured, or starts Ray on this machine; whether `ray.shutdown` is ours to call.
    UserError where the cluster does not answer."""
    # A lost call is handled where its first answer is awaited; Ray would report each of its other answers again.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if ray.is_initialized():
        return False
    address = settings.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        return True
    origin = f"cluster.address={address}" if settings.address else f"RAY_ADDRESS={address}"
    if address.startswith("ray://"):
        raise UserError(
            f"{origin}: the coordinator has to run inside the cluster; use `ray job submit -- phalanx train …`, or"
            " give host:port of the head and run this on one of the cluster's nodes"
        )
    try:
        _require_listener(address)
        ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError, RaySystemError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{origin}: no Ray cluster could be joined ({reason}); start one with `ray start --head`, or set"
            " cluster.address=null and unset RAY_ADDRESS to use Ray on this machine alone"
        ) from error
    return True


def _require_listener(address: str) -> None:
    """OSError where nobody listens at host:port: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()


def nodes() -> list[dict[str, float]]:
    """All resources of each node that is there."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def run_of(config: Mapping[str, Any]) -> RunSettings:
    """The run that a coordinator's configuration stands for: `run`, in a trial varied by its `point`."""
    run = run_from_dict(config["run"], catalogue=CATALOGUE)
    return trial_run(run, config["trial"]["point"], catalogue=CATALOGUE) if "trial" in config else run


class Coordinator(tune.Trainable):
    """One run. Owns the actors and every object reference, and never fetches an episode.

    config: `run` (a resolved run as a dict), `folder` (the run folder) and `resume` (whether to go on from its newest
    intact checkpoint); or from a search `run` and `trial` (a dict of `point`, the values that vary the run, and
    `folder`). `step` is one report period.
    """

    stop_asked: Callable[[], bool] = staticmethod(lambda: False)
    """Asked often while a step runs: True ends the step early."""

    def setup(self, config: dict[str, Any]) -> None:
        self.run = run_of(config)
        trial: Mapping[str, Any] | None = config.get("trial")
        # Absolute, because actors that write into it work in other folders.
        self.folder = RunFolder(Path(trial["folder"] if trial else config["folder"]).absolute())
        self._inside_tune = trial is not None
        self._engine: Pipeline | Rounds | None = None
        self._start_from: tuple[Path, Progress] | None = None
        self._known_checkpoint: Path | None = None
        self._closed = False
        self._rewinds: Counter[int] = Counter()
        if config.get("resume") or (trial is not None and self.folder.config.exists()):
            self._go_back()  # resumed, or Tune tries a trial again that broke
        if not self._inside_tune:
            require_placeable(self.run, nodes())
        self.fleet = RayFleet(self.run)
        try:
            self._spec = self.fleet.start()
            if not self.folder.config.exists():
                self.folder = RunFolder.create(self.folder.path, self.run)
            if self._start_from is None:
                self.folder.write_metadata(self.run, self._spec)
        except BaseException:
            self.fleet.close()
            raise

    @property
    def finished(self) -> bool:
        return self._engine is not None and self._engine.finished

    @property
    def progress(self) -> Progress:
        return self._begun().diary.progress

    def step(self) -> dict[str, Any]:
        """Goes on until the next report, which it returns."""
        return self._trial_step() if self._inside_tune else dict(self._period())

    def _period(self) -> Row:
        while True:
            try:
                return self._begun().period(self.stop_asked) or {}
            except Rewind as lost:
                self._rewind(lost)

    def _trial_step(self) -> dict[str, Any]:
        """A result for a search: it has the newest evaluation, which schedulers decide by, so the first one waits for
        the first evaluation. A run that breaks ends with its sentence as `failure`: trying again would not help."""
        while True:
            # Also where the run finished while Tune's checkpoint was written: the last period has its last result.
            try:
                row = self._period()
            except RunFailed as failure:
                self.fail(str(failure))
                return {metrics.ENV_STEPS: self.progress.env_steps, FAILURE: str(failure), DONE: True}
            row = {**{key: value for key, value in self.progress.final.items() if key.startswith("eval/")}, **row}
            if self.finished or any(key.startswith("eval/") for key in row):
                break
        return {**row, DONE: self.finished, SHOULD_CHECKPOINT: self._has_new_checkpoint()}

    def checkpoint(self) -> Path:
        """Writes a checkpoint into the run folder."""
        while True:
            try:
                return self._begun().save()
            except Rewind as lost:
                self._rewind(lost)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Links the files of a checkpoint in the run folder into Tune's; the newest one where it is of now."""
        newest = self._begun().newest_checkpoint
        of_now = self.progress.checkpointed_at == self.progress.env_steps
        path = newest if newest is not None and of_now else self.checkpoint()
        shutil.copytree(path, Path(checkpoint_dir) / IN_TUNE, copy_function=_link)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Goes on from what `save_checkpoint` wrote, here or on another node."""
        path = Path(checkpoint) / IN_TUNE
        progress = read_progress(path)
        self.folder.truncate_to(self.run, progress)
        if self._engine is not None:
            self._engine.diary.close("went back to a checkpoint")
            self._engine = None
        self._start_from = path, progress

    def fail(self, reason: str) -> None:
        """After a failure: a checkpoint of what was sound before it, and the summary."""
        if self._engine is None:
            return
        try:
            self._engine.rescue()
        except (RunFailed, UserError, Rewind) as error:
            log.warning("no checkpoint could be written after the failure: %s", error)
        self.close(reason)

    def close(self, exit_reason: str) -> dict[str, Any]:
        """Writes the summary, which it returns."""
        self._closed = True
        return self._begun().diary.close(exit_reason)

    def cleanup(self) -> None:
        """Ends the actors. In a search this is also where a trial that was given up ends."""
        if self._engine is not None and self._inside_tune and not self._closed:
            self.close("completed" if self.finished else "stopped")
        self.fleet.close()

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory(bundles(run_of(config)))

    def _setup_logdir(self) -> None:
        # Without Tune there is no trial folder, and none may be made in the home directory instead.
        if self._storage is not None:
            super()._setup_logdir()  # type: ignore[no-untyped-call]
        else:
            self._logdir = self.config.get("folder")

    def _begun(self) -> Pipeline | Rounds:
        """The engine, which begins when it is first needed: Tune restores a trial between `setup` and `step`."""
        if self._engine is None:
            checkpoint, progress = self._start_from or (None, None)
            engine = Rounds if self.run.mode == "sync" else Pipeline
            self._engine = engine(self.run, self._spec, self.fleet, Diary(self.run, self.folder, progress))
            self._engine.begin(checkpoint)
        return self._engine

    def _has_new_checkpoint(self) -> bool:
        """Whether one was written since the last call."""
        newest = self._begun().newest_checkpoint
        before, self._known_checkpoint = self._known_checkpoint, newest
        return newest != before

    def _newest_checkpoint(self) -> tuple[Path, Progress]:
        checkpoint, progress, problems = resume_point(self.run, self.folder)
        for problem in problems:
            log.warning("%s; going on from %s", problem, checkpoint.name)
        return checkpoint, progress

    def _rewind(self, lost: Rewind) -> None:
        """Sync mode goes back to the newest checkpoint, or to the beginning, so that the run stays exact."""
        before = self.progress
        self._engine.diary.close("went back")  # type: ignore[union-attr]  # `progress` has begun it
        self._engine = None
        self._go_back()
        self._rewinds[self._start_from[1].env_steps if self._start_from else 0] += 1
        if max(self._rewinds.values()) > MOST_REWINDS:
            raise RunFailed(f"{lost}; it was lost {MOST_REWINDS + 1} times after the same checkpoint")
        log.warning("%s; going back to %s", lost, self._start_from[0].name if self._start_from else "the beginning")
        self._restart_fleet()
        progress = self.progress
        progress.restarts = before.restarts
        progress.episodes_lost += before.episodes - progress.episodes

    def _go_back(self) -> None:
        """To the run folder's newest checkpoint, or to the beginning where it has none."""
        if any(self.folder.checkpoints.glob("step_*")):
            self._start_from = self._newest_checkpoint()
        else:
            self._start_from = None
            log.warning("%s holds no checkpoint: the run begins again", self.folder.path)
            self.folder.truncate_to(self.run, Progress())

    def _restart_fleet(self) -> None:
        """Has every actor begin anew, also those that are well: nothing of the time after the checkpoint remains."""
        back: list[Member] = []
        calls = Calls(self.fleet, lambda member: calls.revive(member, lambda: back.append(member)))
        members = self.fleet.members
        for member in members:
            calls.revive(member, partial(back.append, member))
        while len(back) < len(members):
            calls.turn(5.0)


def train(
    run: RunSettings,
    folder: Path | RunFolder,
    *,
    resume: bool = False,
    on_report: Callable[[Row], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """A whole run on Ray, driven from this process; the summary.

    `folder` is made if it is not there yet. `stop` is asked often; once it says True, a checkpoint is written and the
    run ends with the exit reason `stopped`. RunFailed where the run cannot go on, with a checkpoint from before.
    """
    ours = connect(run.cluster)
    coordinator = None
    path = folder.path if isinstance(folder, RunFolder) else folder
    try:
        coordinator = Coordinator({"run": run.model_dump(mode="json"), "folder": str(path), "resume": resume})
        coordinator.stop_asked = stop
        while not coordinator.finished and not stop():
            row = coordinator.step()
            if row and on_report is not None:
                on_report(row)
        if coordinator.finished:
            return coordinator.close("completed")
        coordinator.checkpoint()
        return coordinator.close("stopped")
    except RunFailed as failure:
        if coordinator is not None:
            coordinator.fail(str(failure))
        raise
    finally:
        if coordinator is not None:
            coordinator.stop()  # type: ignore[no-untyped-call]
        if ours:
            ray.shutdown()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
