from __future__ import annotations

import errno
import io
import json
import math
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from phalanx.cluster import sinks
from phalanx.cluster.metrics import Row
from phalanx.cluster.render import gif_bytes
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AlgorithmSettings, EnvSettings, RunSettings, SinkSettings, WandbSettings

ROWS: list[Row] = [
    {"env_steps": 100, "updates": 1, "episodes": 4, "wall_s": 0.5, "train/loss_td": 2.5},
    {"env_steps": 200, "updates": 2, "episodes": 8, "wall_s": 1.0, "train/loss_td": math.nan, "replay/size": 8},
    {
        "env_steps": 300,
        "updates": 3,
        "episodes": 12,
        "wall_s": 1.5,
        "train/loss_td": 1.5,
        "eval/return_mean": 7.0,
        "eval/env_steps": 250,
    },
]


def make_run(**wanted: Any) -> RunSettings:
    return RunSettings(
        env=EnvSettings(name="some_env"),
        algorithm=AlgorithmSettings(name="some_algorithm"),
        sinks=SinkSettings(**wanted),
    )


def test_json_lines_flushes_every_row_and_writes_null_for_nan(tmp_path: Path) -> None:
    sink = sinks.open_sinks(make_run(), tmp_path)
    for number, row in enumerate(ROWS, start=1):
        sink.write(row)
        written = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert len(written) == number  # readable while the sink is still open
    sink.close()
    assert json.loads(written[1])["train/loss_td"] is None
    assert "NaN" not in "".join(written)
    assert json.loads(written[2]) == ROWS[2]
    back = sinks.read_rows(tmp_path)
    assert back[0] == ROWS[0] and math.isnan(back[1]["train/loss_td"])


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    for resume, row in ((False, ROWS[0]), (True, ROWS[1])):
        sink = sinks.open_sinks(make_run(), tmp_path, resume=resume)
        sink.write(row)
        sink.close()
    assert [row["env_steps"] for row in sinks.read_rows(tmp_path)] == [100, 200]


def test_a_line_cut_short_by_a_crash_is_left_out_and_damage_before_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1])[:20])
    assert sinks.read_rows(tmp_path) == [ROWS[0]]
    for broken in (b"{broken", b"3", b"\xbb\xff\x00"):
        file.write_bytes(broken + b"\n" + json.dumps(ROWS[0]).encode() + b"\n")
        with pytest.raises(UserError, match=r"metrics\.jsonl:1 is not a JSON object"):
            sinks.read_rows(tmp_path)


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    sink = sinks.JsonLines(tmp_path / "metrics.jsonl")

    class FullDisk:
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None: ...

    sink._file.close()
    sink._file = FullDisk()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"the disk is full: .*metrics\.jsonl"):
        sink.write(ROWS[0])


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written"):
        sinks.open_sinks(make_run(), tmp_path)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What a reader of the event files sees: tag -> (step, value), read record by record as TensorBoard does."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            if event.session_log.status == 1:  # START after a restart: later steps before it are hidden
                found = {tag: [(s, v) for s, v in seen if s < event.step] for tag, seen in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_reads_back_over_env_steps(tmp_path: Path) -> None:
    sink = sinks.open_sinks(make_run(tensorboard=True), tmp_path)
    for row in ROWS:
        sink.write(row)
    sink.close()
    found = scalars(tmp_path / "tensorboard")
    assert [step for step, _ in found["train/loss_td"]] == [100, 200, 300]
    assert found["eval/return_mean"] == [(250, 7.0)]  # at the env steps of the evaluated weights
    assert found["updates"] == [(100, 1.0), (200, 2.0), (300, 3.0)]
    assert "eval/env_steps" not in found


def test_tensorboard_hides_what_a_resume_took_back(tmp_path: Path) -> None:
    run = make_run(tensorboard=True)
    first = sinks.open_sinks(run, tmp_path)
    for row in ROWS:
        first.write(row)
    first.close()
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:1]))  # back to the checkpoint at 100
    again = sinks.open_sinks(run, tmp_path, resume=True)
    again.write({**ROWS[1], "train/loss_td": 9.0})
    again.close()
    folder = tmp_path / "tensorboard"
    assert scalars(folder)["train/loss_td"] == [(100, 2.5), (200, 9.0)]


@pytest.mark.parametrize(
    ("module", "wanted", "key"),
    [
        ("tensorboardX", {"tensorboard": True}, "sinks.tensorboard"),
        ("wandb", {"wandb": WandbSettings()}, "sinks.wandb"),
    ],
)
def test_a_missing_package_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, wanted: dict[str, Any], key: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{key}.* needs the package {module}.*pip install"):
        sinks.open_sinks(make_run(**wanted), tmp_path)


def film(steps: int = 3) -> bytes:
    return gif_bytes([np.full((20, 30 + 2 * steps, 3), 40 * k, np.uint8) for k in range(steps)])


