from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.algorithms.common.batch import EpisodeBatch, empty_batch
from phalanx.cluster.replay import Replay, available_memory, bytes_per_episode
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.settings import ReplaySettings
from tests.cluster.fakes import LIMIT, SPEC, chunk_of, random_batch

PARTS = [part.name for part in fields(EpisodeBatch)]
LENGTHS = st.lists(st.integers(1, LIMIT), min_size=1, max_size=9)


def replay(capacity: int = 7, seed: int = 0, **others: object) -> Replay:
    return Replay(SPEC, ReplaySettings(capacity_episodes=capacity, **others), seed)  # type: ignore[arg-type]


def episodes_of(batch: EpisodeBatch) -> Counter[bytes]:
    """Each episode's bytes without its padding."""
    found: Counter[bytes] = Counter()
    for row, length in enumerate(batch.lengths):
        parts = [getattr(batch, name)[row, : length + (name in ("obs", "state", "avail"))] for name in PARTS]
        found[b"".join(np.ascontiguousarray(part).tobytes() for part in parts[:-1])] += 1
    return found


def assert_padding(batch: EpisodeBatch) -> None:
    for row, length in enumerate(batch.lengths):
        assert not batch.obs[row, length + 1 :].any() and not batch.state[row, length + 1 :].any()
        assert batch.avail[row, length + 1 :, :, 0].all() and not batch.avail[row, length + 1 :, :, 1:].any()
        assert not batch.actions[row, length:].any() and not batch.reward[row, length:].any()
        assert not batch.terminated[row, length:].any() and not batch.filled[row, length:].any()
        assert not batch.log_prob[row, length:].any() and not batch.agent_reward[row, length:].any()


@given(st.lists(LENGTHS, min_size=1, max_size=8), st.integers(1, 8), st.sampled_from(["float32", "float16"]))
@settings(max_examples=60)
def test_it_holds_the_newest_episodes_unchanged(chunks: list[list[int]], capacity: int, storage: str) -> None:
    memory = replay(capacity, storage=storage)
    rng = np.random.default_rng(0)
    kept: list[Counter[bytes]] = []
    for sequence, lengths in enumerate(chunks):
        batch = random_batch(rng, lengths)
        stored = batch
        if storage == "float16":
            stored = replace(batch, obs=batch.obs.astype(np.float16), state=batch.state.astype(np.float16))
        assert memory.insert(chunk_of(batch, sequence=sequence)) == len(lengths)
        for row in range(len(lengths)):
            kept.append(episodes_of(EpisodeBatch(*(getattr(stored, name)[row : row + 1] for name in PARTS))))
        newest = sum(kept[-capacity:], Counter())
        assert memory.size == min(len(kept), capacity) and memory.inserted == len(kept)
        (everything,) = memory.sample(memory.size)
        assert episodes_of(everything) == newest
        assert_padding(everything)
        assert everything.obs.dtype == everything.state.dtype == np.dtype(storage)


@given(LENGTHS, st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=40)
def test_batches_are_trimmed_and_never_repeat_an_episode(lengths: list[int], batch_episodes: int, count: int) -> None:
    memory = replay(9)
    memory.insert(chunk_of(random_batch(np.random.default_rng(1), lengths, steps=LIMIT)))
    if len(lengths) < batch_episodes:
        with pytest.raises(RunFailed, match=f"holds {len(lengths)} episodes, less than a batch of {batch_episodes}"):
            memory.sample(batch_episodes, count)
        assert memory.sampled == 0
        return
    batches = memory.sample(batch_episodes, count)
    assert len(batches) == count and memory.sampled == batch_episodes * count
    for batch in batches:
        assert len(batch) == batch_episodes
        assert batch.reward.shape[1] == batch.lengths.max()
        assert batch.obs.shape[1] == batch.avail.shape[1] == batch.filled.shape[1] == batch.lengths.max() + 1
        assert max(episodes_of(batch).values()) == 1
        assert_padding(batch)


def test_every_episode_is_sampled_equally_often() -> None:
    memory = replay(10)
    memory.insert(chunk_of(random_batch(np.random.default_rng(2), [3] * 10)))
    seen: Counter[bytes] = Counter()
    for batch in memory.sample(4, 1000):
        seen += episodes_of(batch)
    assert len(seen) == 10 and all(330 < count < 470 for count in seen.values())  # 400 expected, deviation 15


def test_sampling_comes_from_the_run_seed() -> None:
    batch = random_batch(np.random.default_rng(3), [2, 3, 4, 5, 6])
    batches = []
    for seed in (5, 5, 6):
        memory = replay(seed=seed)
        memory.insert(chunk_of(batch))
        batches.append([each.reward.tobytes() for each in memory.sample(2, 6)])
    assert batches[0] == batches[1] != batches[2]


