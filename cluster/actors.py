"""The four Ray actors (each holds one plain object, each method is one call to it) and the fleet they form.

An actor begins empty: `start` builds the plain object. Ray restarts a killed actor's process with nothing in it, so a
lost state cannot go unnoticed: every call is answered with `StateLost` until the coordinator has started it again.
Workers return values and never put objects themselves, because an object dies with the process that owns it.

The process of the replay imports this module, so torch (and everything that imports it) is imported in the methods.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from phalanx.cluster.calls import ActorLost
from phalanx.cluster.chunk import Chunk, ChunkStats
from phalanx.cluster.fleet import Fleet, Hello, Member, ReplayCount
from phalanx.cluster.placement import Request, hosting, learner_request, worker_request
from phalanx.cluster.replay import bytes_per_episode
from phalanx.configs.errors import RunFailed, UserError

if TYPE_CHECKING:
    from phalanx.algorithms.base import Weights
    from phalanx.algorithms.common.batch import EpisodeBatch, EpisodeErrors, PrioritisedBatch
    from phalanx.cluster.evaluation import EvaluationResult, Evaluator
    from phalanx.cluster.learner import Learner
    from phalanx.cluster.replay import Replay
    from phalanx.cluster.rollout import Rollout
    from phalanx.configs.settings import ReplaySettings, RunSettings
    from phalanx.envs.team import TeamPolicy, TeamSpec


log = logging.getLogger("phalanx.service")


class StateLost(Exception):
    """The process was restarted and holds nothing; `args[0]` names the actor."""


def thread_variables(threads: int) -> dict[str, str]:
    """Environment of an actor's process. OpenMP threads that spin for long are ruinous where processes share cores,
    ones that sleep at once wake too late: several spin for some microseconds, a single one has nothing to wait for."""
    number = str(threads)
    return {
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "OPENBLAS_NUM_THREADS": number,
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0" if threads == 1 else "5000",
        "KMP_BLOCKTIME": "0",
    }


# Of the learner's process: what torch gives back stays there, in large pages where the system has them, because the
# next update asks for it again.
MEMORY_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class _Shell:
    """An actor's name and the plain object that `start` gives it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._plain: Any = None

    @property
    def plain(self) -> Any:
        if self._plain is None:
            raise StateLost(self._name)
        return self._plain

    def pid(self) -> int:
        """Process id; answered also before `start`."""
        return os.getpid()


def _load_policy(source: str) -> TeamPolicy:
    from phalanx.cluster.policy import load_policy

    return load_policy(source)


def _use_threads(threads: int) -> None:
    from phalanx.cluster.learner import use_threads

    use_threads(threads)


def _settled(plain: Any) -> Any:
    """`plain`, built: what the process holds by now stays, so the garbage collector need not look at it again (torch
    alone is hundreds of thousands of objects)."""
    gc.collect()
    gc.freeze()
    return plain


class RolloutActor(_Shell):
    """Hosts a `Rollout`."""

    @property
    def rollout(self) -> Rollout:
        rollout: Rollout = self.plain
        return rollout

    def start(self, run: RunSettings, streams: Sequence[int]) -> Hello:
        from phalanx.cluster.rollout import Rollout

        _use_threads(1)
        self._plain = _settled(Rollout(run, streams, _load_policy))
        return Hello(os.getpid(), self.rollout.spec)

    def set_weights(self, weights: Weights, version: int) -> None:
        self.rollout.set_weights(weights, version)

    @ray.method(num_returns=2)
    def play_round(self, stream: int, sequence: int, epsilon: float) -> tuple[Chunk, ChunkStats]:
        """The chunk, which stays in the object store, and its small statistics for the coordinator."""
        chunk = self.rollout.play_round(stream, sequence, epsilon)
        return chunk, chunk.stats()

    def play_on(
        self,
        stream: int,
        sequence: int,
        epsilon: float,
        incarnation: int,
        parts: int,
        weights: Weights | None = None,
        version: int = 0,
    ) -> tuple[Chunk | list[ChunkStats], ...]:
        """`parts` chunks and the list of their statistics; asked for with `num_returns=parts + 1`. Newer weights come
        along, which saves a call."""
        if weights is not None:
            self.rollout.set_weights(weights, version)
        chunks = self.rollout.play_on(stream, sequence, epsilon, incarnation).split(parts)
        return *chunks, [chunk.stats() for chunk in chunks]


