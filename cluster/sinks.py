"""Where report rows go: metrics.jsonl always, TensorBoard and Weights & Biases by choice.

`metrics.jsonl` is part of the run folder's contract: where it cannot be written, the run stops with a sentence. The
others are company: where they fail while the run is going, they say so once and the run goes on without them.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import secrets
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from phalanx.cluster.metrics import ENV_STEPS, Row, split_evaluation
from phalanx.configs.errors import UserError
from phalanx.configs.settings import RunSettings, WandbSettings

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb_run.json"
CLIP = "eval/clip"


class Sink(Protocol):
    """Takes report rows; the x-axis is always env steps."""

    def write(self, row: Row) -> None: ...

    def write_clip(self, env_steps: int, gif: bytes) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object a line, flushed with each row. NaN and infinities, which JSON does not know, become null."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, row: Row) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in row.items()}
        try:
            self._file.write(json.dumps(finite, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def write_clip(self, env_steps: int, gif: bytes) -> None:
        """Pictures are no metrics."""

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Event files below the run folder. After a resume, what lies past `last_env_steps` is hidden."""

    def __init__(self, folder: Path, last_env_steps: int | None = None) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError(
                "sinks.tensorboard=true needs the package tensorboardX, which is not installed:"
                " `pip install tensorboardX` or set sinks.tensorboard=false"
            ) from error
        purge = None if last_env_steps is None else last_env_steps + 1
        # Names hold the second of the start only: a quick resume must not write over the file before it.
        suffix = "" if purge is None else f".{purge}"
        self._writer = SummaryWriter(logdir=str(folder), purge_step=purge, filename_suffix=suffix, flush_secs=10)

    def write(self, row: Row) -> None:
        for part in split_evaluation(row):
            env_steps = int(part.pop(ENV_STEPS))
            for key, value in part.items():
                self._writer.add_scalar(key, value, env_steps)

    def write_clip(self, env_steps: int, gif: bytes) -> None:
        # As it is: `add_video` would need another library, and encode the pictures anew.
        from tensorboardX.proto.summary_pb2 import Summary

        width, height = struct.unpack("<HH", gif[6:10])
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=CLIP, image=image)]), env_steps)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run; its id is kept in the run folder, so that a resumed run goes on in the same one.

    Offline (the default) needs no key and writes below the run folder; `wandb sync` uploads it later. The environment
    variable WANDB_MODE wins over the setting, as everywhere with this tool.
    """

    def __init__(self, run: RunSettings, settings: WandbSettings, folder: Path, resume: bool = False) -> None:
        wandb = _import_wandb()
        mode = os.environ.get("WANDB_MODE") or settings.mode
        if mode == "online" and not _has_key(wandb):
            raise UserError(
                "sinks.wandb.mode=online needs a Weights & Biases key, and none is configured:"
                " run `wandb login`, set WANDB_API_KEY, or set sinks.wandb.mode=offline"
            )
        run_id = _wandb_run_id(folder, resume)
        try:
            self._run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                mode=mode,
                dir=str(folder),
                id=run_id,
                name=folder.name,
                resume="allow" if resume else None,
                config=run.model_dump(mode="json"),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:
            raise UserError(
                f"sinks.wandb: Weights & Biases did not start ({_first_line(error)});"
                " set sinks.wandb.mode=offline, or sinks.wandb=null to do without"
            ) from error
        self._run.define_metric(ENV_STEPS)
        self._run.define_metric("*", step_metric=ENV_STEPS)

    def write(self, row: Row) -> None:
        for part in split_evaluation(row):
            self._run.log(part)

    def write_clip(self, env_steps: int, gif: bytes) -> None:
        video = _import_wandb().Video(io.BytesIO(gif), format="gif")
        self._run.log({ENV_STEPS: env_steps, CLIP: video})

    def close(self) -> None:
        self._run.finish()


class Company:
    """A sink that may fail: it then warns once and is done with, because training is worth more."""

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        self._sink: Sink | None = sink

    def write(self, row: Row) -> None:
        self._attempt("write", row)

    def write_clip(self, env_steps: int, gif: bytes) -> None:
        self._attempt("write_clip", env_steps, gif)

    def close(self) -> None:
        self._attempt("close")
        self._sink = None

    def _attempt(self, method: str, *args: Any) -> None:
        if self._sink is None:
            return
        try:
            getattr(self._sink, method)(*args)
        except Exception as error:
            self._sink = None
            warnings.warn(
                f"{self.name} failed ({_first_line(error)}); the run goes on without it, metrics.jsonl has everything",
                RuntimeWarning,
                stacklevel=3,
            )


class Sinks:
    """Several sinks as one."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def write(self, row: Row) -> None:
        for sink in self._sinks:
            sink.write(row)

    def write_clip(self, env_steps: int, gif: bytes) -> None:
        """A moving picture of the team after `env_steps`."""
        for sink in self._sinks:
            sink.write_clip(env_steps, gif)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def open_sinks(run: RunSettings, folder: str | os.PathLike[str], resume: bool = False) -> Sinks:
    """Every sink that `run.sinks` asks for, in the run folder (which exists). UserError where one cannot start.

    With `resume`, metrics.jsonl is expected to be cut back to the checkpoint already: new rows go behind its last.
    """
    path = Path(folder)
    last = last_env_steps(path) if resume else None
    sinks: list[Sink] = [JsonLines(path / METRICS_FILE)]
    if run.sinks.tensorboard:
        sinks.append(Company("TensorBoard", TensorBoard(path / TENSORBOARD_FOLDER, last)))
    if run.sinks.wandb is not None:
        sinks.append(Company("Weights & Biases", WeightsAndBiases(run, run.sinks.wandb, path, resume)))
    return Sinks(sinks)


def read_rows(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a run folder's metrics.jsonl, null read back as NaN; a last line cut short by a crash is left out."""
    path = Path(folder) / METRICS_FILE
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"it is {line[:40]!r}")
        except ValueError as error:
            if number == len(lines) - 1:
                break
            raise UserError(f"{path}:{number + 1} is not a JSON object: {error}") from error
        rows.append({key: math.nan if value is None else value for key, value in row.items()})
    return rows


def last_env_steps(folder: Path) -> int | None:
    """Where metrics.jsonl ends; None where there is no row."""
    rows = read_rows(folder)
    return int(rows[-1][ENV_STEPS]) if rows else None


def cannot_write(path: Path, error: OSError) -> UserError:
    """The sentence for a file or folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk is full: {path} could not be written; free some space or choose another --out")
    return UserError(f"{path} cannot be written ({error.strerror or error}); choose another --out")


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "sinks.wandb needs the package wandb, which is not installed: `pip install wandb` or set sinks.wandb=null"
        ) from error
    return wandb


def _has_key(wandb: Any) -> bool:
    try:
        return bool(wandb.login(prompt=False))
    except TypeError:  # older versions have no `prompt`; their `init` asks or refuses by itself
        return True


def _wandb_run_id(folder: Path, resume: bool) -> str:
    path = folder / WANDB_ID_FILE
    if resume and path.exists():
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        except (json.JSONDecodeError, KeyError) as error:
            raise UserError(f"{path} is damaged; delete it to go on in a new Weights & Biases run") from error
    run_id = secrets.token_hex(4)
    try:
        path.write_text(json.dumps({"id": run_id}) + "\n", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error
    return run_id


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
