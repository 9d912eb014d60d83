"""Greedy evaluation on episodes that are always the same. Plain: no ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.cluster.metrics import Row, evaluation_metrics
from phalanx.cluster.render import make_drawn_env, most_crashes
from phalanx.configs.errors import RunFailed
from phalanx.configs.settings import RunSettings
from phalanx.envs.faults import reset_env, step_env
from phalanx.envs.registry import make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose, generator
from phalanx.envs.team import Bools, Floats, Step, TeamEnv, TeamPolicy

MOST_ENVS = 64


@dataclass
class EvaluationResult:
    """Outcome of n greedy episodes, ordered by (environment, episode), whatever ended first."""

    returns: Floats  # [n], undiscounted
    lengths: npt.NDArray[np.int64]  # [n]
    wins: Bools | None  # [n]; None where the environment knows no winning
    metrics: dict[str, Floats]  # [n] each: the environment's metrics, summed over the episode
    greedy_joint_action: list[int] | None = None  # of the first step of the first episode; matrix games only
    clip: bytes | None = None  # the first episode as a GIF, where that was asked for
    no_clip: str = ""  # why there is none although it was

    def as_metrics(self) -> Row:
        """`eval/return_mean`, `eval/return_std`, `eval/win_rate` where there is one, `eval/<metric>_mean`."""
        return evaluation_metrics(self)


class Evaluator:
    """One vector of min(episodes, 64) environments and a policy without exploration.

    Environment e plays its share of the episodes, one after the other, each from its own seed: the same episodes at
    every evaluation, whatever the policy makes of them.
    """

    def __init__(self, run: RunSettings, load_policy: Callable[[str], TeamPolicy] | None = None) -> None:
        from phalanx.algorithms.registry import make_policy  # loads torch

        self._run = run
        self._load_policy = load_policy
        self._env = self._make_env(run.evaluation.episodes)
        self.spec = self._env.spec
        self._policy = make_policy(run, self.spec)
        self.version = 0

    def set_weights(self, weights: Mapping[str, npt.NDArray[Any]], version: int) -> None:
        """Weights for the next evaluation; `version` is the number of updates they have seen."""
        self._policy.load_weights(weights)
        self._weights = weights
        self.version = version

    def evaluate(self, episodes: int | None = None, seed: int | None = None, film: bool = False) -> EvaluationResult:
        """Exactly `episodes` episodes (default: the run's), seeded by `seed` (default: the run's). With `film`, the
        first of them is played once more for the clip. RunFailed on a reward that is not finite or a simulator that
        keeps crashing."""
        episodes = self._run.evaluation.episodes if episodes is None else episodes
        if episodes < 1:
            raise ValueError(f"an evaluation has at least one episode, got {episodes}")
        seed = self._run.seed if seed is None else seed
        if self._count(episodes) != self._env.num_envs:
            self._env.close()
            self._env = self._make_env(episodes)
        env, count = self._env, self._env.num_envs
        tally = _Tally(env, episodes)
        seen = reset_env(env, [EpisodeSeeds(seed, Purpose.EVALUATION, e) for e in range(count)])
        memory = self._policy.initial_state(count)
        rng = generator(seed, Purpose.EVALUATION)  # greedy: nothing but noise (env.noise.demar) is drawn from it
        first: list[int] | None = None
        while tally.missing:
            actions = self._policy.act(seen.obs, memory, seen.avail, rng, 0.0)
            if first is None and self.spec.env_name == "matrix":
                first = [int(action) for action in actions[0]]
            step = step_env(env, actions)
            ended = tally.add(step)
            if len(ended):
                self._policy.reset_rows(memory, ended)
            seen = step.next
        result = tally.result(first)
        if film:
            self._film(result, seed)
        return result

    def _film(self, result: EvaluationResult, seed: int) -> None:
        from phalanx.cluster.policy import TrainedTeam
        from phalanx.cluster.render import gif_bytes, play_frames

        try:
            team = TrainedTeam(self._run, self.spec, self._weights)
            result.clip = gif_bytes(play_frames(self._env, team, 1, seed))
        except Exception as error:  # a run is worth more than its pictures
            result.no_clip = str(error) or type(error).__name__

    def close(self) -> None:
        """Closes the environments."""
        self._env.close()

    def _make_env(self, episodes: int) -> TeamEnv:
        films = self._run.sinks.clip_every_evaluations is not None
        make = make_drawn_env if films else make_env
        return make(self._run.env, self._count(episodes), self._load_policy)

    def _count(self, episodes: int) -> int:
        return min(episodes, self._run.env.most_evaluation_envs or MOST_ENVS)


class _Tally:
    """Sums of the running episodes, and the outcome of the first `share[e]` episodes of each environment e."""

    def __init__(self, env: TeamEnv, episodes: int) -> None:
        count = env.num_envs
        self._spec = env.spec
        self._share = np.full(count, episodes // count) + (np.arange(count) < episodes % count)
        self._first = np.concatenate([[0], np.cumsum(self._share)[:-1]])  # place of an environment's first episode
        self._done = np.zeros(count, np.int64)
        self._sums = {name: np.zeros(count) for name in ("return", *env.spec.metrics)}
        self._steps = np.zeros(count, np.int64)
        self._outcome = {name: np.zeros(episodes, np.float32) for name in self._sums}
        self._lengths = np.zeros(episodes, np.int64)
        self._wins = np.zeros(episodes, np.bool_)
        self._crashes = 0
        self.missing = episodes

    def add(self, step: Step) -> npt.NDArray[np.int64]:
        """Takes one vector step in; the environments whose episode ended."""
        self._sums["return"] += step.earned
        for name in self._spec.metrics:
            self._sums[name] += step.info[name]
        self._steps += 1
        ended = np.flatnonzero(step.ended)
        if len(ended):
            self._keep(ended, step)
            self._steps[ended] = 0
            for sums in self._sums.values():
                sums[ended] = 0
        return ended

    def _keep(self, ended: npt.NDArray[np.int64], step: Step) -> None:
        kept = ended[self._done[ended] < self._share[ended]]
        if "crashed" in step.info:
            crashed = step.info["crashed"][kept].astype(bool)
            self._crashes += int(crashed.sum())
            if self._crashes > most_crashes(len(self._share)):
                raise RunFailed(f"environment {self._spec.env_name} crashed {self._crashes} times in one evaluation")
            kept = kept[~crashed]
        places = self._first[kept] + self._done[kept]
        for name, sums in self._sums.items():
            self._outcome[name][places] = sums[kept]
        self._lengths[places] = self._steps[kept]
        if self._spec.has_win:
            self._wins[places] = step.info["win"][kept]
        bad = kept[~np.isfinite(self._sums["return"][kept])]
        if len(bad):
            raise RunFailed(
                f"environment {self._spec.env_name} gave rewards that add up to {self._sums['return'][bad[0]]} in"
                f" evaluation environment {bad[0]}"
            )
        self._done[kept] += 1
        self.missing -= len(kept)

    def result(self, first_joint_action: list[int] | None) -> EvaluationResult:
        return EvaluationResult(
            returns=self._outcome["return"],
            lengths=self._lengths,
            wins=self._wins if self._spec.has_win else None,
            metrics={name: self._outcome[name] for name in self._spec.metrics},
            greedy_joint_action=first_joint_action,
        )
