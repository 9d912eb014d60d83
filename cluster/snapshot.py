"""What a checkpoint of a run holds: tensors, arrays, YAML and JSON; nothing in it can run code.

learner.pt      networks with targets, optimiser, counters, random state (torch, weights_only)
policy.npz      the policy's weights alone, so that playing needs no algorithm
replay/         the replay, where `checkpoint.replay=all`
progress.json, config.yaml, spec.json
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.cluster.progress import Progress
from phalanx.configs.documents import Document, dump_value, read_document
from phalanx.configs.errors import UserError
from phalanx.configs.load import NOT_LEARNING, dump_run, fingerprint
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import EntityView, TeamSpec

LEARNER, POLICY, REPLAY = "learner.pt", "policy.npz", "replay"
PROGRESS, CONFIG, SPEC = "progress.json", "config.yaml", "spec.json"


@dataclasses.dataclass
class Snapshot:
    """Everything but the replay, which writes itself: it may be large, and live elsewhere."""

    run: RunSettings
    spec: TeamSpec
    progress: Progress
    learner: dict[str, Any]  # Learner.state()
    weights: Mapping[str, npt.NDArray[Any]]  # Learner.weights()

    def write(self, folder: Path, save_replay: Callable[[Path], object] | None = None) -> None:
        """Writes all parts; `save_replay(folder)` where the settings ask for the replay."""
        import torch

        buffer = io.BytesIO()  # torch's own writing hides why it failed; a file's write says that the disk is full
        torch.save(self.learner, buffer)
        (folder / LEARNER).write_bytes(buffer.getbuffer())
        np.savez(folder / POLICY, **self.weights)  # type: ignore[arg-type]
        _write_json(folder / PROGRESS, self.progress.to_json())
        _write_json(folder / SPEC, {**dataclasses.asdict(self.spec), "versions": dict(self.spec.versions)})
        (folder / CONFIG).write_text(dump_run(self.run), encoding="utf-8")
        if save_replay is not None and self.run.checkpoint.replay == "all":
            save_replay(folder / REPLAY)

    def manifest(self) -> dict[str, Any]:
        """What the manifest says besides the checksums."""
        from phalanx import __version__

        return {
            "phalanx": __version__,
            "fingerprint": fingerprint(self.run),
            "updates": self.progress.updates,
            "replay": self.run.checkpoint.replay,
        }


def require_same_run(run: RunSettings, folder: Path, manifest: Mapping[str, Any]) -> None:
    """UserError where the checkpoint was made with settings that learn otherwise than `run`'s."""
    if manifest.get("fingerprint") != fingerprint(run):
        raise UserError(
            f"checkpoint {folder} was made with other settings of what is learned than the run's config.yaml"
            f"{_differences(run, folder)}: resume with the settings it was made with (its own config.yaml), or start a"
            " new run"
        )


def _differences(run: RunSettings, folder: Path) -> str:
    """` (seed: 1 there, 2 here)`: the learning settings that differ, as far as the checkpoint's can be read."""
    try:
        there = read_document(folder / CONFIG).values_below(())
    except UserError:
        return ""
    here = Document(run.model_dump(mode="json"), "the run").values_below(())
    keys = [key for key in here if key[0] not in NOT_LEARNING and there.get(key) != here[key]]
    told = [f"{'.'.join(key)}: {dump_value(there.get(key))} there, {dump_value(here[key])} here" for key in keys]
    return f" ({'; '.join(told)})" if told else ""


def read_progress(folder: Path) -> Progress:
    """The run's counters."""
    return Progress.from_json(_read_json(folder / PROGRESS))


def read_spec(folder: Path) -> TeamSpec:
    """Of the environment that the run learns in: playing needs no simulator."""
    data = {key: _tuples(value) for key, value in _read_json(folder / SPEC).items()}
    try:
        if data.get("entities") is not None:
            data["entities"] = EntityView(**{key: _tuples(value) for key, value in data["entities"].items()})
        return TeamSpec(**data)
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{folder / SPEC} was written by another version of phalanx: {error}") from error


def read_learner(folder: Path) -> dict[str, Any]:
    """For `Learner.load_state`; tensors lie in main memory."""
    import torch

    try:
        state: dict[str, Any] = torch.load(folder / LEARNER, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{folder / LEARNER} cannot be read: {_first_line(error)}") from error
    return state


def read_policy(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """The policy's weights."""
    try:
        with np.load(folder / POLICY, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / POLICY} cannot be read: {_first_line(error)}") from error


def replay_folder(folder: Path) -> Path | None:
    """Where the checkpoint holds the replay; None where it does not."""
    path = folder / REPLAY
    return path if path.is_dir() else None


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}") from error
    return data


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
