"""What docs/own-environment.md says works, with its code as it stands there; and the classes that env.name may name."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.cluster import cli
from phalanx.cluster.loop import train_serially
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.load import load_run
from phalanx.configs.settings import EnvSettings
from phalanx.envs.check import check_env
from phalanx.envs.faults import reset_env, step_env
from phalanx.envs.registry import ENVIRONMENTS, env_class, env_settings, make_env
from phalanx.envs.team import BatchedTeamEnv, Obs, TeamEnv, TeamSpec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-environment.md"
HERE = "tests.envs.test_own_environment"
TINY = [
    "mode=sync",
    "total_env_steps=400",
    "env.max_steps=10",
    "rollout.streams=1",
    "rollout.envs_per_stream=4",
    "agent.hidden=8",
    "evaluation.episodes=2",
    "exploration.env_steps=100",
    "replay.min_episodes=4",
    "learner.batch_episodes=4",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    return [[word for word in words if word not in ("PYTHONPATH=$PWD", "phalanx")] for words in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's file in it, from which Python imports."""
    (tmp_path / "my_game.py").write_text(blocks("python")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_game", None)


def test_the_page_keeps_its_word() -> None:
    assert [words[0] for words in commands()] == ["check-env", "train"] * 2
    (code,) = blocks("python")
    body = code[code.index("class Meeting") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 30
    for name in re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE):
        assert name in ENVIRONMENTS


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "check-env"])
def test_the_pages_environments_conform(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0, capsys.readouterr()
    assert "checks passed" in capsys.readouterr().out


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "train"])
def test_the_pages_environments_are_trained_on(words: list[str], folder: Path) -> None:
    run = load_run(words[1], (*(word for word in words[2:] if "=" in word), *TINY), catalogue=CATALOGUE)
    train_serially(run, folder / "run")
    assert (folder / "run" / "summary.json").exists()


# ---- classes by module:Class


class Plain(BatchedTeamEnv):
    """No Settings of its own, and no load_policy."""

    def __init__(self, settings: EnvSettings, num_envs: int) -> None:
        sizes: Any = {"obs_dims": (1,), "action_dims": (2,), "obs_dim": 1, "state_dim": 1, "n_actions": 2}
        spec = TeamSpec("plain", 1, **sizes, episode_limit=settings.max_steps, agent_names=("a",))
        super().__init__(spec, num_envs)

    def _begin(self, rows: Any, seeds: Any) -> None: ...

    def _advance(self, actions: Any) -> Any:
        return np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_), {}

    def _observe(self) -> Obs:
        one = np.ones((self.num_envs, 1), np.float32)
        return Obs(one[:, :, None].copy(), one, np.ones((self.num_envs, 1, 2), np.bool_), one > 0)


class WithPolicies(Plain):
    def __init__(self, settings: EnvSettings, num_envs: int, load_policy: Any = None) -> None:
        super().__init__(settings, num_envs)
        self.load_policy = load_policy


class Unfinished(TeamEnv):
    def __init__(self, settings: EnvSettings, num_envs: int) -> None: ...

    def reset(self, seeds: Any) -> Any: ...


class OtherSettings(Plain):
    class Settings:
        pass


class OtherArguments(Plain):
    def __init__(self, size: int) -> None: ...


def test_a_class_needs_neither_settings_nor_load_policy() -> None:
    name = f"{HERE}:Plain"
    assert env_settings(name) is EnvSettings
    env = make_env(EnvSettings(name=name, max_steps=3), 2, lambda directory: None)  # type: ignore[arg-type,return-value]
    assert (env.num_envs, env.spec.episode_limit) == (2, 3)
    given = make_env(EnvSettings(name=f"{HERE}:WithPolicies"), 1, len)  # type: ignore[arg-type]
    assert given.env.load_policy is len  # type: ignore[attr-defined]


class Misshapen(Plain):
    """Answers with what `answers` says instead."""

    answers: Any = {}  # noqa: RUF012

    def _advance(self, actions: Any) -> Any:
        reward, ended, info = super()._advance(actions)
        return self.answers.get("reward", reward), ended, info

    def _observe(self) -> Obs:
        observation = super()._observe()
        return replace(observation, **{key: value for key, value in self.answers.items() if key != "reward"})

    def close(self) -> None:
        raise RuntimeError("the window is gone")


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"reward": 1.0}, r"step: reward is float, not an array of numbers \(2,\)"),
        ({"reward": np.zeros((2, 1))}, r"step: reward is float64 \(2, 1\), not an array of numbers \(2,\)"),
        ({"obs": np.zeros((1, 1, 1), np.float32)}, r"reset: obs is float32 \(1, 1, 1\), not .* \(2, 1, 1\)"),
        ({"state": None}, r"reset: state is NoneType, not an array of numbers \(2, 1\)"),
        ({"avail": np.ones((2, 1, 2), np.int64)}, r"reset: avail is int64 \(2, 1, 2\), not an array of booleans"),
        ({"avail": np.zeros((2, 1, 2), np.bool_)}, "reset: agent 0 of environment 0 has no legal action"),
    ],
)
def test_what_has_another_form_than_promised_is_not_learned_from(
    answers: Any, sentence: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Misshapen, "answers", answers)
    env = make_env(EnvSettings(name=f"{HERE}:Misshapen"), 2)
    with pytest.raises(RunFailed, match=rf"environment plain: {sentence}.*`phalanx check-env {HERE}:Misshapen`"):
        reset_env(env, [iter(range(9))] * 2)
        step_env(env, np.zeros((2, 1), np.int64))
    env.close()
    assert "close() failed: RuntimeError: the window is gone (test_own_environment.py" in caplog.text
    assert check_env(lambda n: make_env(EnvSettings(name=f"{HERE}:Misshapen"), n, watch=False)) != []


class Nameless(Plain):
    def __init__(self, settings: EnvSettings, num_envs: int) -> None: ...


def test_a_class_must_say_what_it_is() -> None:
    with pytest.raises(UserError, match=r"__init__ must set self\.spec to a TeamSpec, but it is not there afterwards"):
        make_env(EnvSettings(name=f"{HERE}:Nameless"), 1)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "no_such_module:Game",
            "no_such_module:Game cannot be imported: there is no module no_such_module.*PYTHONPATH",
        ),
        (f"{HERE}:Gone", f"{HERE} has no Gone"),
        (f"{HERE}:", r"is not a place module:Name; write it as in my_module:MyEnv"),
        (f"{HERE}:PAGE", "is .*, not a class derived from phalanx.envs.team.TeamEnv"),
        ("tests.envs.toys:Toy", "not a class derived from .*env.name=pettingzoo, gymnasium and rllib"),
        (f"{HERE}:Unfinished", "Unfinished does not define step"),
        (f"{HERE}:OtherSettings", "Settings must be a class derived from phalanx.configs.settings.EnvSettings"),
        (f"{HERE}:OtherArguments", r"takes \(size\), but it is called with \(settings, num_envs\)"),
    ],
)
def test_a_class_that_cannot_be_used_is_told_why(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        env_class(name)


def test_the_command_line_says_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-env", f"{HERE}:Unfinished"]) == 2
    assert "does not define step" in capsys.readouterr().err
    assert cli.main(["check-env", f"{HERE}:Plain", "env.max_steps=4"]) == 0
