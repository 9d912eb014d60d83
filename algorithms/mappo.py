"""MAPPO: PPO with a critic that sees the global state (Yu et al. 2022, arXiv 2103.01955)."""

from __future__ import annotations

from typing import ClassVar

from phalanx.algorithms.base import Capabilities
from phalanx.algorithms.ippo import IPPO


class MAPPO(IPPO):
    """IPPO whose critic is V(s), one value for the team; with `rewards=agents`, V(s, i) of each agent."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=True,
        on_policy=True,
        needs_state=True,
        state_use="has a critic that sees the global state",
        errors=False,
    )
    central_critic: ClassVar[bool] = True
