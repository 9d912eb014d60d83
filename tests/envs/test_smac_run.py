"""Whole runs on SMAC's stand-in: collecting, learning, evaluating, with games that are killed meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from phalanx.cluster.loop import train_serially
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import load_run
from tests.envs import stub_smac
from tests.envs.stub_smac import StarCraft2Env

TINY = (
    "mode=sync",
    "total_env_steps=300",
    "rollout.envs_per_stream=2",
    "env.max_steps=12",
    "agent.hidden=8",
    "replay.min_episodes=4",
    "replay.samples_per_insert=4",
    "learner.batch_episodes=4",
    "evaluation.episodes=6",
    "evaluation.every_env_steps=150",
    "checkpoint.every_env_steps=1000",
    "report.every_env_steps=50",
)


@pytest.mark.parametrize("name", ["qmix_smac_3m", "demar_smac_2s3z"])
def test_a_run_goes_on_where_games_are_killed(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = stub_smac.installed(monkeypatch, tmp_path / "StarCraftII")
    rng, killed = np.random.default_rng(0), [0]

    def murder(env: StarCraft2Env, what: str) -> None:
        if what == "step" and rng.random() < 0.01:
            assert env._process is not None
            env._process.kill()
            env._process.wait()
            killed[0] += 1
            env._connected()

    script.before, script.processes = murder, True
    run = load_run(name, TINY, catalogue=CATALOGUE)
    summary = train_serially(run, tmp_path / "run")
    assert summary["env_steps"] >= 300 and summary["updates"] > 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    crashes = sum(row["rollout/env_crashes"] for row in rows if "rollout/env_crashes" in row)
    assert 0 < crashes <= killed[0]  # those of evaluations are played again, and not counted here
    metadata = json.loads((tmp_path / "run" / "metadata.json").read_text())
    assert metadata["versions"]["StarCraft II"] == "4.10.0 (build 75689)" and not metadata["reproducible"]
    games = 2 * 2 + 4  # two streams of two, and those of evaluations
    assert len(script.made) >= games + killed[0]  # more where a game is new when all are reset
    assert all(game.launches == 1 for game in script.made)
    assert all(game.closed or (game._process and game._process.poll() is not None) for game in script.made)
