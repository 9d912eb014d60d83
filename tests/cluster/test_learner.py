from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.algorithms.base import TensorBatch
from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.cluster.learner import Learner, NonFinite, choose_device, learner_threads, use_threads
from phalanx.configs.errors import UserError
from phalanx.configs.settings import RunSettings
from tests.cluster import fakes

ON_CPU = {"device": "cpu"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    use_threads(1)
    yield
    use_threads(before)


def run_of(algorithm: str = "qmix", **sections: Any) -> RunSettings:
    return fakes.settings(algorithm, learner=ON_CPU, **sections)


def batches(count: int, seed: int = 0) -> list[EpisodeBatch]:
    rng = np.random.default_rng(seed)
    return [fakes.random_batch(rng, [1, 4, 6, 2]) for _ in range(count)]


def bits(learner: Learner) -> bytes:
    """All that decides the next update."""
    buffer = io.BytesIO()
    state = learner.state()
    parts: list[Any] = [*state["algorithm"].values(), state["updates"], state["random"]]
    for optimiser in state["optimisers"].values():
        for slot in optimiser["state"].values():
            parts += list(slot.values())
    for part in parts:
        buffer.write(part.numpy().tobytes() if isinstance(part, torch.Tensor) else str(part).encode())
    return buffer.getvalue()


def test_equal_seeds_learn_equally_and_others_do_not() -> None:
    learners = [Learner(run_of(seed=seed), fakes.SPEC) for seed in (1, 1, 2)]
    for learner in learners:
        assert learner.update(batches(3)) == 3
    assert bits(learners[0]) == bits(learners[1]) != bits(learners[2])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    learner = Learner(run_of("demar"), fakes.SPEC)
    learner.update(batches(2))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "algorithm", ["vdn", "qmix", "demar", "ow_qmix", "res", "sub_avg_qmix", "qtran_base", "maddpg"]
)
def test_a_second_core_changes_nothing(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    for cores in (1, 2):
        monkeypatch.setattr("phalanx.cluster.learner.cores", lambda cores=cores: cores)
        learner = Learner(run_of(algorithm), fakes.SPEC)
        assert learner.update(batches(5)) == 5
        outcomes.append(bits(learner))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("algorithm", ["qmix", "demar"])
@pytest.mark.parametrize("optimiser", ["rmsprop", "adam"])
def test_a_saved_learner_continues_to_the_bit(algorithm: str, optimiser: str) -> None:
    run = run_of(algorithm)
    run = run.model_copy(update={"algorithm": run.algorithm.model_copy(update={"optimiser": optimiser})})
    learner = Learner(run, fakes.SPEC)
    learner.update(batches(3))
    file = io.BytesIO()
    torch.save(learner.state(), file)
    file.seek(0)
    restored = Learner(run.model_copy(update={"seed": 99}), fakes.SPEC)
    restored.load_state(torch.load(file, weights_only=True))
    assert restored.updates == 3 and bits(restored) == bits(learner)
    for each in (learner, restored):
        assert each.update(batches(4, seed=1)) == 7
    assert bits(restored) == bits(learner)


def test_weights_are_versioned_copies() -> None:
    learner = Learner(run_of(), fakes.SPEC)
    weights, version = learner.weights()
    before = {name: array.copy() for name, array in weights.items()}
    learner.update(batches(1))
    assert version == 0 and learner.weights()[1] == 1
    assert all((weights[name] == before[name]).all() for name in weights)
    newer = learner.weights()[0]
    assert any((newer[name] != before[name]).any() for name in newer)


def test_metrics_are_means_since_the_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(run_of(), fakes.SPEC)
    assert learner.metrics() == {}
    told = _spy_on_losses(learner, monkeypatch)
    learner.update(batches(2))
    learner.update(batches(1, seed=1))
    row = learner.metrics()
    assert row["train/loss_td"] == pytest.approx(sum(told) / 3, rel=1e-5)
    assert row["train/grad_norm"] > 0 and row["learner/update_ms"] > 0
    assert all(key.startswith(("train/", "learner/")) and math.isfinite(value) for key, value in row.items())
    assert learner.metrics() == {}
    learner.update(batches(1, seed=2))
    assert learner.metrics()["train/loss_td"] == pytest.approx(told[-1], rel=1e-5)


def _spy_on_losses(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    told: list[float] = []
    original = learner.algorithm.loss

    def loss(*arguments: Any) -> Any:
        value, metrics = original(*arguments)
        told.append(float(metrics["loss_td"]))
        return value, metrics

    monkeypatch.setattr(learner.algorithm, "loss", loss)
    return told


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(value: float) -> None:
    learner = Learner(run_of(), fakes.SPEC)
    learner.update(batches(2))
    before = [parameter.clone() for parameter in learner.algorithm.parameters()]
    bad = batches(1)[0]
    bad.reward[1, 0] = value
    with pytest.raises(NonFinite, match=r"update 3 failed: .*loss_td is (nan|inf)"):
        learner.update([bad])
    assert learner.updates == 2
    assert all(torch.equal(old, new) for old, new in zip(before, learner.algorithm.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    learner = Learner(run_of(), fakes.SPEC)
    before = [parameter.clone() for parameter in learner.algorithm.parameters()]
    learner.algorithm.trained_parameters()[0].register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFinite, match="update 1 failed: grad_norm is nan"):
        learner.update(batches(1))
    assert all(torch.equal(old, new) for old, new in zip(before, learner.algorithm.parameters(), strict=True))


def test_a_report_tells_overestimation_and_sensitivity_of_the_last_batch() -> None:
    learner = Learner(run_of(), fakes.SPEC)
    (batch,) = batches(1)
    batch.reward[0] = [4, 100, 100, 100, 100, 100]  # one step long: the rest is padding
    learner.update([batch])
    row = learner.metrics()
    gamma, tensors = learner.run.algorithm.gamma, TensorBatch.of(batch, torch.device("cpu"))
    algorithm: Any = learner.algorithm
    terms = algorithm.terms(algorithm.prepare(tensors, np.random.default_rng(0)))
    followed = [
        sum(gamma**t * batch.reward[b, t] for t in range(length)) for b, length in enumerate(batch.lengths.tolist())
    ]
    assert row["train/overestimation"] == pytest.approx(terms.q_tot[0, 0].mean().item() - np.mean(followed), rel=1e-5)
    slope = torch.autograd.grad(terms.q_tot.sum(), terms.chosen)[0]  # [T, B, N]
    assert row["train/dqtot_dqi_mean"] == pytest.approx(float(slope[terms.mask].mean()), rel=1e-4)


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = Learner(run_of(), fakes.SPEC).state()
    other = Learner(run_of(agent={"hidden": 16}), fakes.SPEC)
    with pytest.raises(UserError, match=r"does not fit algorithm\.name=qmix as configured"):
        other.load_state(state)
    del state["random"]
    with pytest.raises(UserError, match="does not fit"):
        Learner(run_of(), fakes.SPEC).load_state(state)


def test_gradients_are_cut_to_the_norm() -> None:
    run = run_of()
    run = run.model_copy(update={"algorithm": run.algorithm.model_copy(update={"grad_norm_clip": 1e-3})})
    learner = Learner(run, fakes.SPEC)
    learner.update(batches(1))
    norm = math.sqrt(
        sum(float((p.grad**2).sum()) for p in learner.algorithm.trained_parameters() if p.grad is not None)
    )
    assert norm == pytest.approx(1e-3, rel=1e-3) and learner.metrics()["train/grad_norm"] > 1e-3


def test_target_networks_are_copied_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(run_of(), fakes.SPEC)
    told: list[int] = []
    monkeypatch.setattr(learner.algorithm, "after_update", told.append)
    learner.update(batches(3))
    assert told == [1, 2, 3]


def test_read_only_batches_are_accepted() -> None:
    """Ray's object store gives arrays that cannot be written to."""
    (batch,) = batches(1)
    for name in EpisodeBatch.__dataclass_fields__:
        getattr(batch, name).flags.writeable = False
    assert Learner(run_of(), fakes.SPEC).update([batch]) == 1


def test_sync_mode_uses_one_thread() -> None:
    more = {"device": "cpu", "threads": 4}
    assert learner_threads(fakes.settings(learner=more)) == 1
    assert learner_threads(fakes.settings(learner=more, mode="async")) == 4
    use_threads(2)
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"learner\.device=cuda"):
        choose_device("cuda")
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_learns_as_a_cpu_does_and_stops_on_nan() -> None:
    there, here = Learner(fakes.settings("qmix"), fakes.SPEC), Learner(run_of(), fakes.SPEC)
    assert there.device.type == "cuda"
    for learner in (there, here):
        learner.update(batches(3))
    on_gpu, on_cpu = there.metrics(), here.metrics()
    assert on_gpu["train/loss_td"] == pytest.approx(on_cpu["train/loss_td"], rel=1e-3)
    assert all(not tensor.is_cuda for tensor in there.state()["algorithm"].values())
    file = io.BytesIO()
    torch.save(there.state(), file)
    file.seek(0)
    restored = Learner(fakes.settings("qmix"), fakes.SPEC)
    restored.load_state(torch.load(file, weights_only=True))
    bad = batches(1)[0]
    bad.reward[1, 0] = math.nan
    with pytest.raises(NonFinite, match="update 4 failed"):
        restored.update([bad])
