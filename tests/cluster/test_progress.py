from __future__ import annotations

import json

import pytest

from phalanx.cluster.progress import Progress, due, epsilon_at
from phalanx.configs.errors import UserError
from phalanx.configs.settings import ExplorationSettings


def test_something_is_due_once_for_every_multiple_that_was_passed() -> None:
    assert due(100, -1, 0)  # never happened
    assert not due(100, 0, 99)
    assert due(100, 0, 100)
    assert not due(100, 104, 199)
    assert due(100, 104, 203)
    assert due(100, 0, 1000)
    last, times = 0, 0
    for now in range(0, 1001, 7):
        if due(100, last, now):
            last, times = now, times + 1
    assert times == 9  # 1000 itself is not a multiple of 7


def test_epsilon_falls_linearly_and_stays() -> None:
    falling = ExplorationSettings(start=1.0, end=0.2, env_steps=400)
    assert [epsilon_at(falling, steps) for steps in (0, 100, 200, 400, 9999)] == pytest.approx([1, 0.8, 0.6, 0.2, 0.2])
    assert epsilon_at(ExplorationSettings(start=1.0, end=0.3, env_steps=0), 0) == 0.3


def test_progress_survives_json() -> None:
    progress = Progress(env_steps=7, sequences=[1, 2], incarnations=[0, 3], best={"eval/return_mean": 0.1 + 0.2})
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def test_progress_of_another_version_is_refused_with_a_sentence() -> None:
    with pytest.raises(UserError, match="another version of phalanx"):
        Progress.from_json({"env_steps": 1, "unheard_of": 2})
