"""Agent networks: K of them side by side, each shared by all agents of the team."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phalanx.algorithms.common.gru import gru_sequence, gru_step
from phalanx.algorithms.common.linear import StackedLinear, affine, selected


class RecurrentAgents(nn.Module):
    """Linear, ReLU, GRU, Linear (the agent of PyMARL), K times.

    One network serves every agent: its input ends with the agent's last action and id (`agent_inputs`).
    """

    def __init__(self, members: int, inputs: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.members, self.hidden, self.actions = members, hidden, actions
        self.fc1 = StackedLinear(members, inputs, hidden)
        self.input_gates = StackedLinear(members, hidden, 3 * hidden)
        self.recurrent_gates = StackedLinear(members, hidden, 3 * hidden)
        self.fc2 = StackedLinear(members, hidden, actions)

    def forward(self, inputs: Tensor, members: Tensor | None = None) -> Tensor:
        """Unrolls the chosen `members` from zeros. inputs: [T, M, I]. Returns values [K, T, M, A].

        On a GPU all members are one batch; a CPU takes one after the other, whose steps then stay in its cache.
        """
        layers = (self.fc1, self.input_gates, self.recurrent_gates, self.fc2)
        parameters = [selected(p, members) for layer in layers for p in (layer.weight, layer.bias)]
        if inputs.is_cuda or parameters[0].shape[0] == 1:
            return self._values(inputs, *parameters)
        each = zip(*(torch.split(parameter, 1) for parameter in parameters), strict=True)
        return torch.cat([self._values(inputs, *member) for member in each])

    def hidden_states(self, inputs: Tensor, members: Tensor | None = None) -> Tensor:
        """The states of the chosen members after each step. inputs: [T, M, I]. Returns [K, T, M, H]."""
        layers = (self.fc1, self.input_gates, self.recurrent_gates)
        return self._unroll(inputs, *(selected(p, members) for layer in layers for p in (layer.weight, layer.bias)))

    def values_and_states(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` and `hidden_states` of all members from one pass."""
        hidden = self.hidden_states(inputs)
        values: Tensor = self.fc2(hidden.flatten(1, 2))
        return values.view(*hidden.shape[:3], self.actions), hidden

    def _values(self, inputs: Tensor, *parameters: Tensor) -> Tensor:
        hidden = self._unroll(inputs, *parameters[:6])
        members, steps, rows, size = hidden.shape
        values = affine(hidden.reshape(members, steps * rows, size), *parameters[6:])
        return values.view(members, steps, rows, self.actions)

    def _unroll(
        self, inputs: Tensor, fc1: Tensor, fc1_bias: Tensor, w_ih: Tensor, b_ih: Tensor, w_hh: Tensor, b_hh: Tensor
    ) -> Tensor:
        steps, rows, _ = inputs.shape
        x = torch.relu(affine(inputs.reshape(steps * rows, -1), fc1, fc1_bias))
        return gru_sequence(x.view(-1, steps, rows, self.hidden), w_ih, w_hh, b_ih, b_hh)

    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step of all members. inputs: [M, I]; hidden: [K, M, H]. Returns values [K, M, A] and hidden."""
        gates = self.input_gates(torch.relu(self.fc1(inputs)))
        hidden = gru_step(gates, hidden, self.recurrent_gates.weight, self.recurrent_gates.bias)
        return self.fc2(hidden), hidden


def agent_inputs(obs: Tensor, actions: Tensor, n_actions: int) -> Tensor:
    """What agent networks see, time first: observation, one-hot last action (zeros at t = 0), one-hot agent id.

    obs: [B, T+1, N, O]; actions: [B, T, N]. Returns [T+1, B·N, O+A+N].
    """
    batch, steps, agents, size = obs.shape
    inputs = obs.new_zeros(steps, batch, agents, size + n_actions + agents)
    inputs[..., :size] = obs.transpose(0, 1)
    inputs[1:, ..., size : size + n_actions].scatter_(-1, actions.transpose(0, 1).unsqueeze(-1), 1.0)
    inputs[..., size + n_actions :] = torch.eye(agents, dtype=obs.dtype, device=obs.device)
    return inputs.view(steps, batch * agents, -1)
