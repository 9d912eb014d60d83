"""Speed of SMAX, in env steps per second on one core, against JaxMARL's own loop measured in the same run.

    python -m benchmarks.smax [--maps 3m 2s3z 3s5z 5m_vs_6m] [--envs 32] [--seconds 0.5] [--repeats 5] [--no-policy]

Rates are per second of CPU time, so that what else runs on the machine matters little. `bare` is what one writes with
JaxMARL alone: its auto-resetting step under vmap and jit, actions from numpy, and back to numpy observations, states,
masks, rewards and ends. It loses final observations and cannot tell a victory, nor the time limit, from a defeat. `env`
is `env.name=smax` with the same actions, random and drawn beforehand; `rollout` a worker with a recurrent policy (64
units, ε = 0.05) that plays whole episodes and makes chunks of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import emit, interleaved, set_threads, spread

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


def rate(play: Callable[[], int], seconds: float) -> float:
    """Units per second of this process's CPU time; `play` does some work and says how many units that was."""
    play()
    done, start = 0, time.process_time()
    while (used := time.process_time() - start) < seconds:
        done += play()
    return done / used


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

        return lambda: rate(play, seconds)

    rows = {name: timed(step) for name, step in steps.items()}
    if policy:
        from benchmarks.rollout import Worker

        worker = Worker({"name": "smax", "scenario": scenario}, "qmix", num_envs, 64, "async")
        rows["rollout"] = lambda: rate(worker.play, seconds)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", nargs="+", default=["3m", "2s3z", "3s5z", "5m_vs_6m"])
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one measure")
    parser.add_argument("--repeats", type=int, default=5, help="measures of each row; the median is reported")
    parser.add_argument("--no-policy", action="store_true", help="leave out the rollouts, which need torch")
    chosen = parser.parse_args()
    set_threads(1)
    for scenario in chosen.maps:
        rows = measures(scenario, chosen.envs, chosen.seconds, not chosen.no_policy)
        taken = interleaved(rows, chosen.repeats)
        ratios = {
            name: statistics.median(a / b for a, b in zip(values, taken["bare"], strict=True))
            for name, values in taken.items()
        }
        emit(
            benchmark="smax",
            map=scenario,
            envs=chosen.envs,
            threads=1,
            repeats=chosen.repeats,
            **{f"{name}_env_steps_per_cpu_s": spread(values)["median"] for name, values in taken.items()},
            **{f"{name}_of_bare": ratio for name, ratio in ratios.items() if name != "bare"},
            env_must=0.9,
            rollout_must=0.6,
        )


if __name__ == "__main__":
    main()
