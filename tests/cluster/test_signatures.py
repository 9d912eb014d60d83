from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from phalanx.cluster.diary import Diary
from phalanx.cluster.loop import train_serially
from phalanx.cluster.progress import Progress
from phalanx.cluster.run_folder import CATALOGUE, RunFolder
from phalanx.cluster.signatures import SIGNATURES, Thresholds, Watch, has_learned, sentence, signatures
from phalanx.cluster.sinks import read_rows
from phalanx.configs.load import load_run
from phalanx.configs.settings import RunSettings

EXPLOSION, COLLAPSE, VOLATILE = SIGNATURES
HEALTHY = {
    "train/q_start_mean": 40.0,
    "train/mc_return_mean": 30.0,
    "train/overestimation": 10.0,
    "train/return_scale": 100.0,
    "train/dqtot_dqi_mean": 0.3,
    "train/dqtot_dqi_p90": 0.5,
    "train/mixing_w1": 6.0,
    "train/target_spread": 0.1,
    "train/td_error_abs_mean": 0.2,
}
SHOWING = {
    EXPLOSION: {"train/overestimation": 501.0, "train/q_start_mean": 531.0},
    COLLAPSE: {"train/dqtot_dqi_p90": 0.009, "train/dqtot_dqi_mean": 0.004},
    VOLATILE: {"train/target_spread": 0.41},
}


def run_of(*overrides: str) -> RunSettings:
    return load_run("demar_tag", overrides, catalogue=CATALOGUE)


def row(updates: int, **changes: Any) -> dict[str, float | int]:
    return {"env_steps": 100 * updates, "updates": updates, **HEALTHY, **changes}


class Looker:
    """Feeds rows to a watch, 100 updates apart; what it said."""

    def __init__(self, run: RunSettings | None = None, updates: int = 2000, **thresholds: Any) -> None:
        self.watch = Watch(run or run_of(), Thresholds(**thresholds))
        self.updates = updates
        self.said: list[str] = []

    def look(self, count: int, changes: dict[str, float] | None = None) -> dict[str, int]:
        shown: dict[str, int] = {}
        for _ in range(count):
            shown, begun = self.watch.look(row(self.updates, **(changes or {})))
            self.said += [each.partition(":")[0] for each in begun]
            self.updates += 100
        return shown


