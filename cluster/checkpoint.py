"""Checkpoints: written aside, checksummed, renamed; the newest intact one is found. Plain: no ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Intact(NamedTuple):
    path: Path
    manifest: dict[str, Any]
    problems: list[str]  # a sentence for each newer checkpoint that is damaged


def save_checkpoint(
    root: Path, env_steps: int, write: Callable[[Path], None], manifest: Mapping[str, Any], keep: int = 2
) -> Path:
    """`root/step_<env_steps, 12 digits>`, filled by `write(folder)` under a temporary name; older ones beyond `keep`
    go. UserError (disk full, no permission) leaves everything as it was."""
    raise NotImplementedError


def newest_intact(root: Path) -> Intact:
    """The newest checkpoint whose files are all there and unchanged. UserError where there is none."""
    raise NotImplementedError
