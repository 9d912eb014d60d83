from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phalanx.configs.errors import UserError
from phalanx.envs.check import check_env
from phalanx.envs.gymnasium_team import GymnasiumTeam
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import Obs
from tests.envs.toys_gymnasium import AsTuple

KINDS = [
    "AsTuple", "AsArray", "AsShared", "AsDict", "AsBox", "Alone", "AloneInABox", "MaskInObservation", "FlatMask"
]  # fmt: skip


def toy(kind: str, num_envs: int = 1, **settings: Any) -> GymnasiumTeam:
    given = {"id": f"tests.envs.toys_gymnasium:Phalanx{kind}-v0", "max_steps": 4, **settings}
    return GymnasiumTeam(GymnasiumTeam.Settings(**given), num_envs)


def odd(kind: str) -> dict[str, str]:
    return {"id": f"tests.envs.toys_gymnasium:Phalanx{kind}-v0"}


def start(env: GymnasiumTeam) -> Obs:
    return env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(env.num_envs)])


def given() -> Any:
    return AsTuple.last[0]


@pytest.mark.parametrize("kind", KINDS)
def test_conforms(kind: str) -> None:
    assert check_env(lambda n: toy(kind, n)) == []


@pytest.mark.parametrize("kind", ["AsTuple", "AsArray"])
def test_masks_are_kept(kind: str) -> None:
    kwargs = {"masked": True}  # the toy refuses what its mask forbids
    if kind == "AsTuple":
        assert check_env(lambda n: toy(kind, n, kwargs=kwargs)) == []
    obs = start(toy("AsTuple", kwargs=kwargs))
    assert obs.avail[0].tolist() == [[False, True, True]] * 2


@pytest.mark.parametrize("kind", ["MaskInObservation", "FlatMask"])
def test_masks_of_all_are_each_agents_own(kind: str) -> None:
    env = toy(kind)
    obs, two = start(env), kind == "MaskInObservation"
    assert obs.avail[0].tolist() == [[False, True, True], [True, False, False]]
    assert (env.spec.obs_dims, env.spec.action_dims) == ((3, 3), (3, 2) if two else (3, 3))
    assert obs.obs[0, :, 2].tolist() == [0, 1]


def test_a_step_of_lists() -> None:
    env = toy("AsTuple", 2)
    assert (env.spec.agent_names, env.spec.obs_dims, env.spec.action_dims) == (("agent_0", "agent_1"), (3, 3), (3, 3))
    assert env.spec.group_ids == ()
    first = start(env)
    assert first.obs[:, :, 1:].tolist() == [[[0, 0], [0, 1]]] * 2
    assert first.state.shape == (2, 6)
    step = env.step(np.array([[1, 2], [2, 0]]))
    assert given() == (2, 0)
    assert step.agent_reward is not None
    assert step.agent_reward.tolist() == [[1, 12], [2, 10]]
    assert step.reward.tolist() == [6.5, 6]
    for _ in range(3):
        step = env.step(np.array([[1, 2], [2, 0]]))
    assert step.truncated.all()
    assert step.final is not None
    assert step.final.obs[0, :, 1].tolist() == [4, 4]


def test_a_step_of_arrays() -> None:
    env = toy("AsArray", reward="first")
    assert (env.spec.action_dims, env.spec.state_dim) == ((3, 2), 2)
    start(env)
    step = env.step(np.array([[2, 1]]))
    assert isinstance(given(), np.ndarray)
    assert given().tolist() == [2, 1]
    assert step.reward.tolist() == [3]
    assert step.next.state[0, 1] == 1


def test_an_observation_that_all_share_is_the_state() -> None:
    for env in (toy("AsShared", 2), toy("AsArray", 2, observations="shared")):
        seen = start(env)
        assert env.spec.state_dim == env.spec.obs_dim
        np.testing.assert_array_equal(seen.obs[:, 0], seen.state)
        np.testing.assert_array_equal(seen.obs[:, 1], seen.state)


