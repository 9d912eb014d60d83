"""Small runs for the tests of the service, and the processes behind them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from phalanx.cluster import metrics
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import load_run
from phalanx.configs.settings import RunSettings

TINY = (
    "agent.hidden=16",
    "mixer.embed=8",
    "mixer.hypernet=8",
    "env.max_steps=10",
    "learner.batch_episodes=8",
    "replay.min_episodes=16",
    "replay.capacity_episodes=400",
    "rollout.streams=3",
    "rollout.envs_per_stream=4",
    "exploration.env_steps=2000",
    "evaluation.episodes=4",
    "report.every_s=0.2",
)
SYNC = (
    "mode=sync",
    "total_env_steps=3600",
    "evaluation.every_env_steps=700",
    "checkpoint.every_env_steps=1200",
    "report.every_env_steps=240",
)


def tiny(*overrides: str, only: Sequence[str] = TINY) -> RunSettings:
    """A run of QMIX on simple_spread that takes seconds; `overrides` as on the command line, the last one counts."""
    last = {one.partition("=")[0]: one for one in (*only, *overrides)}
    return load_run("qmix_spread", list(last.values()), catalogue=CATALOGUE)


@contextmanager
def ray_session(num_cpus: int = 2) -> Iterator[None]:
    """Ray on this machine for several runs: starting it takes longer than a tiny run."""
    import ray

    ray.init("local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    try:
        yield
    finally:
        ray.shutdown()


def actor_pids(name: str, root: int | None = None) -> list[int]:
    """Processes of the actors of class `name` that descend from the process `root` (default: this one)."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if command and command[0].startswith(f"ray::{name}"):
            found.append(process.pid)
    return sorted(found)


def kill_actor(name: str, root: int | None = None) -> int:
    """SIGKILL to one actor of the class `name`; its process id."""
    pid = actor_pids(name, root)[0]
    os.kill(pid, signal.SIGKILL)
    return pid


def killer(*victims: str, first: int, every: int = 1) -> tuple[Callable[[dict[str, Any]], None], list[int]]:
    """For `on_report`: kills one after the other, from `first` env steps on, `every` so many; and whom it killed.

    The run is held up until it has counted a death: it may do without a worker, and be over before Ray tells of it.
    """
    waiting = list(victims)
    killed: list[int] = []

    def on_report(row: dict[str, Any]) -> None:
        if row[metrics.RESTARTS] < len(killed):
            time.sleep(0.5)
        elif waiting and row["env_steps"] >= first + every * len(killed):
            killed.append(kill_actor(waiting.pop(0)))

    return on_report, killed


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def evaluations_of(folder: Path) -> bytes:
    """evaluations.json as it lies on the disk."""
    return (folder / "evaluations.json").read_bytes()
