from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.cluster.limiter import SamplesPerInsert
from phalanx.configs.settings import ReplaySettings


def limiter(ratio: float, batch: int = 32, minimum: int = 32, slack: float = 0.0) -> SamplesPerInsert:
    return SamplesPerInsert(ReplaySettings(samples_per_insert=ratio, min_episodes=minimum), batch, slack)


def test_one_update_per_episode_after_the_warm_up() -> None:
    rate = limiter(32.0)
    rate.inserted(16)
    assert rate.may_sample() == 0 and rate.may_insert()
    rate.inserted(16)
    assert rate.may_sample() == 0 and rate.may_insert()
    rate.inserted(5)
    assert rate.may_sample() == 5
    rate.sampled(32)
    assert rate.may_sample() == 4
    assert rate.samples_per_insert() == pytest.approx(32 / 5)


def test_fractions_of_an_update_are_carried_over() -> None:
    rate = limiter(8.0, batch=32, minimum=50)
    rate.inserted(50)
    updates = 0
    for _ in range(1000):
        rate.inserted(3)
        owed = rate.may_sample()
        rate.sampled(32 * owed)
        updates += owed
    assert updates == 3000 * 8 // 32
    assert rate.samples_per_insert() == pytest.approx(8.0, rel=0.01)


def test_the_warm_up_is_at_least_a_batch() -> None:
    rate = limiter(1.0, batch=32, minimum=1)
    rate.inserted(31)
    assert rate.may_sample() == 0
    rate.inserted(33)
    assert rate.may_sample() == 1


@given(
    ratio=st.floats(0.01, 500),
    batch=st.integers(1, 64),
    minimum=st.integers(1, 200),
    chunk=st.integers(1, 64),
    workers=st.integers(1, 4),
    slack=st.floats(0, 100),
    seed=st.integers(0, 10**6),
)
def test_whoever_is_slower_the_contract_holds_and_nobody_waits_forever(
    ratio: float, batch: int, minimum: int, chunk: int, workers: int, slack: float, seed: int
) -> None:
    """Workers and learner act in random order for 1,000 updates or 20,000 episodes."""
    rate, order = limiter(ratio, batch, minimum, slack), random.Random(seed)
    warm_up = max(batch, minimum)
    inserted = sampled = updates = steps = 0
    flying: list[int] = []
    while updates < 1000 and inserted < 20_000 and steps < 20_000:
        steps += 1
        may_begin = len(flying) < workers and rate.may_insert(sum(flying))
        assert may_begin or flying or rate.may_sample() > 0, "everybody waits for everybody"
        act = order.random()
        if may_begin and act < 0.4:
            flying.append(chunk)
        elif flying and act < 0.7:
            inserted += (landed := flying.pop(order.randrange(len(flying))))
            rate.inserted(landed)
        elif (allowed := rate.may_sample()) > 0:
            count = order.randint(1, min(allowed, 4))
            rate.sampled(batch * count)
            sampled, updates = sampled + batch * count, updates + count
            assert inserted >= warm_up and sampled <= ratio * (inserted - warm_up) + 1e-6
        ahead = inserted + sum(flying) - warm_up - sampled / ratio
        assert ahead <= max(slack, batch / ratio) + chunk * workers + 1e-6
    while flying:
        rate.inserted(flying.pop())
    rate.sampled(batch * rate.may_sample())
    owed = ratio * (rate.inserted_episodes - warm_up) - rate.sampled_episodes
    assert owed < batch + 1e-6
    if rate.sampled_episodes >= 1000 * batch:
        assert rate.samples_per_insert() == pytest.approx(ratio, rel=0.02)


def test_a_replay_that_lost_episodes_is_filled_again() -> None:
    rate = limiter(8.0, batch=32)
    rate.inserted(500)
    rate.sampled(8 * 468)
    rate.inserted(64)
    assert rate.may_sample() == 16
    rate.note_replay_size(10)
    assert rate.may_sample() == 0
    assert rate.may_insert(in_flight=10_000)
    rate.inserted(16)
    assert rate.may_sample() == 0 and rate.may_insert()
    rate.inserted(16)
    assert rate.may_sample() == 24  # everything owed, the lost time included
    assert not rate.may_insert(in_flight=16)


def test_workers_wait_for_a_slow_learner() -> None:
    rate = limiter(32.0, slack=10)
    rate.inserted(32)
    assert rate.may_insert(in_flight=10) and not rate.may_insert(in_flight=11)
    rate.inserted(11)
    assert not rate.may_insert()
    rate.sampled(32)
    assert rate.may_insert()


def test_the_state_comes_back() -> None:
    rate, restored = limiter(8.0), limiter(8.0)
    rate.inserted(100)
    rate.sampled(64)
    rate.note_replay_size(70)
    restored.load_state(rate.state())
    assert restored.state() == rate.state() == {"inserted": 100, "sampled": 64, "replay_size": 70}
    assert restored.may_sample() == rate.may_sample() == 15
