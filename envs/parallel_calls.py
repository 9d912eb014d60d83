"""Asking an environment of somebody else's, whose answers have the form of its API; where one has not, a sentence says
what it is instead."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import RunFailed

Everyone = Mapping[str, Any]
Answer = tuple[Everyone, Everyone, Everyone, Everyone, Everyone]


def can_be_seeded(env: Any, argument: str = "seed") -> bool:
    """Whether `reset` takes a seed (or another argument)."""
    try:
        parameters = inspect.signature(env.reset).parameters
    except (TypeError, ValueError):
        return True
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def reset(env: Any, seed: int | None, label: str) -> tuple[Everyone, Everyone]:
    """Observations and infos of a new episode; seed None for environments that take none."""
    answer = env.reset() if seed is None else env.reset(seed=seed)
    if not are_dicts(answer, 2):
        raise RunFailed(
            f"{label} needs the Parallel API of PettingZoo 1.24 or newer, whose reset returns two dicts by agent"
            f" (observations, infos); this one returned {in_short(answer)}"
        )
    return answer  # type: ignore[no-any-return]


def step(env: Any, actions: dict[str, Any], label: str) -> Answer:
    """One step of the Parallel API."""
    answer = env.step(actions)
    if not are_dicts(answer, 5):
        raise RunFailed(
            f"{label} needs the Parallel API of PettingZoo 1.24 or newer, whose step returns five dicts by agent"
            f" (observations, rewards, terminations, truncations, infos); this one returned {in_short(answer)}"
        )
    return answer  # type: ignore[no-any-return]


def require_known(present: frozenset[str], known: Collection[str], label: str) -> None:
    """Refuses agents that nobody spoke of when the environment was made."""
    if not present <= set(known):
        raise RunFailed(
            f"{label}: {', '.join(sorted(present.difference(known)))} appeared, but possible_agents named"
            f" {', '.join(known)} when the environment was made: list in it all that can ever appear"
        )


def read_state(env: Any) -> npt.NDArray[np.float32] | None:
    """`env.state()` as a new vector, or None where the environment has none that works, or an empty one."""
    try:
        state = env.state()
        vector = None if state is None else np.array(state, np.float32).reshape(-1)
    except Exception:  # NotImplementedError by the book; some wrappers fail in other ways
        return None
    return vector if vector is not None and vector.size else None


def are_dicts(answer: Any, count: int) -> bool:
    """Whether an answer is a tuple of `count` dicts."""
    if not isinstance(answer, tuple) or len(answer) != count:
        return False
    # In every step: most are nothing but dicts, which is known sooner.
    return set(map(type, answer)) == {dict} or all(isinstance(part, Mapping) for part in answer)


def in_short(answer: Any) -> str:
    """`(dict, float, NoneType)`: what kinds of things an answer is made of."""
    if isinstance(answer, tuple):
        return f"({', '.join(type(part).__name__ for part in answer)})"
    return type(answer).__name__