class ReplayActor(_Shell):
    """Hosts a `Replay`; its process never loads torch."""

    @property
    def replay(self) -> Replay:
        replay: Replay = self.plain
        return replay

    def start(self, spec: TeamSpec, settings: ReplaySettings, run_seed: int, least_capacity: int) -> Hello:
        from phalanx.cluster.replay import Replay

        self._plain = _settled(Replay(spec, settings, run_seed, least_capacity))
        return Hello(os.getpid())

    def insert(self, *chunks: Chunk) -> ReplayCount:
        """One insertion of all chunks in the order given (as separate arguments, so that Ray resolves each)."""
        return self._count(self.replay.insert(chunks))

    @ray.method(num_returns=2)
    def sample(self, batch_episodes: int, count: int) -> tuple[list[EpisodeBatch], ReplayCount]:
        batches = self.replay.sample(batch_episodes, count)
        return batches, self._count(batch_episodes * count)

    def update_priorities(self, *errors: EpisodeErrors) -> int:
        """Errors of several calls in the order given."""
        return sum(self.replay.update_priorities(each) for each in errors)

    def save(self, folder: Path) -> ReplayCount:
        self.replay.save(folder)
        return self._count(0)

    def load(self, folder: Path) -> ReplayCount:
        self.replay.load(folder)
        return self._count(0)

    def count(self) -> ReplayCount:
        return self._count(0)

    def _count(self, episodes: int) -> ReplayCount:
        replay = self.replay
        return ReplayCount(episodes, replay.inserted, replay.sampled, replay.size)


class LearnerActor(_Shell):
    """Hosts a `Learner`."""

    @property
    def learner(self) -> Learner:
        learner: Learner = self.plain
        return learner

    def start(self, run: RunSettings, spec: TeamSpec, threads: int) -> Hello:
        from phalanx.cluster.learner import Learner

        _use_threads(threads)
        self._plain = _settled(Learner(run, spec))
        return Hello(os.getpid())

    def update(self, batches: Sequence[EpisodeBatch]) -> int:
        return self.learner.update(batches)

    @ray.method(num_returns=2)
    def update_prioritised(self, batches: Sequence[PrioritisedBatch]) -> tuple[int, EpisodeErrors]:
        """The errors are small, and the coordinator hands them to the replay without looking."""
        return self.learner.update_prioritised(batches)

    @ray.method(num_returns=2)
    def weights(self) -> tuple[Weights, int]:
        """The weights, which stay in the object store, and their version for the coordinator."""
        return self.learner.weights()

    def metrics(self) -> dict[str, float]:
        return self.learner.metrics()

    @ray.method(num_returns=2)
    def state(self) -> tuple[dict[str, Any], int]:
        """The full state, which stays in the object store, and the updates it has seen."""
        return self.learner.state(), self.learner.updates

    def load_state(self, state: Mapping[str, Any]) -> int:
        """Returns the number of updates that the state has seen."""
        self.learner.load_state(dict(state))
        return self.learner.updates


class EvaluatorActor(_Shell):
    """Hosts an `Evaluator`."""

    @property
    def evaluator(self) -> Evaluator:
        evaluator: Evaluator = self.plain
        return evaluator

    def start(self, run: RunSettings) -> Hello:
        from phalanx.cluster.evaluation import Evaluator

        _use_threads(1)
        self._plain = _settled(Evaluator(run, _load_policy))
        return Hello(os.getpid(), self.evaluator.spec)

    def evaluate(self, weights: Weights, version: int, film: bool = False) -> EvaluationResult:
        self.evaluator.set_weights(weights, version)
        return self.evaluator.evaluate(film=film)


