"""Adaptive DEMAR: the rule by itself, and in the learner."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from phalanx.algorithms.adaptive import (
    Adaptation,
    AdaptiveSettings,
    AdaptiveState,
    Measurement,
    adjusted,
    measurement,
)
from phalanx.algorithms.common.targets import transition_mask
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.cluster.learner import Learner
from tests.algorithms.helpers import SPEC, build, doubles, random_batch
from tests.algorithms.test_registry import run_of

RULE = AdaptiveSettings(
    enabled=True,
    smoothing=0.0,
    gap_high=0.3,
    alpha_factor=2.0,
    alpha_min=0.001,
    alpha_max=0.1,
    subset_step=0.1,
    release=1.0,
)
MEMBERS = (5, 10)
START = AdaptiveState(alpha=0.01, agents=2.0, mixers=4.0)
HIGH, MIDDLE, LOW = (Measurement(10.0 + gap, 10.0, 10.0, 0.5) for gap in (4.0, 2.0, 0.5))  # 0.4, 0.2, 0.05


def test_too_much_promised_makes_pessimism_grow_too_little_shrink() -> None:
    grown = adjusted(START, HIGH, RULE, MEMBERS)
    assert (grown.alpha, grown.agents, grown.mixers) == (0.02, 2.5, 5.0)
    assert grown.gap == pytest.approx(0.4)
    assert grown.subsets == (3, 5)
    shrunk = adjusted(START, LOW, RULE, MEMBERS)
    assert (shrunk.alpha, shrunk.agents, shrunk.mixers) == (0.005, 1.5, 3.0)
    stays = adjusted(START, MIDDLE, RULE, MEMBERS)
    assert (stays.alpha, stays.agents, stays.mixers) == (0.01, 2.0, 4.0)


def test_pessimism_goes_more_slowly_than_it_comes() -> None:
    state = adjusted(START, LOW, RULE.model_copy(update={"release": 0.5}), MEMBERS)
    assert (state.alpha, state.agents, state.mixers) == (pytest.approx(0.01 / 2**0.5), 1.75, 3.5)
    assert adjusted(START, HIGH, RULE.model_copy(update={"release": 0.5}), MEMBERS).alpha == 0.02


def test_mixing_weights_near_zero_lower_alpha_whatever_the_gap() -> None:
    for measured in (HIGH, MIDDLE, LOW):
        numb = adjusted(START, replace(measured, sensitivity=0.049), RULE, MEMBERS)
        assert numb.alpha == 0.005
        assert numb.subsets == adjusted(START, measured, RULE, MEMBERS).subsets  # these do not depend on it
    assert adjusted(START, replace(HIGH, sensitivity=None), RULE, MEMBERS).alpha == 0.02


def test_bounds_hold() -> None:
    state = START
    for _ in range(40):
        state = adjusted(state, HIGH, RULE, MEMBERS)
    assert (state.alpha, state.agents, state.mixers) == (0.1, 5.0, 10.0)
    for _ in range(40):
        state = adjusted(state, LOW, RULE, MEMBERS)
    assert (state.alpha, state.agents, state.mixers) == (0.001, 1.0, 1.0)


@trials(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(-50, 50), st.floats(-20, 20), st.floats(0, 20), st.floats(0, 1)), max_size=40),
    st.integers(1, 9),
)
def test_any_history_stays_within_bounds(history: list[tuple[float, float, float, float]], members: int) -> None:
    state = AdaptiveState(alpha=0.01, agents=1.0, mixers=float(members))
    for figures in history:
        state = adjusted(state, Measurement(*figures), RULE, (1, members))
        assert RULE.alpha_min <= state.alpha <= RULE.alpha_max
        assert state.subsets[0] == 1 and 1 <= state.subsets[1] <= members


def test_without_any_reward_there_is_nothing_to_measure_against() -> None:
    state = adjusted(START, Measurement(5.0, 0.0, 0.0, 0.5), RULE, MEMBERS)
    assert (state.alpha, state.subsets, state.gap) == (START.alpha, START.subsets, 0.0)
    for broken in (float("nan"), float("inf")):
        assert adjusted(START, Measurement(broken, 1.0, 1.0, 0.5), RULE, MEMBERS) == START


def test_figures_are_smoothed_and_the_first_counts_in_full() -> None:
    rule = RULE.model_copy(update={"smoothing": 0.5})
    first, second = (4.0, -3.0, 8.0, 0.2), (1.0, 2.0, 2.0, 0.8)
    once = adjusted(START, Measurement(*first), rule, MEMBERS)
    assert (once.promised, once.followed, once.size, once.sensitivity) == first
    twice = adjusted(once, Measurement(*second), rule, MEMBERS)
    for found, old, new in zip(
        (twice.promised, twice.followed, twice.size, twice.sensitivity), first, second, strict=True
    ):
        assert found == pytest.approx((old * 0.25 + new * 0.5) / 0.75)


@pytest.mark.parametrize(
    ("promised", "followed", "gap"),
    [(6.0, 4.0, 0.5), (2.0, 4.0, -0.5), (-1.0, -4.0, -0.25), (-6.0, -4.0, -1.5), (2.0, -4.0, 0.5)],
)
def test_values_between_the_truth_and_zero_are_not_learned_yet(promised: float, followed: float, gap: float) -> None:
    assert adjusted(START, Measurement(promised, followed, 4.0, 0.5), RULE, MEMBERS).gap == gap


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"gap_low": 0.7}, "adaptive.gap_low=0.7 is more than adaptive.gap_high=0.5"),
        ({"alpha_min": 0.2}, "adaptive.alpha_min=0.2 is more than adaptive.alpha_max=0.1"),
        ({"alpha_factor": 1.0}, "alpha_factor"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"every_updates": 0}, "every_updates"),
        ({"subset_step": 1.5}, "subset_step"),
        ({"release": 0}, "release"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AdaptiveSettings.model_validate(wrong)


def test_methods_in_which_nothing_could_be_adjusted_say_so() -> None:
    with pytest.raises(ValueError, match="vdn has no mixing network"):
        build("vdn", adaptive={"enabled": True})
    with pytest.raises(ValueError, match=r"set adaptive\.subset_step=0"):
        build("ow_qmix", adaptive={"enabled": True}, ensemble={"mixers": 3})
    build("ow_qmix", adaptive={"enabled": True, "subset_step": 0}, ensemble={"mixers": 3})
    build("ow_qmix", adaptive={"enabled": True})


# -- what is measured --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("too_large", [1.0, 1.5, 0.5])
@pytest.mark.parametrize("terminates", [True, False])
def test_the_gap_of_values_too_large_by_a_factor_is_the_factor_less_one(too_large: float, terminates: bool) -> None:
    """Of true values times a factor, however long the episodes and whether they end or are cut off."""
    gamma, lengths, steps = 0.9, [7, 3, 1], 8
    filled = torch.zeros(3, steps + 1, dtype=torch.bool)
    reward, terminated = torch.full((steps, 3), 99.0).double(), torch.zeros(steps, 3, dtype=torch.bool)
    q_tot = torch.full((2, steps, 3), 99.0).double()
    for b, length in enumerate(lengths):
        filled[b, :length] = True
        reward[:length, b] = 2.0
        terminated[length - 1, b] = terminates
        for t in range(length):  # reward 2 for ever, or until the end
            value = 2 * (1 - gamma ** (length - t)) / (1 - gamma) if terminates else 2 / (1 - gamma)
            q_tot[0, t, b], q_tot[1, t, b] = too_large * value - 1, too_large * value + 1  # two mixers: their mean
    mask = transition_mask(filled, terminated.t())
    promised, followed, size = measurement(q_tot, reward, terminated, mask, gamma).tolist()
    found = adjusted(START, Measurement(promised, followed, size, None), RULE, MEMBERS)
    assert found.gap == pytest.approx(too_large - 1, abs=1e-9)
    assert size > 0
    losses = measurement(-q_tot, -reward, terminated, mask, gamma).tolist()
    assert losses == pytest.approx([-promised, -followed, size])


# -- in the learner ----------------------------------------------------------------------------------------------------

DEMAR: dict[str, Any] = {
    "ensemble": {"agents": 4, "agents_subset": 1, "mixers": 4, "mixers_subset": 2},
    "regulariser": {"alpha": 0.01},
    "adaptive": {"enabled": True, "every_updates": 2, "smoothing": 0.5, "subset_step": 0.25, "release": 0.3},
}


def update(algorithm: ValueMixing, number: int, scale: float = 1.0) -> dict[str, float]:
    batch = random_batch(number, [4, 6, 2])
    batch.reward *= scale
    _, metrics = algorithm.loss(algorithm.prepare(doubles(batch), np.random.default_rng(number)))
    algorithm.after_update(number)
    return {name: float(value) for name, value in metrics.items()}


def test_the_learner_adjusts_at_fixed_updates_and_says_so() -> None:
    """Hardly any reward beside values of order 1: Q_tot promises too much, or too little, by far."""
    algorithm = build("demar", **DEMAR)
    seen = [update(algorithm, number, 1e-3) for number in range(1, 9)]
    alphas = [metrics["alpha_reg"] for metrics in seen]
    assert alphas[0] == alphas[1] == pytest.approx(0.01)
    for before, after in ((1, 2), (3, 4), (5, 6)):
        grows = seen[after]["adaptive_gap"] > 0.5
        assert alphas[after] == alphas[after + 1] == pytest.approx(alphas[before] * (1.05 if grows else 1.05**-0.3))
        assert (seen[after]["agents_subset"] > seen[before]["agents_subset"]) == (
            grows and seen[before]["agents_subset"] < 4
        )
    assert algorithm.members_drawn == algorithm.adaptation.state.subsets  # type: ignore[union-attr]
    assert len({(metrics["agents_subset"], metrics["mixers_subset"]) for metrics in seen}) > 1


def test_what_is_adjusted_has_an_effect() -> None:
    """The regulariser's weight and the number of networks that are drawn."""
    algorithm = build("demar", **DEMAR)
    assert algorithm.adaptation is not None
    batch = doubles(random_batch(0, [4, 6]))
    before = algorithm.terms(algorithm.prepare(batch, np.random.default_rng(0)))
    algorithm.adaptation.state = replace(algorithm.adaptation.state, alpha=0.03, agents=4.0, mixers=3.0)
    after = algorithm.terms(algorithm.prepare(batch, np.random.default_rng(0)))
    assert (before.prepared.target_values.shape[0], before.greedy_values.shape[0]) == (1, 2)
    assert (after.prepared.target_values.shape[0], after.greedy_values.shape[0]) == (4, 3)
    torch.testing.assert_close(after.losses["loss_reg"], 3 * before.losses["loss_reg"])
    assert not torch.equal(before.target, after.target)


