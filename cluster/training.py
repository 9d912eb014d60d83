"""`phalanx train` and `phalanx resume`: the folder, the view, the signals and the last word around a run."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phalanx.cluster.closing import closing_table
from phalanx.cluster.live import View, open_view, people
from phalanx.cluster.run_folder import CATALOGUE, RunFolder
from phalanx.cluster.stopping import StopRequest
from phalanx.configs.errors import UserError
from phalanx.configs.load import load_run
from phalanx.configs.settings import RunSettings

COMPLETED = "completed"
RUNS = Path("runs")


def train(source: str, overrides: Sequence[str], out: Path | None) -> int:
    """Trains the run; exit status 0, also where it was asked to stop and saved a checkpoint."""
    run = load_run(source, overrides, catalogue=CATALOGUE)
    folder = out if out is not None else free_folder(Path(source).stem)
    require_free(folder)
    return _go(run, folder, resume=False)


def resume(folder: Path) -> int:
    """Goes on with the run in `folder` from its newest intact checkpoint; a finished one is left alone."""
    opened = RunFolder.open(folder)
    run = opened.run_settings()
    summary = opened.read_summary()
    if summary is not None and summary.get("exit_reason") == COMPLETED:
        print(f"{folder} is finished: {summary['env_steps']:,} of {run.total_env_steps:,} env steps are done")
        return 0
    return _go(run, folder, resume=True)


def free_folder(name: str) -> Path:
    """The first of runs/<name>, runs/<name>-2, runs/<name>-3, … that is not there yet."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(RUNS / each for each in names if not os.path.lexists(RUNS / each))


def require_free(folder: Path) -> None:
    """Refuses an occupied folder before anything is started; an empty one will do."""
    if folder.is_dir() and any(folder.iterdir()):
        what = "holds a run already" if (folder / "config.yaml").exists() else "is not empty"
        raise UserError(
            f"{folder} {what}, and nothing is overwritten: choose another --out, or go on with `phalanx resume {folder}`"
        )


def _go(run: RunSettings, folder: Path, resume: bool) -> int:
    from phalanx.cluster.service import train

    print(f"run folder: {folder}", flush=True)
    console = people()
    stop = StopRequest(lambda name: _announce(name))
    with stop:
        view = open_view(run, str(folder), console)
        summary = _watched(train, view, run, folder, resume, stop)
    console.print(closing_table(folder, summary))
    if summary["exit_reason"] != COMPLETED:
        console.print(f"stopped; go on with: phalanx resume {folder}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _watched(train: Any, view: View, run: RunSettings, folder: Path, resume: bool, stop: StopRequest) -> dict[str, Any]:
    with view:
        summary: dict[str, Any] = train(run, folder, resume=resume, on_report=view.report, stop=stop.requested)
    return summary


def _announce(name: str) -> None:
    what = "Ctrl-C" if name == "SIGINT" else name
    print(f"phalanx: {what}: saving a checkpoint, then stopping; a second Ctrl-C stops at once", file=sys.stderr)
