"""Episodes as padded arrays: what workers send, replay keeps and the learner receives. numpy only, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from phalanx.envs.team import TeamSpec


@dataclass
class EpisodeBatch:
    """B episodes, padded to T transitions.

    Row t of `obs`, `state`, `avail` is what was seen before action t; row `length` holds the final observation.
    Padding is zeros with action 0 available, and never counts: `filled` alone decides what was seen and
    `transition_mask` what is learned from. Last actions are derived from `actions`, never stored. What a run has no
    use for has no width: rewards of single agents where the environment pays none (`TeamSpec.agent_rewards`),
    log-probabilities where the method is not on-policy.
    """

    obs: npt.NDArray[np.floating]  # [B, T+1, N, O]
    state: npt.NDArray[np.floating]  # [B, T+1, S]
    avail: npt.NDArray[np.bool_]  # [B, T+1, N, A]
    actions: npt.NDArray[np.generic]  # [B, T, N] int16, or [B, T, N, D] float32 where continuous
    log_prob: npt.NDArray[np.float32]  # [B, T, N] or [B, T, 0]: of the actions, under the policy that chose them
    reward: npt.NDArray[np.float32]  # [B, T], the team's
    agent_reward: npt.NDArray[np.float32]  # [B, T, N] or [B, T, 0]: each agent's own
    terminated: npt.NDArray[np.bool_]  # [B, T]
    filled: npt.NDArray[np.bool_]  # [B, T+1]: a transition was made from here (the final row is not filled)

    def __len__(self) -> int:
        return int(self.reward.shape[0])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[B]: transitions of each episode."""
        return np.asarray(self.filled[:, :-1].sum(axis=1), np.int64)

    def trimmed(self) -> EpisodeBatch:
        """Cut to the longest episode of the batch: padding costs learning time."""
        longest = max(int(self.lengths.max(initial=0)), 1)
        return EpisodeBatch(
            self.obs[:, : longest + 1],
            self.state[:, : longest + 1],
            self.avail[:, : longest + 1],
            self.actions[:, :longest],
            self.log_prob[:, :longest],
            self.reward[:, :longest],
            self.agent_reward[:, :longest],
            self.terminated[:, :longest],
            self.filled[:, : longest + 1],
        )

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, f.name).nbytes for f in fields(self))


@dataclass
class PrioritisedBatch(EpisodeBatch):
    """What a prioritised replay gives: the episodes, which ones they are, and how much each counts."""

    numbers: npt.NDArray[np.int64]  # [B]: the replay's number of each episode, for its error to come back under
    importance: npt.NDArray[np.float32]  # [B] in (0, 1]: factors of the squared errors


@dataclass
class EpisodeErrors:
    """How large the errors of M sampled episodes were: what a prioritised replay makes priorities of."""

    numbers: npt.NDArray[np.int64]  # [M], as in the batches
    errors: npt.NDArray[np.float32]  # [M], not negative


def empty_batch(
    spec: TeamSpec,
    episodes: int,
    steps: int | None = None,
    float_type: npt.DTypeLike = np.float32,
    *,
    with_log_prob: bool = False,
) -> EpisodeBatch:
    """`episodes` episodes of nothing but padding, room for `steps` transitions each (default: the episode limit)."""
    t, n = steps or spec.episode_limit, spec.n_agents
    actions = (
        np.zeros((episodes, t, n), np.int16)
        if spec.discrete
        else np.zeros((episodes, t, n, max(spec.action_dims)), np.float32)
    )
    avail = np.zeros((episodes, t + 1, n, spec.n_actions), np.bool_)
    avail[..., :1] = True
    return EpisodeBatch(
        obs=np.zeros((episodes, t + 1, n, spec.obs_dim), float_type),
        state=np.zeros((episodes, t + 1, spec.state_dim), float_type),
        avail=avail,
        actions=actions,
        log_prob=np.zeros((episodes, t, n if with_log_prob else 0), np.float32),
        reward=np.zeros((episodes, t), np.float32),
        agent_reward=np.zeros((episodes, t, n if spec.agent_rewards else 0), np.float32),
        terminated=np.zeros((episodes, t), np.bool_),
        filled=np.zeros((episodes, t + 1), np.bool_),
    )


def concatenate(batches: Sequence[EpisodeBatch]) -> EpisodeBatch:
    """The batches one after the other; all must be padded to the same T."""
    return EpisodeBatch(*(np.concatenate([getattr(b, f.name) for b in batches]) for f in fields(EpisodeBatch)))
