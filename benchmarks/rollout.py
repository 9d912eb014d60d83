"""One rollout worker on one core: env steps per second, and where the time goes.

    python -m benchmarks.rollout [--env simple_tag] [--envs 32] [--seconds 4] [--repeats 3] [--algorithm qmix]

One stream with the algorithm's recurrent policy (ε = 0.05), whole episodes made into chunks; `ratio` is against raw
mpe2 stepping of the same task in the same process. Shares are of wall time: env (with its scripted opponents), policy,
and bookkeeping, which is everything else: recording, chunks, seeds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from benchmarks.common import emit, interleaved, raw_mpe2_steps_per_s, set_threads, spread

PARTS = ("env", "policy", "bookkeeping")


class Worker:
    """A rollout worker with untrained weights that remembers where its time went. `env` is a name or a section."""

    def __init__(self, env: str | dict[str, Any], algorithm: str, envs: int, hidden: int, mode: str) -> None:
        from phalanx.algorithms.registry import make_algorithm
        from phalanx.cluster.learner import use_threads
        from phalanx.cluster.rollout import Rollout
        from phalanx.cluster.run_folder import CATALOGUE
        from phalanx.configs.load import run_from_dict

        use_threads(1)
        sections = {
            "mode": mode,
            "env": {"name": env} if isinstance(env, str) else env,
            "algorithm": {"name": algorithm},
            "agent": {"hidden": hidden},
            "rollout": {"streams": 1, "envs_per_stream": envs},
        }
        run = run_from_dict(sections, catalogue=CATALOGUE)
        self.rollout = Rollout(run, [0])
        self.rollout.set_weights(make_algorithm(run, self.rollout.spec).policy_weights(), 0)
        self.sync = mode == "sync"
        self.sequence = 0
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.env_steps = 0

    def steps_per_s(self, seconds: float) -> float:
        """Plays for about `seconds`."""
        self.play()
        done, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            done += self.play(remember=True)
        return done / elapsed

    def play(self, remember: bool = False) -> int:
        """One chunk; how many env steps it has."""
        rollout, sequence = self.rollout, self.sequence
        self.sequence += 1
        chunk = rollout.play_round(0, sequence, 0.05) if self.sync else rollout.play_on(0, sequence, 0.05, 1)
        if remember:
            self.env_steps += chunk.env_steps
            for part in PARTS:
                self.seconds[part] += chunk.timing[part]
        return chunk.env_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--env", default="simple_tag", choices=("simple_tag", "simple_spread"))
    parser.add_argument("--algorithm", default="qmix")
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--mode", default="async", choices=("sync", "async"))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    set_threads(1)
    worker = Worker(chosen.env, chosen.algorithm, chosen.envs, chosen.hidden, chosen.mode)
    taken = interleaved(
        {
            "phalanx": lambda: worker.steps_per_s(chosen.seconds),
            "mpe2": lambda: raw_mpe2_steps_per_s(chosen.env, chosen.seconds / 2),
        },
        chosen.repeats,
    )
    total = sum(worker.seconds.values())
    vector_steps = worker.env_steps / chosen.envs
    emit(
        benchmark="rollout",
        env=chosen.env,
        algorithm=chosen.algorithm,
        envs=chosen.envs,
        hidden=chosen.hidden,
        mode=chosen.mode,
        env_steps_per_s=spread(taken["phalanx"])["median"],
        mpe2_env_steps_per_s=spread(taken["mpe2"])["median"],
        ratio=statistics.median(taken["phalanx"]) / statistics.median(taken["mpe2"]),
        must=10,
        **{f"{part}_share": worker.seconds[part] / total for part in PARTS},
        **{f"{part}_us_per_vector_step": 1e6 * worker.seconds[part] / vector_steps for part in PARTS},
    )


if __name__ == "__main__":
    main()
