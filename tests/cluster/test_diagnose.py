from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from phalanx.algorithms.base import TensorBatch
from phalanx.cluster import snapshot
from phalanx.cluster.checkpoint import save_checkpoint
from phalanx.cluster.cli import main
from phalanx.cluster.diagnose import close_look, diagnose, load_algorithm
from phalanx.cluster.loop import train_serially
from phalanx.cluster.metrics import FIGURES
from phalanx.cluster.policy import find_checkpoint
from phalanx.cluster.replay import Replay
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.cluster.signatures import COLLAPSED_COORDINATION
from phalanx.configs.errors import UserError
from phalanx.configs.load import load_run
from phalanx.configs.settings import RunSettings

TINY = (
    *("mode=sync", "total_env_steps=240", "env.max_steps=6", "rollout.streams=1", "rollout.envs_per_stream=4"),
    *("agent.hidden=8", "mixer.embed=4", "mixer.hypernet=8", "learner.batch_episodes=4", "replay.min_episodes=4"),
    *("evaluation.episodes=2", "exploration.env_steps=100", "algorithm.ensemble.agents=2"),
)


def tiny(*overrides: str) -> RunSettings:
    last = {each.partition("=")[0]: each for each in (*TINY, *overrides)}
    return load_run("demar_tag", list(last.values()), catalogue=CATALOGUE)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tag"
    train_serially(tiny(), folder)
    return folder


@pytest.fixture
def forgetful(tmp_path: Path) -> Path:
    """The same run, whose checkpoint holds no replay."""
    folder = tmp_path / "forgetful"
    train_serially(tiny("checkpoint.replay=none"), folder)
    return folder


def test_every_figure_of_a_report_and_one_more(run_folder: Path) -> None:
    found = diagnose(run_folder, 8)
    assert set(found.figures) == set(FIGURES)
    assert all(math.isfinite(value) for value in found.figures.values())
    assert (found.source, found.episodes) == ("replay", 8)
    assert (found.env_steps, found.updates) == (240, snapshot.read_progress(found.checkpoint).updates)
    last = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert {f"train/{name}" for name in FIGURES} - set(last) == {"train/agent_gradient_cosine"}


def test_the_figures_are_those_of_the_checkpoints_networks_and_episodes(run_folder: Path) -> None:
    checkpoint = find_checkpoint(run_folder).path
    run, spec = tiny(), snapshot.read_spec(checkpoint)
    replay = Replay(spec, run.replay, run.seed)
    saved = snapshot.replay_folder(checkpoint)
    assert saved is not None
    replay.load(saved)
    (batch,) = replay.sample(8)
    algorithm = load_algorithm(run, spec, checkpoint)
    weights = snapshot.read_policy(checkpoint)
    assert all(np.array_equal(weights[name], array) for name, array in algorithm.policy_weights().items())
    assert diagnose(run_folder, 8).figures == close_look(algorithm, TensorBatch.of(batch, torch.device("cpu")))


def test_without_a_replay_the_team_plays(forgetful: Path, run_folder: Path) -> None:
    found = diagnose(forgetful, 5)
    assert (found.source, found.episodes) == ("played", 5)
    again = diagnose(run_folder, 5, play=True)
    assert again.source == "played"
    assert again.figures == found.figures  # the same networks play the same episodes
    assert diagnose(run_folder, 5).figures != found.figures


def test_more_episodes_than_were_kept_are_not_made_up(run_folder: Path) -> None:
    assert diagnose(run_folder, 10_000).episodes == 40


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm.name=iql",),
        ("algorithm.name=vdn", "replay.sampling=prioritised"),
        ("algorithm.name=cw_qmix",),
        ("replay.storage=float16",),
    ],
)
def test_any_value_method_can_be_looked_at(overrides: tuple[str, ...], tmp_path: Path) -> None:
    train_serially(load_run("demar_tag", (*TINY[:-1], *overrides), catalogue=CATALOGUE), tmp_path / "run")
    found = diagnose(tmp_path / "run", 4)
    assert {"overestimation", "snd", "agent_gradient_cosine", "dead_units"} <= set(found.figures) <= set(FIGURES)


