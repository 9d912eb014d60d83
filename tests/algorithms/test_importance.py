"""Every value-mixing method with a prioritised replay: what importance weights do, and what counts as an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from phalanx.algorithms.common.batch import EpisodeBatch, PrioritisedBatch
from phalanx.algorithms.common.losses import episode_errors
from phalanx.algorithms.value_mixing import ValueMixing
from tests.algorithms.helpers import NAMES, assert_same, build, doubles, learned, random_batch, terms

LENGTHS = (3, 6, 1, 5)


def weighted(batch: EpisodeBatch, *importance: float) -> PrioritisedBatch:
    return PrioritisedBatch(**vars(batch), numbers=np.arange(len(batch)), importance=np.array(importance, np.float32))


def loss_and_errors(algorithm: ValueMixing, batch: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    return algorithm.loss_and_errors(algorithm.prepare(doubles(batch), np.random.default_rng(0)))


@pytest.mark.parametrize("name", NAMES)
def test_importance_of_one_changes_no_bit(name: str) -> None:
    algorithm, batch = build(name), random_batch(1, LENGTHS)
    assert_same(learned(algorithm, weighted(batch, 1, 1, 1, 1)), learned(algorithm, batch), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_of_no_importance_teaches_nothing(name: str) -> None:
    """Whatever it was rewarded with, while it matters otherwise."""
    algorithm, batch = build(name), random_batch(2, LENGTHS)
    other = EpisodeBatch(**{key: array.copy() for key, array in vars(batch).items()})
    other.reward[1] *= -3
    assert_same(learned(algorithm, weighted(batch, 1, 0, 1, 1)), learned(algorithm, weighted(other, 1, 0, 1, 1)))
    assert not torch.equal(learned(algorithm, batch)[0], learned(algorithm, other)[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_linear_in_importance(name: str) -> None:
    algorithm, batch = build(name, seed=3), random_batch(3, LENGTHS)

    def loss(*importance: float) -> Tensor:
        return learned(algorithm, weighted(batch, *importance))[0]

    nothing = loss(0, 0, 0, 0)  # regularisers
    single = [loss(*row) - nothing for row in np.eye(4).tolist()]
    expected = nothing + 0.5 * single[0] + 0.25 * single[1] + single[2] + 0.125 * single[3]
    torch.testing.assert_close(loss(0.5, 0.25, 1, 0.125), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_errors_come_with_the_same_loss(name: str) -> None:
    algorithm, batch = build(name, seed=4), random_batch(4, LENGTHS)
    loss, metrics, errors = loss_and_errors(algorithm, batch)
    plain, named = algorithm.loss(algorithm.prepare(doubles(batch), np.random.default_rng(0)))
    assert torch.equal(loss, plain) and all(torch.equal(metrics[key], named[key]) for key in named)
    assert errors.shape == (4,) and not errors.requires_grad and bool((errors > 0).all())
    found = terms(algorithm, batch)
    assert torch.equal(errors, episode_errors(algorithm.prediction(found), found.target, found.mask).detach())
    _, _, again = loss_and_errors(algorithm, weighted(batch, 0.1, 0.2, 0.3, 1))
    assert torch.equal(errors, again)


def test_qmix_weighs_each_episodes_squared_errors() -> None:
    algorithm, batch = build("qmix", seed=5), random_batch(5, LENGTHS)
    found = terms(algorithm, batch)
    squared = (((found.q_tot[0] - found.target) ** 2) * found.mask).sum(0)
    importance = torch.tensor([0.5, 1.0, 0.25, 0.75], dtype=torch.float64)
    expected = (importance * squared).sum() / found.mask.sum()
    torch.testing.assert_close(learned(algorithm, weighted(batch, 0.5, 1, 0.25, 0.75))[0], expected.detach())


def test_an_episodes_error_is_most_of_its_largest_and_some_of_its_mean() -> None:
    nan = float("nan")
    target = torch.zeros(3, 2)
    mask = torch.tensor([[True, True], [True, False], [True, False]])
    prediction = torch.tensor([[1.0, -4.0], [-2.0, nan], [6.0, 1e30]])
    expected: Any = torch.tensor([0.9 * 6 + 0.1 * 3, 4.0])
    torch.testing.assert_close(episode_errors(prediction, target, mask), expected)
    several = torch.stack([prediction, 3 * prediction])  # the mean over mixers is of each step's error
    torch.testing.assert_close(episode_errors(several, target, mask), 2 * expected)
    assert episode_errors(prediction, target, torch.zeros_like(mask)).tolist() == [0.0, 0.0]
