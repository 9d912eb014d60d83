"""Losses over masked transitions."""

from __future__ import annotations

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid entries. values: [..., T, B]; mask: [T, B] bool, for all leading dimensions alike."""
    leading = values.numel() // mask.numel()
    return values.masked_fill(~mask, 0.0).sum() / (mask.sum() * leading)


def weighted_squared_error(prediction: Tensor, target: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ mask w (prediction − target)² / Σ mask, and the mean over leading dimensions (H mixers, N agents).

    prediction: [..., T, B]; target: broadcastable to it; mask: [T, B] bool; weight: like prediction, or None for 1.
    """
    # Replaced before squaring, not multiplied by zero after it: a masked entry may be anything, even infinite.
    error = (prediction - target).masked_fill(~mask, 0.0).square()
    return masked_mean(error if weight is None else error * weight, mask)
