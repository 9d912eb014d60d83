"""Environments around environments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.envs.team import Obs, Step, TeamEnv


class Wrapper(TeamEnv):
    """Everything as it is with `env`; what is to be different overrides it."""

    def __init__(self, env: TeamEnv) -> None:
        self.env = env
        self.spec = env.spec
        self.num_envs = env.num_envs

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        return self.env.reset(seeds)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        return self.env.step(actions)

    def render(self, index: int) -> npt.NDArray[np.uint8] | None:
        return self.env.render(index)

    @property
    def why_no_picture(self) -> str:
        return self.env.why_no_picture

    @why_no_picture.setter
    def why_no_picture(self, reason: str) -> None:
        self.env.why_no_picture = reason

    def film(self, index: int) -> None:
        self.env.film(index)

    def last_picture(self) -> npt.NDArray[np.uint8] | None:
        return self.env.last_picture()

    def close(self) -> None:
        self.env.close()


class TimeoutIsTerminal(Wrapper):
    """Reports the time limit as a real end, as the papers' runs on SMAC do: targets then do not bootstrap past it."""

    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = self.env.step(actions)
        return replace(step, terminated=step.ended, truncated=np.zeros_like(step.truncated))
