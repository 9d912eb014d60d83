"""The memory of episodes. numpy only: neither torch nor ray is loaded here."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from phalanx.algorithms.common.batch import EpisodeBatch, EpisodeErrors, PrioritisedBatch, empty_batch
from phalanx.cluster.chunk import Chunk
from phalanx.cluster.priorities import Priorities
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.settings import ReplaySettings
from phalanx.envs.seeding import Purpose, generator
from phalanx.envs.team import TeamSpec

log = logging.getLogger("phalanx.replay")

_STATES = ("obs", "state", "avail")  # T + 1 rows long: with the final one
_TRANSITIONS = ("actions", "log_prob", "reward", "agent_reward", "terminated")  # T rows long
_STORED = (*_STATES, *_TRANSITIONS)  # `filled` follows from the lengths
_FLOATS = ("obs", "state")  # kept in `replay.storage`
_COPY_BYTES = 64 * 2**20  # loaded at a time, so that a snapshot never lies in memory twice


class Replay:
    """A ring of whole episodes, sampled uniformly or by priority, or a queue of them (`replay.sampling`).

    `capacity` episodes fit, `size` are held, `inserted` and `sampled` count episodes since the run began. Memory is
    reserved at once but taken by the operating system only as episodes come in. Episodes are numbered as they are
    inserted, and number n lies in slot n modulo capacity. In a queue `size` are those that were not sampled yet: every
    episode is sampled exactly once, in the order of insertion, and none makes room unseen.
    """

    def __init__(self, spec: TeamSpec, settings: ReplaySettings, run_seed: int, least_capacity: int = 1) -> None:
        """Says its size, then allocates. UserError where it would hold less than `least_capacity` episodes (a batch,
        or what a queue needs) or does not fit into memory."""
        self.spec = spec
        self._storage = np.dtype(settings.storage)
        self._is_queue = settings.sampling == "once"
        per_episode = bytes_per_episode(spec, self._storage, self._is_queue)
        self.capacity = _capacity(settings, per_episode, least_capacity)
        total = self.capacity * per_episode
        log.info(
            "replay: %d episodes of %s, %s in all when full (%s)",
            self.capacity,
            _size(per_episode),
            _size(total),
            settings.storage,
        )
        _require_memory(total, self.capacity, per_episode)
        one = empty_batch(spec, 1, float_type=self._storage, with_log_prob=self._is_queue)
        self._rings = {
            name: np.zeros((self.capacity, *getattr(one, name).shape[1:]), getattr(one, name).dtype) for name in _STORED
        }
        self._wide = [name for name, ring in self._rings.items() if ring.size]  # of some use in this run
        self._lengths = np.zeros(self.capacity, np.int64)
        self._next = 0  # slot of the next episode
        self.size = 0
        self._used = 0  # slots that were ever written
        self.inserted = 0
        self.sampled = 0
        self._newest: dict[int, int] = {}  # stream -> highest sequence inserted
        self._rng = generator(run_seed, Purpose.REPLAY)
        self._priorities = Priorities(self.capacity, settings) if settings.sampling == "prioritised" else None

    def insert(self, chunk: Chunk | Sequence[Chunk]) -> int:
        """Copies the episodes in; returns how many were inserted. A chunk whose sequence is not above the highest
        of its stream so far has been here before and is dropped (a stream's chunks come in order)."""
        if not isinstance(chunk, Chunk):
            return sum(self.insert(each) for each in chunk)
        if chunk.sequence <= self._newest.get(chunk.stream, -1):
            return 0
        episodes = self._converted(chunk.batch)
        lengths = chunk.batch.lengths
        longest = chunk.batch.reward.shape[1]
        if longest > self.spec.episode_limit:
            raise RunFailed(
                f"a chunk of stream {chunk.stream} has episodes of {longest} steps, but {self.spec.env_name} says"
                f" episode_limit={self.spec.episode_limit}"
            )
        done, count = 0, len(lengths)
        if self._is_queue and self.size + count > self.capacity:
            raise RunFailed(
                f"the replay's queue of {self.size} episodes has no room for {count} more (replay.capacity_episodes="
                f"{self.capacity}): raise replay.capacity_episodes"
            )
        while done < count:
            take = min(count - done, self.capacity - self._next)
            self._write(episodes, lengths, slice(done, done + take), slice(self._next, self._next + take))
            self._next = (self._next + take) % self.capacity
            done += take
        if self._priorities is not None:
            self._priorities.begin(np.arange(self.inserted, self.inserted + count) % self.capacity)
        self._newest[chunk.stream] = chunk.sequence
        self.inserted += count
        self.size = min(self.size + count, self.capacity)
        self._used = max(self._used, min(self.inserted, self.capacity))
        return count

    def sample(self, batch_episodes: int, count: int = 1) -> list[EpisodeBatch]:
        """`count` batches, each trimmed to its longest episode: without repetition where sampling is uniform,
        `PrioritisedBatch`es where it is prioritised, the oldest ones of a queue, which are gone then. RunFailed where
        fewer are held than a batch (or what is asked of a queue)."""
        needed = batch_episodes * count if self._is_queue else batch_episodes
        if self.size < needed:
            raise RunFailed(f"the replay holds {self.size} episodes, less than a batch of {needed}")
        batches = [self._batch(batch_episodes) for _ in range(count)]
        self.sampled += batch_episodes * count
        return batches

    def _batch(self, batch_episodes: int) -> EpisodeBatch:
        if self._priorities is not None:
            return self._prioritised(self._priorities, batch_episodes)
        if not self._is_queue:
            return self._gather(self._rng.choice(self.size, batch_episodes, replace=False, shuffle=False))
        oldest = self._gather(self._queued()[:batch_episodes])
        self.size -= batch_episodes
        return oldest

    def _queued(self) -> npt.NDArray[np.int64]:
        """Slots of the episodes that are held, the oldest first (there may be more than one lap in `_next`)."""
        return (self._next - self.size + np.arange(self.size)) % self.capacity

    def _prioritised(self, priorities: Priorities, batch_episodes: int) -> PrioritisedBatch:
        slots = priorities.draw(self._rng, batch_episodes)
        newest = self.inserted - 1
        return PrioritisedBatch(
            **vars(self._gather(slots)),
            numbers=newest - (newest - slots) % self.capacity,
            importance=priorities.importance(slots),
        )

    def update_priorities(self, errors: EpisodeErrors) -> int:
        """Notes how large the errors of sampled episodes were; returns how many of these are still held. The others
        made room meanwhile and are passed over."""
        if self._priorities is None:
            raise ValueError("replay.sampling is not prioritised")
        here = (errors.numbers >= self.inserted - self.size) & (errors.numbers < self.inserted)
        self._priorities.update(errors.numbers[here] % self.capacity, errors.errors[here])
        return int(here.sum())

    def save(self, folder: Path) -> None:
        """Writes what is held, the counters and the random state into `folder`; `load` continues to the bit."""
        folder.mkdir(parents=True, exist_ok=True)
        held: Any = self._queued() if self._is_queue else slice(self.size)
        for name in self._wide:
            _save_array(folder / f"{name}.npy", self._rings[name][held])
        _save_array(folder / "lengths.npy", self._lengths[held])
        if self._priorities is not None:
            _save_array(folder / "priorities.npy", self._priorities.held(self.size))
        state = {
            "capacity": self.capacity,
            "size": self.size,
            "next": self.size % self.capacity if self._is_queue else self._next,
            "inserted": self.inserted,
            "sampled": self.sampled,
            "newest": sorted(self._newest.items()),
            "random": self._rng.bit_generator.state,
        }
        (folder / "replay.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Replaces everything by what `save` wrote. UserError where that is of another run."""
        try:
            state = json.loads((folder / "replay.json").read_text(encoding="utf-8"))
            parts = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in self._wide}
            lengths = np.load(folder / "lengths.npy", allow_pickle=False)
            size = int(state["size"])
            priorities = None if self._priorities is None else np.load(folder / "priorities.npy", allow_pickle=False)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"the replay saved in {folder} cannot be read ({error}): it is damaged, or was saved by a version of"
                " phalanx that kept less of an episode"
            ) from error
        if state["capacity"] != self.capacity:
            raise UserError(
                f"the replay saved in {folder} has room for {state['capacity']} episodes, this run's for"
                f" {self.capacity}: keep replay.capacity_episodes and replay.capacity_bytes as they were"
            )
        for name in self._wide:
            ring = self._rings[name]
            if parts[name].shape != (size, *ring.shape[1:]) or parts[name].dtype != ring.dtype:
                raise UserError(
                    f"the replay saved in {folder} has {name} of shape {parts[name].shape} and type"
                    f" {parts[name].dtype}, this run's {(size, *ring.shape[1:])} and {ring.dtype}: it is of another"
                    " environment or storage"
                )
            rows = max(1, _COPY_BYTES // max(1, ring[0].nbytes))
            for start in range(0, size, rows):
                ring[start : min(start + rows, size)] = parts[name][start : min(start + rows, size)]
            ring[size : self._used] = 0  # what was held here before, so that unused slots are all padding
        self._lengths[:] = 0
        self._lengths[:size] = lengths
        self._used = size
        self.size, self._next = size, int(state["next"])
        self.inserted, self.sampled = int(state["inserted"]), int(state["sampled"])
        self._newest = {int(stream): int(sequence) for stream, sequence in state["newest"]}
        self._rng.bit_generator.state = state["random"]
        if self._priorities is not None and priorities is not None:
            self._priorities.restore(priorities)

    def _converted(self, batch: EpisodeBatch) -> dict[str, npt.NDArray[Any]]:
        """The stored arrays in the ring's types; RunFailed where float16 cannot hold a value."""
        arrays = {name: getattr(batch, name) for name in _STORED}
        if self._storage != np.float16:
            return arrays
        for name in _FLOATS:
            with np.errstate(over="ignore"):
                arrays[name] = arrays[name].astype(np.float16)
            if not np.isfinite(arrays[name]).all():
                largest = float(np.abs(getattr(batch, name)).max())
                raise RunFailed(
                    f"{self.spec.env_name} gave a value of {largest:g} in {name}, more than float16 holds (65504):"
                    " set replay.storage=float32"
                )
        return arrays

    def _write(
        self, episodes: dict[str, npt.NDArray[Any]], lengths: npt.NDArray[np.int64], source: slice, slots: slice
    ) -> None:
        steps = episodes["reward"].shape[1]
        # What the slots' former episodes left beyond `steps` goes back to padding; fresh memory stays untouched.
        stale = int(self._lengths[slots].max(initial=0))
        for name, ring in self._rings.items():
            rows = steps if name in _TRANSITIONS else steps + 1
            ring[slots, :rows] = episodes[name][source]
            if name == "avail":
                ring[slots, rows:] = False
                ring[slots, rows:, :, :1] = True
            elif stale > steps:
                ring[slots, rows : stale + 1] = 0
        self._lengths[slots] = lengths[source]

    def _gather(self, slots: npt.NDArray[np.int64]) -> EpisodeBatch:
        lengths = self._lengths[slots]
        longest = max(int(lengths.max()), 1)
        whole = longest == self.spec.episode_limit
        arrays = {}
        for name, ring in self._rings.items():
            rows = longest if name in _TRANSITIONS else longest + 1
            arrays[name] = ring.take(slots, axis=0) if whole else ring[:, :rows][slots]
        filled = np.arange(longest + 1) < lengths[:, None]
        return EpisodeBatch(**arrays, filled=filled)


class _Writer:
    """A file that numpy writes to piece by piece. Given a real file it writes past Python, and its error then does
    not say that the disk is full."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write


def _save_array(path: Path, array: npt.NDArray[Any]) -> None:
    with open(path, "wb") as file:
        np.save(_Writer(file), array, allow_pickle=False)


def bytes_per_episode(spec: TeamSpec, storage: npt.DTypeLike, with_log_prob: bool = False) -> int:
    """Memory of one episode of `spec.episode_limit` steps in the replay."""
    one = empty_batch(spec, 1, float_type=storage, with_log_prob=with_log_prob)
    return sum(int(getattr(one, name).nbytes) for name in _STORED) + np.dtype(np.int64).itemsize


def _capacity(settings: ReplaySettings, per_episode: int, least: int) -> int:
    capacity = settings.capacity_episodes
    what = "its queue needs" if settings.sampling == "once" else "a batch"
    if settings.capacity_bytes is not None:
        capacity = min(capacity, settings.capacity_bytes // per_episode)
        if capacity < least:
            raise UserError(
                f"replay.capacity_bytes={settings.capacity_bytes} holds {capacity} episodes of {per_episode} bytes,"
                f" less than {what} ({least}; learner.batch_episodes decides): set replay.capacity_bytes to at least"
                f" {per_episode * least}, lower learner.batch_episodes, or set replay.storage=float16"
            )
    if capacity < least:
        raise UserError(
            f"replay.capacity_episodes={capacity} is less than {what} ({least}; learner.batch_episodes decides): raise"
            " the one or lower the other"
        )
    return capacity


def _require_memory(total: int, capacity: int, per_episode: int) -> None:
    available = available_memory()
    if available is not None and total > available:
        raise UserError(
            f"the replay would take {_size(total)} ({capacity} episodes of {_size(per_episode)}), but only"
            f" {_size(available)} of memory are free: lower replay.capacity_episodes, set replay.capacity_bytes"
            f" (at most {available}), or set replay.storage=float16"
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: what Linux says is free, within its control group's limit. None where
    the system does not say."""
    known = []
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError):
        pass
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            known.append(int((root / limit).read_text()) - int((root / used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return max(min(known), 0) if known else None


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
