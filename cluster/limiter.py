"""Samples per insert: how often data is learned from, whatever the number of workers and their speed."""

from __future__ import annotations

from typing import Any

from phalanx.configs.settings import ReplaySettings


class SamplesPerInsert:
    """The whole contract between collecting and learning; owned by the coordinator, counters only ever grow.

    After the warm-up of W = max(replay.min_episodes, batch) inserted episodes:
        sampled <= samples_per_insert * (inserted - W)                                   learner waits
        inserted + in flight - W <= sampled / samples_per_insert + slack                 workers wait
    """

    def __init__(self, settings: ReplaySettings, batch_episodes: int, slack_episodes: float = 0.0) -> None:
        raise NotImplementedError

    def inserted(self, episodes: int) -> None:
        """`episodes` more were inserted (counted when the replay has confirmed it)."""

    def sampled(self, episodes: int) -> None:
        """`episodes` more were sampled."""

    def note_replay_size(self, episodes: int) -> None:
        """What the replay holds now, to be told after it restarted: below a batch the learner waits and the workers
        never do. `inserted` adds to it by itself."""

    def may_sample(self) -> int:
        """Updates of one batch each that are allowed (and owed) now."""
        raise NotImplementedError

    def may_insert(self, in_flight: int = 0) -> bool:
        """Whether another chunk may be begun while `in_flight` episodes are under way."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state(self, state: dict[str, Any]) -> None:
        raise NotImplementedError
