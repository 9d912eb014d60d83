"""Which joint action each method finds in matrix games, over seeds.

`python -m benchmarks.matrix_games [--seeds 10] [--run ow_qmix_matrix] [key=value …]` trains the shipped runs (all three
by default) in this process and prints one JSON line each: how many seeds end with a greedy joint action of
the highest payoff. `env.payoff=[[…]]` and `algorithm.weighting.alpha=…` try other games.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from phalanx.cluster.loop import SerialLoop
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import load_run

RUNS = ("qmix_matrix", "ow_qmix_matrix", "cw_qmix_matrix")


def play(name: str, overrides: list[str], seed: int) -> tuple[list[int], float]:
    """The greedy joint action after training, and the mean payoff of the last evaluation."""
    run = load_run(name, [*overrides, f"seed={seed}"], catalogue=CATALOGUE)
    with tempfile.TemporaryDirectory() as folder:
        loop = SerialLoop(run, Path(folder) / "run")
        loop.train()
        result = loop.evaluator.evaluate()
        loop.close()
    assert result.greedy_joint_action is not None
    return result.greedy_joint_action, float(result.returns.mean())


def measure(name: str, overrides: list[str], seeds: int) -> dict[str, Any]:
    run = load_run(name, overrides, catalogue=CATALOGUE)
    best = float(run.env.table().max())  # type: ignore[attr-defined]
    started = time.perf_counter()
    outcomes = [play(name, overrides, seed) for seed in range(seeds)]
    return {
        "row": "matrix_game",
        "run": name,
        "overrides": overrides,
        "seeds": seeds,
        "env_steps": run.total_env_steps,
        "optimal": sum(payoff == best for _, payoff in outcomes),
        "payoffs": [payoff for _, payoff in outcomes],
        "greedy_joint_actions": [actions for actions, _ in outcomes],
        "seconds_per_run": round((time.perf_counter() - started) / seeds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--run", action="append", help="may be given several times")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    for name in arguments.run or RUNS:
        print(json.dumps(measure(name, arguments.overrides, arguments.seeds)), flush=True)


if __name__ == "__main__":
    main()
