"""The extra `mujoco`; the tests that need it are skipped without it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.configs.errors import UserError
from phalanx.envs import mamujoco
from phalanx.envs.check import check_env
from phalanx.envs.mamujoco import MaMuJoCo
from phalanx.envs.mamujoco_views import Views
from phalanx.envs.seeding import EpisodeSeeds, Purpose

LIBRARY = "gymnasium_robotics"
WALKER = {"scenario": "Walker2d", "agent_conf": "6x1"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its warnings to a file in the current folder."""
    monkeypatch.chdir(tmp_path)


def team(num_envs: int = 1, **settings: Any) -> MaMuJoCo:
    pytest.importorskip(LIBRARY)
    return MaMuJoCo(MaMuJoCo.Settings(**settings), num_envs)


@pytest.mark.parametrize("missing", ["mujoco", "gymnasium_robotics.envs.multiagent_mujoco.mamujoco_v1"])
def test_without_the_extra_the_sentence_names_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mujoco", *(m for m in list(sys.modules) if m.startswith(LIBRARY))):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"pip install '\.\[mujoco\]'"):
        MaMuJoCo(MaMuJoCo.Settings(), 1)


@pytest.mark.parametrize(
    "settings",
    [WALKER, {"scenario": "Humanoid", "agent_conf": "17x1"}, {"scenario": "Humanoid", "agent_conf": "9|8"}],
)
def test_conforms(settings: dict[str, Any]) -> None:
    pytest.importorskip(LIBRARY)
    assert check_env(lambda n: team(n, **settings, max_steps=12)) == []


@pytest.mark.parametrize(
    ("scenario", "agent_conf", "obs_dims", "action_dims", "groups"),
    [
        ("Walker2d", "6x1", (8, 9, 9, 8, 9, 9), (1,) * 6, ["ankle", "knee", "hip"] * 2),
        ("Walker2d", "2x3", (12, 12), (3, 3), []),
        ("HalfCheetah", "6x1", None, (1,) * 6, ["hip", "knee", "ankle"] * 2),
        ("Humanoid", "9|8", (242, 170), (9, 8), ["abdomen+elbow+shoulder", "hip+knee"]),
        (
            "Humanoid",
            "17x1",
            None,
            (1,) * 17,
            ["abdomen"] * 3 + (["hip"] * 3 + ["knee"]) * 2 + (["shoulder"] * 2 + ["elbow"]) * 2,
        ),
    ],
)
def test_partitions_and_their_groups(
    scenario: str, agent_conf: str, obs_dims: Any, action_dims: Any, groups: list[str]
) -> None:
    spec = team(scenario=scenario, agent_conf=agent_conf).spec
    assert not spec.discrete
    assert spec.action_dims == action_dims
    if obs_dims is not None:
        assert spec.obs_dims == obs_dims
    if scenario == "HalfCheetah":  # the library's own 6x1 goes from the back foot to the front thigh
        assert sorted(spec.group_names[i] for i in spec.group_ids) == sorted(groups)
    else:
        assert [spec.group_names[i] for i in spec.group_ids] == groups
    assert spec.episode_limit == 1000
    assert spec.reproducible
    assert {"mujoco", "gymnasium-robotics"} <= set(spec.versions)
    assert team(scenario=scenario, agent_conf=agent_conf, groups="none").spec.group_ids == ()


@pytest.mark.parametrize(
    ("scenario", "agent_conf", "bound"), [("Walker2d", "6x1", 1.0), ("Humanoid", "17x1", 0.4), ("Humanoid", "9|8", 0.4)]
)
def test_an_episode_is_that_of_the_body_with_all_joints_moved_at_once(
    scenario: str, agent_conf: str, bound: float
) -> None:
    import gymnasium

    env = team(scenario=scenario, agent_conf=agent_conf)
    obs = env.reset([EpisodeSeeds(0, Purpose.EPISODE, 0)])
    raw = gymnasium.make(f"{scenario}-v5")
    seen, _ = raw.reset(seed=next(EpisodeSeeds(0, Purpose.EPISODE, 0)))
    split = env._envs[0]
    rng = np.random.default_rng(0)
    for _ in range(15):
        np.testing.assert_array_equal(obs.state[0], seen.astype(np.float32))
        actions = rng.uniform(-1, 1, (1, env.spec.n_agents, max(env.spec.action_dims))).astype(np.float32)
        moves = {f"agent_{i}": actions[0, i, :d] * bound for i, d in enumerate(env.spec.action_dims)}
        whole = split.map_local_actions_to_global_action(moves).astype(np.float32)
        step = env.step(actions)
        seen, reward, terminated, _, _ = raw.step(whole)
        np.testing.assert_allclose(step.reward[0], reward, rtol=1e-4)
        assert step.terminated[0] == terminated
        if terminated:
            break
        obs = step.next


@pytest.mark.parametrize("obsk", [0, 1, 2])
@pytest.mark.parametrize(
    "scenario",
    [
        "Walker2d 6x1",
        "Hopper 3x1",
        "HalfCheetah 2x3",
        "Ant 4x2",
        "Ant 2x4d",
        "Humanoid 9|8",
        "Reacher 2x1",
        "Swimmer 2x1",
    ],
)
def test_agents_see_and_do_to_the_bit_what_the_library_says(scenario: str, obsk: int) -> None:
    name, conf = scenario.split()
    env = team(scenario=name, agent_conf=conf, agent_obsk=obsk)
    library, arguments, _ = mamujoco.library_arguments(MaMuJoCo.Settings(scenario=name, agent_conf=conf))
    ours, theirs = env._envs[0], library.parallel_env(**{**arguments, "agent_obsk": obsk})
    assert isinstance(ours._get_obs, Views), "quick ways do not fit this version of the library"
    assert_same = np.testing.assert_equal
    assert_same(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = {agent: rng.uniform(-3, 3, theirs.action_space(agent).shape) for agent in theirs.possible_agents}
        whole = ours.map_local_actions_to_global_action(actions)
        np.testing.assert_array_equal(whole, theirs.map_local_actions_to_global_action(actions))
        assert_same(ours.step(actions)[:4], theirs.step(actions)[:4])


def test_what_is_not_a_number_is_no_action() -> None:
    env = team(**WALKER)._envs[0]
    env.reset(seed=0)
    actions = {agent: np.array([np.nan if agent == "agent_2" else 0.0]) for agent in env.possible_agents}
    with pytest.raises(AssertionError, match="undefined"):
        env.step(actions)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"agent_conf": "5x1"}, "UNKNOWN partitioning config: 5x1.*or 6x1 for one agent a joint"),
        ({"scenario": "Runner"}, r"env\.scenario=Runner"),
        ({"kwargs": {"wings": 2}}, r"cannot be made with env\.kwargs=.*wings"),
    ],
)
def test_refusals_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        team(**{**WALKER, **settings})


def test_pictures_need_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    pytest.importorskip(LIBRARY)
    env = MaMuJoCo(MaMuJoCo.Settings(max_steps=3).for_pictures(), 1)  # type: ignore[arg-type]
    env.reset([EpisodeSeeds(0, Purpose.EPISODE, 0)])
    picture = env.render(0)
    if picture is None:
        pytest.skip(env.why_no_picture)
    assert picture.shape == (480, 480, 3) and picture.std() > 10
