"""`python -m benchmarks.envs` and `benchmarks.opponents` run; their figures are never asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.opponents import play

ROOT = Path(__file__).resolve().parents[2]


def test_every_row_is_one_json_line_with_its_ratio_to_mpe2() -> None:
    command = [sys.executable, "-m", "benchmarks.envs", "--seconds", "0.01", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    raw = {row["task"]: row["env_steps_per_s"] for row in rows if row["implementation"] == "mpe2"}
    games = {row["task"]: row for row in rows if row["implementation"] == "game"}
    assert {"dispersion", "stag_hunt_het", "specialisation"} <= set(games)
    assert all(row["env_steps_per_s"] > 0 and "times_mpe2" not in row for row in games.values())
    own = [row for row in rows if row["implementation"] == "own"]
    assert {row["task"] for row in own} == set(raw)
    assert {(row["envs"], row["opponents"]) for row in own if row["task"] == "simple_tag"} >= {
        (32, "given"),
        (32, "scripted"),
    }
    for row in own:
        assert abs(row["times_mpe2"] * raw[row["task"]] / row["env_steps_per_s"] - 1) < 0.01


@pytest.mark.parametrize("task", ["simple_world", "simple_tag"])
def test_prey_are_compared_on_the_same_episodes(task: str) -> None:
    twice = [play(task, "scripted", prey, 32) for prey in ("random", "scripted", "random")]
    assert twice[0] == twice[2] and twice[1]["contacts"] < twice[0]["contacts"]
