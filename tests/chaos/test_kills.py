"""Actors that are killed without warning, while a run goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phalanx.cluster.loop import train_serially
from phalanx.cluster.service import train
from tests.cluster.runs import SYNC, actor_pids, evaluations_of, killer, ray_session, rows_of, tiny


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session():
        yield


def test_async_survives_the_loss_of_every_actor(session: None, tmp_path: Path) -> None:
    run = tiny("total_env_steps=40000", "evaluation.every_env_steps=2000", "cluster.workers=2")
    victims = ("RolloutActor", "ReplayActor", "LearnerActor", "EvaluatorActor")
    kill, killed = killer(*victims, first=4000, every=7000)
    summary = train(run, tmp_path / "run", on_report=kill)
    assert len(set(killed)) == len(victims)
    assert summary["exit_reason"] == "completed"
    assert summary["env_steps"] >= run.total_env_steps
    assert summary["restarts"] == len(victims)
    # The worker's chunk, and all that the replay held: there was no checkpoint yet.
    assert summary["episodes_lost"] >= run.replay.capacity_episodes
    assert rows_of(tmp_path / "run")[-1]["cluster/actor_restarts"] == len(victims)
    # What was sampled counts, also where the learner died with it.
    reached = rows_of(tmp_path / "run")[-1]["replay/samples_per_insert"]
    assert reached == pytest.approx(run.replay.samples_per_insert, rel=0.02)
    # Whatever was lost, learning goes on: nothing is repeated and nothing goes back.
    for key in ("env_steps", "updates", "episodes"):
        values = [row[key] for row in rows_of(tmp_path / "run")]
        assert values == sorted(values)


def test_priorities_survive_the_loss_of_the_replay_and_the_learner(session: None, tmp_path: Path) -> None:
    run = tiny("total_env_steps=24000", "checkpoint.every_env_steps=5000", "replay.sampling=prioritised")
    kill, killed = killer("ReplayActor", "LearnerActor", "ReplayActor", first=4000, every=5000)
    summary = train(run, tmp_path / "run", on_report=kill)
    assert len(killed) == 3
    assert summary["restarts"] == 3
    assert summary["exit_reason"] == "completed"
    reached = rows_of(tmp_path / "run")[-1]["replay/samples_per_insert"]
    assert reached == pytest.approx(run.replay.samples_per_insert, rel=0.02)


def test_the_replay_comes_back_with_what_the_checkpoint_holds(session: None, tmp_path: Path) -> None:
    run = tiny("total_env_steps=16000", "checkpoint.every_env_steps=5000")
    kill, killed = killer("ReplayActor", first=7000)
    summary = train(run, tmp_path / "run", on_report=kill)
    assert len(killed) == 1
    assert summary["restarts"] == 1
    # The ring was full at the checkpoint and at the kill, so next to nothing is missing.
    assert summary["episodes_lost"] <= 2 * run.rollout.envs_per_stream


def test_a_worker_that_is_killed_again_and_again(session: None, tmp_path: Path) -> None:
    run = tiny("total_env_steps=24000", "cluster.workers=3")
    kill, killed = killer(*["RolloutActor"] * 3, first=3000, every=4000)
    summary = train(run, tmp_path / "run", on_report=kill)
    assert len(killed) == 3
    assert summary["restarts"] == 3
    assert 0 < summary["episodes_lost"] <= 3 * 3 * run.rollout.envs_per_stream
    assert summary["env_steps"] >= run.total_env_steps


@pytest.mark.parametrize("victim", ["RolloutActor", "EvaluatorActor", "LearnerActor", "ReplayActor"])
def test_sync_stays_exact_whoever_is_killed(session: None, serial: Path, tmp_path: Path, victim: str) -> None:
    folder = tmp_path / "run"
    kill, killed = killer(victim, first=1500)
    summary = train(tiny(*SYNC, "cluster.workers=2"), folder, on_report=kill)
    assert len(killed) == 1
    assert summary["restarts"] == 1
    assert summary["exit_reason"] == "completed"
    assert evaluations_of(folder) == evaluations_of(serial)
    steps = [row["env_steps"] for row in rows_of(folder)]
    assert steps == sorted(steps)


def test_sync_goes_back_to_the_beginning_without_a_checkpoint(session: None, serial: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill, killed = killer("LearnerActor", first=700)
    summary = train(tiny(*SYNC, "checkpoint.every_env_steps=100000"), folder, on_report=kill)
    assert len(killed) == 1
    assert summary["restarts"] == 1
    assert evaluations_of(folder) == evaluations_of(serial)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial") / "run"
    train_serially(tiny(*SYNC), folder)
    return folder


def test_a_hanging_worker_is_restarted(session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.cluster.calls.CALL_LIMIT_S", 5.0)
    monkeypatch.setattr("phalanx.cluster.calls.MOST_HANGS", 20)  # a busy machine may be as slow as this limit
    stopped: list[int] = []

    def stop_one(row: dict[str, Any]) -> None:
        if not stopped and row["env_steps"] >= 3000:
            stopped.append(actor_pids("RolloutActor")[0])
            os.kill(stopped[0], signal.SIGSTOP)

    run = tiny("total_env_steps=12000", "cluster.workers=1")
    summary = train(run, tmp_path / "run", on_report=stop_one)
    assert stopped
    assert summary["restarts"] >= 1
    assert summary["env_steps"] >= run.total_env_steps
