"""Ctrl-C and SIGTERM: the first asks the run to save a checkpoint and stop, a second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A context in which the two signals only take note; the run asks `requested()` between two turns.

    `on_first` tells the user, once. Outside the main thread, where Python does not let signals be handled, nothing is
    changed.
    """

    def __init__(self, on_first: Callable[[str], None]) -> None:
        self._on_first = on_first
        self._before: dict[int, Any] = {}
        self._asked = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def requested(self) -> bool:
        """Whether the run was asked to stop."""
        # Ray puts a handler of its own in place of ours when it starts: ours is put back here.
        for number in self._before:
            if signal.getsignal(number) != self._note:
                signal.signal(number, self._note)
        return self._asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._asked:
            self._asked = True
            self._on_first(signal.Signals(number).name)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
