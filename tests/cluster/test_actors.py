from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from phalanx.cluster.actors import RayFleet, thread_variables
from phalanx.cluster.calls import ActorLost, Calls
from phalanx.cluster.fleet import Member
from phalanx.configs.errors import UserError
from tests.cluster.runs import actor_pids, ray_session, tiny


@pytest.fixture(scope="module")
def fleet() -> Iterator[RayFleet]:
    with ray_session():
        fleet = RayFleet(tiny("cluster.workers=2"))
        fleet.start()
        yield fleet
        fleet.close()


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode().split("=", 1) for pair in pairs if b"=" in pair)


def wait_for_return(fleet: RayFleet, member: Member) -> None:
    """Until the actor's new process is there; it holds nothing yet."""
    until = time.monotonic() + 60
    while True:
        try:
            fleet.value(member.handle.pid.remote())
            return
        except ActorLost:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_each_kind_of_actor_has_its_process(fleet: RayFleet) -> None:
    assert fleet.spec is not None and fleet.spec.n_agents == 3
    for name, count in (("RolloutActor", 2), ("ReplayActor", 1), ("LearnerActor", 1), ("EvaluatorActor", 1)):
        assert len(actor_pids(name)) == count
    assert sorted(stream for streams in fleet.hosting for stream in streams) == [0, 1, 2]


def test_the_replay_does_not_load_torch(fleet: RayFleet) -> None:
    pid = fleet.value(fleet.replay.handle.pid.remote())
    assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
    learner = fleet.value(fleet.learner.handle.pid.remote())
    assert "torch" in Path(f"/proc/{learner}/maps").read_text()


def test_threads_are_set_and_do_not_spin(fleet: RayFleet) -> None:
    for member in (*fleet.workers, fleet.learner, fleet.evaluator, fleet.replay):
        there = environment(fleet.value(member.handle.pid.remote()))
        for name, value in thread_variables(1).items():
            assert there.get(name) == value, (member.name, name)


def test_errors_of_the_plain_objects_come_as_they_are(fleet: RayFleet) -> None:
    with pytest.raises(UserError, match=r"replay\.capacity_bytes=5"):
        run = tiny("replay.capacity_bytes=5")
        fleet.value(fleet.replay.handle.start.remote(fleet.spec, run.replay, 0, 8))


def test_a_killed_actor_refuses_calls_until_it_is_started_again(fleet: RayFleet) -> None:
    worker = fleet.workers[0]
    weights, _ = fleet.learner.handle.weights.remote()
    fleet.value(worker.handle.set_weights.remote(weights, 0))
    _, stats = worker.handle.play_round.remote(0, 0, 0.5)
    before = fleet.value(stats)
    os.kill(fleet.value(worker.handle.pid.remote()), signal.SIGKILL)
    wait_for_return(fleet, worker)
    _, stats = worker.handle.play_round.remote(0, 0, 0.5)
    with pytest.raises(ActorLost, match="worker 0"):
        fleet.value(stats)
    fleet.value(worker.start())
    fleet.value(worker.handle.set_weights.remote(weights, 0))
    _, stats = worker.handle.play_round.remote(0, 0, 0.5)
    assert (fleet.value(stats).returns == before.returns).all()


def test_a_call_that_depends_on_a_lost_actor_names_that_actor(fleet: RayFleet) -> None:
    fleet.value(fleet.replay.start())
    os.kill(fleet.value(fleet.replay.handle.pid.remote()), signal.SIGKILL)
    batches, count = fleet.replay.handle.sample.remote(8, 1)
    updated = fleet.learner.handle.update.remote(batches)
    for ref in (count, updated):
        with pytest.raises(ActorLost) as lost:
            fleet.value(ref)
        assert lost.value.name == "replay"
    wait_for_return(fleet, fleet.replay)
    fleet.value(fleet.replay.start())


def test_a_lost_actor_is_reported_once_and_brought_back(fleet: RayFleet) -> None:
    lost: list[str] = []
    back: list[str] = []

    def on_actor_lost(member: Member) -> None:
        lost.append(member.name)
        calls.revive(member, lambda: back.append(member.name))

    calls = Calls(fleet, on_actor_lost)
    evaluator = fleet.evaluator
    pid = fleet.value(evaluator.handle.pid.remote())
    weights, _ = fleet.learner.handle.weights.remote()
    answers: list[object] = []
    gone: list[ActorLost] = []
    for _ in range(3):
        calls.add(evaluator, evaluator.handle.evaluate.remote(weights, 0), answers.append, gone.append)
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 120
    while not back:
        assert time.monotonic() < until
        calls.turn(1.0)
    assert lost == back == ["evaluator"]
    assert len(gone) + len(answers) == 3
    assert gone
    calls.add(evaluator, evaluator.handle.evaluate.remote(weights, 0), answers.append)
    done = len(answers)
    while len(answers) == done:
        assert time.monotonic() < until
        calls.turn(1.0)


def test_no_other_actor_is_named_like_ours() -> None:
    from phalanx.cluster import actors, service

    names = [n for module in (actors, service) for n, v in vars(module).items() if isinstance(v, type)]
    ours = {"RolloutActor", "ReplayActor", "LearnerActor", "EvaluatorActor"}
    shells = {name for name in names if name.endswith("Actor")}
    assert shells == ours
    assert not isinstance(service.Coordinator, ray.actor.ActorClass)
    assert not any(word in "Coordinator".lower() for word in ("rollout", "replay", "learner"))
