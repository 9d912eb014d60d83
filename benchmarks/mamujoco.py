"""Speed of `env.name=mamujoco`, in env steps per second on one core, against gymnasium-robotics' own loop.

    python -m benchmarks.mamujoco [--scenario Walker2d] [--agent-conf 6x1] [--envs 16] [--seconds 0.5] [--repeats 5]

One JSON line. `raw` steps the same number of the library's environments one after the other with dictionaries of
actions, and resets those that ended; `env` does so as a TeamEnv, with seeds, states, and final observations. Both play
the same random actions, drawn beforehand; measured in turn, per second of CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import emit, interleaved, rate, set_threads, spread

STEPS = 32  # vector steps in one piece of work


def loops(scenario: str, conf: str, num_envs: int) -> dict[str, Callable[[], int]]:
    """`raw` and `env`: each call makes `STEPS` vector steps and says how many env steps that is."""
    import numpy as np

    from phalanx.envs.mamujoco import MaMuJoCo, MaMuJoCoSettings, library_arguments
    from phalanx.envs.seeding import EpisodeSeeds, Purpose

    settings = MaMuJoCoSettings(scenario=scenario, agent_conf=conf)
    library, arguments = library_arguments(settings)[:2]
    env = MaMuJoCo(settings, num_envs)
    env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(num_envs)])
    raws = [library.parallel_env(**arguments) for _ in range(num_envs)]
    for raw in raws:
        raw.reset(seed=0)
    shape = (STEPS, num_envs, env.spec.n_agents, max(env.spec.action_dims))
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    spaces = [(name, raws[0].action_space(name)) for name in raws[0].possible_agents]
    orders: list[list[dict[str, Any]]] = [
        [{name: one[i, : space.shape[0]] * space.high for i, (name, space) in enumerate(spaces)} for one in each]
        for each in actions
    ]

    def play_raw() -> int:
        for each in orders:
            for raw, order in zip(raws, each, strict=True):
                _, _, ends, cuts, _ = raw.step(order)
                if any(ends.values()) or any(cuts.values()):
                    raw.reset()
        return STEPS * num_envs

    def play_env() -> int:
        for joint in actions:
            env.step(joint)
        return STEPS * num_envs

    return {"raw": play_raw, "env": play_env}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="Walker2d")
    parser.add_argument("--agent-conf", default="6x1")
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one measure")
    parser.add_argument("--repeats", type=int, default=5, help="measures of each row; the median is reported")
    chosen = parser.parse_args()
    set_threads(1)
    work = loops(chosen.scenario, chosen.agent_conf, chosen.envs)
    measures = {
        name: (lambda play=play: rate(play, chosen.seconds, time.process_time))
        for name, play in work.items()  # type: ignore[misc]
    }
    taken = interleaved(measures, chosen.repeats)
    emit(
        benchmark="mamujoco",
        scenario=chosen.scenario,
        agent_conf=chosen.agent_conf,
        envs=chosen.envs,
        repeats=chosen.repeats,
        **{f"{name}_env_steps_per_cpu_s": spread(values)["median"] for name, values in taken.items()},
        env_of_raw=statistics.median(a / b for a, b in zip(taken["env"], taken["raw"], strict=True)),
        env_of_raw_must=0.9,
    )


if __name__ == "__main__":
    main()
