"""Parts of an update that another thread computes beside this one's, to the bit what this one would compute.

Nothing of it happens unless a learner lends a thread (`lent`): without, all is computed where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


class Later(Generic[T]):
    """`compute()`, under way in the lent thread if there is one that is free."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._with_grad = torch.is_grad_enabled()  # each thread has a mode of its own
        lender = _lender.get()
        self._future = None if lender is None else lender.executor.submit(self._there)

    def _there(self) -> T:
        with torch.set_grad_enabled(self._with_grad):
            return self._compute()

    def result(self) -> T:
        """What `compute` returned or raised; computed here, without waiting, where the other thread has not begun."""
        if self._future is None or self._future.cancel():
            return self._compute()
        return self._future.result()


class Lender:
    """A thread, and what it was given that nobody has waited for yet."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._backward: list[Later[None]] = []
        self._cuts = 0  # whose gradients have not arrived

    def cut(self, made: T) -> T:
        """`made`, a dataclass of tensors, as leaves; when the last of them has its gradient, the backward pass through
        what made them starts in the lent thread."""
        names = [each.name for each in fields(cast(Any, made))]
        outputs: list[Tensor] = [getattr(made, name) for name in names]
        gradients: dict[int, Tensor | None] = {}
        self._cuts += 1

        def arrived(k: int) -> Callable[[Tensor], None]:
            def note(leaf: Tensor) -> None:  # holds no leaf, which holds it: memory would not come back
                gradients[k] = leaf.grad
                if len(gradients) == len(outputs):
                    self._cuts -= 1
                    in_order = [gradients[k] for k in range(len(outputs))]
                    self._backward.append(Later(lambda: torch.autograd.backward(outputs, in_order)))

            return note

        leaves = [output.detach().requires_grad_() for output in outputs]
        for k, leaf in enumerate(leaves):
            leaf.register_post_accumulate_grad_hook(arrived(k))  # type: ignore[no-untyped-call]
        return type(made)(*leaves)

    def join(self) -> None:
        """Waits for the backward passes. RuntimeError where the loss did not reach all that was cut."""
        if self._cuts:
            raise RuntimeError(f"{self._cuts} branches of the loss got no gradient: a Branch must enter it whole")
        while self._backward:
            self._backward.pop().result()

    def forget(self) -> None:
        """Of a loss that was not learned from, nothing will arrive."""
        self._cuts = 0


_lender: ContextVar[Lender | None] = ContextVar("lender", default=None)


@contextmanager
def lent(lender: Lender | None) -> Iterator[None]:
    """Lends a thread to what is computed inside; `join` before the gradients are read. None lends nothing."""
    token = _lender.set(lender)
    try:
        yield
    finally:
        _lender.reset(token)
        if lender is not None:
            lender.forget()


class Branch(Generic[T]):
    """A dataclass of tensors that the lent thread computes, forward and, when their gradients are there, backward."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._later = Later(compute)

    def result(self) -> T:
        made = self._later.result()
        lender = _lender.get()
        if lender is None or made is None or not torch.is_grad_enabled():
            return made
        return lender.cut(made)
