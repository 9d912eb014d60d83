"""Speed of the particle tasks, in env steps per second on one core, against mpe2 measured in the same run.

    python -m benchmarks.envs [--seconds 0.3] [--repeats 5]

Every row counts whole steps: physics, rewards, observations and state of all environments as float32, and the resets
at the end of every 25-step episode. Actions are random and drawn beforehand. `mpe2` rows step one environment; `own`
rows step E together, with the actions of all agents given or with a scripted other side.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

from benchmarks.common import MPE2_MODULES, emit, interleaved, rate, raw_mpe2_steps_per_s, set_threads, spread

OWN_ROWS = (
    *(("simple_tag", num_envs, opponents) for opponents in ("given", "scripted") for num_envs in (32, 1, 256)),
    ("simple_spread", 32, "none"),
    *((task, 32, opponents) for task in ("simple_adversary", "simple_world") for opponents in ("given", "scripted")),
)
"""Task, environments, and who drives the other side."""


def own(task: str, num_envs: int, opponents: str, seconds: float) -> Callable[[], float]:
    """A measure of one of our tasks: env steps per second."""
    import numpy as np

    from phalanx.envs.mpe.task import ParticleTask
    from phalanx.envs.registry import env_settings, make_env

    env = make_env(env_settings(task).model_validate({"name": task}), num_envs)
    assert isinstance(env, ParticleTask)
    env.reset([itertools.count(1000 * e) for e in range(num_envs)])
    step, agents = (env.step, env.spec.n_agents) if opponents == "scripted" else (env.step_all, env.world.n_agents)
    actions = np.random.default_rng(0).integers(5, size=(25, num_envs, agents))

    def episode() -> int:
        for joint in actions:
            step(joint)
        return len(actions) * num_envs

    return lambda: rate(episode, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one measure")
    parser.add_argument("--repeats", type=int, default=5, help="measures of each row; the median is reported")
    arguments = parser.parse_args()
    set_threads(1)

    measures: dict[tuple[str, int, str], Callable[[], float]] = {}
    for task in MPE2_MODULES:
        measures[task, 1, "mpe2"] = lambda task=task: raw_mpe2_steps_per_s(task, arguments.seconds)  # type: ignore[misc]
    for row in OWN_ROWS:
        measures[row] = own(*row, arguments.seconds)
    taken = interleaved(measures, arguments.repeats)
    for (task, num_envs, opponents), values in taken.items():
        raw = spread(taken[task, 1, "mpe2"])["median"]
        found = spread(values)
        emit(
            benchmark="envs",
            implementation="mpe2" if opponents == "mpe2" else "own",
            task=task,
            envs=num_envs,
            opponents="given" if opponents == "mpe2" else opponents,
            threads=1,
            repeats=arguments.repeats,
            env_steps_per_s=found["median"],
            min=found["min"],
            max=found["max"],
            times_mpe2=found["median"] / raw,
        )


if __name__ == "__main__":
    main()
