"""An environment that breaks ends the run with a sentence, whatever it raises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phalanx.cluster.evaluation import Evaluator
from phalanx.cluster.loop import train_serially
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.load import load_run
from phalanx.configs.settings import EnvSettings, RunSettings
from phalanx.envs.check import check_env
from phalanx.envs.faults import in_words
from phalanx.envs.registry import make_env
from phalanx.envs.team import TeamEnv


def run_of(kind: str) -> RunSettings:
    toys = ["env.name=pettingzoo", "env.module=tests.envs.toys", f"env.kwargs={{kind: {kind}}}", "mode=sync"]
    small = ["rollout.streams=1", "rollout.envs_per_stream=2", "evaluation.episodes=1", "total_env_steps=1000"]
    return load_run("qmix_spread", [*toys, *small], catalogue=CATALOGUE)


@pytest.mark.parametrize(
    ("kind", "what"), [("BreaksLate", "RuntimeError: the simulator went away"), ("LeavesLate", "SystemExit: 3")]
)
def test_a_run_says_which_environment_broke_where(kind: str, what: str, tmp_path: Path) -> None:
    sentence = rf"^environment pettingzoo:tests.envs.toys failed in step: {what} \(toys.py:\d+, in step\)$"
    with pytest.raises(RunFailed, match=sentence):
        train_serially(run_of(kind), tmp_path / "run")
    evaluator = Evaluator(run_of(kind))
    with pytest.raises(RunFailed, match=sentence):
        for _ in range(60):
            evaluator.evaluate(1)
    (problem,) = check_env(lambda n: make_env(run_of(kind).env, n), steps=300)
    assert problem.name == "crash" and problem.sentence.startswith(what)


class CannotBeMade(TeamEnv):
    def __init__(self, settings: EnvSettings, num_envs: int) -> None:
        raise SystemExit

    def reset(self, seeds: object) -> object: ...  # type: ignore[override]

    def step(self, actions: object) -> object: ...  # type: ignore[override]


def test_a_constructor_that_fails_is_a_sentence() -> None:
    name = f"{__name__}:CannotBeMade"
    with pytest.raises(UserError, match=rf"^env.name={name} cannot be made: SystemExit \(test_faults.py:\d+"):
        make_env(EnvSettings(name=name), 1)


def test_the_place_of_an_error_is_that_of_the_users_own_code() -> None:
    with pytest.raises(ValueError, match="property name") as found:
        json.loads("{")
    assert "(test_faults.py:" in in_words(found.value)
    assert in_words(ValueError()) == "ValueError"
