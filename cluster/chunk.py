"""What a worker sends: whole episodes and what is worth knowing about them. numpy only, no torch, no ray."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.envs.team import Bools, Floats


@dataclass(kw_only=True)
class ChunkStats:
    """A chunk without its episodes: small enough for the coordinator. M is the number of whole episodes kept."""

    stream: int
    sequence: int  # of the chunk within its stream, ascending; (stream, sequence) names it
    weights_version: int  # updates that the weights had seen when the chunk was begun
    epsilon: float
    env_steps: int  # transitions in the M episodes
    returns: Floats  # [M], undiscounted
    agent_returns: Floats | None = None  # [M, N], undiscounted; None where no agent is paid by itself
    lengths: npt.NDArray[np.int64]  # [M]
    wins: Bools | None  # [M]; None where the environment knows no winning
    metrics: dict[str, Floats]  # [M] each: the environment's metrics, summed over the episode
    crashed: int = 0  # episodes dropped because their simulator crashed
    timing: dict[str, float] = field(default_factory=dict)  # seconds: env, policy, bookkeeping

    @property
    def episodes(self) -> int:
        return int(self.returns.shape[0])


@dataclass(kw_only=True)
class Chunk(ChunkStats):
    """M whole episodes of one stream, padded to the longest of them."""

    batch: EpisodeBatch

    def stats(self) -> ChunkStats:
        return ChunkStats(**{f.name: getattr(self, f.name) for f in fields(ChunkStats)})

    def split(self, parts: int) -> list[Chunk]:
        """The same episodes in `parts` (at most M) chunks of about the same size, numbered on from `sequence`. What
        was not of single episodes goes with the first."""
        edges = [self.episodes * part // parts for part in range(parts + 1)]
        return [self._part(number, slice(*edge)) for number, edge in enumerate(pairwise(edges))]

    def _part(self, number: int, rows: slice) -> Chunk:
        lengths = self.lengths[rows]
        return replace(
            self,
            sequence=self.sequence + number,
            env_steps=int(lengths.sum()),
            returns=self.returns[rows],
            agent_returns=None if self.agent_returns is None else self.agent_returns[rows],
            lengths=lengths,
            wins=None if self.wins is None else self.wins[rows],
            metrics={name: values[rows] for name, values in self.metrics.items()},
            crashed=self.crashed if number == 0 else 0,
            timing=self.timing if number == 0 else {},
            batch=EpisodeBatch(*(getattr(self.batch, f.name)[rows] for f in fields(EpisodeBatch))),
        )
