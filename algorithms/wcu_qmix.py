"""WCU-QMIX: weighted critic update (Sarkar and Kalita) on two mixers, as in the DEMAR paper's baselines."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from phalanx.algorithms.td3_qmix import TD3QMIX, TD3QMIXSettings
from phalanx.algorithms.value_mixing import Terms
from phalanx.configs.settings import AlgorithmSettings


class WCUQMIXSettings(TD3QMIXSettings):
    phi: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="φ, share of a mixer's own value in what is drawn to the target; the rest is the other's",
    )


class WCUQMIX(TD3QMIX):
    """The target of TD3-QMIX; the error of mixer h is φ Q_h + (1 - φ) sg(Q_other) - y, so that neither runs away.

    With more than two mixers "the other" is the mean of all others. The form is that of DEMAR's authors, who say in
    their code that it differs from the paper of the method.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = WCUQMIXSettings
    settings: WCUQMIXSettings

    def prediction(self, terms: Terms) -> Tensor:
        q_tot, phi = terms.q_tot, self.settings.phi
        constant = q_tot.detach()
        others = (constant.sum(0) - constant) / (q_tot.shape[0] - 1)
        return phi * q_tot + (1 - phi) * others
