"""What `phalanx.envs.check` looks for, what it found, and its tests of single arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CHECKS: dict[str, str] = {
    "spec": "sizes and names in the spec agree with each other, and the spec is always the same",
    "groups": "every agent has a group, for an episode at least, and every group a name of its own",
    "dtype": "arrays are float32 or bool, as documented",
    "shape": "observations, states, masks and ends have the sizes of the spec",
    "reward shape": "the reward is [E], agent_reward [E, N]",
    "not a number": "nothing is NaN or infinite",
    "beyond the range": "observations and states stay within spec.obs_range and spec.state_range, where it has them",
    "no legal action": "every living agent has a legal action",
    "dead agent": "an agent that is not alive has a legal action, too",
    "empty team": "an episode begins with at least one agent alive",
    "padded action": "actions beyond an agent's own number are never legal",
    "padded observation": "observations beyond an agent's own size are zero",
    "both ends": "terminated and truncated exclude each other",
    "final observation": "ended episodes show their last observation, one row for each, in order",
    "episode too long": "no episode is longer than spec.episode_limit",
    "metrics": "info holds an [E] array of numbers for every metric of the spec, and win where it is promised",
    "picture": "render(index) gives bytes [height, width, 3] (numpy, uint8) or None",
    "seeds": "every episode takes one seed of its environment's sequence",
    "seed ignored": "the same seed and actions give the same episode",
    "neighbours": "an environment does not depend on those beside it",
    "aliasing": "returned arrays are never written to again, nor read, and drawing changes nothing",
    "actions changed": "the actions are only read",
    "actions not cut": "continuous actions beyond [-1, 1], or beyond an agent's own number, are cut",
    "crash": "the environments can be made, and reset, step and close raise nothing",
}
"""Every kind of problem by name, and what has to hold."""


@dataclass(frozen=True)
class Problem:
    """A broken promise: its name in `CHECKS` and what was seen."""

    name: str
    sentence: str


class Problems(list[Problem]):
    """Broken promises; and the names in `CHECKS` of those that could not be looked at."""

    unchecked: tuple[str, ...] = ()


class Findings:
    """Problems, the first of each name."""

    def __init__(self) -> None:
        self.problems = Problems()

    def add(self, name: str, sentence: str) -> None:
        if name not in self:
            self.problems.append(Problem(name, sentence))

    def __contains__(self, name: str) -> bool:
        return any(problem.name == name for problem in self.problems)


def typed(
    found: Findings, what: str, array: Any, dtype: type, shape: tuple[int, ...], shape_problem: str = "shape"
) -> bool:
    """Tells a wrong type or shape; whether the array can be read any further."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        found.add("dtype", f"{what} is {kind} instead of {np.dtype(dtype)}")
    if np.shape(array) != shape:
        found.add(shape_problem, f"{what} has shape {np.shape(array)} instead of {shape}")
        return False
    return isinstance(array, np.ndarray)


def finite(found: Findings, what: str, array: npt.NDArray[Any]) -> None:
    """Tells the first number that is none."""
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        found.add("not a number", f"{what}{list(place)} is {array[place]}")


def within(found: Findings, what: str, array: npt.NDArray[Any], limits: tuple[float, float] | None) -> None:
    """Whether all numbers lie within the declared limits; not a number is another finding's."""
    if limits is None:
        return
    beyond = (array < np.float32(limits[0])) | (array > np.float32(limits[1]))
    if beyond.any():
        place = tuple(int(i) for i in np.argwhere(beyond)[0])
        found.add("beyond the range", f"{what}{list(place)} is {array[place]}, declared are {limits[0]} to {limits[1]}")
