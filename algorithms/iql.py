"""IQL: independent Q-learning (Tan 1993; Tampuu et al. 2017): every agent learns from the team's reward on its own."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from phalanx.algorithms.base import Capabilities
from phalanx.algorithms.common.mixers import Mixer, MixingWeights
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.algorithms.vdn import UnmixedSettings
from phalanx.configs.settings import AlgorithmSettings


class Unmixed(Mixer):
    """q: [R, N] -> [N, R]: one "team value" for each agent."""

    def mix(self, q: Tensor, weights: MixingWeights | None) -> Tensor:
        return q.t()


class IQL(ValueMixing):
    """Each agent's value is regressed to its own target; the loss is the mean over agents (as in PyMARL)."""

    Settings: ClassVar[type[AlgorithmSettings]] = UnmixedSettings
    capabilities: ClassVar[Capabilities] = Capabilities(input_noise=True)

    def make_mixer(self, members: int) -> Mixer:
        return Unmixed()

    def pessimistic(self, values: Tensor) -> Tensor:
        return values  # [N, T, B]: agents, not an ensemble
