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
        # The 32-bit words that SeedSequence makes of these numbers; handed to it ready, it is twice as fast.
        self._words = np.array([w for n in (run_seed, int(purpose), *place, first) for w in _words(n)], np.uint32)
        self.episode = first
        self._known = (-1, 0)  # an episode and its seed

    def __next__(self) -> int:
        seed = self.ahead()
        self.episode += 1
        return seed

    def ahead(self) -> int:
        """The seed of the next episode, not taken: for environments that prepare episodes before they begin."""
        if self._known[0] != self.episode:
            self._words[-1] = self.episode
            seed = int(np.random.SeedSequence(self._words).generate_state(1)[0])
            self._known = (self.episode, seed)
        return self._known[1]


class FollowedSeeds(Iterator[int]):
    """Another iterator's seeds, and the one that was taken last."""

    def __init__(self, seeds: Iterator[int]) -> None:
        self.seeds = seeds
        self.last = 0

    def __next__(self) -> int:
        self.last = next(self.seeds)
        return self.last


def ahead(seeds: Iterator[int]) -> int | None:
    """The seed that `seeds` will give next, not taken; None where that cannot be known before."""
    if isinstance(seeds, FollowedSeeds):
        return ahead(seeds.seeds)
    return seeds.ahead() if isinstance(seeds, EpisodeSeeds) else None


def _words(number: int) -> list[int]:
    """A whole number from 0 on in 32-bit words, the lowest first."""
    words = [number % 2**32]
    while number := number // 2**32:
        words.append(number % 2**32)
    return words
