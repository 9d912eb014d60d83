"""What benchmarks share: threads, the mpe2 denominator, interleaved repeats, one JSON line per row."""

from __future__ import annotations

import importlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Row = TypeVar("Row")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
MPE2_MODULES = {
    "simple_tag": "mpe2.simple_tag_v3",
    "simple_spread": "mpe2.simple_spread_v3",
    "simple_adversary": "mpe2.simple_adversary_v3",
    "simple_world": "mpe2.simple_world_comm_v3",
}
"""Our task -> the module of mpe2 that has it."""


def set_threads(threads: int) -> None:
    """Threads of numerical libraries. To be called before numpy or torch is imported for the first time."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)


def emit(**row: Any) -> None:
    """Prints one row of a benchmark as one JSON line."""
    print(json.dumps(rounded(row)), flush=True)


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Its fractions with four digits."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def rate(play: Callable[[], int], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Units per second of wall time, or (time.process_time) of this process's on a processor, which other work on the
    machine disturbs less: `play` does some work and says how many units that was; once to warm up."""
    play()
    done, start = 0, clock()
    while True:
        done += play()
        elapsed = clock() - start
        if elapsed >= seconds:
            return done / elapsed


def interleaved(measures: Mapping[Row, Callable[[], float]], repeats: int) -> dict[Row, list[float]]:
    """Takes every measure `repeats` times, one after the other in turn, so that a slow minute hits all alike."""
    taken: dict[Row, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            taken[name].append(measure())
    return taken


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest of repeated measures."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def raw_mpe2_steps_per_s(task: str, seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Env steps per second of mpe2 itself: one process, one environment, random actions (drawn beforehand) for all
    agents, resets included. `task` is one of ours, see `MPE2_MODULES`. The denominator of the README's ratios."""
    import numpy as np

    env = importlib.import_module(MPE2_MODULES[task]).parallel_env(max_cycles=25)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    sizes = {name: int(env.action_space(name).n) for name in env.possible_agents}
    actions = [{name: int(rng.integers(n)) for name, n in sizes.items()} for _ in range(25)]

    def episode() -> int:
        env.reset()
        for joint in actions:
            env.step(joint)
        return len(actions)

    return rate(episode, seconds, clock)
