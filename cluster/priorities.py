"""Prioritised sampling of whole episodes (Schaul et al., ICLR 2016, arXiv 1511.05952, section 3). numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phalanx.configs.settings import ReplaySettings

SMALLEST = 1e-6  # added to every error, so that each episode may still be drawn

Slots = npt.NDArray[np.int64]


class Priorities:
    """What the episodes in the slots of a ring weigh: (error + SMALLEST) ** `replay.priority_exponent`.

    An episode that was not learned from yet weighs as much as the heaviest one held. (Not the heaviest there ever was,
    as published: one explosion of the values would have the newest episodes alone drawn from then on.)

    Sums are made anew where a weight changed: up to some ten thousand episodes that takes less time in numpy than
    walking a tree, and a sum that is never corrected cannot drift.
    """

    def __init__(self, capacity: int, settings: ReplaySettings) -> None:
        self._weights = np.zeros(capacity, np.float64)  # 0: nothing is held there
        self._sums: npt.NDArray[np.float64] | None = None
        self._priority_exponent = settings.priority_exponent
        self._importance_exponent = settings.importance_exponent

    def begin(self, slots: Slots) -> None:
        """New episodes lie in `slots`."""
        self._weights[slots] = self._weights.max() or 1.0
        self._sums = None

    def update(self, slots: Slots, errors: npt.NDArray[np.floating]) -> None:
        """The episodes in `slots` were learned from and had these errors; of a repeated one the last counts."""
        self._weights[slots] = (errors.astype(np.float64) + SMALLEST) ** self._priority_exponent
        self._sums = None

    def draw(self, rng: np.random.Generator, batch_episodes: int) -> Slots:
        """Slots of one batch, each expected in proportion to its weight: the range of all weights is cut into as many
        equal parts as there are episodes to draw, and one point is drawn in each. A heavy episode may come twice."""
        if self._sums is None:
            self._sums = self._weights.cumsum()
        points = (np.arange(batch_episodes) + rng.random(batch_episodes)) * (self._sums[-1] / batch_episodes)
        last = self._sums.searchsorted(self._sums[-1])  # rounding may put a point at the very end
        slots: Slots = np.minimum(self._sums.searchsorted(points, side="right"), last)
        return slots

    def importance(self, slots: Slots) -> npt.NDArray[np.float32]:
        """What corrects for drawing some too often, (1 / (size · probability)) ** `replay.importance_exponent` over
        the largest one in the batch, so that it only ever scales errors down."""
        weights = self._weights[slots]
        importance: npt.NDArray[np.float64] = (weights.min() / weights) ** self._importance_exponent
        return importance.astype(np.float32)

    def held(self, size: int) -> npt.NDArray[np.float64]:
        """What `restore` needs: the weights of the first `size` slots."""
        return self._weights[:size]

    def restore(self, weights: npt.NDArray[np.float64]) -> None:
        """Continues where `held` was taken."""
        self._weights[:] = 0
        self._weights[: len(weights)] = weights
        self._sums = None
