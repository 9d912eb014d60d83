"""Samples per insert as the replay itself counts them: over 1,000 updates after the warm-up, whoever is fast.

    python -m benchmarks.samples_per_insert [--updates 1000] [--workers 1,2,4] [--per-insert 4,32] [key=value ...]

The run is the shipped `qmix_spread` in async mode with a small network, so that the limiter is what holds things
together. One JSON line for each setting: what was set, what the replay's own counters of inserted and sampled episodes
say, and the deviation. The last line of each setting is with kills: a worker, the replay and the learner are ended by
SIGKILL, one after the other; the counters of the replay's processes are added up, each read before its end.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence

from benchmarks.common import emit, set_threads

STREAMS = 4
VICTIMS = ("worker", "replay", "learner")


def measure(per_insert: float, workers: int, updates: int, overrides: Sequence[str], kill: bool) -> dict[str, float]:
    """One run; `kill` ends actors when a quarter, a half and three quarters of the updates are made."""
    from benchmarks.service import coordinator
    from phalanx.cluster.fleet import ReplayCount

    settings = (
        "total_env_steps=1000000000",
        "checkpoint.every_env_steps=1000000000",
        "evaluation.every_env_steps=1000000000",
        "agent.hidden=16",
        f"rollout.streams={STREAMS}",
        "rollout.envs_per_stream=8",
        f"replay.samples_per_insert={per_insert:g}",
        f"cluster.workers={workers}",
        "report.every_s=0.1",
        *overrides,
    )
    with coordinator("qmix_spread", settings) as run:
        fleet = run.fleet

        def count() -> ReplayCount:
            answer: ReplayCount = fleet.value(fleet.replay.handle.count.remote())
            return answer

        while run.progress.updates < 100:
            run.step()
        began, first = run.progress.updates, count()
        inserted, sampled = -first.inserted, -first.sampled
        waiting = list(VICTIMS) if kill else []
        while run.progress.updates - began < updates:
            run.step()
            done = (run.progress.updates - began) / updates
            if waiting and done >= 1 - len(waiting) / (len(VICTIMS) + 1):
                victim = waiting.pop(0)
                member = {"worker": fleet.workers[0], "replay": fleet.replay, "learner": fleet.learner}[victim]
                if victim == "replay":
                    last = count()
                    inserted, sampled = inserted + last.inserted, sampled + last.sampled
                os.kill(fleet.value(member.handle.pid.remote()), signal.SIGKILL)
        last = count()
        inserted, sampled = inserted + last.inserted, sampled + last.sampled
        return {
            "updates": run.progress.updates - began,
            "inserted": inserted,
            "sampled": sampled,
            "samples_per_insert": sampled / inserted,
            "deviation": sampled / inserted / per_insert - 1,
            "restarts": run.progress.restarts,
        }


def main() -> None:
    """Prints one row for each setting, and exits 1 where one deviates by more than 2%."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--per-insert", default="4,32")
    parser.add_argument("overrides", nargs="*", help="settings of the run")
    options = parser.parse_args()
    set_threads(1)
    worst = 0.0
    for per_insert in map(float, options.per_insert.split(",")):
        counts = [int(workers) for workers in options.workers.split(",")]
        for workers, kill in [*((count, False) for count in counts), (max(counts), True)]:
            row = measure(per_insert, workers, options.updates, options.overrides, kill)
            worst = max(worst, abs(row["deviation"]))
            emit(benchmark="samples_per_insert", setting=per_insert, workers=workers, kills=kill, **row)
    if worst > 0.02:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
