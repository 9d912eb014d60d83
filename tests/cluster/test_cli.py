from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import phalanx
from phalanx.cluster import commands
from phalanx.cluster.cli import main
from phalanx.cluster.loop import train_serially
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.cluster.sinks import read_rows
from phalanx.cluster.stopping import StopRequest
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.load import dump_run, load_run, override_run, run_from_dict
from phalanx.configs.settings import RunSettings
from phalanx.envs.matrix_games import MatrixGame
from phalanx.envs.registry import ENVIRONMENTS
from phalanx.envs.team import Step

Capture = pytest.CaptureFixture[str]

TINY = [
    "total_env_steps=60",
    "rollout.envs_per_stream=4",
    "replay.min_episodes=8",
    "replay.capacity_episodes=64",
    "learner.batch_episodes=8",
    "agent.hidden=8",
    "evaluation.every_env_steps=30",
    "evaluation.episodes=2",
    "report.every_env_steps=20",
    "checkpoint.every_env_steps=30",
]
TAG = [
    "env.name=simple_tag",
    "mode=sync",
    "env.max_steps=5",
    "evaluation.episodes=4",
    "rollout.streams=1",
    "report.every_env_steps=20",
]


@pytest.fixture(autouse=True)
def _warnings_as_they_were() -> Iterator[None]:
    before = warnings.showwarning
    yield
    warnings.showwarning = before


@pytest.fixture(scope="module")
def matrix_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "matrix"
    train_serially(load_run("qmix_matrix", TINY, catalogue=CATALOGUE), folder)
    return folder


@pytest.fixture(scope="module")
def tag_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tag"
    train_serially(load_run("qmix_matrix", [*TINY[:-4], *TAG], catalogue=CATALOGUE), folder)
    return folder


def told(captured: Any) -> str:
    """The sentence on stderr; there is one, and no traceback."""
    assert "Traceback" not in captured.err
    assert captured.err.startswith("phalanx: ")
    return str(captured.err)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? (see `phalanx --help`)"),
        (["train"], "Missing argument 'RUN'. (see `phalanx train --help`)"),
        (["train", "qmix_matrix", "--outt", "x"], "No such option: --outt"),
        (["list", "things"], "'things' is not one of 'algorithms', 'envs', 'runs', 'searches'"),
        (["evaluate", "x", "--episodes", "0"], "'--episodes'"),
        (["evaluate", "x", "--episodes", "many"], "'--episodes'"),
        (["plot", "x"], "Missing option '--out'"),
        (["show-config"], "show-config needs a run: a YAML file or one of `phalanx list runs`, or --docs"),
        (["show-config", "qmix_matrx"], "did you mean qmix_matrix?"),
        (["show-config", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "qmix_matrix", "algorithm.batch=1"], "algorithm.batch"),
        (["train", "qmix_matrix", "learner.batch_episode=1"], "did you mean learner.batch_episodes?"),
        (["train", "qmix_matrix", "algorithm.lr=fast"], "algorithm.lr"),
        (["train", "qmix_matrix", "algorithm.gamma=2"], "algorithm.gamma"),
        (["train", "qmix_matrix", "env.name=simple_tga"], "did you mean simple_tag?"),
        (["train", "qmix_matrix", "algorithm.name=qmx"], "did you mean qmix?"),
        (["train", "qmix_matrix", "algorithm.name=QMIX"], "did you mean qmix?"),
        (["train", "QMIX_Matrix"], "did you mean qmix_matrix?"),
        (["train", "qmix_matrix", "evaluation.every=5"], "did you mean evaluation.every_env_steps?"),
        (["train", "qmix_matrix", "out=x"], "out is an option, not a setting: write --out x"),
        (["tune", "demar_ensembles", "resume=x"], "resume is an option, not a setting: write --resume x"),
        (["train", "qmix_matrix", "--seed", "3"], "Settings are written without dashes, as in seed=VALUE"),
        (["train", "qmix_matrix", "cluster.workers=-1"], "cluster.workers"),
        (["train", "qmix_matrix", "replay.capacity_episodes=3"], "replay.capacity_episodes"),
        (["train", "qmix_matrix", "no equals sign"], "no equals sign"),
        (["resume", "/nowhere"], "/nowhere is not a folder"),
        (["evaluate", "/nowhere"], "/nowhere is not a folder"),
        (["evaluate", "/nowhere", "--gif", "team.mp4"], "--gif team.mp4 must be a file whose name ends in .gif"),
        (["plot", "/nowhere", "--out", "x.png"], "there is no run folder /nowhere"),
        (
            ["plot", "/nowhere", "--out", "x.jpeg"],
            "--out x.jpeg must be a file whose name ends in .png or .pdf or .svg",
        ),
        (["check-env", "simple_tga"], "did you mean simple_tag?"),
        (["check-env", "matrix", "env.payof=1"], "did you mean env.payoff?"),
    ],
)
def test_a_wrong_request_is_a_sentence_and_exit_status_2(arguments: list[str], sentence: str, capsys: Capture) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert sentence in told(captured)
    assert captured.out == ""


