"""Noise inside the networks: DEMAR's noisy SMAC (Gu et al. 2025, arXiv 2502.02018, as its authors' code has it)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def noisy(values: Tensor, scale: float, rng: np.random.Generator) -> Tensor:
    """`values` plus independent uniform numbers from [0, `scale`): one-sided, so the mean rises by scale / 2.

    What is given is not written to; without noise it is returned as it is, and nothing is drawn. The numbers come from
    `rng` (the stream's where a team plays, the learner's where it learns), never from torch's global generator, so
    that sync runs stay exact.
    """
    if scale == 0:
        return values
    drawn = torch.from_numpy(rng.random(values.shape, np.float32))
    return values + scale * drawn.to(values)
