"""ATM's compiled recurrence: as torch's operations have it, whatever the sizes and the batch, and never needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phalanx.algorithms.common.native import atm as native_atm
from phalanx.algorithms.common.networks.atm import ATMAgents
from phalanx.algorithms.common.networks.build import make_agent_networks
from phalanx.envs.team import EntityView, TeamSpec
from tests.algorithms.test_networks import SPEC, agent_settings

needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler")
# No enemies, so that every action is basic; and 17 tokens with the memory's: more than a vector has.
PEACEFUL = replace(SPEC, entities=EntityView(own=(0, 1, 2), allies=tuple((3 + k,) for k in range(9))))
SPECS = {"enemies": SPEC, "peaceful": PEACEFUL}


@pytest.fixture(autouse=True)
def _loads_anew() -> Iterator[None]:
    native_atm._kernel.cache_clear()
    yield
    native_atm._kernel.cache_clear()


def network(
    spec: TeamSpec = SPEC, dtype: torch.dtype = torch.float64, scale: float = 0.5, sharing: str = "full", **others: Any
) -> ATMAgents:
    agents = make_agent_networks(spec, 1, agent_settings("atm", sharing, last_action=False, **others)).to(dtype)
    assert isinstance(agents, ATMAgents)
    draw = torch.Generator().manual_seed(0)
    for parameter in agents.parameters():
        drawn = torch.rand(parameter.shape, generator=draw, dtype=torch.float64)
        parameter.data.copy_((2 * drawn - 1) * scale * (8 / agents.hidden) ** 0.5)
    return agents


def seen(agents: ATMAgents, steps: int, rows: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    stacks = len(next(agents.parameters()))
    x = torch.randn(stacks, steps, rows, SPEC.obs_dim, generator=draw, dtype=torch.float64)
    return x.to(next(agents.parameters()).dtype)


def solved(agents: ATMAgents, x: Tensor, compiled: bool) -> list[Tensor]:
    """Values, memories, and the gradients of a loss that weighs them unequally."""
    assert native_atm.atm_kernel(x, agents._sizes) is not None
    unroll = agents.unroll if compiled else agents._unroll_by_torch
    outcomes = unroll(x, agents.chosen())
    loss = sum((out * torch.linspace(-1, 1.5, out.numel(), dtype=out.dtype).view_as(out)).sum() for out in outcomes)
    assert isinstance(loss, Tensor)
    return [*outcomes, *torch.autograd.grad(loss, list(agents.parameters()))]


@needs_compiler
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    ("hidden", "heads", "slots"), [(8, 4, 3), (8, 1, 1), (24, 3, 2), (32, 2, 5), (64, 4, 3), (64, 16, 3)]
)
def test_equals_torchs_operations(spec: str, hidden: int, heads: int, slots: int) -> None:
    agents = network(SPECS[spec], hidden=hidden, attention={"heads": heads, "slots": slots})
    x = seen(agents, steps=5, rows=11)
    for ours, theirs in zip(solved(agents, x, True), solved(agents, x, False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@needs_compiler
@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 6), rows=st.integers(1, 19))
def test_equals_torchs_operations_for_any_batch(seed: int, steps: int, rows: int) -> None:
    """Whole blocks of rows and what is left over, and fewer steps than slots."""
    agents = network(sharing="none")
    x = seen(agents, steps, rows, seed)
    for ours, theirs in zip(solved(agents, x, True), solved(agents, x, False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@needs_compiler
@pytest.mark.parametrize("hidden", [16, 64])
def test_single_precision_is_as_good_as_torchs(hidden: int) -> None:
    exact = network(hidden=hidden)
    single = network(hidden=hidden, dtype=torch.float32)
    x = seen(exact, steps=7, rows=13)
    single.load_state_dict(exact.state_dict())
    exact.load_state_dict(single.state_dict())
    truth = solved(exact, x.float().double(), False)
    compiled, by_torch = (solved(single, x.float(), compiled) for compiled in (True, False))
    for ours, theirs, true in zip(compiled, by_torch, truth, strict=True):
        assert (ours - true).norm() <= 2 * (theirs - true).norm() + 1e-6 * true.norm()


@needs_compiler
@pytest.mark.parametrize("spec", SPECS)
def test_gradients_numerically(spec: str) -> None:
    agents = network(SPECS[spec], attention={"slots": 2})
    x = seen(agents, steps=4, rows=3)
    names, pairs = zip(*agents.chosen().items(), strict=True)
    flat = [tensor.detach().clone().requires_grad_(True) for pair in pairs for tensor in pair]

    def outcome(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return agents.unroll(x, dict(zip(names, zip(tensors[::2], tensors[1::2], strict=True), strict=True)))

    assert torch.autograd.gradcheck(outcome, flat, fast_mode=True)


@needs_compiler
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("step", [0, 2, 4])
def test_gradients_of_one_outcome_alone(part: int, step: int) -> None:
    agents = network()
    x, parameters = seen(agents, steps=5, rows=3), list(agents.parameters())
    found = []
    for unroll in (agents.unroll, agents._unroll_by_torch):
        loss = unroll(x, agents.chosen())[part][:, step].square().sum()
        found.append(torch.autograd.grad(loss, parameters, materialize_grads=True))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    """To the bit, with and without gradients."""
    agents = network(dtype=dtype, hidden=16)
    x, layers = seen(agents, steps=4, rows=19), agents.chosen()
    together = agents.unroll(x, layers)
    with torch.no_grad():
        for first in range(0, 19, 3):
            few = agents.unroll(x[:, :, first : first + 3], layers)
            for part, whole in zip(few, together, strict=True):
                assert torch.equal(part, whole[:, :, first : first + 3])


@needs_compiler
def test_runs_are_equal_to_the_bit() -> None:
    """Also backward twice through one pass."""
    agents = network(dtype=torch.float32, hidden=16)
    x, parameters = seen(agents, steps=6, rows=21), list(agents.parameters())
    losses = [agents.unroll(x, agents.chosen())[0].square().sum() for _ in range(2)]
    first = torch.autograd.grad(losses[0], parameters, retain_graph=True)
    for loss in losses:
        again = torch.autograd.grad(loss, parameters)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@needs_compiler
def test_large_products_stay_finite() -> None:
    """Attention falls on one token, tanh is flat."""
    agents = network(scale=300.0)
    outcome = solved(agents, seen(agents, steps=5, rows=4), True)
    assert all(tensor.isfinite().all() for tensor in outcome)


@needs_compiler
def test_what_is_not_a_number_stays_visible() -> None:
    agents = network()
    x = seen(agents, steps=5, rows=10)
    x[0, 3, 2] = torch.nan
    values, known = agents.unroll(x, agents.chosen())
    for outcome in (values, known):
        assert outcome[0, 3:, 2].isnan().all() and outcome[0, :3].isfinite().all()
        assert outcome[0, :, [0, 1, *range(3, 10)]].isfinite().all()


def test_torch_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler, for sizes that do not fit, and for gradients of what is seen."""
    agents = network()
    x = seen(agents, 3, 2)
    expected = agents.unroll(x, agents.chosen())
    monkeypatch.setenv("PHALANX_NATIVE", "0")
    native_atm._kernel.cache_clear()
    assert native_atm.atm_kernel(x, agents._sizes) is None
    for ours, theirs in zip(expected, agents.unroll(x, agents.chosen()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    monkeypatch.delenv("PHALANX_NATIVE")
    native_atm._kernel.cache_clear()
    odd = network(hidden=12)
    assert native_atm.atm_kernel(x, odd._sizes) is None and odd.unroll(x, odd.chosen())[0].isfinite().all()
    assert native_atm.atm_kernel(x.to(torch.bfloat16), agents._sizes) is None
    assert native_atm.atm_kernel(x.to("meta"), agents._sizes) is None
    values, _ = agents.unroll(x.requires_grad_(True), agents.chosen())
    assert torch.autograd.grad(values.square().sum(), x)[0].any()
