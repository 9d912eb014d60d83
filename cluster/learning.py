"""The learner's side of async mode: samples, updates, published weights and snapshots. Plain: no ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from phalanx.cluster.calls import ActorLost, Calls
from phalanx.cluster.limiter import SamplesPerInsert
from phalanx.cluster.progress import Progress
from phalanx.cluster.replay import bytes_per_episode
from phalanx.configs.errors import RunFailed

if TYPE_CHECKING:
    from phalanx.cluster.fleet import Fleet, Member, ReplayCount
    from phalanx.configs.settings import RunSettings
    from phalanx.envs.team import TeamSpec

CALLS_AHEAD = 2  # one runs, one is queued behind it, so that the learner never waits for the coordinator
CALL_S = 0.1  # what one call should take: long against the cost of a call, short against anyone's patience
CALL_BYTES = 64 * 2**20  # of batches in one call
PUBLISH_S = 0.1  # between two publications of weights
SNAPSHOT_S = 2.0  # between two snapshots of the learner's state


@dataclass(frozen=True)
class Published:
    """Weights that workers may use: a reference, and the updates they have seen."""

    weights: Any
    version: int


def updates_per_call(run: RunSettings, spec: TeamSpec) -> int:
    """How many updates one call may make, so that its batches stay small beside the object store."""
    return max(1, CALL_BYTES // (run.learner.batch_episodes * bytes_per_episode(spec, run.replay.storage)))


def ask_for_updates(run: RunSettings, learner: Member, batches: Any) -> tuple[Any, Any | None]:
    """References of the number of updates made with `batches` in the end and, where the replay is prioritised, of the
    episodes' errors."""
    if run.replay.sampling != "prioritised":
        return learner.handle.update.remote(batches), None
    updates, errors = learner.handle.update_prioritised.remote(batches)
    return updates, errors


def require_finite(state: dict[str, Any]) -> dict[str, Any]:
    """The learner's state; RunFailed where a parameter is NaN or infinite, so that no checkpoint holds it."""
    for name, tensor in state["algorithm"].items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise RunFailed(f"the learner's {name} is not finite any more")
    return state


