"""ATM over whole episodes as one operation, with a backward pass of its own (native/atm.c).

Everything linear before attention is composed to one matrix for each kind of token, which gives the token with its
queries, keys and values: W_qkv (W x + b) + b_qkv = (W_qkv W) x + (W_qkv b + b_qkv). So the agent itself is projected
once for all its basic actions, and a slot once for all the steps that it is remembered; their numbers only add to that.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from phalanx.algorithms.common.native.atm import ATMKernel, ATMSizes
from phalanx.algorithms.common.networks.base import Layers


def atm_sequence(seen: Tensor, layers: Layers, kinds: tuple[str, ...], kernel: ATMKernel) -> tuple[Tensor, Tensor]:
    """seen: [S, T, M, numbers of the agent itself | of each entity of each kind], which gets no gradient. Returns the
    values of bound tokens [S, T, M, bound] and each step's newest slot [S, T, M, H]."""
    parameters = _composed(layers, kinds, kernel.sizes)
    if parameters.shape[1] != kernel.parameters:
        raise ValueError(f"got {parameters.shape[1]} parameters, not {kernel.parameters}: layers are of other sizes")
    return cast(tuple[Tensor, Tensor], _Compiled.apply(seen.contiguous(), parameters, kernel))  # type: ignore[no-untyped-call]


def _composed(layers: Layers, kinds: tuple[str, ...], sizes: ATMSizes) -> Tensor:
    """All parameters as `struct layers` in native/atm.c lays them out, [S, P]."""
    to_qkv, qkv_bias = layers["queries_keys_values"]
    hidden, own = sizes.hidden, sizes.widths[0]

    def joined(tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """[S, any, H] -> with their queries, keys and values, [S, any, 4H]."""
        projected = tokens @ to_qkv.transpose(1, 2)
        return torch.cat([tokens, projected if bias is None else projected + bias.unsqueeze(1)], -1)

    def embedding(weight: Tensor, bias: Tensor) -> list[Tensor]:
        return [joined(weight.transpose(1, 2)), joined(bias.unsqueeze(1), qkv_bias)]

    own_weight, own_bias = layers["embed_own"]
    slot_weight, slot_bias = layers["embed_memory"]
    number = functional.pad(own_weight[..., own:].transpose(1, 2), (0, 0, 1, 0))  # the first action's are zeros
    unit = torch.eye(sizes.slots, hidden, dtype=slot_bias.dtype, device=slot_bias.device)
    first = unit @ slot_weight[..., :hidden].transpose(1, 2) + slot_bias.unsqueeze(1)
    parts = embedding(own_weight[..., :own], own_bias)
    for kind in kinds:
        parts += embedding(*layers[f"embed_{kind}"])
    parts += [joined(number), joined(first, qkv_bias), joined(slot_weight[..., hidden:].transpose(1, 2))]
    parts += embedding(slot_weight[..., :hidden], slot_bias)
    for name in ("unify", "norm_attention", "widen", "narrow", "norm", "remember", "head"):
        weight, bias = layers[name]
        parts += [weight.transpose(1, 2) if weight.dim() == 3 else weight, bias]
    return torch.cat([part.flatten(1) for part in parts], 1)


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, seen: Tensor, parameters: Tensor, kernel: ATMKernel) -> tuple[Tensor, Tensor]:
        stacks, steps, rows, _ = seen.shape
        values = seen.new_empty(stacks, steps, rows, kernel.sizes.bound)
        known = seen.new_empty(stacks, steps, rows, kernel.sizes.hidden)
        kept = seen.new_empty(stacks, kernel.room_for(steps, rows)) if ctx.needs_input_grad[1] else None
        for s in range(stacks):
            kernel.forward(seen[s], parameters[s], None if kept is None else kept[s], values[s], known[s])
        if kept is not None:
            ctx.kernel = kernel
            ctx.save_for_backward(seen, parameters, kept, known)
        return values, known

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        seen, parameters, kept, known = ctx.saved_tensors
        of_values, of_known = (grad.contiguous() for grad in grads)
        gradient = torch.zeros_like(parameters)
        for s in range(len(seen)):
            ctx.kernel.backward(seen[s], parameters[s], kept[s], known[s], of_values[s], of_known[s], gradient[s])
        return None, gradient, None
