"""SMAC's maps: sides, limits, and what is seen on them, so that a team is known without the game.

What is seen has StarCraft2Env's default layout (Samvelyan et al. 2019, arXiv 1902.04043; github.com/oxwhirl/smac at
d6aab33): 4 numbers on where one can go, then each enemy, each other ally, oneself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from phalanx.configs.errors import UserError
from phalanx.configs.nearest import did_you_mean
from phalanx.envs.team import Columns, EntityView, TeamSpec

UNTARGETED = 6  # actions that are aimed at nobody: no-op (only the dead, who can do nothing else), stop, four moves
MOVE_FEATURES = 4

Units = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class SmacMap:
    """Who fights whom. Units by type, allies in the order of their ids (sorted by the game's number of the type)."""

    limit: int  # steps
    races: str  # of the allies and the enemies: P, T or Z
    allies: Units
    enemies: Units
    type_bits: int = 0  # numbers that tell a unit's type; 0 where the map has one type on each side

    @property
    def n_allies(self) -> int:
        return sum(count for _, count in self.allies)

    @property
    def n_enemies(self) -> int:
        return sum(count for _, count in self.enemies)

    @property
    def n_actions(self) -> int:
        return UNTARGETED + self.n_enemies

    @property
    def seen_of_enemy(self) -> int:
        """In range, distance, relative place; health, shield where the race has one; type."""
        return 4 + 1 + (self.races[1] == "P") + self.type_bits

    @property
    def seen_of_ally(self) -> int:
        """In sight, distance, relative place; health, shield, type."""
        return 4 + 1 + (self.races[0] == "P") + self.type_bits

    @property
    def seen_of_self(self) -> int:
        """Health, shield, type."""
        return 1 + (self.races[0] == "P") + self.type_bits

    @property
    def obs_size(self) -> int:
        others = self.n_enemies * self.seen_of_enemy + (self.n_allies - 1) * self.seen_of_ally
        return MOVE_FEATURES + others + self.seen_of_self

    @property
    def state_size(self) -> int:
        """Allies (health, energy or cooldown, place, shield, type), enemies (the same but for the cooldown), and each
        ally's last action as one-hot."""
        return (
            self.n_allies * (4 + (self.races[0] == "P") + self.type_bits)
            + self.n_enemies * (3 + (self.races[1] == "P") + self.type_bits)
            + self.n_allies * self.n_actions
        )

    @property
    def ally_types(self) -> tuple[str, ...]:
        """The type of every agent."""
        return tuple(kind for kind, count in self.allies for _ in range(count))

    @property
    def group_ids(self) -> tuple[int, ...]:
        """The rank of every agent's type."""
        return tuple(rank for rank, (_, count) in enumerate(self.allies) for _ in range(count))


def _mirror(limit: int, races: str, bits: int, **units: int) -> SmacMap:
    sides = tuple(units.items())
    return SmacMap(limit, races, sides, sides, bits)


def _one_type(limit: int, races: str, allies: tuple[str, int], enemies: tuple[str, int]) -> SmacMap:
    return SmacMap(limit, races, (allies,), (enemies,))


def _marines(limit: int, allies: int, enemies: int) -> SmacMap:
    return _one_type(limit, "TT", ("marine", allies), ("marine", enemies))


_MMM = (("marauder", 2), ("marine", 7), ("medivac", 1))

MAPS: dict[str, SmacMap] = {
    "3m": _marines(60, 3, 3),
    "8m": _marines(120, 8, 8),
    "25m": _marines(150, 25, 25),
    "5m_vs_6m": _marines(70, 5, 6),
    "8m_vs_9m": _marines(120, 8, 9),
    "10m_vs_11m": _marines(150, 10, 11),
    "27m_vs_30m": _marines(180, 27, 30),
    "MMM": SmacMap(150, "TT", _MMM, (("medivac", 1), ("marauder", 2), ("marine", 7)), 3),
    "MMM2": SmacMap(180, "TT", _MMM, (("medivac", 1), ("marauder", 3), ("marine", 8)), 3),
    "2s3z": _mirror(120, "PP", 2, stalker=2, zealot=3),
    "3s5z": _mirror(150, "PP", 2, stalker=3, zealot=5),
    "3s5z_vs_3s6z": SmacMap(170, "PP", (("stalker", 3), ("zealot", 5)), (("stalker", 3), ("zealot", 6)), 2),
    "3s_vs_3z": _one_type(150, "PP", ("stalker", 3), ("zealot", 3)),
    "3s_vs_4z": _one_type(200, "PP", ("stalker", 3), ("zealot", 4)),
    "3s_vs_5z": _one_type(250, "PP", ("stalker", 3), ("zealot", 5)),
    "1c3s5z": _mirror(180, "PP", 3, colossus=1, stalker=3, zealot=5),
    "2m_vs_1z": _one_type(150, "TP", ("marine", 2), ("zealot", 1)),
    "corridor": _one_type(400, "PZ", ("zealot", 6), ("zergling", 24)),
    "6h_vs_8z": _one_type(150, "ZP", ("hydralisk", 6), ("zealot", 8)),
    "2s_vs_1sc": _one_type(300, "PZ", ("stalker", 2), ("spine crawler", 1)),
    "so_many_baneling": _one_type(100, "PZ", ("zealot", 7), ("baneling", 32)),
    "bane_vs_bane": _mirror(200, "ZZ", 2, baneling=4, zergling=20),
    "2c_vs_64zg": _one_type(400, "PZ", ("colossus", 2), ("zergling", 64)),
}
"""Every map that SMAC comes with, by name."""


def named_map(name: str) -> SmacMap:
    """The map of that name; a UserError names the known ones and the nearest."""
    if name in MAPS:
        return MAPS[name]
    raise UserError(
        f"env.scenario={name} is not a map of SMAC: choose among {', '.join(MAPS)}{did_you_mean(name, MAPS)}"
    )


def entity_view(where: SmacMap) -> EntityView:
    """Who is who in an ally's observation.

    Action 6 + j is an attack on enemy j for everybody but a medivac, whose action 6 + j heals ally j: networks that
    read this view take it for an action on enemy j there, too, and must learn the rest from the agent's own numbers.
    """
    enemies = _blocks(MOVE_FEATURES, where.n_enemies, where.seen_of_enemy)
    allies = _blocks(enemies[-1][-1] + 1, where.n_allies - 1, where.seen_of_ally)
    own = (*range(MOVE_FEATURES), *range(where.obs_size - where.seen_of_self, where.obs_size))
    return EntityView(own=own, allies=allies, enemies=enemies, enemy_actions=tuple(range(UNTARGETED, where.n_actions)))


def _blocks(start: int, count: int, width: int) -> tuple[Columns, ...]:
    return tuple(tuple(range(start + k * width, start + (k + 1) * width)) for k in range(count))


def team_spec(where: SmacMap, limit: int, versions: Mapping[str, str]) -> TeamSpec:
    """The allies as a team. Groups are the types of units. Battles depend on the game's own random numbers, which
    are seeded when it is started, not in each episode: they are not reproducible."""
    n = where.n_allies
    return TeamSpec(
        env_name="smac",
        n_agents=n,
        obs_dim=where.obs_size,
        state_dim=where.state_size,
        n_actions=where.n_actions,
        episode_limit=limit,
        agent_names=tuple(f"{kind}_{i}" for kind, count in where.allies for i in range(count)),
        obs_dims=(where.obs_size,) * n,
        action_dims=(where.n_actions,) * n,
        group_ids=where.group_ids,
        group_names=tuple(kind for kind, _ in where.allies),
        has_win=True,
        metrics=("dead_allies", "dead_enemies"),
        reproducible=False,
        versions=versions,
        entities=entity_view(where),
    )