def test_a_healthy_run_shows_nothing() -> None:
    looker = Looker()
    assert looker.look(20) == {f"warning/{name}": 0 for name in SIGNATURES}
    assert looker.said == []


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_is_told_once_for_as_long_as_it_lasts(name: str) -> None:
    looker = Looker()
    looker.look(3)
    assert looker.look(2, SHOWING[name])[f"warning/{name}"] == 0
    assert looker.said == []
    assert looker.look(1, SHOWING[name])[f"warning/{name}"] == 1
    assert looker.look(5, SHOWING[name]) == {f"warning/{each}": int(each == name) for each in SIGNATURES}
    assert looker.said == [name]
    assert looker.look(2)[f"warning/{name}"] == 1  # two reports without it may be chance
    looker.look(1, SHOWING[name])
    assert looker.look(3)[f"warning/{name}"] == 0
    looker.look(3, SHOWING[name])
    assert looker.said == [name, name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_single_reports_are_not_told(name: str) -> None:
    looker = Looker()
    for _ in range(5):
        looker.look(2, SHOWING[name])
        looker.look(1)
    assert looker.said == []


@pytest.mark.parametrize("name", SIGNATURES)
def test_nothing_is_said_of_networks_that_have_hardly_learned(name: str) -> None:
    looker = Looker(updates=100)
    looker.look(1)
    looker.look(8, SHOWING[name])  # up to update 900
    assert looker.said == []
    looker.look(3, SHOWING[name])  # from update 1000 on
    assert looker.said == [name]


def test_the_first_target_networks_do_not_count() -> None:
    hard = run_of("algorithm.target_update_updates=800")
    assert not has_learned(hard, 1599)
    assert has_learned(hard, 1600)
    assert not has_learned(run_of("algorithm.target_update_updates=10"), 999)
    soft = run_of("algorithm.target_update=soft", "algorithm.target_update_updates=800")
    assert has_learned(soft, 1000)


def test_thresholds_are_strict() -> None:
    limits = Thresholds()
    assert signatures(row(1)) == dict.fromkeys(SIGNATURES, False)
    at = {
        EXPLOSION: {"train/overestimation": limits.explosion_scales * 100.0},
        COLLAPSE: {"train/dqtot_dqi_p90": limits.collapsed_slope},
        VOLATILE: {"train/target_spread": limits.volatile_spread * 0.2},
    }
    for name, changes in at.items():
        assert not signatures(row(1, **changes))[name]
        assert signatures(row(1, **SHOWING[name]))[name]


def test_an_explosion_is_measured_by_the_largest_returns_so_far() -> None:
    looker = Looker()
    looker.look(1, {"train/return_scale": 200.0})
    looker.look(5, SHOWING[EXPLOSION])
    assert looker.said == []
    looker.look(3, {"train/overestimation": 1001.0})
    assert looker.said == [EXPLOSION]


def test_what_was_there_from_the_first_report_is_not_growth() -> None:
    looker = Looker()
    looker.look(5, {"train/overestimation": 501.0})
    looker.look(5, {"train/overestimation": 1500.0})
    assert looker.said == []
    looker.look(3, {"train/overestimation": 1504.0})
    assert looker.said == [EXPLOSION]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_any_more_exploded(value: float) -> None:
    looker = Looker()
    looker.look(1)
    looker.look(3, {"train/overestimation": value})
    assert looker.said == [EXPLOSION]


def test_without_any_reward_so_far_there_is_no_scale_to_judge_by() -> None:
    looker = Looker()
    shown = looker.look(3, {"train/return_scale": 0.0, "train/overestimation": 5.0})
    assert f"warning/{EXPLOSION}" not in shown
    assert looker.said == []


def test_rows_without_figures_say_nothing_and_change_nothing() -> None:
    watch = Watch(run_of())
    assert watch.look({"env_steps": 0, "updates": 0}) == ({}, [])
    sum_of_values = {k: v for k, v in row(5000).items() if k.split("/")[-1].startswith(("q_", "mc", "over", "ret"))}
    shown, _ = Watch(run_of("algorithm.name=vdn")).look({"env_steps": 1, "updates": 5000, **sum_of_values})
    assert shown == {f"warning/{EXPLOSION}": 0}


@pytest.mark.parametrize(
    ("name", "overrides", "advice"),
    [
        (EXPLOSION, (), "raise algorithm.regulariser.alpha (now 0.002), or algorithm.ensemble.agents"),
        (EXPLOSION, ("algorithm.name=vdn",), "such as algorithm.name=demar"),
        (COLLAPSE, (), "lower algorithm.regulariser.alpha (now 0.002)"),
        (COLLAPSE, ("algorithm.name=qmix",), "without a regulariser: lower algorithm.lr"),
        (VOLATILE, (), "lower algorithm.lr, or raise algorithm.regulariser.alpha (now 0.002)"),
        (COLLAPSE, ("algorithm.adaptive.enabled=true",), "lower algorithm.adaptive.alpha_max (now 0.1)"),
        (VOLATILE, ("algorithm.ensemble.mixers_subset=2",), "raise algorithm.ensemble.mixers_subset (now 2 of 3)"),
    ],
)
def test_the_sentence_says_what_to_change(name: str, overrides: tuple[str, ...], advice: str) -> None:
    shown = row(5000, **SHOWING[name])
    if "algorithm.name=vdn" in overrides:
        del shown["train/mixing_w1"]
    said = sentence(name, shown, run_of(*overrides))
    assert said.startswith(f"{name}: ")
    assert advice in said


def diary_of(run: RunSettings, folder: RunFolder, progress: Progress | None = None) -> Diary:
    return Diary(run, folder, progress)


def report(diary: Diary, changes: dict[str, float]) -> dict[str, float | int]:
    diary.progress.updates += 1000
    diary.progress.env_steps += 10
    return diary.report({**HEALTHY, **changes})


def test_the_diary_writes_warnings_down_and_says_them_once_also_across_a_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of("mode=sync")
    folder = RunFolder.create(tmp_path / "run", run)
    diary = diary_of(run, folder)
    with caplog.at_level(logging.WARNING, "phalanx"):
        rows = [report(diary, {}), *(report(diary, SHOWING[COLLAPSE]) for _ in range(4))]
        diary.close("stopped")
        again = diary_of(run, folder, dataclasses.replace(diary.progress))
        rows += [report(again, SHOWING[COLLAPSE]) for _ in range(2)]
        again.close("stopped")
    assert [each[f"warning/{COLLAPSE}"] for each in rows] == [0, 0, 0, 1, 1, 1, 1]
    assert [each[f"warning/{COLLAPSE}"] for each in read_rows(folder.path)] == [0, 0, 0, 1, 1, 1, 1]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"after 4000 updates: {COLLAPSE}: the agents' values hardly enter Q_tot")


def test_a_normal_run_begins_without_a_warning(tmp_path: Path) -> None:
    overrides = [
        *("mode=sync", "total_env_steps=2400", "env.max_steps=10", "rollout.streams=1", "rollout.envs_per_stream=8"),
        *("agent.hidden=16", "mixer.embed=8", "mixer.hypernet=16", "learner.batch_episodes=8"),
        *("replay.min_episodes=16", "replay.samples_per_insert=8", "report.every_env_steps=80"),
        *("evaluation.episodes=2", "evaluation.every_env_steps=2400", "exploration.env_steps=1000"),
        *("algorithm.target_update_updates=20", "checkpoint.every_env_steps=2400"),
    ]
    run = run_of(*overrides)
    train_serially(run, tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    judged = [each for each in rows if f"warning/{COLLAPSE}" in each]
    assert len(judged) > 20
    assert not any(value for each in rows for key, value in each.items() if key.startswith("warning/"))
    # ... nor do the figures themselves show one, as soon as the target networks are trained ones
    eager = Watch(run, Thresholds(min_updates=0))
    said = [begun for each in rows for begun in eager.look(each)[1]]
    assert not said, json.dumps(said)