def test_a_chunk_that_was_here_before_is_dropped() -> None:
    memory, rng = replay(100), np.random.default_rng(4)
    batch = random_batch(rng, [2, 3])
    assert memory.insert(chunk_of(batch, stream=0, sequence=4)) == 2
    assert memory.insert(chunk_of(batch, stream=0, sequence=4)) == 0
    assert memory.insert(chunk_of(batch, stream=0, sequence=3)) == 0
    assert memory.insert(chunk_of(batch, stream=1, sequence=3)) == 2
    assert memory.insert([chunk_of(batch, 0, 5), chunk_of(batch, 0, 5), chunk_of(batch, 1, 4)]) == 4
    assert memory.inserted == memory.size == 8


def test_continuous_actions_are_kept_as_they_are() -> None:
    spec = replace(SPEC, discrete=False, n_actions=0, action_dims=(2, 1))
    batch = empty_batch(spec, 2, 4)
    batch.actions[:] = np.random.default_rng(1).normal(size=batch.actions.shape)
    batch.filled[:, :4] = True
    memory = Replay(spec, ReplaySettings(capacity_episodes=3), 0)
    memory.insert(chunk_of(batch))
    (held,) = memory.sample(2)
    assert held.actions.shape == (2, 4, 2, 2) and held.avail.shape == (2, 5, 2, 0)
    assert {row.tobytes() for row in held.actions} == {row.tobytes() for row in batch.actions}


def test_rewards_of_single_agents_are_kept_where_there_are_some(tmp_path: Path) -> None:
    spec = replace(SPEC, agent_rewards=True)
    batch = random_batch(np.random.default_rng(1), [3, LIMIT, 1, 2], spec)
    settings = ReplaySettings(capacity_episodes=3)
    memory, again = Replay(spec, settings, 0), Replay(spec, settings, 0)
    memory.insert(chunk_of(batch))
    memory.save(tmp_path)
    again.load(tmp_path)
    for held in (*memory.sample(3), *again.sample(3)):
        assert {row.tobytes() for row in held.agent_reward} == {row.tobytes() for row in batch.agent_reward[1:]}
        assert_padding(held)
    plain = bytes_per_episode(SPEC, np.float32)
    assert bytes_per_episode(spec, np.float32) - plain == batch.agent_reward[0].nbytes


def test_what_a_run_has_no_use_for_is_neither_kept_nor_missed(tmp_path: Path) -> None:
    memory = replay(3)
    memory.insert(chunk_of(random_batch(np.random.default_rng(1), [2, 3])))
    memory.save(tmp_path)
    files = {path.stem for path in tmp_path.glob("*.npy")}
    assert files == {"obs", "state", "avail", "actions", "reward", "terminated", "lengths"}  # as before there was more
    replay(3).load(tmp_path)
    with pytest.raises(UserError, match="saved by a version of phalanx that kept less of an episode"):
        Replay(replace(SPEC, agent_rewards=True), ReplaySettings(capacity_episodes=3), 0).load(tmp_path)


def test_an_empty_chunk_inserts_nothing() -> None:
    memory = replay()
    assert memory.insert(chunk_of(random_batch(np.random.default_rng(5), []))) == 0
    assert memory.size == 0


