from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phalanx.cluster.checkpoint import checkpoint_folders, inspect, newest_intact, save_checkpoint
from phalanx.cluster.learner import Learner
from phalanx.cluster.progress import Progress
from phalanx.cluster.replay import Replay
from phalanx.cluster.snapshot import Snapshot
from phalanx.configs.errors import RunFailed, UserError
from tests.cluster import fakes


def write(folder: Path) -> None:
    (folder / "learner.pt").write_bytes(bytes(range(256)) * 40)
    (folder / "replay").mkdir()
    (folder / "replay" / "obs.npy").write_bytes(b"observations")
    (folder / "progress.json").write_text("{}")


def save(root: Path, *steps: int, keep: int = 5) -> list[Path]:
    return [save_checkpoint(root, step, write, {"fingerprint": "abc"}, keep) for step in steps]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_holds_everything_and_its_checksums(tmp_path: Path) -> None:
    (path,) = save(tmp_path / "checkpoints", 1_200_000)
    assert path == tmp_path / "checkpoints" / "step_000001200000"
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["env_steps"] == 1_200_000 and manifest["fingerprint"] == "abc"
    assert set(manifest["files"]) == {"learner.pt", "progress.json", "replay/obs.npy"}
    assert (path.parent / "latest").read_text() == "step_000001200000\n"
    assert names(path.parent) == ["latest", "step_000001200000"]
    found = newest_intact(path.parent)
    assert found.path == path and found.problems == [] and found.manifest["fingerprint"] == "abc"


def test_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 100, 200, 300, 400, keep=2)
    assert names(tmp_path) == ["latest", "step_000000000300", "step_000000000400"]
    assert (tmp_path / "latest").read_text() == "step_000000000400\n"


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    save(tmp_path, 999_999_999_999, 1_000_000_000_000)
    assert newest_intact(tmp_path).path.name == "step_1000000000000"


def flip_a_byte(path: Path) -> None:
    data = bytearray((path / "learner.pt").read_bytes())
    data[5000] ^= 1
    (path / "learner.pt").write_bytes(data)


def truncate(path: Path) -> None:
    with open(path / "learner.pt", "r+b") as file:
        file.truncate(100)


def lose_a_file(path: Path) -> None:
    (path / "replay" / "obs.npy").unlink()


def lose_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def cut_the_manifest(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text[: len(text) // 2])


def change_the_manifest(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"env_steps": 300', '"env_steps": 301'))


def replace_the_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("[1, 2]")


DAMAGES = {
    flip_a_byte: "learner.pt does not match its checksum",
    truncate: "learner.pt has 100 bytes instead of 10240",
    lose_a_file: "obs.npy is missing",
    lose_the_manifest: "manifest.json cannot be read",
    cut_the_manifest: "manifest.json is not what was written",
    change_the_manifest: "manifest.json does not match its own checksum",
    replace_the_manifest: "manifest.json is not what was written",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    older, newer = save(tmp_path, 200, 300)
    damage(newer)
    found = newest_intact(tmp_path)
    assert found.path == older
    (problem,) = found.problems
    assert "step_000000000300 is damaged" in problem and DAMAGES[damage] in problem
    assert inspect(older) == ("", found.manifest)


def test_when_nothing_is_intact_everything_damaged_is_named(tmp_path: Path) -> None:
    for path in save(tmp_path, 200, 300):
        truncate(path)
    with pytest.raises(UserError, match=r"no intact checkpoint: .*step_000000000300.*step_000000000200"):
        newest_intact(tmp_path)


def test_no_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        newest_intact(tmp_path / "checkpoints")


def test_a_format_of_the_future_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.cluster.checkpoint._FORMAT", 2)
    (path,) = save(tmp_path, 100)
    monkeypatch.undo()
    assert "format 2 is not 1" in inspect(path)[0]


def test_a_run_that_goes_on_from_an_older_checkpoint_keeps_what_is_good(tmp_path: Path) -> None:
    truncate(save(tmp_path, 200, 300)[1])
    save(tmp_path, 250, keep=1)  # resumed at 200
    assert names(tmp_path) == ["latest", "step_000000000250"]
    assert newest_intact(tmp_path).problems == []


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 300)
    truncate(path)
    save(tmp_path, 300)
    assert newest_intact(tmp_path).path == path
    assert names(tmp_path) == ["latest", "step_000000000300"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written"),
    ],
)
def test_what_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path, error: OSError, sentence: str) -> None:
    (older,) = save(tmp_path, 200)

    def fail(folder: Path) -> None:
        write(folder)
        raise error

    with pytest.raises(UserError, match=sentence):
        save_checkpoint(tmp_path, 300, fail, {})
    assert names(tmp_path) == ["latest", "step_000000000200"]
    assert newest_intact(tmp_path).path == older


def test_other_errors_pass_and_leave_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise RunFailed("the replay is gone")

    with pytest.raises(RunFailed, match="the replay is gone"):
        save_checkpoint(tmp_path, 300, fail, {})
    assert names(tmp_path) == []


def test_an_unwritable_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save(tmp_path / "file" / "checkpoints", 1)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 100)
    code = (
        "import os, pathlib, sys\n"
        "from phalanx.cluster.checkpoint import save_checkpoint\n"
        "save_checkpoint(pathlib.Path(sys.argv[1]), 200, lambda folder: os._exit(9), {})"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    assert len(names(tmp_path)) == 3  # with the half-written one
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step_000000000100"]
    assert newest_intact(tmp_path).problems == []
    save(tmp_path, 300)
    assert names(tmp_path) == ["latest", "step_000000000100", "step_000000000300"]


@pytest.mark.skipif(sys.platform != "linux", reason="the device that is always full is Linux's")
@pytest.mark.parametrize("part", ["learner.pt", "policy.npz", "obs.npy", "config.yaml"])
def test_a_full_disk_is_called_so_whatever_part_meets_it(tmp_path: Path, part: str) -> None:
    run = fakes.settings("vdn", replay={"capacity_episodes": 40})
    learner, replay = Learner(run, fakes.SPEC), Replay(fakes.SPEC, run.replay, 0)
    replay.insert(fakes.chunk_of(fakes.random_batch(np.random.default_rng(0), [6] * 32)))
    snapshot = Snapshot(run, fakes.SPEC, Progress(), learner.state(), learner.weights()[0])

    def fill(folder: Path) -> None:
        (folder / "replay").mkdir()
        (folder / ("replay/obs.npy" if part == "obs.npy" else part)).symlink_to("/dev/full")
        snapshot.write(folder, replay.save)

    with pytest.raises(UserError, match="the disk is full"):
        save_checkpoint(tmp_path, 300, fill, snapshot.manifest())
    assert names(tmp_path) == []
