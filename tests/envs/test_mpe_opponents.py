"""Opponents of the particle tasks: each does what its name says, as a function of the episode's seed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from phalanx.configs.errors import UserError
from phalanx.envs.mpe.adversary import SimpleAdversary
from phalanx.envs.mpe.opponents import Random
from phalanx.envs.mpe.tag import SimpleTag
from phalanx.envs.mpe.world import SimpleWorld
from phalanx.envs.team import Bools, Floats, TeamSpec

ENVS = 128


def chased_contacts(opponents: str, chase: bool = True) -> float:
    """Contacts per episode with predators that push along the longer axis towards the prey, or at random."""
    env = SimpleTag(SimpleTag.Settings(name="simple_tag", opponents=opponents), ENVS)
    env.reset([itertools.count(1000 * e) for e in range(ENVS)])
    rng = np.random.default_rng(0)
    contacts = 0
    for _ in range(25):
        way = env.world.pos[:, 3:4] - env.world.pos[:, :3]
        sideways = np.abs(way[0]) > np.abs(way[1])
        actions = np.where(sideways, np.where(way[0] > 0, 2, 1), np.where(way[1] > 0, 4, 3)).T
        contacts += int(env.step(actions if chase else rng.integers(5, size=(ENVS, 3))).info["contacts"].sum())
    return contacts / ENVS


def test_scripted_prey_is_hard_but_not_impossible_to_catch() -> None:
    scripted, random, still = chased_contacts("scripted"), chased_contacts("random"), chased_contacts("still")
    assert 0.5 < scripted < 0.5 * random < random < still
    assert chased_contacts("scripted", chase=False) < 0.3 * scripted


def test_scripted_prey_stays_near_the_arena() -> None:
    env = SimpleTag(SimpleTag.Settings(name="simple_tag", max_steps=100), ENVS)
    env.reset([itertools.count(e) for e in range(ENVS)])
    for _ in range(99):
        env.step(np.zeros((ENVS, 3), dtype=int))
        assert np.abs(env.world.pos[:, 3]).max() < 1.5


def test_the_scripted_adversary_halts_at_the_landmark_that_the_good_agents_crowd() -> None:
    env = SimpleAdversary(SimpleAdversary.Settings(name="simple_adversary", max_steps=60), ENVS)
    env.reset([itertools.count(e) for e in range(ENVS)])
    for _ in range(59):
        env.step(np.zeros((ENVS, 2), dtype=int))
    pos = env.world.pos
    crowd = (pos[:, 1] + pos[:, 2]) / 2
    away = np.linalg.norm(pos[:, 3:] - crowd[:, None], axis=0)  # [landmarks, E]
    guess = pos[:, 3:][:, away.argmin(axis=0), np.arange(ENVS)]
    assert np.linalg.norm(pos[:, 0] - guess, axis=0).max() < 0.2


def test_still_opponents_never_push() -> None:
    env = SimpleAdversary(SimpleAdversary.Settings(name="simple_adversary", opponents="still"), 4)
    env.reset([itertools.count(e) for e in range(4)])
    before = env.world.pos[:, 0].copy()
    for _ in range(20):
        env.step(np.full((4, 2), 2))
    np.testing.assert_array_equal(env.world.pos[:, 0], before)


def test_random_opponents_are_uniform_differ_between_seeds_and_repeat_with_them() -> None:
    def episode(seed: int) -> np.ndarray:
        random = Random(2, 3, steps=400)
        random.begin(np.array([1]), [seed])
        return np.array([random.act(np.full(2, t))[1] for t in range(400)])

    np.testing.assert_array_equal(episode(5), episode(5))
    assert (episode(5) != episode(6)).mean() > 0.7
    np.testing.assert_allclose(np.bincount(episode(5).ravel(), minlength=5) / 1200, 0.2, atol=0.04)


class Recorder:
    """A policy that remembers what it was shown and always pushes right."""

    def __init__(self, n_agents: int = 1, obs_dim: int = 14, n_actions: int = 5) -> None:
        self.spec = TeamSpec(
            env_name="elsewhere",
            n_agents=n_agents,
            obs_dim=obs_dim,
            state_dim=1,
            n_actions=n_actions,
            episode_limit=25,
            agent_names=("agent_0",) * n_agents,
            obs_dims=(obs_dim,) * n_agents,
            action_dims=(n_actions,) * n_agents,
        )
        self.calls: list[tuple[str, Any]] = []

    def reset(self, num_envs: int) -> None:
        self.calls.append(("reset", num_envs))

    def reset_rows(self, rows: np.ndarray) -> None:
        self.calls.append(("rows", rows.tolist()))

    def act(self, obs: Floats, avail: Bools) -> np.ndarray:
        self.calls.append(("act", obs))
        assert avail.shape == (*obs.shape[:2], 5) and avail.all()
        return np.full(obs.shape[:2], 2)


def test_a_trained_opponent_sees_its_own_observations_and_hears_of_new_episodes() -> None:
    recorder, asked = Recorder(), []

    def load(directory: str) -> Recorder:
        asked.append(directory)
        return recorder

    env = SimpleTag(SimpleTag.Settings(name="simple_tag", opponents="checkpoint:runs/prey", max_steps=2), 3, load)
    obs = env.reset([itertools.count(e) for e in range(3)])
    states = [obs.state]
    for _ in range(3):
        states.append(env.step(np.zeros((3, 3), dtype=int)).next.state)
    assert asked == ["runs/prey"]
    assert [kind for kind, _ in recorder.calls] == ["reset", "rows", "act", "act", "rows", "act"]
    assert [what for kind, what in recorder.calls if kind != "act"] == [3, [0, 1, 2], [0, 1, 2]]
    for seen, state in zip([what for kind, what in recorder.calls if kind == "act"], states, strict=False):
        np.testing.assert_array_equal(seen[:, 0], state[:, -14:])  # the prey comes last in the state
    assert (env.world.vel[0, 3] > 0).all()  # it pushed right


def test_trained_opponents_of_simple_world_see_what_mpe2_shows_them() -> None:
    recorder = Recorder(n_agents=2, obs_dim=28)
    env = SimpleWorld(SimpleWorld.Settings(name="simple_world", opponents="checkpoint:x"), 2, lambda _: recorder)
    obs = env.reset([itertools.count(e) for e in range(2)])
    env.step(np.zeros((2, 4), dtype=int))
    np.testing.assert_array_equal(recorder.calls[-1][1].reshape(2, -1), obs.state[:, -56:])


def test_a_policy_loader_is_needed() -> None:
    with pytest.raises(UserError, match=r"checkpoint:runs/prey needs"):
        SimpleTag(SimpleTag.Settings(name="simple_tag", opponents="checkpoint:runs/prey"), 1)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Recorder(n_agents=2), "agents 2 instead of 1"),
        (Recorder(obs_dim=16), "observation size 16 instead of 14"),
        (Recorder(n_actions=20), "actions 20 instead of 5"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(policy: Recorder, words: str) -> None:
    settings = SimpleTag.Settings(name="simple_tag", opponents="checkpoint:x")
    with pytest.raises(UserError, match=words):
        SimpleTag(settings, 1, lambda _: policy)


@pytest.mark.parametrize("opponents", ["scriptd", "checkpoint", "checkpoint:", ""])
def test_unknown_opponents_are_refused_with_what_is_allowed(opponents: str) -> None:
    with pytest.raises(ValidationError, match=r"checkpoint:DIR") as caught:
        SimpleTag.Settings(name="simple_tag", opponents=opponents)
    assert caught.value.errors()[0]["loc"] == ("opponents",)
