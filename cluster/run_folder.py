"""The run folder: a contract that outside tools rely on. Plain: no ray, no torch."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import itertools
import json
import logging
import math
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phalanx.algorithms.registry import ALGORITHMS, algorithm_settings
from phalanx.cluster.checkpoint import replace_file
from phalanx.cluster.evaluation import EvaluationResult
from phalanx.cluster.progress import Progress
from phalanx.cluster.sinks import METRICS_FILE, cannot_write
from phalanx.configs.errors import UserError
from phalanx.configs.load import Catalogue, dump_run, load_run
from phalanx.configs.settings import RunSettings
from phalanx.envs.registry import ENVIRONMENTS, env_settings
from phalanx.envs.team import TeamSpec

log = logging.getLogger("phalanx.report")

CATALOGUE = Catalogue(env_settings, algorithm_settings, tuple(ENVIRONMENTS), tuple(ALGORITHMS))
"""What `env.name` and `algorithm.name` stand for; with it configs/load.py reads run files."""

_VERSIONS_OF = ("torch", "numpy", "ray", "mpe2", "pettingzoo")


class RunFolder:
    """Paths and files of one run: config, metadata, metrics, evaluations, summary, checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.config = path / "config.yaml"
        self.metadata = path / "metadata.json"
        self.metrics = path / METRICS_FILE
        self.evaluations = path / "evaluations.json"
        self.summary = path / "summary.json"

    @classmethod
    def create(cls, path: Path | None, run: RunSettings, name: str | None = None) -> RunFolder:
        """A new folder with config.yaml. UserError where `path` is occupied or cannot be written; without a path the
        first free of runs/<name>, runs/<name>-2, … (name: by default <algorithm>_<env>)."""
        folder = cls(path if path is not None else free_place(name or f"{run.algorithm.name}_{run.env.name}"))
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            occupied = next(folder.path.iterdir(), None)
            if occupied is None:
                with open(folder.config, "x", encoding="utf-8") as file:
                    file.write(dump_run(run))
                return folder
        except (FileExistsError, NotADirectoryError):
            if not folder.config.is_file():
                raise UserError(f"{folder.path} is a file or below one: choose another --out") from None
            occupied = folder.config  # another process was faster
        except OSError as error:
            raise cannot_write(folder.path, error) from error
        what = "holds a run already" if folder.config.exists() else f"is not empty (it holds {occupied.name})"
        raise UserError(
            f"{folder.path} {what}, and nothing is overwritten: choose another --out, or go on with"
            f" `phalanx resume {folder.path}`"
        )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. UserError where it is none."""
        folder = cls(path)
        if not path.is_dir():
            raise UserError(f"{path} is not a folder: give the folder of a run, as `phalanx train --out` made it")
        if not folder.config.is_file():
            raise UserError(f"{path} holds no config.yaml, so it is not the folder of a run")
        return folder

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Meanwhile nobody else can train in the folder; UserError where somebody does. Ends with the process, however
        that ends."""
        with open(self.config, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is training in {self.path}: wait until it has ended, or stop it first"
                ) from None
            except OSError as error:  # a file system that knows no locks
                log.debug("%s cannot be locked: %s", self.config, error)
            yield

    def run_settings(self) -> RunSettings:
        """What config.yaml says."""
        return load_run(self.config, catalogue=CATALOGUE)

    def write_metadata(self, run: RunSettings, spec: TeamSpec) -> None:
        """metadata.json: what the run was made with. Neither names of people or machines nor paths."""
        from phalanx import __version__

        versions = {"phalanx": __version__, "python": platform.python_version()}
        for package in _VERSIONS_OF:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        versions.update(spec.versions)
        metadata = {
            "versions": versions,
            "platform": f"{platform.system()} {platform.machine()}",
            "commit": _commit(),
            "seed": run.seed,
            "mode": run.mode,
            "env": run.env.name,
            "algorithm": run.algorithm.name,
            "agents": list(spec.agent_names),
            "reproducible": run.mode == "sync" and spec.reproducible,
        }
        self._write(self.metadata, json.dumps(metadata, indent=2) + "\n")

    def record_evaluation(self, run: RunSettings, env_steps: int, result: EvaluationResult) -> None:
        """Adds it to evaluations.json: raw values of every episode in the shape that marl-eval reads,
        {env: {task: {algorithm: {seed_S: {step_K: {step_count, return, …}, absolute_metrics}}}}}.

        The file is rewritten whole and atomically and knows no clock, so equal runs give equal bytes.
        `absolute_metrics` repeats the evaluation with the highest mean return.
        """
        entry: dict[str, Any] = {"step_count": env_steps, "return": _floats(result.returns)}
        if result.wins is not None:
            entry["win_rate"] = _floats(result.wins)
        entry["length"] = _floats(result.lengths)
        entry.update({name: _floats(values) for name, values in result.metrics.items()})
        self._write_evaluations(run, [*self.read_evaluations(), entry])

    def read_evaluations(self) -> list[dict[str, Any]]:
        """The evaluations so far: step_count and lists of raw values by name. UserError where the file is damaged."""
        try:
            data = json.loads(self.evaluations.read_text(encoding="utf-8"))
            for _ in range(4):  # env, task, algorithm, seed
                (data,) = data.values()
            return [entry for name, entry in data.items() if name != "absolute_metrics"]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self.evaluations} cannot be read ({error.strerror})") from error
        except (ValueError, AttributeError) as error:
            raise UserError(f"{self.evaluations} is damaged ({error}): restore it or start a new run") from error

    def write_summary(self, progress: Progress, exit_reason: str) -> dict[str, Any]:
        """summary.json, which also says that the run has ended, and why (`completed`, `stopped`, a failure's
        sentence)."""
        summary = {
            "env_steps": progress.env_steps,
            "updates": progress.updates,
            "episodes": progress.episodes,
            "wall_s": round(progress.wall_s, 3),
            "env_steps_per_s": round(progress.env_steps / progress.wall_s, 1) if progress.wall_s > 0 else 0.0,
            "final": progress.final,
            "best": progress.best,
            "restarts": progress.restarts,
            "episodes_lost": progress.episodes_lost,
            "exit_reason": exit_reason,
        }
        self._write(self.summary, json.dumps(summary, indent=2) + "\n")
        return summary

    def read_summary(self) -> dict[str, Any] | None:
        """summary.json; None where the run has not ended."""
        try:
            summary: dict[str, Any] = json.loads(self.summary.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return summary

    def truncate_to(self, run: RunSettings, progress: Progress) -> None:
        """Drops what metrics.jsonl, evaluations.json and summary.json say beyond the checkpoint (and a line that a
        crash cut short)."""
        evaluations = self.read_evaluations()
        if len(evaluations) > progress.evaluations:
            self._write_evaluations(run, evaluations[: progress.evaluations])
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = list(itertools.takewhile(lambda line: _within(line, progress), lines))
            if len(kept) < len(lines):
                self._write(self.metrics, "".join(kept))
        self.summary.unlink(missing_ok=True)

    def _write_evaluations(self, run: RunSettings, evaluations: list[dict[str, Any]]) -> None:
        steps: dict[str, Any] = {f"step_{k}": entry for k, entry in enumerate(evaluations)}
        if evaluations:
            best = max(evaluations, key=lambda entry: math.fsum(entry["return"]) / len(entry["return"]))
            steps["absolute_metrics"] = {name: values for name, values in best.items() if name != "step_count"}
        data = {run.env.name: {_task(run): {run.algorithm.name: {f"seed_{run.seed}": steps}}}}
        self._write(self.evaluations, json.dumps(data) + "\n")

    def _write(self, path: Path, text: str) -> None:
        try:
            replace_file(path, text)
        except OSError as error:
            raise cannot_write(path, error) from error


def free_place(name: str) -> Path:
    """The first of runs/<name>, runs/<name>-2, runs/<name>-3, … that is not there yet."""
    runs = Path("runs")
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(runs / each for each in names if not os.path.lexists(runs / each))


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def _task(run: RunSettings) -> str:
    """What marl-eval calls the task: the module where one `env.name` stands for many games."""
    module = getattr(run.env, "module", None)
    return str(module).rsplit(".", 1)[-1] if module else run.env.name


def _within(line: str, progress: Progress) -> bool:
    try:
        row = json.loads(line)
        return bool(row["env_steps"] <= progress.env_steps and row["updates"] <= progress.updates)
    except (ValueError, KeyError, TypeError):
        return False


def _commit() -> str | None:
    """Commit of the working copy that phalanx is imported from; None where it is installed."""
    import phalanx

    root = Path(phalanx.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
