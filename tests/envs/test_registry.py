from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phalanx.configs.errors import UserError
from phalanx.envs.check import check_env
from phalanx.envs.opponents import checkpoint_path, load_opponents, parse_opponents
from phalanx.envs.registry import ENVIRONMENTS, env_class, env_settings, make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import TeamEnv
from phalanx.envs.wrappers import TimeoutIsTerminal
from tests.envs.needed import SETTINGS, skip_without_library


def made(name: str, num_envs: int, **settings: Any) -> TeamEnv:
    skip_without_library(name)
    return make_env(env_settings(name)(**{"name": name, **SETTINGS.get(name, {}), **settings}), num_envs)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_conforms(name: str) -> None:
    assert check_env(lambda n: made(name, n)) == []


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_conforms_when_its_limit_is_an_end(name: str) -> None:
    assert check_env(lambda n: made(name, n, max_steps=7, timeout_is_terminal=True)) == []


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_setting_has_a_description_and_the_name_is_checked(name: str) -> None:
    for key, field in env_settings(name).model_fields.items():
        assert field.description, key
    settings = env_settings(name)(name=name, **SETTINGS.get(name, {}))
    assert settings.name == name


def test_an_unknown_environment_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"env\.name=simple_tga is not an environment .* did you mean simple_tag\?"):
        env_class("simple_tga")
    with pytest.raises(UserError, match=r"known: simple_tag, .*pettingzoo, .*; your own: module:Class\)$"):
        env_class("zzz")


# ---- timeout_is_terminal


def test_the_time_limit_becomes_an_end_and_nothing_else_changes() -> None:
    plain, strict = made("stag_hunt", 2, max_steps=3), made("stag_hunt", 2, max_steps=3, timeout_is_terminal=True)
    assert isinstance(strict, TimeoutIsTerminal)
    for env in (plain, strict):
        env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(2)])
    for t in range(6):
        left, right = (env.step(np.full((2, 8), 4)) for env in (plain, strict))
        assert left.truncated.all() == right.terminated.all() == (t % 3 == 2)
        assert not right.truncated.any()
        np.testing.assert_array_equal(left.next.obs, right.next.obs)
        if left.final is not None:
            assert right.final is not None
            np.testing.assert_array_equal(left.final.state, right.final.state)
    assert strict.spec == plain.spec
    np.testing.assert_array_equal(strict.render(0), plain.render(0))


# ---- opponents


def test_opponents_are_a_kind_or_a_directory() -> None:
    kinds = ("scripted", "random", "still", "checkpoint")
    assert [parse_opponents(text, kinds) for text in ("scripted", "still", "checkpoint:a:b")] == [
        "scripted",
        "still",
        "checkpoint",
    ]
    assert checkpoint_path("checkpoint:a:b") == "a:b"
    assert checkpoint_path("still") is None


@pytest.mark.parametrize(
    ("text", "allowed", "sentence"),
    [
        ("stil", ("random", "still"), r"choose random, still; did you mean still\?"),
        ("checkpoint", ("random", "checkpoint"), "checkpoint:DIR"),
        ("checkpoint:runs/a", ("random",), "choose random$"),
        ("checkpoint: ", ("random", "checkpoint"), "names no directory"),
    ],
)
def test_other_opponents_are_refused(text: str, allowed: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_opponents(text, allowed)


class Policy:
    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def reset(self, num_envs: int) -> None: ...

    def reset_rows(self, rows: Any) -> None: ...

    def act(self, obs: Any, avail: Any) -> Any:
        return np.zeros(obs.shape[:2], np.int64)


def test_a_policy_must_fit_the_opponents() -> None:
    policy = Policy(made("simple_spread", 1).spec)  # 3 agents, 18 numbers, 5 actions
    assert load_opponents(lambda d: policy, "x", 3, 18, 5) is policy
    with pytest.raises(UserError, match="agents 3 instead of 1, observation size 18 instead of 14; train"):
        load_opponents(lambda d: policy, "x", 1, 14, 5)
    with pytest.raises(UserError, match=r"holds a policy for matrix .* actions 3 instead of 5"):
        load_opponents(lambda d: Policy(made("matrix", 1).spec), "x", 2, 5, 5)
    with pytest.raises(UserError, match="pass load_policy"):
        load_opponents(None, "x", 1, 14, 5)
