"""Playing: streams of environments under one policy. Plain: no ray; torch is loaded by the policy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from phalanx.cluster.chunk import Chunk as Chunk
from phalanx.cluster.chunk import ChunkStats as ChunkStats
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import TeamPolicy, TeamSpec


class Rollout:
    """Hosts streams: for each a vector of environments, one policy for all. `spec` is the environments'.

    A policy forward is always one stream at a time with its fixed number of environments, so that what a stream
    plays does not depend on which other streams are hosted here.
    """

    spec: TeamSpec

    def __init__(
        self, run: RunSettings, streams: Sequence[int], load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        raise NotImplementedError

    def set_weights(self, weights: Mapping[str, npt.NDArray[Any]], version: int) -> None:
        """Weights for all chunks from now on; `version` is the number of updates they have seen."""
        raise NotImplementedError

    def play_round(self, stream: int, sequence: int, epsilon: float) -> Chunk:
        """Sync mode: one whole episode of every environment, begun anew; depends on (run.seed, stream, sequence,
        weights, epsilon) alone. Raises RunFailed on a reward or observation that is not finite."""
        raise NotImplementedError

    def play_on(self, stream: int, sequence: int, epsilon: float, incarnation: int) -> Chunk:
        """Async mode: goes on until at least `rollout.envs_per_stream` episodes have ended; unfinished ones stay for
        the next call. A new `incarnation` (from 1) begins anew with episodes that were never played before."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the environments."""
        raise NotImplementedError
