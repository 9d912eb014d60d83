"""The ledger of calls, with a fleet that answers, loses and hangs as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from phalanx.cluster import calls as module
from phalanx.cluster.calls import ActorLost, Calls
from phalanx.cluster.fleet import Member
from phalanx.configs.errors import RunFailed, UserError


class Answers:
    """A fleet whose references are names, and whose values are what `values` says once it says something."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.restarted: list[str] = []

    def wait(self, refs: Sequence[Any], timeout: float) -> list[Any]:
        return [ref for ref in refs if ref in self.values][:1]

    def value(self, ref: Any) -> Any:
        value = self.values[ref]
        if isinstance(value, BaseException):
            raise value
        return value

    def restart(self, member: Member) -> None:
        self.restarted.append(member.name)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    monkeypatch.setattr(module, "sleep", clock.sleep)
    return clock


class Scene:
    def __init__(self) -> None:
        self.fleet = Answers()
        self.lost: list[str] = []
        self.got: list[Any] = []
        self.missed: list[ActorLost] = []
        self.calls = Calls(self.fleet, lambda member: self.lost.append(member.name))  # type: ignore[arg-type]
        self.starts = 0

    def member(self, name: str) -> Member:
        def begin(handle: Any) -> str:
            self.starts += 1
            return f"start {name} {self.starts}"

        return Member(name, None, begin)

    def ask(self, member: Member, ref: str, *needs: Member) -> None:
        self.calls.add(member, ref, self.got.append, self.missed.append, needs=needs)

    def replay_lost_with_an_insertion_unheard(self) -> Member:
        """Whose new process starts as soon as it is asked to."""
        replay = self.member("replay")
        for ref in ("insert", "count"):
            self.ask(replay, ref)
        self.fleet.values = {"count": gone("replay"), "start replay 1": "hello"}
        self.turn(1)
        assert self.lost == ["replay"]
        self.calls.revive(replay, lambda: self.got.append("started"))
        return replay

    def turn(self, times: int = 5) -> None:
        for _ in range(times):
            self.calls.turn(0.5)


def gone(name: str | None) -> ActorLost:
    return ActorLost(name, "gone")


def test_answers_reach_whoever_asked(clock: Clock) -> None:
    scene = Scene()
    worker = scene.member("worker 0")
    scene.ask(worker, "a")
    scene.ask(worker, "b")
    scene.fleet.values = {"b": 2}
    scene.turn(1)
    assert scene.got == [2]
    scene.fleet.values["a"] = 1
    scene.turn(1)
    assert scene.got == [2, 1]


def test_one_loss_is_reported_once_and_the_others_are_told_apart(clock: Clock) -> None:
    scene = Scene()
    learner, replay = scene.member("learner"), scene.member("replay")
    scene.ask(replay, "sample")
    scene.ask(learner, "update 1", replay)
    scene.ask(learner, "update 2", replay)
    scene.ask(learner, "weights")
    scene.fleet.values = {"sample": gone("replay"), "update 1": gone("replay"), "update 2": gone("replay")}
    scene.turn(3)
    assert scene.lost == ["replay"]
    assert len(scene.missed) == 3
    # The learner is well: its loss is another matter, and so is a second loss of the replay.
    scene.ask(replay, "count")
    scene.fleet.values |= {"weights": gone("learner"), "count": gone("replay")}
    scene.turn(2)
    assert sorted(scene.lost) == ["learner", "replay", "replay"]


def test_a_lost_object_is_no_lost_actor(clock: Clock) -> None:
    scene = Scene()
    scene.ask(scene.member("replay"), "insert")
    scene.fleet.values = {"insert": gone(None)}
    scene.turn(1)
    assert scene.lost == []
    assert len(scene.missed) == 1


def test_errors_of_the_plain_objects_end_the_run(clock: Clock) -> None:
    scene = Scene()
    scene.ask(scene.member("learner"), "update")
    scene.fleet.values = {"update": UserError("the disk is full")}
    with pytest.raises(UserError, match="full"):
        scene.turn(1)


def test_a_lost_actor_is_asked_to_start_until_it_does(clock: Clock) -> None:
    scene = Scene()
    worker = scene.member("worker 0")
    back: list[int] = []
    scene.calls.revive(worker, lambda: back.append(scene.starts))
    scene.fleet.values = {"start worker 0 1": gone("worker 0"), "start worker 0 2": gone("worker 0")}
    scene.turn(8)
    assert scene.starts == 3
    assert not back
    scene.fleet.values["start worker 0 3"] = "hello"
    scene.turn(1)
    assert back == [3]
    assert scene.lost == []  # all of this was one loss, which is known already


