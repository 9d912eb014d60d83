"""Targets of several steps, the loss and the target updates against their definitions, written as slow loops."""

from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.algorithms.common.losses import weighted_huber_error, weighted_squared_error
from phalanx.algorithms.common.targets import (
    discounted_sums,
    lambda_target,
    n_step_target,
    one_step_target,
    take,
    transition_mask,
)
from phalanx.algorithms.registry import algorithm_class
from phalanx.algorithms.value_mixing import ValueMixing
from tests.algorithms.helpers import (
    NAMES,
    assert_same,
    build,
    doubles,
    learned,
    random_batch,
    snapshot,
    terms,
    with_garbage,
)

seeds = st.integers(0, 2**31)
some_lengths = st.lists(st.integers(1, 6), min_size=1, max_size=4)
shares = st.one_of(st.just(0.0), st.just(1.0), st.floats(0.05, 0.95))
quick = settings(max_examples=25)


class Case:
    """Random episodes with values of their states: `greedy` and `taken` are [*leading, T, B], after each transition."""

    def __init__(self, seed: int, lengths: list[int], leading: tuple[int, ...] = ()) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = lengths
        self.steps, self.episodes = max(lengths) + int(rng.integers(3)), len(lengths)
        shape = (self.steps, self.episodes)
        filled = torch.zeros(self.episodes, self.steps + 1, dtype=torch.bool)
        terminated = torch.from_numpy(rng.random((self.episodes, self.steps)) < 0.5)  # garbage in the padding
        self.ended = []
        for row, length in enumerate(lengths):
            filled[row, :length] = True
            terminated[row, : length - 1] = False
            self.ended.append(bool(terminated[row, length - 1]))
        self.terminated, self.mask = terminated.t(), transition_mask(filled, terminated)
        self.reward = torch.from_numpy(rng.normal(size=shape))
        self.greedy, self.taken = (torch.from_numpy(rng.normal(size=(*leading, *shape))) for _ in range(2))
        self.leading = leading

    def compare(self, found: Tensor, expected: Any) -> None:
        """`expected(place, t, b)` for every valid transition."""
        assert found.shape == (*self.leading, self.steps, self.episodes)
        assert found.isfinite().all()
        for place in np.ndindex(*self.leading):
            for b, length in enumerate(self.lengths):
                for t in range(length):
                    value = expected(place, t, b)
                    assert found[(*place, t, b)].item() == pytest.approx(value, rel=1e-9, abs=1e-9), (place, t, b)

    def corrected(self, gamma: float, place: tuple[int, ...], t: int, b: int, n: int, values: Tensor) -> float:
        """G(t:t+n) step by step, bootstrapped from `values` except after the last transition, cut at the end."""
        total, end = 0.0, min(t + n, self.lengths[b])
        for k in range(t, end):
            total += gamma ** (k - t) * self.reward[k, b].item()
        if end < self.lengths[b]:
            return total + gamma ** (end - t) * values[(*place, end - 1, b)].item()
        if not self.ended[b]:
            total += gamma ** (end - t) * self.greedy[(*place, end - 1, b)].item()
        return total


@quick
@given(seed=seeds, lengths=some_lengths, gamma=shares, n=st.integers(1, 8), leading=st.sampled_from([(), (2,)]))
def test_n_step_looks_n_steps_ahead(
    seed: int, lengths: list[int], gamma: float, n: int, leading: tuple[int, ...]
) -> None:
    case = Case(seed, lengths, leading)
    found = n_step_target(case.reward, case.terminated, case.mask, case.greedy, gamma, n)
    case.compare(found, lambda place, t, b: case.corrected(gamma, place, t, b, n, case.greedy))


