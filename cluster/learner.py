"""Learning: the only place with `.backward()`, device moves and `.item()`. Plain: no ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phalanx.algorithms.base import Weights
from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.configs.errors import RunFailed
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import TeamSpec


class NonFinite(RunFailed):
    """A loss or gradient was NaN or infinite; the parameters are still those from before the update (on a GPU: the
    run stops within one call of `update`)."""


def use_threads(threads: int) -> None:
    """Torch threads of this process. Sync mode uses one everywhere, because sums in other orders differ in bits."""
    raise NotImplementedError


class Learner:
    """Algorithm, optimiser and the learner's randomness. `updates` counts optimiser steps."""

    updates: int

    def __init__(self, run: RunSettings, spec: TeamSpec) -> None:
        raise NotImplementedError

    def update(self, batches: Sequence[EpisodeBatch]) -> int:
        """One update with each batch; returns the number of updates done so far. Raises NonFinite."""
        raise NotImplementedError

    def weights(self) -> tuple[Weights, int]:
        """The policy's weights (numpy, own memory) and their version: the updates done."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Means over the updates since the last call: `train/…` and `learner/update_ms`. Empty where none was made."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Networks with targets, optimiser, counters, random state: for torch.save and weights_only=True."""
        raise NotImplementedError

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues where `state()` was taken, to the bit on the same device. UserError where it does not fit."""
        raise NotImplementedError
