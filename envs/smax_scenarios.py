"""What SMAX fights about: units, scenarios, episode limits, what is seen, how a battle ends. No simulator in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from phalanx.configs.errors import UserError
from phalanx.configs.nearest import did_you_mean
from phalanx.envs.smac_maps import MAPS
from phalanx.envs.team import Bools, Columns, EntityView, Floats, Ints, TeamSpec

UNIT_TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
"""The simulator's units; a unit's number is its place here."""

MOVES = 5  # actions that are aimed at nobody: four directions, stop
OTHER_FEATURES = 7 + len(UNIT_TYPES)  # numbers that an agent sees of another unit
OWN_FEATURES = 4 + len(UNIT_TYPES)  # and of itself; the state has as many of each unit, and its team and type
MAP_SIZE = 32.0  # the map's edge, in the simulator's units of length
PERFECT = {"smax": 2.0, "smac": 20.0}
"""Return of a won battle by reward scale: the simulator pays 1 for all of the enemy's health and 1 for the victory."""

OWN_LIMIT = 150  # steps, of scenarios that are in no table; what most of SMAC's own have
NOT_IN_SMAX = {
    "MMM": "medivacs",
    "MMM2": "medivacs",
    "1c3s5z": "colossi",
    "2c_vs_64zg": "colossi",
    "bane_vs_bane": "banelings",
    "so_many_baneling": "banelings",
    "2s_vs_1sc": "spine crawlers",
    "corridor": "terrain",
}
"""Maps of SMAC that cannot be had, and for want of what."""


@dataclass(frozen=True)
class Scenario:
    """Who fights whom. Numbers of units by type, in the order in which agents are numbered; or, where `random`, only
    how many on each side (of `marine`, which stands for any): types and places are drawn in each episode."""

    allies: tuple[tuple[str, int], ...]
    enemies: tuple[tuple[str, int], ...]
    limit: int = OWN_LIMIT
    random: bool = False

    @property
    def n_allies(self) -> int:
        return sum(count for _, count in self.allies)

    @property
    def n_enemies(self) -> int:
        return sum(count for _, count in self.enemies)

    @property
    def unit_types(self) -> tuple[int, ...]:
        """The number of every unit's type, allies first."""
        sides = chain(self.allies, self.enemies)
        return tuple(UNIT_TYPES.index(kind) for kind, count in sides for _ in range(count))


def _of_smac(name: str) -> Scenario:
    where = MAPS[name]
    return Scenario(where.allies, where.enemies, where.limit)


def _random(units: int) -> Scenario:
    side = (("marine", units),)
    return Scenario(side, side, limit=200, random=True)


_MAPS = "3m 8m 25m 5m_vs_6m 10m_vs_11m 27m_vs_30m 2s3z 3s5z 3s5z_vs_3s6z 3s_vs_5z 6h_vs_8z"
SCENARIOS: dict[str, Scenario] = {
    **{name: _of_smac(name) for name in _MAPS.split()},
    **{f"smacv2_{units}_units": _random(units) for units in (5, 10, 20)},
}
"""All that the simulator has: maps of SMAC, with its units and limits, and three of SMACv2's kind (limit: 200)."""


def named_scenario(name: str) -> Scenario:
    """The scenario of that name; a UserError names the known ones, the nearest, or what the map lacks."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    if name in NOT_IN_SMAX:
        raise UserError(
            f"env.scenario={name}: SMAX has no {NOT_IN_SMAX[name]}, so it cannot play this map of SMAC; choose among"
            f" {', '.join(SCENARIOS)}, or list units of your own"
        )
    raise UserError(
        f"env.scenario={name} is not a scenario of SMAX: choose among {', '.join(SCENARIOS)}, or list units, as in"
        f" {{allies: {{stalker: 3, zealot: 5}}, enemies: {{marine: 8}}}}{did_you_mean(name, SCENARIOS)}"
    )


def listed_scenario(sides: Mapping[str, Any]) -> Scenario:
    """A scenario of one's own from {allies: {type: number, …}, enemies: {…}}. A UserError names what is wrong in it."""
    if set(sides) != {"allies", "enemies"}:
        raise UserError(
            f"env.scenario has the keys {', '.join(map(str, sides)) or 'none'}: it must be a name, or units of both"
            " sides, as in {allies: {stalker: 3, zealot: 5}, enemies: {marine: 8}}"
        )
    return Scenario(_listed_side("allies", sides["allies"]), _listed_side("enemies", sides["enemies"]))