@quick
@given(seed=seeds, lengths=some_lengths, gamma=shares, trace=shares, on_policy=st.booleans())
def test_lambda_returns_weigh_all_n_step_returns(
    seed: int, lengths: list[int], gamma: float, trace: float, on_policy: bool
) -> None:
    """The definition with its weights (1 − λ) λ^(n−1), the rest on the return to the end."""
    case = Case(seed, lengths, (2,))
    values = case.taken if on_policy else case.greedy

    def expected(place: tuple[int, ...], t: int, b: int) -> float:
        left = case.lengths[b] - t
        total = trace ** (left - 1) * case.corrected(gamma, place, t, b, left, values)
        for n in range(1, left):
            total += (1 - trace) * trace ** (n - 1) * case.corrected(gamma, place, t, b, n, values)
        return total

    found = lambda_target(
        case.reward, case.terminated, case.mask, case.greedy, gamma, trace, case.taken if on_policy else None
    )
    case.compare(found, expected)


@quick
@given(seed=seeds, lengths=some_lengths, gamma=shares, trace=shares)
def test_the_limits_of_the_targets(seed: int, lengths: list[int], gamma: float, trace: float) -> None:
    case = Case(seed, lengths)
    common = (case.reward, case.terminated, case.mask, case.greedy, gamma)
    valid = case.mask
    td0 = one_step_target(case.reward, case.terminated, case.greedy, gamma)[valid]
    to_the_end = n_step_target(*common, max(lengths))[valid]
    assert_same([n_step_target(*common, 1)[valid], lambda_target(*common, 0.0)[valid]], [td0, td0])
    assert_same([lambda_target(*common, 1.0)[valid], n_step_target(*common, 100)[valid]], [to_the_end] * 2)
    assert_same([lambda_target(*common, 1.0, case.taken)[valid]], [to_the_end])
    case.terminated[:] = False
    for b, length in enumerate(lengths):
        case.terminated[length - 1, b] = True
    monte_carlo = discounted_sums(case.reward, valid, gamma)
    assert_same([lambda_target(*common, 1.0)[valid]], [monte_carlo[valid]])
    for b, length in enumerate(lengths):
        by_hand = sum(gamma**t * case.reward[t, b].item() for t in range(length))
        assert monte_carlo[0, b].item() == pytest.approx(by_hand, rel=1e-9, abs=1e-9)


def test_by_numbers() -> None:
    """Three transitions, cut off by the time limit: γ = λ = 1/2, rewards 8, 4, 2, greedy 16, 32, 64, taken 1, 2, 3."""
    reward, greedy = torch.tensor([[8.0], [4.0], [2.0]]), torch.tensor([[16.0], [32.0], [64.0]])
    taken = torch.tensor([[1.0], [2.0], [3.0]])
    mask, never = torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1, dtype=torch.bool)
    assert n_step_target(reward, never, mask, greedy, 0.5, 2).flatten().tolist() == [8 + 2 + 8, 4 + 1 + 16, 2 + 32]
    last = 2 + 32
    middle = 4 + 0.5 * (0.5 * 32 + 0.5 * last)
    peng = [8 + 0.5 * (0.5 * 16 + 0.5 * middle), middle, last]
    assert lambda_target(reward, never, mask, greedy, 0.5, 0.5).flatten().tolist() == peng
    middle = 4 + 0.5 * (0.5 * 2 + 0.5 * last)
    on_policy = [8 + 0.5 * (0.5 * 1 + 0.5 * middle), middle, last]
    assert lambda_target(reward, never, mask, greedy, 0.5, 0.5, taken).flatten().tolist() == on_policy


# -- in every learner --------------------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"targets": "n_step", "target_steps": 2},
    {"targets": "td_lambda", "target_lambda": 0.6},
    {"targets": "peng_lambda", "target_lambda": 0.6},
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["targets"])


