"""Linear layers, K of them side by side."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: [R, I], the same for all members, or [K, R, I]; weight: [K, O, I], bias: [K, O]. Returns [K, R, O]."""
    if weight.shape[0] == 1:  # one member: a plain product, without the overhead of a batched one
        # squeeze, not an index, whose backward pass would write zeros around the gradient
        flat = x if x.dim() == 2 else x.squeeze(0)
        return torch.addmm(bias.squeeze(0), flat, weight.squeeze(0).t()).unsqueeze(0)
    return torch.baddbmm(bias.unsqueeze(1), x.expand(weight.shape[0], -1, -1), weight.transpose(1, 2))


def product(a: Tensor, b: Tensor) -> Tensor:
    """a: [K, R, S], b: [K, S, O]. Returns [K, R, O]."""
    return torch.mm(a[0], b[0]).unsqueeze(0) if a.shape[0] == 1 else torch.bmm(a, b)


def selected(parameter: Tensor, members: Tensor | None) -> Tensor:
    """The rows `members` of a stacked parameter; all of them for None."""
    return parameter if members is None else parameter.index_select(0, members)


class StackedLinear(nn.Module):
    """K linear layers with the same shape: weight [K, out, in], bias [K, out], initialised as torch does."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """x: [R, in], the same for all members, or [K, R, in]. Returns [K, R, out]; `members` (indices) selects."""
        return affine(x, selected(self.weight, members), selected(self.bias, members))
