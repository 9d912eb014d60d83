"""What the benchmarks of the service share: a run driven step by step, and who uses the processors meanwhile."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import psutil
import ray

from phalanx.cluster.run_folder import CATALOGUE
from phalanx.cluster.service import Coordinator, connect
from phalanx.configs.load import load_run

WARM_UP_S = 5.0
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


def measure(source: str, overrides: Sequence[str], seconds: float) -> dict[str, float]:
    """One endless run for `seconds` after a warm-up: speeds, means of its reports, and processor seconds per second of
    each kind of process (`cpu_…`)."""
    endless = ("total_env_steps=1000000000", "checkpoint.every_env_steps=1000000000", "report.every_s=1")
    with coordinator(source, (*endless, *overrides)) as run:
        until = time.monotonic() + WARM_UP_S
        while time.monotonic() < until or run.progress.updates == 0:
            run.step()
        began, cpu = time.monotonic(), cpu_seconds()
        env_steps, updates = run.progress.env_steps, run.progress.updates
        rows = []
        while time.monotonic() - began < seconds:
            rows.append(run.step())
        took = time.monotonic() - began
        spent = {name: value - cpu[name] for name, value in cpu_seconds().items()}
        made, played = run.progress.updates - updates, run.progress.env_steps - env_steps
        lost = run.progress.episodes_lost

    def mean_of(key: str) -> float:
        return statistics.fmean([row[key] for row in rows if key in row] or [0.0])

    return {
        "env_steps_per_s": played / took,
        "updates_per_s": made / took,
        "env_steps_per_update": played / made,
        "update_ms": mean_of("learner/update_ms"),
        "policy_lag": mean_of("learner/policy_lag_mean"),
        "episodes_lost": lost,
        **{f"cpu_{name}": value / took for name, value in spent.items()},
    }
