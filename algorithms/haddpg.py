"""HADDPG: MADDPG whose agents improve one after the other (Zhong et al. 2024, JMLR 25(32), arXiv 2304.09870)."""

from __future__ import annotations

from typing import ClassVar

from phalanx.algorithms.actor_critic_settings import SequentialDeterministicSettings, SequentialSettings
from phalanx.algorithms.common.grouping import Grouping
from phalanx.algorithms.maddpg import MADDPG
from phalanx.configs.settings import AlgorithmSettings


class HADDPG(MADDPG):
    """One actor for each agent. In an order that is drawn anew for each update, agent i climbs Q(s, a) where the agents
    before it already do what they have just learned and those after it what they did before (section 4.5): that is why
    together they never do worse. With `groups` the agents of a group, which may share parameters, improve together.

    Unlike the authors, who need continuous actions here, also for discrete ones (see `MADDPG`).
    """

    Settings: ClassVar[type[AlgorithmSettings]] = SequentialDeterministicSettings

    @staticmethod
    def grouping(settings: AlgorithmSettings) -> Grouping:
        assert isinstance(settings, SequentialSettings), settings
        return settings.groups
