"""`phalanx train` and `phalanx resume`: the folder, the view, the signals and the last word around a run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phalanx.cluster.checkpoint import checkpoint_folders
from phalanx.cluster.closing import closing_table
from phalanx.cluster.live import open_view, people
from phalanx.cluster.run_folder import CATALOGUE, RunFolder
from phalanx.cluster.stopping import StopRequest
from phalanx.configs.errors import UserError
from phalanx.configs.load import load_run
from phalanx.configs.settings import RunSettings

COMPLETED = "completed"
SLOW_TO_MAKE = ("smac", "smax", "mamujoco", "vmas")


def train(source: str, overrides: Sequence[str], out: Path | None) -> int:
    """Trains the run; exit status 0, also where it was asked to stop and saved a checkpoint."""
    run = load_run(source, overrides, catalogue=CATALOGUE)
    _require_suitable(run)
    existed = out is not None and out.exists()
    folder = RunFolder.create(out, run, Path(source).stem)
    try:
        return _go(run, folder, resume=False)
    except (UserError, KeyboardInterrupt):
        _take_back(folder, keep_folder=existed)
        raise


def _require_suitable(run: RunSettings) -> None:
    """Refuses an algorithm that cannot learn in the environment before there is a folder and before Ray starts, unless
    it would take a simulator to know: then the learner refuses it."""
    from phalanx.algorithms.registry import make_algorithm, require_able
    from phalanx.cluster.policy import load_policy
    from phalanx.envs.registry import make_env

    require_able(run)
    if run.env.name in SLOW_TO_MAKE:
        return
    try:
        env = make_env(run.env, 1, load_policy)
    except UserError:
        raise
    except Exception:
        return  # a fault of the environment itself is for the workers to tell
    try:
        make_algorithm(run, env.spec)
    finally:
        env.close()


def resume(path: Path) -> int:
    """Goes on with the run in `path` from its newest intact checkpoint; a finished one is left alone."""
    folder = RunFolder.open(path)
    run = folder.run_settings()
    summary = folder.read_summary()
    ended = summary is not None and summary.get("exit_reason") == COMPLETED
    if summary is not None and ended and summary["env_steps"] >= run.total_env_steps:
        print(f"{path} is finished: {summary['env_steps']:,} of {run.total_env_steps:,} env steps are done")
        return 0
    return _go(run, folder, resume=True)


def _go(run: RunSettings, folder: RunFolder, resume: bool) -> int:
    from phalanx.cluster.service import train

    print(f"run folder: {folder.path}", flush=True)
    console = people()
    with folder.alone(), StopRequest(_announce) as stop, open_view(run, str(folder.path), console) as view:
        summary: dict[str, Any] = train(run, folder, resume=resume, on_report=view.report, stop=stop.requested)
    console.print(closing_table(folder.path, summary))
    if summary["exit_reason"] != COMPLETED:
        print(f"stopped; go on with: phalanx resume {folder.path}", flush=True)
    return 0


def _announce(name: str) -> None:
    what = "Ctrl-C" if name == "SIGINT" else name
    print(f"phalanx: {what}: saving a checkpoint, then stopping; a second Ctrl-C stops at once", file=sys.stderr)


def _take_back(folder: RunFolder, keep_folder: bool) -> None:
    """Empties the folder again where the request proved wrong, or was taken back by Ctrl-C, before anything was
    trained, so that it can be used for the next one. It was made, or found empty, by this process."""
    begun = folder.metrics.exists() and folder.metrics.stat().st_size > 0
    if begun or checkpoint_folders(folder.checkpoints):
        return
    shutil.rmtree(folder.path, ignore_errors=True)
    if keep_folder:
        folder.path.mkdir(parents=True, exist_ok=True)
