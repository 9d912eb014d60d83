"""HASAC: MASAC whose agents improve one after the other (Liu et al. 2024, ICLR, arXiv 2306.10715)."""

from __future__ import annotations

from typing import ClassVar

from phalanx.algorithms.actor_critic_settings import SequentialSettings, SequentialSoftSettings
from phalanx.algorithms.common.grouping import Grouping
from phalanx.algorithms.masac import MASAC
from phalanx.configs.settings import AlgorithmSettings


class HASAC(MASAC):
    """One actor for each agent, and one temperature for all. In a drawn order, agent i climbs
    min_c Q_c(s, a) + α H_i(o_i) where the agents before it already do what they have just learned: maximum entropy's
    heterogeneous-agent mirror learning. With `groups` the agents of a group improve together.

    The authors move a temperature for each agent and take another for the critic; the entropy of discrete policies is
    exact here, and theirs that of the sampled action.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = SequentialSoftSettings

    @staticmethod
    def grouping(settings: AlgorithmSettings) -> Grouping:
        assert isinstance(settings, SequentialSettings), settings
        return settings.groups
