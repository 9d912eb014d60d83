from __future__ import annotations

import errno
import getpass
import json
import socket
from pathlib import Path

import numpy as np
import pytest

from phalanx.cluster.evaluation import EvaluationResult
from phalanx.cluster.progress import Progress
from phalanx.cluster.run_folder import CATALOGUE, RunFolder
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.configs.settings import RunSettings
from tests.cluster.fakes import SPEC

RUN = run_from_dict(
    {"seed": 4, "mode": "sync", "env": {"name": "matrix"}, "algorithm": {"name": "vdn"}}, catalogue=CATALOGUE
)


def result(*returns: float, wins: bool = True) -> EvaluationResult:
    values = np.array(returns, np.float32)
    return EvaluationResult(
        returns=values,
        lengths=np.full(len(values), 2),
        wins=values > 1 if wins else None,
        metrics={"contacts": values * 2},
    )


def test_a_new_folder_holds_the_configuration(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a" / "b", RUN)
    assert folder.path == tmp_path / "a" / "b"
    assert RunFolder.open(folder.path).run_settings() == RUN


@pytest.mark.parametrize("file", ["config.yaml", "notes.txt"])
def test_an_occupied_folder_is_refused_and_left_alone(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("mine")
    with pytest.raises(UserError, match=r"nothing is overwritten: choose another --out"):
        RunFolder.create(tmp_path, RUN)
    assert [path.name for path in tmp_path.iterdir()] == [file] and (tmp_path / file).read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, RUN).config.exists()


def test_files_in_the_way_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file or below one"):
            RunFolder.create(path, RUN)


@pytest.mark.parametrize(
    ("number", "sentence"), [(errno.EACCES, "cannot be written"), (errno.ENOSPC, "the disk is full")]
)
def test_a_place_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    def refuse(*arguments: object, **others: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=sentence):
        RunFolder.create(tmp_path / "run", RUN)


def test_without_a_path_the_first_free_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [RunFolder.create(None, RUN, "demar_tag").path for _ in range(3)]
    assert made == [Path("runs/demar_tag"), Path("runs/demar_tag-2"), Path("runs/demar_tag-3")]
    assert RunFolder.create(None, RUN).path == Path("runs/vdn_matrix")


def test_what_is_no_run_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no config\.yaml"):
        RunFolder.open(tmp_path)


def test_metadata_says_versions_and_seed_and_nothing_private(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RUN)
    folder.write_metadata(RUN, SPEC)
    text = folder.metadata.read_text()
    metadata = json.loads(text)
    assert {"phalanx", "python", "torch", "numpy", "ray"} <= set(metadata["versions"])
    assert metadata["seed"] == 4 and metadata["reproducible"] is True
    assert str(tmp_path) not in text and socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text
    folder.write_metadata(RUN.model_copy(update={"mode": "async"}), SPEC)
    assert json.loads(folder.metadata.read_text())["reproducible"] is False


def test_evaluations_have_the_shape_that_marl_eval_reads(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RUN)
    for env_steps, returns in ((0, (1.0, 0.5)), (100, (3.0, 2.0)), (200, (0.0, 4.0))):
        folder.record_evaluation(RUN, env_steps, result(*returns))
    data = json.loads(folder.evaluations.read_text())
    seed = data["matrix"]["matrix"]["vdn"]["seed_4"]
    assert list(seed) == ["step_0", "step_1", "step_2", "absolute_metrics"]
    assert seed["step_1"] == {
        "step_count": 100,
        "return": [3.0, 2.0],
        "win_rate": [1.0, 1.0],
        "length": [2.0, 2.0],
        "contacts": [6.0, 4.0],
    }
    assert seed["absolute_metrics"] == {key: value for key, value in seed["step_1"].items() if key != "step_count"}
    assert [entry["step_count"] for entry in folder.read_evaluations()] == [0, 100, 200]


def test_without_winning_there_is_no_win_rate(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RUN)
    folder.record_evaluation(RUN, 0, result(1.0, wins=False))
    assert "win_rate" not in folder.read_evaluations()[0]


def test_truncation_gives_the_bytes_of_the_shorter_run(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RUN)
    folder.record_evaluation(RUN, 0, result(0.1, 0.2))
    folder.record_evaluation(RUN, 100, result(0.7, 1 / 3))
    shorter = folder.evaluations.read_bytes()
    folder.record_evaluation(RUN, 200, result(5.0, 6.0))
    rows = [{"env_steps": steps, "updates": steps // 10, "episodes": steps, "wall_s": 1.0} for steps in (50, 100, 150)]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"env_steps": 160, "upd')
    folder.write_summary(Progress(env_steps=200), "completed")
    progress = Progress(env_steps=100, updates=10, evaluations=2)
    folder.truncate_to(RUN, progress)
    assert folder.evaluations.read_bytes() == shorter
    assert [json.loads(line)["env_steps"] for line in folder.metrics.read_text().splitlines()] == [50, 100]
    assert folder.read_summary() is None
    folder.truncate_to(RUN, progress)  # nothing more to drop
    assert folder.evaluations.read_bytes() == shorter


def test_damaged_evaluations_are_a_sentence(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RUN)
    folder.evaluations.write_text('{"matrix": {')
    with pytest.raises(UserError, match=r"evaluations\.json is damaged"):
        folder.record_evaluation(RUN, 0, result(1.0))


def test_the_summary_says_how_it_ended(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RUN)
    progress = Progress(env_steps=1000, updates=9, episodes=50, wall_s=4.0, restarts=2, episodes_lost=3)
    progress.final, progress.best = {"eval/return_mean": 1.0}, {"eval/return_mean": 2.0}
    summary = folder.write_summary(progress, "completed")
    assert summary == folder.read_summary()
    assert summary["env_steps_per_s"] == 250.0 and summary["exit_reason"] == "completed"
    assert set(summary) == {
        *("env_steps", "updates", "episodes", "wall_s", "env_steps_per_s", "final", "best"),
        *("restarts", "episodes_lost", "exit_reason"),
    }


def test_a_task_of_pettingzoo_is_named_after_its_module(tmp_path: Path) -> None:
    run = run_from_dict(
        {"env": {"name": "pettingzoo", "module": "mpe2.simple_spread_v3"}, "algorithm": {"name": "vdn"}},
        catalogue=CATALOGUE,
    )
    folder = RunFolder.create(tmp_path / "run", run)
    folder.record_evaluation(run, 0, result(1.0))
    assert list(json.loads(folder.evaluations.read_text())["pettingzoo"]) == ["simple_spread_v3"]


def test_every_shipped_name_is_in_the_catalogue() -> None:
    assert isinstance(RUN, RunSettings)
    assert set(CATALOGUE.env_names) >= {"simple_tag", "matrix"} and set(CATALOGUE.algorithm_names) >= {"qmix", "demar"}
    for name in CATALOGUE.algorithm_names:
        assert CATALOGUE.algorithm(name)(name=name).name == name
