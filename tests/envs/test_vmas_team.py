from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from phalanx.configs.errors import UserError
from phalanx.envs.check import check_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import Obs
from phalanx.envs.vmas_team import VmasTeam
from tests.envs import stub_vmas


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing vmas gives the stand-in."""
    monkeypatch.setitem(sys.modules, "vmas", stub_vmas)


def team(num_envs: int = 2, **settings: Any) -> VmasTeam:
    return VmasTeam(VmasTeam.Settings(**{"scenario": "drift", "max_steps": 9, **settings}), num_envs)


def start(env: VmasTeam) -> Obs:
    return env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(env.num_envs)])


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("scenario", ["drift", "gusts", "column", "tests.envs.stub_vmas:Drift"])
def test_conforms(scenario: str, continuous: bool) -> None:
    assert check_env(lambda n: team(n, scenario=scenario, continuous=continuous)) == []


@pytest.mark.usefixtures("stub")
def test_what_is_seen_paid_and_ended() -> None:
    env = team(kwargs={"n_agents": 3}, reward="sum", max_steps=5)
    spec = env.spec
    assert (spec.agent_names, spec.obs_dims) == (("walker_0", "walker_1", "walker_2"), (6, 2, 2))
    assert (spec.action_dims, spec.n_actions, spec.state_dim) == ((3, 3, 3), 3, 10)
    assert (spec.group_ids, spec.reproducible) == ((0, 1, 1), True)  # the first one sees more
    first = start(env)
    np.testing.assert_array_equal(first.obs[:, 0, 2:4], first.obs[:, 1, :2])
    assert not first.obs[:, 1, 2:].any()
    step = env.step(np.array([[2, 0, 2], [0, 0, 0]]))
    moved = step.next.obs[:, 0] - first.obs[:, 0]
    np.testing.assert_allclose(moved, [[1, 1, 0, 0, 1, 1], [0] * 6], atol=1e-6)
    np.testing.assert_allclose(step.reward, step.next.obs[:, 0, ::2].sum(axis=1), rtol=1e-6)
    steps = [env.step(np.array([[2, 2, 2], [0, 0, 0]])) for _ in range(4)]
    assert [bool(s.ended.any()) for s in steps] == [False, False, False, True]
    assert steps[-1].truncated.all()
    assert steps[-1].final is not None
    assert (steps[-1].final.obs[0, 0, ::4] > 5).all()
    assert (steps[-1].next.obs[0, 0] < 1).all()


@pytest.mark.usefixtures("stub")
def test_an_end_is_not_a_timeout() -> None:
    env = team()
    start(env)
    ends = [env.step(np.array([[2, 2], [0, 0]])) for _ in range(6)]
    done = [step.terminated.tolist() for step in ends]
    assert [True, False] in done
    assert not any(step.truncated.any() for step in ends)


@pytest.mark.usefixtures("stub")
def test_continuous_actions_are_stretched() -> None:
    env = team(continuous=True)
    start(env)
    env.step(np.array([[[1, -1], [0, 0]], [[-3, 0.5], [0.5, 1]]], np.float32))
    given = stub_vmas.made[-1].orders
    assert given[0].tolist() == [[0.5, -2], [-0.5, 1]]
    assert given[1].tolist() == [[0, 0], [0.25, 2]]


@pytest.mark.usefixtures("stub")
def test_a_scenario_that_draws_in_its_steps_is_not_reproducible(caplog: pytest.LogCaptureFixture) -> None:
    assert team().spec.reproducible
    assert caplog.text == ""
    assert not team(scenario="gusts").spec.reproducible
    assert "draws random numbers in its steps" in caplog.text


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scenario": "nowhere"}, r"env\.scenario=nowhere cannot be made.*unknown scenario nowhere"),
        ({"kwargs": {"wings": 2}}, r"env\.kwargs=\{'wings': 2\}"),
        ({"scenario": "nested"}, "shows dict instead of one vector"),
        ({"scenario": "several"}, "one number for each agent is needed"),
    ],
)
def test_refusals_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        team(**settings)


def test_without_the_library_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vmas", None)
    with pytest.raises(UserError, match=r"GPL-3\.0\): pip install vmas"):
        team()


@pytest.mark.usefixtures("stub")
def test_pictures_are_vmas_own_and_where_it_cannot_draw_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    env = team()
    env.film(1)
    start(env)

    def draw(_: Any, mode: str, env_index: int) -> Any:
        assert mode == "rgb_array"
        return np.full((4, 4, 3), 10 * env_index + 1)

    monkeypatch.setattr(stub_vmas.Environment, "render", draw, raising=False)
    picture = env.render(1)
    assert picture is not None and picture.dtype == np.uint8 and (picture == 11).all()

    def broken(_: Any, **__: Any) -> Any:
        raise ImportError("no libEGL")

    monkeypatch.setattr(stub_vmas.Environment, "render", broken)
    assert env.render(0) is None
    assert "OpenGL" in env.why_no_picture and "ImportError: no libEGL" in env.why_no_picture
