"""The memory of episodes. numpy only: neither torch nor ray is loaded here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.cluster.chunk import Chunk
from phalanx.configs.settings import ReplaySettings
from phalanx.envs.team import TeamSpec


class Replay:
    """A ring of whole episodes, sampled uniformly.

    `capacity` episodes fit, `size` are held, `inserted` and `sampled` count episodes since the run began.
    """

    capacity: int
    size: int
    inserted: int
    sampled: int

    def __init__(self, spec: TeamSpec, settings: ReplaySettings, run_seed: int, batch_episodes: int = 1) -> None:
        """Says its size, then allocates. UserError where it would hold less than `batch_episodes` episodes or does
        not fit into memory."""
        raise NotImplementedError

    def insert(self, chunk: Chunk | Sequence[Chunk]) -> int:
        """Copies the episodes in; returns how many were inserted. A chunk whose sequence is not above the highest
        of its stream so far has been here before and is dropped."""
        raise NotImplementedError

    def sample(self, batch_episodes: int, count: int = 1) -> list[EpisodeBatch]:
        """`count` batches, each without repetition, each trimmed to its longest episode. RunFailed where fewer than
        `batch_episodes` are held."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Writes what is held, the counters and the random state; `load` continues to the bit."""
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        """Replaces everything by what `save` wrote."""
        raise NotImplementedError