def test_nothing_is_prepared_ahead_across_an_adjustment() -> None:
    """`prepare` draws as many networks as the state says."""
    algorithm = build("demar", **DEMAR)
    assert [algorithm.moves_targets(number) for number in (1, 2, 3, 4, 200)] == [False, True, False, True, True]
    batch = doubles(random_batch(0, [4]))
    before = algorithm.target_agents.state_dict()
    algorithm.loss(algorithm.prepare(batch, np.random.default_rng(0)))
    algorithm.after_update(2)
    assert all(torch.equal(before[key], value) for key, value in algorithm.target_agents.state_dict().items())


def test_a_resumed_learner_goes_on_as_if_nothing_had_happened() -> None:
    run = run_of({"name": "demar", "lr": 0.01, **DEMAR})
    batches = [random_batch(number, [4, 6, 2, 3]) for number in range(12)]
    through, first, resumed = (Learner(run, SPEC) for _ in range(3))
    through.update(batches)
    first.update(batches[:5])
    resumed.load_state(copy.deepcopy(first.state()))
    resumed.update(batches[5:])
    assert isinstance(through.algorithm, ValueMixing) and isinstance(resumed.algorithm, ValueMixing)
    assert through.algorithm.adaptation is not None and resumed.algorithm.adaptation is not None
    assert through.algorithm.adaptation.state == resumed.algorithm.adaptation.state
    assert through.algorithm.adaptation.state.measurements == 6
    assert through.algorithm.adaptation.state.alpha != 0.01
    for key, value in through.algorithm.state_dict().items():
        assert torch.equal(value, resumed.algorithm.state_dict()[key]), key
    one_by_one = Learner(run, SPEC)  # nothing prepared ahead at all
    for batch in batches:
        one_by_one.update([batch])
    for key, value in through.algorithm.state_dict().items():
        assert torch.equal(value, one_by_one.algorithm.state_dict()[key]), key
    row = through.metrics()
    assert {"train/alpha_reg", "train/agents_subset", "train/mixers_subset", "train/adaptive_gap"} <= set(row)


def test_the_state_survives_as_one_tensor() -> None:
    state = AdaptiveState(0.0123456789, 1.7, 3.3, 1234567, 89, -0.5, 2.5, 7.5, 0.125)
    first, second = (Adaptation(RULE, 0.01, (1, 1), MEMBERS) for _ in range(2))
    first.state = state
    saved = first.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in saved.values())
    second.load_state_dict(saved)
    assert second.state == state
    assert not list(first.parameters())


def test_without_it_there_is_no_trace_of_it() -> None:
    assert not [key for key in build("demar").state_dict() if "adapt" in key]
    assert "alpha_reg" not in update(build("demar"), 1)
