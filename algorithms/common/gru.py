"""GRUs over whole sequences, K of them side by side, with a backward pass of their own.

PyMARL steps a GRU cell in Python; `torch.nn.GRU` on a CPU records every small operation of every step for autograd.
Here what does not depend on the step before (input products, gate derivatives, weight gradients) is computed for all
steps at once, steps work in place on buffers that are read once, and a step backward is three operations.

r, z = sigmoid(W x + b + U h + c), n = tanh(W_n x + b_n + r (U_n h + c_n)), h' = (1 - z) n + z h  (Cho et al. 2014, in
torch's parametrisation, blocks in the order reset, update, new).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from phalanx.algorithms.common.beside import Later
from phalanx.algorithms.common.linear import affine, product
from phalanx.algorithms.common.native import GRUKernel, gru_kernel


def gru_sequence(
    x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor, first: Tensor | None = None
) -> Tensor:
    """Hidden states h_1..h_T of K GRUs that start from zeros, or from `first` [K, M, H], which gets no gradient.

    x: [K, T, M, I]; weight_ih: [K, 3H, I]; weight_hh: [K, 3H, H]; biases: [K, 3H]. Returns [K, T, M, H].
    """
    members, width, size = weight_hh.shape
    if x.dim() != 4 or width != 3 * size or weight_ih.shape != (members, width, x.shape[3]) or x.shape[0] != members:
        raise ValueError(
            f"got x {tuple(x.shape)}, weight_ih {tuple(weight_ih.shape)}, weight_hh {tuple(weight_hh.shape)}, not"
            " [K, T, M, I], [K, 3H, I] and [K, 3H, H]"
        )
    kernel = gru_kernel(x)
    if kernel is not None and kernel.fits(size):
        return cast(Tensor, _CompiledSequence.apply(x, weight_ih, weight_hh, bias_ih, bias_hh, first, kernel))  # type: ignore[no-untyped-call]
    return cast(Tensor, _GRUSequence.apply(x, weight_ih, weight_hh, bias_ih, bias_hh, first))  # type: ignore[no-untyped-call]


def gru_step(gates: Tensor, hidden: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
    """One step, for acting. gates: [K, M, 3H], the input's part; hidden: [K, M, H]. Returns [K, M, H]."""
    size = hidden.shape[-1]
    recurrent = torch.baddbmm(bias_hh.unsqueeze(1), hidden, weight_hh.transpose(1, 2))
    reset_update = (gates[..., : 2 * size] + recurrent[..., : 2 * size]).sigmoid_()
    new = torch.addcmul(gates[..., 2 * size :], reset_update[..., :size], recurrent[..., 2 * size :]).tanh_()
    return torch.lerp(new, hidden, reset_update[..., size:])


