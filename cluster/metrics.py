"""What is measured, under which name, and how many chunks become one report row.

A row is flat: `area/name` to a number, plus the four counters every row starts with. The x-axis of everything is
`env_steps`; evaluation runs beside training, so a row may carry `eval/env_steps`, the env steps of the evaluated
weights, where that is not the row's own (see `split_evaluation`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, SupportsFloat

import numpy as np
import numpy.typing as npt

Row = dict[str, float | int]

ENV_STEPS = "env_steps"
UPDATES = "updates"
EPISODES = "episodes"
WALL_S = "wall_s"
COUNTERS = (ENV_STEPS, UPDATES, EPISODES, WALL_S)

WARNING = "warning"  # warning/<name>: 1 while a failure signature holds, 0 while it does not (signatures.py)
AREAS = ("train", "rollout", "replay", "learner", "eval", "cluster", WARNING)

ROLLOUT_RETURN = "rollout/return_mean"
AGENT_RETURN = "rollout/agent_return"  # _mean over agents, _min and _max of the worst and the best paid agent
ROLLOUT_LENGTH = "rollout/length_mean"
ROLLOUT_WIN_RATE = "rollout/win_rate"
ROLLOUT_SPEED = "rollout/env_steps_per_s"
ROLLOUT_EPSILON = "rollout/epsilon"
ROLLOUT_CRASHES = "rollout/env_crashes"
REPLAY_SIZE = "replay/size"
SAMPLES_PER_INSERT = "replay/samples_per_insert"
UPDATE_SPEED = "learner/updates_per_s"
POLICY_LAG = "learner/policy_lag_mean"
EVAL_RETURN = "eval/return_mean"
EVAL_RETURN_STD = "eval/return_std"
EVAL_LENGTH = "eval/length_mean"
EVAL_WIN_RATE = "eval/win_rate"
EVAL_ENV_STEPS = "eval/env_steps"
RESTARTS = "cluster/actor_restarts"
EPISODES_LOST = "cluster/episodes_lost"

# What diagnostics say of the learner's networks, `train/<name>` in a row (docs/diagnostics.md has the formulas).
FIGURES = {
    "q_start_mean": "Q_tot at the first step, of the actions taken",
    "mc_return_mean": "discounted return of the same episodes",
    "overestimation": "the first minus the second",
    "overestimation_relative": "the same, in units of return_scale",
    "return_scale": "the largest value that one of the episodes could stand for",
    "td_error_abs_mean": "mean size of Q_tot minus target",
    "td_error_p10": "Q_tot minus target: one in ten is below",
    "td_error_p50": "its median",
    "td_error_p90": "one in ten is above",
    "dqtot_dqi_mean": "∂Q_tot/∂Q_i: what an agent's value counts for",
    "dqtot_dqi_p10": "one in ten is below",
    "dqtot_dqi_p50": "its median",
    "dqtot_dqi_p90": "one in ten is above",
    "bias_gain_mean": "Σ_i (∂Q_tot/∂Q_i)²: how much of a target's bias comes back",
    "mixing_w1": "L1 norm of the generated W1",
    "mixing_w2": "L1 norm of the generated w2",
    "mixing_b1": "L1 norm of the generated b1",
    "mixing_v": "size of the generated V(s)",
    "agents_spread": "standard deviation of chosen values over the agent networks",
    "mixers_spread": "standard deviation of Q_tot over the mixers",
    "target_spread": "standard deviation of what the target's minimum is taken over",
    "argmax_agreement": "share of pairs of agent networks that choose the same action",
    "dead_units": "share of the first layer's units that no input activates",
    "snd": "share of pairs of agents that would act differently in each other's place",
    "agent_gradient_cosine": "mean cosine between the agents' gradients; below 0 they disagree",
}


def task(env: Mapping[str, Any]) -> str:
    """What is played, by the run's section `env`: its name, and of environments with many scenarios which one."""
    scenario = env.get("scenario")
    return " ".join([str(env.get("name", "")), *([scenario] if isinstance(scenario, str) else [])])


class EpisodeStatistics(Protocol):
    """The outcome of M ended episodes: what chunks of rollout and evaluation results have in common."""

    @property
    def returns(self) -> npt.NDArray[Any]: ...  # [M]
    @property
    def lengths(self) -> npt.NDArray[Any]: ...  # [M] env steps
    @property
    def wins(self) -> npt.NDArray[Any] | None: ...  # [M] bool; None where the environment knows no win
    @property
    def metrics(self) -> Mapping[str, npt.NDArray[Any]]: ...  # [M] each: sums over the episode


class ChunkStatistics(EpisodeStatistics, Protocol):
    """The numbers of a chunk of rollout, without its episodes."""

    @property
    def agent_returns(self) -> npt.NDArray[Any] | None: ...  # [M, N]; None where no agent is paid by itself
    @property
    def env_steps(self) -> int: ...
    @property
    def crashed(self) -> int: ...  # episodes dropped because their simulator broke