def test_a_run_file_is_named_with_the_line(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("env:\n  name: matrix\nalgorithm:\n  name: qmix\n  learning_rate: 1\n")
    assert main(["train", str(file)]) == 2
    assert "mine.yaml:5" in told(capsys.readouterr())


def test_version_and_help(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"phalanx {phalanx.__version__}\n"
    for arguments in ([], ["--help"], ["train", "-h"]):
        assert main(arguments) == 0
        assert "Usage" in capsys.readouterr().out


def test_the_module_runs_and_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from phalanx.cluster.cli import main; status = main(['--help']);"
        "heavy = {'torch', 'ray', 'numpy', 'matplotlib', 'pydantic', 'wandb'} & set(sys.modules);"
        "print(sorted(heavy), status, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[] 0\n"
    command = [sys.executable, "-m", "phalanx.cluster.cli", "list", "runz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("phalanx: ")


def test_a_terminal_without_unicode_is_no_reason_to_break() -> None:
    command = [sys.executable, "-m", "phalanx.cluster.cli", "show-config", "--docs"]
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(command, env=plain, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "? of prioritised sampling" in done.stdout


def test_list_names_everything_with_what_it_is(capsys: Capture) -> None:
    for what, expected in (
        ("envs", "simple_tag"),
        ("algorithms", "demar"),
        ("runs", "demar_tag"),
        ("searches", "demar_ensembles"),
    ):
        assert main(["list", what]) == 0
        lines = capsys.readouterr().out.splitlines()
        names = [line.split()[0] for line in lines]
        assert expected in names
        assert all(len(line.split()) > 2 for line in lines)
    assert "demar_ensembles" not in names[:-1]


def test_list_tells_what_algorithms_can_be_used_for(capsys: Capture) -> None:
    assert main(["list", "algorithms"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "discrete actions, off-policy" in lines["qmix"] and "continuous" not in lines["qmix"]
    assert "discrete or continuous actions, on-policy" in lines["mappo"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["env.name=dispersion", "env.actions=continuous"], "algorithm.name=qmix needs discrete actions"),
        (["algorithm.name=mappo", "replay.sampling=prioritised"], "replay.sampling=prioritised is impossible"),
        (["algorithm.name=mappo", "replay.samples_per_insert=4"], "replay.samples_per_insert=4 is impossible"),
        (["algorithm.name=mappo", "replay.capacity_episodes=40"], "replay.capacity_episodes=40 is too few"),
        (["replay.sampling=once"], "algorithm.name=qmix learns from old episodes too"),
        (["algorithm.name=mappo", "replay.min_episodes=64"], "replay.min_episodes=64 has no effect"),
        (["algorithm.name=mappo", "exploration.start=0.5"], "exploration.start=0.5 has no effect"),
        (["env.name=simple_tag", "env.opponents=learning"], "algorithm.name=qmix learns from the team's reward alone"),
        (["algorithm.name=mappo", "mode=sync", "learner.batch_episodes=7"], "learner.batch_episodes=7 must be what"),
    ],
)
def test_what_does_not_go_together_is_refused_before_there_is_a_folder(
    overrides: list[str], sentence: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["train", "qmix_spread", *overrides, "--out", str(tmp_path / "run")]) == 2
    assert sentence in told(capsys.readouterr())
    assert not (tmp_path / "run").exists()


def test_another_kind_of_method_does_not_inherit_what_the_file_says_of_the_replay(capsys: Capture) -> None:
    assert main(["show-config", "qmix_spread", "algorithm.name=mappo"]) == 0
    run = run_from_dict(yaml.safe_load(capsys.readouterr().out), catalogue=CATALOGUE)
    envs, streams = run.rollout.envs_per_stream, run.rollout.streams
    assert (run.replay.sampling, run.replay.samples_per_insert) == ("once", 1.0)
    assert run.learner.batch_episodes == streams * envs
    wider = override_run(run, [f"rollout.streams={streams + 1}", "mode=sync"], catalogue=CATALOGUE)
    assert wider.learner.batch_episodes == (streams + 1) * envs
    assert wider.replay.capacity_episodes == wider.least_capacity
    back = override_run(run, ["algorithm.name=vdn"], catalogue=CATALOGUE)
    assert (back.replay.sampling, back.replay.capacity_episodes, back.learner.batch_episodes) == ("uniform", 5000, 32)


def test_show_config_prints_what_can_be_loaded_again(tmp_path: Path, capsys: Capture) -> None:
    assert main(["show-config", "demar_tag", "algorithm.lr=1e-4", "seed=3"]) == 0
    text = capsys.readouterr().out
    again = run_from_dict(yaml.safe_load(text), catalogue=CATALOGUE)
    assert again == load_run("demar_tag", ["algorithm.lr=1e-4", "seed=3"], catalogue=CATALOGUE)
    assert (again.algorithm.lr, again.seed) == (1e-4, 3)


def test_show_config_documents_every_setting(capsys: Capture) -> None:
    assert main(["show-config", "--docs"]) == 0
    text = capsys.readouterr().out
    for key in ("replay.samples_per_insert", "env.payoff", "algorithm.ensemble.agents", "cluster.worker_cpus"):
        assert key in text


@pytest.mark.parametrize("spec", ["matrix", "qmix_matrix"])
def test_check_env_passes_an_environment_that_keeps_the_rules(spec: str, capsys: Capture) -> None:
    assert main(["check-env", spec, "env.max_steps=2"]) == 0
    assert capsys.readouterr().out.startswith(f"{spec}: all ")


class Forgetful(MatrixGame):
    """Claims both kinds of end at once, which no environment may."""

    def step(self, actions: Any) -> Step:
        step = super().step(actions)
        step.truncated = step.terminated.copy()
        return step


def test_check_env_names_the_broken_rules(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    module = types.ModuleType("forgetful")
    module.Forgetful = Forgetful  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "forgetful", module)
    monkeypatch.setitem(ENVIRONMENTS, "matrix", "forgetful:Forgetful")
    assert main(["check-env", "matrix"]) == 1
    captured = capsys.readouterr()
    assert "checks failed" in captured.out
    assert "terminated" in captured.out


def test_evaluate_prints_one_line_of_json_and_everything_else_to_stderr(
    matrix_run: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    from phalanx.cluster.evaluation import Evaluator

    original = Evaluator.evaluate

    def noisy(self: Evaluator, *arguments: Any) -> Any:
        print("a library's print")
        os.write(1, b"a C library's print\n")
        warnings.warn("a library's warning", UserWarning, stacklevel=1)
        return original(self, *arguments)

    monkeypatch.setattr(Evaluator, "evaluate", noisy)
    assert main(["evaluate", str(matrix_run), "--json", "--episodes", "3"]) == 0
    captured = capfd.readouterr()
    assert captured.out.count("\n") == 1
    data = json.loads(captured.out)
    assert len(data["returns"]) == 3
    assert data["return_mean"] == pytest.approx(np.mean(data["returns"]))
    assert data["return_std"] == 0.0
    assert data["win_rate"] is None
    first, second = data["greedy_joint_action"]
    assert data["returns"][0] == [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]][first][second]
    for noise in ("a library's print", "a C library's print", "a library's warning"):
        assert noise in captured.err
    print("stdout works again")
    assert capfd.readouterr().out == "stdout works again\n"


def test_evaluate_gives_the_environments_own_metrics_and_films_the_team(
    tag_run: Path, tmp_path: Path, capfd: Capture
) -> None:
    from PIL import Image

    film = tmp_path / "team.gif"
    assert main(["evaluate", str(tag_run), "--json", "--episodes", "4", "--gif", str(film)]) == 0
    data = json.loads(capfd.readouterr().out)
    assert data["contacts_mean"] >= 0
    assert "greedy_joint_action" not in data
    with Image.open(film) as image:
        assert image.n_frames >= 3 * 5 - 3  # three episodes of five steps; equal pictures are merged
    assert main(["evaluate", str(tag_run)]) == 0
    text = capfd.readouterr().out
    assert "32 greedy episodes" in text
    assert "contacts" in text


def test_an_environment_without_pictures_cannot_be_filmed(
    matrix_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.envs.matrix_games.MatrixGame.render", lambda *_: None)
    monkeypatch.setattr("phalanx.envs.matrix_games.MatrixGame.why_no_picture", "it is too dark")
    assert main(["evaluate", str(matrix_run), "--gif", str(tmp_path / "x.gif")]) == 2
    assert "the environment matrix cannot draw itself: it is too dark" in told(capsys.readouterr())
    assert not (tmp_path / "x.gif").exists()


def test_a_damaged_checkpoint_is_named_and_an_older_one_used(matrix_run: Path, tmp_path: Path, capsys: Capture) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(matrix_run, copy)
    older, newest = sorted(copy.glob("checkpoints/step_*"))
    weights = newest / "policy.npz"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["evaluate", str(copy), "--json"]) == 0
    captured = capsys.readouterr()
    assert f"phalanx: warning: checkpoint {newest} is damaged" in captured.err
    assert older.name in captured.err
    shutil.rmtree(older)
    assert main(["evaluate", str(copy)]) == 2
    assert "there is no intact checkpoint" in told(capsys.readouterr())


def test_a_folder_without_checkpoints_cannot_be_evaluated(matrix_run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "config.yaml").write_text((matrix_run / "config.yaml").read_text())
    assert main(["evaluate", str(tmp_path)]) == 2
    assert f"there is no checkpoint in {tmp_path}" in told(capsys.readouterr())


def test_plot_draws_a_run(matrix_run: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "curve.png"
    assert main(["plot", str(matrix_run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: eval/return_mean\n"
    assert out.stat().st_size > 5000
    assert main(["plot", str(matrix_run), "--out", str(out), "--metric", "train/nothing"]) == 2
    assert "train/loss_td" in told(capsys.readouterr())


def test_a_finished_run_is_answered_with_a_sentence(matrix_run: Path, capsys: Capture) -> None:
    before = (matrix_run / "metrics.jsonl").read_bytes()
    assert main(["resume", str(matrix_run)]) == 0
    assert capsys.readouterr().out == f"{matrix_run} is finished: 60 of 60 env steps are done\n"
    assert (matrix_run / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_is_a_sentence_wherever_it_is_met(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/x.png")

    monkeypatch.setattr(commands, "plot", full)
    assert main(["plot", "x", "--out", "y.png"]) == 2
    assert told(capsys.readouterr()) == "phalanx: /disk/x.png: No space left on device\n"


def test_a_programming_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(commands, "plot", broken)
    with pytest.raises(ZeroDivisionError):
        main(["plot", "x", "--out", "y.png"])


Train = Callable[..., dict[str, Any]]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[Train | None], None]:
    """Puts a service without Ray in place of the real one: the serial loop, or what the test gives."""

    def serially(run: RunSettings, folder: Any, *, resume: bool, on_report: Any, stop: Any) -> dict[str, Any]:
        folder.config.unlink()  # the serial loop makes its folder itself
        return train_serially(run, folder.path, on_report=on_report)

    def replace(train: Train | None = None) -> None:
        module = types.ModuleType("phalanx.cluster.service")
        module.train = train or serially  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "phalanx.cluster.service", module)
        monkeypatch.setattr(phalanx.cluster, "service", module, raising=False)

    return replace


def fake(act: Callable[..., None], reason: str = "completed") -> Train:
    """A service that does `act(run, folder, on_report, stop)` and returns a summary."""

    def train(run: RunSettings, folder: Any, *, resume: bool, on_report: Any, stop: Any) -> dict[str, Any]:
        act(run, folder, on_report, stop)
        counters = {"env_steps": 5, "updates": 4, "episodes": 3, "wall_s": 2.0, "env_steps_per_s": 2.5}
        return {**counters, "final": {}, "best": {}, "restarts": 1, "episodes_lost": 0, "exit_reason": reason}

    return train


def test_train_names_folders_by_the_run_and_never_takes_one_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: Any, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    in_process(fake(lambda *_: None))
    for name in ("runs/qmix_matrix", "runs/qmix_matrix-2", "runs/qmix_matrix-3"):
        assert main(["train", "qmix_matrix"]) == 0
        assert capsys.readouterr().out.startswith(f"run folder: {name}\n")
        assert (tmp_path / name / "config.yaml").exists()
    (tmp_path / "mine.yaml").write_text(dump_run(load_run("qmix_matrix", catalogue=CATALOGUE)))
    assert main(["train", "mine.yaml", "seed=4"]) == 0
    assert yaml.safe_load((tmp_path / "runs/mine/config.yaml").read_text())["seed"] == 4


def test_an_occupied_folder_is_left_as_it_is(
    matrix_run: Path, tmp_path: Path, in_process: Any, capsys: Capture
) -> None:
    in_process(fake(lambda *_: pytest.fail("training began")))
    before = {path: path.read_bytes() for path in matrix_run.rglob("*") if path.is_file()}
    assert main(["train", "qmix_matrix", "--out", str(matrix_run)]) == 2
    assert f"phalanx resume {matrix_run}" in told(capsys.readouterr())
    assert {path: path.read_bytes() for path in matrix_run.rglob("*") if path.is_file()} == before
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["train", "qmix_matrix", "--out", str(tmp_path)]) == 2
    assert "notes.txt" in told(capsys.readouterr())


@pytest.mark.parametrize("out", ["/proc/run", "file/below", "file"])
def test_a_folder_that_cannot_be_written_is_a_sentence(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: Any, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    in_process(fake(lambda *_: pytest.fail("training began")))
    assert main(["train", "qmix_matrix", "--out", out]) == 2
    assert "choose another --out" in told(capsys.readouterr())
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_request_that_proves_wrong_late_leaves_no_folder_behind(
    tmp_path: Path, in_process: Any, capsys: Capture
) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("cluster.learner_gpus=8 can never be placed")

    in_process(fake(refuse))
    out = tmp_path / "run"
    assert main(["train", "qmix_matrix", "--out", str(out)]) == 2
    assert "can never be placed" in told(capsys.readouterr())
    assert not out.exists()
    out.mkdir()
    assert main(["train", "qmix_matrix", "--out", str(out)]) == 2
    assert list(out.iterdir()) == []


def test_a_user_error_after_training_began_keeps_what_there_is(tmp_path: Path, in_process: Any) -> None:
    def full_disk(run: RunSettings, folder: Any, *_: Any) -> None:
        folder.metrics.write_text('{"env_steps": 1}\n')
        raise UserError("the disk is full")

    in_process(fake(full_disk))
    assert main(["train", "qmix_matrix", "--out", str(tmp_path / "run")]) == 2
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_that_breaks_has_exit_status_1(tmp_path: Path, in_process: Any, capsys: Capture) -> None:
    def breaks(*_: Any) -> None:
        raise RunFailed("loss_td is nan at update 17")

    in_process(fake(breaks))
    assert main(["train", "qmix_matrix", "--out", str(tmp_path / "run")]) == 1
    assert told(capsys.readouterr()) == "phalanx: loss_td is nan at update 17\n"
    assert (tmp_path / "run" / "config.yaml").exists()


def test_training_ends_with_a_table_of_what_was_reached(tmp_path: Path, in_process: Any, capsys: Capture) -> None:
    in_process(None)
    out = tmp_path / "run"
    assert main(["train", "qmix_matrix", *TINY, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for expected in ("of 60 env steps", "untrained", "final (at 60)", "best", "return", "env steps 60", "updates"):
        assert expected in text
    assert "phalanx resume" not in text


def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path, in_process: Any, capsys: Capture) -> None:
    for number, name in ((signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")):

        def until_asked(_: Any, __: Any, ___: Any, stop: Any, number: int = number) -> None:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()

        in_process(fake(until_asked, reason="stopped"))
        out = tmp_path / name
        assert main(["train", "qmix_matrix", "--out", str(out)]) == 0
        captured = capsys.readouterr()
        assert f"{name}: saving a checkpoint, then stopping" in told(captured)
        assert captured.out.endswith(f"stopped; go on with: phalanx resume {out}\n")


def test_two_processes_never_train_in_one_folder(tmp_path: Path, in_process: Any, capsys: Capture) -> None:
    out, statuses = tmp_path / "run", []
    in_process(fake(lambda *_: statuses.append(main(["resume", str(out)]))))
    assert main(["train", "qmix_matrix", "--out", str(out)]) == 0
    assert statuses == [2]
    sentence = f"another process is training in {out}: wait until it has ended, or stop it first\n"
    assert told(capsys.readouterr()).endswith(sentence)


def test_a_run_whose_settings_were_changed_says_which(matrix_run: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    shutil.copytree(matrix_run, out)
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("total_env_steps: 60", "total_env_steps: 90"))
    with pytest.raises(UserError, match=r"than the run's config.yaml \(total_env_steps: 60 there, 90 here\): resume"):
        train_serially(load_run(config, catalogue=CATALOGUE), out, resume=True)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, in_process: Any, capsys: Capture) -> None:
    def twice(*_: Any) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        pytest.fail("went on")

    in_process(fake(twice))
    assert main(["train", "qmix_matrix", "--out", str(tmp_path / "run")]) == 130
    assert "stopped at once" in told(capsys.readouterr())
    assert not (tmp_path / "run").exists()  # there was nothing in it to go on from


def test_a_stop_request_outlives_a_library_that_takes_the_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    names: list[str] = []
    with StopRequest(names.append) as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as ray.init does, with a handler of its own
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # again: still only a request
        assert stop.requested()
    assert names == ["SIGTERM"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_train_interrupt_resume_and_evaluate_on_ray(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "phalanx.cluster.cli"]
    endless = {"total_env_steps": 400_000, "evaluation.every_env_steps": 100_000, "checkpoint.every_env_steps": 100_000}
    wanted = [*(each for each in TINY if each.split("=")[0] not in endless), *(f"{k}={v}" for k, v in endless.items())]
    with subprocess.Popen(
        [*command, "train", "qmix_matrix", *wanted, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            wait_for(running, lambda: last_env_steps(out) > 0)
            running.send_signal(signal.SIGINT)
            stdout, stderr = running.communicate(timeout=120)
        finally:
            running.kill()
    assert running.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert stdout.startswith(f"run folder: {out}\n")
    assert f"phalanx resume {out}" in stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["exit_reason"] == "stopped"
    done = summary["env_steps"]
    assert 0 < done < 400_000
    assert (out / "checkpoints" / f"step_{done:012d}").is_dir()

    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["total_env_steps"] == 400_000
    resumed = subprocess.Popen(
        [*command, "resume", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with resumed:
        try:
            wait_for(resumed, lambda: last_env_steps(out) > done)
            resumed.send_signal(signal.SIGTERM)
            stdout, stderr = resumed.communicate(timeout=120)
        finally:
            resumed.kill()
    assert resumed.returncode == 0, stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(set(steps))
    assert json.loads((out / "summary.json").read_text())["env_steps"] > done

    judged = subprocess.run([*command, "evaluate", str(out), "--json"], capture_output=True, text=True, check=True)
    assert len(json.loads(judged.stdout)["returns"]) == 32


def last_env_steps(folder: Path) -> int:
    rows = read_rows(folder)
    return int(rows[-1]["env_steps"]) if rows else 0


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool], seconds: float = 150.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError("\n".join(["waited in vain", *process.communicate()]))
        time.sleep(0.2)
