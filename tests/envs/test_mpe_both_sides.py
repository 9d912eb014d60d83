"""Both sides of the particle tasks as one team, frozen policies, and the opponents that come with the tasks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import mpe2.simple_tag_v3
import mpe2.simple_world_comm_v3
import numpy as np
import pytest

from phalanx.configs.errors import UserError
from phalanx.envs.frozen import FrozenPolicy
from phalanx.envs.mpe.adversary import SimpleAdversary
from phalanx.envs.mpe.opponents import shipped
from phalanx.envs.mpe.tag import SimpleTag
from phalanx.envs.mpe.task import ParticleTask
from phalanx.envs.mpe.world import SimpleWorld
from phalanx.envs.registry import env_class, env_settings
from phalanx.envs.team import TeamSpec
from tests.envs.test_mpe_equality import SEEDS, STEPS, Reference, toward_centre

SIZES = {"simple_tag": (14, 1), "simple_world": (28, 2), "simple_adversary": (8, 1)}  # seen by, and number of opponents
TRAINED = Path(__file__).parents[2] / "envs/mpe/trained"


def task(name: str, num_envs: int = 3, load: Any = None, **settings: Any) -> ParticleTask:
    kind: Any = env_class(name)
    env = kind(env_settings(name).model_validate({"name": name, **settings}), num_envs, load)
    assert isinstance(env, ParticleTask)
    return env


@pytest.mark.parametrize("name", SIZES)
def test_everybody_is_of_the_team_in_two_groups(name: str) -> None:
    env, plain = task(name, opponents="learning"), task(name, opponents="still")
    spec, team = env.spec, plain.spec
    seen, opponents = SIZES[name]
    assert spec.n_agents == team.n_agents + opponents and spec.agent_rewards
    assert spec.group_names == ("team", "opponents") and sum(spec.group_ids) == opponents
    assert [spec.obs_dims[i] for i, group in enumerate(spec.group_ids) if group] == [seen] * opponents
    obs, same = (e.reset([itertools.count(k) for k in range(3)]) for e in (env, plain))
    np.testing.assert_array_equal(obs.state, same.state)
    members = [i for i, group in enumerate(spec.group_ids) if not group]
    np.testing.assert_array_equal(obs.obs[:, members][..., : team.obs_dim], same.obs)
    parts = [obs.obs[:, i, :size] for i, size in enumerate(spec.obs_dims)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), obs.state)  # the state is what all see
    for i, size in enumerate(spec.obs_dims):
        assert not obs.obs[:, i, size:].any()


@pytest.mark.parametrize("name", SIZES)
def test_the_team_is_paid_as_ever_and_every_agent_for_its_side(name: str) -> None:
    env, plain = task(name, opponents="learning"), task(name, opponents="still")
    for each in (env, plain):
        each.reset([itertools.count(k) for k in range(3)])
    rng = np.random.default_rng(0)
    members = [i for i, group in enumerate(env.spec.group_ids) if not group]
    for _ in range(25):
        actions = np.zeros((3, env.spec.n_agents), np.int64)
        actions[:, members] = rng.integers(5, size=(3, len(members)))
        step, same = env.step(actions), plain.step(actions[:, members])
        np.testing.assert_array_equal(step.reward, same.reward)
        assert step.agent_reward is not None and step.agent_reward.shape == (3, env.spec.n_agents)
        expected = same.reward[:, None] if same.agent_reward is None else same.agent_reward
        np.testing.assert_array_equal(step.agent_reward[:, members], np.broadcast_to(expected, (3, len(members))))
    assert step.truncated.all()


def test_prey_of_simple_tag_are_paid_as_in_mpe2() -> None:
    env = SimpleTag(SimpleTag.Settings(name="simple_tag", max_steps=STEPS, reward="sparse", opponents="learning"), 4)
    ours, theirs = _played(env, mpe2.simple_tag_v3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert (ours[..., 3] < -5).any()


def test_prey_of_simple_world_are_paid_as_in_mpe2_but_for_the_way_to_food() -> None:
    settings = SimpleWorld.Settings(name="simple_world", max_steps=STEPS, reward="sparse", opponents="learning")
    env = SimpleWorld(settings, 4)
    ways: list[Any] = []
    ours, theirs = _played(env, mpe2.simple_world_comm_v3, ways)
    np.testing.assert_allclose(ours[..., 4:], theirs[..., 4:] + 0.05 * np.array(ways), rtol=1e-5, atol=1e-5)


def _played(env: ParticleTask, module: Any, ways: list[Any] | None = None) -> tuple[Any, Any]:
    """Rewards of all agents, [T, E, A], ours and mpe2's; `ways`: of each prey to the nearest of two pieces of food."""
    references = [Reference(module, seed) for seed in SEEDS]
    env.reset([itertools.count(seed) for seed in SEEDS])
    rng = np.random.default_rng(5)
    ours, theirs = [], []
    for step in range(STEPS - 1):
        actions = rng.integers(5, size=(len(SEEDS), env.spec.n_agents))
        if step > STEPS // 2:
            towards = np.stack([toward_centre(env, e) for e in range(len(SEEDS))])
            actions = np.where(rng.random(actions.shape) < 0.7, towards, actions)
        for reference, row in zip(references, actions, strict=True):
            reference.step(row)
        ours.append(env.step(actions).agent_reward)
        theirs.append([reference.rewards for reference in references])
        if ways is not None:
            prey, food = env.world.pos[:, 4:6, None], env.world.pos[:, None, 7:9]
            ways.append(np.sqrt(((prey - food) ** 2).sum(axis=0)).min(axis=1).T)
    return np.array(ours), np.array(theirs)


