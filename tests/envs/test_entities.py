"""Entity views: what they name is what the environment shows there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import run_from_dict
from phalanx.envs.mpe.task import ParticleTask
from phalanx.envs.registry import make_env
from phalanx.envs.team import EntityView, Obs, TeamEnv, TeamSpec


def started(name: str, **settings: Any) -> tuple[TeamEnv, Obs, EntityView]:
    """After four random steps."""
    env = make_env(
        run_from_dict({"env": {"name": name, **settings}, "algorithm": {"name": "iql"}}, catalogue=CATALOGUE).env, 3
    )
    obs, rng = env.reset([iter(range(e, 1000)) for e in range(3)]), np.random.default_rng(0)
    for _ in range(4):
        actions = np.where(obs.avail, rng.random(obs.avail.shape), -1).argmax(-1)
        obs = env.step(actions).next
    assert env.spec.entities is not None
    return env, obs, env.spec.entities


def assert_partition(spec: TeamSpec) -> None:
    assert spec.entities is not None and spec.entities.columns == tuple(range(spec.obs_dim))


@pytest.mark.parametrize(("predators", "prey", "obstacles"), [(3, 1, 2), (2, 3, 0), (1, 2, 1)])
def test_simple_tag(predators: int, prey: int, obstacles: int) -> None:
    env, obs, view = started("simple_tag", predators=predators, prey=prey, obstacles=obstacles)
    assert isinstance(env, ParticleTask)
    assert_partition(env.spec)
    assert (len(view.allies), len(view.enemies), len(view.objects)) == (predators - 1, prey, obstacles)
    pos, vel = env.world.pos.transpose(2, 1, 0), env.world.vel.transpose(2, 1, 0)  # [E, M, 2]
    for i in range(predators):
        seen = obs.obs[:, i]
        others = [j for j in range(predators) if j != i]
        np.testing.assert_allclose(seen[:, view.own], np.concatenate([vel[:, i], pos[:, i]], 1), atol=1e-6)
        for j, columns in zip(others, view.allies, strict=True):
            np.testing.assert_allclose(seen[:, columns], pos[:, j] - pos[:, i], atol=1e-6)
        for j, columns in enumerate(view.enemies, predators):
            expected = np.concatenate([pos[:, j] - pos[:, i], vel[:, j]], 1)
            np.testing.assert_allclose(seen[:, columns], expected, atol=1e-6)
        for j, columns in enumerate(view.objects, predators + prey):
            np.testing.assert_allclose(seen[:, columns], pos[:, j] - pos[:, i], atol=1e-6)


@pytest.mark.parametrize("good_agents", [1, 2, 4])
def test_simple_adversary(good_agents: int) -> None:
    env, obs, view = started("simple_adversary", good_agents=good_agents)
    assert isinstance(env, ParticleTask)
    assert_partition(env.spec)
    assert (len(view.allies), len(view.enemies), len(view.objects)) == (good_agents - 1, 1, good_agents)
    pos = env.world.pos.transpose(2, 1, 0)
    for i in range(good_agents):
        seen, me = obs.obs[:, i], pos[:, 1 + i]
        landmarks = [seen[:, columns] for columns in view.objects]
        for j, found in enumerate(landmarks, 1 + good_agents):
            np.testing.assert_allclose(found, pos[:, j] - me, atol=1e-6)
        goal = seen[:, view.own]
        assert np.min([np.abs(goal - found).sum(axis=1) for found in landmarks], axis=0).max() == 0
        np.testing.assert_allclose(seen[:, view.enemies[0]], pos[:, 0] - me, atol=1e-6)
        others = [j for j in range(1, good_agents + 1) if j != 1 + i]
        for j, columns in zip(others, view.allies, strict=True):
            np.testing.assert_allclose(seen[:, columns], pos[:, j] - me, atol=1e-6)


@pytest.mark.parametrize(
    ("predators", "prey", "obstacles", "food", "forests"), [(4, 2, 1, 2, 2), (2, 1, 0, 0, 1), (1, 3, 2, 1, 0)]
)
def test_simple_world(predators: int, prey: int, obstacles: int, food: int, forests: int) -> None:
    env, obs, view = started(
        "simple_world", predators=predators, prey=prey, obstacles=obstacles, food=food, forests=forests
    )
    assert isinstance(env, ParticleTask)
    assert_partition(env.spec)
    objects = obstacles + food + forests
    assert (len(view.allies), len(view.enemies), len(view.objects)) == (predators - 1, prey, objects)
    assert [mark.index(1.0) for mark in view.object_marks] == [0] * obstacles + [1] * food + [2] * forests
    pos, vel = env.world.pos.transpose(2, 1, 0), env.world.vel.transpose(2, 1, 0)  # [E, M, 2]
    first = predators + prey + obstacles + food
    for i in range(predators):
        seen = obs.obs[:, i]
        inside = np.linalg.norm(pos[:, first:] - pos[:, i : i + 1], axis=2) < 0.3 + 0.075
        np.testing.assert_allclose(
            seen[:, view.own], np.concatenate([vel[:, i], pos[:, i], np.where(inside, 1, -1)], 1), atol=1e-6
        )
        for j, columns in enumerate(view.objects, predators + prey):
            np.testing.assert_allclose(seen[:, columns], pos[:, j] - pos[:, i], atol=1e-6)
        others = [j for j in range(predators) if j != i]
        for entities, bodies in ((view.allies, others), (view.enemies, range(predators, predators + prey))):
            for j, columns in zip(bodies, entities, strict=True):
                expected = np.concatenate([pos[:, j] - pos[:, i], vel[:, j]], 1)[:, : len(columns)]
                found = seen[:, columns]
                hidden = (found == 0).all(axis=1)  # in a forest
                np.testing.assert_allclose(found[~hidden], expected[~hidden], atol=1e-6)
                assert i != 0 or not hidden.any()  # the leader sees everybody


@pytest.mark.parametrize("name", ["simple_tag", "simple_world", "simple_adversary"])
@pytest.mark.parametrize("network", ["asn", "updet", "atm"])
def test_networks_of_entities_can_be_used_there(name: str, network: str) -> None:
    from phalanx.algorithms.registry import make_algorithm

    document = {"env": {"name": name}, "algorithm": {"name": "qmix"}, "agent": {"network": network, "hidden": 8}}
    run = run_from_dict(document, catalogue=CATALOGUE)
    spec = make_env(run.env, 1).spec
    agents: Any = make_algorithm(run, spec).agents
    values = agents(torch.rand(3, 2 * spec.n_agents, spec.obs_dim + spec.n_actions + spec.n_agents))
    assert values.shape == (1, 3, 2 * spec.n_agents, spec.n_actions)


@pytest.mark.parametrize("agents", [1, 3, 4])
def test_simple_spread(agents: int) -> None:
    env, obs, view = started("simple_spread", agents=agents)
    assert isinstance(env, ParticleTask)
    assert_partition(env.spec)
    assert (len(view.allies), len(view.enemies), len(view.objects)) == (agents - 1, 0, agents)
    pos = env.world.pos.transpose(2, 1, 0)
    for i in range(agents):
        seen = obs.obs[:, i]
        for j, columns in zip([j for j in range(agents) if j != i], view.allies, strict=True):
            np.testing.assert_allclose(seen[:, columns[:2]], pos[:, j] - pos[:, i], atol=1e-6)
            assert not seen[:, columns[2:]].any()
        for j, columns in enumerate(view.objects, agents):
            np.testing.assert_allclose(seen[:, columns], pos[:, j] - pos[:, i], atol=1e-6)


@pytest.mark.parametrize("view", [1, 2])
def test_stag_hunt(view: int) -> None:
    """Each cell with its place: the window can be put together again from the entities."""
    env, obs, entities = started("stag_hunt", size=5, agents=4, prey=4, view=view)
    assert_partition(env.spec)
    side = 2 * view + 1
    assert len(entities.objects) == side**2 - 1 and not entities.allies and not entities.enemies
    window = np.zeros((*obs.obs.shape[:2], side, side, 3), np.float32)
    window[:, :, view, view] = obs.obs[..., entities.own]
    for columns, (row, column) in zip(entities.objects, entities.object_marks, strict=True):
        window[:, :, round(row * view) + view, round(column * view) + view] = obs.obs[..., columns]
    np.testing.assert_array_equal(window.reshape(obs.obs.shape), obs.obs)
    assert obs.obs.any()


def test_others_have_none() -> None:
    for name in ("matrix", "two_step", "stag_hunt_het"):
        run = run_from_dict({"env": {"name": name}, "algorithm": {"name": "iql"}}, catalogue=CATALOGUE)
        assert make_env(run.env, 1).spec.entities is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"allies": ((0, 1), (2,))}, "allies have unequally many"),
        ({"objects": ((0,), (1,)), "object_marks": ((0.5,),)}, "object_marks has 1 entries for 2 objects"),
        ({"enemies": ((0,), (1,)), "enemy_actions": (2,)}, "enemy_actions has 1 entries for 2 enemies"),
        ({"enemies": ((0,), (1,)), "enemy_actions": (2, 2)}, "twice"),
    ],
)
def test_a_view_must_be_consistent(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EntityView(own=(0,), **wrong)


def test_a_view_must_fit_its_environment() -> None:
    spec = started("simple_tag")[0].spec
    with pytest.raises(ValueError, match=r"simple_tag names columns \[16\] outside of its 16"):
        replace(spec, entities=EntityView(own=(16,)))
    with pytest.raises(ValueError, match=r"actions \[5\] outside of its 5"):
        replace(spec, entities=EntityView(own=(0,), enemies=((1,),), enemy_actions=(5,)))
