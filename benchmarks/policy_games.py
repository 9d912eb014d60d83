"""Which joint action every method with policies finds in Claus and Boutilier's games, over seeds.

`python -m benchmarks.policy_games [--seeds 10] [--method omdpg] [--game climbing] [--processes 2] [key=value …]` prints
one JSON line for each method: of how many seeds the greedy joint action has the highest payoff, and what all were paid.
Methods that learn from a replay explore fully, as in the games of `benchmarks.matrix_games`, so that their critics see
every joint action; on-policy ones play their own policy. All play the same number of games.

`--variants` adds OMDPG's: coordinate continuation, expected gradients, no pessimism.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.common import emit, set_threads

GAMES: dict[str, dict[str, Any]] = {
    "climbing": {"game": "climbing"},
    "penalty": {"game": "penalty"},  # -100 for miscoordination
    "penalty_10": {"game": "penalty", "penalty": -10.0},
}
ENVS = 32  # games played at once: an on-policy batch
STEPS = 3200
RUN: dict[str, Any] = {
    "mode": "sync",
    "total_env_steps": STEPS,
    "agent": {"network": "mlp", "hidden": 32},
    "rollout": {"streams": 1, "envs_per_stream": ENVS},
    "learner": {"batch_episodes": ENVS, "device": "cpu"},
    "evaluation": {"every_env_steps": STEPS, "episodes": 1},
    "report": {"every_env_steps": STEPS},
    "checkpoint": {"every_env_steps": STEPS, "replay": "none"},
}
LR = 2e-3
OFF_POLICY: dict[str, Any] = {
    "replay": {"samples_per_insert": 8, "capacity_episodes": STEPS, "min_episodes": 320},
    "exploration": {"start": 1.0, "end": 1.0},
    "algorithm": {"critic": {"hidden": 32, "lr": 5e-3}},
}
COORDINATE, EXPECTED = "algorithm.omq.continuation=coordinate", "algorithm.omq.gradient=expected"
VARIANTS = {
    "omdpg, coordinate": ("omdpg", [COORDINATE]),
    "omdpg, expected": ("omdpg", [EXPECTED]),
    "omdpg, coordinate, expected": ("omdpg", [COORDINATE, EXPECTED]),
    "omdpg, coordinate, expected, no pessimism": ("omdpg", [COORDINATE, EXPECTED, "algorithm.gqc.lambda_pu=0"]),
}


def methods() -> list[str]:
    """Every registered method that is not value-mixing."""
    from phalanx.algorithms.registry import ALGORITHMS, algorithm_class
    from phalanx.algorithms.value_mixing import ValueMixing

    return [name for name in ALGORITHMS if not issubclass(algorithm_class(name), ValueMixing)]


def play(method: str, game: str, overrides: list[str], seed: int) -> tuple[list[int], float, bool]:
    """The greedy joint action after training, what it is paid, and whether nothing is paid better."""
    from phalanx.algorithms.registry import algorithm_settings
    from phalanx.cluster.loop import SerialLoop
    from phalanx.cluster.run_folder import CATALOGUE
    from phalanx.configs.load import override_run, run_from_dict

    more = {} if algorithm_settings(method).on_policy else OFF_POLICY
    algorithm = {"name": method, "lr": LR, **more.get("algorithm", {})}
    data = {**RUN, **more, "seed": seed, "algorithm": algorithm, "env": {"name": "matrix", **GAMES[game]}}
    run = override_run(run_from_dict(data, catalogue=CATALOGUE), overrides, catalogue=CATALOGUE)
    best = float(run.env.table().max())  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        loop = SerialLoop(run, Path(folder) / "run")
        loop.train()
        result = loop.evaluator.evaluate()
        loop.close()
    assert result.greedy_joint_action is not None
    payoff = float(result.returns.mean())
    return result.greedy_joint_action, payoff, payoff == best


def measure(name: str, method: str, games: list[str], overrides: list[str], seeds: int, pool: Executor) -> None:
    started = time.perf_counter()
    row: dict[str, Any] = {"row": "policy_games", "method": name, "overrides": overrides, "seeds": seeds}
    for game in games:
        outcomes = list(pool.map(partial(play, method, game, overrides), range(seeds)))
        payoffs = [payoff for _, payoff, _ in outcomes]
        row[game] = {
            "optimal": sum(optimal for _, _, optimal in outcomes),
            "mean": round(statistics.mean(payoffs), 2),
            "payoffs": payoffs,
            "greedy_joint_actions": [actions for actions, _, _ in outcomes],
        }
    emit(**row, seconds=time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--method", action="append", help="may be given several times; all by default")
    parser.add_argument(
        "--game", action="append", choices=list(GAMES), help="may be given several times; else the first two"
    )
    parser.add_argument("--processes", type=int, default=2, help="seeds that are trained at the same time")
    parser.add_argument("--variants", action="store_true", help="variants of OMDPG as well")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    set_threads(1)
    games = arguments.game or list(GAMES)[:2]
    asked = [(name, name, []) for name in arguments.method or methods()]
    if arguments.variants:
        asked += [(name, method, changes) for name, (method, changes) in VARIANTS.items()]
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        for name, method, changes in asked:
            measure(name, method, games, [*changes, *arguments.overrides], arguments.seeds, pool)


if __name__ == "__main__":
    main()
