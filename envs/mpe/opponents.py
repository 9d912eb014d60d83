"""Who drives the agents that are not the team's: still, random, scripted, or a trained policy.

All of it is a function of the episode's seed and of what happens in the episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.envs.frozen import FrozenPolicy
from phalanx.envs.mpe.physics import N_ACTIONS, Rows
from phalanx.envs.team import Floats, Ints, TeamPolicy


class Opponents(Protocol):
    """n opponents in each of E environments."""

    def begin(self, rows: Rows, seeds: Sequence[int]) -> None:
        """An episode with seed `seeds[j]` starts in environment `rows[j]`."""

    def act(self, elapsed: Ints) -> npt.NDArray[np.integer]:
        """Actions [E, n] for the step after `elapsed` [E] steps of each episode."""


class Still:
    """Never pushes."""

    def __init__(self, num_envs: int, n: int) -> None:
        self._nothing: Ints = np.zeros((num_envs, n), dtype=np.int64)

    def begin(self, rows: Rows, seeds: Sequence[int]) -> None:
        pass

    def act(self, elapsed: Ints) -> npt.NDArray[np.integer]:
        return self._nothing


class Random:
    """Uniformly random actions; those of a whole episode are drawn when it starts."""

    def __init__(self, num_envs: int, n: int, steps: int) -> None:
        self._planned = np.zeros((num_envs, steps, n), dtype=np.int8)
        self._envs = np.arange(num_envs)

    def begin(self, rows: Rows, seeds: Sequence[int]) -> None:
        for row, seed in zip(rows, seeds, strict=True):
            # The second element keeps these numbers apart from those of the starting positions.
            rng = np.random.default_rng((seed, 1))
            self._planned[row] = rng.integers(N_ACTIONS, size=self._planned.shape[1:], dtype=np.int8)

    def act(self, elapsed: Ints) -> npt.NDArray[np.integer]:
        planned: npt.NDArray[np.integer] = self._planned[self._envs, elapsed]
        return planned


class Scripted:
    """Follows `choose`, a function of the present state that gives actions [n, E]."""

    def __init__(self, choose: Callable[[], npt.NDArray[np.integer]]) -> None:
        self._choose = choose

    def begin(self, rows: Rows, seeds: Sequence[int]) -> None:
        pass

    def act(self, elapsed: Ints) -> npt.NDArray[np.integer]:
        return self._choose().T


class Trained:
    """A policy trained for the other side, fed with the opponents' own observations [E, n, O]."""

    def __init__(self, policy: TeamPolicy, num_envs: int, n: int, observe: Callable[[], Floats]) -> None:
        self._policy, self._observe = policy, observe
        self._shape = (num_envs, n, N_ACTIONS)
        policy.reset(num_envs)

    def begin(self, rows: Rows, seeds: Sequence[int]) -> None:
        self._policy.reset_rows(rows)

    def act(self, elapsed: Ints) -> npt.NDArray[np.integer]:
        return self._policy.act(self._observe(), np.ones(self._shape, dtype=np.bool_))


def shipped(task: str, obs_dim: int) -> FrozenPolicy:
    """The opponents that come with a task (`env.opponents=trained`), frozen: from the runs `maddpg_tag_both`,
    `ippo_world_both` and `maddpg_adversary_both`. UserError where they were trained to see another number of things
    than there are."""
    policy = FrozenPolicy.load(Path(__file__).parent / "trained" / f"{task}.npz")
    if policy.sizes != (obs_dim, N_ACTIONS):
        raise UserError(
            f"env.opponents=trained: those of {task} see {policy.sizes[0]} numbers, but here there are {obs_dim}: leave"
            " the numbers of agents and things at their defaults, or choose scripted, or train your own with"
            " env.opponents=learning and take them as checkpoint:DIR"
        )
    return policy
