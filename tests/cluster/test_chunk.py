from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.algorithms.registry import make_algorithm
from phalanx.cluster.chunk import Chunk
from phalanx.cluster.collecting import PART_UPDATES, parts
from phalanx.cluster.replay import Replay
from phalanx.cluster.rollout import Rollout
from phalanx.configs.settings import ReplaySettings
from tests.cluster import fakes
from tests.cluster.runs import tiny


@pytest.fixture
def chunk(monkeypatch: pytest.MonkeyPatch) -> Chunk:
    fakes.install(monkeypatch)
    run = fakes.settings(seed=3, rollout={"streams": 1, "envs_per_stream": 7})
    rollout = Rollout(run, [0])
    rollout.set_weights(make_algorithm(run, fakes.SPEC).policy_weights(), 5)
    return rollout.play_on(0, 40, 0.3, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_split_chunk_holds_the_same_episodes(chunk: Chunk, count: int) -> None:
    pieces = chunk.split(count)
    assert [piece.sequence for piece in pieces] == list(range(40, 40 + count))
    assert sum(piece.episodes for piece in pieces) == chunk.episodes
    assert max(piece.episodes for piece in pieces) - min(piece.episodes for piece in pieces) <= 1
    assert sum(piece.env_steps for piece in pieces) == chunk.env_steps
    for name in ("returns", "lengths", "wins"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in pieces]), getattr(chunk, name))
    np.testing.assert_array_equal(np.concatenate([p.metrics["ticks"] for p in pieces]), chunk.metrics["ticks"])
    for field in fields(EpisodeBatch):
        whole = getattr(chunk.batch, field.name)
        np.testing.assert_array_equal(np.concatenate([getattr(p.batch, field.name) for p in pieces]), whole)
    assert all((piece.stream, piece.weights_version) == (0, 5) for piece in pieces)


def test_a_replay_takes_the_parts_like_the_whole(chunk: Chunk) -> None:
    settings = ReplaySettings(capacity_episodes=50, min_episodes=1)
    whole, parted = (Replay(fakes.SPEC, settings, 0) for _ in range(2))
    whole.insert(chunk)
    for piece in chunk.split(4):
        assert parted.insert(piece) == piece.episodes
    assert parted.insert(chunk.split(4)[1]) == 0  # been here
    assert parted.inserted == whole.inserted
    for one, other in zip(whole.sample(5, 2), parted.sample(5, 2), strict=True):
        for field in fields(EpisodeBatch):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


@pytest.mark.parametrize(
    ("per_insert", "envs", "expected"), [(4, 4, 1), (8, 32, 4), (8, 33, 5), (800, 3, 3), (0.1, 1000, 2)]
)
def test_parts_are_worth_few_updates(per_insert: float, envs: int, expected: int) -> None:
    run = tiny(f"replay.samples_per_insert={per_insert}", f"rollout.envs_per_stream={envs}")
    assert parts(run) == expected
    most = PART_UPDATES * run.learner.batch_episodes / per_insert
    assert envs / expected <= max(1, most)
