"""Environments around environments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.envs.team import Obs, Step, TeamEnv


class TimeoutIsTerminal(TeamEnv):
    """Reports the time limit as a real end, as the papers' runs on SMAC do: targets then do not bootstrap past it."""

    def __init__(self, env: TeamEnv) -> None:
        self.env = env
        self.spec = env.spec
        self.num_envs = env.num_envs

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        return self.env.reset(seeds)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = self.env.step(actions)
        return replace(step, terminated=step.ended, truncated=np.zeros_like(step.truncated))

    def render(self, index: int) -> npt.NDArray[np.uint8] | None:
        return self.env.render(index)

    def close(self) -> None:
        self.env.close()
