"""What the benchmarks of the service share: a run driven step by step, and who uses the processors meanwhile."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray

from phalanx.cluster.run_folder import CATALOGUE
from phalanx.cluster.service import Coordinator, connect
from phalanx.configs.load import load_run

WARM_UP_S = 5.0
SETTLE_S = 1.0  # until a run that is not driven rests, or one that is driven again has its speed
ACTORS = ("RolloutActor", "ReplayActor", "LearnerActor", "EvaluatorActor")


@contextmanager
def coordinator(source: str, overrides: Sequence[str]) -> Iterator[Coordinator]:
    """A run on Ray of its own, in a folder that is thrown away; of overrides of one key the last counts. What Ray
    prints meanwhile goes to stderr."""
    last = {one.partition("=")[0]: one for one in overrides}
    run = load_run(source, list(last.values()), catalogue=CATALOGUE)
    ours = connect(run.cluster)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        made = Coordinator({"run": run.model_dump(mode="json"), "folder": str(Path(folder) / "run")})
        try:
            yield made
        finally:
            made.close("measured")
            made.stop()
            if ours:
                ray.shutdown()


def cpu_seconds() -> dict[str, float]:
    """Processor seconds so far of each kind of actor, of this process (`coordinator`) and of Ray's own (`ray`)."""
    own = psutil.Process()
    spent = dict.fromkeys((*ACTORS, "coordinator", "ray"), 0.0)
    for process in (own, *own.children(recursive=True)):
        try:
            times, command = process.cpu_times(), process.cmdline()
        except psutil.Error:
            continue
        name = command[0] if command else ""
        kind = next((actor for actor in ACTORS if name.startswith(f"ray::{actor}")), "ray")
        spent["coordinator" if process.pid == own.pid else kind] += times.user + times.system
    return spent


@dataclass
class _Spent:
    """What several windows of one run came to."""

    seconds: float = 0.0
    env_steps: int = 0
    updates: int = 0
    cpu: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, run: Coordinator, seconds: float) -> None:
        """One more window."""
        began, cpu = time.monotonic(), cpu_seconds()
        env_steps, updates = run.progress.env_steps, run.progress.updates
        while time.monotonic() - began < seconds:
            self.rows.append(run.step())
        self.seconds += time.monotonic() - began
        self.cpu.update({name: value - cpu[name] for name, value in cpu_seconds().items()})
        self.env_steps += run.progress.env_steps - env_steps
        self.updates += run.progress.updates - updates

    def mean_of(self, key: str) -> float:
        return statistics.fmean([row[key] for row in self.rows if key in row] or [0.0])


def drive(run: Coordinator, seconds: float) -> None:
    """Lets the run go on that long, and until its first update."""
    until = time.monotonic() + seconds
    while time.monotonic() < until or run.progress.updates == 0:
        run.step()


def measure(
    source: str, overrides: Sequence[str], seconds: float, rounds: int = 1, between: Callable[[], None] | None = None
) -> dict[str, float]:
    """One endless run for `seconds` after a warm-up: speeds, means of its reports, and processor seconds per second of
    each kind of process (`cpu_…`). The time is cut into `rounds` windows, before, between and after which the run
    stands still while `between` measures something else: a machine whose speed drifts is then as fast for both."""
    endless = ("total_env_steps=1000000000", "checkpoint.every_env_steps=1000000000", "report.every_s=1")
    spent = _Spent()
    with coordinator(source, (*endless, *overrides)) as run:
        drive(run, WARM_UP_S)
        for _ in range(rounds):
            if between is not None:
                time.sleep(SETTLE_S)
                between()
                drive(run, SETTLE_S)
            spent.add(run, seconds / rounds)
        if between is not None:
            time.sleep(SETTLE_S)
            between()
        lost = run.progress.episodes_lost
    return {
        "env_steps_per_s": spent.env_steps / spent.seconds,
        "updates_per_s": spent.updates / spent.seconds,
        "env_steps_per_update": spent.env_steps / spent.updates,
        "update_ms": spent.mean_of("learner/update_ms"),
        "policy_lag": spent.mean_of("learner/policy_lag_mean"),
        "episodes_lost": lost,
        **{f"cpu_{name}": value / spent.seconds for name, value in spent.cpu.items()},
    }
