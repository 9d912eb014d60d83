"""pick.c, compiled: ε-greedy choice among the legal actions."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from phalanx.algorithms.common.native import loaded
from phalanx.algorithms.common.targets import UNAVAILABLE
from phalanx.envs.team import Bools, Floats


class PickKernel:
    """For values of single precision. Python's lock is not held meanwhile."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._pick = library.pick
        numbers: list[Any] = [ctypes.c_long] * 3 + [ctypes.c_double, ctypes.c_float]
        self._pick.argtypes = numbers + [ctypes.c_void_p] * 5
        self._pick.restype = ctypes.c_long

    def __call__(
        self, values: Floats, avail: Bools, rng: np.random.Generator, epsilon: float, inputs: Floats, first: int
    ) -> npt.NDArray[np.int64]:
        """values, avail: [E, N, A]. Returns actions [E, N], which are shown one-hot in the A columns of `inputs`
        [E, N, I] from `first` on. Draws as `policy.explore` does. IndexError where it draws and no action is legal."""
        envs, agents, choices = values.shape
        width, chosen = inputs.shape[2], np.empty((envs, agents), np.int64)
        draws = rng.random((2, envs, agents)) if epsilon > 0 else None
        values, avail = np.ascontiguousarray(values), np.ascontiguousarray(avail, np.bool_)
        stuck = self._pick(
            envs * agents,
            choices,
            width,
            epsilon,
            UNAVAILABLE,
            _address(values),
            _address(avail),
            None if draws is None else _address(draws),
            _address(chosen),
            _address(inputs) + first * inputs.itemsize,
        )
        if stuck >= 0:
            raise IndexError(f"agent {stuck % agents} of environment {stuck // agents} has no legal action")
        return chosen


def _address(array: npt.NDArray[Any]) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


@lru_cache(maxsize=1)
def pick_kernel() -> PickKernel | None:
    """None where numpy has to do it."""
    library = loaded("pick", torch.float32)
    return None if library is None else PickKernel(library)
