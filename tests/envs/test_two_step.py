from __future__ import annotations

import itertools

import numpy as np
import pytest

from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.two_step import TwoStep


def started(num_envs: int) -> TwoStep:
    env = TwoStep(TwoStep.Settings(), num_envs)
    env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(num_envs)])
    return env


def test_every_episode_there_is() -> None:
    """All 16 pairs of joint actions: the first agent's first action chooses between 7 and [[0, 1], [1, 8]]."""
    episodes = list(itertools.product(range(2), repeat=4))
    env = started(len(episodes))
    first = env.step(np.array([episode[:2] for episode in episodes]))
    assert not first.reward.any() and not first.ended.any()
    chosen = np.array([episode[0] for episode in episodes])
    np.testing.assert_array_equal(first.next.state, np.eye(3)[1 + chosen])
    np.testing.assert_array_equal(first.next.obs, np.repeat(np.eye(3)[1 + chosen][:, None], 2, axis=1))
    second = env.step(np.array([episode[2:] for episode in episodes]))
    risky = {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 8}
    assert second.reward.tolist() == [7 if e[0] == 0 else risky[e[2:]] for e in episodes]
    assert second.terminated.all() and not second.truncated.any()
    assert second.final is not None
    assert not second.final.state.any()
    assert (second.next.state == [1, 0, 0]).all()


def test_an_action_that_does_not_exist_is_refused() -> None:
    for wrong in ([[0, 2]], [[-1, 0]]):
        with pytest.raises(ValueError, match="invalid entry"):
            started(1).step(np.array(wrong))