def _listed_side(key: str, units: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(units, Mapping) or not units:
        raise UserError(f"env.scenario.{key}={units} lists no unit: write, for example, {{marine: 3}}")
    for kind, count in units.items():
        if kind not in UNIT_TYPES:
            raise UserError(
                f"env.scenario.{key}: there is no unit {kind} in SMAX; choose among {', '.join(UNIT_TYPES)}"
                f"{did_you_mean(str(kind), UNIT_TYPES)}"
            )
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UserError(f"env.scenario.{key}.{kind}={count} must be a whole number from 1 on")
    return tuple(units.items())


class Sizes(NamedTuple):
    """How many numbers."""

    obs: int
    state: int
    actions: int

    @classmethod
    def of(cls, n_allies: int, n_enemies: int) -> Sizes:
        return cls(
            obs=(n_allies - 1 + n_enemies) * OTHER_FEATURES + OWN_FEATURES,
            state=(n_allies + n_enemies) * (OWN_FEATURES + 2),
            actions=MOVES + n_enemies,
        )


def entity_view(n_allies: int, n_enemies: int) -> EntityView:
    """Who is who in an ally's observation: the other allies in ascending order, the enemies, then itself."""
    others = [
        tuple(range(start, start + OTHER_FEATURES))
        for start in range(0, (n_allies - 1 + n_enemies) * OTHER_FEATURES, OTHER_FEATURES)
    ]
    own: Columns = tuple(range(len(others) * OTHER_FEATURES, len(others) * OTHER_FEATURES + OWN_FEATURES))
    return EntityView(
        own=own,
        allies=tuple(others[: n_allies - 1]),
        enemies=tuple(others[n_allies - 1 :]),
        enemy_actions=tuple(range(MOVES, MOVES + n_enemies)),
    )


def team_spec(scenario: Scenario, limit: int, versions: Mapping[str, str]) -> TeamSpec:
    """The allies as a team. Groups are the types of units. In random scenarios they are those of an episode, which the
    last numbers of each agent's observation tell."""
    n, m = scenario.n_allies, scenario.n_enemies
    groups = {} if scenario.random else {kind: rank for rank, (kind, _) in enumerate(scenario.allies)}
    allies = (("unit", n),) if scenario.random else scenario.allies
    sizes = Sizes.of(n, m)
    return TeamSpec(
        env_name="smax",
        n_agents=n,
        obs_dim=sizes.obs,
        state_dim=sizes.state,
        n_actions=sizes.actions,
        episode_limit=limit,
        agent_names=tuple(f"{kind}_{i}" for kind, count in allies for i in range(count)),
        obs_dims=(sizes.obs,) * n,
        action_dims=(sizes.actions,) * n,
        group_ids=tuple(groups[kind] for kind, count in allies for _ in range(count)) if groups else (),
        group_names=UNIT_TYPES if scenario.random else tuple(groups),
        groups_vary=scenario.random,
        kind_columns=tuple(range(sizes.obs - len(UNIT_TYPES), sizes.obs)) if scenario.random else (),
        has_win=True,
        metrics=("dead_allies", "dead_enemies"),
        versions=versions,
        entities=entity_view(n, m),
    )


@dataclass(frozen=True)
class Outcome:
    """What one step did to E battles, [E] each."""

    terminated: Bools  # one side, or both, has nobody left
    truncated: Bools  # the time limit was reached before that
    win: Bools  # nobody left on the other side, somebody on ours: both dead is a draw
    dead_allies: Ints  # in this step
    dead_enemies: Ints


def outcome(before: Ints, after: Ints, elapsed: Ints, limit: int) -> Outcome:
    """Reads a step from how many lived on either side before and after it ([E, 2], ours first).

    No new battle has begun yet. `elapsed` [E] counts steps, this one included.
    """
    fell = before - after
    living = after > 0
    terminated: Bools = np.logical_not(living[:, 0] & living[:, 1])
    return Outcome(
        terminated=terminated,
        truncated=(elapsed >= limit) & ~terminated,
        win=living[:, 0] & terminated,
        dead_allies=fell[:, 0],
        dead_enemies=fell[:, 1],
    )


def scaled(reward: Floats, scale: str) -> Floats:
    """The simulator's reward [E] on the scale `smax` or `smac` (see `PERFECT`)."""
    return reward * np.float32(PERFECT[scale] / PERFECT["smax"])


def state_scales(scenario: Scenario) -> Floats:
    """[S] What to multiply the simulator's state with, so that places and types lie between 0 and 1, too."""
    units = scenario.n_allies + scenario.n_enemies
    each = np.ones(OWN_FEATURES, np.float32)
    each[1:3] = 1 / MAP_SIZE  # places; health comes before, cooldown and type bits behind
    types = np.full(units, 1 / (len(UNIT_TYPES) - 1), np.float32)
    return np.concatenate([np.tile(each, units), np.ones(units, np.float32), types])
