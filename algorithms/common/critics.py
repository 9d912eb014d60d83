"""Centralised critics Q(s, a_1, …, a_n): feed-forward, C of them side by side.

Only the first layer knows what is state and what is action, and it is the sum of two products. So many joint actions
in one state cost the state's part once (`look`), and what single agents' actions count for (`slopes`) is what was
computed anyway, read backwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phalanx.algorithms.common.linear import StackedLinear, affine, product, selected


@dataclass
class Look:
    """What the chosen critics make of states, whatever the agents do: the first layer's part [C, R, H]."""

    features: Tensor
    rows: torch.Size  # the leading dimensions of the states, R of them together
    members: Tensor | None


class Critics(nn.Module):
    """C = `members` critics of a team whose joint action is J = n·A numbers: one-hot for each agent where actions are
    discrete, the numbers themselves where not. `depth` hidden layers of `hidden` units with ReLU, then a linear one.

    All members are one (batched) product in each layer: the first one, whose input they share, a plain one. Initial
    weights are torch's, drawn for each member, from its global generator.
    """

    def __init__(self, members: int, state: int, joint_action: int, hidden: int, depth: int = 2) -> None:
        super().__init__()
        self.members = members
        bound = 1 / math.sqrt(state + joint_action)  # one layer of both, cut in two
        self.state_weight = nn.Parameter(torch.empty(members, hidden, state).uniform_(-bound, bound))
        self.action_weight = nn.Parameter(torch.empty(members, hidden, joint_action).uniform_(-bound, bound))
        self.first_bias = nn.Parameter(torch.empty(members, hidden).uniform_(-bound, bound))
        self.layers = nn.ModuleList(StackedLinear(members, hidden, hidden) for _ in range(depth - 1))
        self.last = StackedLinear(members, hidden, 1)

    def forward(self, state: Tensor, actions: Tensor, members: Tensor | None = None) -> Tensor:
        """state: [*rows, S], actions: [*many, *rows, J]. Returns [C, *many, *rows]; `members` (indices) selects."""
        return self.values(self.look(state, members), actions)

    def look(self, state: Tensor, members: Tensor | None = None) -> Look:
        """state: [*rows, S]."""
        features = _shared_input(state.flatten(0, -2), selected(self.state_weight, members))
        features = features + selected(self.first_bias, members).unsqueeze(1)
        return Look(features, state.shape[:-1], members)

    def values(self, look: Look, actions: Tensor) -> Tensor:
        """The values of `actions` [*many, *rows, J] in those states: [C, *many, *rows]."""
        return self._values(look, actions)[0]

    def values_and_slopes(self, look: Look, actions: Tensor) -> tuple[Tensor, Tensor]:
        """As `values`, and ∂Q/∂a of each member, [C, *many, *rows, J], of which losses may be made: its own gradient
        is exact wherever the critics' is defined (a ReLU's second derivative is zero), without a second pass."""
        values, hidden = self._values(look, actions)
        active = [(units.detach() > 0).to(units.dtype) for units in hidden]
        weights = [self.action_weight, *(layer.weight for layer in self._stacked_layers())]
        slopes = selected(self.last.weight, look.members)  # [C, 1, H]
        for weight, on in zip(reversed(weights), reversed(active), strict=True):
            slopes = product((slopes * on).contiguous(), selected(weight, look.members))
        return values, slopes.view(*values.shape, -1)

    def _values(self, look: Look, actions: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The values, and each hidden layer's units, [C, V·R, H]."""
        count, rows, width = look.features.shape
        many = actions.shape[: actions.dim() - 1 - len(look.rows)]
        chosen = _shared_input(actions.flatten(0, -2), selected(self.action_weight, look.members))
        if many:
            chosen = chosen.reshape(count, -1, rows, width) + look.features.unsqueeze(1)
            x = torch.relu(chosen.reshape(count, -1, width))
        else:
            x = torch.relu(chosen + look.features)
        hidden = [x]
        for layer in self._stacked_layers():
            hidden.append(torch.relu(layer(hidden[-1], look.members)))
        weight, bias = selected(self.last.weight, look.members), selected(self.last.bias, look.members)
        values = affine(hidden[-1], weight, bias).view(count, *many, *look.rows)
        return values, hidden

    def _stacked_layers(self) -> list[StackedLinear]:
        return [layer for layer in self.layers if isinstance(layer, StackedLinear)]


def _shared_input(x: Tensor, weight: Tensor) -> Tensor:
    """x: [R, I], the same for all of weight [C, O, I]. Returns [C, R, O] from one product."""
    members, outputs, inputs = weight.shape
    return torch.mm(x, weight.reshape(members * outputs, inputs).t()).view(-1, members, outputs).transpose(0, 1)
