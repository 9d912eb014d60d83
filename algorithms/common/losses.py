"""Losses over masked transitions."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid entries. values: [..., T, B]; mask: [T, B] bool, for all leading dimensions alike."""
    leading = values.numel() // mask.numel()
    return values.masked_fill(~mask, 0.0).sum() / (mask.sum() * leading)


def weighted_squared_error(prediction: Tensor, target: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ mask w (prediction − target)² / Σ mask, and the mean over leading dimensions (H mixers, N agents).

    prediction: [..., T, B]; target: broadcastable to it; mask: [T, B] bool; weight: broadcastable to it, or None for 1.
    """
    # Replaced before squaring, not multiplied by zero after it: a masked entry may be anything, even infinite.
    error = (prediction - target).masked_fill(~mask, 0.0).square()
    return masked_mean(error if weight is None else error * weight, mask)


def weighted_huber_error(
    prediction: Tensor, target: Tensor, mask: Tensor, delta: float, weight: Tensor | None = None
) -> Tensor:
    """As `weighted_squared_error`, with e² only up to |e| = δ, and its tangent δ (2|e| − δ) beyond (Huber 1964, twice
    the usual one, so that small errors cost what they do squared)."""
    size = (prediction - target).masked_fill(~mask, 0.0).abs()
    error = torch.where(size <= delta, size.square(), delta * (2 * size - delta))
    return masked_mean(error if weight is None else error * weight, mask)


# Shares of an episode's largest and mean error in its priority (R2D2: Kapturowski et al., ICLR 2019, section 2.3).
MOST, MEAN = 0.9, 0.1


def episode_errors(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """0.9 max + 0.1 mean of |prediction − target| over each episode's valid steps, [B]; several predictions (H mixers,
    N agents) are averaged step by step first. Shapes as in `weighted_squared_error`."""
    error = (prediction - target).abs().masked_fill(~mask, 0.0)
    error = error.reshape(-1, *mask.shape).mean(0)
    return MOST * error.amax(0) + MEAN * error.sum(0) / mask.sum(0).clamp(min=1)