def written_again(run_folder: Path, out: Path, updates: int, factor: float) -> Path:
    """A folder with the run's checkpoint as if after `updates`, its mixing weights times `factor`."""
    old = find_checkpoint(run_folder).path
    learner, progress = snapshot.read_learner(old), snapshot.read_progress(old)
    for name in ("hyper_first", "hyper_last"):
        learner["algorithm"][f"mixer.{name}.weight"] *= factor
        learner["algorithm"][f"mixer.{name}.bias"] *= factor
    progress.updates = updates
    new = snapshot.Snapshot(tiny(), snapshot.read_spec(old), progress, learner, snapshot.read_policy(old))
    save_checkpoint(out / "checkpoints", progress.env_steps, new.write, new.manifest())
    return out


def test_warnings_are_of_the_figures(run_folder: Path, tmp_path: Path) -> None:
    assert not diagnose(run_folder, 4).judged  # a few updates only
    early = diagnose(written_again(run_folder, tmp_path / "early", 500, 0.0), 4)
    assert (early.judged, early.warnings) == (False, {})
    collapsed = diagnose(written_again(run_folder, tmp_path / "collapsed", 5000, 0.0), 4)
    assert collapsed.judged
    assert "algorithm.regulariser.alpha" in collapsed.warnings[COLLAPSED_COORDINATION]
    assert COLLAPSED_COORDINATION not in diagnose(written_again(run_folder, tmp_path / "well", 5000, 1.0), 4).warnings


def test_warnings_are_of_the_reports_up_to_the_checkpoint(run_folder: Path, tmp_path: Path) -> None:
    folder = written_again(run_folder, tmp_path / "run", 5000, 1.0)
    for first, expected in ((200, True), (230, True), (239, False)):
        reports = [{"env_steps": first + i, "updates": 5000, "train/dqtot_dqi_p90": 0.001} for i in range(3)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in reports))
        assert (COLLAPSED_COORDINATION in diagnose(folder, 4).warnings) == expected


def test_the_command_prints_a_table(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(run_folder), "--episodes", "4"]) == 0
    said = capsys.readouterr().out
    assert "demar on simple_tag" in said
    assert "240 env steps" in said
    assert "4 episodes of its replay" in said
    assert "no failure signature is looked for so early in a run" in said
    for name, meaning in FIGURES.items():
        (line,) = [line for line in said.splitlines() if line.startswith(f"{name} ")]
        assert meaning in line


def test_the_command_prints_one_line_of_json(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(run_folder), "--episodes", "4", "--json", "--play"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    data = json.loads(line)
    assert data["checkpoint"] == "step_000000000240"
    assert (data["env_steps"], data["episodes"], data["source"]) == (240, 4, "played")
    assert set(data["figures"]) == set(FIGURES)
    assert (data["warnings"], data["judged"]) == ({}, False)


def test_figures_that_are_no_numbers_are_null(run_folder: Path) -> None:
    found = diagnose(run_folder, 4)
    found.figures["snd"] = math.nan
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["figures"]["snd"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["diagnose"], "Missing argument 'DIR'"),
        (["diagnose", "/nowhere"], "/nowhere is not a folder"),
        (["diagnose", "{empty}"], "there is no checkpoint in"),
        (["diagnose", "{run}", "--episodes", "0"], "'--episodes'"),
        (["plot", "{run}", "--out", "{empty}/x.png", "--diagnostics", "--metric", "x"], "exclude each other"),
    ],
)
def test_a_wrong_request_is_a_sentence_and_exit_status_2(
    arguments: list[str], sentence: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([each.format(empty=tmp_path, run=run_folder) for each in arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_networks_that_do_not_fit_are_refused(run_folder: Path) -> None:
    checkpoint = find_checkpoint(run_folder).path
    with pytest.raises(UserError, match=r"do not fit algorithm\.name=demar as its config\.yaml says"):
        load_algorithm(tiny("agent.hidden=9"), snapshot.read_spec(checkpoint), checkpoint)


def test_a_method_without_diagnostics_is_a_sentence_although_its_queue_is_empty(tmp_path: Path) -> None:
    kept = [one for one in TINY if not one.startswith(("learner.batch", "replay.", "exploration.", "algorithm."))]
    run = load_run("demar_tag", [*kept, "algorithm.name=mappo"], catalogue=CATALOGUE)
    train_serially(run, tmp_path / "run")
    with pytest.raises(UserError, match=r"algorithm\.name=mappo has no diagnostics"):
        diagnose(tmp_path / "run", 4)
