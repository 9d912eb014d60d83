from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.algorithms.registry import make_algorithm
from phalanx.cluster.chunk import Chunk, ChunkStats
from phalanx.cluster.rollout import Rollout
from phalanx.configs.errors import RunFailed
from phalanx.configs.noise_settings import NoiseSettings
from phalanx.configs.settings import RunSettings
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from tests.cluster import fakes

E = 5
RUN = fakes.settings(seed=3, rollout={"streams": 3, "envs_per_stream": E})


def rollout(streams: tuple[int, ...] = (0,), run: RunSettings = RUN, version: int = 7) -> Rollout:
    made = Rollout(run, streams)
    made.set_weights(make_algorithm(run, fakes.SPEC).policy_weights(), version)
    return made


def seeds_of(chunk: Chunk) -> list[int]:
    return [int(seed) for seed in chunk.batch.obs[:, 0, 0, 0]]


def expected_seeds(place: tuple[int, ...], first: int, count: int) -> list[int]:
    seeds = EpisodeSeeds(RUN.seed, Purpose.EPISODE, *place, first=first)
    return [next(seeds) for _ in range(count)]


def check_episodes(chunk: Chunk, full_seeds: dict[int, int]) -> None:
    """Every number of every episode is what Clockwork gives for its seed."""
    batch = chunk.batch
    assert batch.reward.shape[1] == chunk.lengths.max()
    for row, short in enumerate(seeds_of(chunk)):
        seed = full_seeds[short]
        length = int(fakes.episode_length(seed))
        assert chunk.lengths[row] == length
        np.testing.assert_array_equal(batch.obs[row, : length + 1, :, 0], short)
        np.testing.assert_array_equal(batch.obs[row, : length + 1, 1, 1], np.arange(length + 1))
        np.testing.assert_array_equal(batch.state[row, : length + 1, 0], np.arange(length + 1))
        np.testing.assert_array_equal(batch.state[row, 1 : length + 1, 1], batch.actions[row, :length, 0])
        np.testing.assert_array_equal(batch.reward[row, :length], np.arange(length) + 1)
        assert not batch.avail[row, : length + 1, 0, 2].any()
        assert (batch.actions[row, :length, 0] < 2).all()
        np.testing.assert_array_equal(batch.filled[row], np.arange(batch.filled.shape[1]) < length)
        assert batch.terminated[row].sum() == batch.terminated[row, length - 1] == (length < fakes.LIMIT or seed % 2)
        assert not batch.obs[row, length + 1 :].any() and not batch.reward[row, length:].any()
        assert batch.avail[row, length + 1 :, :, 0].all() and not batch.avail[row, length + 1 :, :, 1:].any()
        assert chunk.returns[row] == length * (length + 1) / 2
        assert chunk.metrics["ticks"][row] == length
        assert chunk.wins is not None and chunk.wins[row] == (seed % 3 == 0)
    assert chunk.env_steps == chunk.lengths.sum()


def assert_equal(one: Chunk, other: Chunk) -> None:
    for part in fields(EpisodeBatch):
        a, b = getattr(one.batch, part.name), getattr(other.batch, part.name)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), part.name
    np.testing.assert_array_equal(one.returns, other.returns)


def test_a_round_is_one_whole_episode_of_every_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)
    chunk = rollout((0, 2)).play_round(2, 11, 0.5)
    full = {seed % 65536: seed for e in range(E) for seed in expected_seeds((2, 0, e), 11, 1)}
    assert sorted(seeds_of(chunk)) == sorted(full)
    check_episodes(chunk, full)
    assert (chunk.stream, chunk.sequence, chunk.weights_version, chunk.epsilon) == (2, 11, 7, 0.5)
    assert chunk.episodes == E and chunk.crashed == 0
    assert set(chunk.timing) == {"env", "policy", "bookkeeping"} and min(chunk.timing.values()) >= 0


def test_a_round_depends_on_its_arguments_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)
    alone = rollout((1,)).play_round(1, 4, 0.3)
    busy = rollout((0, 1, 2))
    busy.play_round(1, 9, 1.0)
    busy.play_round(0, 4, 0.3)
    busy.play_on(1, 0, 0.9, incarnation=1)
    assert_equal(alone, busy.play_round(1, 4, 0.3))
    other = busy.play_round(1, 5, 0.3)
    assert sorted(seeds_of(other)) != sorted(seeds_of(alone))


def test_streams_explore_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)
    both = rollout((0, 1))
    one, other = both.play_round(0, 0, 1.0), both.play_round(1, 0, 1.0)
    steps = min(one.batch.actions.shape[1], other.batch.actions.shape[1])
    assert (one.batch.actions[:, :steps, 1] != other.batch.actions[:, :steps, 1]).any()


def test_playing_on_loses_and_repeats_no_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)
    going = rollout()
    chunks = [going.play_on(0, sequence, 0.5, incarnation=2) for sequence in range(8)]
    assert all(E <= chunk.episodes < 2 * E for chunk in chunks)
    played = [seed for chunk in chunks for seed in seeds_of(chunk)]
    full = {seed % 65536: seed for e in range(E) for seed in expected_seeds((0, 2, e), 0, 60)}
    for chunk in chunks:
        check_episodes(chunk, full)
    for e in range(E):
        own = [seed % 65536 for seed in expected_seeds((0, 2, e), 0, 60)]
        mine = [seed for seed in played if seed in own]
        assert mine == own[: len(mine)] and len(mine) >= 3
    assert len(played) == len(set(played)) == sum(chunk.episodes for chunk in chunks)


