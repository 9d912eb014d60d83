"""The actors of a run as the coordinator sees them, whatever they run on. Plain: no ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from phalanx.envs.team import TeamSpec


@dataclass(frozen=True)
class Hello:
    """What an actor says of itself when it has started."""

    pid: int
    spec: TeamSpec | None = None  # of the environments, where the actor has some


@dataclass(frozen=True)
class ReplayCount:
    """The replay's own counters after a call, and what the call did."""

    episodes: int  # inserted or sampled by this call
    inserted: int
    sampled: int
    size: int


class Member:
    """One actor. `generation` grows with every loss, so that late news of an old one can be told apart."""

    def __init__(self, name: str, handle: Any, begin: Callable[[Any], Any]) -> None:
        self.name = name
        self.handle = handle  # of its remote methods: `handle.method.remote(…)` gives references
        self.generation = 0
        self._begin = begin

    def start(self) -> Any:
        """Has the actor build its plain object; the reference of the `Hello`."""
        return self._begin(self.handle)


class Fleet(Protocol):
    """Four kinds of actors, and what can be done with references to their answers."""

    workers: list[Member]
    hosting: list[list[int]]  # streams of each worker
    replay: Member
    learner: Member
    evaluator: Member

    def wait(self, refs: Sequence[Any], timeout: float) -> list[Any]:
        """The references whose value is there, as soon as there is one, at the latest after `timeout` seconds."""

    def value(self, ref: Any) -> Any:
        """The value of `ref`, waiting for it. Raises ActorLost where it is lost, otherwise what the plain object
        raised."""

    def restart(self, member: Member) -> None:
        """Ends the actor's process, for calls that hang; a new, empty one takes its place."""
