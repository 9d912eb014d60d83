"""Game processes that never outlive whoever started them, however that ends. Needs /proc (Linux).

A game is known by a mark in its environment variables, which it has from its first moment on, even where the library
that starts it has not told its number yet. A watchdog process ends the marked games when their owner is gone (SIGKILL
runs no exit handlers), and every new owner ends what a lost watchdog has left over. Standard library only: the watchdog
is this file, run by its path.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

MARK = "PHALANX_GAME"
MADE = re.compile(r"(\w+)-([0-9]+)-([0-9]+)-[0-9a-f]+\.[0-9]+")  # what `Keeper.new_mark` gives
LAST_LOOKS_S = (0.0, 0.5, 2.0)  # after an owner's end: a game may have been about to start


def _started(pid: int) -> str | None:
    """When the process began, in the system's ticks; None where there is none. With the pid it names a process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _space() -> str:
    """The space in which pids are numbered: a container has its own."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "0"


def can_look() -> bool:
    """Whether there is /proc. Without it nothing of this works, and nothing fails."""
    return os.path.isdir("/proc/self")


def marked(matches: Callable[[str], bool]) -> list[int]:
    """Processes whose mark matches."""
    found = []
    for entry in os.listdir("/proc") if can_look() else ():
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:  # gone meanwhile, or somebody else's
            continue
        # Somebody else's value may be any bytes.
        values = [v.partition(b"=")[2].decode(errors="replace") for v in variables if v.startswith(f"{MARK}=".encode())]
        if values and matches(values[0]):
            found.append(int(entry))
    return found


def kill(matches: Callable[[str], bool]) -> int:
    """Kills the processes whose mark matches; how many there were."""
    pids = marked(matches)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def is_orphan(mark: str) -> bool:
    """Whether the owner that the mark names is gone. Another container's owner cannot be judged from here, and what is
    no mark of ours, whoever set the variable, names none."""
    made = MADE.fullmatch(mark)
    if made is None:
        return False
    space, pid, began = made.groups()
    return space == _space() and _started(int(pid)) != began


class Keeper:
    """Owns some games. `start` before the first one, `close` after the last."""

    def __init__(self) -> None:
        # The address tells two keepers of one process apart.
        self._owner = f"{_space()}-{os.getpid()}-{_started(os.getpid())}-{id(self):x}"
        self._count = 0
        self._watchdog: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Starts the watchdog and ends orphans of former owners; how many there were."""
        if self._watchdog is None and can_look():
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", os.path.abspath(__file__), self._owner],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # no signal to our group reaches it
            )
        return kill(is_orphan)

    def new_mark(self) -> str:
        """A mark for one game."""
        self._count += 1
        return f"{self._owner}.{self._count}"

    @contextlib.contextmanager
    def marking(self, mark: str) -> Iterator[None]:
        """Processes that are started meanwhile, by any thread of ours, bear the mark."""
        os.environ[MARK] = mark
        try:
            yield
        finally:
            del os.environ[MARK]

    def close(self) -> None:
        """Ends what is left of the games, and the watchdog."""
        kill(lambda mark: mark.startswith(f"{self._owner}."))
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.kill()
            self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None


def watch(owner: str) -> None:
    """Waits for the end of standard input, which is the owner's, then ends the games of `owner`."""
    while os.read(0, 4096):
        pass
    for pause in LAST_LOOKS_S:
        time.sleep(pause)
        kill(lambda mark: mark.startswith(f"{owner}."))


if __name__ == "__main__":
    watch(sys.argv[1])
