"""Dispersion: numbers recorded from VMAS, the rules one by one, and all of them against a slow reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from phalanx.envs.check import check_env
from phalanx.envs.dispersion import Dispersion
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import Obs, Step


def started(num_envs: int = 1, **settings: Any) -> tuple[Dispersion, Obs]:
    env = Dispersion(Dispersion.Settings(**settings), num_envs)
    return env, env.reset([EpisodeSeeds(3, Purpose.EPISODE, e) for e in range(num_envs)])


def with_food(*food: tuple[float, float], **settings: Any) -> Dispersion:
    env, _ = started(**{"agents": 2, "food": len(food), **settings})
    env._food[0] = food
    return env


def act(env: Dispersion, *actions: Any) -> Step:
    return env.step(np.array([actions]))


# Two agents of VMAS 1.5.2, food at (0.06, 0) and (-0.9, 0.04) of radius 0.05, not shared; actions 6 and 3 for ten
# steps, 8 and 4 for ten, 1 and 3 for eight. By step: the rewards, and what each of the two observes.
VMAS = {
    0: (
        [0.5, 0.5],
        [0.01, 0, 0.1, 0, 0.05, 0, 1, -0.91, 0.04, 0],
        [-0.01, 0, -0.1, 0, 0.07, 0, 1, -0.89, 0.04, 0],
    ),
    13: (
        [0, 0],
        [0.44214, 0.07797, 0.39287, 0.27344, -0.38214, -0.07797, 1, -1.34214, -0.03797, 0],
        [-0.44214, -0.07797, -0.39287, -0.27344, 0.50214, 0.07797, 1, -0.45786, 0.11797, 0],
    ),
    27: (
        [0, 0],
        [0.78802, 0.17665, 0.03992, -0.32216, -0.72802, -0.17665, 1, -1.68802, -0.13665, 0],
        [-1, -0.38866, -0.39987, -0.03779, 1.06, 0.38866, 1, 0.1, 0.42866, 0],
    ),
}


def test_the_numbers_of_vmas() -> None:
    env = with_food((0.06, 0), (-0.9, 0.04), share_reward=False)
    script = [(6, 3)] * 10 + [(8, 4)] * 10 + [(1, 3)] * 8
    steps = [act(env, *actions) for actions in script]
    for t, (rewards, *seen) in VMAS.items():
        assert steps[t].agent_reward is not None
        assert steps[t].agent_reward.tolist() == [rewards]
        np.testing.assert_allclose(steps[t].next.obs[0], seen, atol=6e-6)


def test_the_published_sizes() -> None:
    env, obs = started(5)
    assert (env.spec.n_agents, env.spec.obs_dim, env.spec.state_dim, env.spec.n_actions) == (4, 16, 28, 9)
    assert env.spec.episode_limit == 100
    assert not obs.obs[:, :, :4].any()  # all start in the middle, at rest
    assert not obs.obs[:, :, 6::3].any()  # nothing is eaten
    food = obs.state[:, 16:].reshape(5, 4, 3)
    np.testing.assert_array_equal(food[..., :2], obs.obs[:, 0, 4:].reshape(5, 4, 3)[..., :2])
    assert (np.abs(food[..., :2]) <= 1).all()
    assert len(np.unique(food[..., :2])) == 40


def test_each_piece_is_an_entity() -> None:
    entities = started(food=3)[0].spec.entities
    assert entities is not None
    assert entities.own == (0, 1, 2, 3)
    assert entities.objects == ((4, 5, 6), (7, 8, 9), (10, 11, 12))


def test_food_is_spread_evenly_over_the_square() -> None:
    food = np.concatenate([env._food.reshape(-1) for env, _ in [started(400, size=2.0)]])
    assert np.histogram(food, bins=4, range=(-2, 2))[0].min() > 0.22 * len(food)


def test_the_nine_actions_push_along_both_axes() -> None:
    for action in range(9):
        step = act(with_food((0.9, 0.9)), action, 0)
        push = [[0, -1, 1][action // 3], [0, -1, 1][action % 3]]
        np.testing.assert_allclose(step.next.obs[0, 0, 2:4], np.array(push) * 0.1, atol=1e-7)
        assert not step.next.obs[0, 1, :4].any()


def test_continuous_pushes_are_cut_to_one() -> None:
    env = with_food((0.9, 0.9), actions="continuous")
    assert not env.spec.discrete and env.spec.action_dims == (2, 2) and env.spec.n_actions == 0
    step = act(env, [0.5, -0.25], [7.0, -7.0])
    np.testing.assert_allclose(step.next.obs[0, :, 2:4], [[0.05, -0.025], [0.1, -0.1]], atol=1e-7)


def test_walls_stop_but_do_not_brake() -> None:
    env = with_food((-0.9, 0.9), max_steps=100)
    for _ in range(60):
        step = act(env, 6, 0)
    assert step.next.obs[0, 0, 0] == 1
    assert step.next.obs[0, 0, 2] == pytest.approx(0.4)


@pytest.mark.parametrize(("share", "by_one", "by_two"), [(True, [1, 1], [1, 1]), (False, [1, 0], [0.5, 0.5])])
def test_who_is_paid_for_a_piece(share: bool, by_one: list[float], by_two: list[float]) -> None:
    food = ((0.09, 0), (0.9, 0.9))  # within reach of whoever goes right
    for actions, paid in (((6, 3), by_one), ((6, 6), by_two), ((3, 3), [0, 0])):
        step = act(with_food(*food, share_reward=share), *actions)
        assert step.agent_reward is not None
        assert step.agent_reward.tolist() == [paid]
        assert step.reward.tolist() == [np.mean(paid)]
        assert step.info["eaten"].tolist() == [int(any(paid))]


def test_time_costs_who_is_paid_nothing() -> None:
    step = act(with_food((0.09, 0), (0.9, 0.9), share_reward=False, penalise_by_time=True), 6, 3)
    assert step.agent_reward is not None
    np.testing.assert_allclose(step.agent_reward, [[1, -0.01]])


def test_a_piece_is_eaten_once_and_shown_as_eaten() -> None:
    env = with_food((0.09, 0), (0.9, 0.9))
    first, second = act(env, 6, 0), act(env, 0, 0)
    assert (first.reward[0], second.reward[0]) == (1, 0)
    assert first.next.obs[0, :, 6].tolist() == [1, 1]
    assert first.next.state[0, [10, 13]].tolist() == [1, 0]


def test_the_episode_terminates_with_the_last_piece() -> None:
    step = act(with_food((0.05, 0), (0, 0.05)), 0, 0)
    assert step.reward.tolist() == [2]
    assert step.terminated.tolist() == [True] and step.info["win"].tolist() == [True]
    assert step.final is not None and step.final.obs[0, 0, 6::3].tolist() == [1, 1]
    assert not step.next.obs[0, :, 6::3].any()


def test_an_action_that_does_not_exist_is_refused() -> None:
    for wrong in (9, -1):
        with pytest.raises(ValueError, match="actions 0 to 8 only"):
            act(with_food((0.9, 0.9)), wrong, 0)


def test_the_picture_shows_agents_and_what_is_left_to_eat() -> None:
    env = with_food((0.5, 0.5), (0.05, 0))
    before = env.render(0)
    act(env, 8, 0)
    after = env.render(0)
    assert before.shape == after.shape == (376, 352, 3)
    assert (before != after).any()


class Reference:
    """One environment in plain Python, straight from the rules."""

    def __init__(self, settings: Any, food: Any) -> None:
        self.s, self.food = settings, [[float(x), float(y)] for x, y in food]
        self.pos = [[0.0, 0.0] for _ in range(settings.agents)]
        self.vel = [[0.0, 0.0] for _ in range(settings.agents)]
        self.eaten = [False] * len(self.food)

    def step(self, pushes: Any) -> list[float]:
        for pos, vel, push in zip(self.pos, self.vel, pushes, strict=True):
            for axis in range(2):
                vel[axis] = 0.75 * vel[axis] + 0.1 * float(push[axis])
                pos[axis] = min(max(pos[axis] + 0.1 * vel[axis], -self.s.size), self.s.size)
        paid = [0.0] * self.s.agents
        for f, food in enumerate(self.food):
            there = [i for i, pos in enumerate(self.pos) if math.dist(pos, food) < 0.035 + self.s.food_radius]
            if there and not self.eaten[f]:
                self.eaten[f] = True
                for i in range(self.s.agents) if self.s.share_reward else there:
                    paid[i] += 1 if self.s.share_reward else 1 / len(there)
        return [-0.01 if p == 0 and self.s.penalise_by_time else p for p in paid]

    def obs(self) -> list[list[float]]:
        seen = []
        for pos, vel in zip(self.pos, self.vel, strict=True):
            pieces = [[x - pos[0], y - pos[1], eaten] for (x, y), eaten in zip(self.food, self.eaten, strict=True)]
            seen.append([*pos, *vel, *(number for piece in pieces for number in piece)])
        return seen


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"agents": 3, "food": 5, "food_radius": 0.3, "share_reward": False, "penalise_by_time": True},
        {"actions": "continuous", "food_radius": 0.4, "size": 0.7, "max_steps": 30},
    ],
)
def test_every_step_equals_the_slow_reference(settings: dict[str, Any]) -> None:
    num_envs, rng = 4, np.random.default_rng(0)
    env, obs = started(num_envs, **settings)
    n, continuous = env.spec.n_agents, not env.spec.discrete
    references = [Reference(env._settings, food) for food in env._food]
    eaten = ends = 0
    actions = np.zeros((num_envs, n), np.int64)
    for t in range(260):
        np.testing.assert_allclose(obs.obs, [reference.obs() for reference in references], atol=1e-5)
        if t % 6 == 0:  # who changes its mind at every step gets nowhere
            actions = rng.uniform(-1, 1, (num_envs, n, 2)) if continuous else rng.integers(9, size=(num_envs, n))
        axes = np.array([0, -1, 1])[np.stack([actions // 3, actions % 3], axis=2)] if not continuous else actions
        step = env.step(actions.astype(np.float32) if continuous else actions)
        ended = np.flatnonzero(step.ended).tolist()
        assert step.agent_reward is not None
        for e, reference in enumerate(references):
            np.testing.assert_allclose(step.agent_reward[e], reference.step(axes[e]), atol=1e-6)
            assert step.terminated[e] == all(reference.eaten)
            if e in ended:
                assert step.final is not None
                np.testing.assert_allclose(step.final.obs[ended.index(e)], reference.obs(), atol=1e-5)
                references[e] = Reference(env._settings, env._food[e])
        eaten += int(step.info["eaten"].sum())
        ends += len(ended)
        obs = step.next
    assert eaten > 0 and ends > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"actions": "continuous", "max_steps": 30},
        {"agents": 1, "food": 6, "share_reward": False, "food_radius": 0.4, "size": 2.0},
    ],
)
def test_every_variant_conforms(settings: dict[str, Any]) -> None:
    assert check_env(lambda count: started(count, **settings)[0]) == []
