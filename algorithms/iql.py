"""IQL: independent Q-learning (Tan 1993; Tampuu et al. 2017): every agent learns from the team's reward on its own."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from phalanx.algorithms.base import Capabilities
from phalanx.algorithms.common.mixers import MixingWeights
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.algorithms.vdn import UnmixedSettings
from phalanx.configs.settings import AlgorithmSettings


class Unmixed(nn.Module):
    """q: [R, N] -> [N, R]: one "team value" for each agent."""

    def forward(self, q: Tensor, state: Tensor, members: Tensor | None = None) -> tuple[Tensor, MixingWeights | None]:
        return q.t(), None


class IQL(ValueMixing):
    """Each agent's value is regressed to its own target; the loss is the mean over agents (as in PyMARL)."""

    Settings: ClassVar[type[AlgorithmSettings]] = UnmixedSettings
    capabilities: ClassVar[Capabilities] = Capabilities()

    def make_mixer(self, members: int) -> nn.Module:
        return Unmixed()

    def pessimistic(self, values: Tensor) -> Tensor:
        return values  # [N, T, B]: agents, not an ensemble
