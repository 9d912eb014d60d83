"""What is said where an environment itself breaks: a sentence with its name, its error and the line of code."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

import phalanx
from phalanx.configs.errors import RunFailed, UserError
from phalanx.envs.team import Obs, Step, TeamEnv

A = TypeVar("A")
B = TypeVar("B")
FAULTS = (Exception, SystemExit)
"""What an environment may raise. SystemExit as well: code of somebody else's must not end a run without a word."""


def reset_env(env: TeamEnv, seeds: Sequence[Iterator[int]]) -> Obs:
    """`env.reset(seeds)`; whatever it raises is a RunFailed that names the environment."""
    return _asked(env, "reset", env.reset, seeds)


def step_env(env: TeamEnv, actions: npt.NDArray[Any]) -> Step:
    """`env.step(actions)`; whatever it raises is a RunFailed that names the environment."""
    return _asked(env, "step", env.step, actions)


def _asked(env: TeamEnv, what: str, method: Callable[[A], B], argument: A) -> B:
    try:
        return method(argument)
    except (UserError, RunFailed):
        raise
    except FAULTS as error:
        raise RunFailed(f"environment {env.spec.env_name} failed in {what}: {in_words(error)}") from error


def in_words(error: BaseException) -> str:
    """`RuntimeError: no such unit (my_game.py:70, in step)`: the innermost line outside of phalanx and of libraries,
    where there is one. Of an error with a sentence of its own, that sentence."""
    if isinstance(error, UserError | RunFailed):
        return str(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    ours = str(Path(phalanx.__file__).parent)
    theirs = [frame for frame in frames if not frame.filename.startswith((ours, "<", *libraries))] or frames
    return f"{what} ({Path(theirs[-1].filename).name}:{theirs[-1].lineno}, in {theirs[-1].name})" if theirs else what
