"""Async and sync mode with a replay that is sampled again and again, whoever dies: in one process, in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.configs.settings import RunSettings
from tests.cluster import fakes
from tests.cluster.fleets import keep_garbage_collection
from tests.cluster.runs import evaluations_of, rows_of
from tests.cluster.test_on_policy import in_pipeline, in_rounds

ACTORS = ("replay", "learner", "worker 0", "worker 1", "worker 2", "evaluator", "replay", "learner")


@pytest.fixture(autouse=True)
def clockwork(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_garbage_collection(monkeypatch)
    fakes.install(monkeypatch)


def run_of(**sections: Any) -> RunSettings:
    defaults: dict[str, Any] = {
        "total_env_steps": 2000,
        "rollout": {"streams": 3, "envs_per_stream": 4},
        "learner": {"batch_episodes": 8},
        "evaluation": {"every_env_steps": 300, "episodes": 3},
        "checkpoint": {"every_env_steps": 700, "keep": 9},
        "report": {"every_env_steps": 100, "every_s": 0.05},
        "cluster": {"workers": 3},
    }
    return fakes.settings("vdn", **{**defaults, **sections})


def some(rng: np.random.Generator, most: int) -> list[tuple[int, str]]:
    """Deaths: after how many calls, and whose."""
    return [(int(rng.integers(20, most)), str(rng.choice(ACTORS))) for _ in range(rng.integers(3, 9))]


@pytest.mark.parametrize("kept", ["all", "none"])
@pytest.mark.parametrize("sampling", ["uniform", "prioritised"])
@pytest.mark.parametrize("ratio", [0.5, 4.0])
def test_every_insertion_is_sampled_as_often_as_was_asked(
    tmp_path: Path, sampling: str, ratio: float, kept: str
) -> None:
    rng = np.random.default_rng([int(ratio), len(sampling), len(kept)])
    run = run_of(
        replay={"min_episodes": 30, "capacity_episodes": 150, "samples_per_insert": ratio, "sampling": sampling},
        checkpoint={"every_env_steps": 400, "replay": kept},
    )
    fleet = in_pipeline(run, tmp_path / "run", 3, some(rng, 400))
    rows = rows_of(tmp_path / "run")
    # Who dies while it starts again is lost once.
    assert 0 < rows[-1]["cluster/actor_restarts"] <= len(fleet.killed)
    assert rows[-1]["replay/samples_per_insert"] == pytest.approx(ratio, rel=0.05)
    assert rows[-1]["replay/size"] == fleet.queued
    for key in ("env_steps", "episodes", "updates", "cluster/episodes_lost"):
        values = [row[key] for row in rows]
        assert values == sorted(values)


@pytest.mark.parametrize("sampling", ["uniform", "prioritised"])
def test_sync_mode_is_exact_whoever_dies(tmp_path: Path, sampling: str) -> None:
    run = run_of(
        mode="sync",
        total_env_steps=1500,
        replay={"min_episodes": 20, "capacity_episodes": 100, "samples_per_insert": 2.0, "sampling": sampling},
    )
    in_rounds(run, tmp_path / "plain", 0)
    for seed in range(3):
        deaths = some(np.random.default_rng(seed), 220)
        fleet = in_rounds(run, tmp_path / f"run {seed}", seed, deaths)
        assert len(fleet.kills) < len(deaths), "nobody died"
        assert evaluations_of(tmp_path / f"run {seed}") == evaluations_of(tmp_path / "plain")
