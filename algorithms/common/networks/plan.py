"""What a stack of agent networks is built from."""

from __future__ import annotations

from dataclasses import dataclass

from phalanx.algorithms.common.networks.entities import EntityLayout
from phalanx.algorithms.common.networks.view import AgentView
from phalanx.configs.settings import AgentSettings


@dataclass(frozen=True)
class Initialisation:
    """How layers begin; generated ones (HyperMARL) are orthogonal in any case, with the same gains."""

    orthogonal: bool = False  # weights orthogonal, with gain √2 before a ReLU, biases zero; otherwise torch's default
    final_gain: float = 1.0  # of the last layer, where it is orthogonal


VALUES = Initialisation()
"""Q networks, as in PyMARL; values are of the size of returns, so a generated last layer has gain 1."""

ACTOR = Initialisation(orthogonal=True, final_gain=0.01)
"""Policies: every action nearly equally likely, or near the middle, at first (MAPPO, HARL, HyperMARL)."""

CRITIC = Initialisation(orthogonal=True, final_gain=1.0)
"""V networks beside such policies."""


@dataclass(frozen=True)
class Plan:
    """K = `members` networks, each of which maps `inputs` numbers of a row to `outputs`."""

    members: int
    inputs: int
    outputs: int
    agent: AgentSettings
    view: AgentView | None = None  # None: one parameter set for all rows, which are seen whole
    layout: EntityLayout | None = None  # for networks that look at entities
    initialisation: Initialisation = VALUES

    @property
    def entities(self) -> EntityLayout:
        """The layout, where the network cannot do without."""
        if self.layout is None:
            raise ValueError(f"agent.network={self.agent.network} needs an entity layout")
        return self.layout
