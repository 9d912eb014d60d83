"""SM2-QMIX: soft mellowmax for each agent's next value (Gan et al., AAAI 2021, arXiv 2012.09456)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from phalanx.algorithms.value_mixing import ValueMixing, ValueMixingSettings
from phalanx.configs.settings import AlgorithmSettings


class SM2Settings(ValueMixingSettings):
    double_q: Literal[False] = Field(default=False, description="never: no single next action is chosen")
    sm2_alpha: float = Field(default=1.0, ge=0, description="α, how much the softmax prefers large values")
    sm2_omega: float = Field(default=0.5, gt=0, description="ω, between the mean so weighted (0) and the maximum (∞)")


class SM2QMIX(ValueMixing):
    """max_a Q_i(a) becomes sm2(Q_i) = (1/ω) log Σ_a softmax_a(α Q_i(a)) exp(ω Q_i(a)) over the available actions.

    The authors' code takes the exponentials as they stand, which overflow; this is the same function by two
    log-sum-exps. An action that is not available has no share in either, theirs (-9999999) or ours.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = SM2Settings
    settings: SM2Settings

    def greedy_agent_values(self, masked: Tensor, greedy: Tensor) -> Tensor:
        return soft_mellowmax(masked, self.settings.sm2_alpha, self.settings.sm2_omega)


def soft_mellowmax(values: Tensor, alpha: float, omega: float) -> Tensor:
    """values: [..., A]. Returns [...], between the mean and the maximum."""
    largest = values.amax(-1, keepdim=True)
    below = values - largest  # what is subtracted keeps both sums between 1 and A, and the result exact
    both = torch.logsumexp((alpha + omega) * below, -1) - torch.logsumexp(alpha * below, -1)
    return largest.squeeze(-1) + both / omega
