from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from phalanx.envs.matrix_games import MatrixGame
from phalanx.envs.seeding import EpisodeSeeds, Purpose

WQMIX = [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]
THREE_AGENTS = [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]]]  # 2 × 3 × 2


def game(num_envs: int = 1, **settings: Any) -> MatrixGame:
    env = MatrixGame(MatrixGame.Settings(**settings), num_envs)
    env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(num_envs)])
    return env


@pytest.mark.parametrize(
    ("settings", "payoff"),
    [
        ({}, WQMIX),
        ({"game": "wqmix"}, WQMIX),
        ({"game": "climbing"}, [[11, -30, 0], [-30, 7, 6], [0, 0, 5]]),
        ({"game": "penalty"}, [[-100, 0, 10], [0, 2, 0], [10, 0, -100]]),
        ({"game": "penalty", "penalty": -25}, [[-25, 0, 10], [0, 2, 0], [10, 0, -25]]),
        ({"payoff": [[1, 2, 3], [4, 5, 6]]}, [[1, 2, 3], [4, 5, 6]]),
        ({"payoff": [["1e1", 0.5]]}, [[10, 0.5]]),
        ({"payoff": THREE_AGENTS}, THREE_AGENTS),
    ],
)
def test_every_joint_action_pays_what_the_table_says(settings: dict[str, Any], payoff: list[Any]) -> None:
    table = np.array(payoff, np.float32)
    joint = np.array(list(itertools.product(*map(range, table.shape))))
    step = game(len(joint), **settings).step(joint)
    np.testing.assert_array_equal(step.reward, table.ravel())
    assert step.reward.dtype == np.float32


def test_observations_and_state_are_five_ones_and_actions_are_padded_to_the_largest_agent() -> None:
    env = game(2, payoff=THREE_AGENTS)
    obs = env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(2)])
    assert env.spec.n_agents == 3
    assert env.spec.action_dims == (2, 3, 2)
    np.testing.assert_array_equal(obs.obs, np.ones((2, 3, 5)))
    np.testing.assert_array_equal(obs.state, np.ones((2, 5)))
    np.testing.assert_array_equal(obs.avail[0], [[1, 1, 0], [1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize("length", [1, 3])
def test_the_last_step_terminates_and_never_truncates(length: int) -> None:
    env = game(2, max_steps=length)
    for t in range(2 * length):
        step = env.step(np.zeros((2, 2), np.int64))
        assert not step.truncated.any()
        assert step.terminated.all() == (t % length == length - 1)


def test_an_action_that_does_not_exist_is_refused() -> None:
    for wrong in ([[0, 3]], [[-1, 0]]):
        with pytest.raises(ValueError, match="invalid entry"):
            game().step(np.array(wrong))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"payoff": [[1, 2], [3]]}, r"env\.payoff is ragged: env\.payoff\[0\] is a list of 2 but env\.payoff\[1\] is"),
        ({"payoff": [[1, 2], 3]}, "ragged"),
        ({"payoff": [[[1, 2]], [[3, 4], [5, 6]]]}, "a list of 1 × 2 but .* is a list of 2 × 2"),
        ({"payoff": [[1, "two"]]}, r"env\.payoff\[0\]\[1\] must be a number, got 'two'"),
        ({"payoff": [[1, True]]}, r"env\.payoff\[0\]\[1\] must be a number, got True"),
        ({"payoff": [[1, None]]}, "must be a number, got None"),
        ({"payoff": [[1, float("nan")]]}, r"env\.payoff\[0\]\[1\] must be finite, got nan"),
        ({"payoff": [[1, float("inf")]]}, "must be finite"),
        ({"payoff": [[1, 1e40]]}, r"must lie within ±3.4e\+38, which float32 holds, got 1e\+40"),
        ({"payoff": [[1, 10**400]]}, "got a whole number with more than 308 digits"),
        ({"payoff": [1, 2]}, "one level of lists"),
        ({"payoff": []}, "empty list"),
        ({"payoff": [[], []]}, "empty list"),
        ({"payoff": WQMIX, "game": "climbing"}, "exclude each other"),
        ({"game": "climbing", "penalty": -3}, r"for env\.game=penalty only"),
        ({"game": "penalty", "penalty": 3}, "less than or equal to 0"),
        ({"game": "chess"}, "wqmix"),
        ({"max_steps": 0}, "greater than or equal to 1"),
    ],
)
def test_what_is_no_game_is_refused_with_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        MatrixGame.Settings(**settings)
