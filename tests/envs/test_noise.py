"""Noise changes what is seen and nothing else, and is a function of the episode's seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.noise_settings import NoiseSettings
from phalanx.envs.check import check_env
from phalanx.envs.noise import Noise
from phalanx.envs.registry import ENVIRONMENTS, env_settings, make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import BatchedTeamEnv, Bools, Floats, Obs, Step, TeamEnv, TeamSpec
from tests.envs.needed import SETTINGS, skip_without_library

SEEN = {"obs_uniform": 0.02, "obs_gaussian": 0.1, "state_uniform": 0.02, "state_gaussian": 0.1}
ALL = {**SEEN, "reward_gaussian": 0.5, "action_slip": 0.2}


class Orders(BatchedTeamEnv):
    """Notes what it is told. Of four actions the second agent may take the second and the last."""

    def __init__(self, num_envs: int, discrete: bool = True) -> None:
        sizes = {"obs_dim": 1, "state_dim": 1, "n_actions": 4 * discrete, "obs_dims": (1, 1), "action_dims": (4, 4)}
        spec = TeamSpec("orders", 2, episode_limit=7, agent_names=("a", "b"), discrete=discrete, **sizes)  # type: ignore[arg-type]
        super().__init__(spec, num_envs)
        self.orders: list[np.ndarray] = []

    def _begin(self, rows: np.ndarray, seeds: Sequence[int]) -> None:
        pass

    def _advance(self, actions: np.ndarray) -> tuple[Floats, Bools, dict[str, np.ndarray]]:
        self.orders.append(actions)
        return np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_), {}

    def _observe(self) -> Obs:
        avail = np.ones((self.num_envs, 2, self.spec.n_actions), np.bool_)
        avail[:, 1, ::2] = False
        nothing = np.zeros((self.num_envs, 2, 1), np.float32)
        return Obs(nothing, nothing[:, 0], avail, np.ones((self.num_envs, 2), np.bool_))


def made(name: str, num_envs: int, noise: dict[str, float] | None = None, **settings: Any) -> TeamEnv:
    skip_without_library(name)
    given = {"name": name, **SETTINGS.get(name, {}), **settings}
    return make_env(env_settings(name)(**given, noise=NoiseSettings(**noise or {})), num_envs)


def play(env: TeamEnv, rows: list[int], steps: int) -> tuple[Obs, list[Step]]:
    """The first observation, and some steps of random legal actions that depend on a row's number alone."""
    generators = [np.random.default_rng(row) for row in rows]
    first = obs = env.reset([EpisodeSeeds(4, Purpose.EPISODE, row) for row in rows])
    taken = []
    for _ in range(steps):
        chosen = [(rng.random(a.shape) * a).argmax(axis=1) for rng, a in zip(generators, obs.avail, strict=True)]
        taken.append(env.step(np.array(chosen)))
        obs = taken[-1].next
    return first, taken


def shown(first: Obs, steps: list[Step]) -> list[Obs]:
    """Everything that is seen, last observations included."""
    return [first, *(obs for step in steps for obs in (step.final, step.next) if obs is not None)]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_conforms_with_noise(name: str) -> None:
    noise = ALL if made(name, 1).spec.entities is None else {**ALL, "entity_dropout": 0.3}
    assert check_env(lambda count: made(name, count, noise, max_steps=9), steps=30) == []


def test_without_noise_there_is_no_wrapper() -> None:
    assert not isinstance(made("simple_spread", 1), Noise)
    assert not isinstance(made("simple_spread", 1, {"demar": 0.02}), Noise)
    for key in (*ALL, "entity_dropout"):
        assert isinstance(made("simple_spread", 1, {key: 0.1}), Noise)