class Learning:
    """Keeps the learner busy with as many updates as the limiter allows.

    `progress.updates` counts updates that were made and never falls: where the learner is restored from a snapshot,
    `_lost_updates` grows by what the snapshot had not seen.
    """

    def __init__(
        self,
        run: RunSettings,
        spec: TeamSpec,
        fleet: Fleet,
        calls: Calls,
        limiter: SamplesPerInsert,
        progress: Progress,
        on_change: Callable[[], None],
    ) -> None:
        self._run = run
        self._batch = run.learner.batch_episodes
        self._most_per_call = updates_per_call(run, spec)
        self._fleet, self._calls, self._limiter, self._progress = fleet, calls, limiter, progress
        self._on_change = on_change
        self.learner_up = True
        self.replay_up = True
        self.published: Published | None = None
        self._publishing = False
        self._published_at = 0.0
        self._snapshot: Any = None  # a reference
        self._snapshotting = False
        self._snapshot_at = 0.0
        self.held = False  # no further episodes are taken from a queue, so that what is left can be saved
        self._sampling = 0  # updates whose batches were asked for and not confirmed
        self._updating = 0  # calls
        self._under_way = 0  # updates in those calls
        self._answered_at = 0.0
        self._update_s = CALL_S  # seconds one update takes, smoothed
        self._lost_updates = 0

    @property
    def settled(self) -> bool:
        """Nothing is owed, under way or unpublished."""
        rests = self.learner_up and self.replay_up and not self._updating and not self._sampling
        return rests and self._limiter.may_sample() == 0 and self.up_to_date

    @property
    def up_to_date(self) -> bool:
        """The newest weights are published."""
        return self.published is not None and self.published.version == self._progress.updates

    @property
    def asked_for(self) -> int:
        """Episodes sampled, or about to be, for every update asked of the learner so far."""
        return self._limiter.sampled_episodes + self._sampling * self._batch

    def lag(self, version: int) -> int:
        """By how many updates weights of `version` will be behind when an episode that is inserted now is learned
        from: those made since, in a queue also those that come before it."""
        made = self._progress.updates - version
        if not self._limiter.queue:
            return made
        return made + self._under_way + max(0, self._limiter.replay_size // self._batch - self._sampling)

    def made(self, learner_updates: int) -> int:
        """Updates made in this run by a learner that counts `learner_updates`."""
        return learner_updates + self._lost_updates

    def begin(self) -> None:
        """Has the first weights published and the first snapshot taken."""
        self.publish(now=True)
        self._take_snapshot()

    def advance(self) -> None:
        """Asks for as many updates as may be made now, in calls of a good length."""
        while self.learner_up and self.replay_up and self._updating < CALLS_AHEAD and not self.held:
            allowed = self._limiter.may_sample() - self._sampling
            if allowed < 1:
                break
            good = max(1, round(CALL_S / self._update_s))
            self._ask(min(allowed, good, self._most_per_call))
        if not self._updating and not self.up_to_date:
            self.publish(now=True)

    def _ask(self, updates: int) -> None:
        batches, count = self._fleet.replay.handle.sample.remote(self._batch, updates)
        self._sampling += updates

        def sampled(count: ReplayCount) -> None:
            self._sampling -= updates
            self._limiter.sampled(count.episodes)

        def not_sampled(_: ActorLost) -> None:
            self._sampling -= updates

        self._calls.add(self._fleet.replay, count, sampled, not_sampled)
        made, errors = ask_for_updates(self._run, self._fleet.learner, batches)
        asked_at = monotonic()
        generation = self._fleet.replay.generation
        self._updating += 1
        self._under_way += updates

        def updated(total: int) -> None:
            if errors is not None and generation == self._fleet.replay.generation:
                self._tell(errors)
            self._updated(updates, total, asked_at)

        def not_updated(lost: ActorLost) -> None:
            self._updating -= 1
            self._under_way -= updates
            if lost.name != self._fleet.replay.name:  # otherwise they were never taken from it
                self._lose_episodes(updates)

        self._calls.add(self._fleet.learner, made, updated, not_updated, needs=[self._fleet.replay])

    def _tell(self, errors: Any) -> None:
        """Has the replay take the errors of its episodes. Not asked for before they are there, because a call that
        waits for its arguments holds up those behind it; a replay that was restarted numbers other episodes."""
        replay = self._fleet.replay
        told = replay.handle.update_priorities.remote(errors)
        self._calls.add(replay, told, lambda _: None, needs=[self._fleet.learner])

    def _updated(self, updates: int, total: int, asked_at: float) -> None:
        now = monotonic()
        self._updating -= 1
        self._under_way -= updates
        # Answers of two calls may be looked at in any order: the count never falls.
        self._progress.updates = max(self._progress.updates, self.made(total))
        # A call that was queued began when the one before it ended.
        seconds = (now - max(asked_at, self._answered_at)) / updates
        self._update_s += 0.2 * (seconds - self._update_s)
        self._answered_at = now
        self.publish()
        if now - self._snapshot_at >= SNAPSHOT_S:
            self._take_snapshot()
        self._on_change()

    def _lose_episodes(self, updates: int) -> None:
        """Counts the episodes of updates that were lost: a queue gives none a second time."""
        if self._limiter.queue:
            self._progress.episodes_lost += updates * self._batch

    def publish(self, now: bool = False) -> None:
        """Has the weights published: at most every PUBLISH_S seconds unless `now`."""
        if self._publishing or not self.learner_up or self.up_to_date:
            return
        if not now and monotonic() - self._published_at < PUBLISH_S:
            return
        weights, version = self._fleet.learner.handle.weights.remote()
        self._publishing = True

        def there(updates: int) -> None:
            self._publishing = False
            self._published_at = monotonic()
            self.published = Published(weights, self.made(updates))
            self._on_change()

        def lost(_: ActorLost) -> None:
            self._publishing = False

        self._calls.add(self._fleet.learner, version, there, lost)

    def forget_published(self) -> None:
        """The published weights are gone (with their node): others take their place."""
        self.published = None
        self.publish(now=True)

    def _take_snapshot(self) -> None:
        """Keeps a full state of the learner in the object store, for when it dies."""
        if self._snapshotting:
            return
        state, updates = self._fleet.learner.handle.state.remote()
        self._snapshotting = True

        def there(_: int) -> None:
            self._snapshotting = False
            self._snapshot_at = monotonic()
            self._snapshot = state

        def lost(_: ActorLost) -> None:
            self._snapshotting = False

        self._calls.add(self._fleet.learner, updates, there, lost)

    def restore_learner(self) -> None:
        """Brings the learner back: a new process with the newest snapshot."""
        self.learner_up = False
        self._calls.revive(self._fleet.learner, self._load_snapshot)

    def _load_snapshot(self) -> None:
        learner, snapshot = self._fleet.learner, self._snapshot
        if snapshot is None:
            raise RunFailed("the learner was lost before there was a snapshot of its state: start the run again")

        def loaded(updates: int) -> None:
            before, self._lost_updates = self._lost_updates, self._progress.updates - updates
            self._lose_episodes(self._lost_updates - before)
            self.learner_up = True
            self.publish(now=True)
            self._on_change()

        def not_loaded(lost: ActorLost) -> None:
            if lost.name is None:
                raise RunFailed(f"the learner's state was lost with its node ({lost}): resume from the last checkpoint")

        self._calls.add(learner, learner.handle.load_state.remote(snapshot), loaded, not_loaded)

    def loaded(self, learner_updates: int) -> None:
        """Notes that the learner was given a checkpoint's state, which had seen `learner_updates`."""
        self._lost_updates = self._progress.updates - learner_updates
