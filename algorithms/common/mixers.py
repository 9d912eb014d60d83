"""Mixing networks: from the agents' values to the team's, H of them side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from phalanx.algorithms.common.linear import StackedLinear


@dataclass
class MixingWeights:
    """What the hypernetworks generated. R rows (time steps of episodes)."""

    first: Tensor  # [H, R, N, E], not negative
    bias: Tensor  # [H, R, E]
    last: Tensor  # [H, R, E], not negative
    value: Tensor  # [H, R]

    def l1(self) -> Tensor:
        """[H, R]: sum of the absolute values of everything generated (DEMAR, the regulariser's summand)."""
        first, last = self.first.sum((-2, -1)), self.last.sum(-1)  # these are absolute values already
        return first + last + self.bias.abs().sum(-1) + self.value.abs()


class Mixer(nn.Module, ABC):
    """From the agents' values to the team's, in two steps: what the state alone decides, and the mixing."""

    def generate(self, state: Tensor, members: Tensor | None = None) -> MixingWeights | None:
        """Weights of the chosen `members` (indices; None: all) for state [R, S]; None where the mixing has none."""
        return None

    @abstractmethod
    def mix(self, q: Tensor, weights: MixingWeights | None) -> Tensor:
        """q: [R, N]. Returns the team's value [H, R]."""

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q: [R, N], state: [R, S]. Returns the team's value [H, R]."""
        return self.mix(q, self.generate(state))


class QMixer(Mixer):
    """QMIX (Rashid et al. 2018): Q_tot = ELU(q W1(s) + b1(s)) · w2(s) + V(s) with |W1|, |w2| from two-layer
    hypernetworks, hence monotone in every agent's value.

    All first layers read the state: they are one product. Rows of `state_layers`: hypernetwork of W1, hypernetwork
    of w2, b1, first layer of V.
    """

    def __init__(self, members: int, agents: int, state: int, embed: int, hypernet: int) -> None:
        super().__init__()
        self.agents, self.embed = agents, embed
        self.splits = [hypernet, hypernet, embed, embed]
        self.state_layers = StackedLinear(members, state, sum(self.splits))
        self.hyper_first = StackedLinear(members, hypernet, agents * embed)
        self.hyper_last = StackedLinear(members, hypernet, embed)
        self.value = StackedLinear(members, embed, 1)

    def generate(self, state: Tensor, members: Tensor | None = None) -> MixingWeights:
        to_first, to_last, bias, to_value = self.state_layers(state, members).split(self.splits, dim=-1)
        first = self.hyper_first(to_first.relu(), members).abs().unflatten(-1, (self.agents, self.embed))
        last = self.hyper_last(to_last.relu(), members).abs()
        return MixingWeights(first, bias, last, self.value(to_value.relu(), members).squeeze(-1))

    def mix(self, q: Tensor, weights: MixingWeights | None) -> Tensor:
        assert weights is not None, "a QMixer mixes with what it generated"
        hidden = functional.elu((q.unsqueeze(-1) * weights.first).sum(-2) + weights.bias)
        return (hidden * weights.last).sum(-1) + weights.value


def mixing_gradient(q: Tensor, weights: MixingWeights) -> Tensor:
    """∂Q_tot/∂Q_i of every sample (the quantity of DEMAR's Theorem 3.1). q: [R, N]. Returns [H, R, N]."""
    before = (q.unsqueeze(-1) * weights.first).sum(-2) + weights.bias
    slope = torch.where(before > 0, torch.ones_like(before), before.exp()) * weights.last
    return (weights.first * slope.unsqueeze(-2)).sum(-1)


class CentralFeedForward(nn.Module):
    """Unrestricted mixer of Weighted QMIX (`ff`): an MLP of the state and the chosen utilities, plus V(s)."""

    def __init__(self, agents: int, state: int, width: int) -> None:
        super().__init__()
        self.net = _relu_layers(state + agents, width, width, width, 1)
        self.V = _relu_layers(state, width, 1)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q: [R, N], state: [R, S]. Returns [R]."""
        value: Tensor = self.net(torch.cat([state, q], dim=-1)) + self.V(state)
        return value.squeeze(-1)


class CentralAttention(nn.Module):
    """Unrestricted mixer of Weighted QMIX for many agents (`atten`): softmax over agents of generated weights."""

    def __init__(self, agents: int, state: int, width: int, hypernet: int) -> None:
        super().__init__()
        self.agents, self.width = agents, width
        self.atten_layer = _relu_layers(state, hypernet, agents * width)
        self.net = _relu_layers(width, width, width, 1)
        self.V = _relu_layers(state, width, 1)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q: [R, N], state: [R, S]. Returns [R]."""
        attention = self.atten_layer(state).unflatten(-1, (self.agents, self.width)).softmax(dim=-2)
        value: Tensor = self.net((q.unsqueeze(-1) * attention).sum(-2)) + self.V(state)
        return value.squeeze(-1)


def _relu_layers(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
