"""Checkpoints: written aside, checksummed, renamed; the newest intact one is found. Plain: no ray, no torch.

    checkpoints/step_000001200000/   whatever `write` put there, and manifest.json with the sha256 of each file
    checkpoints/latest               the name of the newest one, for people and scripts

A checkpoint appears under its name complete or not at all; what a killed process leaves behind has another name and
goes with the next checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from phalanx.cluster.sinks import cannot_write
from phalanx.configs.errors import UserError

log = logging.getLogger("phalanx.checkpoint")

MANIFEST = "manifest.json"
LATEST = "latest"
_FORMAT = 1
_NAME = re.compile(r"step_(\d{12,})$")
_ASIDE = ".writing-"
_REPLACED = ".replaced-"


class Intact(NamedTuple):
    """A checkpoint that was found to be whole."""

    path: Path
    manifest: dict[str, Any]
    problems: list[str]  # a sentence for each newer checkpoint that is damaged


def save_checkpoint(
    root: Path, env_steps: int, write: Callable[[Path], None], manifest: Mapping[str, Any], keep: int = 2
) -> Path:
    """`root/step_<env_steps, 12 digits>`, filled by `write(folder)` under a temporary name; of all checkpoints the
    newest `keep` stay. `manifest` is plain JSON, kept beside the checksums.

    Whatever goes wrong, the temporary folder is removed and the older checkpoints stay; a full disk or a missing
    permission is a UserError.
    """
    name = f"step_{env_steps:012d}"
    aside, place = root / f"{_ASIDE}{name}", root / name
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        aside.mkdir()
        try:
            write(aside)
            _seal(aside, env_steps, manifest)
            _put(aside, place)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        replace_file(root / LATEST, name + "\n")
        _prune(root, env_steps, keep)
    except OSError as error:
        raise cannot_write(place, error) from error
    return place


def _prune(root: Path, env_steps: int, keep: int) -> None:
    """Removes all but the newest `keep`. Folders of later steps were there before a resume from an earlier one: they
    are damaged or of a course that the run has left, and must not take the place of what is good."""
    folders = checkpoint_folders(root)
    former = [path for path in folders if _step(path) <= env_steps][keep:]
    for path in [path for path in folders if _step(path) > env_steps] + former:
        going = root / f"{_REPLACED}{path.name}"  # what is being deleted must not look like a damaged checkpoint
        os.rename(path, going)
        shutil.rmtree(going, ignore_errors=True)


def checkpoint_folders(root: Path) -> list[Path]:
    """All checkpoints, intact or not, the newest first."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if _NAME.match(path.name) and path.is_dir()]
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def newest_intact(root: Path) -> Intact:
    """The newest checkpoint whose files are all there and unchanged. UserError where there is none."""
    problems: list[str] = []
    for path in checkpoint_folders(root):
        damage, manifest = inspect(path)
        if not damage:
            return Intact(path, manifest, problems)
        problems.append(f"checkpoint {path} is damaged: {damage}")
    if problems:
        raise UserError("there is no intact checkpoint: " + "; ".join(problems))
    raise UserError(f"there is no checkpoint in {root}: nothing to go on from")


def inspect(path: Path) -> tuple[str, dict[str, Any]]:
    """What is wrong with a checkpoint ("" where nothing is) and its manifest."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        told = manifest.pop("sha256")
        if told != _digest_of_json(manifest):
            return f"{MANIFEST} does not match its own checksum", {}
        for name, facts in files.items():
            if not (path / name).is_file():
                return f"{name} is missing", {}
            size = (path / name).stat().st_size
            if size != facts["bytes"]:
                return f"{name} has {size} bytes instead of {facts['bytes']}", {}
            if _digest(path / name) != facts["sha256"]:
                return f"{name} does not match its checksum", {}
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read ({error.strerror or error})", {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not what was written", {}
    if manifest.get("format") != _FORMAT:
        return f"format {manifest.get('format')} is not {_FORMAT}, which this version of phalanx reads", {}
    return "", manifest


def replace_file(path: Path, text: str) -> None:
    """Writes a small file so that a reader sees the old text or the new one, never a part, even after a crash."""
    aside = path.with_name(f".{path.name}.writing")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _seal(folder: Path, env_steps: int, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest and has everything on the disk before the folder gets its name."""
    files = {}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        _sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    sealed = {**manifest, "format": _FORMAT, "env_steps": env_steps, "files": files}
    sealed["sha256"] = _digest_of_json(sealed)
    (folder / MANIFEST).write_text(json.dumps(sealed, indent=1) + "\n", encoding="utf-8")
    _sync(folder / MANIFEST)
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync(path)


def _put(aside: Path, place: Path) -> None:
    """Gives the folder its name; a checkpoint of the same step (left from before a resume) makes room."""
    former = place.parent / f"{_REPLACED}{place.name}"
    if place.exists():
        os.rename(place, former)
    os.rename(aside, place)
    _sync(place.parent)
    shutil.rmtree(former, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Removes what a killed process left half written or half deleted."""
    for path in root.iterdir():
        if path.name.startswith((_ASIDE, _REPLACED)):
            log.info("removing %s, left behind by a process that was killed", path)
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _digest_of_json(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
