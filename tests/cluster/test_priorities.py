"""Prioritised replay: what is drawn, how it is corrected for, and that runs stay exact with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.algorithms.base import Capabilities
from phalanx.algorithms.common.batch import EpisodeBatch, EpisodeErrors, PrioritisedBatch
from phalanx.algorithms.registry import algorithm_class, make_algorithm
from phalanx.cluster.checkpoint import checkpoint_folders, newest_intact
from phalanx.cluster.learner import Learner
from phalanx.cluster.loop import SerialLoop, train_serially
from phalanx.cluster.priorities import SMALLEST, Priorities
from phalanx.cluster.replay import Replay
from phalanx.cluster.snapshot import read_learner
from phalanx.cluster.training import train
from phalanx.configs.errors import UserError
from phalanx.configs.settings import ReplaySettings, RunSettings
from phalanx.envs.seeding import Purpose, generator
from tests.cluster.fakes import SPEC, chunk_of, random_batch
from tests.cluster.fakes import settings as fake_run
from tests.cluster.runs import SYNC, evaluations_of, tiny

PRIORITISED = "replay.sampling=prioritised"


def prioritised(**others: object) -> ReplaySettings:
    return ReplaySettings(sampling="prioritised", **others)  # type: ignore[arg-type]


def weighed(errors: list[float], capacity: int = 9, **others: object) -> Priorities:
    priorities = Priorities(capacity, prioritised(**others))
    priorities.begin(np.arange(len(errors)))
    priorities.update(np.arange(len(errors)), np.array(errors, np.float32))
    return priorities


def replay(capacity: int = 7, seed: int = 0) -> Replay:
    return Replay(SPEC, prioritised(capacity_episodes=capacity), seed)


def errors_of(numbers: list[int], errors: list[float]) -> EpisodeErrors:
    return EpisodeErrors(np.array(numbers, np.int64), np.array(errors, np.float32))


def prioritised_batches(memory: Replay, batch_episodes: int, count: int = 1) -> list[PrioritisedBatch]:
    found = memory.sample(batch_episodes, count)
    assert all(type(batch) is PrioritisedBatch for batch in found)
    return found  # type: ignore[return-value]


def drawn_numbers(memory: Replay, draws: int = 200) -> dict[int, int]:
    numbers = np.concatenate([batch.numbers for batch in prioritised_batches(memory, 4, draws)])
    return {int(number): int((numbers == number).sum()) for number in np.unique(numbers)}


@pytest.mark.parametrize("batch_episodes", [1, 8])
@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_episodes_are_drawn_in_proportion_to_their_weights(exponent: float, batch_episodes: int) -> None:
    errors = np.array([0.01, 0.5, 2.0, 1.0, 30.0, 0.2, 7.0])
    priorities = weighed(errors.tolist(), priority_exponent=exponent)
    rng, draws = np.random.default_rng(1), 16_000
    slots = np.concatenate([priorities.draw(rng, batch_episodes) for _ in range(draws // batch_episodes)])
    counts = np.bincount(slots, minlength=9)
    assert not counts[7:].any()  # nothing is held there
    expected = draws * errors**exponent / (errors**exponent).sum()
    # Pearson's statistic with 6 degrees of freedom: above 22.5 in one of a thousand samples. Cutting the range into
    # parts only makes the counts more even.
    assert ((counts[:7] - expected) ** 2 / expected).sum() < 22.5


@given(
    st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=9),
    st.integers(1, 12),
    st.integers(0, 99),
    st.floats(0, 1),
)
@settings(max_examples=60)
def test_importance_is_the_papers_over_its_largest(
    errors: list[float], batch_episodes: int, seed: int, beta: float
) -> None:
    priorities = weighed(errors, importance_exponent=beta)
    slots = priorities.draw(np.random.default_rng(seed), batch_episodes)
    assert slots.min() >= 0 and slots.max() < len(errors)
    weights = (np.array(errors, np.float32).astype(float) + SMALLEST) ** 0.6
    expected = (1 / (len(errors) * (weights / weights.sum())[slots])) ** beta
    assert priorities.importance(slots) == pytest.approx(expected / expected.max(), rel=1e-5)
    assert priorities.importance(slots).max() == 1.0


def test_what_was_not_learned_from_weighs_as_much_as_the_heaviest_held() -> None:
    priorities = Priorities(5, prioritised(priority_exponent=1.0))
    priorities.begin(np.arange(2))
    assert priorities.held(2).tolist() == [1.0, 1.0]
    priorities.update(np.array([0, 1]), np.array([0.25, 8.0], np.float32))
    priorities.begin(np.array([2, 3]))
    assert priorities.held(4) == pytest.approx([0.25, 8, 8, 8], abs=1e-5)
    priorities.update(np.array([1, 2, 3, 3]), np.array([0.5, 0.5, 4.0, 2.0], np.float32))
    priorities.begin(np.array([4]))
    assert priorities.held(5) == pytest.approx([0.25, 0.5, 0.5, 2, 2], abs=1e-5)  # of a repeated one the last


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 8))
@settings(max_examples=40)
def test_numbers_name_episodes(chunks: list[int], capacity: int) -> None:
    """Episode n is rewarded with n."""
    memory, inserted = replay(capacity), 0
    for sequence, count in enumerate(chunks):
        batch = random_batch(np.random.default_rng(0), [2] * count)
        batch.reward[:] = np.arange(inserted, inserted + count)[:, None]
        memory.insert(chunk_of(batch, sequence=sequence))
        inserted += count
        (sampled,) = prioritised_batches(memory, memory.size)
        assert (sampled.reward[:, 0] == sampled.numbers).all()
        assert (sampled.numbers >= inserted - memory.size).all()
        assert sampled.importance.dtype == np.float32 and sampled.importance.shape == (memory.size,)
        assert memory.update_priorities(EpisodeErrors(sampled.numbers, sampled.importance)) == memory.size


def test_errors_of_episodes_that_made_room_are_passed_over() -> None:
    memory, rng = replay(4), np.random.default_rng(2)
    memory.insert(chunk_of(random_batch(rng, [1, 1, 1, 1])))
    assert memory.update_priorities(errors_of([0, 1, 2, 3], [1, 1, 1, 1])) == 4
    memory.insert(chunk_of(random_batch(rng, [1, 1]), sequence=1))  # 4 and 5 in the place of 0 and 1
    assert memory.update_priorities(errors_of([0, 1, 2, 6, -1], [1e9, 1e9, 1e-9, 1e9, 1e9])) == 1
    assert set(drawn_numbers(memory)) == {3, 4, 5}
    assert memory.update_priorities(errors_of([], [])) == 0


def test_how_calls_are_cut_makes_no_difference() -> None:
    """Sync mode asks for many batches at once where the serial loop asks for one after the other."""
    batch, errors = random_batch(np.random.default_rng(3), [1, 5, 3, 2, 4]), np.random.default_rng(4).random((9, 4))
    one, other = replay(), replay()
    for memory in (one, other):
        memory.insert(chunk_of(batch))
    whole = prioritised_batches(one, 4, 9)
    parts = [prioritised_batches(other, 4)[0] for _ in range(9)]
    for a, b in zip(whole, parts, strict=True):
        for part in fields(PrioritisedBatch):
            assert getattr(a, part.name).tobytes() == getattr(b, part.name).tobytes(), part.name
    one.update_priorities(EpisodeErrors(np.concatenate([b.numbers for b in whole]), errors.ravel().astype(np.float32)))
    for each, of in zip(parts, errors, strict=True):
        other.update_priorities(EpisodeErrors(each.numbers, of.astype(np.float32)))
    assert (
        prioritised_batches(one, 4, 20)[-1].numbers.tolist() == prioritised_batches(other, 4, 20)[-1].numbers.tolist()
    )


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_loaded_replay_draws_on_to_the_bit(tmp_path: Path, chunks: int) -> None:
    rng, memory = np.random.default_rng(5), replay(seed=9)
    for sequence in range(chunks):
        memory.insert(chunk_of(random_batch(rng, [2, 6, 1]), sequence=sequence))
        (batch,) = prioritised_batches(memory, 2)
        memory.update_priorities(EpisodeErrors(batch.numbers, rng.random(2).astype(np.float32)))
    memory.save(tmp_path)
    restored = replay(seed=1)
    restored.insert(chunk_of(random_batch(rng, [5] * 7), stream=3, sequence=50))  # what was there before goes
    restored.load(tmp_path)
    more = chunk_of(random_batch(rng, [3, 4]), sequence=chunks)
    for each in (memory, restored):
        each.insert(more)
    for one, other in zip(prioritised_batches(memory, 3, 20), prioritised_batches(restored, 3, 20), strict=True):
        for part in fields(PrioritisedBatch):
            assert getattr(one, part.name).tobytes() == getattr(other, part.name).tobytes(), part.name


def test_uniform_sampling_knows_nothing_of_priorities(tmp_path: Path) -> None:
    memory = Replay(SPEC, ReplaySettings(capacity_episodes=9), 3)
    batch = random_batch(np.random.default_rng(6), [6] * 9)
    memory.insert(chunk_of(batch))
    rng = generator(3, Purpose.REPLAY)
    for sampled in memory.sample(4, 3):
        slots = rng.choice(9, 4, replace=False, shuffle=False)
        assert type(sampled) is EpisodeBatch
        for part in fields(EpisodeBatch):
            assert getattr(sampled, part.name).tobytes() == getattr(batch, part.name)[slots].tobytes(), part.name
    memory.save(tmp_path)
    assert not (tmp_path / "priorities.npy").exists()
    assert json.loads((tmp_path / "replay.json").read_text())["random"] == rng.bit_generator.state
    with pytest.raises(ValueError, match="not prioritised"):
        memory.update_priorities(errors_of([0], [1.0]))


def test_exponents_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match=r"priority_exponent=0\.5 has no effect with replay\.sampling=uniform"):
        ReplaySettings(priority_exponent=0.5)
    with pytest.raises(ValueError, match=r"importance_exponent=1\.0 has no effect with replay\.sampling=uniform"):
        ReplaySettings(importance_exponent=1.0)


def with_importance(batch: EpisodeBatch, importance: npt.ArrayLike, first: int = 0) -> PrioritisedBatch:
    numbers = np.arange(first, first + len(batch))
    return PrioritisedBatch(**vars(batch), numbers=numbers, importance=np.array(importance, np.float32))


def test_the_learner_tells_errors_and_weighs_them() -> None:
    run = fake_run("qmix", learner={"device": "cpu"})
    rng = np.random.default_rng(7)
    first, second = (random_batch(rng, [1, 4, 6]) for _ in range(2))
    learners = [Learner(run, SPEC) for _ in range(3)]
    assert learners[0].update([first, second]) == 2
    updates, told = learners[1].update_prioritised(
        [with_importance(first, [1] * 3), with_importance(second, [1] * 3, 3)]
    )
    assert updates == 2 and told.numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert told.errors.dtype == np.float32 and told.errors.shape == (6,) and (told.errors > 0).all()
    weights = [learner.weights()[0] for learner in learners[:2]]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    _, other = learners[2].update_prioritised([with_importance(first, [1, 0.5, 0.1])])
    assert (other.errors == told.errors[:3]).all()  # they say how much there was to learn, not how much it counted
    learners[0] = Learner(run, SPEC)
    learners[0].update([first])
    weights = [learners[each].weights()[0] for each in (0, 2)]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])


def test_a_method_without_errors_is_refused_before_anything_is_played(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(algorithm_class("vdn"), "capabilities", Capabilities(errors=False))
    sentence = r"sampling=prioritised needs .* algorithm\.name=vdn does not: set replay\.sampling=uniform"
    with pytest.raises(UserError, match=sentence):
        make_algorithm(run_of("algorithm.name=vdn", "replay.sampling=prioritised"), SPEC)
    with pytest.raises(UserError, match=sentence):  # no simulator is asked either
        train("qmix_smax_3m", ["algorithm.name=vdn", "replay.sampling=prioritised"], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    make_algorithm(run_of("algorithm.name=vdn", "replay.sampling=uniform"), SPEC)


def run_of(*others: str) -> RunSettings:
    return tiny(*SYNC, PRIORITISED, *others)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run in one process."""
    out = tmp_path_factory.mktemp("runs") / "prioritised"
    train_serially(run_of("checkpoint.keep=9"), out)
    return out