class RayFleet(Fleet):
    """The actors of one run and everything that is asked of Ray about them.

    Owned by the coordinator, which owns every object reference too.
    """

    def __init__(self, run: RunSettings) -> None:
        self._run = run
        self._inside_group = ray.util.get_current_placement_group() is not None
        self._members: dict[str, Member] = {}
        self.workers: list[Member] = []
        self.hosting = hosting(run)
        if len(self.hosting) < run.cluster.workers:
            log.warning(
                "cluster.workers=%d, but rollout.streams=%d: %d workers are started, the others would have nothing to"
                " play (more streams change what is learned)",
                run.cluster.workers,
                run.rollout.streams,
                len(self.hosting),
            )
        for index, streams in enumerate(self.hosting):
            begin = self._worker_start(streams)
            self.workers.append(self._add(RolloutActor, f"worker {index}", worker_request(run), begin, spread=True))
        self.evaluator = self._add(EvaluatorActor, "evaluator", {}, lambda h: h.start.remote(run), spread=True)
        self.replay = self._add(ReplayActor, "replay", {}, self._replay_start, here=True)
        self.learner = self._add(LearnerActor, "learner", learner_request(run), self._learner_start, self.threads)
        self.spec: TeamSpec | None = None

    @property
    def threads(self) -> int:
        """Torch threads of the learner. Sync mode uses one, whatever the settings: other sums differ in bits."""
        return 1 if self._run.mode == "sync" else self._run.learner.threads

    def start(self) -> TeamSpec:
        """Starts everything; the team's spec. UserError or RunFailed where an actor cannot be built."""
        hellos = [member.start() for member in (*self.workers, self.evaluator)]
        self.spec = self._started(hellos[0]).spec
        assert self.spec is not None
        self._say_replay_size(self.spec)
        hellos += [self.replay.start(), self.learner.start()]
        for hello in hellos:
            self._started(hello)
        return self.spec

    def close(self) -> None:
        """Ends the actors; what they hold is gone."""
        for member in self._members.values():
            ray.kill(member.handle)

    @staticmethod
    def wait(refs: Sequence[Any], timeout: float) -> list[Any]:
        """The references whose value is there, as soon as there is one, at the latest after `timeout` seconds."""
        ready, _ = ray.wait(list(refs), num_returns=1, timeout=timeout, fetch_local=False)
        return ready

    def value(self, ref: Any) -> Any:
        """The value of `ref`, waiting for it. ActorLost where it is lost, otherwise the error of the plain object."""
        try:
            return ray.get(ref)
        except RayError as error:
            meaning = self._translated(error)
            known = isinstance(meaning, ActorLost | UserError | RunFailed)
            raise meaning from None if known else error  # the trace of a fault lies in the actor

    @staticmethod
    def restart(member: Member) -> None:
        """Ends the process, for calls that hang; Ray starts a new, empty one."""
        ray.kill(member.handle, no_restart=False)

    def _add(
        self,
        shell: type[_Shell],
        name: str,
        request: Request,
        begin: Callable[[Any], Any],
        threads: int = 1,
        *,
        spread: bool = False,
        here: bool = False,
    ) -> Member:
        strategy: Any = None
        if not self._inside_group:  # inside a trial's placement group Ray puts everything into the group by itself
            strategy = "SPREAD" if spread else None
            if here:  # the replay writes its checkpoints beside the coordinator's
                node = ray.get_runtime_context().get_node_id()
                strategy = NodeAffinitySchedulingStrategy(node, soft=True)
        actor = ray.remote(shell).options(
            num_cpus=request.get("CPU", 0.0),
            num_gpus=request.get("GPU", 0.0),
            max_restarts=-1,
            max_task_retries=0,  # inserts and updates must not be made twice
            scheduling_strategy=strategy,
            runtime_env={"env_vars": thread_variables(threads) | (MEMORY_VARIABLES if shell is LearnerActor else {})},
        )
        member = Member(name, actor.remote(name), begin)
        self._members[member.handle._actor_id.hex()] = member
        return member

    def _worker_start(self, streams: Sequence[int]) -> Callable[[Any], Any]:
        return lambda handle: handle.start.remote(self._run, streams)

    def _replay_start(self, handle: Any) -> Any:
        run = self._run
        return handle.start.remote(self.spec, run.replay, run.seed, run.least_capacity)

    def _learner_start(self, handle: Any) -> Any:
        return handle.start.remote(self._run, self.spec, self.threads)

    def _say_replay_size(self, spec: TeamSpec) -> None:
        """Before it is allocated, and where it can be read: the log of an actor stays on its node."""
        settings = self._run.replay
        per_episode = bytes_per_episode(spec, settings.storage, settings.sampling == "once")
        episodes = min(settings.capacity_episodes, (settings.capacity_bytes or sys.maxsize) // per_episode)
        log.info("replay: room for %s episodes, %.0f MB when full", f"{episodes:,}", episodes * per_episode / 1e6)

    def _started(self, hello: Any) -> Hello:
        try:
            started: Hello = self.value(hello)
        except ActorLost as lost:
            raise RunFailed(f"the {lost.name or 'actor'} did not start: {lost}") from None
        return started

    def _translated(self, error: BaseException) -> BaseException:
        """What a Ray error means to the coordinator."""
        while isinstance(error, RayTaskError) and error.cause is not None:
            error = error.cause
        if isinstance(error, StateLost):
            return ActorLost(str(error.args[0]), f"the process of the {error.args[0]} was restarted")
        if isinstance(error, ActorDiedError) and "creation task" in str(error):
            return RunFailed(f"an actor could not be created; is phalanx installed on every node?\n{error}")
        if isinstance(error, RayActorError):
            member = self._members.get(error.actor_id or "")
            return ActorLost(member.name if member else None, _first_line(error))
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            return ActorLost(None, _first_line(error))  # an object that was lost with its node, for instance
        return error

    @property
    def members(self) -> list[Member]:
        return list(self._members.values())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
