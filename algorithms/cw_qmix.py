"""CW-QMIX: centrally weighted QMIX (Weighted QMIX, section 5)."""

from __future__ import annotations

from torch import Tensor

from phalanx.algorithms.value_mixing import Terms
from phalanx.algorithms.weighted_qmix import WeightedQMIX


class CWQMIX(WeightedQMIX):
    """Full weight where the joint action is the greedy one or promises more: y > Q̂*_-(s, τ, û*); α elsewhere."""

    def favoured(self, terms: Terms) -> Tensor:
        is_greedy = (terms.prepared.actions == terms.greedy[:-1]).all(-1)
        return (is_greedy | (terms.target > self.pessimistic(terms.greedy_values[:, :-1]))).expand_as(terms.q_tot)
