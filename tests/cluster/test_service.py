from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch

from phalanx.cluster.checkpoint import newest_intact
from phalanx.cluster.collecting import PART_UPDATES
from phalanx.cluster.loop import train_serially
from phalanx.cluster.pipeline import SLACK_UPDATES
from phalanx.cluster.run_folder import RunFolder
from phalanx.cluster.service import connect, train
from phalanx.cluster.snapshot import read_learner
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.settings import ClusterSettings
from tests.cluster.runs import SYNC, TINY, evaluations_of, ray_session, rows_of, tiny


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session():
        yield


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference: the same sync run in one process, without Ray."""
    folder = tmp_path_factory.mktemp("serial") / "run"
    train_serially(tiny(*SYNC), folder)
    return folder


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_sync_equals_the_serial_loop_on_any_number_of_workers(
    session: None, serial: Path, tmp_path: Path, workers: int
) -> None:
    folder = tmp_path / "run"
    summary = train(tiny(*SYNC, f"cluster.workers={workers}"), folder)
    assert summary["exit_reason"] == "completed"
    assert evaluations_of(folder) == evaluations_of(serial)
    ours, theirs = (json.loads((path / "summary.json").read_text()) for path in (folder, serial))
    timed = {"wall_s", "env_steps_per_s"}
    assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    states = [read_learner(newest_intact(path / "checkpoints").path) for path in (folder, serial)]
    for name, tensor in states[0]["algorithm"].items():
        assert torch.equal(tensor, states[1]["algorithm"][name]), name
    assert states[0]["random"] == states[1]["random"]


@pytest.fixture(scope="module")
def serial_prioritised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial") / "prioritised"
    train_serially(tiny(*SYNC, "replay.sampling=prioritised"), folder)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_sync_equals_the_serial_loop_with_priorities(
    session: None, serial_prioritised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("phalanx.cluster.rounds.MOST_UPDATES", 5)  # several calls in a round, the last one shorter
    folder = tmp_path / "run"
    train(tiny(*SYNC, "replay.sampling=prioritised", f"cluster.workers={workers}"), folder)
    assert evaluations_of(folder) == evaluations_of(serial_prioritised)
    ours, theirs = (newest_intact(path / "checkpoints").path for path in (folder, serial_prioritised))
    for name in ("policy.npz", "replay/replay.json", "replay/priorities.npy"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_priorities_come_back_in_async_mode(session: None, tmp_path: Path) -> None:
    run = tiny("total_env_steps=8000", "replay.sampling=prioritised", "cluster.workers=2")
    folder = tmp_path / "run"
    summary = train(run, folder)
    assert summary["exit_reason"] == "completed"
    reached = summary["updates"] * run.learner.batch_episodes / (summary["episodes"] - run.replay.min_episodes)
    assert reached == pytest.approx(run.replay.samples_per_insert, rel=0.02)
    weights = np.load(newest_intact(folder / "checkpoints").path / "replay/priorities.npy")
    # Without errors that come back all would be alike; the newest ones wait for theirs, many on a busy machine.
    assert len(weights) == run.replay.capacity_episodes and len(set(weights.tolist())) > 0.5 * len(weights)


def test_a_sync_run_that_was_stopped_goes_on_exactly(session: None, serial: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rows: list[int] = []
    run = tiny(*SYNC, "cluster.workers=2")
    first = train(run, folder, on_report=lambda row: rows.append(int(row["env_steps"])), stop=lambda: len(rows) >= 5)
    assert first["exit_reason"] == "stopped"
    assert 0 < first["env_steps"] < run.total_env_steps
    assert newest_intact(folder / "checkpoints").manifest["env_steps"] == first["env_steps"]
    second = train(run, folder, resume=True)
    assert second["exit_reason"] == "completed"
    assert evaluations_of(folder) == evaluations_of(serial)
    steps = [row["env_steps"] for row in rows_of(folder)]
    assert steps == sorted(steps)


def test_a_run_without_a_checkpoint_begins_again(session: None, serial: Path, tmp_path: Path) -> None:
    run = tiny(*SYNC)
    folder = RunFolder.create(tmp_path / "run", run)
    folder.metrics.write_text('{"env_steps": 400, "updates": 1}\n')
    assert train(run, folder, resume=True)["exit_reason"] == "completed"
    assert evaluations_of(folder.path) == evaluations_of(serial)
    assert all("wall_s" in row for row in rows_of(folder.path))  # nothing of what was there


def test_samples_per_insert_hold_in_async_mode(session: None, tmp_path: Path) -> None:
    for workers in (1, 2, 4):
        run = tiny("total_env_steps=12000", "rollout.streams=4", f"cluster.workers={workers}")
        folder = tmp_path / str(workers)
        summary = train(run, folder)
        after_warm_up = summary["episodes"] - run.replay.min_episodes
        reached = summary["updates"] * run.learner.batch_episodes / after_warm_up
        assert reached == pytest.approx(run.replay.samples_per_insert, rel=0.02)
        for row in rows_of(folder):
            if row["updates"] > 200:  # what workers may be ahead by, and insert at once, in updates
                ahead = (SLACK_UPDATES + PART_UPDATES) / row["updates"]
                assert row["replay/samples_per_insert"] == pytest.approx(run.replay.samples_per_insert, rel=ahead)
        assert summary["env_steps"] >= run.total_env_steps
        assert summary["restarts"] == 0
        assert summary["episodes_lost"] == 0


def test_async_reports_evaluates_and_checkpoints(session: None, tmp_path: Path) -> None:
    run = tiny("total_env_steps=8000", "evaluation.every_env_steps=2000", "checkpoint.every_env_steps=3000")
    folder = tmp_path / "run"
    reported: list[int] = []
    summary = train(run, folder, on_report=lambda row: reported.append(int(row["env_steps"])))
    rows = rows_of(folder)
    assert reported == [row["env_steps"] for row in rows]
    evaluated = [row["eval/env_steps"] for row in rows if "eval/return_mean" in row]
    assert evaluated[0] == 0
    assert evaluated[-1] == summary["env_steps"] == summary["final"]["env_steps"]
    assert evaluated == sorted(set(evaluated))
    assert len(RunFolder(folder).read_evaluations()) == len(evaluated)
    found = newest_intact(folder / "checkpoints")
    assert found.manifest["env_steps"] == summary["env_steps"]
    assert all(row["learner/policy_lag_mean"] >= 0 for row in rows if "learner/policy_lag_mean" in row)
    assert max(row["learner/policy_lag_mean"] for row in rows if "learner/policy_lag_mean" in row) > 0


def test_async_goes_on_from_its_checkpoint(session: None, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = tiny("total_env_steps=6000", "checkpoint.every_env_steps=1500")
    rows: list[int] = []
    first = train(run, folder, on_report=lambda row: rows.append(int(row["updates"])), stop=lambda: sum(rows) > 150)
    assert first["exit_reason"] == "stopped"
    second = train(run, folder, resume=True)
    assert second["exit_reason"] == "completed"
    assert second["updates"] > first["updates"]
    # What the learner was busy with at the checkpoint is sampled again: not one update is missing in the end.
    owed = run.replay.samples_per_insert * (second["episodes"] - run.replay.min_episodes)
    assert second["updates"] == owed // run.learner.batch_episodes


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_loss_that_is_not_finite_ends_the_run_with_a_checkpoint_from_before(
    session: None, tmp_path: Path, mode: str
) -> None:
    folder = tmp_path / "run"
    run = tiny("algorithm.lr=1e30", "total_env_steps=8000", f"mode={mode}")
    with pytest.raises(RunFailed, match=r"update \d+ failed: .*(nan|inf)"):
        train(run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["exit_reason"].startswith("update ")
    checkpoint = newest_intact(folder / "checkpoints")
    assert checkpoint.manifest["updates"] >= 0


@pytest.mark.parametrize(
    ("override", "key"),
    [("cluster.learner_gpus=64", "cluster.learner_gpus=64"), ("cluster.worker_cpus=1000", "cluster.worker_cpus=1000")],
)
def test_what_can_never_be_placed_is_refused_at_once(session: None, tmp_path: Path, override: str, key: str) -> None:
    with pytest.raises(UserError, match="could never be placed") as refused:
        train(tiny(override), tmp_path / "run")
    assert key in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_replay_that_does_not_fit_is_refused_before_a_folder_is_made(session: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"replay\.capacity_bytes=1000"):
        train(tiny("replay.capacity_bytes=1000"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_addresses_that_cannot_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match="ray job submit"):
        connect(ClusterSettings(address="ray://localhost:1"))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"cluster\.address=127\.0\.0\.1:1: no Ray cluster could be joined"):
        connect(ClusterSettings(address="127.0.0.1:1"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=127\.0\.0\.1:2"):
        connect(ClusterSettings())
    assert time.monotonic() - began < 30  # Ray itself would try for longer


def cli(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "phalanx.cluster.cli", *arguments]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_sigkill_half_way_and_resume_give_the_same_bytes(serial: Path, tmp_path: Path) -> None:
    """The command line in a process of its own, killed without warning; its Ray goes with it."""
    folder = tmp_path / "run"
    root = Path(__file__).resolve().parents[2]
    command = cli("train", "qmix_spread", *TINY, *SYNC, "cluster.workers=2", "--out", str(folder))
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not any((folder / "checkpoints").glob("step_*")) or len(rows_of(folder)) < 7:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.02)
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "summary.json").exists()
    assert evaluations_of(folder) != evaluations_of(serial)
    # Ray's own two agents look for their head for a minute before they give up; everything else goes at once.
    until = time.monotonic() + 30
    while alive := [one for one in family if is_alive(one) and not one.name().endswith("Agent")]:
        assert time.monotonic() < until, f"left behind: {alive}"
        time.sleep(0.2)

    done = subprocess.run(cli("resume", str(folder)), cwd=root, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert evaluations_of(folder) == evaluations_of(serial)
    again = subprocess.run(cli("resume", str(folder)), cwd=root, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0
    assert "finished" in again.stdout
