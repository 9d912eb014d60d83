"""Agents without memory."""

from __future__ import annotations

import torch
from torch import Tensor

from phalanx.algorithms.common.linear import affine
from phalanx.algorithms.common.networks.base import AgentNetworks, Layers
from phalanx.algorithms.common.networks.plan import Plan


class MLPAgents(AgentNetworks):
    """`depth` hidden layers with ReLU, then a linear one: fc1, fc2, …"""

    state_shape = (0,)

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.depth = plan.agent.depth
        for k in range(self.depth):
            self.add_linear(f"fc{k + 1}", plan.inputs if k == 0 else self.hidden, self.hidden)
        self.add_final(f"fc{self.depth + 1}", self.hidden, plan.outputs)

    def unroll(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        stacks, steps, rows, inputs = x.shape
        values, hidden = self._values(x.reshape(stacks, steps * rows, inputs), layers)
        return values.view(-1, steps, rows, self.outputs), hidden.view(-1, steps, rows, self.hidden)

    def advance(self, x: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        return self._values(x, layers)[0], state

    def _values(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        for k in range(self.depth):
            x = torch.relu(affine(x, *layers[f"fc{k + 1}"]))
        return affine(x, *layers[f"fc{self.depth + 1}"]), x
