"""How well prey escape: contacts and the prey's own return, against the same predators on the same episodes.

    python -m benchmarks.opponents [TASK] [--prey KIND ...] [--predators KIND ...] [--episodes 256]

TASK is simple_world or simple_tag. KIND is random, scripted (prey: as the environment's own; predators: each pushes
towards the nearest prey, wherever that hides), trained (the prey that come with the task), FILE.npz (`phalanx freeze`)
or DIR (a run: of that side, or of both). One JSON line for each pair.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import emit
from phalanx.cluster.policy import load_policy
from phalanx.envs.frozen import FrozenPolicy
from phalanx.envs.mpe.hunt import Hunt
from phalanx.envs.mpe.opponents import shipped
from phalanx.envs.mpe.physics import N_ACTIONS
from phalanx.envs.opponents import OneSide
from phalanx.envs.registry import env_class, env_settings
from phalanx.envs.team import Obs

Side = Callable[[Obs], Any]
"""What a side does, [E, n]."""


def make(task: str, episodes: int) -> Hunt:
    """Both sides in one team, so that each is told what it is paid; an environment for every episode."""
    kind: Any = env_class(task)
    env = kind(env_settings(task).model_validate({"name": task, "opponents": "learning"}), episodes, None)
    assert isinstance(env, Hunt), f"{task} is no hunt"
    return env


def chase(env: Hunt) -> Any:
    """Actions [E, P]: along the axis on which the nearest prey is farther away."""
    p = env.n_predators
    delta = env.world.pos[:, None, p : p + env.n_prey] - env.world.pos[:, :p, None]  # [2, P, G, E]
    nearest = (delta**2).sum(axis=0).argmin(axis=1)  # [P, E]
    x, y = np.take_along_axis(delta, nearest[None, :, None], axis=2)[:, :, 0]
    sideways = np.where(x < 0, 1, 2)  # left, right
    return np.where(np.abs(x) > np.abs(y), sideways, np.where(y < 0, 3, 4)).T


def side(env: Hunt, kind: str, members: slice) -> Side:
    """Who plays `members`; `kind` as in the module's docstring."""
    spec, episodes = env.spec, env.num_envs
    prey = members.start > 0
    seen, count = spec.obs_dims[members.start], len(range(spec.n_agents)[members])
    if kind == "random":
        rng = np.random.default_rng(int(prey))
        return lambda obs: rng.integers(N_ACTIONS, size=(episodes, count))
    if kind == "scripted":
        return lambda obs: env._script().T if prey else chase(env)
    policy: Any
    if kind == "trained":
        policy = shipped(spec.env_name, seen)
    elif Path(kind).is_dir():
        policy = load_policy(kind)
        policy = OneSide(policy, policy.spec, members) if policy.spec.agent_names == spec.agent_names else policy
    else:
        policy = FrozenPolicy.load(Path(kind))
    policy.reset(episodes)
    return lambda obs: policy.act(np.ascontiguousarray(obs.obs[:, members, :seen]), obs.avail[:, members])


def play(task: str, predators: str, prey: str, episodes: int) -> dict[str, float]:
    """Means over episodes; the return is that of one prey."""
    env = make(task, episodes)
    p = env.n_predators
    sides = side(env, predators, slice(0, p)), side(env, prey, slice(p, env.spec.n_agents))
    obs = env.reset([itertools.count(1000 * k) for k in range(episodes)])
    contacts, paid = np.zeros(episodes), np.zeros(episodes)
    for _ in range(env.spec.episode_limit):
        step = env.step(np.concatenate([act(obs) for act in sides], axis=1))
        assert step.agent_reward is not None
        contacts += step.info["contacts"]
        paid += step.agent_reward[:, p:].mean(axis=1)
        obs = step.next
    return {"contacts": contacts.mean(), "contacts_se": contacts.std() / episodes**0.5, "prey_return": paid.mean()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="simple_world", choices=("simple_world", "simple_tag"))
    parser.add_argument("--prey", nargs="+", default=["trained", "scripted", "random"])
    parser.add_argument("--predators", nargs="+", default=["random", "scripted"])
    parser.add_argument("--episodes", type=int, default=256)
    arguments = parser.parse_args()
    for predators in arguments.predators:
        for prey in arguments.prey:
            row = play(arguments.task, predators, prey, arguments.episodes)
            emit(row="opponents", task=arguments.task, predators=predators, prey=prey, **row)


if __name__ == "__main__":
    main()
