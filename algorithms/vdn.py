"""VDN: value decomposition networks (Sunehag et al. 2018, arXiv 1706.05296): Q_tot is the sum of the agents' values."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator
from torch import Tensor

from phalanx.algorithms.base import Capabilities
from phalanx.algorithms.common.mixers import Mixer, MixingWeights
from phalanx.algorithms.value_mixing import ValueMixing, ValueMixingSettings
from phalanx.configs.settings import AlgorithmSettings


class UnmixedSettings(ValueMixingSettings):
    """For methods whose mixer has no parameters: there is nothing to ensemble or to regularise in it."""

    @model_validator(mode="after")
    def _no_hypernetwork(self) -> UnmixedSettings:
        if self.ensemble.mixers != 1 or self.regulariser.alpha != 0:
            raise ValueError(
                f"{self.name} has no mixing network: ensemble.mixers={self.ensemble.mixers} and"
                f" regulariser.alpha={self.regulariser.alpha} need one; leave them at 1 and 0, or choose demar or qmix"
            )
        if self.adaptive.enabled:
            raise ValueError(
                f"{self.name} has no mixing network, which adaptive.enabled=true would regularise: leave it false, or"
                " choose demar or qmix"
            )
        return self


class Sum(Mixer):
    """q: [R, N] -> [1, R]."""

    def mix(self, q: Tensor, weights: MixingWeights | None) -> Tensor:
        return q.sum(-1).unsqueeze(0)


class VDN(ValueMixing):
    """The value-mixing core with a sum for a mixer, which needs no state."""

    Settings: ClassVar[type[AlgorithmSettings]] = UnmixedSettings
    capabilities: ClassVar[Capabilities] = Capabilities(input_noise=True)

    def make_mixer(self, members: int) -> Mixer:
        return Sum()
