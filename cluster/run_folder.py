"""The run folder: a contract that outside tools rely on. Plain: no ray, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phalanx.cluster.evaluation import EvaluationResult
from phalanx.cluster.progress import Progress
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import TeamSpec


class RunFolder:
    """Paths and files of one run: config, metadata, metrics, evaluations, summary, checkpoints."""

    path: Path

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @classmethod
    def create(cls, path: Path | None, run: RunSettings, name: str | None = None) -> RunFolder:
        """A new folder with config.yaml. UserError where `path` is occupied or cannot be written; without a path the
        first free of runs/<name>, runs/<name>-2, …"""
        raise NotImplementedError

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. UserError where it is none."""
        raise NotImplementedError

    def run_settings(self) -> RunSettings:
        """What config.yaml says."""
        raise NotImplementedError

    def write_metadata(self, run: RunSettings, spec: TeamSpec) -> None:
        raise NotImplementedError

    def record_evaluation(self, run: RunSettings, env_steps: int, result: EvaluationResult) -> None:
        """Adds it to evaluations.json (whole file rewritten, atomically, without any clock time)."""
        raise NotImplementedError

    def write_summary(self, progress: Progress, exit_reason: str) -> dict[str, Any]:
        raise NotImplementedError

    def truncate_to(self, progress: Progress) -> None:
        """Drops what metrics.jsonl and evaluations.json say beyond the checkpoint."""
        raise NotImplementedError
