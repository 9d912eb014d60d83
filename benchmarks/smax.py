"""Speed of SMAX, in env steps per second on one core, against JaxMARL's own loop measured in the same run.

    python -m benchmarks.smax [--maps 3m 2s3z 3s5z 5m_vs_6m] [--envs 32] [--seconds 0.5] [--repeats 5] [--no-policy]

One JSON line with all maps. Rates are per second of CPU time, measured in turn, so that what else runs on the machine
matters little. `bare` is what one writes with JaxMARL alone: its auto-resetting step under vmap and jit, actions from
numpy, and back to numpy observations, states, masks, rewards and ends. It loses final observations and cannot tell a
victory, nor the time limit, from a defeat. `env` is `env.name=smax` with the same actions, random and drawn beforehand;
`rollout` a worker with a recurrent policy (64 units, ε = 0.05) that plays whole episodes and makes chunks of them.

`start` is a process of its own with such a worker, started when everything is compiled and kept already: seconds from
its start to its first chunk (one episode of each environment), those of them on a processor, and its memory (RSS) then.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import emit, interleaved, rate, rounded, set_threads, spread

STEPS = 64  # vector steps whose actions are drawn beforehand


def bare(scenario: str, num_envs: int) -> tuple[Callable[[Any], Any], int, int]:
    """A vector step from actions [E, N] to numpy arrays, N and the number of actions."""
    import numpy as np

    from phalanx.envs.smax import SmaxSettings
    from phalanx.envs.smax_simulator import load, make_game

    settings = SmaxSettings(scenario=scenario)
    jax, _ = load()
    game = make_game(settings.rules(), settings.resolved().limit)

    def strict(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)

    def one(battle: Any, actions: Any) -> tuple[Any, Any]:
        key, own = jax.random.split(battle[0])
        each = {agent: actions[i] for i, agent in enumerate(game.agents)}
        obs, state, reward, done, _ = game.step(own, battle[1], each)
        legal = game.get_avail_actions(state)
        seen, avail = (jax.numpy.stack([of[agent] for agent in game.agents]) for of in (obs, legal))
        return strict((key, state)), (seen, obs["world_state"], avail, reward[game.agents[0]], done["__all__"])

    step = jax.jit(jax.vmap(one), donate_argnums=0)
    keys = jax.random.split(jax.random.PRNGKey(0), num_envs)
    battles = jax.jit(jax.vmap(lambda key: strict((key, game.reset(key)[1]))))(keys)

    def play(actions: Any) -> Any:
        nonlocal battles
        battles, seen = step(battles, actions)
        return [np.asarray(array) for array in seen]

    return play, game.num_agents, game.num_enemies + 5


def ours(scenario: str, num_envs: int) -> Callable[[Any], Any]:
    """The same as a TeamEnv."""
    from phalanx.envs.seeding import EpisodeSeeds, Purpose
    from phalanx.envs.smax import Smax, SmaxSettings

    env = Smax(SmaxSettings(scenario=scenario), num_envs)
    env.reset([EpisodeSeeds(0, Purpose.EPISODE, e) for e in range(num_envs)])
    return env.step


def measures(scenario: str, num_envs: int, seconds: float, policy: bool) -> dict[str, Callable[[], float]]:
    """What is measured, by the name of the row: each call gives env steps per second."""
    import numpy as np

    loop, agents, choices = bare(scenario, num_envs)
    steps = {"bare": loop, "env": ours(scenario, num_envs)}
    actions = np.random.default_rng(0).integers(choices, size=(STEPS, num_envs, agents)).astype(np.int32)

    def timed(step: Callable[[Any], Any]) -> Callable[[], float]:
        def play() -> int:
            for joint in actions:
                step(joint)
            return len(actions) * num_envs

        return lambda: rate(play, seconds, time.process_time)

    rows = {name: timed(step) for name, step in steps.items()}
    if policy:
        from benchmarks.rollout import Worker

        worker = Worker({"name": "smax", "scenario": scenario}, "qmix", num_envs, 64, "async")
        rows["rollout"] = lambda: rate(worker.play, seconds, time.process_time)
    return rows


def first_chunk(scenario: str, num_envs: int) -> int:
    """Bytes that this process holds (RSS) after a worker's first chunk."""
    from benchmarks.rollout import Worker

    Worker({"name": "smax", "scenario": scenario}, "qmix", num_envs, 64, "async").play()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def start(scenario: str, num_envs: int) -> dict[str, float]:
    """`first_chunk` in a process of its own: twice, as the first one may compile."""
    command = [sys.executable, "-m", "benchmarks.smax", "--first-chunk", scenario, "--envs", str(num_envs)]
    for _ in range(2):
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        taken, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"start_s": taken, "start_cpu_s": spent, "start_rss_mb": int(told) / 1e6}


def of_map(scenario: str, chosen: argparse.Namespace) -> dict[str, float]:
    """What is told of one map."""
    taken = interleaved(measures(scenario, chosen.envs, chosen.seconds, not chosen.no_policy), chosen.repeats)
    told = {f"{name}_env_steps_per_cpu_s": spread(values)["median"] for name, values in taken.items()}
    for name, of in (("env", "bare"), ("rollout", "bare"), ("rollout", "env")):
        if name in taken:
            told[f"{name}_of_{of}"] = statistics.median(a / b for a, b in zip(taken[name], taken[of], strict=True))
    return told if chosen.no_policy else {**told, **start(scenario, chosen.envs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", nargs="+", default=["3m", "2s3z", "3s5z", "5m_vs_6m"])
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one measure")
    parser.add_argument("--repeats", type=int, default=5, help="measures of each row; the median is reported")
    parser.add_argument("--no-policy", action="store_true", help="leave out the rollouts, which need torch")
    parser.add_argument("--first-chunk", metavar="MAP", help="play one chunk and print the memory held, nothing else")
    chosen = parser.parse_args()
    set_threads(1)
    if chosen.first_chunk:
        print(first_chunk(chosen.first_chunk, chosen.envs))
        return
    emit(
        benchmark="smax",
        envs=chosen.envs,
        threads=1,
        repeats=chosen.repeats,
        maps={scenario: rounded(of_map(scenario, chosen)) for scenario in chosen.maps},
        env_of_bare_must=0.9,
        rollout_of_env_must=0.6,
        start_s_must=10,
        start_rss_mb_must=800,
    )


if __name__ == "__main__":
    main()
