"""Agent networks: K of them side by side, each shared by all agents of the team."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from phalanx.algorithms.common.gru import gru_sequence, gru_step


class StackedLinear(nn.Module):
    """K linear layers with the same shape: weight [K, out, in], bias [K, out], initialised as torch does."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """x: [R, in], the same for all members, or [K, R, in]. Returns [K, R, out]; `members` (indices) selects."""
        weight, bias = selected(self.weight, members), selected(self.bias, members)
        if weight.shape[0] == 1:  # one member: a plain product, without the overhead of a batched one
            # squeeze, not an index, whose backward pass would write zeros around the gradient
            flat = x if x.dim() == 2 else x.squeeze(0)
            return torch.addmm(bias.squeeze(0), flat, weight.squeeze(0).t()).unsqueeze(0)
        return torch.baddbmm(bias.unsqueeze(1), x.expand(weight.shape[0], -1, -1), weight.transpose(1, 2))


def selected(parameter: Tensor, members: Tensor | None) -> Tensor:
    """The rows `members` of a stacked parameter; all of them for None."""
    return parameter if members is None else parameter.index_select(0, members)


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

    def forward(self, inputs: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Unrolls from zeros. inputs: [T, M, I]. Returns values [K, T, M, A] and hidden states [K, T, M, H], of the
        chosen `members` only."""
        steps, rows, _ = inputs.shape
        x = torch.relu(self.fc1(inputs.reshape(steps * rows, -1), members))
        hidden = gru_sequence(
            x.view(-1, steps, rows, self.hidden),
            selected(self.input_gates.weight, members),
            selected(self.recurrent_gates.weight, members),
            selected(self.input_gates.bias, members),
            selected(self.recurrent_gates.bias, members),
        )
        values = self.fc2(hidden.reshape(-1, steps * rows, self.hidden), members)
        return values.view(-1, steps, rows, self.actions), hidden

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
