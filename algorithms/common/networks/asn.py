"""ASN (Wang et al., ICLR 2020, arXiv 1907.09990): what an action does to another agent is computed from that agent."""

from __future__ import annotations

import torch
from torch import Tensor

from phalanx.algorithms.common.gru import gru_sequence, gru_step
from phalanx.algorithms.common.linear import affine
from phalanx.algorithms.common.networks.base import AgentNetworks, Layers
from phalanx.algorithms.common.networks.entities import EntityReader
from phalanx.algorithms.common.networks.plan import Plan


class ASNAgents(AgentNetworks):
    """e = GRU(fc2(ReLU(fc1(all that is seen)))); basic actions are Linear(e). Each enemy has z = GRU(fc2(ReLU(fc1(its
    part)))), parameters shared by all enemies, memory its own; the action aimed at it is worth <e, z>.

    Where no action is aimed at an enemy, there is no z: every action is basic. Memory: e, then each enemy's z.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        layout = plan.entities
        self.reader, self.enemies = EntityReader(layout), len(layout.aimed)
        self.state_shape = (1 + self.enemies, self.hidden)
        self._encoder("own", plan.inputs)
        self.add_final("basic", self.hidden, len(layout.basic))
        if self.enemies:
            self._encoder("enemy", layout.size("enemies"))

    def _encoder(self, who: str, inputs: int) -> None:
        self.add_linear(f"{who}_fc1", inputs, self.hidden)
        self.add_linear(f"{who}_fc2", self.hidden, self.hidden)
        self.add_linear(f"{who}_input_gates", self.hidden, 3 * self.hidden)
        self.add_linear(f"{who}_recurrent_gates", self.hidden, 3 * self.hidden)

    def unroll(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        own = self._sequence(x, "own", layers)
        if not self.enemies:
            return self._values(own, None, layers), own
        _, steps, rows, _ = x.shape
        each = self.reader.entities(x, "enemies")  # [S, T, M, m, F]
        z = self._sequence(each.flatten(2, 3), "enemy", layers).view(-1, steps, rows, self.enemies, self.hidden)
        return self._values(own, z, layers), own

    def advance(self, x: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        own = self._step(x, state[..., 0, :], "own", layers)
        if not self.enemies:
            return self._values(own, None, layers), own.unsqueeze(-2)
        each = self.reader.entities(x, "enemies")
        z = self._step(each.flatten(1, 2), state[..., 1:, :].flatten(1, 2), "enemy", layers)
        z = z.view(len(own), -1, self.enemies, self.hidden)
        return self._values(own, z, layers), torch.cat([own.unsqueeze(-2), z], -2)

    def _encoded(self, x: Tensor, who: str, layers: Layers) -> Tensor:
        """[S, rows, I] -> [S, rows, H]."""
        return affine(torch.relu(affine(x, *layers[f"{who}_fc1"])), *layers[f"{who}_fc2"])

    def _sequence(self, x: Tensor, who: str, layers: Layers) -> Tensor:
        """[S, T, rows, I] -> [S, T, rows, H]."""
        encoded = self._encoded(x.flatten(1, 2), who, layers).view(-1, *x.shape[1:3], self.hidden)
        (w_ih, b_ih), (w_hh, b_hh) = layers[f"{who}_input_gates"], layers[f"{who}_recurrent_gates"]
        return gru_sequence(encoded, w_ih, w_hh, b_ih, b_hh)

    def _step(self, x: Tensor, hidden: Tensor, who: str, layers: Layers) -> Tensor:
        gates = affine(self._encoded(x, who, layers), *layers[f"{who}_input_gates"])
        return gru_step(gates, hidden, *layers[f"{who}_recurrent_gates"])

    def _values(self, own: Tensor, z: Tensor | None, layers: Layers) -> Tensor:
        """own: [S, …, H], z: [S, …, m, H]. Returns [S, …, A]."""
        basic = affine(own.reshape(len(own), -1, self.hidden), *layers["basic"]).view(*own.shape[:-1], -1)
        if z is None:
            return basic
        return self.reader.ordered(basic, (z @ own.unsqueeze(-1)).squeeze(-1))
