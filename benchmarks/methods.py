"""What an update of each value-mixing method costs, relative to QMIX's, on one thread.

`python -m benchmarks.methods [--rounds 5] [--methods res,qtran_base]` prints one JSON line per method, as its file
configures it: milliseconds, the ratio to QMIX and the ratio for each member of its ensembles. Methods are measured in
turn, round by round, QMIX among them, so that a machine whose speed drifts does not favour one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from benchmarks.learner import ENVIRONMENT, SMAC_LIKE, medians_ms, one_core, random_batch, settings, team_spec
from phalanx.algorithms.registry import ALGORITHMS
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.cluster.learner import Learner


def measure(methods: list[str], rounds: int) -> list[dict[str, object]]:
    spec = team_spec(**SMAC_LIKE)
    batch = random_batch(spec)
    learners = {name: Learner(settings({"name": name}), spec) for name in dict.fromkeys(["qmix", *methods])}
    mixing = {name: learner for name, learner in learners.items() if isinstance(learner.algorithm, ValueMixing)}

    def update(learner: Learner) -> int:
        return learner.update([batch])

    times = medians_ms({name: lambda of=learner: update(of) for name, learner in mixing.items()}, rounds)
    rows = []
    for name, learner in mixing.items():
        ensemble = learner.algorithm.settings.ensemble
        members, ratio = max(ensemble.agents, ensemble.mixers), times[name] / times["qmix"]
        row: dict[str, object] = {"row": "method", "method": name, **SMAC_LIKE, "ms": round(times[name], 2)}
        row |= {"ratio": round(ratio, 3), "members": members, "ratio_per_member": round(ratio / members, 3)}
        rows.append(row)
    return rows


def main() -> None:
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # The learner's process has this environment, and it has to be there from the beginning.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.methods", *sys.argv[1:]], os.environ | ENVIRONMENT)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", default=",".join(ALGORITHMS), help="names, separated by commas; default: all")
    chosen = parser.parse_args()
    one_core()
    for row in measure(chosen.methods.split(","), chosen.rounds):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
