"""C that is compiled where it runs, for that machine's processor, when it is first needed.

Nothing needs it: without a C compiler, or with PHALANX_NATIVE=0 in the environment, torch's operations do the same in
about 1.4 times the time (GRU) or more than twice (ATM). Compiled files are kept in $XDG_CACHE_HOME/phalanx
(~/.cache/phalanx), one for each source, compiler and processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger("phalanx.native")

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
KINDS = {torch.float32: ("-DREAL=float", "-DIS_DOUBLE=0"), torch.float64: ("-DREAL=double", "-DIS_DOUBLE=1")}
BLOCK = 64  # bytes of the widest vectors: a state's size must be a multiple
ROWS = 8  # most rows that are computed together
COMPILE_LIMIT_S = 60.0


class GRUKernel:
    """The recurrence of K GRUs, compiled for one precision. All tensors are contiguous and on the CPU; Python's lock is
    not held meanwhile."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._lanes_used = library.lanes()
        self._forward, self._backward = library.forward, library.backward
        for function, pointers in ((self._forward, 5), (self._backward, 7)):
            function.argtypes = [ctypes.c_long] * 4 + [ctypes.c_void_p] * pointers
            function.restype = None

    def fits(self, size: int) -> bool:
        """Whether states of this size can be computed."""
        return fills_vectors(size, self._dtype)

    def forward(
        self, gates: Tensor, weight: Tensor, bias: Tensor, save: bool, first: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """gates: [K, T, M, 3H], the input's part of reset, update and new, activated in place; weight: [K, 3H, H];
        bias: [K, H] of the new gate's recurrent part. Returns the states [K, T+1, M, H], `first` [K, M, H] or zeros at
        their head, and what the reset gate scales [K, T, M, H], which `backward` needs (None unless `save`)."""
        members, steps, rows, width = gates.shape
        size, lanes = width // 3, self._lanes_used
        packed = weight.view(members, 3, size // lanes, lanes, size).permute(0, 2, 4, 1, 3).contiguous()
        hidden = gates.new_empty(members, steps + 1, rows, size)
        hidden[:, 0] = 0.0 if first is None else first
        recurrent = gates.new_empty(members, steps, rows, size) if save else None
        bias = bias.contiguous()
        pointers = [address(each) for each in (gates, packed, bias, recurrent, hidden)]
        self._forward(members, steps, rows, size, *pointers)
        return hidden, recurrent

    def backward(self, grad: Tensor, gates: Tensor, recurrent: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
        """grad: [K, T, M, H] of the states. Returns dL/d of the pre-activations [K, T, M, 4H]: new, reset, update, and
        new once more as its recurrent part sees it."""
        members, steps, rows, size = grad.shape
        carry, outcome = grad.new_empty(ROWS, size), grad.new_empty(members, steps, rows, 4 * size)
        tensors = (grad.contiguous(), gates, recurrent, hidden, weight.contiguous(), carry, outcome)
        self._backward(members, steps, rows, size, *[address(each) for each in tensors])
        return outcome


def address(tensor: Tensor | None) -> int | None:
    """What C takes; null for None."""
    return None if tensor is None else tensor.data_ptr()


def computable(like: Tensor) -> bool:
    """Whether C can compute with tensors of the kind of `like`."""
    return like.device.type == "cpu" and like.dtype in KINDS


def fills_vectors(size: int, dtype: torch.dtype) -> bool:
    """Whether states of this size are whole vectors."""
    return size % (BLOCK // dtype.itemsize) == 0


def gru_kernel(like: Tensor) -> GRUKernel | None:
    """For tensors of the kind of `like`; None where torch has to do it."""
    return _kernel(like.dtype) if computable(like) else None


@lru_cache
def _kernel(dtype: torch.dtype) -> GRUKernel | None:
    library = loaded("gru", dtype)
    return None if library is None else GRUKernel(library, dtype)


def loaded(source: str, dtype: torch.dtype) -> ctypes.CDLL | None:
    """`source`.c, compiled; None where torch's operations have to take its place."""
    if os.environ.get("PHALANX_NATIVE") == "0":
        return None
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        log.info("no C compiler: %s is computed by torch's operations, which takes longer", source)
        return None
    try:
        return _library(compiler, source, dtype)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s.c cannot be compiled (%s): torch's operations take its place", source, error)
        return None


def _library(compiler: str, source: str, dtype: torch.dtype) -> ctypes.CDLL:
    code = FOLDER / f"{source}.c"
    command = [compiler, *FLAGS, *KINDS[dtype], str(code)]
    text = code.read_bytes() + (FOLDER / "vectors.h").read_bytes()
    identity = (text, " ".join(command).encode(), _processor().encode(), _version(compiler))
    name = f"{source}-{hashlib.sha256(b'|'.join(identity)).hexdigest()[:24]}.so"
    with tempfile.TemporaryDirectory() as scratch:
        cache = _cache() or Path(scratch)
        if not (cache / name).exists():
            made = Path(scratch) / name
            subprocess.run([*command, "-o", made], check=True, capture_output=True, timeout=COMPILE_LIMIT_S)
            _put(made, cache / name)
        return ctypes.CDLL(str(cache / name))  # stays loaded when its file is gone


def _put(made: Path, place: Path) -> None:
    """Into place at once: other processes may be compiling the same."""
    aside = place.with_name(f"{place.name}.{os.getpid()}")
    shutil.copyfile(made, aside)
    os.replace(aside, place)


def _cache() -> Path | None:
    """A folder that nobody else can write to; None where there is none."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phalanx"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = root.stat()
    except (OSError, RuntimeError):  # the latter: there is no home
        return None
    private = about.st_uid == os.getuid() and not about.st_mode & 0o022
    return root if private and os.access(root, os.W_OK) else None


def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=COMPILE_LIMIT_S).stdout


def _processor() -> str:
    """What -march=native depends on: homes are shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "|".join(next((x for x in lines if x.startswith(key)), "") for key in ("model name", "flags", "Features"))
