"""Samples per insert: how often data is learned from, whatever the number of workers and their speed."""

from __future__ import annotations

import math
from typing import Any

from phalanx.configs.settings import ReplaySettings


class SamplesPerInsert:
    """The whole contract between collecting and learning; owned by the coordinator, counters only ever grow.

    After the warm-up of W = max(replay.min_episodes, batch) inserted episodes:

        sampled <= samples_per_insert * (inserted - W)                         otherwise the learner waits
        inserted + in flight - W <= sampled / samples_per_insert + slack       otherwise the workers wait

    `slack_episodes` is how far the workers may run ahead. It is never less than one update's worth of episodes,
    because with less both sides could wait for each other; the default is just that. A difference between the two
    sides of at most slack + one chunk is all that can ever be owed, and it is settled as soon as the workers rest.

    The counters are the coordinator's own and survive a replay that restarts with less: what is then missing is
    collected again (`note_replay_size`), and owed updates stay owed.

    With `replay.sampling=once` the replay is a queue (`queue`): W is 0, and what is owed is what is queued, so a lost
    queue leaves nothing owed. In `rounds` (sync mode) an update takes all of it, which is less than a batch where
    simulators crashed.
    """

    def __init__(
        self, settings: ReplaySettings, batch_episodes: int, slack_episodes: float = 0.0, *, rounds: bool = False
    ) -> None:
        self.queue = settings.sampling == "once"
        self.ratio = settings.samples_per_insert
        self.warm_up_episodes = 0 if self.queue else max(settings.min_episodes, batch_episodes)
        self.slack_episodes = max(slack_episodes, batch_episodes / self.ratio)
        self.inserted_episodes = 0
        self.sampled_episodes = 0
        self.replay_size = 0
        self._batch = batch_episodes
        self._whole = self.queue and rounds

    @property
    def batch_episodes(self) -> int:
        """Episodes of the next update."""
        return self.replay_size if self._whole else self._batch

    def inserted(self, episodes: int) -> None:
        """`episodes` more were inserted (counted when the replay has confirmed it)."""
        self.inserted_episodes += episodes
        self.replay_size += episodes

    def sampled(self, episodes: int) -> None:
        """`episodes` more were sampled."""
        self.sampled_episodes += episodes
        if self.queue:
            self.replay_size = max(0, self.replay_size - episodes)

    def note_replay_size(self, episodes: int) -> None:
        """What the replay holds now, to be told after it restarted: below a batch the learner waits and the workers
        never do. `inserted` adds to it by itself; a queue's `sampled` takes away."""
        self.replay_size = episodes

    def may_sample(self) -> int:
        """Updates of one batch each that are allowed (and owed) now."""
        if self._whole:
            return int(self.replay_size > 0)
        if self.inserted_episodes < self.warm_up_episodes or self.replay_size < self.batch_episodes:
            return 0
        return max(0, math.floor(self._owed_episodes() / self.batch_episodes))

    def may_insert(self, in_flight: int = 0) -> bool:
        """Whether another chunk may be begun while `in_flight` episodes are under way."""
        if not self.queue and (self.inserted_episodes < self.warm_up_episodes or self.replay_size < self._batch):
            return True
        if in_flight == 0 and self.may_sample() == 0:
            return True  # whatever the rounding of the line below: somebody must always be allowed to go on
        return self._owed_episodes() + self.ratio * in_flight <= self.ratio * self.slack_episodes

    def samples_per_insert(self) -> float:
        """What was reached so far: sampled / (inserted - W); 0 during the warm-up."""
        after_warm_up = self.inserted_episodes - self.warm_up_episodes
        return self.sampled_episodes / after_warm_up if after_warm_up > 0 else 0.0

    def state(self) -> dict[str, Any]:
        """For progress.json."""
        return {
            "inserted": self.inserted_episodes,
            "sampled": self.sampled_episodes,
            "replay_size": self.replay_size,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues where `state()` was taken."""
        self.inserted_episodes = int(state["inserted"])
        self.sampled_episodes = int(state["sampled"])
        self.replay_size = int(state["replay_size"])

    def _owed_episodes(self) -> float:
        if self.queue:
            return self.replay_size
        return self.ratio * (self.inserted_episodes - self.warm_up_episodes) - self.sampled_episodes
