"""The recurrent agent network, and what agent networks see."""

from __future__ import annotations

import torch
from torch import Tensor

from phalanx.algorithms.common.gru import gru_sequence, gru_step
from phalanx.algorithms.common.linear import affine
from phalanx.algorithms.common.native.act import act_kernel
from phalanx.algorithms.common.networks.base import AgentNetworks, Layers
from phalanx.algorithms.common.networks.plan import Plan

PACKED = "packed"  # all layers together, as the compiled step wants them


class RecurrentAgents(AgentNetworks):
    """Linear, ReLU, GRU, Linear (the agent of PyMARL), K times.

    By default one network serves every agent: its input ends with the agent's last action and id (`agent_inputs`).
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        hidden = self.hidden
        self.state_shape = (hidden,)
        self.add_linear("fc1", plan.inputs, hidden)
        # A gate is as steep at zero for one gain as for another: 1 keeps it away from its flat ends.
        self.add_linear("input_gates", hidden, 3 * hidden, gain=1.0)
        self.add_linear("recurrent_gates", hidden, 3 * hidden, gain=1.0)
        self.add_final("fc2", hidden, plan.outputs)

    def unroll(self, x: Tensor, layers: Layers, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        stacks, steps, rows, inputs = x.shape
        x = torch.relu(affine(x.reshape(stacks, steps * rows, inputs), *layers["fc1"]))
        (w_ih, b_ih), (w_hh, b_hh) = layers["input_gates"], layers["recurrent_gates"]
        hidden = gru_sequence(x.view(-1, steps, rows, self.hidden), w_ih, w_hh, b_ih, b_hh, first)
        values = affine(hidden.reshape(-1, steps * rows, self.hidden), *layers["fc2"])
        return values.view(-1, steps, rows, self.outputs), hidden

    def unroll_from(self, x: Tensor, state: Tensor, layers: Layers) -> Tensor:
        return self.unroll(x, layers, state)[0]

    def for_acting(self, layers: Layers) -> Layers:
        kernel = act_kernel(layers["fc1"][0], self.hidden)
        if kernel is None:
            return layers
        parts = (layers[name] for name in ("fc1", "input_gates", "recurrent_gates", "fc2"))
        return {**layers, PACKED: kernel.packed(*parts)}

    def advance(self, x: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        kernel = act_kernel(x, self.hidden) if PACKED in layers else None
        if kernel is not None:
            return kernel.step(x, state, layers[PACKED], self.outputs)
        gates = affine(torch.relu(affine(x, *layers["fc1"])), *layers["input_gates"])
        hidden = gru_step(gates, state, *layers["recurrent_gates"])
        return affine(hidden, *layers["fc2"]), hidden


def agent_inputs(obs: Tensor, actions: Tensor, n_actions: int) -> Tensor:
    """What agent networks see, time first: observation, last action (zeros at t = 0), one-hot agent id.

    obs: [B, T+1, N, O]; actions: [B, T, N], which are shown one-hot, or continuous ones [B, T, N, A], shown as they are
    (`n_actions` does not count then). Returns [T+1, B·N, O+A+N].
    """
    batch, steps, agents, size = obs.shape
    continuous = actions.dim() == 4
    end = size + (actions.shape[-1] if continuous else n_actions)
    inputs = obs.new_zeros(steps, batch, agents, end + agents)
    inputs[..., :size] = obs.transpose(0, 1)
    last, shown = actions.transpose(0, 1), inputs[1:, ..., size:end]
    if continuous:
        shown.copy_(last)
    else:
        shown.scatter_(-1, last.unsqueeze(-1), 1.0)
    inputs[..., end:] = torch.eye(agents, dtype=obs.dtype, device=obs.device)
    return inputs.view(steps, batch * agents, -1)
