"""atm.c, compiled: the recurrence of ATM over whole episodes."""

from __future__ import annotations

import ctypes
from dataclasses import astuple, dataclass
from functools import lru_cache

import torch
from torch import Tensor

from phalanx.algorithms.common.native import address, computable, fills_vectors, loaded

EMBEDDED = 4  # most kinds of tokens that are embedded: the agent itself, and three kinds of entities


@dataclass(frozen=True)
class ATMSizes:
    """Of a network. Tokens: `basic` of the agent itself, then as many of each kind of entity as `counts` says (the
    first kind that of the enemies), then the memory's `slots`; the first `bound` ones have values."""

    hidden: int
    heads: int
    basic: int
    bound: int
    slots: int
    widths: tuple[int, ...]  # numbers that describe the agent itself, and an entity of each kind
    counts: tuple[int, ...]  # 1, and entities of each kind


class ATMKernel:
    """Forward and backward of one network, compiled for one precision. All tensors are contiguous and on the CPU;
    Python's lock is not held meanwhile. seen: [T, M, numbers], the agent itself first; parameters: [P], as
    `struct layers` in atm.c lays them out."""

    def __init__(self, library: ctypes.CDLL, sizes: ATMSizes) -> None:
        self.sizes, self._forward, self._backward, rooms = sizes, library.forward, library.backward, library.rooms
        for function, pointers in ((self._forward, 6), (self._backward, 8), (rooms, 3)):
            function.argtypes = [ctypes.POINTER(ctypes.c_long)] + [ctypes.c_void_p] * pointers
            function.restype = None
        room = [ctypes.c_long() for _ in range(3)]
        rooms(self._sizes(0, 0), *[ctypes.addressof(each) for each in room])
        self.parameters, self._kept, self._scratch = (each.value for each in room)

    def forward(self, seen: Tensor, parameters: Tensor, kept: Tensor | None, values: Tensor, known: Tensor) -> None:
        """Writes values [T, M, bound], known [T, M, H], and into `kept` (`room_for`) what `backward` needs."""
        scratch = seen.new_empty(self._scratch)
        self._forward(self._sizes(*seen.shape[:2]), *map(address, (seen, parameters, kept, scratch, values, known)))

    def backward(
        self,
        seen: Tensor,
        parameters: Tensor,
        kept: Tensor,
        known: Tensor,
        of_values: Tensor,
        of_known: Tensor,
        gradient: Tensor,
    ) -> None:
        """of_values: [T, M, bound], of_known: [T, M, H]. Adds to `gradient` [P], which lies as `parameters` does."""
        scratch = seen.new_empty(self._scratch)
        tensors = (seen, parameters, kept, scratch, known, of_values, of_known, gradient)
        self._backward(self._sizes(*seen.shape[:2]), *map(address, tensors))

    def room_for(self, steps: int, rows: int) -> int:
        """How many numbers are kept of so many steps of so many rows."""
        return steps * rows * self._kept

    def _sizes(self, steps: int, rows: int) -> ctypes.Array[ctypes.c_long]:
        *single, widths, counts = astuple(self.sizes)
        missing = (0,) * (EMBEDDED - len(widths))
        numbers = (steps, rows, *single, len(widths), *widths, *missing, *counts, *missing)
        return (ctypes.c_long * len(numbers))(*numbers)


def atm_kernel(like: Tensor, sizes: ATMSizes) -> ATMKernel | None:
    """For tensors of the kind of `like`; None where torch has to do it."""
    return _kernel(like.dtype, sizes) if computable(like) else None


@lru_cache
def _kernel(dtype: torch.dtype, sizes: ATMSizes) -> ATMKernel | None:
    if not fills_vectors(sizes.hidden, dtype) or len(sizes.widths) > EMBEDDED:
        return None
    library = loaded("atm", dtype)
    return None if library is None else ATMKernel(library, sizes)
