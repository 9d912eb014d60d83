"""Environments of other people, through the Parallel API: either they are understood or a sentence says what is odd."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from phalanx.configs.errors import RunFailed, UserError
from phalanx.envs.check import check_env
from phalanx.envs.faults import step_env
from phalanx.envs.pettingzoo import PettingZooTeam
from tests.envs import toys_odd
from tests.envs.test_pettingzoo import play, start

ODD = "tests.envs.toys_odd"


def odd(kind: str, num_envs: int = 1, **settings: Any) -> PettingZooTeam:
    kwargs = {"kind": kind, **settings.pop("kwargs", {})}
    return PettingZooTeam(PettingZooTeam.Settings(module=ODD, kwargs=kwargs, **settings), num_envs)


@pytest.mark.parametrize(
    "kind",
    [
        "MaskGoneAtTheEnd", "NoMaskAtTheEnd", "MaskBesideOthers", "MaskBesideOne", "Fewer", "ComesBack", "DiesUnseen",
        "StateGrows", "StateIsEmpty", "Narrow", "TakesNumpy", "NamedByArray",
    ],
)  # fmt: skip
@pytest.mark.parametrize("opponents", [None, "random", "still"])
def test_conforms(kind: str, opponents: str | None) -> None:
    sides = {} if opponents is None else {"team": ["red_*"], "opponents": opponents}
    assert check_env(lambda n: odd(kind, n, **sides)) == []


@pytest.mark.parametrize("kind", ["EndsUnseen", "EndsOnNone"])
def test_what_is_not_shown_at_the_end_is_found(kind: str) -> None:
    (problem,) = check_env(lambda n: odd(kind, n))
    assert problem.name == "final observation"
    assert problem.sentence.endswith("the one before the last action")


# ---- what is seen


def test_a_mask_is_no_observation_whatever_lies_beside_it() -> None:
    env = odd("MaskBesideOthers")
    assert env.spec.obs_dims == (5, 5, 5)
    obs = start(env)
    assert obs.obs[0, 2, 2:].tolist() == [0, 0, 1]
    assert obs.avail[0].tolist() == [[False, True, True]] * 2 + [[False, False, True]]
    one = odd("MaskBesideOne")
    assert (one.spec.obs_dims, start(one).avail[0].tolist()) == ((3, 3, 3), obs.avail[0].tolist())


@pytest.mark.parametrize("kind", ["MaskGoneAtTheEnd", "NoMaskAtTheEnd"])
def test_where_no_mask_is_given_everything_is_legal(kind: str) -> None:
    last = play(odd(kind), 4)[-1]
    assert last.final is not None
    assert last.final.avail.all()
    assert not last.next.avail.all()


@pytest.mark.parametrize("kind", ["EndsUnseen", "EndsOnNone"])
def test_who_is_cut_off_without_a_last_look_has_seen_the_one_before(kind: str) -> None:
    *_, before, last = play(odd(kind), 4)
    assert last.truncated[0] and last.final is not None
    np.testing.assert_array_equal(last.final.obs, before.next.obs)
    assert last.final.alive.all()
    assert last.next.obs[0, :, 1].tolist() == [0, 0, 0]


def test_what_the_dead_see_last_may_be_no_number() -> None:
    last = play(odd("DiesUnseen"), 2)[-1]
    assert last.terminated[0] and last.final is not None
    assert last.final.alive[0].tolist() == [False, True, True]
    assert last.final.obs[0, :, 1].tolist() == [0, 2, 2]


def test_agents_may_come_back() -> None:
    record = play(odd("ComesBack"), 4)
    assert [step.next.alive[0, 0] for step in record] == [True, False, True, True]
    assert record[1].next.obs[0, 0].tolist() == [0, 0, 0]
    assert record[2].next.obs[0, 0, 1] == 3
    assert record[2].agent_reward is not None
    assert record[2].agent_reward[0, 0] == 0


@pytest.mark.parametrize("kind", ["StateGrows", "StateIsEmpty"])
def test_what_is_no_state_gives_way_to_the_observations(kind: str) -> None:
    assert odd(kind).spec.state_dim == 9
    with pytest.raises(UserError, match=r"env\.state=env: .*of always the same size; choose all_obs"):
        odd(kind, state="env")


# ---- what is done


def test_actions_are_what_sample_gives_and_inside_of_the_bounds() -> None:
    env = odd("Narrow")
    start(env)
    env.step(np.array([[[-1, -1], [0, 0], [7, 7]]], np.float32))
    given = env._envs[0].orders[-1]
    np.testing.assert_allclose([given[name] for name in ("red_0", "blue_0")], [[-0.1, 0.1], [0.1, 0.7]], rtol=1e-6)
    numbers = odd("TakesNumpy")
    start(numbers)
    numbers.step(np.array([[2, 0, 1]], np.int32))
    assert numbers._envs[0].orders[-1] == {"red_0": 2, "red_1": 0, "blue_0": 1}


def test_one_that_cannot_be_closed_does_not_keep_the_others_from_it(caplog: pytest.LogCaptureFixture) -> None:
    env = odd("CannotBeClosed", 2)
    start(env)
    with caplog.at_level(logging.WARNING):
        env.close()
    assert [one.agents for one in env._envs] == [["closed"]] * 2
    assert "close() failed in 2 of 2: RuntimeError: the window is gone (toys_odd.py" in caplog.text


def test_a_script_that_is_no_function_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys_odd, "scripted_policy", lambda agent: 3, raising=False)
    with pytest.raises(UserError, match=r"scripted_policy\('blue_0'\) of .* is 3, but it must be a function of"):
        odd("TakesNumpy", team=["red_*"], opponents="scripted")


# ---- pictures


@pytest.mark.parametrize("kind", ["grey", "opacity", "shares", "numbers"])
def test_pictures_become_bytes_of_three_colours(kind: str) -> None:
    env = odd("Drawn", kwargs={"picture": kind, "render_mode": "rgb_array"})
    start(env)
    picture = env.render(0)
    assert picture is not None and picture.dtype == np.uint8
    assert (picture == np.full((4, 5, 3), 127)).all()


@pytest.mark.parametrize(("kind", "shown"), [("text", r"<U3 \(\)"), ("list", r"float64 \(1, 4, 5, 3\)")])
def test_what_is_no_picture_is_shown(kind: str, shown: str) -> None:
    env = odd("Drawn", kwargs={"picture": kind, "render_mode": "rgb_array"})
    start(env)
    assert env.render(0) is None
    with pytest.raises(AssertionError, match=rf"render\(\) gave {shown}, not an array \[height, width, 3\]"):
        raise AssertionError(env.why_no_picture)


# ---- refusals


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("MaskTooShort", "the action_mask of red_0 has 2 entries, but its action_space 3 actions"),
        ("ForgetsInfos", r"step returns five dicts.*returned \(dict, dict, dict, dict, NoneType\)"),
        ("OldStep", r"step returns five dicts.*returned \(dict, dict, dict, dict\)"),
        ("Renamed", "blue_1 appeared, but possible_agents named red_0, red_1, blue_0 when"),
        ("SeesWords", r"red_0 observes \['far', 'near', 'far'\], which is not in its observation_space Box"),
        ("BelowItsStart", r"red_0 observes -1, which is not in its observation_space Discrete\(3\)"),
    ],
)
def test_refusals_are_sentences(kind: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        odd(kind)


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("Renamed", {"kwargs": {"kept": 3}}, "blue_4, red_4 appeared, but possible_agents named red_0, red_1, blue_0"),
        ("NobodyComes", {}, r"nobody of the team \(red_0, red_1, blue_0\) is there after reset: env.agents is \[\]"),
        ("Fewer", {"team": ["blue_0"]}, r"nobody of the team \(blue_0\) is there after reset"),
        ("SeesNothing", {}, "there is no observation of red_1, although it is among env.agents"),
        ("Widens", {"kwargs": {"max_cycles": 200}}, "red_1 observes 1 numbers but its observation_space declares 3"),
        ("StateGrowsLate", {"kwargs": {"max_cycles": 200}}, r"state\(\) gave 3 numbers, and 2 before"),
    ],
)
def test_what_is_odd_later_ends_the_run_with_a_sentence(kind: str, settings: Any, sentence: str) -> None:
    env = odd(kind, **settings)
    with pytest.raises(RunFailed, match=sentence):
        start(env)
        for _ in range(200):
            step_env(env, np.zeros((1, env.spec.n_agents), np.int64))
