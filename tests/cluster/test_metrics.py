from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from phalanx.cluster.metrics import RolloutMeter, evaluation_metrics, plain_number, report_row, split_evaluation


@dataclass
class Outcome:
    returns: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]
    wins: npt.NDArray[np.bool_] | None = None
    metrics: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    env_steps: int = 0
    crashed: int = 0
    agent_returns: npt.NDArray[np.float32] | None = None


def outcome(*returns: float, wins: list[bool] | None = None, **more: int) -> Outcome:
    lengths = np.full(len(returns), 25)
    contacts = np.asarray(returns, np.float32) * 2
    won = None if wins is None else np.asarray(wins)
    return Outcome(np.asarray(returns, np.float32), lengths, won, {"contacts": contacts}, **more)


def test_means_are_weighted_by_episodes_not_by_chunks() -> None:
    meter = RolloutMeter()
    meter.add(outcome(1.0, 2.0, 3.0, wins=[True, True, True]))
    meter.add(outcome(10.0, wins=[False]))
    row = meter.row()
    assert row["rollout/return_mean"] == 4.0  # the mean of chunk means would be 6
    assert row["rollout/contacts_mean"] == 8.0
    assert row["rollout/win_rate"] == 0.75
    assert row["rollout/length_mean"] == 25.0


def test_the_best_and_the_worst_paid_agent_are_told_where_agents_are_paid() -> None:
    meter = RolloutMeter()
    for pays in ([[1, 5, 0], [3, 5, 0]], [[2, 5, 3]]):
        chunk = outcome(*([4.0] * len(pays)))
        chunk.agent_returns = np.array(pays, np.float32)
        meter.add(chunk)
    row = meter.row()
    told = [row[f"rollout/agent_return_{what}"] for what in ("min", "mean", "max")]
    assert told == [1.0, pytest.approx(8 / 3), 5.0]
    meter.add(outcome(1.0))
    assert not any("agent" in key for key in meter.row())


def test_speed_counts_from_the_last_row_and_every_row_starts_afresh() -> None:
    times = iter([0.0, 2.0, 6.0])
    meter = RolloutMeter(clock=lambda: next(times))
    meter.add(outcome(1.0, env_steps=100, crashed=2))
    first = meter.row()
    assert first["rollout/env_steps_per_s"] == 50.0
    assert first["rollout/env_crashes"] == 2
    meter.add(outcome(5.0, env_steps=100))
    second = meter.row()
    assert second["rollout/env_steps_per_s"] == 25.0
    assert second["rollout/return_mean"] == 5.0
    assert second["rollout/env_crashes"] == 0


def test_without_an_ended_episode_there_is_no_mean() -> None:
    meter = RolloutMeter()
    meter.add(outcome(env_steps=10))
    assert set(meter.row()) == {"rollout/env_steps_per_s", "rollout/env_crashes"}


def test_a_row_begins_with_the_counters_and_goes_area_by_area() -> None:
    row = report_row(
        100,
        7,
        4,
        1.23456,
        {"cluster/actor_restarts": 0, "eval/return_mean": np.float32(1.5)},
        {"train/loss_td": 0.25, "rollout/return_mean": 2.0, "train/grad_norm": 1.0},
    )
    assert list(row) == [
        "env_steps",
        "updates",
        "episodes",
        "wall_s",
        "train/loss_td",
        "train/grad_norm",
        "rollout/return_mean",
        "eval/return_mean",
        "cluster/actor_restarts",
    ]
    assert all(type(value) in (int, float) for value in row.values())
    assert row["wall_s"] == 1.235


@pytest.mark.parametrize(
    ("value", "plain"), [(np.int64(3), 3), (np.float32(0.5), 0.5), (True, 1), (np.asarray(2.5), 2.5)]
)
def test_numbers_become_pythons_own(value: float, plain: float) -> None:
    assert plain_number(value) == plain
    assert type(plain_number(value)) in (int, float)


def test_an_evaluation_gives_means_over_episodes() -> None:
    row = evaluation_metrics(outcome(1.0, 3.0, wins=[True, False]))
    assert row == {
        "eval/return_mean": 2.0,
        "eval/return_std": 1.0,
        "eval/length_mean": 25.0,
        "eval/win_rate": 0.5,
        "eval/contacts_mean": 4.0,
    }
    assert "eval/win_rate" not in evaluation_metrics(outcome(1.0))


def test_an_evaluation_of_older_weights_keeps_its_own_place_on_the_axis() -> None:
    together = {"env_steps": 300, "updates": 9, "train/loss_td": 1.0, "eval/return_mean": 2.0}
    assert split_evaluation(together) == [together]
    training, evaluation = split_evaluation({**together, "eval/env_steps": 200})
    assert training == {"env_steps": 300, "updates": 9, "train/loss_td": 1.0}
    assert evaluation == {"env_steps": 200, "eval/return_mean": 2.0}
    assert split_evaluation({**together, "eval/env_steps": 300}) == [together]
