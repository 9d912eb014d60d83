"""Speed of the environments, env steps per second of one core's time; the particle tasks against mpe2 in the same run.

    python -m benchmarks.envs [--seconds 0.3] [--repeats 5]

Every row counts whole steps: physics, rewards, observations and state of all environments as float32, and the resets
at the end of every 25-step episode. Actions are random and drawn beforehand. `mpe2` rows step one environment; `own`
rows step E together, with the actions of all agents given or with a scripted other side; `pettingzoo` rows are E of
mpe2's behind `env.name=pettingzoo`, everybody in the team. `game` rows are environments that mpe2 does not have; their
random legal actions are drawn as they are needed, which is not timed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import MPE2_MODULES, emit, interleaved, rate, raw_mpe2_steps_per_s, set_threads, spread

OWN_ROWS = (
    *(("simple_tag", num_envs, opponents) for opponents in ("given", "scripted") for num_envs in (32, 1, 256)),
    ("simple_spread", 32, "none"),
    *((task, 32, opponents) for task in ("simple_adversary", "simple_world") for opponents in ("given", "scripted")),
)
"""Task, environments, and who drives the other side."""
CLOCK = time.process_time
LIBRARY = ("mpe2", "pettingzoo")  # rows of mpe2's own environments, bare and adapted

GAMES: dict[str, dict[str, Any]] = {
    "dispersion": {},
    "stag_hunt": {},
    "stag_hunt_het": {},
    "two_step": {},
    "matrix": {},
    "specialisation": {"temporal": True, "agents": 4},
    "synchronisation": {"temporal": True, "agents": 4},
    "stag_hunt, noisy": {"noise": {"obs_uniform": 0.02, "state_uniform": 0.02}},
}
"""Row -> settings; what stands before a comma is the environment's name."""


def game(row: str, num_envs: int, seconds: float) -> Callable[[], float]:
    """A measure of a row of `GAMES`: env steps per second, the choice of actions left out."""
    import numpy as np

    from phalanx.envs.registry import env_settings, make_env

    name = row.partition(",")[0]
    env = make_env(env_settings(name).model_validate({"name": name, **GAMES[row]}), num_envs)
    seen = env.reset([itertools.count(1000 * e) for e in range(num_envs)])
    rng = np.random.default_rng(0)

    def measure() -> float:
        nonlocal seen
        done, spent, end = 0, 0.0, CLOCK() + seconds
        while CLOCK() < end:
            actions = (rng.random(seen.avail.shape, np.float32) * seen.avail).argmax(axis=2)
            begin = CLOCK()
            seen = env.step(actions).next
            spent += CLOCK() - begin
            done += num_envs
        return done / spent

    return measure


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

    return lambda: rate(episode, seconds, CLOCK)


def adapted(task: str, num_envs: int, seconds: float) -> Callable[[], float]:
    """A measure of mpe2's task behind our adapter: env steps per second."""
    import numpy as np

    from phalanx.envs.registry import env_settings, make_env

    settings = {"name": "pettingzoo", "module": MPE2_MODULES[task], "kwargs": {"max_cycles": 25}, "max_steps": 25}
    env = make_env(env_settings("pettingzoo").model_validate(settings), num_envs)
    env.reset([itertools.count(1000 * e) for e in range(num_envs)])
    rng = np.random.default_rng(0)
    actions = rng.integers(env.spec.action_dims, size=(25, num_envs, env.spec.n_agents))

    def episode() -> int:
        for joint in actions:
            env.step(joint)
        return len(actions) * num_envs

    return lambda: rate(episode, seconds, CLOCK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one measure")
    parser.add_argument("--repeats", type=int, default=5, help="measures of each row; the median is reported")
    arguments = parser.parse_args()
    set_threads(1)

    measures: dict[tuple[str, int, str], Callable[[], float]] = {}
    for task in MPE2_MODULES:
        measures[task, 1, "mpe2"] = lambda task=task: raw_mpe2_steps_per_s(task, arguments.seconds, CLOCK)  # type: ignore[misc]
        for num_envs in (1, 8):
            measures[task, num_envs, "pettingzoo"] = adapted(task, num_envs, arguments.seconds)
    for row in OWN_ROWS:
        measures[row] = own(*row, arguments.seconds)
    for name in GAMES:
        measures[name, 32, "none"] = game(name, 32, arguments.seconds)
    taken = interleaved(measures, arguments.repeats)
    for (task, num_envs, opponents), values in taken.items():
        found = spread(values)
        raw = taken.get((task, 1, "mpe2"))
        emit(
            benchmark="envs",
            implementation=opponents if opponents in LIBRARY else "own" if raw else "game",
            task=task,
            envs=num_envs,
            opponents="given" if opponents in LIBRARY else opponents,
            threads=1,
            repeats=arguments.repeats,
            env_steps_per_s=found["median"],
            min=found["min"],
            max=found["max"],
            **({"times_mpe2": statistics.median(a / b for a, b in zip(values, raw, strict=True))} if raw else {}),
        )


if __name__ == "__main__":
    main()
