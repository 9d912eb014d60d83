"""The networks of the second, plain implementation (see reference.py): parameters by name, one step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.algorithms.reference import Case

Parameters = dict[str, Tensor]


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def agent_net(p: Parameters, name: str, case: Case, batch: Parameters) -> tuple[Tensor, Tensor]:
    """Values [B, T+1, N, A] and GRU states of one network, one step after the other from zeros."""
    b, steps, n, _ = batch["obs"].shape
    h = torch.zeros(b, n, case.hidden, dtype=torch.float64)
    values, states = [], []
    for t in range(steps):
        last = torch.zeros(b, n, case.actions, dtype=torch.float64)
        if t > 0:
            last = torch.eye(case.actions, dtype=torch.float64)[batch["actions"][:, t - 1]]
        ids = torch.eye(n, dtype=torch.float64).expand(b, n, n)
        x = torch.relu(linear(p, f"{name}fc1", torch.cat([batch["obs"][:, t], last, ids], -1)))
        from_input = x @ p[f"{name}gru.weight_ih"].T + p[f"{name}gru.bias_ih"]
        from_state = h @ p[f"{name}gru.weight_hh"].T + p[f"{name}gru.bias_hh"]
        ir, iz, inew = from_input.chunk(3, -1)
        hr, hz, hnew = from_state.chunk(3, -1)
        r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
        h = (1 - z) * torch.tanh(inew + r * hnew) + z * h
        values.append(linear(p, f"{name}fc2", h))
        states.append(h)
    return torch.stack(values, 1), torch.stack(states, 1)


def mix(p: Parameters, name: str, q: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One QMIX mixer: Q_tot, V(s) and the L1 norm of what was generated, for q [..., N] and state [..., S]."""
    n = q.shape[-1]
    w1 = linear(p, f"{name}hyper_w1.2", torch.relu(linear(p, f"{name}hyper_w1.0", state))).abs()
    w1 = w1.reshape(*q.shape, w1.shape[-1] // n)
    wf = linear(p, f"{name}hyper_wf.2", torch.relu(linear(p, f"{name}hyper_wf.0", state))).abs()
    b1 = linear(p, f"{name}hyper_b1", state)
    v = linear(p, f"{name}V.2", torch.relu(linear(p, f"{name}V.0", state)))[..., 0]
    hidden = torch.nn.functional.elu(torch.einsum("...n,...ne->...e", q, w1) + b1)
    l1 = w1.abs().sum((-1, -2)) + wf.abs().sum(-1) + b1.abs().sum(-1) + v.abs()
    return (hidden * wf).sum(-1) + v, v, l1


def mix_centrally(p: Parameters, name: str, case: Case, q: Tensor, state: Tensor) -> Tensor:
    v = linear(p, f"{name}V.2", torch.relu(linear(p, f"{name}V.0", state)))[..., 0]
    if case.central == "ff":
        x, layers = torch.cat([state, q], -1), (0, 2, 4, 6)
    else:
        scores = linear(p, f"{name}atten_layer.2", torch.relu(linear(p, f"{name}atten_layer.0", state)))
        attention = torch.softmax(scores.reshape(*q.shape, case.width), -2)
        x, layers = torch.einsum("...n,...nw->...w", q, attention), (0, 2, 4)
    for layer in layers:
        x = linear(p, f"{name}net.{layer}", x if layer == 0 else torch.relu(x))
    return x[..., 0] + v


def pick(values: Tensor, actions: Tensor) -> Tensor:
    return torch.gather(values, -1, actions[..., None])[..., 0]


def valid_steps(case: Case, batch: Parameters) -> Tensor:
    mask = batch["filled"][:, :-1].double().clone()
    for t in range(1, case.steps):
        mask[:, t] *= 1 - batch["terminated"][:, t - 1].double()
    return mask
