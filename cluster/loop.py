"""The reference of sync mode: everything in one process, in order. What the Ray service must equal bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phalanx.configs.settings import RunSettings


class SerialLoop:
    """Rollout, replay, learner and evaluator in rounds."""

    def __init__(self, run: RunSettings, out: Path, *, resume: bool = False) -> None:
        raise NotImplementedError

    def round(self) -> bool:
        """One round: every stream plays, everything is inserted, all owed updates are made, then what is due.
        False when the run is complete."""
        raise NotImplementedError

    def run(self) -> dict[str, Any]:
        """Rounds until the end; the summary."""
        raise NotImplementedError


def train_serially(run: RunSettings, out: Path, resume: bool = False) -> dict[str, Any]:
    """A whole run in this process; the summary."""
    return SerialLoop(run, out, resume=resume).run()
