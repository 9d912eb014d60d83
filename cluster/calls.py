"""Calls in flight: what happens when an answer comes, when it never will, and when it takes too long. Plain: no ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from phalanx.configs.errors import RunFailed

if TYPE_CHECKING:
    from phalanx.cluster.fleet import Fleet, Member

CALL_LIMIT_S = 600.0  # no call takes longer unless it hangs
RETURN_LIMIT_S = 180.0  # within which a lost actor must be back
RETRY_S = 0.2
NEWS_S = 0.01
MOST_LOSSES = 10  # of one actor within LOSSES_WITHIN_S: its process dies by what it does, not by accident
LOSSES_WITHIN_S = 300.0
MOST_HANGS = 3  # of one actor within HANGS_WITHIN_S: it hangs by what it does
HANGS_WITHIN_S = 4 * CALL_LIMIT_S


class ActorLost(Exception):
    """A call came to nothing because a process or an object is gone; `name` is the lost actor's, None for an object."""

    def __init__(self, name: str | None, reason: str) -> None:
        super().__init__(reason)
        self.name = name


@dataclass
class _Call:
    member: Member
    generations: tuple[tuple[Member, int], ...]  # of every actor whose loss would be this call's
    until: float
    on_answer: Callable[[Any], None]
    on_lost: Callable[[ActorLost], None]


class Calls:
    """The coordinator's ledger of calls. One `turn` handles what has come in since the last.

    A lost actor is reported to `on_actor_lost` once for each loss, however many calls come to nothing by it.
    """

    def __init__(self, fleet: Fleet, on_actor_lost: Callable[[Member], None]) -> None:
        self._fleet = fleet
        self._on_actor_lost = on_actor_lost
        self._calls: dict[Any, _Call] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._losses: dict[str, list[float]] = {}
        self._hangs: dict[str, list[float]] = {}
        self._next_check = 0.0

    def add(
        self,
        member: Member,
        ref: Any,
        on_answer: Callable[[Any], None],
        on_lost: Callable[[ActorLost], None] = lambda lost: None,
        *,
        needs: Sequence[Member] = (),
    ) -> None:
        """Watches `ref`, a small value asked of `member` (whose arguments come from `needs`): exactly one of the two
        functions will be called, unless an error of the plain objects ends the run."""
        generations = tuple((each, each.generation) for each in (member, *needs))
        self._calls[ref] = _Call(member, generations, monotonic() + CALL_LIMIT_S, on_answer, on_lost)

    def forget(self) -> None:
        """Waits for nothing any more: whatever is under way comes to nothing."""
        self._calls.clear()
        self._timers.clear()

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        self._timers.append((monotonic() + seconds, act))

    def turn(self, timeout: float) -> None:
        """Waits up to `timeout` seconds for an answer and handles what is there."""
        now = monotonic()
        if self._timers:
            timeout = min(timeout, max(min(at for at, _ in self._timers) - now, 0.0))
        if self._calls:
            for ref in self._fleet.wait(list(self._calls), timeout):
                self._handle(self._calls.pop(ref), ref)
        elif self._timers:
            sleep(timeout)
        else:
            raise RunFailed("the coordinator waits for nothing: neither rollout nor learning can go on")
        self._run_timers()
        if now >= self._next_check:
            self._next_check = now + 5.0
            self._restart_hanging(now)

    def _handle(self, call: _Call, ref: Any) -> None:
        try:
            value = self._fleet.value(ref)
        except ActorLost as lost:
            call.on_lost(lost)
            for member, generation in call.generations:
                if member.name == lost.name and member.generation == generation:
                    self.lose(member)
            return
        call.on_answer(value)

    def lose(self, member: Member) -> None:
        """Notes that `member` lost its state; news of its earlier calls no longer count as a loss."""
        member.generation += 1
        now = monotonic()
        losses = _once_more(self._losses, member.name, now, LOSSES_WITHIN_S)
        if losses > MOST_LOSSES:
            raise RunFailed(
                f"the {member.name} was lost {losses} times within {LOSSES_WITHIN_S / 60:.0f} minutes: its"
                " process dies again and again (is there enough memory? Ray's logs say why)"
            )
        self._on_actor_lost(member)

    def revive(self, member: Member, on_started: Callable[[], None]) -> None:
        """Has `member` started again, patiently; RunFailed where it does not come back. `on_started` waits for the
        last news of the process before: what that had done would otherwise be counted as the new one's."""
        until = monotonic() + RETURN_LIMIT_S

        def attempt() -> None:
            generation = member.generation
            self.add(member, member.start(), lambda _: started(generation), lambda _: again(generation))

        def started(generation: int) -> None:
            if member.generation != generation:
                return  # lost once more, and revived for that
            if any(call.member is member and call.generations[0][1] < generation for call in self._calls.values()):
                self.later(NEWS_S, lambda: started(generation))
            else:
                on_started()

        def again(generation: int) -> None:
            if monotonic() > until:
                raise RunFailed(f"the {member.name} was lost and did not come back within {RETURN_LIMIT_S:.0f} s")
            if member.generation == generation:
                member.generation += 1  # the loss of a process that was about to start is the same loss
            self.later(RETRY_S, attempt)

        attempt()

    def _run_timers(self) -> None:
        now = monotonic()
        due = [act for at, act in self._timers if at <= now]
        self._timers = [(at, act) for at, act in self._timers if at > now]
        for act in due:
            act()

    def _restart_hanging(self, now: float) -> None:
        late = [call for call in self._calls.values() if call.until < now]
        for call in late:
            call.until = now + CALL_LIMIT_S  # its loss is told in a while: until then this is one hang
        for member in {id(call.member): call.member for call in late}.values():
            if _once_more(self._hangs, member.name, now, HANGS_WITHIN_S) >= MOST_HANGS:
                raise RunFailed(
                    f"the {member.name} gave no answer for {CALL_LIMIT_S / 60:.0f} minutes, {MOST_HANGS} times within"
                    f" {HANGS_WITHIN_S / 60:.0f}: its process hangs (a worker's, or the evaluator's, most likely in a"
                    " step of the environment)"
                )
            self._fleet.restart(member)


def _once_more(times: dict[str, list[float]], name: str, now: float, within: float) -> int:
    """Notes that it happened to `name` now; how often it did in the last `within` seconds."""
    times[name] = [*(at for at in times.get(name, []) if now - at < within), now]
    return len(times[name])