def test_a_new_incarnation_plays_new_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)
    going = rollout()
    first = going.play_on(0, 0, 0.5, incarnation=1)
    second = going.play_on(0, 1, 0.5, incarnation=2)
    assert not set(seeds_of(first)) & set(seeds_of(second))
    check_episodes(second, {s % 65536: s for e in range(E) for s in expected_seeds((0, 2, e), 0, 20)})
    with pytest.raises(ValueError, match="count from 1"):
        going.play_on(0, 2, 0.5, incarnation=0)


@pytest.mark.parametrize("what", ["reward", "observation", "state"])
def test_numbers_that_are_not_finite_end_the_run(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    fakes.install(monkeypatch, poison=(what, 3, 0))
    with pytest.raises(RunFailed, match=rf"clockwork gave an? {what} of (nan|inf) in stream 0, environment 3, step 0"):
        rollout().play_round(0, 0, 0.5)


def test_crashed_episodes_are_counted_and_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, crash_every=2)
    going = rollout()
    for sequence in range(4):
        chunk = going.play_on(0, sequence, 0.5, incarnation=1)
        odd = {s % 65536: s for e in range(E) for s in expected_seeds((0, 1, e), 0, 80) if s % 2}
        check_episodes(chunk, odd)
        assert chunk.episodes >= E
    round_ = going.play_round(0, 0, 0.5)
    even = sum(seed % 2 == 0 for e in range(E) for seed in expected_seeds((0, 0, e), 0, 1))
    assert 0 < even == round_.crashed == E - round_.episodes


def test_agents_own_rewards_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, pays_agents=True)
    chunk = rollout().play_on(0, 0, 0.5, incarnation=1)
    for row, length in enumerate(chunk.lengths):
        paid = np.arange(1, length + 1, dtype=np.float32)[:, None] + [0, 10]
        np.testing.assert_array_equal(chunk.batch.agent_reward[row, :length], paid)
        assert not chunk.batch.agent_reward[row, length:].any()
    assert chunk.agent_returns is not None
    np.testing.assert_array_equal(chunk.agent_returns, chunk.batch.agent_reward.sum(axis=1))
    pieces = [piece.agent_returns for piece in chunk.split(2)]
    np.testing.assert_array_equal(np.concatenate(pieces), chunk.agent_returns)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 2])
def test_returns_are_told_without_the_noise_on_the_rewards(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    fakes.install(monkeypatch, pays_agents=True, noise=NoiseSettings(reward_gaussian=5.0))
    player = rollout()
    for sequence in range(length):
        chunk = player.play_on(0, sequence, 0.5, incarnation=1)
        np.testing.assert_allclose(chunk.returns, chunk.lengths * (chunk.lengths + 1) / 2, rtol=1e-6)
        assert chunk.agent_returns is not None
        each = chunk.returns[:, None] + np.array([0, 10]) * chunk.lengths[:, None]
        np.testing.assert_allclose(chunk.agent_returns, each, rtol=1e-5)
        assert (np.abs(chunk.batch.reward.sum(axis=1) - chunk.returns) > 0.1).mean() > 0.5


def test_a_promised_reward_that_is_not_there_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, pays_agents=True)
    monkeypatch.setattr(fakes.Clockwork, "step", fakes.BatchedTeamEnv.step)
    with pytest.raises(RunFailed, match="clockwork gave a reward of an agent of nan"):
        rollout().play_round(0, 0, 0.5)


def test_a_simulator_that_always_crashes_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, crash_every=1)
    with pytest.raises(RunFailed, match="times in a row"):
        rollout().play_on(0, 0, 0.5, incarnation=1)
    going = rollout()
    assert going.play_round(0, 0, 0.5).episodes == 0
    with pytest.raises(RunFailed, match="times in a row"):
        for sequence in range(10):
            going.play_round(0, sequence, 0.5)


def test_an_episode_beyond_its_limit_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)
    going = rollout()
    monkeypatch.setattr(fakes.Clockwork, "_advance", lambda self, actions: endless(self))
    with pytest.raises(RunFailed, match=f"episode_limit={fakes.LIMIT}"):
        going.play_round(0, 0, 0.5)


def endless(env: fakes.Clockwork) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Steps whose episodes end three steps too late."""
    env.age = getattr(env, "age", 0) + 1
    env._elapsed[:] = -1
    flags = np.full(env.num_envs, env.age == fakes.LIMIT + 3)
    return np.zeros(env.num_envs, np.float32), flags, {"ticks": flags * 0, "win": flags}


def test_stats_are_the_chunk_without_its_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)
    chunk = rollout().play_round(0, 0, 0.0)
    stats = chunk.stats()
    assert type(stats) is ChunkStats and not hasattr(stats, "batch")
    assert stats.env_steps == chunk.env_steps and stats.episodes == chunk.episodes


def test_batches_travel_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)
    chunk = rollout().play_on(0, 0, 0.5, incarnation=1)
    assert all(getattr(chunk.batch, part.name).flags.c_contiguous for part in fields(EpisodeBatch))


def test_close_closes_every_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fakes.install(monkeypatch)
    rollout((0, 1)).close()
    assert len(made) == 2 and all(env.closed for env in made)


def test_chunks_and_rollouts_are_imported_without_torch() -> None:
    code = "import sys, phalanx.cluster.rollout; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
