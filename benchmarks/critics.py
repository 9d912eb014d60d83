"""What five critics cost instead of one, on one thread: MADDPG's whole update, and the critics' pass by itself.

`python -m benchmarks.critics [--rounds 15] [--algorithm maddpg] [--network gru]` prints one JSON line. All are
measured in turn, round by round. Milliseconds are of processor time, so that a busy machine counts for little; medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import emit
from benchmarks.learner import ENVIRONMENT, SPREAD_LIKE, one_core, random_batch, team_spec
from phalanx.algorithms.actor_critic import ActorCritic
from phalanx.cluster.learner import Learner
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import run_from_dict

ONE, MANY = 1, 5
IN_A_ROW = 3


def make_learner(algorithm: str, network: str, members: int) -> Learner:
    data: dict[str, Any] = {"env": {"name": "simple_spread"}, "agent": {"network": network}}
    data["algorithm"] = {"name": algorithm, "critic": {"members": members}}
    return Learner(run_from_dict(data, catalogue=CATALOGUE), team_spec(**SPREAD_LIKE))


def critics_alone(learner: Learner) -> Callable[[], object]:
    """All critics' values of a batch of joint actions, and the gradients of their squares."""
    algorithm = learner.algorithm
    assert isinstance(algorithm, ActorCritic)
    critics, spec = algorithm.critics, algorithm.spec
    rows = 32 * spec.episode_limit
    state, actions = torch.randn(rows, spec.state_dim), torch.randn(rows, spec.n_agents * spec.n_actions)
    parameters = list(critics.parameters())
    return lambda: torch.autograd.grad(critics(state, actions).square().mean(-1).sum(), parameters)


def medians_ms(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            run()  # finds the caches full of the other's data
            for _ in range(IN_A_ROW):
                started = time.process_time()
                run()
                times[name].append(time.process_time() - started)
    return {name: 1000 * statistics.median(samples) for name, samples in times.items()}


def main() -> None:
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # The learner's process has this environment, and it has to be there from the beginning.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.critics", *sys.argv[1:]], os.environ | ENVIRONMENT)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--algorithm", default="maddpg")
    parser.add_argument("--network", default="gru")
    chosen = parser.parse_args()
    one_core()
    batch = random_batch(team_spec(**SPREAD_LIKE))
    one, many = (make_learner(chosen.algorithm, chosen.network, members) for members in (ONE, MANY))
    variants: dict[str, Callable[[], object]] = {
        "update_one": lambda: one.update([batch]),
        "update_many": lambda: many.update([batch]),
        "critics_one": critics_alone(one),
        "critics_many": critics_alone(many),
    }
    ms = medians_ms(variants, chosen.rounds)
    emit(
        row="critic_ensemble",
        algorithm=chosen.algorithm,
        network=chosen.network,
        members=MANY,
        **SPREAD_LIKE,
        **{f"{name}_cpu_ms": value for name, value in ms.items()},
        update_ratio=ms["update_many"] / ms["update_one"],
        critics_ratio=ms["critics_many"] / ms["critics_one"],
    )


if __name__ == "__main__":
    main()