def test_news_of_the_process_before_come_before_its_successor(clock: Clock) -> None:
    """Whatever order answers are looked at in: what the lost process had inserted is not in the new one."""
    scene = Scene()
    scene.replay_lost_with_an_insertion_unheard()
    scene.turn(4)
    assert scene.starts == 1 and scene.got == []
    scene.fleet.values["insert"] = 4
    scene.turn(1)
    clock.now += 1
    scene.turn(1)
    assert scene.got == [4, "started"]


def test_a_successor_that_is_lost_while_news_are_awaited_is_revived_for_that_loss(clock: Clock) -> None:
    scene = Scene()
    replay = scene.replay_lost_with_an_insertion_unheard()
    scene.turn(1)
    scene.ask(replay, "held")
    scene.fleet.values |= {"held": gone("replay"), "insert": 4, "start replay 2": "hello"}
    scene.turn(2)
    assert scene.lost == ["replay", "replay"]
    scene.calls.revive(replay, lambda: scene.got.append("started again"))
    clock.now += 1
    scene.turn(1)
    assert scene.got == [4, "started again"]


def test_an_actor_that_does_not_come_back_ends_the_run(clock: Clock) -> None:
    scene = Scene()
    worker = scene.member("worker 0")
    scene.fleet.values = {f"start worker 0 {n}": gone("worker 0") for n in range(2000)}
    scene.calls.revive(worker, lambda: None)
    with pytest.raises(RunFailed, match="did not come back within 180 s"):
        scene.turn(10_000)
    assert clock.now - 1000 == pytest.approx(module.RETURN_LIMIT_S, abs=1)


def test_a_call_that_hangs_costs_the_actor_its_process(clock: Clock) -> None:
    scene = Scene()
    scene.ask(scene.member("worker 0"), "play")
    scene.ask(scene.member("evaluator"), "evaluate")
    scene.turn(1)
    clock.now += module.CALL_LIMIT_S - 10
    scene.fleet.values["evaluate"] = 1
    scene.turn(2)
    assert scene.fleet.restarted == []
    clock.now += 11
    scene.turn(1)
    assert scene.fleet.restarted == ["worker 0"]


def test_an_actor_that_hangs_again_and_again_ends_the_run(clock: Clock) -> None:
    scene = Scene()
    worker = scene.member("worker 0")
    for _ in range(module.MOST_HANGS - 1):
        scene.ask(worker, "play")
        clock.now += module.CALL_LIMIT_S + 1
        scene.turn(1)
        clock.now += 10
        scene.turn(1)  # it has been killed, but Ray has not said so yet
        scene.calls.forget()
    assert scene.fleet.restarted == ["worker 0"] * (module.MOST_HANGS - 1)
    scene.ask(worker, "play")
    clock.now += module.CALL_LIMIT_S + 1
    with pytest.raises(RunFailed, match=f"worker 0 gave no answer for 10 minutes, {module.MOST_HANGS} times"):
        scene.turn(1)


def test_an_actor_that_dies_again_and_again_ends_the_run(clock: Clock) -> None:
    scene = Scene()
    worker = scene.member("worker 0")
    for _ in range(module.MOST_LOSSES):
        scene.calls.lose(worker)
        clock.now += 20
    clock.now += module.LOSSES_WITHIN_S  # long ago
    for _ in range(module.MOST_LOSSES):
        scene.calls.lose(worker)
    with pytest.raises(RunFailed, match="was lost 11 times within 5 minutes"):
        scene.calls.lose(worker)


def test_waiting_for_nothing_is_an_error_and_not_a_hang(clock: Clock) -> None:
    scene = Scene()
    with pytest.raises(RunFailed, match="waits for nothing"):
        scene.turn(1)


def test_what_was_forgotten_is_not_handled(clock: Clock) -> None:
    scene = Scene()
    worker = scene.member("worker 0")
    scene.ask(worker, "old")
    scene.calls.forget()
    scene.ask(worker, "new")
    scene.fleet.values = {"old": RunFailed("late"), "new": 1}
    scene.turn(1)
    assert scene.got == [1]
