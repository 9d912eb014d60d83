"""What OMDPG's parts cost: an update of the shipped hunt with fewer critics, without pessimism, with coordinate ascent.

`python -m benchmarks.omdpg [--rounds 5] [--run omdpg_stag_hunt_het]` plays a batch of episodes, learns from it on one
thread and prints one JSON line for each variant: milliseconds of processor time and the ratio to the run as it is.
Variants are measured in turn, round by round, so that a machine whose speed drifts does not favour one.
"""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks.common import emit
from benchmarks.critics import medians_ms
from benchmarks.learner import ENVIRONMENT, one_core
from phalanx.cluster.learner import Learner
from phalanx.cluster.rollout import Rollout
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import load_run

VARIANTS = {
    "as it is": "seed=0",
    "one critic": "algorithm.critic.members=1",
    "two critics": "algorithm.critic.members=2",
    "no pessimism": "algorithm.gqc.lambda_pu=0",
    "coordinate": "algorithm.omq.continuation=coordinate",
    "expected": "algorithm.omq.gradient=expected",
    "every agent alone": "algorithm.groups=none",
}


def measure(name: str, rounds: int) -> None:
    serial = ["mode=sync", "learner.device=cpu", "rollout.streams=1"]
    run = load_run(name, serial, catalogue=CATALOGUE)
    rollout = Rollout(
        load_run(name, [*serial, f"rollout.envs_per_stream={run.learner.batch_episodes}"], catalogue=CATALOGUE), [0]
    )
    learners = {
        variant: Learner(load_run(name, [*serial, change], catalogue=CATALOGUE), rollout.spec)
        for variant, change in VARIANTS.items()
    }
    rollout.set_weights(*learners["as it is"].weights())
    batch = rollout.play_round(0, 0, 1.0).batch
    rollout.close()
    times = medians_ms({v: lambda of=learner: of.update([batch]) for v, learner in learners.items()}, rounds)
    for variant, ms in times.items():
        ratio = ms / times["as it is"]
        emit(row="omdpg", run=name, variant=variant, transitions=batch.reward.size, ms=ms, ratio=ratio)


def main() -> None:
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # The learner's process has this environment, and it has to be there from the beginning.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.omdpg", *sys.argv[1:]], os.environ | ENVIRONMENT)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", default="omdpg_stag_hunt_het", help="a shipped run of OMDPG")
    chosen = parser.parse_args()
    one_core()
    measure(chosen.run, chosen.rounds)


if __name__ == "__main__":
    main()
