"""Whose turn it is to start a game: one at a time for all processes of a user on a machine. Needs fcntl (Unix)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_S = 0.05  # between attempts to get it


def lock_file() -> Path:
    """A file of the user's in the folder for temporary files, so that users do not wait for one another."""
    return Path(tempfile.gettempdir()) / f"phalanx-{os.getuid()}-game-start.lock"


@contextlib.contextmanager
def my_turn(patience_s: float) -> Iterator[str]:
    """Waits until nobody else is in here. Gives "", or why it is not our turn: whoever has it stands still for
    `patience_s`, or the file cannot be had.

    The lock is the kernel's, on the open file: it ends with the process that holds it, however that ends, and no
    process that is started meanwhile inherits it.
    """
    try:
        # No link: in a folder that everybody writes to it could lead anywhere.
        file = os.open(lock_file(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        yield f"{lock_file()} cannot be opened ({error.strerror})"
        return
    try:
        yield "" if _locked(file, patience_s) else f"another process has held {lock_file()} for {patience_s:g} s"
    finally:
        os.close(file)


def _locked(file: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