@kinds
@pytest.mark.parametrize("name", NAMES)
def test_padding_and_what_follows_an_end_do_not_count(name: str, kind: dict[str, Any]) -> None:
    algorithm = build(name, **kind)
    batch = random_batch(3, [4, 1, 2, 6])
    batch.terminated[:2] = batch.terminated[2:] = False
    batch.terminated[0, 3] = batch.terminated[1, 0] = True
    plain = learned(algorithm, batch)
    assert_same(plain, learned(algorithm, with_garbage(batch, 5)), 1e-11)
    longer = random_batch(3, [4, 1, 2, 6], steps=9)
    longer.terminated[:] = False
    longer.terminated[:, :6] = batch.terminated
    assert_same(plain, learned(algorithm, longer), 1e-11)
    for row, length in enumerate(batch.lengths):
        if batch.terminated[row, length - 1]:
            batch.filled[row, length] = True
    assert_same(plain, learned(algorithm, batch), 1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_one_step_of_any_kind_is_td0(name: str) -> None:
    batch = random_batch(1, [4, 2, 6])
    plain = terms(build(name), batch)
    for kind in ({"targets": "n_step", "target_steps": 1}, {"targets": "peng_lambda", "target_lambda": 0.0}):
        found = terms(build(name, **kind), batch)
        assert_same([found.target[..., found.mask]], [plain.target[..., plain.mask]])


@pytest.mark.parametrize("name", NAMES)
def test_returns_to_the_end_are_the_same_from_anywhere(name: str) -> None:
    batch = random_batch(1, [4, 2, 6])
    batch.terminated[:] = False
    for row, length in enumerate(batch.lengths):
        batch.terminated[row, length - 1] = True
    returns = discounted_sums(torch.from_numpy(batch.reward.T).double(), terms(build(name), batch).mask, 0.99)
    for kind in (
        {"targets": "n_step", "target_steps": 6},
        {"targets": "td_lambda", "target_lambda": 1.0},
        {"targets": "peng_lambda", "target_lambda": 1.0},
    ):
        found = terms(build(name, **kind), batch)
        assert_same([found.target[..., found.mask]], [returns.expand_as(found.target)[..., found.mask]])


def by_hand(algorithm: ValueMixing, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
    """The target networks' values of the greedy and of the taken joint action after each transition, [T, B]."""
    prepared = algorithm.prepare(doubles(batch), np.random.default_rng(0))
    found = algorithm.terms(prepared)
    utilities, state = prepared.target_values[0], prepared.state
    actions = torch.cat([prepared.actions, prepared.actions[-1:]])  # of the last row nothing is asked
    mixed = [
        algorithm.target_mixer(take(utilities, chosen).flatten(0, 1), state.flatten(0, 1)).view(chosen.shape[:2])[1:]
        for chosen in (found.greedy, actions)
    ]
    return mixed[0], mixed[1]


def test_qmix_bootstraps_from_what_was_taken_or_from_the_best() -> None:
    batch = random_batch(4, [5, 3, 6])
    batch.terminated[:] = False
    batch.terminated[1, 2] = True
    targets = {}
    for kind in KINDS:
        algorithm = build("qmix", gamma=0.9, **kind)
        greedy, taken = by_hand(algorithm, batch)
        found = terms(algorithm, batch)
        targets[kind["targets"]] = found.target[found.mask]
        y = torch.zeros_like(found.target)
        for b, length in enumerate(batch.lengths):
            for t in reversed(range(length)):
                last = t == length - 1
                value = 0.0 if batch.terminated[b, t] else greedy[t, b].item()
                if kind["targets"] == "n_step" and not last:
                    over = t + 2 == length and batch.terminated[b, t + 1]
                    value = float(batch.reward[b, t + 1]) + (0.0 if over else 0.9 * greedy[t + 1, b].item())
                elif not last:
                    base = (taken if kind["targets"] == "td_lambda" else greedy)[t, b].item()
                    value = 0.4 * base + 0.6 * y[t + 1, b].item()
                y[t, b] = float(batch.reward[b, t]) + 0.9 * value
        assert_same([found.target[found.mask]], [y[found.mask]], 1e-9)
    assert not torch.allclose(targets["td_lambda"], targets["peng_lambda"])


def test_what_was_taken_counts_by_the_minimum_of_the_drawn_networks() -> None:
    """As the greedy action does: a team that only ever took greedy actions has one λ-return."""
    ensemble = {"agents": 3, "agents_subset": 2, "mixers": 3, "mixers_subset": 2}
    batch = random_batch(6, [5, 5])
    batch.terminated[:] = False
    for _ in range(6):  # actions are inputs of the next step: each round settles one step more
        greedy = terms(build("qmix", ensemble=ensemble), batch).greedy
        batch.actions[:] = greedy[:-1].transpose(0, 1).numpy()
    found = [
        terms(build("qmix", ensemble=ensemble, targets=kind, target_lambda=0.7), batch).target
        for kind in ("td_lambda", "peng_lambda")
    ]
    assert_same(found[:1], found[1:])


# -- the loss ----------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, delta=st.floats(0.1, 3), weighted=st.booleans())
def test_huber_is_squared_near_zero_and_linear_far_away(seed: int, delta: float, weighted: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    prediction, target = (2 * torch.randn(2, 4, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(2, 4, 3, generator=draw, dtype=torch.float64) if weighted else None
    mask = torch.rand(4, 3, generator=draw) < 0.7
    mask[0, 0] = True
    twice = 2 * torch.nn.functional.huber_loss(prediction, target, reduction="none", delta=delta)
    expected = (twice if weight is None else twice * weight)[:, mask].mean()
    prediction[:, ~mask] = float("inf")
    torch.testing.assert_close(weighted_huber_error(prediction, target, mask, delta, weight), expected)
    far = weighted_huber_error(prediction, target, mask, 1e9, weight)
    torch.testing.assert_close(far, weighted_squared_error(prediction, target, mask, weight))


@pytest.mark.parametrize("name", NAMES)
def test_huber_serves_every_method(name: str) -> None:
    """With a δ that no error reaches nothing changes; with a small one the loss and its gradient do."""
    batch = random_batch(2, [4, 2, 6])
    squared, wide, narrow = (
        learned(build(name, **kind), batch)
        for kind in (
            {},
            {"loss": "huber", "huber_delta": 1e6},
            {"loss": "huber", "huber_delta": 0.01},
        )
    )
    assert_same(squared, wide)
    assert narrow[0] < squared[0]


# -- target networks ---------------------------------------------------------------------------------------------------


SOFT = [
    name
    for name in NAMES
    if "soft" in get_args(algorithm_class(name).Settings.model_fields["target_update"].annotation)
]


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_follow_after_every_update(name: str) -> None:
    algorithm = build(name, target_update="soft", target_tau=0.25, target_update_updates=2)
    before = snapshot(algorithm)
    pairs = [key for key in before if f"target_{key}" in before]
    assert pairs
    for update in (1, 2, 3):
        assert algorithm.moves_targets(update)
        before = snapshot(algorithm)
        algorithm.after_update(update)
        after = snapshot(algorithm)
        for key in pairs:
            expected = 0.75 * before[f"target_{key}"] + 0.25 * before[key]
            torch.testing.assert_close(after[f"target_{key}"], expected, rtol=1e-12, atol=1e-12)
            assert torch.equal(after[key], before[key])
            assert not torch.equal(after[f"target_{key}"], before[f"target_{key}"])


@pytest.mark.parametrize("name", SOFT)
def test_a_soft_update_of_everything_is_a_copy(name: str) -> None:
    soft, hard = build(name, target_update="soft", target_tau=1.0), build(name)
    soft.after_update(1)
    hard.copy_targets()
    assert_same(list(soft.state_dict().values()), list(hard.state_dict().values()))
    assert [hard.moves_targets(update) for update in (1, 199, 200, 400)] == [False, False, True, True]


def test_no_gradient_reaches_a_target_network() -> None:
    algorithm = build("qmix", target_update="soft")
    algorithm.loss(algorithm.prepare(doubles(random_batch(0, [4, 6])), np.random.default_rng(0)))[0].backward()
    algorithm.after_update(1)
    for key, parameter in algorithm.named_parameters():
        assert parameter.requires_grad == (not key.startswith("target_")), key
    assert cast(Any, algorithm.target_agents.fc1.weight).grad is None
