from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.cluster.run_folder import CATALOGUE, RunFolder
from phalanx.cluster.service import Coordinator
from phalanx.cluster.tuning import TRIALS, run_search
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.search import base_run, load_search
from phalanx.configs.search_settings import SearchSettings
from tests.cluster.runs import TINY, ray_session, rows_of

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    *TINY,
    "total_env_steps=2000",
    "evaluation.every_env_steps=500",
    "checkpoint.every_env_steps=1000",
)
SEARCH = """
run: qmix_spread
parameters:
  algorithm.lr: [0.0005, 1.0e+20]
  algorithm.gamma: [0.9]
asha: {grace_env_steps: 1000, max_env_steps: 2000}
"""


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session():
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH)
    return path


def search_of(file: Path, *overrides: str) -> SearchSettings:
    return load_search(file, [*QUICK, *overrides], catalogue=CATALOGUE)


def test_a_search_sorts_its_trials_and_leaves_run_folders(session: None, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    # In rounds, so that the broken trial breaks before the scheduler can end it, however busy the machine is.
    rounds = ("mode=sync", "report.every_env_steps=500")
    trials = run_search(search_of(file, "parameters.algorithm.lr=[1.0e+20, 0.005, 0.0005]", *rounds), out)
    good, broken = trials[:2], trials[2]
    assert {trial.point["algorithm.lr"] for trial in good} == {0.005, 0.0005}
    assert good[0].score >= good[1].score
    best = good[0]
    folder = RunFolder.open(best.folder)
    assert folder.path.parent == out / TRIALS
    assert folder.run_settings().algorithm.lr == best.point["algorithm.lr"]
    assert folder.run_settings().algorithm.gamma == 0.9
    summary = folder.read_summary()
    assert summary is not None
    assert summary["final"]["eval/return_mean"] == pytest.approx(best.score)
    assert any(folder.checkpoints.glob("step_*"))
    # Every trial gets the grace period; the best of each rung comes to the end.
    assert all(trial.env_steps >= 1000 for trial in good)
    assert max(trial.env_steps for trial in good) >= 2000

    assert broken.point["algorithm.lr"] == 1e20
    assert math.isnan(broken.score)
    assert broken.error is not None and broken.error.startswith("update ")
    summary = RunFolder.open(broken.folder).read_summary()
    assert summary is not None
    assert summary["exit_reason"] == broken.error


def test_a_search_whose_trials_all_break(session: None, file: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="all 1 trials broke"):
        run_search(search_of(file, "parameters.algorithm.lr=[1.0e+30]"), tmp_path / "search")


@pytest.mark.parametrize(
    ("override", "key"), [("cluster.learner_gpus=64", "learner_gpus"), ("cluster.worker_cpus=99", "worker_cpus")]
)
def test_trials_that_can_never_be_placed_are_refused(
    session: None, file: Path, tmp_path: Path, override: str, key: str
) -> None:
    with pytest.raises(UserError, match=f"{key}=.*could never be placed"):
        run_search(search_of(file, override), tmp_path / "search")


def test_an_occupied_folder_and_one_without_a_search(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is overwritten"):
        run_search(search_of(file), tmp_path)
    with pytest.raises(UserError, match="holds no search"):
        run_search(search_of(file), tmp_path, resume=True)


def test_a_search_that_was_killed_goes_on(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    command = [sys.executable, "-m", "phalanx.cluster.cli", "tune", str(file), *QUICK]
    command += ["parameters.algorithm.lr=[0.0005, 0.001]"]
    process = subprocess.Popen(
        [*command, "--out", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    second = out / TRIALS / "001"
    try:
        until = time.monotonic() + 200
        while not (second / "metrics.jsonl").exists() or not rows_of(second):
            assert process.poll() is None, "the search ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    first = (out / TRIALS / "000" / "summary.json").read_bytes()
    done = subprocess.run([*command, "--resume", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert (out / TRIALS / "000" / "summary.json").read_bytes() == first
    assert json.loads((second / "summary.json").read_text())["exit_reason"] in ("completed", "stopped")
    assert rows_of(second)[-1]["env_steps"] >= 1000


def test_a_trial_that_finishes_while_it_is_saved_has_a_last_result(session: None, file: Path, tmp_path: Path) -> None:
    search = search_of(file, "parameters.algorithm.lr=[0.0005]")
    run = base_run(search, catalogue=CATALOGUE)
    point = {"algorithm.lr": 0.0005}
    trial = Coordinator({"run": run.model_dump(mode="json"), "trial": {"point": point, "folder": str(tmp_path / "t")}})
    try:
        assert not trial.step()["done"]
        while not trial.finished:
            trial.checkpoint()  # as Tune does between steps; the run goes on meanwhile
        last = trial.step()
    finally:
        trial.stop()
    assert last["done"] and last["env_steps"] >= run.total_env_steps and math.isfinite(last["eval/return_mean"])
