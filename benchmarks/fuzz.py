"""Random legal actions in every environment that can run here, under the eyes of `check-env`.

    python -m benchmarks.fuzz [--steps 100000] [--envs "smax;stag_hunt"] [--seed 0]

Plays of up to 250 vector steps with seeds of their own, each begun anew wherever the one before it stood, until every
environment has made so many env steps: everything that `check_env` looks for, the same play twice in one object, with
its arrays overwritten, and alone. One JSON line for each environment; those that lack a library or a game are named
with the reason. Ends with status 1 where something was found.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.common import emit, set_threads

CASES: dict[str, dict[str, Any]] = {
    "gymnasium": {"id": "rware:rware-tiny-2ag-v2"},
    "rllib": {"module": "tests.envs.toys_rllib:Together", "max_steps": 4},
    "vmas": {"scenario": "dispersion"},
    "specialisation, temporal": {"temporal": True, "agents": 4},
    "synchronisation, temporal": {"temporal": True, "agents": 4},
    "sleepy": {"wait_ms": 0},
    "smax, unit list": {"scenario": {"allies": {"stalker": 1, "zealot": 2}, "enemies": {"marine": 4}}},
    "pettingzoo": {"module": "mpe2.simple_tag_v3", "team": ["adversary_*"]},
    "mamujoco": {"max_steps": 100},
    "mamujoco, Humanoid 17x1": {"scenario": "Humanoid", "agent_conf": "17x1"},
    "mamujoco, Humanoid 9|8": {"scenario": "Humanoid", "agent_conf": "9|8"},
    "stag_hunt, noisy": {"noise": {"obs_uniform": 0.02, "state_uniform": 0.02}},
    "smax, timeouts end": {"max_steps": 20, "timeout_is_terminal": True},
}
"""Settings of some environments, and of more cases of them: what stands before a comma is the environment's name."""


def cases() -> dict[str, dict[str, Any]]:
    """Every environment, and all that is in CASES; of SMAX every scenario."""
    from phalanx.envs.registry import ENVIRONMENTS
    from phalanx.envs.smax_scenarios import SCENARIOS

    battles = {f"smax, {scenario}": {"scenario": scenario, "reward": "smac"} for scenario in SCENARIOS}
    return {**{name: {} for name in ENVIRONMENTS}, **battles, **CASES}


def counted(make: Callable[[int], Any], counts: list[int]) -> Callable[[int], Any]:
    """The same factory, whose environments' steps are added up in `counts[0]`."""

    def build(num_envs: int) -> Any:
        env = make(num_envs)
        step = env.step

        def counting(actions: Any) -> Any:
            counts[0] += num_envs
            return step(actions)

        env.step = counting
        return env

    return build


def fuzz(case: str, given: dict[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """What is told of one case, an environment with the settings `given`."""
    import numpy as np

    from phalanx.configs.errors import UserError
    from phalanx.envs.check import check_env
    from phalanx.envs.registry import env_settings, make_env

    name = case.partition(",")[0]
    rng = np.random.default_rng(seed)
    counts, plays, begin = [0], 0, time.perf_counter()
    try:
        settings = env_settings(name).model_validate({"name": name, **given})
        make_env(settings, 1).close()
    except UserError as error:
        return {"skipped": str(error)}
    make = counted(partial(make_env, settings), counts)
    found: dict[str, str] = {}
    while counts[0] < steps:
        problems = check_env(make, int(rng.integers(2**31)), int(rng.integers(1, 251)))
        found |= {problem.name: problem.sentence for problem in problems if problem.name not in found}
        plays += 1
    return {"env_steps": counts[0], "plays": plays, "seconds": time.perf_counter() - begin, "found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="env steps of each environment")
    parser.add_argument("--envs", help="names or cases, separated by semicolons; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    set_threads(1)
    known, clean = cases(), True
    for case in chosen.envs.split(";") if chosen.envs else known:
        told = fuzz(case, known[case], chosen.steps, chosen.seed)
        clean = clean and not told.get("found")
        emit(benchmark="fuzz", case=case, **told)
    sys.exit(not clean)


if __name__ == "__main__":
    main()