def test_tensorboard_gets_clips_that_move(tmp_path: Path) -> None:
    from PIL import Image
    from tensorboardX.proto.event_pb2 import Event

    sink = sinks.open_sinks(make_run(tensorboard=True, clip_every_evaluations=2), tmp_path)
    sink.write_clip(100, film(3))
    sink.write_clip(300, film(4))
    sink.close()
    found = []
    (file,) = (tmp_path / "tensorboard").glob("events.*")
    data, at = file.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found += [(event.step, value.tag, value.image) for value in event.summary.value]
        at += 12 + size + 4
    assert [(step, tag) for step, tag, _ in found] == [(100, "eval/clip"), (300, "eval/clip")]
    for frames, (_, _, image) in zip((3, 4), found, strict=True):
        assert (image.height, image.width, image.colorspace) == (20, 30 + 2 * frames, 3)
        with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
            assert picture.format == "GIF" and picture.n_frames == frames


def test_metrics_know_nothing_of_clips(tmp_path: Path) -> None:
    sink = sinks.open_sinks(make_run(), tmp_path)
    sink.write_clip(100, film())
    sink.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_clips_need_a_place() -> None:
    with pytest.raises(ValueError, match=r"sinks\.clip_every_evaluations=2 has no effect .*sinks\.tensorboard=true"):
        SinkSettings(clip_every_evaluations=2)
    SinkSettings(clip_every_evaluations=2, wandb=WandbSettings())


class Failing:
    def write(self, row: Row) -> None:
        raise ConnectionError("network is gone\nand a long story")

    def write_clip(self, env_steps: int, gif: bytes) -> None:
        raise AssertionError("a failed sink is left alone")

    def close(self) -> None:
        raise AssertionError("a failed sink is left alone")


def test_a_failure_of_company_warns_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    def use(sink: sinks.Sink) -> None:
        sink.write(ROWS[0])
        sink.write(ROWS[1])
        sink.write_clip(200, film())
        sink.close()

    json_lines = sinks.JsonLines(tmp_path / "metrics.jsonl")
    both = sinks.Sinks([sinks.Company("Weights & Biases", Failing()), json_lines])
    with pytest.warns(RuntimeWarning, match=r"Weights & Biases failed \(network is gone\); the run goes on") as caught:
        use(both)
    assert len(caught) == 1
    assert [row["env_steps"] for row in sinks.read_rows(tmp_path)] == [100, 200]


class FakeWandb:
    """Records what a run would send."""

    def __init__(self, has_key: bool = False) -> None:
        self.has_key = has_key
        self.inits: list[dict[str, Any]] = []
        self.logged: list[Row] = []
        self.axes: list[tuple[str, str | None]] = []

    def login(self, prompt: bool) -> bool:
        return self.has_key

    def Settings(self, **_: Any) -> None: ...

    def init(self, **arguments: Any) -> FakeWandb:
        self.inits.append(arguments)
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes.append((name, step_metric))

    def log(self, row: Row) -> None:
        self.logged.append(row)

    def finish(self) -> None: ...


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_online_without_a_key_is_refused(tmp_path: Path, fake_wandb: FakeWandb) -> None:
    with pytest.raises(UserError, match=r"sinks\.wandb\.mode=online needs .* key.*wandb login.*offline"):
        sinks.open_sinks(make_run(wandb=WandbSettings(mode="online")), tmp_path)
    assert not fake_wandb.inits


def test_wandb_gets_the_settings_the_axis_and_the_same_run_after_a_resume(
    tmp_path: Path, fake_wandb: FakeWandb
) -> None:
    run = make_run(wandb=WandbSettings(project="teams"))
    for resume in (False, True):
        sink = sinks.open_sinks(run, tmp_path, resume=resume)
        sink.write(ROWS[2])
        sink.close()
    first, second = fake_wandb.inits
    assert first["id"] == second["id"]
    assert (first["resume"], second["resume"]) == (None, "allow")
    assert first["project"] == "teams" and first["mode"] == "offline" and first["dir"] == str(tmp_path)
    assert first["config"] == run.model_dump(mode="json")
    assert ("*", "env_steps") in fake_wandb.axes
    training, evaluation = fake_wandb.logged[:2]
    assert training["env_steps"] == 300 and "eval/return_mean" not in training
    assert evaluation == {"env_steps": 250, "eval/return_mean": 7.0}


def test_a_new_run_in_the_folder_gets_its_own_id(tmp_path: Path, fake_wandb: FakeWandb) -> None:
    run = make_run(wandb=WandbSettings())
    for _ in range(2):
        sinks.open_sinks(run, tmp_path, resume=False).close()
    first, second = fake_wandb.inits
    assert first["id"] != second["id"]


def test_wandb_offline_needs_no_key_and_leaves_a_run_to_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = make_run(wandb=WandbSettings(mode="online"))  # the environment variable wins
    sink = sinks.open_sinks(run, tmp_path)
    for row in ROWS:
        sink.write(row)
    sink.write_clip(250, film(5))
    sink.close()
    run_id = json.loads((tmp_path / "wandb_run.json").read_text())["id"]
    (file,) = tmp_path.glob(f"wandb/offline-run-*/run-{run_id}.wandb")
    deadline = monotonic() + 20  # its own process writes the file, now and then a moment after the run is finished
    while b"eval/return_mean" not in (data := file.read_bytes()) and monotonic() < deadline:
        sleep(0.05)
    assert b"eval/return_mean" in data and b"some_algorithm" in data
    (clip,) = (tmp_path / "wandb").glob("offline-run-*/files/media/videos/eval/clip_*.gif")
    assert clip.read_bytes() == film(5)
