"""Specialisation and Synchronisation: known matrices, the paper's bound, and every joint action against counting."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.envs.check import check_env
from phalanx.envs.registry import env_settings, make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import Obs, TeamEnv

GAMES = ("specialisation", "synchronisation")


def game(name: str, num_envs: int = 1, **keys: Any) -> tuple[TeamEnv, Obs]:
    env = make_env(env_settings(name)(name=name, **keys), num_envs)
    return env, env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(num_envs)])


def paid(name: str, choices: Sequence[int]) -> list[float]:
    """The definition, agent by agent."""
    n = len(choices)
    counts = [choices.count(choice) for choice in choices]
    return [1 / c if name == "specialisation" else 1 / (n - c + 1) for c in counts]


def test_the_two_player_matrices() -> None:
    joint = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    for name, mean in (("specialisation", [0.5, 1, 1, 0.5]), ("synchronisation", [1, 0.5, 0.5, 1])):
        env, _ = game(name, 4)
        step = env.step(joint)
        assert step.reward.tolist() == mean
        assert step.agent_reward is not None
        assert step.agent_reward.tolist() == [[value, value] for value in mean]


def test_four_agents_of_whom_two_agree_in_synchronisation() -> None:
    env, _ = game("synchronisation", agents=4)
    step = env.step(np.array([[3, 3, 0, 1]]))
    assert step.agent_reward is not None
    np.testing.assert_allclose(step.agent_reward, [[1 / 3, 1 / 3, 1 / 4, 1 / 4]], rtol=1e-6)


@pytest.mark.parametrize("name", GAMES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_joint_action_pays_what_counting_says(name: str, data: st.DataObject) -> None:
    n, k = data.draw(st.integers(2, 6)), data.draw(st.integers(2, 6))
    choices = data.draw(st.lists(st.lists(st.integers(0, k - 1), min_size=n, max_size=n), min_size=1, max_size=5))
    env, _ = game(name, len(choices), agents=n, actions=k)
    step = env.step(np.array(choices))
    expected = np.array([paid(name, row) for row in choices])
    assert step.agent_reward is not None
    np.testing.assert_allclose(step.agent_reward, expected, rtol=1e-6)
    np.testing.assert_allclose(step.reward, expected.mean(axis=1), rtol=1e-6)
    best = max(sum(paid(name, joint)) for joint in itertools.product(range(k), repeat=n)) if k**n < 2000 else None
    if best is not None:
        np.testing.assert_array_equal(step.info["converged"], np.isclose(expected.sum(axis=1), best))


def test_a_shared_policy_without_identities_is_paid_three_quarters_at_most() -> None:
    """Theorem 1 of HyperMARL: 0.75 - (p - 0.5)², from the environment's own payoffs."""
    env, _ = game("specialisation", 4)
    payoff = env.step(np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reward
    for p in np.linspace(0, 1, 21):
        expected = payoff @ [p * p, p * (1 - p), (1 - p) * p, (1 - p) ** 2]
        assert expected == pytest.approx(0.75 - (p - 0.5) ** 2)


@pytest.mark.parametrize("name", GAMES)
def test_the_normal_form_shows_nothing_and_ends_after_one_step(name: str) -> None:
    env, obs = game(name, 2, agents=3)
    assert (env.spec.obs_dim, env.spec.state_dim, env.spec.n_actions, env.spec.episode_limit) == (1, 1, 3, 1)
    for _ in range(3):
        assert (obs.obs == 1).all() and (obs.state == 1).all()
        step = env.step(np.array([[0, 1, 2], [2, 2, 0]]))
        assert step.terminated.all() and not step.truncated.any()
        obs = step.next


@pytest.mark.parametrize("name", GAMES)
def test_the_temporal_form_shows_everybody_what_all_chose(name: str) -> None:
    env, obs = game(name, 2, agents=3, temporal=True, max_steps=4)
    assert (env.spec.obs_dim, env.spec.state_dim, env.spec.episode_limit) == (9, 9, 4)
    rng = np.random.default_rng(0)
    for t in range(12):
        if t % 4 == 0:
            assert (obs.obs == -1).all() and (obs.state == -1).all()
        actions = rng.integers(3, size=(2, 3))
        step = env.step(actions)
        shown = step.next if step.final is None else step.final
        expected = np.eye(3)[actions].reshape(2, 9)
        np.testing.assert_array_equal(shown.state, expected)
        np.testing.assert_array_equal(shown.obs, np.repeat(expected[:, None], 3, axis=1))
        assert step.terminated.all() == (t % 4 == 3)
        assert not step.truncated.any()
        obs = step.next


def test_the_temporal_form_lasts_ten_steps_if_nothing_else_is_said() -> None:
    assert game("specialisation", temporal=True)[0].spec.episode_limit == 10


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("variant", [{"temporal": True}, {"agents": 5, "actions": 2, "temporal": True}, {"agents": 8}])
def test_every_variant_conforms(name: str, variant: dict[str, Any]) -> None:
    assert check_env(lambda count: game(name, count, **variant)[0]) == []


@pytest.mark.parametrize("wrong", [[[0, 2]], [[-1, 0]]])
def test_an_action_that_does_not_exist_is_refused(wrong: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="actions 0 to 1 only"):
        game("specialisation")[0].step(np.array(wrong))
