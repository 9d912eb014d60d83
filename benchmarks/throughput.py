"""End to end: env steps per second of QMIX on simple_spread while it learns, against raw mpe2 in the same run.

    python -m benchmarks.throughput [--seconds 20] [--env-steps-per-update 200,25] [key=value ...]

The run is the shipped `qmix_spread` (N=3, hidden 64, batches of 32 episodes) in async mode. One JSON line for each
number of env steps per update: env steps/s and its ratio to mpe2's (one process, random actions, measured before,
between and after parts of the time, while the service stands still; the mean counts), updates/s, milliseconds of an
update, policy lag, and processor seconds per second of each process. Episodes have 25 steps, so 200 env steps per
update are 8 new episodes, and 25 are one.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from benchmarks.common import emit, raw_mpe2_steps_per_s, set_threads

EPISODE_STEPS = 25
ROUNDS = 5
MPE2_S = 2.0
BATCH_EPISODES = 32


def measure(env_steps_per_update: int, seconds: float, overrides: Sequence[str]) -> dict[str, float]:
    """One run for `seconds` after a warm-up, and mpe2 in between."""
    from benchmarks import service

    samples_per_insert = BATCH_EPISODES * EPISODE_STEPS / env_steps_per_update
    settings = (f"learner.batch_episodes={BATCH_EPISODES}", f"replay.samples_per_insert={samples_per_insert:g}")
    raw: list[float] = []

    def between() -> None:
        raw.append(raw_mpe2_steps_per_s("simple_spread", MPE2_S))

    row = service.measure("qmix_spread", (*settings, *overrides), seconds, ROUNDS, between)
    mpe2 = statistics.fmean(raw)
    return {
        "ratio_to_mpe2": row["env_steps_per_s"] / mpe2,
        "mpe2_env_steps_per_s": mpe2,
        "mpe2_least": min(raw),
        "mpe2_most": max(raw),
        **row,
    }


def main() -> None:
    """Prints one row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time of each setting")
    parser.add_argument("--env-steps-per-update", default="200,25", help="settings, separated by commas")
    parser.add_argument("overrides", nargs="*", help="settings of the run, such as rollout.envs_per_stream=32")
    options = parser.parse_args()
    set_threads(1)
    for setting in map(int, options.env_steps_per_update.split(",")):
        emit(
            benchmark="throughput",
            task="simple_spread",
            algorithm="qmix",
            setting=f"{setting} env steps per update",
            **measure(setting, options.seconds, options.overrides),
        )


if __name__ == "__main__":
    main()