def test_a_step_of_dicts_goes_on_until_everybody_is_done() -> None:
    env = toy("AsDict", max_steps=9)
    assert env.spec.agent_names == ("left", "right")
    assert env.spec.group_ids == (0, 1)
    assert start(env).avail[0].tolist() == [[True, False, True], [True, True, False]]
    steps = [env.step(np.array([[2, 1]])) for _ in range(3)]
    assert given() == {"left": 2, "right": 5}
    assert [bool(step.terminated[0]) for step in steps] == [False, False, True]
    assert steps[1].next.alive.all()
    assert steps[2].agent_reward is not None
    assert steps[2].agent_reward.tolist() == [[2, 5]]


def test_continuous_actions() -> None:
    env = toy("AsBox")
    start(env)
    env.step(np.array([[[-1, 0], [1, 0.5]]], np.float32))
    assert given().tolist() == [[0, 2], [4, 3]]
    alone = toy("AloneInABox")
    start(alone)
    alone.step(np.array([[[-0.5, 1]]], np.float32))
    assert given().tolist() == [-0.5, 1]


def test_the_limit_is_the_environments_own_where_none_is_given() -> None:
    env = toy("Limited", max_steps=None)
    assert env.spec.episode_limit == 3
    start(env)
    assert [bool(env.step(np.zeros((1, 2), np.int64)).truncated[0]) for _ in range(6)] == [False, False, True] * 2
    with pytest.raises(UserError, match=r"env\.max_steps is needed: env\.id=.*AsTuple"):
        toy("AsTuple", max_steps=None)


def test_pictures_and_versions() -> None:
    assert toy("AsTuple").render(0) is None
    env = toy("AsTuple", kwargs={"render_mode": "rgb_array"})
    start(env)
    picture = env.render(0)
    assert picture is not None
    assert picture.shape == (4, 5, 3)
    assert set(env.spec.versions) == {"gymnasium"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"id": "PhalanxNowhere-v0"}, r"env\.id=PhalanxNowhere-v0.*package:id"),
        ({"id": "no_such_package:Game-v0"}, "there is no module no_such_package"),
        ({"kwargs": {"wings": 2}}, r"cannot be made with env\.kwargs=.*wings"),
        ({"id": "tests.envs.toys_gymnasium:PhalanxOdd-v0"}, "the actions are MultiBinary"),
        ({"id": "tests.envs.toys_gymnasium:PhalanxOldReset-v0"}, r"whose reset returns \(observation, info: a dict\)"),
        (odd("OldStep"), r"whose step returns .* this one returned \(list, bool, bool, dict\)"),
        (odd("ForgetsInfos"), r"whose reset returns .* this one returned \(tuple, NoneType\)"),
        (odd("Seedless"), r"takes not both: write it as def reset\(self, \*, seed=None, options=None\)"),
        (odd("MisshapenMask"), "it must have a row for each of the 2 agents, or 6 entries one after the other"),
        (odd("PaysNobody"), "reward is None, but it must be one for all, or one for each of the 2 agents"),
        (odd("PaysThree"), r"reward is \[1, 2, 3\], but it must be one for all"),
        (odd("PaysStrangers"), "rewards are given to left, but the agents are agent_0, agent_1"),
        ({"id": "tests.envs.toys_gymnasium:PhalanxAsShared-v0", "observations": "each"}, "choose shared"),
    ],
)
def test_refusals_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        toy("AsTuple", **settings)


@pytest.mark.parametrize(
    ("package", "id", "agents"),
    [("lbforaging", "Foraging-5x5-2p-1f-v3", 2), ("rware", "rware-tiny-2ag-v2", 2)],
)
def test_libraries_conform(package: str, id: str, agents: int) -> None:
    pytest.importorskip(package)
    settings = GymnasiumTeam.Settings(id=f"{package}:{id}")
    assert check_env(lambda n: GymnasiumTeam(settings, n), steps=60) == []
    assert GymnasiumTeam(settings, 1).spec.n_agents == agents
