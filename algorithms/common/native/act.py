"""act.c, compiled: one step of recurrent agents."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from phalanx.algorithms.common.native import computable, fills_vectors, loaded

Pair = tuple[Tensor, Tensor]
"""A layer's weight [S, out, in] and bias [S, out]."""


class ActKernel:
    """A step of S networks (Linear, ReLU, GRU, Linear), compiled for one precision. Tensors are contiguous and on the
    CPU; Python's lock is not held meanwhile."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._lanes, self._act = library.lanes(), library.act
        self._act.argtypes = [ctypes.c_long] * 6 + [ctypes.c_void_p] * 6
        self._act.restype = None

    def packed(self, first: Pair, of_input: Pair, of_state: Pair, last: Pair) -> Pair:
        """All weights and all biases of each network, [S, …] each, as act.c wants them. The gates' rows are reset,
        update, new."""
        (w, b), (w_in, b_in), (w_state, b_state), (w_out, b_out) = first, of_input, of_state, last
        stacks, size, lanes = len(w), w.shape[1], self._lanes
        missing = -w_out.shape[1] % lanes

        def columns(weight: Tensor) -> Tensor:  # [S, out, in] -> [S, out / lanes, in, lanes]
            return weight.view(stacks, -1, lanes, weight.shape[2]).transpose(2, 3)

        def gates(weight: Tensor) -> Tensor:  # [S, 3H, in] -> [S, H / lanes, in, 3, lanes]
            return weight.view(stacks, 3, size // lanes, lanes, -1).permute(0, 2, 4, 1, 3)

        both = torch.stack([gates(w_in), gates(w_state)], 2)
        biases = torch.cat([(b_in + b_state)[:, : 2 * size], b_in[:, 2 * size :], b_state[:, 2 * size :]], 1)
        biases = biases.view(stacks, 4, size // lanes, lanes).transpose(1, 2)
        weights = (columns(w), both, columns(pad(w_out, (0, 0, 0, missing))))
        return (
            torch.cat([each.reshape(stacks, -1) for each in weights], 1),
            torch.cat([b, biases.reshape(stacks, -1), pad(b_out, (0, missing))], 1),
        )

    def step(self, x: Tensor, state: Tensor, packed: Pair, outputs: int) -> tuple[Tensor, Tensor]:
        """x: [S, M, I], expanded or not, state: [S, M, H]. Returns what the networks give, [S, M, `outputs`], and
        their new state."""
        stacks, rows, inputs = x.shape
        shared = x.stride(0) == 0 or stacks == 1
        x, state = (x[0] if shared else x).contiguous(), state.contiguous()
        given, after = x.new_empty(stacks, rows, outputs), torch.empty_like(state)
        sizes = (stacks, rows, inputs, state.shape[2], outputs, 0 if shared else rows * inputs)
        self._act(*sizes, *[each.data_ptr() for each in (x, state, *packed, after, given)])
        return given, after


def act_kernel(like: Tensor, size: int) -> ActKernel | None:
    """For tensors of the kind of `like` and memories of `size` numbers; None where torch has to do it."""
    return _kernel(like.dtype) if computable(like) and fills_vectors(size, like.dtype) else None


@lru_cache
def _kernel(dtype: torch.dtype) -> ActKernel | None:
    library = loaded("act", dtype)
    return None if library is None else ActKernel(library)
