"""The compiled step of recurrent agents against torch's operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from phalanx.algorithms.common import native
from phalanx.algorithms.common.agents import PACKED, RecurrentAgents
from phalanx.algorithms.common.gru import gru_step
from phalanx.algorithms.common.linear import affine
from phalanx.algorithms.common.native.act import ActKernel, act_kernel
from phalanx.algorithms.common.networks.plan import Plan
from phalanx.configs.settings import AgentSettings

SHAPES = [(1, 96, 86, 64, 8), (1, 1, 3, 16, 2), (3, 13, 7, 32, 37), (4, 17, 9, 48, 16)]  # S, M, I, H, A


def kernel_of(like: Tensor, size: int) -> ActKernel:
    found = act_kernel(like, size)
    if found is None:
        pytest.skip("no C compiler")
    return found


def layer(stacks: int, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(stacks, outputs, inputs, dtype=dtype) / 3, torch.randn(stacks, outputs, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_torchs(shape: tuple[int, ...], shared: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    stacks, rows, inputs, size, outputs = shape
    sizes = ((size, inputs), (3 * size, size), (3 * size, size), (outputs, size))
    first, of_input, of_state, last = layers = [layer(stacks, *each, dtype) for each in sizes]
    x = torch.randn(1 if shared else stacks, rows, inputs, dtype=dtype).expand(stacks, -1, -1)
    state = torch.rand(stacks, rows, size, dtype=dtype) * 2 - 1
    kernel = kernel_of(x, size)
    given, after = kernel.step(x, state, kernel.packed(*layers), outputs)
    gates = affine(torch.relu(affine(x, *first)), *of_input)
    expected = gru_step(gates, state, *of_state)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(after, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(given, affine(expected, *last), rtol=10 * tolerance, atol=10 * tolerance)


def test_a_row_does_not_depend_on_the_others() -> None:
    torch.manual_seed(1)
    layers = [layer(2, *each, torch.float32) for each in ((32, 5), (96, 32), (96, 32), (3, 32))]
    x, state = torch.randn(2, 11, 5), torch.rand(2, 11, 32)
    kernel = kernel_of(x, 32)
    packed = kernel.packed(*layers)
    together = kernel.step(x, state, packed, 3)
    for row in range(11):
        alone = kernel.step(x[:, [row]], state[:, [row]], packed, 3)
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[:, 0], all_of_them[:, row])


def test_what_is_not_a_number_shows() -> None:
    layers = [layer(1, *each, torch.float32) for each in ((16, 2), (48, 16), (48, 16), (2, 16))]
    kernel = kernel_of(torch.zeros(1), 16)
    x = torch.tensor([[[float("nan"), 0.0]]])
    given, after = kernel.step(x, torch.zeros(1, 1, 16), kernel.packed(*layers), 2)
    assert given.isnan().all() and after.isnan().all()


def test_agents_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is compiled, or for sizes that do not fit, torch computes the same."""
    torch.manual_seed(2)
    agents = RecurrentAgents(Plan(2, 5, 3, AgentSettings(hidden=32))).requires_grad_(False)
    x, state, layers = torch.randn(6, 5), agents.initial_state(6), agents.chosen()
    kernel_of(x, 32)
    packed = agents.for_acting(layers)
    assert PACKED in packed
    for one, other in zip(agents.step(x, state, packed), agents.step(x, state, layers), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    odd = RecurrentAgents(Plan(1, 5, 3, AgentSettings(hidden=12)))
    assert PACKED not in odd.for_acting(odd.chosen())
    monkeypatch.setenv("PHALANX_NATIVE", "0")
    assert native.loaded("act", torch.float32) is None
