"""Target networks: copies that are never trained, and how they follow."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


def frozen_copy(module: _Module) -> _Module:
    """A target network: the same values, never trained."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def approach(pairs: Iterable[tuple[nn.Module, nn.Module]], tau: float) -> None:
    """target ← target + τ (trained − target), for each (trained, target)."""
    trained: list[Tensor] = []
    targets: list[Tensor] = []
    for module, target in pairs:
        trained += module.parameters()
        targets += target.parameters()
    if targets:
        torch._foreach_lerp_(targets, trained, tau)
