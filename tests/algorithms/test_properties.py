"""What must hold for any weights and any batch: mixing, masks, padding, order, targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phalanx.algorithms.common.losses import masked_mean, weighted_squared_error
from phalanx.algorithms.common.mixers import QMixer, mixing_gradient
from phalanx.algorithms.common.targets import mask_unavailable, one_step_target, take, transition_mask
from tests.algorithms.helpers import (
    NAMES,
    SPEC,
    STATELESS,
    assert_same,
    build,
    doubles,
    learned,
    random_batch,
    rows,
    terms,
    with_garbage,
)

seeds = st.integers(0, 2**31)
small = st.integers(1, 4)
some_lengths = st.lists(st.integers(1, 5), min_size=1, max_size=4)
quick = settings(max_examples=20)


def mixer_and_inputs(seed: int, members: int, agents: int, sizes: int = 9) -> tuple[QMixer, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mixer = QMixer(members, agents, 5, 4, 6).double()
    for parameter in mixer.parameters():
        parameter.data.uniform_(-1.5, 1.5, generator=draw)
    q = 3 * torch.randn(sizes, agents, generator=draw, dtype=torch.float64)
    return mixer, q, torch.randn(sizes, 5, generator=draw, dtype=torch.float64)


# -- mixing ------------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, members=small, agents=small, rise=st.floats(1e-6, 1e3))
def test_the_team_never_loses_when_an_agent_gains(seed: int, members: int, agents: int, rise: float) -> None:
    mixer, q, state = mixer_and_inputs(seed, members, agents)
    before = mixer(q, state)
    assert before.shape == (members, 9)
    for agent in range(agents):
        raised = q.clone()
        raised[:, agent] += rise
        after = mixer(raised, state)
        assert (after >= before - 1e-9).all()
        assert (after > before).any()


@quick
@given(seed=seeds, members=small, agents=small)
def test_sensitivity_is_the_gradient(seed: int, members: int, agents: int) -> None:
    mixer, q, state = mixer_and_inputs(seed, members, agents)
    q.requires_grad_(True)
    generated = mixer.generate(state)
    q_tot = mixer.mix(q, generated)
    formula = mixing_gradient(q, generated)
    assert formula.shape == (members, 9, agents) and (formula >= 0).all() and (formula > 0).any()
    for member in range(members):
        by_autograd = torch.autograd.grad(q_tot[member].sum(), q, retain_graph=True)[0]
        torch.testing.assert_close(formula[member], by_autograd, rtol=1e-12, atol=1e-12)


@quick
@given(seed=seeds, members=st.integers(2, 4))
def test_mixers_are_independent(seed: int, members: int) -> None:
    """Each of H mixers computes what it would alone; chosen ones are the chosen ones; l1 is summed by hand."""
    mixer, q, state = mixer_and_inputs(seed, members, 3)
    generated = mixer.generate(state)
    together = mixer.mix(q, generated)
    for h in range(members):
        alone = QMixer(1, 3, 5, 4, 6).double()
        alone.load_state_dict({name: tensor[h : h + 1] for name, tensor in mixer.state_dict().items()})
        torch.testing.assert_close(alone(q, state)[0], together[h], rtol=1e-12, atol=1e-12)
        parts = (generated.first[h].flatten(1), generated.bias[h], generated.last[h], generated.value[h].unsqueeze(-1))
        torch.testing.assert_close(generated.l1()[h], torch.cat(parts, -1).norm(p=1, dim=-1), rtol=1e-12, atol=1e-12)
    order = torch.tensor([members - 1, 0])
    torch.testing.assert_close(mixer.mix(q, mixer.generate(state, order)), together[order], rtol=1e-12, atol=1e-12)


# -- masks, padding, order ---------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, episodes=small, steps=st.integers(1, 6))
def test_transitions_count_up_to_the_terminal_one(seed: int, episodes: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    filled = rng.random((episodes, steps + 1)) < 0.7
    terminated = rng.random((episodes, steps)) < 0.3
    mask = transition_mask(torch.from_numpy(filled), torch.from_numpy(terminated))
    assert mask.shape == (steps, episodes)
    for b in range(episodes):
        for t in range(steps):
            assert bool(mask[t, b]) == (filled[b, t] and not (t > 0 and terminated[b, t - 1]))


def test_the_mask_leaves_its_arguments_alone() -> None:
    filled, terminated = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[True, False, False]])
    transition_mask(filled, terminated)
    assert filled.all()


@quick
@given(seed=seeds, name=st.sampled_from(NAMES), episodes=some_lengths)
def test_garbage_in_the_padding_changes_nothing(seed: int, name: str, episodes: list[int]) -> None:
    algorithm = build(name, seed=seed)
    batch = random_batch(seed, [*episodes, 6])  # all but the last are padded
    garbage = with_garbage(batch, seed + 1)
    assert not np.array_equal(batch.reward, garbage.reward)
    assert_same(learned(algorithm, batch), learned(algorithm, garbage), 1e-11)


@quick
@given(seed=seeds, name=st.sampled_from(NAMES), episodes=some_lengths)
def test_the_row_after_a_terminal_transition_does_not_count(seed: int, name: str, episodes: list[int]) -> None:
    """Where the final observation is marked as filled (as PyMARL's runner does), nothing was made from it."""
    algorithm = build(name, seed=seed)
    batch = random_batch(seed, [*episodes, 6])
    for row, length in enumerate(batch.lengths):
        batch.terminated[row, length - 1] = True
    before = learned(algorithm, batch)
    for row, length in enumerate(batch.lengths):
        batch.filled[row, length] = True
    assert_same(before, learned(algorithm, batch))


@pytest.mark.parametrize("name", NAMES)
def test_what_was_seen_does_count(name: str) -> None:
    """The two tests above could not fail if nothing mattered: each number of a valid transition does."""
    algorithm = build(name)
    batch = random_batch(3, [4, 6])
    batch.terminated[:] = False
    plain = learned(algorithm, batch)
    for array, place in ((batch.reward, (0, 3)), (batch.obs, (0, 2, 1, 0)), (batch.obs, (0, 4, 1, 0))):
        kept = array[place]
        array[place] += 1
        assert abs(learned(algorithm, batch)[0] - plain[0]) > 1e-9
        array[place] = kept
    batch.terminated[0, 3] = True
    assert abs(learned(algorithm, batch)[0] - plain[0]) > 1e-9


@quick
@given(seed=seeds, name=st.sampled_from(NAMES), episodes=some_lengths, extra=small)
def test_longer_padding_changes_nothing(seed: int, name: str, episodes: list[int], extra: int) -> None:
    algorithm = build(name, seed=seed)
    short = random_batch(seed, episodes)
    long = random_batch(seed, episodes, steps=max(episodes) + extra)
    assert long.reward.shape[1] == short.reward.shape[1] + extra
    assert_same(learned(algorithm, short), learned(algorithm, long), 1e-11)
    assert_same(learned(algorithm, short), learned(algorithm, long.trimmed()), 0)


@quick
@given(seed=seeds, name=st.sampled_from(NAMES), episodes=st.permutations(range(4)))
def test_the_order_of_episodes_does_not_matter(seed: int, name: str, episodes: list[int]) -> None:
    algorithm = build(name, seed=seed, ensemble={"agents": 2})
    batch = random_batch(seed, [3, 1, 5, 2])
    assert_same(learned(algorithm, batch), learned(algorithm, rows(batch, episodes)), 1e-11)


def test_the_published_regulariser_counts_padding() -> None:
    """The one exception, on purpose: with alpha > 0 padded steps are regularised too, and nothing else changes."""
    algorithm = build("demar", regulariser={"alpha": 0.5}, ensemble={"mixers": 3})
    batch = random_batch(1, [2, 6])
    clean, dirty = (terms(algorithm, b).losses for b in (batch, with_garbage(batch, 2)))
    torch.testing.assert_close(clean["loss_td"], dirty["loss_td"], rtol=1e-12, atol=0)
    assert abs(clean["loss_reg"] - dirty["loss_reg"]) > 1e-3


@quick
@given(seed=seeds, leading=st.lists(small, max_size=2), steps=small, episodes=small)
def test_masked_mean(seed: int, leading: list[int], steps: int, episodes: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(*leading, steps, episodes, generator=draw, dtype=torch.float64)
    mask = torch.rand(steps, episodes, generator=draw) < 0.6
    mask[0, 0] = True
    by_hand = values[..., mask].mean()
    torch.testing.assert_close(masked_mean(values, mask), by_hand, rtol=1e-12, atol=1e-12)
    values[..., ~mask] = float("inf")
    torch.testing.assert_close(masked_mean(values, mask), by_hand, rtol=1e-12, atol=1e-12)


def test_weighted_error_is_divided_by_the_number_of_valid_steps() -> None:
    """Not by the sum of the weights: Weighted QMIX's weights lower the loss."""
    prediction, target = torch.tensor([[3.0, 1.0], [2.0, 9.0]]), torch.tensor([[1.0, 1.0], [5.0, 0.0]])
    mask, weight = torch.tensor([[True, True], [True, False]]), torch.tensor([[0.5, 1.0], [0.1, 1.0]])
    assert weighted_squared_error(prediction, target, mask).item() == pytest.approx((4 + 0 + 9) / 3)
    assert weighted_squared_error(prediction, target, mask, weight).item() == pytest.approx((2 + 0 + 0.9) / 3)
    two = torch.stack([prediction, target])  # two mixers: the mean of both
    assert weighted_squared_error(two, target, mask).item() == pytest.approx((4 + 0 + 9) / 6)


# -- targets -----------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, gamma=st.floats(0, 1), leading=st.lists(small, max_size=1))
def test_one_step_target_bootstraps_unless_terminated(seed: int, gamma: float, leading: list[int]) -> None:
    rng = np.random.default_rng(seed)
    reward, terminated = rng.normal(size=(4, 3)), rng.random((4, 3)) < 0.5
    following = rng.normal(size=(*leading, 4, 3))
    following[..., terminated] = np.inf  # a value after the end does not exist
    ended, value = torch.from_numpy(terminated), torch.from_numpy(following)
    target = one_step_target(torch.from_numpy(reward), ended, value, gamma).numpy()
    for place in np.ndindex(target.shape):
        t, b = place[-2:]
        expected = reward[t, b] if terminated[t, b] else reward[t, b] + gamma * following[place]
        assert target[place] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@quick
@given(seed=seeds, shape=st.lists(small, min_size=1, max_size=3))
def test_greedy_is_the_best_available(seed: int, shape: list[int]) -> None:
    rng = np.random.default_rng(seed)
    values, avail = rng.normal(size=(*shape, 5)), rng.random((*shape, 5)) < 0.4
    np.put_along_axis(avail, rng.integers(5, size=(*shape, 1)), True, -1)
    masked = mask_unavailable(torch.from_numpy(values), torch.from_numpy(avail))
    greedy = masked.argmax(-1)
    for place in np.ndindex(*shape):
        best = max((a for a in range(5) if avail[place][a]), key=lambda a: values[place][a])
        assert greedy[place] == best
    chosen = take(torch.from_numpy(values), greedy).numpy()
    np.testing.assert_array_equal(chosen, np.where(avail, values, -np.inf).max(-1))


@pytest.mark.parametrize("name", NAMES)
def test_mixing_needs_a_state_and_summing_does_not(name: str) -> None:
    assert build(name).capabilities.needs_state == (name not in STATELESS)
    spec = replace(SPEC, state_dim=0) if name in STATELESS else SPEC
    algorithm, batch = build(name, spec=spec), doubles(random_batch(0, [3, 2], spec))
    loss, metrics = algorithm.loss(algorithm.prepare(batch, np.random.default_rng(0)))
    assert loss.isfinite()
    assert set(metrics) >= {"loss_td", "q_taken_mean", "target_mean"}
    assert not any(value.requires_grad for value in metrics.values())
