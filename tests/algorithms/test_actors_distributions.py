"""Distributions against torch's own, numerical integration and their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributions

from phalanx.algorithms.common.distributions import (
    LOG_STD_RANGE,
    Categorical,
    Deterministic,
    Distribution,
    Gaussian,
    TanhGaussian,
    gumbel,
    normal,
)

B, N, A, D = 5, 3, 4, 2
LIKE = torch.zeros((), dtype=torch.float64)
USED = torch.tensor([[True, True], [True, False], [True, True]])
seeds = st.integers(0, 2**31)


def draws(seed: int, *shape: int) -> Tensor:
    return normal(np.random.default_rng(seed), shape, LIKE)


def some_avail(seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    avail = torch.from_numpy(rng.random((B, N, A)) < 0.5)
    return avail.scatter(-1, torch.from_numpy(rng.integers(A, size=(B, N, 1))), True)


def close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


@settings(max_examples=30)
@given(seed=seeds)
def test_a_categorical_is_torchs_over_what_is_available(seed: int) -> None:
    logits, others, avail = 3 * draws(seed, B, N, A), draws(seed + 1, B, N, A), some_avail(seed)
    mine, other = Categorical(logits, avail), Categorical(others, avail)
    noise = gumbel(np.random.default_rng(seed), (B, N, A), LIKE)
    actions = mine.sample(noise)
    assert avail.gather(-1, actions.unsqueeze(-1)).all() and avail.gather(-1, mine.mode().unsqueeze(-1)).all()
    for b in range(B):
        for i in range(N):
            there = avail[b, i]
            torchs: Any = distributions.Categorical(logits=logits[b, i][there])
            action = int(there[: actions[b, i]].sum())
            close(mine.log_prob(actions)[b, i], torchs.log_prob(torch.tensor(action)))
            close(mine.entropy()[b, i], torchs.entropy())
            close(mine.probs[b, i][there], torchs.probs)
            apart = distributions.kl_divergence(torchs, distributions.Categorical(logits=others[b, i][there]))
            close(mine.kl(other)[b, i], apart)
    assert not mine.probs[~avail].any()
    close(mine.log_prob(mine.differentiable(noise)), mine.log_prob(actions))


def test_gumbel_noise_draws_with_the_probabilities() -> None:
    avail = torch.tensor([True, True, False, True])
    some = Categorical(torch.tensor([0.0, 1.0, 5.0, -1.0], dtype=torch.float64), avail)
    drawn = some.sample(gumbel(np.random.default_rng(0), (50_000, A), LIKE))
    shares = torch.bincount(drawn, minlength=A) / len(drawn)
    torch.testing.assert_close(shares.double(), some.probs, rtol=0, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_are_finite_whatever_is_available(dtype: torch.dtype, scale: float) -> None:
    """With one action there is nothing to learn: every gradient is zero, of the straight-through action too."""
    logits = (scale * draws(0, B, N, A)).to(dtype).requires_grad_()
    noise = gumbel(np.random.default_rng(1), (B, N, A), logits)
    single = torch.zeros(B, N, A, dtype=torch.bool).scatter(-1, draws(2, B, N, A).argmax(-1, keepdim=True), True)
    for avail, nothing in ((single, True), (some_avail(3), False)):
        some = Categorical(logits, avail)
        weights = torch.arange(A, dtype=dtype)
        actions = some.differentiable(noise)
        outcomes = {
            "action": (actions * weights).sum(),
            "entropy": some.entropy().sum(),
            "log_prob": some.log_prob(some.sample(noise)).sum(),
            "of one-hot": some.log_prob(actions).sum(),
            "kl": some.kl(Categorical(logits.detach().flip(0), avail)).sum(),
        }
        for name, outcome in outcomes.items():
            (gradient,) = torch.autograd.grad(outcome, logits, retain_graph=True)
            assert torch.isfinite(outcome) and torch.isfinite(gradient).all(), name
            assert not gradient[~avail].any(), name
            if nothing:
                assert not gradient.any(), name


def test_the_straight_through_action_is_one_hot_with_the_softmaxs_gradient() -> None:
    logits, avail = draws(0, B, N, A).requires_grad_(), some_avail(0)
    noise, weights = gumbel(np.random.default_rng(2), (B, N, A), LIKE), draws(3, B, N, A)
    some = Categorical(logits, avail)
    hard = some.differentiable(noise, temperature=0.7)
    assert torch.equal(hard, torch.nn.functional.one_hot(some.sample(noise), A).double())
    soft = torch.softmax((logits.masked_fill(~avail, -torch.inf) + noise) / 0.7, -1)
    (mine,) = torch.autograd.grad((hard * weights).sum(), logits)
    (wanted,) = torch.autograd.grad((soft * weights).sum(), logits)
    close(mine, wanted)
    assert torch.equal(some.differentiable(), torch.nn.functional.one_hot(some.mode(), A).double())


@settings(max_examples=30)
@given(seed=seeds)
def test_a_gaussian_is_torchs_in_the_components_that_agents_have(seed: int) -> None:
    mean, log_std, other_std = draws(seed, B, N, D), draws(seed + 1, N, D), draws(seed + 2, N, D)
    mine, other = Gaussian(mean, log_std, USED), Gaussian(mean.flip(0), other_std, USED)
    torchs: Any = distributions.Normal(mean, log_std.exp())
    actions = mine.sample(draws(seed + 3, B, N, D))
    assert not actions[:, ~USED].any() and actions[:, USED].all()
    close(mine.log_prob(actions), (torchs.log_prob(actions) * USED).sum(-1))
    close(mine.entropy(), (torchs.entropy() * USED).sum(-1))
    apart = distributions.kl_divergence(torchs, distributions.Normal(mean.flip(0), other_std.exp()))
    close(mine.kl(other), (apart * USED).sum(-1))
    close(Gaussian(mean, log_std).log_prob(mean), torchs.log_prob(mean).sum(-1))


def test_a_tanh_gaussian_against_numerical_integration() -> None:
    """The density is that of a variable in (-1, 1): it sums to one, and to the share of samples below any bound."""
    some = TanhGaussian(torch.tensor([0.4], dtype=torch.float64), torch.tensor([-0.3], dtype=torch.float64))
    grid = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1].unsqueeze(-1)
    density = some.log_prob(grid).exp()
    drawn = some.sample(draws(0, 200_000, 1))
    for bound in (-0.5, 0.2, 0.8, 1.0):
        mass = torch.trapezoid(density[grid[:, 0] <= bound], grid[:, 0][grid[:, 0] <= bound])
        share = (drawn <= bound).double().mean()
        torch.testing.assert_close(mass, share, rtol=0, atol=0.005)


@settings(max_examples=30)
@given(seed=seeds)
def test_a_tanh_gaussian_is_torchs_transformed_one(seed: int) -> None:
    mean, log_std, noise = draws(seed, B, N, D), 0.5 * draws(seed + 1, B, N, D), draws(seed + 2, B, N, D)
    mine = TanhGaussian(mean, log_std, USED)
    torchs: Any = distributions.TransformedDistribution(
        distributions.Normal(mean, log_std.exp()), [distributions.TanhTransform(cache_size=1)]
    )
    actions, log_prob = mine.sample_with_log_prob(noise)
    assert torch.equal(actions, mine.sample(noise)) and not actions[:, ~USED].any()
    wanted = (torchs.log_prob(actions) * USED).sum(-1)
    torch.testing.assert_close(log_prob, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine.log_prob(actions), wanted, rtol=1e-6, atol=1e-6)
    close(mine.mode(), torch.tanh(mean * USED))


def test_a_tanh_gaussians_extremes_stay_finite() -> None:
    """Deviations are cut, and actions that rounding made exactly 1 have a density."""
    mean = torch.tensor([[30.0], [-30.0], [0.0]], requires_grad=True)
    log_std = torch.tensor([[50.0], [-50.0], [50.0]], requires_grad=True)
    some = TanhGaussian(mean, log_std)
    assert some.log_std.min() == LOG_STD_RANGE[0] and some.log_std.max() == LOG_STD_RANGE[1]
    actions, log_prob = some.sample_with_log_prob(torch.ones(3, 1))
    assert (actions[:2].abs() == 1).all()
    total = log_prob.sum() + TanhGaussian(mean, torch.zeros(3, 1)).log_prob(actions.detach()).sum()
    gradients = torch.autograd.grad(total + actions.sum(), [mean, log_std])
    assert torch.isfinite(total) and all(torch.isfinite(g).all() for g in gradients)


def test_a_deterministic_action_stays_in_its_box() -> None:
    some = Deterministic(3 * draws(0, B, N, D), USED)
    noisy = some.sample(0.5 * draws(1, B, N, D))
    for actions in (some.mode(), noisy, some.differentiable()):
        assert actions.abs().max() <= 1 and not actions[:, ~USED].any() and actions[:, USED].all()
    assert (noisy != some.mode())[:, USED].all()
    with pytest.raises(NotImplementedError, match="no log-prob"):
        some.log_prob(noisy)


def test_divergences_are_of_one_kind() -> None:
    one: Distribution = Gaussian(draws(0, B, N, D), draws(1, N, D))
    with pytest.raises(TypeError, match="one kind"):
        one.kl(Categorical(draws(0, B, N, A), some_avail(0)))
