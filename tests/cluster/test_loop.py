from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from phalanx.cluster.checkpoint import checkpoint_folders, newest_intact
from phalanx.cluster.learner import NonFinite
from phalanx.cluster.loop import SerialLoop, train_serially
from phalanx.cluster.run_folder import CATALOGUE, RunFolder
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.configs.settings import RunSettings


def run_of(**sections: Any) -> RunSettings:
    """Simple_tag with DEMAR (which draws random subsets in every update), 15 rounds of 2 streams x 4 environments."""
    data: dict[str, Any] = {
        "seed": 5,
        "mode": "sync",
        "total_env_steps": 1200,
        "env": {"name": "simple_tag", "max_steps": 10},
        "algorithm": {"name": "demar", "ensemble": {"agents": 2, "agents_subset": 1, "mixers": 2, "mixers_subset": 1}},
        "agent": {"hidden": 8},
        "mixer": {"embed": 4, "hypernet": 8},
        "learner": {"batch_episodes": 4, "device": "cpu"},
        "replay": {"samples_per_insert": 2, "min_episodes": 8, "capacity_episodes": 50},
        "rollout": {"streams": 2, "envs_per_stream": 4},
        "exploration": {"env_steps": 800},
        "evaluation": {"every_env_steps": 400, "episodes": 5},
        "checkpoint": {"every_env_steps": 500, "keep": 9},
        "report": {"every_env_steps": 160},
    }
    for section, values in sections.items():
        data[section] = {**data[section], **values} if isinstance(values, dict) else values
    return run_from_dict(data, catalogue=CATALOGUE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train_serially(run_of(), out)
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_complete_folder(finished: Path) -> None:
    folder = RunFolder.open(finished)
    assert folder.run_settings() == run_of()
    summary = folder.read_summary()
    assert summary is not None and summary["exit_reason"] == "completed"
    assert summary["env_steps"] == 1200 and summary["episodes"] == 120
    assert summary["updates"] == (120 - 8) * 2 // 4
    assert summary["final"]["env_steps"] == 1200 and "eval/return_mean" in summary["best"]
    assert [each["step_count"] for each in folder.read_evaluations()] == [0, 400, 800, 1200]
    assert all(len(each["return"]) == 5 and "contacts" in each for each in folder.read_evaluations())
    assert [path.name[-4:] for path in checkpoint_folders(folder.checkpoints)] == ["1200", "1040", "0560"]
    assert {path.name for path in finished.iterdir()} == {
        *("config.yaml", "metadata.json", "metrics.jsonl", "evaluations.json", "summary.json", "checkpoints")
    }


def test_reports_count_and_carry_every_evaluation(finished: Path) -> None:
    rows = rows_of(finished)
    assert rows[0]["env_steps"] == 0 and rows[-1]["env_steps"] == 1200
    assert [row["eval/env_steps"] for row in rows if "eval/return_mean" in row] == [0, 400, 800, 1200]
    last = rows[-1]
    assert last["updates"] == 56 and last["episodes"] == 120 and last["replay/size"] == 50
    assert last["replay/samples_per_insert"] == pytest.approx(2.0)
    assert {"train/loss_td", "train/grad_norm", "rollout/return_mean", "rollout/contacts_mean"} <= set(last)
    epsilons = [row["rollout/epsilon"] for row in rows]
    assert epsilons == sorted(epsilons, reverse=True) and epsilons[0] == 1.0 and epsilons[-1] == pytest.approx(0.05)


def test_equal_runs_are_equal_and_other_seeds_are_not(finished: Path, tmp_path: Path) -> None:
    train_serially(run_of(), tmp_path / "again")
    assert (tmp_path / "again/evaluations.json").read_bytes() == (finished / "evaluations.json").read_bytes()
    train_serially(run_of(seed=6), tmp_path / "other")
    other = (tmp_path / "other/evaluations.json").read_text().replace("seed_6", "seed_5")
    assert other != (finished / "evaluations.json").read_text()


@pytest.mark.parametrize("kept", ["0560", "1040"])
def test_a_resumed_run_equals_the_uninterrupted_one(finished: Path, tmp_path: Path, kept: str) -> None:
    out = tmp_path / "resumed"
    shutil.copytree(finished, out)
    for path in checkpoint_folders(out / "checkpoints"):
        if path.name[-4:] > kept:
            shutil.rmtree(path)
    summary = train_serially(run_of(), out, resume=True)
    assert summary["env_steps"] == 1200 and summary["updates"] == 56 and summary["exit_reason"] == "completed"
    assert (out / "evaluations.json").read_bytes() == (finished / "evaluations.json").read_bytes()
    steps = [row["env_steps"] for row in rows_of(out)]
    assert steps == [row["env_steps"] for row in rows_of(finished)]
    same = ("train/loss_td", "train/grad_norm", "rollout/return_mean")
    last, expected = rows_of(out)[-1], rows_of(finished)[-1]
    assert [last[key] for key in same] == [expected[key] for key in same]
    one, other = (newest_intact(each / "checkpoints").path for each in (out, finished))
    for name in ("policy.npz", "replay/obs.npy", "replay/replay.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_run_killed_between_rounds_goes_on(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    loop = SerialLoop(run_of(), out)
    loop._write_what_is_due()
    for _ in range(9):  # past the checkpoint at 560 and the evaluation at 400
        loop.round()
    loop.close()
    train_serially(run_of(), out, resume=True)
    assert (out / "evaluations.json").read_bytes() == (finished / "evaluations.json").read_bytes()


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "damaged"
    shutil.copytree(finished, out)
    for name in ("1200", "1040"):
        with open(out / f"checkpoints/step_00000000{name}/learner.pt", "r+b") as file:
            file.truncate(50)
    with caplog.at_level(logging.WARNING, logger="phalanx.loop"):
        train_serially(run_of(), out, resume=True)
    assert "step_000000001200 is damaged" in caplog.text and "going on from step_000000000560" in caplog.text
    assert (out / "evaluations.json").read_bytes() == (finished / "evaluations.json").read_bytes()


def test_resuming_a_finished_run_changes_nothing(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "finished"
    shutil.copytree(finished, out)
    assert train_serially(run_of(), out, resume=True)["env_steps"] == 1200
    assert (out / "evaluations.json").read_bytes() == (finished / "evaluations.json").read_bytes()
    assert len(rows_of(out)) == len(rows_of(finished))


def test_other_settings_are_not_resumed(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "other"
    shutil.copytree(finished, out)
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="made with other settings"):
        train_serially(run_of(exploration={"env_steps": 900}), out, resume=True)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_without_the_replay_learning_waits_for_new_episodes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(checkpoint={"replay": "none"})
    out = tmp_path / "run"
    train_serially(run, out)
    shutil.rmtree(out / "checkpoints/step_000000001200")
    assert not (out / "checkpoints/step_000000001040/replay").exists()
    with caplog.at_level(logging.WARNING, logger="phalanx.loop"):
        summary = train_serially(run, out, resume=True)
    assert "holds no replay" in caplog.text
    assert summary["updates"] == 56  # what was owed meanwhile was made up for


def test_an_occupied_folder_is_refused_before_anything_else(finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="nothing is overwritten"):
        train_serially(run_of(), finished)
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_a_loss_that_is_not_finite_leaves_the_checkpoint_from_before(tmp_path: Path) -> None:
    loop = SerialLoop(run_of(), tmp_path / "run")
    loop._write_what_is_due()
    while not checkpoint_folders(tmp_path / "run/checkpoints"):
        loop.round()
    loop.replay._rings["reward"][:] = float("nan")
    with pytest.raises(NonFinite, match="loss_td is nan"):
        loop.round()
    assert newest_intact(tmp_path / "run/checkpoints").manifest["updates"] > 0


def test_whoever_watches_gets_every_row(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    train_serially(run_of(total_env_steps=240), tmp_path / "run", on_report=lambda row: seen.append(dict(row)))
    assert seen == rows_of(tmp_path / "run")
