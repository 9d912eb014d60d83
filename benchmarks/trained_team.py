"""What training made of a team: contacts per greedy episode before and after, on the same episodes.

`python -m benchmarks.trained_team DIR [--episodes 256]` evaluates the run's untrained and its newest weights with the
same seeds and prints one JSON line: means, their ratio, and a 95% bootstrap interval of the mean difference.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from phalanx.cluster.evaluation import Evaluator
from phalanx.cluster.learner import Learner
from phalanx.cluster.policy import load_policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=256)
    arguments = parser.parse_args()
    team = load_policy(arguments.run)
    evaluator = Evaluator(team.run, load_policy)
    learner = Learner(team.run, evaluator.spec)
    outcomes = []
    for weights in (learner.algorithm.policy_weights(), team.weights):
        evaluator.set_weights(weights, 0)
        outcomes.append(evaluator.evaluate(arguments.episodes))
    before, after = (np.asarray(outcome.metrics["contacts"], np.float64) for outcome in outcomes)
    rng = np.random.default_rng(0)
    resampled = (after - before)[rng.integers(len(before), size=(10_000, len(before)))].mean(axis=1)
    row = {
        "row": "trained_team",
        "episodes": arguments.episodes,
        "contacts_untrained": before.mean(),
        "contacts_trained": after.mean(),
        "ratio": after.mean() / max(before.mean(), 1e-9),
        "difference_95": np.quantile(resampled, [0.025, 0.975]).round(3).tolist(),
        "return_untrained": float(outcomes[0].returns.mean()),
        "return_trained": float(outcomes[1].returns.mean()),
    }
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}))


if __name__ == "__main__":
    main()
