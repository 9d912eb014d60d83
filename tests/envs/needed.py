"""What some environments need before they can be built in a test."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from phalanx.configs.errors import UserError
from phalanx.envs.smac_install import require_game

SETTINGS: dict[str, dict[str, Any]] = {
    "pettingzoo": {"module": "mpe2.simple_spread_v3"},
    "gymnasium": {"id": "tests.envs.toys_gymnasium:PhalanxAsTuple-v0", "max_steps": 4},
    "rllib": {"module": "tests.envs.toys_rllib:Together", "max_steps": 4},
    "vmas": {"kwargs": {"n_agents": 3}},
    "sleepy": {"wait_ms": 0.0},
}
"""Settings without a default, by the environment's name."""

LIBRARIES = {"mamujoco": "gymnasium_robotics", "vmas": "vmas", "smax": "jaxmarl", "smac": "smac"}
"""What is not installed with phalanx itself."""


def skip_without_library(name: str) -> None:
    """Skips the test where the environment's library is not installed."""
    library = LIBRARIES.get(name)
    if library is not None and find_spec(library) is None:  # not imported: simulators set themselves up before that
        pytest.skip(f"{library} is not installed")
    if name == "smac":
        try:
            require_game("3m", None)
        except UserError as error:
            pytest.skip(str(error))
