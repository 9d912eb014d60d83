"""Agents without memory."""

from __future__ import annotations

import torch
from torch import Tensor

from phalanx.algorithms.common.linear import affine
from phalanx.algorithms.common.networks.base import AgentNetworks, Layers
from phalanx.algorithms.common.networks.view import AgentView
from phalanx.configs.settings import AgentSettings


class MLPAgents(AgentNetworks):
    """`depth` hidden layers with ReLU, then a linear one: fc1, fc2, …"""

    state_shape = (0,)

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: int,
        actions: int,
        depth: int,
        view: AgentView | None = None,
        settings: AgentSettings | None = None,
    ) -> None:
        super().__init__(members, hidden, actions, view, settings)
        self.depth = depth
        for k in range(depth):
            self.add_linear(f"fc{k + 1}", inputs if k == 0 else hidden, hidden)
        # The last layer's values are of the size of returns, not near zero as a policy's logits: gain 1.
        self.add_linear(f"fc{depth + 1}", hidden, actions, gain=1.0)

    def unroll(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        stacks, steps, rows, inputs = x.shape
        values, hidden = self._values(x.reshape(stacks, steps * rows, inputs), layers)
        return values.view(-1, steps, rows, self.actions), hidden.view(-1, steps, rows, self.hidden)

    def advance(self, x: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        return self._values(x, layers)[0], state

    def _values(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        for k in range(self.depth):
            x = torch.relu(affine(x, *layers[f"fc{k + 1}"]))
        return affine(x, *layers[f"fc{self.depth + 1}"]), x