def test_what_is_seen_changes_and_what_happens_does_not() -> None:
    plain, noisy = (play(made("stag_hunt_het", 3, noise, max_steps=20), [0, 1, 2], 50) for noise in (None, SEEN))
    for step, with_noise in zip(plain[1], noisy[1], strict=True):
        for key in ("reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(step, key), getattr(with_noise, key))
        for key, value in step.info.items():
            np.testing.assert_array_equal(value, with_noise.info[key])
    seen = list(zip(shown(*plain), shown(*noisy), strict=True))
    assert len(seen) > 51
    spec = made("stag_hunt_het", 1).spec
    for clean, dirty in seen:
        np.testing.assert_array_equal(clean.avail, dirty.avail)
        np.testing.assert_array_equal(clean.alive, dirty.alive)
        changed = clean.obs != dirty.obs
        for i, size in enumerate(spec.obs_dims):
            assert not changed[:, i, size:].any()  # padding
            assert changed[:, i, :size][clean.alive[:, i]].all()
        assert not changed[~clean.alive].any()
        assert (clean.state != dirty.state).all()


@pytest.mark.parametrize("key", list(SEEN))
def test_the_amount_and_the_place_are_those_of_the_settings(key: str) -> None:
    scale = 0.25
    plain, noisy = (play(made("simple_tag", 16, noise), list(range(16)), 60) for noise in (None, {key: scale}))
    added: dict[str, list[np.ndarray]] = {"obs": [], "state": []}
    for clean, dirty in zip(shown(*plain), shown(*noisy), strict=True):
        for what, parts in added.items():
            parts.append((getattr(dirty, what) - getattr(clean, what)).reshape(-1))
    where, kind = key.split("_")
    assert not np.concatenate(added["state" if where == "obs" else "obs"]).any()
    numbers = np.concatenate(added[where])
    if kind == "uniform":
        assert numbers.min() >= -1e-6 and numbers.max() <= scale + 1e-6
        assert np.histogram(numbers, bins=5, range=(0, scale))[0].min() > 0.19 * len(numbers)
    else:
        assert abs(numbers.mean()) < 0.01
        assert numbers.std() == pytest.approx(scale, rel=0.02)
        assert (np.abs(numbers) < 2 * scale).mean() == pytest.approx(0.954, abs=0.01)


@pytest.mark.parametrize("max_steps", [7, 400])
def test_an_episode_has_the_same_noise_wherever_it_is_played(max_steps: int) -> None:
    """Alone and beside others, through ends (7 steps) and through several draws (400)."""
    several = play(made("stag_hunt", 3, ALL, max_steps=max_steps, size=5), [0, 1, 2], 150)
    alone = play(made("stag_hunt", 1, ALL, max_steps=max_steps, size=5), [1], 150)
    for step, other in zip(several[1], alone[1], strict=True):
        np.testing.assert_array_equal(step.next.obs[1], other.next.obs[0])
        np.testing.assert_array_equal(step.next.state[1], other.next.state[0])
        assert step.reward[1] == other.reward[0]
        if other.final is not None:
            assert step.final is not None
            j = np.flatnonzero(step.ended).tolist().index(1)
            np.testing.assert_array_equal(step.final.state[j], other.final.state[0])


def test_rewards_are_noisy_and_what_was_earned_is_not() -> None:
    plain, noisy = (
        play(made("simple_tag", 8, noise), list(range(8)), 200)[1] for noise in (None, {"reward_gaussian": 3})
    )
    added = np.array([with_noise.reward - step.reward for step, with_noise in zip(plain, noisy, strict=True)])
    assert abs(added.mean()) < 0.3 and added.std() == pytest.approx(3, rel=0.05)
    for step, with_noise, noise in zip(plain, noisy, added, strict=True):
        np.testing.assert_array_equal(with_noise.earned, step.reward)
        assert step.agent_reward is not None and with_noise.agent_reward is not None
        of_agents = with_noise.agent_reward - step.agent_reward
        np.testing.assert_allclose(of_agents, np.repeat(noise[:, None], 3, axis=1), atol=1e-4)
        np.testing.assert_array_equal(with_noise.next.obs, step.next.obs)


def test_now_and_then_an_agent_does_another_legal_thing() -> None:
    env = Noise(Orders(64), NoiseSettings(action_slip=0.3))
    env.reset([EpisodeSeeds(4, Purpose.EPISODE, row) for row in range(64)])
    for _ in range(100):
        env.step(np.full((64, 2), 3))
    done = np.array(env.env.orders)  # type: ignore[attr-defined]
    assert np.unique(done[..., 0]).tolist() == [0, 1, 2, 3] and np.unique(done[..., 1]).tolist() == [1, 3]
    shares = np.bincount(done[..., 0].ravel()) / done[..., 0].size
    np.testing.assert_allclose(shares, [0.075, 0.075, 0.075, 0.775], atol=0.02)
    assert (done[..., 1] == 1).mean() == pytest.approx(0.15, abs=0.02)
    # agents slip on their own, in steps and environments of their own
    slipped = (done != 3).reshape(-1, 2)
    assert np.corrcoef(slipped.T)[0, 1] == pytest.approx(0, abs=0.05)


def test_continuous_actions_slip_to_any_other() -> None:
    env = Noise(Orders(16, discrete=False), NoiseSettings(action_slip=1.0))
    env.reset([EpisodeSeeds(4, Purpose.EPISODE, row) for row in range(16)])
    for _ in range(100):
        env.step(np.zeros((16, 2, 4), np.float32))
    done = np.array(env.env.orders)  # type: ignore[attr-defined]
    assert done.dtype == np.float32 and np.histogram(done, bins=4, range=(-1, 1))[0].min() > 0.23 * done.size


def test_agents_miss_whole_entities() -> None:
    plain, noisy = (
        play(made("simple_spread", 8, noise), list(range(8)), 100) for noise in (None, {"entity_dropout": 0.25})
    )
    view = plain[0].obs is not None and made("simple_spread", 1).spec.entities
    assert view
    missed = []
    for clean, dirty in zip(shown(*plain), shown(*noisy), strict=True):
        np.testing.assert_array_equal(clean.obs[:, :, view.own], dirty.obs[:, :, view.own])
        np.testing.assert_array_equal(clean.state, dirty.state)
        for columns in (*view.allies, *view.objects):
            gone = (dirty.obs[:, :, columns] == 0).all(axis=2)
            missed.append(gone)
            np.testing.assert_array_equal(dirty.obs[:, :, columns][~gone], clean.obs[:, :, columns][~gone])
    assert np.mean(missed) == pytest.approx(0.25, abs=0.01)


def test_what_is_not_made_of_entities_cannot_lose_them() -> None:
    with pytest.raises(UserError, match=r"entity_dropout hides entities, but the observations of matrix are not"):
        made("matrix", 1, {"entity_dropout": 0.1})


def test_noise_is_never_the_same_twice() -> None:
    """Not in two steps, environments or episodes: in a game that always looks the same."""
    first, steps = play(made("matrix", 4, {"obs_gaussian": 1.0, "state_gaussian": 1.0}, max_steps=5), [0, 1, 2, 3], 400)
    seen = [first, *(step.next for step in steps), *(step.final for step in steps if step.final is not None)]
    for numbers in (np.concatenate([obs.obs.ravel() for obs in seen]), np.concatenate([o.state.ravel() for o in seen])):
        assert len(np.unique(numbers)) > 0.999 * len(numbers)


def test_the_declared_range_grows_with_the_noise() -> None:
    spec = made("stag_hunt", 1, {"obs_uniform": 0.02, "state_gaussian": 0.1}).spec
    assert spec.obs_range == (0, 1.02)
    assert spec.state_range is None
    assert made("simple_tag", 1, {"obs_uniform": 0.02}).spec.obs_range is None


def test_what_was_shown_before_is_not_written_to() -> None:
    env = made("two_step", 2, ALL)
    first = env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(2)])
    kept = first.obs.copy()
    env.step(np.zeros((2, 2), np.int64))
    np.testing.assert_array_equal(first.obs, kept)
    env.close()


def test_pictures_and_the_word_on_them_are_the_environments() -> None:
    plain, noisy = (made("simple_tag", 1, noise, max_steps=2) for noise in (None, {"obs_uniform": 0.1}))
    for env in (plain, noisy):
        env.film(0)
        play(env, [0], 2)
    np.testing.assert_array_equal(plain.render(0), noisy.render(0))
    assert noisy.last_picture() is not None
    np.testing.assert_array_equal(plain.last_picture(), noisy.last_picture())
    sleepy = made("sleepy", 1, {"obs_uniform": 0.1})
    assert sleepy.render(0) is None and "nothing to be seen" in sleepy.why_no_picture
