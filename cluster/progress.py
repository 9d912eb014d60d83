"""How far a run is: counters, what is due next, and how much is explored now. Plain: shared by loop and service."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.configs.settings import ExplorationSettings


@dataclass
class Progress:
    """Everything a run counts; a checkpoint's progress.json. In sync mode it decides how the run goes on."""

    env_steps: int = 0
    updates: int = 0
    episodes: int = 0
    sequences: list[int] = field(default_factory=list)  # next sequence of each stream
    incarnations: list[int] = field(default_factory=list)  # of each stream; 0: never played on (async)
    evaluations: int = 0  # recorded in evaluations.json
    evaluated_at: int = -1  # env steps; -1: never
    checkpointed_at: int = 0
    reported_at: int = 0
    wall_s: float = 0.0
    restarts: int = 0
    episodes_lost: int = 0
    best: dict[str, float] = field(default_factory=dict)  # eval/… of the evaluation with the highest mean return
    final: dict[str, float] = field(default_factory=dict)  # eval/… of the newest evaluation
    limiter: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        """What `to_json` gave. UserError where the keys are not this version's."""
        try:
            return cls(**data)
        except TypeError as error:
            raise UserError(f"the checkpoint's progress was written by another version of phalanx: {error}") from error


def due(every: int, last: int, now: int) -> bool:
    """Whether a multiple of `every` lies in (last, now]; always where `last` is negative (never happened)."""
    return last < 0 or now // every > last // every


def epsilon_at(exploration: ExplorationSettings, env_steps: int) -> float:
    """Linear from `start` to `end` over `exploration.env_steps`, `end` from then on."""
    if env_steps >= exploration.env_steps:
        return exploration.end
    return exploration.start + (exploration.end - exploration.start) * env_steps / exploration.env_steps
