"""HAA2C: sequential updates by plain policy gradients (Zhong et al. 2024, arXiv 2304.09870)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from phalanx.algorithms.happo import HAPPO
from phalanx.algorithms.on_policy_settings import GroupedSettings
from phalanx.configs.settings import AlgorithmSettings


class HAA2C(HAPPO):
    """HAPPO without clipping: π_θ / π · M · A, whose gradient in the first epoch is advantage actor-critic's."""

    Settings: ClassVar[type[AlgorithmSettings]] = GroupedSettings

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return ratio * advantage
