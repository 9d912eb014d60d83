"""End to end: env steps per second of MAPPO on simple_spread while it learns, against raw mpe2 in the same run.

    python -m benchmarks.on_policy [--seconds 20] [--networks gru,mlp] [--processor] [key=value ...]

The run is the shipped `qmix_spread` with `algorithm.name=mappo` (N=3, hidden 64, 4 epochs) in async mode, two workers
with 32 environments each. One JSON line for each agent network: env steps/s and its ratio to mpe2's (one process,
random actions, measured before and after, the mean counts), updates/s, milliseconds of an update, policy lag, and
processor seconds per second of each process. With `--processor` no service is started: processor time of playing and of
learning for each env step, and of mpe2's, in this process, which a busy machine does not distort.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import emit, raw_mpe2_steps_per_s, set_threads

SETTINGS = ("algorithm.name=mappo", "algorithm.epochs=4", "cluster.workers=2")


def measure(network: str, seconds: float, overrides: Sequence[str]) -> dict[str, float]:
    """One run for `seconds` after a warm-up."""
    from benchmarks import service

    return service.measure("qmix_spread", (*SETTINGS, f"agent.network={network}", *overrides), seconds)


def processor_us(work: Callable[[], Any], times: int) -> float:
    """Microseconds of processor time of one call, the median; once to warm up."""
    work()
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(1e6 * (time.process_time() - began))
    return statistics.median(taken)


def processor_times(network: str, overrides: Sequence[str]) -> dict[str, float]:
    """Of one env step: `play_us`, `learn_us`; what two cores could do at most if nothing else cost anything."""
    from phalanx.algorithms.common.batch import concatenate
    from phalanx.cluster.learner import Learner, use_threads
    from phalanx.cluster.rollout import Rollout
    from phalanx.cluster.run_folder import CATALOGUE
    from phalanx.configs.load import load_run

    use_threads(1)
    run = load_run("qmix_spread", [*SETTINGS, f"agent.network={network}", *overrides], catalogue=CATALOGUE)
    streams = range(run.rollout.streams)
    rollout = Rollout(run, streams)
    learner = Learner(run, rollout.spec)
    rollout.set_weights(*learner.weights())
    chunks = [rollout.play_round(stream, 0, 1.0) for stream in streams]
    batch, steps = concatenate([chunk.batch for chunk in chunks]), sum(chunk.env_steps for chunk in chunks)
    play = processor_us(lambda: [rollout.play_round(stream, 1, 1.0) for stream in streams], 5) / steps
    learn = processor_us(lambda: learner.update([batch]), 9) / steps
    rollout.close()
    return {"play_us": play, "learn_us": learn, "two_cores_steps_per_s": 1e6 / max(learn, (play + learn) / 2)}


def mpe2_processor_steps_per_s(seconds: float) -> float:
    """mpe2's env steps for each second of processor time."""
    began, wall = time.process_time(), time.perf_counter()
    steps_per_s = raw_mpe2_steps_per_s("simple_spread", seconds)
    return steps_per_s * (time.perf_counter() - wall) / (time.process_time() - began)


def main() -> None:
    """Prints one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time of each network")
    parser.add_argument("--networks", default="gru,mlp", help="agent networks, separated by commas")
    parser.add_argument("--processor", action="store_true", help="processor time in this process, without the service")
    parser.add_argument("overrides", nargs="*", help="settings of the run, such as rollout.envs_per_stream=64")
    options = parser.parse_args()
    set_threads(1)
    stepping = mpe2_processor_steps_per_s if options.processor else lambda s: raw_mpe2_steps_per_s("simple_spread", s)
    raw = [stepping(3.0)]
    for network in options.networks.split(","):
        if options.processor:
            row = processor_times(network, options.overrides)
            speed = row["two_cores_steps_per_s"]
        else:
            row = measure(network, options.seconds, options.overrides)
            speed = row["env_steps_per_s"]
        raw.append(stepping(3.0))
        mpe2 = statistics.fmean(raw[-2:])
        emit(
            benchmark="on_policy",
            task="simple_spread",
            algorithm="mappo",
            setting=f"{network}, hidden 64, 4 epochs" + (", processor time" if options.processor else ""),
            ratio_to_mpe2=speed / mpe2,
            mpe2_env_steps_per_s=mpe2,
            **row,
        )


if __name__ == "__main__":
    main()
