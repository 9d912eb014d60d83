"""Greedy evaluation on episodes that are always the same. Plain: no ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.settings import RunSettings
from phalanx.envs.team import Bools, Floats, TeamPolicy, TeamSpec


@dataclass
class EvaluationResult:
    """Outcome of n greedy episodes, ordered by (environment, episode), whatever ended first."""

    returns: Floats  # [n], undiscounted
    lengths: npt.NDArray[np.int64]  # [n]
    wins: Bools | None  # [n]; None where the environment knows no winning
    metrics: dict[str, Floats]  # [n] each: the environment's metrics, summed over the episode
    greedy_joint_action: list[int] | None = None  # of the first step of the first episode; matrix games only

    def as_metrics(self) -> dict[str, float]:
        """`eval/return_mean`, `eval/return_std`, `eval/win_rate` where there is one, `eval/<metric>_mean`."""
        raise NotImplementedError


class Evaluator:
    """One vector of min(episodes, 64) environments and a policy without exploration."""

    spec: TeamSpec

    def __init__(self, run: RunSettings, load_policy: Callable[[str], TeamPolicy] | None = None) -> None:
        raise NotImplementedError

    def set_weights(self, weights: Mapping[str, npt.NDArray[Any]], version: int) -> None:
        raise NotImplementedError

    def evaluate(self, episodes: int | None = None, seed: int | None = None) -> EvaluationResult:
        """Exactly `episodes` episodes (default: the run's), seeded by `seed` (default: the run's)."""
        raise NotImplementedError
