"""Where the units of an SMAX battle are, for pictures. No simulator in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.envs.drawing_battle import Units
from phalanx.envs.smax_scenarios import MAP_SIZE, MOVES, UNIT_TYPES

# The simulator's, in the order of `UNIT_TYPES`.
RADII = np.array([0.375, 0.5625, 0.625, 0.5, 0.375, 0.625])
HEALTH = np.array([45.0, 125.0, 160.0, 150.0, 35.0, 80.0])
SIZE = MAP_SIZE  # of the map, which is square


def units_of(battles: Mapping[str, npt.NDArray[Any]], index: int, n_allies: int) -> Units:
    """The units of battle `index`, from what `Simulator.units` gives."""
    found = {name: values[index] for name, values in battles.items()}
    kinds = found["types"].astype(np.int64)
    enemy = np.arange(len(kinds)) >= n_allies
    # An action of MOVES or more is aimed at an opponent; enemies count the allies from the last one.
    aimed = found["attacks"].astype(np.int64) - MOVES
    target = np.where(enemy, n_allies - 1 - aimed, n_allies + aimed)
    return Units(
        places=found["positions"].astype(np.float64),
        health=found["health"] / HEALTH[kinds],
        enemy=enemy,
        kinds=kinds,
        alive=found["alive"].astype(np.bool_),
        radii=RADII[kinds],
        names=UNIT_TYPES,
        size=(SIZE, SIZE),
        target=np.where(aimed >= 0, target, -1),
    )
