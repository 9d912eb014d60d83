"""The compiled ε-greedy choice against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.algorithms.common import policy
from phalanx.algorithms.common.native.pick import PickKernel, pick_kernel
from phalanx.algorithms.common.policy import explore
from phalanx.algorithms.common.targets import UNAVAILABLE
from tests.algorithms.helpers import random_avail
from tests.algorithms.test_policy import A, E, N, algorithm_and_policy, observations


def kernel() -> PickKernel:
    found = pick_kernel()
    if found is None:
        pytest.skip("no C compiler")
    return found


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), epsilon=st.sampled_from([0.0, 0.05, 0.5, 1.0]), choices=st.integers(1, 40))
def test_it_is_numpys(seed: int, epsilon: float, choices: int) -> None:
    """The same actions from the same draws, equal values and what is not a number included."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 3, (5, 3, choices)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = np.nan
    values[rng.random(values.shape) < 0.05] = -np.inf
    avail = random_avail(rng, (5, 3), choices)
    inputs = rng.random((5, 3, choices + 9)).astype(np.float32)
    before, first, second = inputs.copy(), np.random.default_rng(seed), np.random.default_rng(seed)
    chosen = kernel()(values, avail, first, epsilon, inputs, 4)
    expected = explore(np.where(avail, values, UNAVAILABLE).argmax(-1), avail, second, epsilon)
    np.testing.assert_array_equal(chosen, expected)
    assert chosen.dtype == np.int64 and first.bit_generator.state == second.bit_generator.state
    before[..., 4 : 4 + choices] = np.eye(choices)[expected]
    np.testing.assert_array_equal(inputs, before)


def test_arrays_need_not_be_contiguous() -> None:
    rng = np.random.default_rng(0)
    values, avail = rng.random((4, 6, 2), np.float32).transpose(1, 2, 0), random_avail(rng, (6, 2), 8)[..., ::2]
    avail[..., 0] = True
    assert not values.flags.c_contiguous and not avail.flags.c_contiguous
    chosen = kernel()(values, avail, rng, 0.0, np.zeros((6, 2, 9), np.float32), 0)
    np.testing.assert_array_equal(chosen, np.where(avail, values, UNAVAILABLE).argmax(-1))


def test_nothing_to_draw_from_is_an_error() -> None:
    avail = np.ones((2, 3, 4), np.bool_)
    avail[1, 2] = False
    with pytest.raises(IndexError, match="agent 2 of environment 1 has no legal action"):
        zeros = np.zeros((2, 3, 4), np.float32)
        kernel()(zeros, avail, np.random.default_rng(0), 1.0, np.zeros((2, 3, 4), np.float32), 0)


def test_a_policy_plays_the_same_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy and random actions, and what is remembered of them, with numpy in the kernel's place."""
    kernel()
    obs, avail = observations(8, 9)
    plays = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(policy, "pick_kernel", lambda: None)
        _, player = algorithm_and_policy()
        state, rng = player.initial_state(E), np.random.default_rng(5)
        actions = [player.act(o, state, a, rng, 0.4) for o, a in zip(obs, avail, strict=True)]
        plays.append((np.stack(actions), state.inputs, rng.bit_generator.state))
    assert plays[0][0].shape == (9, E, N) and plays[0][0].max() < A
    np.testing.assert_array_equal(plays[0][0], plays[1][0])
    np.testing.assert_array_equal(plays[0][1], plays[1][1])
    assert plays[0][2] == plays[1][2]
