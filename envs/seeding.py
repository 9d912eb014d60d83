"""Where all randomness of a run comes from: one run seed, split by purpose and place."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """First element of every seed key after the run seed, so that no two uses share random numbers."""

    EPISODE = 0
    EXPLORATION = 1
    REPLAY = 2
    LEARNER = 3
    INITIALISATION = 4
    EVALUATION = 5


def generator(run_seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """A generator that depends on the run seed, the purpose and the place (stream, round, …) alone."""
    return np.random.default_rng(np.random.SeedSequence((run_seed, int(purpose), *place)))


class EpisodeSeeds(Iterator[int]):
    """Seeds (32 bit) of the successive episodes of one environment.

    Episode number `k` gets a seed that depends on (run seed, purpose, place, k) alone, so that nothing of a
    simulator's own randomness needs saving: `EpisodeSeeds(..., first=k)` continues where another one stopped.
    """

    def __init__(self, run_seed: int, purpose: Purpose, *place: int, first: int = 0) -> None:
        self._key = (run_seed, int(purpose), *place)
        self.episode = first

    def __next__(self) -> int:
        seed = int(np.random.SeedSequence((*self._key, self.episode)).generate_state(1)[0])
        self.episode += 1
        return seed
