"""TD3-QMIX: two mixers over one agent network, a baseline of the DEMAR paper (arXiv 2502.02018).

The pair of critics is that of TD3 (Fujimoto et al. 2018) and MATD3 (Ackermann et al. 2019).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from phalanx.algorithms.value_mixing import EnsembleSettings, ValueMixing, ValueMixingSettings
from phalanx.configs.settings import AlgorithmSettings


class PairSettings(EnsembleSettings):
    mixers: int = Field(default=2, ge=2, description="H, mixing networks: a pair, or more")


class TD3QMIXSettings(ValueMixingSettings):
    ensemble: PairSettings = Field(default=PairSettings(), description="how many networks, and the minimum")


class TD3QMIX(ValueMixing):
    """y = r + γ (1 - term) min_h M_h^-(…; s'), to which both mixers are regressed: the core with two mixers. Of TD3 it
    has neither the delayed updates nor the smoothing of the target."""

    Settings: ClassVar[type[AlgorithmSettings]] = TD3QMIXSettings
