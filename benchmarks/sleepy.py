"""How collection grows with workers whose simulator waits: env steps per second from one worker to sixteen.

    python -m benchmarks.sleepy [--seconds 10] [--workers 1,2,4,8,16] [--wait-ms 5] [--envs 8] [--no-learner]

One vector step of `env.name=sleepy` waits 5 ms for its 8 environments, outside of Python's lock, as a step beside a
simulator in a process of its own does. Every worker has a stream, a process on Ray and a recurrent policy of 16 units,
the smallest that fills a vector: what is measured is the service, and on two cores sixteen workers leave each vector
step 0.6 ms of a processor, for the policy, records, episodes and Ray's own threads together. Episodes have 100 steps.
Two rows for each number of workers: `learner_off`, where the first update never comes due, and `learner_on`, QMIX with
one update for every eight episodes. `of_linear` is the rate by that of one worker times the number of workers,
`of_wait` by what waiting alone allows; `cpus` are the processor seconds that all of it used per second. One JSON
line with all rows.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks.common import emit, rounded, set_threads

WARM_UP_S = 3.0
NEVER = 1_000_000_000


def measure(workers: int, learns: bool, chosen: argparse.Namespace) -> dict[str, float]:
    """One run for `--seconds` after a warm-up that begins when every worker has delivered."""
    from benchmarks.service import coordinator, cpu_seconds

    settings = (
        "env.name=sleepy",
        f"env.wait_ms={chosen.wait_ms}",
        "env.max_steps=100",
        "agent.hidden=16",
        f"rollout.streams={workers}",
        f"rollout.envs_per_stream={chosen.envs}",
        f"cluster.workers={workers}",
        f"total_env_steps={NEVER}",
        f"evaluation.every_env_steps={NEVER}",
        f"checkpoint.every_env_steps={NEVER}",
        "replay.samples_per_insert=4",
        f"replay.min_episodes={32 if learns else NEVER}",  # the first update waits for so many that were inserted
        "report.every_s=0.5",
    )
    with coordinator("qmix_spread", settings) as run:
        while run.progress.env_steps == 0:
            run.step()
        until = time.monotonic() + WARM_UP_S + workers / 2
        while time.monotonic() < until:
            run.step()
        began, steps, updates, cpu = time.monotonic(), run.progress.env_steps, run.progress.updates, cpu_seconds()
        while time.monotonic() - began < chosen.seconds:
            run.step()
        took = time.monotonic() - began
        spent = sum(cpu_seconds().values()) - sum(cpu.values())
        return {
            "env_steps_per_s": (run.progress.env_steps - steps) / took,
            "updates_per_s": (run.progress.updates - updates) / took,
            "cpus": spent / took,
        }


def rows(learns: bool, chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is told of each number of workers."""
    taken = {workers: measure(workers, learns, chosen) for workers in map(int, chosen.workers.split(","))}
    least = min(taken)
    each = taken[least]["env_steps_per_s"] / least
    waiting = 1000 * chosen.envs / chosen.wait_ms
    for workers, row in taken.items():
        row["of_linear"] = row["env_steps_per_s"] / (each * workers)
        row["of_wait"] = row["env_steps_per_s"] / (waiting * workers)
    return {str(workers): rounded(row) for workers, row in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time of each row")
    parser.add_argument("--workers", default="1,2,4,8,16", help="numbers of workers, separated by commas")
    parser.add_argument("--wait-ms", type=float, default=5.0, help="what one vector step waits")
    parser.add_argument("--envs", type=int, default=8, help="environments of each worker")
    parser.add_argument("--no-learner", action="store_true", help="leave out the rows with the learner on")
    chosen = parser.parse_args()
    set_threads(1)
    emit(
        benchmark="sleepy",
        wait_ms=chosen.wait_ms,
        envs=chosen.envs,
        seconds=chosen.seconds,
        learner_off=rows(False, chosen),
        **({} if chosen.no_learner else {"learner_on": rows(True, chosen)}),
        learner_off_of_linear_must=0.9,
    )


if __name__ == "__main__":
    main()
