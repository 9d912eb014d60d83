from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.sleepy import Sleepy


def started(num_envs: int, wait_ms: float) -> tuple[Sleepy, np.ndarray]:
    env = Sleepy(Sleepy.Settings(wait_ms=wait_ms, max_steps=4), num_envs)
    return env, env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(num_envs)]).state


def test_a_step_of_the_whole_vector_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    env, _ = started(8, 20)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    env.step(np.zeros((8, 2), np.int64))
    assert waits == [0.02]


def test_other_threads_run_while_it_waits() -> None:
    """A wait that held Python's lock would be over before this thread could look."""
    env, _ = started(1, 2000)
    waiting = threading.Thread(target=env.step, args=(np.zeros((1, 2), np.int64),))
    waiting.start()
    time.sleep(0.01)
    assert waiting.is_alive()
    waiting.join()


def test_naming_the_coin_pays_and_the_coins_differ() -> None:
    env, state = started(64, 0)
    coins = state[:, 0].astype(np.int64)
    assert 10 < coins.sum() < 54
    for names, paid in (((0, 0), 1.0), ((0, 1), 0.5), ((1, 1), 0.0)):
        step = env.step(coins[:, None] ^ np.array(names))
        assert (step.reward == paid).all()
    np.testing.assert_array_equal(step.next.state, np.stack([coins, np.full(64, 0.75)], axis=1))
    assert env.step(np.zeros((64, 2), np.int64)).truncated.all()
