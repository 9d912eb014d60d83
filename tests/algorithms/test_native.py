"""The compiled GRU: as torch's operations have it, whatever the batch, and never needed."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phalanx.algorithms.common import native
from phalanx.algorithms.common.gru import gru_sequence

needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler")


@pytest.fixture(autouse=True)
def _loads_anew() -> Iterator[None]:
    native._kernel.cache_clear()
    yield
    native._kernel.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "phalanx"


def problem(dtype: torch.dtype, rows: int = 13, size: int = 64, steps: int = 7) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(rows)
    shapes = ((2, steps, rows, 9), (2, 3 * size, 9), (2, 3 * size, size), (2, 3 * size), (2, 3 * size))
    drawn = [torch.randn(shape, generator=draw, dtype=torch.float64) / shape[-1] ** 0.5 for shape in shapes]
    return tuple(tensor.to(dtype).requires_grad_(True) for tensor in drawn)


def solved(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The states and the gradients of a loss that weighs them unequally."""
    states = gru_sequence(*tensors)
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)
    return [states, *torch.autograd.grad((states * weights).sum(), tensors)]


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("size", [16, 48, 64, 128])
def test_equals_torchs_operations(
    dtype: torch.dtype, tolerance: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = problem(dtype, size=size)
    kernel = native.gru_kernel(tensors[0])
    assert kernel is not None and kernel.fits(size)
    compiled = solved(tensors)
    monkeypatch.setenv("PHALANX_NATIVE", "0")
    native._kernel.cache_clear()
    assert native.gru_kernel(tensors[0]) is None
    for ours, theirs in zip(compiled, solved(tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


@needs_compiler
def test_single_precision_is_as_good_as_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = [
        each.float() for each in solved(tuple(t.detach().double().requires_grad_() for t in problem(torch.float32)))
    ]
    compiled = solved(problem(torch.float32))
    monkeypatch.setenv("PHALANX_NATIVE", "0")
    native._kernel.cache_clear()
    for ours, theirs, truth in zip(compiled, solved(problem(torch.float32)), exact, strict=True):
        assert (ours - truth).norm() <= 2 * (theirs - truth).norm() + 1e-7 * truth.norm()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    """To the bit, which torch's products do not promise."""
    kernel = native.gru_kernel(torch.zeros(1, dtype=dtype))
    assert kernel is not None
    gates, weight, bias = (torch.randn(shape, dtype=dtype) for shape in ((1, 5, 11, 96), (1, 96, 32), (1, 32)))
    together, _ = kernel.forward(gates.clone(), weight, bias, save=False)
    for row in range(11):
        alone, _ = kernel.forward(gates[:, :, row : row + 1].contiguous(), weight, bias, save=False)
        assert torch.equal(alone[:, :, 0], together[:, :, row])


@needs_compiler
def test_what_is_not_a_number_stays_visible() -> None:
    tensors = problem(torch.float32)
    with torch.no_grad():
        tensors[0][0, 3, 2] = torch.nan
    states = gru_sequence(*tensors)
    assert states[0, 3:, 2].isnan().all() and states[0, :3].isfinite().all() and states[1].isfinite().all()


@needs_compiler
def test_is_compiled_once_for_each_precision(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.float64):
        assert native.gru_kernel(torch.zeros(1, dtype=dtype)) is not None
    made = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(made) == 2 and cache.stat().st_mode & 0o077 == 0
    native._kernel.cache_clear()
    monkeypatch.setattr(native, "COMPILE_LIMIT_S", 5.0)
    assert native.gru_kernel(torch.zeros(1)) is not None
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == made


@needs_compiler
def test_a_cache_that_others_can_write_to_is_not_used(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    assert native.gru_kernel(torch.zeros(1)) is not None
    assert not list(cache.iterdir())


@pytest.mark.parametrize(("compiler", "says"), [("no-such-compiler", "no C compiler"), ("false", "cannot be compiled")])
def test_torch_takes_its_place(
    compiler: str, says: str, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.INFO, "phalanx.native"):
        states, *_ = solved(problem(torch.float32))
    assert says in caplog.text
    assert states.isfinite().all()


def test_other_kinds_are_torchs() -> None:
    assert native.gru_kernel(torch.zeros(1, dtype=torch.bfloat16)) is None
    assert native.gru_kernel(torch.zeros(1, device="meta")) is None
