"""The service's actors in one process, without Ray: calls are made in any order that Ray could make them in, and
actors die when they are told to. For tests of what the coordinator makes of it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from phalanx.cluster import actors
from phalanx.cluster.calls import ActorLost
from phalanx.cluster.fleet import Member
from phalanx.cluster.placement import hosting
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import TeamSpec


class Ref:
    """An answer that may come."""

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        self.done, self.value, self.error = True, value, error


@dataclass
class _Task:
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    refs: list[Ref]

    @property
    def ready(self) -> bool:
        return all(each.done for each in self.arguments if isinstance(each, Ref))


@dataclass
class _Process:
    """An actor: what it holds, and the calls that wait for it, in order."""

    name: str
    shell: Any
    tasks: deque[_Task] = field(default_factory=deque)


class _Method:
    def __init__(self, process: _Process, name: str, returns: int | None = None) -> None:
        self._process, self._name = process, name
        method = getattr(type(process.shell), name)
        self._returns = returns or getattr(method, "__ray_num_returns__", 1)

    def options(self, num_returns: int) -> _Method:
        return _Method(self._process, self._name, num_returns)

    def remote(self, *arguments: Any) -> Any:
        refs = [Ref() for _ in range(self._returns)]
        process, name = self._process, self._name
        process.tasks.append(_Task(lambda *given: getattr(process.shell, name)(*given), arguments, refs))
        return refs if self._returns > 1 else refs[0]


class _Handle:
    def __init__(self, process: _Process) -> None:
        self._process = process

    def __getattr__(self, name: str) -> _Method:
        return _Method(self._process, name)


class LocalFleet:
    """A `Fleet`. `kills`: after so many calls the actor of that name dies, in the middle of its next call, which may
    have had its effect before."""

    def __init__(self, run: RunSettings, seed: int = 0, kills: Sequence[tuple[int, str]] = ()) -> None:
        self.random = random.Random(seed)
        self.kills = sorted(kills, reverse=True)
        self.calls = 0
        self.killed: list[str] = []
        self.spec: TeamSpec | None = None
        self._processes: list[_Process] = []
        self.hosting = hosting(run)
        self.workers = [
            self._add(actors.RolloutActor, f"worker {index}", lambda h, s=streams: h.start.remote(run, s))
            for index, streams in enumerate(self.hosting)
        ]
        self.evaluator = self._add(actors.EvaluatorActor, "evaluator", lambda h: h.start.remote(run))
        self.replay = self._add(
            actors.ReplayActor,
            "replay",
            lambda h: h.start.remote(self.spec, run.replay, run.seed, run.least_capacity),
        )
        self.learner = self._add(actors.LearnerActor, "learner", lambda h: h.start.remote(run, self.spec, 1))
        hellos = [each.start() for each in (*self.workers, self.evaluator)]
        self.spec = self._now(hellos[0]).spec
        for hello in (*hellos, self.replay.start(), self.learner.start()):
            self._now(hello)

    @property
    def queued(self) -> int:
        """Episodes that the replay holds."""
        return int(self._process_of("replay").shell.plain.size)

    def wait(self, refs: Sequence[Any], timeout: float) -> list[Any]:
        for _ in range(self.random.randrange(3)):
            self._run_one()
        while not any(ref.done for ref in refs):
            if not self._run_one():
                return []
        return [self.random.choice([ref for ref in refs if ref.done])]

    def value(self, ref: Any) -> Any:
        while not ref.done:
            self._run_one()
        if ref.error is not None:
            raise ref.error
        return ref.value

    def restart(self, member: Member) -> None:
        raise AssertionError(f"{member.name} hangs")

    def _add(self, shell: type[Any], name: str, begin: Callable[[Any], Any]) -> Member:
        process = _Process(name, shell(name))
        self._processes.append(process)
        return Member(name, _Handle(process), begin)

    def _process_of(self, name: str) -> _Process:
        return next(process for process in self._processes if process.name == name)

    def _now(self, ref: Ref) -> Any:
        kills, self.kills = self.kills, []
        value = self.value(ref)
        self.kills = kills
        return value

    def _run_one(self) -> bool:
        """Makes one of the calls that can be made; False where there is none."""
        ready = [process for process in self._processes if process.tasks and process.tasks[0].ready]
        if not ready:
            return False
        process = self.random.choice(ready)
        task = process.tasks.popleft()
        self.calls += 1
        lost = [each.error for each in task.arguments if isinstance(each, Ref) and each.error is not None]
        dies = bool(self.kills) and self.calls >= self.kills[-1][0] and process.name == self.kills[-1][1]
        if lost:
            self._settle(task, error=lost[0])
        elif dies and self.random.random() < 0.5:
            self._die(process, task)
        else:
            try:
                value = task.call(*(each.value if isinstance(each, Ref) else each for each in task.arguments))
            except actors.StateLost:
                self._settle(task, error=ActorLost(process.name, f"{process.name} is empty"))
            else:
                self._die(process, task) if dies else self._settle(task, value)
        return True

    def _die(self, process: _Process, task: _Task) -> None:
        self.kills.pop()
        self.killed.append(process.name)
        process.shell = type(process.shell)(process.name)
        for each in (task, *process.tasks):
            self._settle(each, error=ActorLost(process.name, f"{process.name} died"))
        process.tasks.clear()

    @staticmethod
    def _settle(task: _Task, value: Any = None, error: BaseException | None = None) -> None:
        values = value if len(task.refs) > 1 and error is None else [value] * len(task.refs)
        for ref, each in zip(task.refs, values, strict=True):
            ref.settle(each, error)


def keep_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors freeze what their process holds, which this process, the tests', must not."""
    monkeypatch.setattr(actors, "_settled", lambda plain: plain)
