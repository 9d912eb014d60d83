"""What the benchmarks of the service share: a run driven step by step, and who uses the processors meanwhile."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import psutil
import ray

from phalanx.cluster.run_folder import CATALOGUE
from phalanx.cluster.service import Coordinator, connect
from phalanx.configs.load import load_run

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
