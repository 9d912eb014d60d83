"""Properties of the particle tasks that hold whatever is played."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.envs.mpe.physics import DAMPING, DT, Bodies, ParticleWorld
from phalanx.envs.mpe.task import ParticleTask
from phalanx.envs.registry import env_settings, make_env
from phalanx.envs.team import Obs, Step

TASKS = ("simple_tag", "simple_spread", "simple_adversary", "simple_world")
OPPOSED = ("simple_tag", "simple_adversary", "simple_world")
SEED = st.integers(0, 2**32 - 1)


def make(name: str, num_envs: int = 1, **keys: Any) -> ParticleTask:
    env = make_env(env_settings(name).model_validate({"name": name, **keys}), num_envs)
    assert isinstance(env, ParticleTask)
    return env


def seeds(*firsts: int) -> list[Iterator[int]]:
    """Environment e plays the episodes firsts[e], firsts[e] + 1, …"""
    return [itertools.count(first) for first in firsts]


def arrays(obs: Obs) -> list[np.ndarray]:
    return [getattr(obs, f.name) for f in dataclasses.fields(obs)]


def play(env: ParticleTask, starts: list[int], actions: np.ndarray) -> list[list[np.ndarray]]:
    """Everything an environment shows while actions [T, E, N] are taken, one list of [E, …] arrays for each step."""
    shown = [arrays(env.reset(seeds(*starts)))]
    for row in actions:
        step = env.step(row)
        shown.append([*arrays(step.next), step.reward, step.terminated, step.truncated, *step.info.values()])
    return shown


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("opponents", ["scripted", "random", "still"])
@settings(max_examples=8, deadline=None)
@given(starts=st.lists(SEED, min_size=2, max_size=4), moves=SEED)
def test_an_episode_is_a_function_of_its_seed_and_the_teams_actions(
    name: str, opponents: str, starts: list[int], moves: int
) -> None:
    """Row e of a vector, whatever its neighbours, is what a lone environment shows, over several episodes."""
    keys = {"max_steps": 7, **({"opponents": opponents} if name in OPPOSED else {})}
    together = make(name, len(starts), **keys)
    actions = np.random.default_rng(moves).integers(5, size=(16, len(starts), together.spec.n_agents))
    shown = play(together, starts, actions)
    for e, start in enumerate(starts):
        alone = play(make(name, 1, **keys), [start], actions[:, e : e + 1])
        for step, expected in zip(shown, alone, strict=True):
            for x, y in zip(step, expected, strict=True):
                np.testing.assert_array_equal(x[e], y[0])


@pytest.mark.parametrize("name", TASKS)
def test_the_limit_truncates_and_shows_both_the_last_and_the_first_observation(name: str) -> None:
    short, long = make(name, 3, max_steps=4), make(name, 3, max_steps=9)
    first = short.reset(seeds(10, 20, 30))
    long.reset(seeds(10, 20, 30))
    actions = np.random.default_rng(0).integers(5, size=(4, 3, short.spec.n_agents))
    for t, row in enumerate(actions):
        step, going_on = short.step(row), long.step(row)
        assert not step.terminated.any()
        assert step.truncated.all() == step.truncated.any() == (t == 3)
        assert (step.final is not None) == (t == 3)
    assert step.final is not None
    for x, y in zip(arrays(step.final), arrays(going_on.next), strict=True):
        np.testing.assert_array_equal(x, y)
    fresh = make(name, 3).reset(seeds(11, 21, 31))
    np.testing.assert_array_equal(step.next.state, fresh.state)
    assert not np.array_equal(step.next.state, first.state)
    np.testing.assert_array_equal(step.reward, going_on.reward)


@pytest.mark.parametrize("name", TASKS)
def test_what_was_returned_belongs_to_the_receiver(name: str) -> None:
    env, same = make(name, 2, max_steps=3), make(name, 2, max_steps=3)
    kept: list[tuple[np.ndarray, np.ndarray]] = []

    def keep(seen: Obs | Step) -> None:
        parts = arrays(seen) if isinstance(seen, Obs) else [*arrays(seen.next), seen.reward, seen.truncated]
        if isinstance(seen, Step) and seen.final is not None:
            parts += arrays(seen.final)
        for one, other in itertools.combinations(parts, 2):
            assert not np.shares_memory(one, other)
        kept.extend((part, part.copy()) for part in parts)

    keep(env.reset(seeds(1, 2)))
    same.reset(seeds(1, 2))
    actions = np.random.default_rng(0).integers(5, size=(8, 2, env.spec.n_agents))
    for row in actions:
        keep(env.step(row))
        spoiled = same.step(row)
        for part in arrays(spoiled.next):
            part[...] = 0  # must not reach the environment
    for part, copy in kept:
        np.testing.assert_array_equal(part, copy)
    np.testing.assert_array_equal(env.step(actions[0]).next.state, same.step(actions[0]).next.state)


@pytest.mark.parametrize("name", TASKS)
def test_the_spec_tells_the_truth(name: str) -> None:
    env = make(name, 3)
    spec, obs = env.spec, env.reset(seeds(1, 2, 3))
    assert obs.obs.shape == (3, spec.n_agents, spec.obs_dim) and obs.obs.dtype == np.float32
    assert obs.state.shape == (3, spec.state_dim) and obs.state.dtype == np.float32
    assert obs.avail.shape == (3, spec.n_agents, spec.n_actions) and obs.avail.all()
    assert obs.alive.shape == (3, spec.n_agents) and obs.alive.all()
    assert len(spec.agent_names) == len(spec.obs_dims) == len(spec.action_dims) == len(spec.group_ids) == spec.n_agents
    assert set(spec.group_ids) == set(range(len(spec.group_names)))
    step = env.step(np.zeros((3, spec.n_agents), dtype=np.int32))
    assert step.reward.shape == (3,) and step.reward.dtype == np.float32
    assert set(step.info) == set(spec.metrics)
    assert spec.episode_limit == 25


def test_the_leader_of_simple_world_is_of_its_own_kind() -> None:
    spec = make("simple_world").spec
    assert spec.group_names == ("leadadversary", "adversary") and spec.group_ids == (0, 1, 1, 1)
    assert (spec.obs_dim, spec.state_dim) == (30, 176)


@pytest.mark.parametrize("name", ["simple_tag", "simple_world"])
@pytest.mark.parametrize("reward", ["shaped", "sparse"])
def test_contacts_are_the_touching_pairs_and_what_the_reward_pays_for(name: str, reward: str) -> None:
    env = make(name, 64, reward=reward, opponents="still")
    env.reset(seeds(*range(64)))
    world, p, a = env.world, env.spec.n_agents, env.world.n_agents
    total = 0
    for _ in range(24):
        _, halt = world.foresee(slice(0, p))
        chase = ((halt - world.pos[:, p : p + 1]) ** 2).sum(axis=1).argmin(axis=0).T
        step = env.step(chase)
        delta = world.pos[:, :p, None] - world.pos[:, None, p:a]  # [2, P, G, E]
        gaps = np.hypot(delta[0], delta[1])
        size = np.array(world.bodies.sizes)
        contacts = (gaps < (size[:p, None] + size[p:a])[:, :, None]).sum(axis=(0, 1))
        np.testing.assert_array_equal(step.info["contacts"], contacts)
        shaping = 0.1 * gaps.min(axis=1).sum(axis=0) if reward == "shaped" else 0.0
        each = 10 if name == "simple_tag" else 5
        np.testing.assert_allclose(step.reward, each * contacts - shaping, rtol=1e-5, atol=1e-5)
        total += int(contacts.sum())
    assert total > 100


def test_sparse_spread_counts_covered_landmarks() -> None:
    env = make("simple_spread", 1, reward="sparse", local_ratio=0.25)
    env.reset(seeds(0))
    place = np.array([[0.0, 0.0], [0.05, 0.05], [0.9, 0.9], [0.0, 0.09], [-0.9, 0.5], [0.9, 0.81]])
    env.world.place(np.array([0]), place[None])
    # Two of three landmarks are covered; two agents touch each other: 2 bumps over 3 agents. Nobody moves in one step.
    reward = env.step(np.zeros((1, 3), dtype=int)).reward[0]
    assert reward == pytest.approx(0.75 * 2 - 0.25 * 2 / 3)


@pytest.mark.parametrize(
    ("good", "adversary", "expected"), [(0.15, 0.5, 5), (0.15, 0.1, 0), (0.5, 0.1, -5), (0.3, 0.3, 0)]
)
def test_sparse_adversary_pays_for_being_at_the_goal(good: float, adversary: float, expected: float) -> None:
    env = make("simple_adversary", 1, reward="sparse", opponents="still")
    env.reset(seeds(4))
    place = env.world.pos[:, :, 0].T.copy()
    goal = place[0] + env.world.extra[[0, 3], 0]  # as seen from the adversary, plus where that is
    place[:3] = goal + np.array([[adversary, 0.0], [-good, 0.0], [0.0, 0.9]])
    env.world.place(np.array([0]), place[None])
    assert env.step(np.zeros((1, 2), dtype=int)).reward[0] == expected


def test_integrators_differ_in_what_comes_first() -> None:
    """One agent pushes right with force 4 up to speed 1: both integrators worked through with plain numbers."""
    worlds = {
        integrator: ParticleWorld(Bodies(sizes=(0.1,), push=(4.0,), max_speed=(1.0,), solid=0), 1, integrator)
        for integrator in ("mpe2", "original")
    }
    x, v = {"mpe2": 0.0, "original": 0.0}, 0.0
    for _ in range(8):
        old, v = v, min(v * (1 - DAMPING) + 4.0 * DT, 1.0)
        x = {"mpe2": x["mpe2"] + old * DT, "original": x["original"] + v * DT}
        for integrator, world in worlds.items():
            world.step(np.array([[2]]))
            assert world.pos[0, 0, 0] == pytest.approx(x[integrator], abs=1e-12)
            assert world.vel[:, 0, 0] == pytest.approx([v, 0.0], abs=1e-12)
    assert v == 1.0  # the limit was reached


@pytest.mark.parametrize("integrator", ["mpe2", "original"])
def test_foreseen_positions_come_true(integrator: Any) -> None:
    """`next` one move later (two with mpe2, where the first move still has the old velocity), `rest` in the end."""
    bodies = Bodies(sizes=(0.1,), push=(4.0,), max_speed=(1.3,), solid=0)
    for action in range(5):
        world = ParticleWorld(bodies, 1, integrator)
        for warming_up in (2, 2, 4, 2):
            world.step(np.array([[warming_up]]))
        following, rest = world.foresee(slice(0, 1))
        world.step(np.array([[action]]))
        if integrator == "mpe2":
            world.step(np.array([[0]]))
        np.testing.assert_allclose(world.pos[:, 0, 0], following[action, :, 0, 0], atol=1e-12)
        for _ in range(150):
            world.step(np.array([[0]]))
        np.testing.assert_allclose(world.pos[:, 0, 0], rest[action, :, 0, 0], atol=1e-9)


def test_colliding_bodies_push_each_other_apart() -> None:
    world = ParticleWorld(Bodies(sizes=(0.1, 0.1, 0.2), push=(5.0, 5.0), max_speed=(np.inf,) * 2, solid=2), 1, "mpe2")
    world.place(np.array([0]), np.array([[[0.0, 0.0], [0.15, 0.0], [0.0, 0.1]]]))
    world.step(np.zeros((2, 1), dtype=int))
    # Overlap 0.05, force 100 per unit, 0.1 s: speed 0.5; the third body is not solid.
    np.testing.assert_allclose(world.vel[:, :, 0], [[-0.5, 0.5], [0.0, 0.0]], atol=1e-9)


def test_placing_some_worlds_leaves_the_others_alone() -> None:
    world = ParticleWorld(Bodies(sizes=(0.1, 0.1), push=(5.0,), max_speed=(1.0,), solid=0), 3, "mpe2")
    world.place(np.arange(3), np.arange(12.0).reshape(3, 2, 2))
    world.step(np.array([[1, 2, 3]]))
    before = world.rows.copy()
    world.place(np.array([1]), np.full((1, 2, 2), 0.5))
    np.testing.assert_array_equal(world.rows[:, [0, 2]], before[:, [0, 2]])
    assert not world.vel[:, :, 1].any() and (world.pos[:, :, 1] == 0.5).all()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_drawn(name: str) -> None:
    env = make(name, 2)
    env.reset(seeds(1, 2))
    one, other = env.render(0), env.render(1)
    assert one.shape == other.shape
    assert one.shape[0] > one.shape[1] == 352  # the legend is below
    assert (one != other).any()


def test_the_goal_is_drawn_in_its_own_colour() -> None:
    from phalanx.envs.drawing import ROLES

    env = make("simple_adversary", 20)
    env.reset(seeds(*range(20)))
    for index in range(20):
        assert (env.render(index) == ROLES["goal"]).all(axis=2).any()


@pytest.mark.parametrize("name", TASKS)
def test_actions_that_do_not_exist_are_refused(name: str) -> None:
    env = make(name)
    env.reset(seeds(1))
    with pytest.raises(IndexError):
        env.step(np.full((1, env.spec.n_agents), 5))


@pytest.mark.parametrize(
    ("name", "keys", "sizes"),
    [
        ("simple_tag", {"predators": 5, "prey": 2, "obstacles": 3}, (5, 4 + 6 + 12 + 4)),
        ("simple_spread", {"agents": 4}, (4, 24)),
        ("simple_adversary", {"good_agents": 3}, (3, 2 + 6 + 6)),
        ("simple_world", {"predators": 2, "prey": 1, "obstacles": 2, "food": 1, "forests": 0}, (2, 4 + 6 + 4 + 2)),
    ],
)
def test_numbers_of_agents_and_landmarks_are_settings(name: str, keys: dict[str, int], sizes: tuple[int, int]) -> None:
    spec = make(name, **keys).spec
    assert (spec.n_agents, spec.obs_dim) == sizes
