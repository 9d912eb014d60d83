"""MAPPO through the whole service: exact in sync mode, every episode once in async mode, whoever is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.cluster.loop import train_serially
from phalanx.cluster.service import train
from phalanx.configs.settings import RunSettings
from tests.cluster.runs import TINY, evaluations_of, killer, ray_session, rows_of, tiny

DROPPED = ("learner.batch_episodes", "replay.", "exploration.")  # what TINY says to off-policy methods
SYNC = ("mode=sync", "total_env_steps=1200", "evaluation.every_env_steps=400", "checkpoint.every_env_steps=400")


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session():
        yield


def mappo(*overrides: str) -> RunSettings:
    kept = [one for one in TINY if not one.startswith(DROPPED)]
    return tiny(*overrides, "algorithm.name=mappo", only=kept)


def test_sync_equals_the_serial_loop_although_the_learner_is_killed(session: None, tmp_path: Path) -> None:
    train_serially(mappo(*SYNC), tmp_path / "serial")
    kill, killed = killer("LearnerActor", first=500)
    run = mappo(*SYNC, "report.every_env_steps=120", "cluster.workers=2")
    summary = train(run, tmp_path / "run", on_report=kill)
    assert killed and summary["restarts"] == 1
    assert summary["updates"] == summary["episodes"] // run.learner.batch_episodes
    assert evaluations_of(tmp_path / "run") == evaluations_of(tmp_path / "serial")


def test_async_learns_from_each_episode_once_although_actors_are_killed(session: None, tmp_path: Path) -> None:
    kill, killed = killer("ReplayActor", "LearnerActor", "RolloutActor", first=4000, every=4000)
    run = mappo("total_env_steps=20000", "checkpoint.every_env_steps=6000", "cluster.workers=2")
    summary = train(run, tmp_path / "run", on_report=kill)
    assert len(killed) == summary["restarts"] == 3
    assert summary["exit_reason"] == "completed"
    rows = rows_of(tmp_path / "run")
    learned = summary["updates"] * run.learner.batch_episodes
    assert summary["episodes"] - summary["episodes_lost"] - run.learner.batch_episodes < learned <= summary["episodes"]
    lags = [row["learner/policy_lag_mean"] for row in rows if "learner/policy_lag_mean" in row]
    assert lags and max(lags) <= 8
