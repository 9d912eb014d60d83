"""Returns of any size for critics that predict numbers of size one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phalanx.algorithms.common.losses import masked_mean

DECAY = 0.999
"""Weight of the past in each update's running means."""
LEAST_VARIANCE = 1e-2
"""Returns that hardly differ are not blown up."""


class ValueNorm(nn.Module):
    """Running mean and variance of returns; a critic's output v stands for the value mean + deviation · v.

    The statistics are those of PopArt (van Hasselt et al. 2016) with the bias of their beginning taken out (as in
    MAPPO, Yu et al. 2022). The critic's last layer is not rescaled when they move, as PopArt does: layers may be
    generated (HyperMARL), and the statistics move slowly. Kept in double precision, part of `state_dict()`.
    """

    mean: Tensor
    mean_square: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "mean_square", "weight"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, returns: Tensor, mask: Tensor) -> None:
        """Takes in one update's returns [T, B, N]; mask: [T, B] bool."""
        values = returns.movedim(-1, 0).double()
        self.mean.lerp_(masked_mean(values, mask), 1 - DECAY)
        self.mean_square.lerp_(masked_mean(values.square(), mask), 1 - DECAY)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - DECAY)

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, double precision; 0 and 1 before the first update."""
        weight = torch.where(self.weight > 0, self.weight, torch.ones_like(self.weight))
        mean = self.mean / weight
        variance = (self.mean_square / weight - mean.square()).clamp(min=LEAST_VARIANCE)
        return mean, torch.where(self.weight > 0, variance.sqrt(), torch.ones_like(variance))

    def normalise(self, returns: Tensor) -> Tensor:
        """What the critic is to say for these returns, in their precision."""
        mean, deviation = self.scale()
        return (returns - mean.to(returns.dtype)) / deviation.to(returns.dtype)

    def denormalise(self, outputs: Tensor) -> Tensor:
        """The values that the critic's outputs stand for."""
        mean, deviation = self.scale()
        return outputs * deviation.to(outputs.dtype) + mean.to(outputs.dtype)
