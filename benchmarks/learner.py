"""The learner alone on one thread: against a per-step GRU cell loop, and what ensembles cost.

`python -m benchmarks.learner [--rounds 15]` prints one JSON line per row. Variants are measured in turn, round by
round, so that a machine whose speed drifts does not favour one; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from phalanx.algorithms.base import TensorBatch
from phalanx.algorithms.common.batch import EpisodeBatch, empty_batch
from phalanx.cluster.actors import MEMORY_VARIABLES, thread_variables
from phalanx.cluster.learner import Learner
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import run_from_dict
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import TeamSpec

ENVIRONMENT = thread_variables(1) | MEMORY_VARIABLES
IN_A_ROW = 3
SMAC_LIKE = {"agents": 5, "obs": 80, "state": 120, "actions": 11, "steps": 60}
SPREAD_LIKE = {"agents": 3, "obs": 18, "state": 54, "actions": 5, "steps": 25}


def team_spec(agents: int, obs: int, state: int, actions: int, steps: int) -> TeamSpec:
    names = tuple(f"agent_{i}" for i in range(agents))
    sizes = ((obs,) * agents, (actions,) * agents)
    return TeamSpec("synthetic", agents, obs, state, actions, steps, names, *sizes)


def random_batch(spec: TeamSpec, episodes: int = 32) -> EpisodeBatch:
    rng = np.random.default_rng(0)
    batch = empty_batch(spec, episodes)
    batch.obs[:] = rng.standard_normal(batch.obs.shape)
    batch.state[:] = rng.standard_normal(batch.state.shape)
    batch.avail[:] = True
    batch.actions[:] = rng.integers(spec.n_actions, size=batch.actions.shape)
    batch.reward[:] = rng.standard_normal(batch.reward.shape)
    batch.filled[:, :-1] = True
    return batch


def settings(algorithm: dict[str, Any]) -> RunSettings:
    return run_from_dict({"env": {"name": "simple_spread"}, "algorithm": algorithm}, catalogue=CATALOGUE)


def one_core() -> None:
    """One torch thread on one core: where there are more, the learner lets others compute beside."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def medians_ms(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each variant. A learner makes update after update, so each round runs a variant some
    times in a row and does not count the first, which finds the caches full of the other's data."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            run()
            for _ in range(IN_A_ROW):
                started = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(samples) for name, samples in times.items()}


def against_cells(sizes: dict[str, int], rounds: int) -> dict[str, Any]:
    from benchmarks.pymarl_style import PyMARLStyleLearner

    spec = team_spec(**sizes)
    batch = random_batch(spec)
    ours = Learner(settings({"name": "qmix"}), spec)
    theirs = PyMARLStyleLearner(spec.obs_dim, spec.state_dim, spec.n_agents, spec.n_actions)
    tensors = TensorBatch.of(batch, torch.device("cpu"))
    times = medians_ms({"ours": lambda: ours.update([batch]), "cells": lambda: theirs.update(tensors)}, rounds)
    ratio = times["ours"] / times["cells"]
    return {"row": "learner_alone", **sizes, "ms": times["ours"], "per_step_loop_ms": times["cells"], "ratio": ratio}


def ensembles(sizes: dict[str, int], rounds: int) -> dict[str, Any]:
    spec = team_spec(**sizes)
    batch = random_batch(spec)

    def demar(members: int, subset: int) -> Learner:
        ensemble = {"agents": members, "agents_subset": subset, "mixers": members, "mixers_subset": subset}
        return Learner(settings({"name": "demar", "ensemble": ensemble}), spec)

    small, large = demar(1, 1), demar(10, 4)
    times = medians_ms({"k1": lambda: small.update([batch]), "k10": lambda: large.update([batch])}, rounds)
    row = {"row": "demar_ensembles", **sizes, "k1_h1_ms": times["k1"], "k10_h10_ms": times["k10"]}
    return {**row, "ratio": times["k10"] / times["k1"], "share": time_shares(large, batch)}


def time_shares(learner: Learner, batch: EpisodeBatch) -> dict[str, float]:
    """Where an update's time goes, by kind of operation (torch's profiler, self time)."""
    kinds = {"products": ("mm", "bmm", "baddbmm", "addmm"), "recurrence": ("_GRUSequence", "_CompiledSequence")}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        learner.update([batch])
    totals = dict.fromkeys((*kinds, "elementwise and rest"), 0.0)
    for event in profile.key_averages():
        name = event.key.removeprefix("aten::").rstrip("_")
        kind = next((k for k, names in kinds.items() if name in names or event.key.startswith(names)), None)
        totals[kind or "elementwise and rest"] += event.self_cpu_time_total
    return {name: round(value / sum(totals.values()), 3) for name, value in totals.items()}


def main() -> None:
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # The learner's process has this environment, and it has to be there from the beginning.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.learner", *sys.argv[1:]], os.environ | ENVIRONMENT)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    one_core()
    for row in (
        against_cells(SMAC_LIKE, rounds),
        against_cells(SPREAD_LIKE, rounds * 3),
        ensembles(SMAC_LIKE, max(rounds // 3, 3)),
        ensembles(SPREAD_LIKE, rounds),
    ):
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
