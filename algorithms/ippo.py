"""IPPO: every agent learns by PPO from what it sees itself (de Witt et al. 2020, arXiv 2011.09533)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from phalanx.algorithms.base import Capabilities
from phalanx.algorithms.on_policy import OnPolicy
from phalanx.algorithms.on_policy_settings import ClippedSettings
from phalanx.configs.settings import AlgorithmSettings


class IPPO(OnPolicy):
    """PPO's clipped objective (Schulman et al. 2017, equation 7) for each agent, with values V(o_i) of its own
    observations; who shares parameters is `agent.sharing`'s matter, for the critic as for the policies."""

    Settings: ClassVar[type[AlgorithmSettings]] = ClippedSettings
    capabilities: ClassVar[Capabilities] = Capabilities(continuous=True, on_policy=True, errors=False)

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        assert isinstance(self.settings, ClippedSettings)
        clip = self.settings.clip
        return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