def test_the_adversary_is_paid_for_being_near() -> None:
    settings = {"name": "simple_adversary", "opponents": "learning"}
    for reward in ("shaped", "sparse"):
        env = SimpleAdversary(SimpleAdversary.Settings.model_validate({**settings, "reward": reward}), 16)
        env.reset([itertools.count(k) for k in range(16)])
        rng = np.random.default_rng(0)
        for _ in range(24):
            step = env.step(rng.integers(5, size=(16, 3)))
            goal = env.world.pos[:, 3 + env._goal, np.arange(16)]
            gap = np.sqrt(((env.world.pos[:, 0] - goal) ** 2).sum(axis=0))
            expected = -gap if reward == "shaped" else 5.0 * (gap < 0.16)
            assert step.agent_reward is not None
            np.testing.assert_allclose(step.agent_reward[:, 0], expected, rtol=1e-5)


# -- frozen policies ---------------------------------------------------------------------------------------------------


def random_policy(seed: int = 0, sizes: tuple[int, ...] = (14, 8, 6, 5)) -> FrozenPolicy:
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(sizes)
    return FrozenPolicy([(rng.normal(size=(b, a)).astype("f4"), rng.normal(size=b).astype("f4")) for a, b in pairs])


def test_a_frozen_policy_chooses_the_best_available_action_and_is_the_same_after_reload(tmp_path: Path) -> None:
    policy = random_policy()
    policy.save(tmp_path / "policy.npz")
    again = FrozenPolicy.load(tmp_path / "policy.npz")
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(50, 2, 14)).astype(np.float32)
    avail = rng.random((50, 2, 5)) < 0.6
    avail[..., 1] = True
    actions = policy.act(obs, avail)
    np.testing.assert_array_equal(actions, again.act(obs, avail))
    assert np.take_along_axis(avail, actions[..., None], -1).all()
    x = obs[3, 1]
    for k, (weight, bias) in enumerate(policy.layers):
        x = weight @ x + bias
        x = np.maximum(x, 0) if k < 2 else x
    assert actions[3, 1] == np.where(avail[3, 1], x, -np.inf).argmax()


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_what_is_no_frozen_policy_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "policy.npz").write_bytes(content)
    with pytest.raises(UserError, match="is not a frozen policy"):
        FrozenPolicy.load(tmp_path / "policy.npz")
    with pytest.raises(UserError, match="is not a frozen policy"):
        FrozenPolicy.load(tmp_path / "missing.npz")


@pytest.mark.parametrize("name", SIZES)
def test_every_opposed_task_comes_with_small_trained_opponents(name: str) -> None:
    file = TRAINED / f"{name}.npz"
    assert file.stat().st_size < 200_000
    policy = shipped(name, SIZES[name][0])
    obs = np.random.default_rng(0).normal(size=(256, 1, SIZES[name][0])).astype(np.float32)
    assert len(np.unique(policy.act(obs, np.ones((256, 1, 5), np.bool_)))) >= 4
    env = task(name, opponents="trained")
    env.reset([itertools.count(k) for k in range(3)])
    before = env.world.vel[:, env.scene.opponents].copy()
    for _ in range(5):
        env.step(np.zeros((3, env.spec.n_agents), np.int64))
    assert not np.array_equal(before, env.world.vel[:, env.scene.opponents])


def test_trained_opponents_are_refused_where_they_would_see_something_else() -> None:
    with pytest.raises(UserError, match=r"env\.opponents=trained.* see 14 numbers, but here there are 16"):
        task("simple_tag", opponents="trained", predators=4)


def test_one_side_of_a_policy_of_both_plays_the_opponents() -> None:
    """It sees the opponents' observations in its own places, and others' actions are not asked for."""

    class Both:
        def __init__(self, spec: TeamSpec) -> None:
            self.spec, self.seen = spec, np.zeros(0)

        def reset(self, num_envs: int) -> None:
            pass

        def reset_rows(self, rows: Any) -> None:
            pass

        def act(self, obs: Any, avail: Any) -> Any:
            self.seen = obs
            return np.tile([4, 4, 4, 2], (len(obs), 1))

    both = Both(task("simple_tag", opponents="learning").spec)
    env = task("simple_tag", load=lambda _: both, opponents="checkpoint:x")
    obs = env.reset([itertools.count(k) for k in range(3)])
    env.step(np.zeros((3, 3), np.int64))
    np.testing.assert_array_equal(both.seen[:, 3, :14], obs.state[:, -14:])
    assert not both.seen[:, :3].any() and (env.world.vel[0, 3] > 0).all()
    with pytest.raises(UserError, match="does not fit the opponents"):
        task("simple_tag", load=lambda _: both, opponents="checkpoint:x", obstacles=1)
