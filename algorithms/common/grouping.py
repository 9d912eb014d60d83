"""Which agents share a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from phalanx.configs.errors import UserError
from phalanx.envs.team import TeamSpec

Grouping = Literal["spec", "none", "all", "random"] | list[list[int]]
"""`spec`: the environment's groups; `none`: every agent alone (NoPS); `all`: one group (FuPS); `random`: groups as many
and as large as the environment's, with members that are drawn; or the groups themselves, as lists of agents."""

KEY = "algorithm.groups"


def resolve_groups(spec: TeamSpec, setting: Grouping, seed: int = 0) -> list[list[int]]:
    """Groups of agents 0 … N−1 (each in one of them), agents ascending. `seed` decides random groups alone.

    Random groups are never the environment's: a study compares the two. UserError, naming `algorithm.groups`, where
    lists leave agents out, name them twice or name others, and where there is nothing to draw.
    """
    agents = list(range(spec.n_agents))
    if isinstance(setting, list):
        return _checked(spec, setting)
    if setting == "none":
        return [[agent] for agent in agents]
    if setting == "all":
        return [agents]
    groups = _of_environment(spec, setting)
    return groups if setting == "spec" else _random(spec, groups, seed)


def _of_environment(spec: TeamSpec, setting: str) -> list[list[int]]:
    ids = spec.groups(f"{KEY}={setting}")
    return [[agent for agent, group in enumerate(ids) if group == wanted] for wanted in sorted(set(ids))]


def _random(spec: TeamSpec, groups: list[list[int]], seed: int) -> list[list[int]]:
    sizes = [len(group) for group in groups]
    if len(groups) == 1 or max(sizes) == 1:
        what = "one group" if len(groups) == 1 else "groups of one agent each"
        raise UserError(
            f"{KEY}=random draws as many groups of the same sizes as the environment has, but {spec.env_name} has"
            f" {what}, so that there is nothing to draw: give the groups, such as {KEY}={_example(spec)}, or choose an"
            " environment with unequal agents"
        )
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(spec.n_agents)
        drawn = [sorted(int(agent) for agent in part) for part in np.split(order, np.cumsum(sizes)[:-1])]
        if {tuple(group) for group in drawn} != {tuple(group) for group in groups}:
            return drawn


def _checked(spec: TeamSpec, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    n = spec.n_agents
    named = Counter(agent for group in groups for agent in group)
    outside = sorted(agent for agent in named if not 0 <= agent < n)
    twice = sorted(agent for agent, times in named.items() if times > 1)
    missing = [agent for agent in range(n) if agent not in named]
    if outside:
        wrong = f"names {_agents(outside)}"
    elif twice:
        wrong = f"names {_agents(twice)} more than once"
    elif missing:
        wrong = f"leaves out {_agents(missing)}"
    elif not all(groups):
        wrong = "has an empty group"
    else:
        return [sorted(group) for group in groups]
    raise UserError(
        f"{KEY}={[list(group) for group in groups]} {wrong}: every agent of {spec.env_name}, 0 to {n - 1}, must be in"
        f" one of the groups, as in {KEY}={_example(spec)}; or choose spec, none, all or random"
    )


def _agents(agents: list[int]) -> str:
    return f"agent{'s' if len(agents) > 1 else ''} {', '.join(map(str, agents))}"


def _example(spec: TeamSpec) -> str:
    agents = list(range(spec.n_agents))
    half = max(1, spec.n_agents // 2)
    return str([group for group in (agents[:half], agents[half:]) if group]).replace(" ", "")
