"""OW-QMIX: optimistically weighted QMIX (Weighted QMIX, Eq. 7 of section 5)."""

from __future__ import annotations

from torch import Tensor

from phalanx.algorithms.value_mixing import Terms
from phalanx.algorithms.weighted_qmix import WeightedQMIX


class OWQMIX(WeightedQMIX):
    """Full weight where Q_tot underestimates the target, α elsewhere."""

    def favoured(self, terms: Terms) -> Tensor:
        return terms.q_tot.detach() < terms.target