def test_a_resumed_run_equals_the_uninterrupted_one(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "resumed"
    shutil.copytree(finished, out)
    for path in checkpoint_folders(out / "checkpoints")[:-1]:  # newest first
        shutil.rmtree(path)
    train_serially(run_of("checkpoint.keep=9"), out, resume=True)
    assert evaluations_of(out) == evaluations_of(finished)
    one, other = (newest_intact(each / "checkpoints").path for each in (out, finished))
    assert one.name == other.name
    for name in ("policy.npz", "replay/replay.json", "replay/priorities.npy"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    weights = np.load(one / "replay/priorities.npy")
    assert len(weights) == 360 and len(set(weights.tolist())) > 300
    assert read_learner(one)["random"] == read_learner(other)["random"]


def test_priorities_and_their_correction_matter(finished: Path, tmp_path: Path) -> None:
    policies = {(newest_intact(finished / "checkpoints").path / "policy.npz").read_bytes()}
    for number, others in enumerate((["replay.sampling=uniform"], ["replay.importance_exponent=1.0"])):
        out = tmp_path / str(number)
        train_serially(run_of(*others), out)
        policies.add((newest_intact(out / "checkpoints").path / "policy.npz").read_bytes())
    assert len(policies) == 3


def test_errors_count_from_the_next_round_on(tmp_path: Path) -> None:
    loop = SerialLoop(run_of(), tmp_path / "run")
    loop._write_what_is_due()
    seen: list[tuple[int, int]] = []
    told = loop.replay.update_priorities

    def update_priorities(errors: EpisodeErrors) -> int:
        seen.append((loop.progress.updates, told(errors)))
        return seen[-1][1]

    loop.replay.update_priorities = update_priorities  # type: ignore[method-assign]
    while not loop.progress.updates:
        loop.round()
    loop.close()
    # All after the round's last update, every episode of every batch.
    assert seen == [(loop.progress.updates, 8)] * loop.progress.updates
