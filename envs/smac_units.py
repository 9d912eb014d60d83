"""The units of a game for its pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from phalanx.envs.drawing_battle import Units
from phalanx.envs.smac_maps import UNTARGETED, SmacMap

NAMES = (
    "marine",
    "marauder",
    "medivac",
    "zealot",
    "stalker",
    "colossus",
    "zergling",
    "baneling",
    "hydralisk",
    "spine crawler",
)
ENEMY_TYPES = {48: 0, 51: 1, 54: 2, 73: 3, 74: 4, 4: 5, 105: 6, 9: 7, 107: 8, 98: 9}
"""The game's numbers of the types, as places in NAMES. The allies are copies with numbers of the map's own."""


def units_of(env: Any, where: SmacMap) -> Units:
    """What a StarCraft2Env holds of its units: the dead as they were seen last."""
    allies = [env.agents[i] for i in sorted(env.agents)]
    enemies = [env.enemies[j] for j in sorted(env.enemies)]
    both = [*allies, *enemies]
    other = NAMES.index(where.enemies[0][0])
    kinds = [NAMES.index(kind) for kind in where.ally_types]
    kinds += [ENEMY_TYPES.get(int(unit.unit_type), other) for unit in enemies]
    health = np.array([unit.health / unit.health_max for unit in both])
    return Units(
        places=np.array([(unit.pos.x, unit.pos.y) for unit in both]),
        health=health,
        enemy=np.arange(len(both)) >= len(allies),
        kinds=np.array(kinds),
        alive=health > 0,
        radii=np.array([unit.radius for unit in both]),
        names=NAMES,
        size=(float(env.map_x), float(env.map_y)),
        shield=np.array([unit.shield / unit.shield_max if unit.shield_max > 0 else 0.0 for unit in both]),
        target=np.array([*_targets(env, where), *[-1] * len(enemies)]),
    )


def _targets(env: Any, where: SmacMap) -> list[int]:
    """Whom each ally's last action was aimed at: action 6 + j at enemy j, a medivac's at ally j; -1: at nobody."""
    aims = np.asarray(env.last_action)[:, UNTARGETED:]
    return [
        int(aim.argmax()) + (0 if kind == "medivac" else where.n_allies) if aim.any() else -1
        for aim, kind in zip(aims, where.ally_types, strict=True)
    ]
