"""Random subsets of ensembles."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def draw_members(rng: np.random.Generator, members: int, subset: int) -> Tensor | None:
    """`subset` of `members` indices, uniformly without replacement; None for all of them (nothing is drawn)."""
    if subset == members:
        return None
    return torch.from_numpy(np.sort(rng.choice(members, size=subset, replace=False)).astype(np.int64))