class _CompiledSequence(torch.autograd.Function):
    """The recurrence in C; products that span all steps stay torch's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        first: Tensor | None,
        kernel: GRUKernel,
    ) -> Tensor:
        members, steps, rows, inputs = x.shape
        size = weight_hh.shape[2]
        bias = bias_ih.clone()
        bias[:, : 2 * size] += bias_hh[:, : 2 * size]
        gates = affine(x.reshape(members, steps * rows, inputs), weight_ih, bias).view(members, steps, rows, 3 * size)
        saved = any(ctx.needs_input_grad)
        hidden, recurrent = kernel.forward(gates, weight_hh, bias_hh[:, 2 * size :], saved, first)
        if saved:
            ctx.kernel = kernel
            ctx.save_for_backward(x, weight_ih, weight_hh, gates, recurrent, hidden)
        return hidden[:, 1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, gates, recurrent, hidden = ctx.saved_tensors
        members, steps, rows, size = recurrent.shape
        flat = ctx.kernel.backward(grads[0], gates, recurrent, hidden, weight_hh).view(members, steps * rows, 4 * size)
        # The input's part differs from the recurrent one in the new gate alone, which the reset does not scale: of new,
        # reset, update, new the first three are the input's, the last three the recurrent's.
        of_input, of_recurrent = flat[..., : 3 * size], flat[..., size:]
        before = hidden[:, :-1].reshape(members, steps * rows, size)
        d_weight_hh = Later(lambda: product(of_recurrent.transpose(1, 2), before))
        d_bias = flat.sum(1)
        d_weight_ih = product(of_input.transpose(1, 2), x.reshape(members, steps * rows, -1)).roll(-size, 1)
        d_x = product(of_input, weight_ih.roll(size, 1)).view_as(x) if ctx.needs_input_grad[0] else None
        d_input_bias = d_bias[:, : 3 * size].roll(-size, 1)
        return d_x, d_weight_ih, d_weight_hh.result(), d_input_bias, d_bias[:, size:], None, None


class _GRUSequence(torch.autograd.Function):
    """tanh is computed as 2 sigmoid(2 ·) - 1, several times faster on a CPU: what enters it carries the factor 2."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        first: Tensor | None,
    ) -> Tensor:
        members, steps, rows, inputs = x.shape
        size = weight_hh.shape[2]
        flat = x.reshape(members, steps * rows, inputs)
        gate_bias, new_bias = (bias_ih + bias_hh)[:, : 2 * size], 2 * bias_ih[:, 2 * size :]
        gates = affine(flat, weight_ih[:, : 2 * size], gate_bias).view(members, steps, rows, 2 * size)
        new = affine(flat, 2 * weight_ih[:, 2 * size :], new_bias).view(members, steps, rows, size)
        to_gates = weight_hh[:, : 2 * size].transpose(1, 2)
        to_new = (2 * weight_hh[:, 2 * size :]).transpose(1, 2)
        bias = (2 * bias_hh[:, 2 * size :]).unsqueeze(1).expand(members, rows, size).contiguous()
        minus_one = torch.full_like(bias, -1.0)

        saved = any(ctx.needs_input_grad)
        recurrent = x.new_empty(members, steps if saved else 1, rows, size)
        hidden = x.new_empty(members, steps + 1, rows, size)
        hidden[:, 0] = 0.0 if first is None else first
        hs, ns, gs = hidden.unbind(1), new.unbind(1), gates.unbind(1)
        resets, updates = gates[..., :size].unbind(1), gates[..., size:].unbind(1)
        recs = recurrent.unbind(1) if saved else recurrent.unbind(1) * steps
        for t in range(steps):
            gs[t].baddbmm_(hs[t], to_gates).sigmoid_()
            torch.baddbmm(bias, hs[t], to_new, out=recs[t])
            ns[t].addcmul_(resets[t], recs[t]).sigmoid_()
            torch.add(minus_one, ns[t], alpha=2, out=ns[t])
            torch.lerp(ns[t], hs[t], updates[t], out=hs[t + 1])
        if saved:
            ctx.save_for_backward(x, weight_ih, weight_hh, gates, new, recurrent, hidden)
        return hidden[:, 1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, gates, new, recurrent, hidden = ctx.saved_tensors
        members, steps, rows, size = new.shape
        d_gates, d_hidden, d_new = _backward_through_time(grads[0], weight_hh, gates, new, recurrent, hidden)
        flat = d_gates.view(members, steps * rows, 3 * size)
        d_weight_hh = product(flat.transpose(1, 2), hidden[:, :-1].reshape(members, steps * rows, size))
        d_bias_hh = flat.sum(1)
        # The input's part differs from the recurrent one in the new gate alone, which the reset does not scale.
        torch.mul(d_hidden, d_new, out=d_gates[..., 2 * size :])
        d_weight_ih = product(flat.transpose(1, 2), x.reshape(members, steps * rows, -1))
        d_bias_ih = torch.cat([d_bias_hh[:, : 2 * size], flat[..., 2 * size :].sum(1)], dim=1)
        d_x = product(flat, weight_ih).view_as(x) if ctx.needs_input_grad[0] else None
        return d_x, d_weight_ih, d_weight_hh, d_bias_ih, d_bias_hh, None


def _backward_through_time(
    grad: Tensor, weight_hh: Tensor, gates: Tensor, new: Tensor, recurrent: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/d of the recurrent pre-activations [K, T, M, 3H], dL/dh [K, T, M, H] and dh'/d(new gate's) [K, T, M, H]."""
    members, steps, rows, size = new.shape
    reset, update = gates[..., :size], gates[..., size:]
    sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
    # dh'/d(pre-activations), for all steps at once; each is then only multiplied by dL/dh'.
    factors = new.new_empty(members, steps, rows, 3, size)
    d_reset, d_update, d_recurrent = factors.unbind(-2)
    scratch = torch.sub(hidden[:, :-1], new)
    sigmoid_backward(scratch, update, grad_input=d_update)
    torch.sub(1.0, update, out=scratch)
    d_new = tanh_backward(scratch, new)
    torch.mul(d_new, reset, out=d_recurrent)
    sigmoid_backward(torch.mul(d_new, recurrent, out=scratch).mul_(0.5), reset, grad_input=d_reset)

    d_gates = factors.view(members, steps, rows, 3 * size)
    d_hidden = torch.empty_like(new)
    dhs, updates, outs = d_hidden.unbind(1), update.unbind(1), grad.unbind(1)
    per_gate, flat = factors.unbind(1), d_gates.unbind(1)
    dhs[-1].copy_(outs[-1])
    for t in range(steps - 1, -1, -1):
        per_gate[t].mul_(dhs[t].unsqueeze(-2))
        if t > 0:
            torch.addcmul(outs[t - 1], dhs[t], updates[t], out=dhs[t - 1])
            dhs[t - 1].baddbmm_(flat[t], weight_hh)
    return d_gates, d_hidden, d_new