def report_row(env_steps: int, updates: int, episodes: int, wall_s: float, *parts: Mapping[str, SupportsFloat]) -> Row:
    """One report: the four counters first, then the values of `parts` area by area. Later parts win."""
    values: dict[str, SupportsFloat] = {}
    for part in parts:
        values.update(part)
    rank = {area: index for index, area in enumerate(AREAS)}
    ordered = sorted(values, key=lambda key: rank.get(key.split("/", 1)[0], len(AREAS)))
    row: Row = {ENV_STEPS: env_steps, UPDATES: updates, EPISODES: episodes, WALL_S: round(wall_s, 3)}
    row.update({key: plain_number(values[key]) for key in ordered})
    return row


def plain_number(value: SupportsFloat) -> float | int:
    """`value` (a number, a numpy scalar, a tensor of one element) as Python's own int or float."""
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value)


def evaluation_metrics(result: EpisodeStatistics) -> Row:
    """`eval/...` of the episodes of one evaluation: means over episodes; `eval/return_std` is their spread."""
    row: Row = {EVAL_RETURN: _mean(result.returns), EVAL_RETURN_STD: float(np.std(result.returns, dtype=np.float64))}
    row[EVAL_LENGTH] = _mean(result.lengths)
    if result.wins is not None:
        row[EVAL_WIN_RATE] = _mean(result.wins)
    row.update({f"eval/{name}_mean": _mean(values) for name, values in result.metrics.items()})
    return row


def split_evaluation(row: Mapping[str, float | int]) -> list[Row]:
    """The row cut in two where its evaluation is of other weights than its own: each part with its own `env_steps`.

    The first part is the row without `eval/...`, the second `eval/...` alone.
    """
    at = row.get(EVAL_ENV_STEPS, row[ENV_STEPS])
    if at == row[ENV_STEPS]:
        return [{key: value for key, value in row.items() if key != EVAL_ENV_STEPS}]
    training: Row = {key: value for key, value in row.items() if not key.startswith("eval/")}
    evaluation: Row = {ENV_STEPS: at}
    evaluation.update({k: v for k, v in row.items() if k.startswith("eval/") and k != EVAL_ENV_STEPS})
    return [training, evaluation]


class RolloutMeter:
    """Collects chunks between two reports and turns them into `rollout/...`, weighted by episodes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._clear()

    def add(self, chunk: ChunkStatistics) -> None:
        self._returns.append(np.asarray(chunk.returns))
        self._lengths.append(np.asarray(chunk.lengths))
        if chunk.agent_returns is not None:
            self._agent_returns.append(np.asarray(chunk.agent_returns))
        if chunk.wins is not None:
            self._wins.append(np.asarray(chunk.wins))
        for name, values in chunk.metrics.items():
            self._metrics.setdefault(name, []).append(np.asarray(values))
        self._env_steps += chunk.env_steps
        self._crashes += chunk.crashed

    def row(self) -> Row:
        """Everything since the last call, which starts the next period. Without an ended episode there is no mean, so
        only the counts are given."""
        now = self._clock()
        seconds = max(now - self._since, 1e-9)
        row: Row = {}
        if any(len(values) for values in self._returns):
            row[ROLLOUT_RETURN] = _mean_of(self._returns)
            if self._agent_returns:
                agents = np.concatenate(self._agent_returns).mean(axis=0, dtype=np.float64)  # [N]
                for what in ("mean", "min", "max"):
                    row[f"{AGENT_RETURN}_{what}"] = float(getattr(agents, what)())
            row[ROLLOUT_LENGTH] = _mean_of(self._lengths)
            if self._wins:
                row[ROLLOUT_WIN_RATE] = _mean_of(self._wins)
            row.update({f"rollout/{name}_mean": _mean_of(values) for name, values in self._metrics.items()})
        row[ROLLOUT_SPEED] = self._env_steps / seconds
        row[ROLLOUT_CRASHES] = self._crashes
        self._since = now
        self._clear()
        return row

    def _clear(self) -> None:
        self._returns: list[npt.NDArray[Any]] = []
        self._agent_returns: list[npt.NDArray[Any]] = []
        self._lengths: list[npt.NDArray[Any]] = []
        self._wins: list[npt.NDArray[Any]] = []
        self._metrics: dict[str, list[npt.NDArray[Any]]] = {}
        self._env_steps = 0
        self._crashes = 0


def _mean(values: npt.NDArray[Any]) -> float:
    return float(np.mean(values, dtype=np.float64))


def _mean_of(parts: Iterable[npt.NDArray[Any]]) -> float:
    return _mean(np.concatenate(list(parts)))
