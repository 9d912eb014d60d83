"""Advantages and value targets against loops that follow the papers' recursions, and value normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phalanx.algorithms.common.returns import backward_recurrence, gae, vtrace
from phalanx.algorithms.common.value_norm import ValueNorm

seeds = st.integers(0, 2**31)
some_lengths = st.lists(st.integers(1, 9), min_size=1, max_size=4)
quick = settings(max_examples=25)
GAMMA, TRACE = 0.9, 0.7


class Episodes:
    """Random episodes, nonsense (infinite, even) wherever nothing is learned."""

    def __init__(self, seed: int, lengths: list[int], agents: int = 2, padding: int = 0) -> None:
        rng = np.random.default_rng(seed)
        steps, batch = max(lengths) + padding, len(lengths)
        self.lengths = lengths
        self.reward = torch.from_numpy(rng.normal(size=(steps, batch, agents)))
        self.values = torch.from_numpy(rng.normal(size=(steps + 1, batch, agents)))
        self.ratio = torch.from_numpy(rng.lognormal(sigma=1.0, size=(steps, batch, agents)))
        self.terminated = torch.from_numpy(rng.random((steps, batch)) < 0.5)
        self.mask = torch.arange(steps).unsqueeze(1) < torch.tensor(lengths)
        for b, length in enumerate(lengths):
            self.terminated[: length - 1, b] = False
            self.values[length + 1 :, b] = torch.nan
            self.reward[length:, b] = torch.inf
            self.ratio[length:, b] = torch.inf

    def deltas(self, b: int, agent: int) -> list[float]:
        found = []
        for t in range(self.lengths[b]):
            following = 0.0 if self.terminated[t, b] else float(self.values[t + 1, b, agent])
            found.append(float(self.reward[t, b, agent]) + GAMMA * following - float(self.values[t, b, agent]))
        return found


def only_learned(tensor: Tensor, episodes: Episodes) -> Tensor:
    assert tensor.shape == episodes.reward.shape
    return tensor.masked_fill(~episodes.mask.unsqueeze(-1), 0.0)


@quick
@given(seed=seeds, steps=st.integers(1, 40))
def test_the_recurrence_is_the_loop(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    added, factor = (torch.from_numpy(rng.normal(size=(steps, 3, 2))) for _ in range(2))
    before = added.clone(), factor.clone()
    found, last = backward_recurrence(added, factor), torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(added, before[0]) and torch.equal(factor, before[1])
    for t in reversed(range(steps)):
        last = added[t] + factor[t] * last
        torch.testing.assert_close(found[t], last, rtol=1e-9, atol=1e-9)


@quick
@given(seed=seeds, lengths=some_lengths, padding=st.integers(0, 3))
def test_gae_is_the_loop(seed: int, lengths: list[int], padding: int) -> None:
    episodes = Episodes(seed, lengths, padding=padding)
    advantage, target = gae(episodes.reward, episodes.values, episodes.terminated, episodes.mask, GAMMA, TRACE)
    assert torch.equal(advantage, only_learned(advantage, episodes))
    for b, agent in np.ndindex(len(lengths), 2):
        last = 0.0
        for t, delta in reversed(list(enumerate(episodes.deltas(b, agent)))):
            last = delta + GAMMA * TRACE * last
            assert float(advantage[t, b, agent]) == pytest.approx(last, rel=1e-12, abs=1e-12)
            value = float(episodes.values[t, b, agent])
            assert float(target[t, b, agent]) == pytest.approx(last + value, rel=1e-12, abs=1e-12)


@quick
@given(seed=seeds, lengths=some_lengths, rho_max=st.sampled_from([0.5, 1.0, 2.0]), c_max=st.sampled_from([0.3, 1.0]))
def test_vtrace_is_the_published_recursion(seed: int, lengths: list[int], rho_max: float, c_max: float) -> None:
    """Espeholt et al. 2018, remark 1."""
    data = Episodes(seed, lengths, padding=1)
    advantage, target = vtrace(
        data.reward, data.values, data.terminated, data.mask, data.ratio, GAMMA, TRACE, rho_max, c_max
    )
    for b, agent in np.ndindex(len(lengths), 2):
        excess = 0.0  # v_{t+1} - V(x_{t+1}): nothing is learned of what comes after the last step
        for t, delta in reversed(list(enumerate(data.deltas(b, agent)))):
            ratio, value = float(data.ratio[t, b, agent]), float(data.values[t, b, agent])
            decay = GAMMA * TRACE * excess
            assert float(advantage[t, b, agent]) == pytest.approx(delta + decay, rel=1e-12, abs=1e-12)
            excess = min(rho_max, ratio) * delta + min(c_max, ratio) * decay
            assert float(target[t, b, agent]) == pytest.approx(value + excess, rel=1e-12, abs=1e-12)


@quick
@given(seed=seeds, lengths=some_lengths)
def test_vtrace_of_ones_own_play_is_gae(seed: int, lengths: list[int]) -> None:
    data = Episodes(seed, lengths)
    given_ = (data.reward, data.values, data.terminated, data.mask)
    of_own = vtrace(*given_, torch.ones_like(data.ratio), GAMMA, TRACE)
    for found, expected in zip(of_own, gae(*given_, GAMMA, TRACE), strict=True):
        torch.testing.assert_close(only_learned(found, data), only_learned(expected, data), rtol=1e-12, atol=1e-12)


def test_an_episode_that_was_cut_off_bootstraps_and_one_that_terminated_does_not() -> None:
    reward, values = torch.ones(1, 2, 1), torch.tensor([[[1.0], [1.0]], [[10.0], [10.0]]])
    terminated, mask = torch.tensor([[False, True]]), torch.ones(1, 2, dtype=torch.bool)
    for method in (lambda *a: gae(*a, 0.5, 1.0), lambda *a: vtrace(*a, torch.ones(1, 2, 1), 0.5, 1.0)):
        advantage, target = method(reward, values, terminated, mask)
        assert advantage.flatten().tolist() == [1 + 5 - 1, 1 - 1] and target.flatten().tolist() == [6, 1]


def test_one_team_reward_serves_agents_with_values_of_their_own() -> None:
    data = Episodes(3, [4, 2])
    team = data.reward[..., :1]
    together = gae(team, data.values, data.terminated, data.mask, GAMMA, TRACE)
    apart = gae(team.expand(-1, -1, 2), data.values, data.terminated, data.mask, GAMMA, TRACE)
    for first, second in zip(together, apart, strict=True):
        assert torch.equal(only_learned(first, data), only_learned(second, data))


# -- value normalisation -----------------------------------------------------------------------------------------------


def test_normalised_returns_have_mean_zero_and_deviation_one() -> None:
    norm, mask = ValueNorm(), torch.tensor([[True, True], [True, False]])
    returns = torch.tensor([[[-40.0], [-60.0]], [[-50.0], [torch.inf]]])
    norm.update(returns, mask)
    valid = norm.normalise(returns)[mask]
    torch.testing.assert_close(valid.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(valid.var(correction=0), torch.tensor(1.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.denormalise(valid), returns[mask], rtol=1e-6, atol=0)


def test_the_statistics_are_those_of_weighted_pooled_returns() -> None:
    """Older updates count less and less, and the zeros that the means began with not at all."""
    norm, mask = ValueNorm(), torch.ones(5, 3, dtype=torch.bool)
    updates = [torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(k)) + k for k in range(4)]
    for returns in updates:
        norm.update(returns, mask)
    weights = np.array([0.999 ** (3 - k) for k in range(4)])
    weights /= weights.sum()
    mean = sum(w * float(u.double().mean()) for w, u in zip(weights, updates, strict=True))
    square = sum(w * float(u.double().square().mean()) for w, u in zip(weights, updates, strict=True))
    found = [float(x) for x in norm.scale()]
    assert found == pytest.approx([mean, (square - mean**2) ** 0.5], rel=1e-9)


def test_before_the_first_update_and_after_a_reload() -> None:
    norm, values = ValueNorm(), torch.randn(4, 2, 1)
    assert torch.equal(norm.denormalise(values), values) and torch.equal(norm.normalise(values), values)
    norm.update(5 + 3 * values, torch.ones(4, 2, dtype=torch.bool))
    again = ValueNorm()
    again.load_state_dict(norm.state_dict())
    assert torch.equal(again.denormalise(values), norm.denormalise(values))
    assert not torch.equal(again.denormalise(values), values)


def test_equal_returns_are_not_blown_up() -> None:
    norm = ValueNorm()
    norm.update(torch.full((3, 1, 1), 7.0), torch.ones(3, 1, dtype=torch.bool))
    assert norm.normalise(torch.tensor(7.5)).item() == pytest.approx(5.0)
