"""What a second thread computes beside an update is what the update's own thread would compute, to the bit."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from phalanx.algorithms.common.beside import Branch, Later, Lender, lent


@dataclass
class Pair:
    left: Tensor
    right: Tensor


@pytest.fixture
def lender() -> Lender:
    return Lender(ThreadPoolExecutor(1))


def loss_through(weight: Tensor, other: Tensor, uses_right: bool = True) -> Tensor:
    branch = Branch(lambda: Pair(weight.sin(), weight * weight))
    slow = other.exp()
    pair = branch.result()
    return (pair.left * slow).sum() + (pair.right.abs().mean() if uses_right else 0.0)


def multiples(tensor: Tensor) -> Pair:
    return Pair(tensor * 2, tensor * 3)


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def gradients(lender: Lender | None) -> list[Tensor]:
    torch.manual_seed(0)
    weight, other = (torch.randn(64, 8, requires_grad=True) for _ in range(2))
    with lent(lender):
        backward(loss_through(weight, other))
        if lender is not None:
            lender.join()
    return [tensor.grad for tensor in (weight, other) if tensor.grad is not None]


def test_a_branch_has_the_same_gradients_in_another_thread(lender: Lender) -> None:
    here, there = gradients(None), gradients(lender)
    assert len(here) == len(there) == 2
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_a_branch_that_the_loss_leaves_out_in_part_is_an_error(lender: Lender) -> None:
    weight = torch.ones(3, requires_grad=True)
    with lent(lender):
        backward(loss_through(weight, torch.ones(3), uses_right=False))
        with pytest.raises(RuntimeError, match="no gradient"):
            lender.join()


def test_without_gradients_a_branch_is_only_computed(lender: Lender) -> None:
    with lent(lender), torch.no_grad():
        pair = Branch(lambda: Pair(torch.ones(2), torch.ones(2))).result()
    assert not pair.left.requires_grad
    lender.join()


def test_later_runs_in_the_lent_thread_with_the_grad_mode_of_its_maker(lender: Lender) -> None:
    with lent(lender), torch.no_grad():
        later = Later(lambda: (threading.get_ident(), torch.is_grad_enabled()))
        lender.executor.submit(lambda: None).result()  # it has been its turn
        thread, grad = later.result()
    assert thread != threading.get_ident() and not grad


def test_later_is_computed_here_where_the_other_thread_has_not_begun(lender: Lender) -> None:
    release = threading.Event()
    lender.executor.submit(release.wait)
    try:
        with lent(lender):
            assert Later(threading.get_ident).result() == threading.get_ident()
    finally:
        release.set()


def test_errors_come_where_the_result_is_asked_for(lender: Lender) -> None:
    def fails() -> None:
        raise ValueError("no")

    with lent(lender):
        later = Later(fails)
        with pytest.raises(ValueError, match="no"):
            later.result()
    with pytest.raises(ValueError, match="no"):
        Later(fails).result()


def test_what_was_computed_is_given_back(lender: Lender) -> None:
    """Without waiting for the garbage collector, which actors hardly run."""
    gone = []
    gc.disable()
    try:
        for learned in (True, False):
            tensor = torch.ones(4, requires_grad=True)
            with lent(lender):
                branch = Branch(partial(multiples, tensor))
                pair = branch.result()
                gone += [weakref.ref(pair.left), weakref.ref(pair.right)]
                if learned:
                    backward((pair.left + pair.right).sum())
                    lender.join()
            del branch, pair, tensor
        lender.executor.submit(lambda: None).result()  # its thread holds nothing of the last task any more
        assert [reference() for reference in gone] == [None] * 4
    finally:
        gc.enable()
