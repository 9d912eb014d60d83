"""GRUs over whole sequences, K of them side by side, with a backward pass of their own.

PyMARL steps a GRU cell in Python; `torch.nn.GRU` on a CPU records every small operation of every step for autograd.
Here a step forward is eight operations and a step backward three: everything that does not depend on the step before
(input products, gate derivatives, weight gradients) is computed for all steps at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gru_sequence(gates: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
    """Hidden states h_1..h_T of K GRUs that start from zeros (Cho et al. 2014, in torch's parametrisation).

    gates: [K, T, M, 3H], the input's part W_ih x + b_ih in blocks reset, update, new; weight_hh: [K, 3H, H];
    bias_hh: [K, 3H]. Returns [K, T, M, H].  r, z = sigmoid(.), n = tanh(i_n + r (W_hn h + b_hn)),
    h' = (1 - z) n + z h.
    """
    members, width, size = weight_hh.shape
    if gates.dim() != 4 or gates.shape[0] != members or gates.shape[3] != width or width != 3 * size:
        raise ValueError(
            f"got gates {tuple(gates.shape)} and weight_hh {tuple(weight_hh.shape)}, not [K, T, M, 3H] and [K, 3H, H]"
        )
    hidden: Tensor = _GRUSequence.apply(gates, weight_hh, bias_hh)
    return hidden


def gru_step(gates: Tensor, hidden: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
    """One step, for acting. gates: [K, M, 3H]; hidden: [K, M, H]. Returns [K, M, H]."""
    size = hidden.shape[-1]
    recurrent = torch.baddbmm(bias_hh.unsqueeze(1), hidden, weight_hh.transpose(1, 2))
    reset_update = (gates[..., : 2 * size] + recurrent[..., : 2 * size]).sigmoid_()
    new = _tanh_(torch.addcmul(gates[..., 2 * size :], reset_update[..., :size], recurrent[..., 2 * size :]))
    return torch.lerp(new, hidden, reset_update[..., size:])


def _tanh_(x: Tensor) -> Tensor:
    # On a CPU torch's sigmoid is several times faster than its tanh; the two are the same function, rescaled.
    return x.mul_(2).sigmoid_().mul_(2).sub_(1) if x.device.type == "cpu" else x.tanh_()


class _GRUSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
        members, steps, rows, width = gates.shape
        size = width // 3
        transposed = weight_hh.transpose(1, 2)
        # A contiguous bias: broadcasting it anew in every step costs as much as the product.
        bias = bias_hh.unsqueeze(1).expand(members, rows, width).contiguous()
        reset_update = gates.new_empty(members, steps, rows, 2 * size)
        new = gates.new_empty(members, steps, rows, size)
        recurrent = gates.new_empty(members, steps, rows, width)
        hidden = gates.new_empty(members, steps + 1, rows, size)
        hidden[:, 0].zero_()
        hs, rzs, ns, recs = hidden.unbind(1), reset_update.unbind(1), new.unbind(1), recurrent.unbind(1)
        in_rz, in_n = gates[..., : 2 * size].unbind(1), gates[..., 2 * size :].unbind(1)
        rec_rz, rec_n = recurrent[..., : 2 * size].unbind(1), recurrent[..., 2 * size :].unbind(1)
        rs, zs = reset_update[..., :size].unbind(1), reset_update[..., size:].unbind(1)
        for t in range(steps):
            torch.baddbmm(bias, hs[t], transposed, out=recs[t])
            torch.add(in_rz[t], rec_rz[t], out=rzs[t]).sigmoid_()
            _tanh_(torch.addcmul(in_n[t], rs[t], rec_n[t], out=ns[t]))
            torch.lerp(ns[t], hs[t], zs[t], out=hs[t + 1])
        ctx.save_for_backward(weight_hh, reset_update, new, recurrent, hidden)
        return hidden[:, 1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight_hh, reset_update, new, recurrent, hidden = ctx.saved_tensors
        members, steps, rows, size = new.shape
        reset, update = reset_update[..., :size], reset_update[..., size:]
        # dh'/d(pre-activations), for all steps at once; each is then only multiplied by dL/dh'.
        d_new = (1 - update) * (1 - new * new)
        factors = new.new_empty(members, steps, rows, 3, size)
        through_reset = torch.mul(d_new, reset, out=factors[..., 2, :])
        torch.mul(through_reset, (1 - reset) * recurrent[..., 2 * size :], out=factors[..., 0, :])
        torch.mul(update * (1 - update), hidden[:, :-1] - new, out=factors[..., 1, :])

        d_recurrent = factors.view(members, steps, rows, 3 * size)
        d_hidden = new.new_empty(members, steps, rows, size)
        dhs, updates, outs = d_hidden.unbind(1), update.unbind(1), grads[0].unbind(1)
        per_gate, flat = factors.unbind(1), d_recurrent.unbind(1)
        dhs[-1].copy_(outs[-1])
        for t in range(steps - 1, -1, -1):
            per_gate[t].mul_(dhs[t].unsqueeze(-2))
            if t > 0:
                torch.addcmul(outs[t - 1], dhs[t], updates[t], out=dhs[t - 1])
                dhs[t - 1].baddbmm_(flat[t], weight_hh)

        long = d_recurrent.view(members, steps * rows, 3 * size)
        before = hidden[:, :-1].reshape(members, steps * rows, size)
        d_weight = torch.bmm(long.transpose(1, 2), before)
        d_bias = long.sum(1)
        # The input's gates differ from the recurrent ones in the new gate alone, which is not scaled by the reset.
        d_gates = d_recurrent
        torch.mul(d_hidden, d_new, out=d_gates[..., 2 * size :])
        return d_gates, d_weight, d_bias