def test_capacity_in_bytes_is_honoured() -> None:
    each = bytes_per_episode(SPEC, np.float32)
    memory = replay(5000, capacity_bytes=10 * each + each // 2)
    assert memory.capacity == 10
    held = sum(ring.nbytes for ring in memory._rings.values()) + memory._lengths.nbytes
    assert held == 10 * each
    assert replay(3, capacity_bytes=10 * each).capacity == 3
    assert bytes_per_episode(SPEC, np.float16) < each


def test_a_capacity_below_a_batch_is_refused() -> None:
    each = bytes_per_episode(SPEC, np.float32)
    with pytest.raises(UserError, match=rf"holds 3 episodes of {each} bytes.*capacity_bytes to at least {32 * each}"):
        Replay(SPEC, ReplaySettings(capacity_bytes=3 * each), 0, least_capacity=32)
    with pytest.raises(UserError, match=r"replay\.capacity_episodes=8 is less than a batch \(32; learner"):
        Replay(SPEC, ReplaySettings(capacity_episodes=8), 0, least_capacity=32)


def test_more_than_the_memory_there_is_is_refused_before_it_is_taken() -> None:
    with pytest.raises(UserError, match=r"would take .* GB .*of memory are free: lower replay\.capacity_episodes"):
        replay(10**12)


def test_the_size_is_said_first(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="phalanx.replay"):
        replay(1000)
    assert "1000 episodes" in caplog.text and "in all when full (float32)" in caplog.text


def test_available_memory_follows_the_control_group(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    assert available_memory(tmp_path) == 50 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 50 * 1024
    (group / "memory.max").write_text("5000\n")
    assert available_memory(tmp_path) == 4000


def test_float16_refuses_what_it_cannot_hold() -> None:
    memory = replay(storage="float16")
    batch = random_batch(np.random.default_rng(6), [3])
    batch.state[0, 1, 0] = 70_000
    with pytest.raises(RunFailed, match=r"value of 70000 in state.*replay\.storage=float32"):
        memory.insert(chunk_of(batch))
    assert memory.size == 0


def test_episodes_longer_than_the_limit_are_refused() -> None:
    longer = random_batch(np.random.default_rng(6), [LIMIT + 1])
    with pytest.raises(RunFailed, match=f"episode_limit={LIMIT}"):
        replay().insert(chunk_of(longer))


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_loaded_replay_continues_to_the_bit(tmp_path: Path, chunks: int, storage: str) -> None:
    rng = np.random.default_rng(7)
    memory = replay(seed=9, storage=storage)
    for sequence in range(chunks):
        memory.insert(chunk_of(random_batch(rng, [2, 6, 1]), sequence=sequence))
    memory.sample(2, 3)
    memory.save(tmp_path / "replay")
    restored = replay(seed=1, storage=storage)
    restored.insert(chunk_of(random_batch(rng, [5] * 7), stream=3, sequence=50))  # what was there before goes
    restored.load(tmp_path / "replay")
    assert (restored.size, restored.inserted, restored.sampled) == (memory.size, memory.inserted, memory.sampled)
    more = chunk_of(random_batch(rng, [3, 4]), sequence=chunks)
    for each in (memory, restored):
        assert each.insert(chunk_of(random_batch(rng, [1]), sequence=chunks - 1)) == 0
        assert each.insert(more) == 2
    for one, other in zip(memory.sample(2, 20), restored.sample(2, 20), strict=True):
        for name in PARTS:
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


def test_only_what_is_held_is_saved(tmp_path: Path) -> None:
    memory = replay(5000)
    memory.insert(chunk_of(random_batch(np.random.default_rng(8), [2, 3])))
    memory.save(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10_000
    assert np.load(tmp_path / "obs.npy", allow_pickle=False).shape[0] == 2


def test_a_replay_of_another_run_is_refused(tmp_path: Path) -> None:
    memory = replay()
    memory.insert(chunk_of(random_batch(np.random.default_rng(9), [2, 3])))
    memory.save(tmp_path)
    with pytest.raises(UserError, match="room for 7 episodes, this run's for 8"):
        replay(8).load(tmp_path)
    with pytest.raises(UserError, match="obs of shape"):
        replay(storage="float16").load(tmp_path)
    state = json.loads((tmp_path / "replay.json").read_text())
    (tmp_path / "replay.json").write_text(json.dumps(state)[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        replay().load(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        replay().load(tmp_path / "nowhere")


def test_five_thousand_episodes_of_simple_tag_fit_into_120_mb_without_torch() -> None:
    code = """
import os, sys
import numpy as np
from phalanx.cluster.replay import Replay
from phalanx.cluster.chunk import Chunk
from phalanx.algorithms.common.batch import empty_batch
from phalanx.configs.settings import ReplaySettings
from phalanx.envs.registry import env_settings, make_env
def rss():
    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
spec = make_env(env_settings('simple_tag')(name='simple_tag'), 1).spec
start = rss()
replay = Replay(spec, ReplaySettings(capacity_episodes=5000), 0, 32)
reserved = rss() - start
batch = empty_batch(spec, 32)
batch.obs[:] = 1; batch.state[:] = 1; batch.reward[:] = 1; batch.filled[:, :-1] = True
for sequence in range(160):
    replay.insert(Chunk(batch=batch, stream=0, sequence=sequence, weights_version=0, epsilon=0.0, env_steps=800,
                        returns=batch.reward.sum(axis=1), lengths=batch.lengths, wins=None, metrics={}))
replay.sample(32, 4)
assert replay.size == 5000
print(reserved / 1e6, (rss() - start) / 1e6, int('torch' in sys.modules), int('ray' in sys.modules))
"""
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    reserved, full, torch_loaded, ray_loaded = (float(word) for word in answer)
    assert reserved < 10  # taken only as episodes come in
    assert 50 < full < 120
    assert not torch_loaded and not ray_loaded
