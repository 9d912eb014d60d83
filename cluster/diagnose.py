"""`phalanx diagnose`: a checkpoint's networks looked at closely, on episodes that were kept or are played. Plain.

All figures of a report (`train/...`, here without the area), with SND over all episodes, and the cosine between the
agents' gradients, which reports leave out because it takes a backward pass for each agent.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from phalanx.algorithms.base import Algorithm, TensorBatch
from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.algorithms.common.diagnostics import gradient_cosine, team_diversity
from phalanx.algorithms.registry import make_algorithm
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.cluster import snapshot
from phalanx.cluster.live import number
from phalanx.cluster.metrics import FIGURES
from phalanx.cluster.policy import find_checkpoint, load_policy
from phalanx.cluster.replay import Replay
from phalanx.cluster.rollout import Rollout
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.cluster.signatures import Watch, has_learned, sentence, signatures
from phalanx.cluster.sinks import read_rows
from phalanx.configs.errors import UserError
from phalanx.configs.load import load_run
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import TeamSpec

Source = Literal["replay", "played"]


@dataclass
class Diagnosis:
    """What was found. `warnings`: failure signature -> what it means and what to change; `judged`: whether the
    networks have learned enough to tell."""

    checkpoint: Path
    run: RunSettings
    env_steps: int
    updates: int
    episodes: int
    source: Source
    figures: dict[str, float]
    warnings: dict[str, str]
    judged: bool

    def to_json(self) -> dict[str, Any]:
        """The object that `phalanx diagnose --json` prints; figures that are no number are null."""
        finite = {key: value if math.isfinite(value) else None for key, value in self.figures.items()}
        return {
            "checkpoint": self.checkpoint.name,
            "env_steps": self.env_steps,
            "updates": self.updates,
            "episodes": self.episodes,
            "source": self.source,
            "figures": finite,
            "warnings": self.warnings,
            "judged": self.judged,
        }


def diagnose(folder: Path, episodes: int, play: bool = False) -> Diagnosis:
    """Looks at the newest intact checkpoint of the run folder (or at one checkpoint folder) on `episodes` episodes:
    from its replay where it has one, otherwise (and with `play`) greedy ones that the team plays now.

    UserError where there is no checkpoint, or none of an algorithm with diagnostics.
    """
    found = find_checkpoint(folder)
    for problem in found.problems:
        warnings.warn(f"{problem}; using {found.path.name}", RuntimeWarning, stacklevel=2)
    checkpoint = found.path
    run = load_run(checkpoint / snapshot.CONFIG, catalogue=CATALOGUE)
    spec = snapshot.read_spec(checkpoint)
    algorithm = load_algorithm(run, spec, checkpoint)
    # What a queue still holds is nothing, or what no network has learned from yet.
    kept = None if play or run.algorithm.on_policy else snapshot.replay_folder(checkpoint)
    batch = _played(run, checkpoint, episodes) if kept is None else _kept(run, spec, kept, episodes)
    figures = close_look(algorithm, TensorBatch.of(batch.trimmed(), torch.device("cpu")))
    if not figures:
        raise UserError(f"algorithm.name={run.algorithm.name} has no diagnostics")
    progress = snapshot.read_progress(checkpoint)
    judged = has_learned(run, progress.updates)
    return Diagnosis(
        checkpoint,
        run,
        progress.env_steps,
        progress.updates,
        len(batch),
        "played" if kept is None else "replay",
        figures,
        _warnings(run, folder, progress.env_steps, figures) if judged else {},
        judged,
    )


def load_algorithm(run: RunSettings, spec: TeamSpec, checkpoint: Path) -> Algorithm:
    """The algorithm with the checkpoint's networks, in main memory. UserError where they do not fit."""
    algorithm = make_algorithm(run, spec)
    try:
        algorithm.load_state_dict(snapshot.read_learner(checkpoint)["algorithm"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the networks in {checkpoint} do not fit algorithm.name={run.algorithm.name} as its config.yaml says"
            f" ({reason}): they were written by another version of phalanx"
        ) from error
    return algorithm


def close_look(algorithm: Algorithm, batch: TensorBatch) -> dict[str, float]:
    """Every figure about the batch, names without an area."""
    figures = algorithm.diagnostics(batch)
    if figures and isinstance(algorithm, ValueMixing) and algorithm.spec.n_agents > 1:
        with torch.no_grad():
            figures["snd"] = team_diversity(algorithm, batch)
        figures["agent_gradient_cosine"] = gradient_cosine(algorithm, batch)
    return {name: float(value) for name, value in figures.items()}


def diagnosis_table(found: Diagnosis) -> RenderableType:
    """For people: figure, value, what it is; then the warnings."""
    what = "episodes of its replay" if found.source == "replay" else "greedy episodes, played now"
    run = found.run
    lines = (
        f"{found.checkpoint}: {run.algorithm.name} on {run.env.name}",
        f"{found.env_steps:,} env steps, {found.updates:,} updates; {found.episodes} {what}",
    )
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", style="bold", no_wrap=True)
    table.add_column("meaning", style="dim")
    for name in sorted(found.figures, key=_rank):
        table.add_row(name, number(found.figures[name]), FIGURES.get(name, ""))
    said = [Text(line, style="yellow") for line in found.warnings.values()]
    nothing = "no failure signature" if found.judged else "no failure signature is looked for so early in a run"
    return Group(
        *(Text(line, style="bold", no_wrap=True, overflow="ignore") for line in lines),
        Text(),
        table,
        Text(),
        *(said or [Text(nothing)]),
    )


def _rank(name: str) -> int:
    """Figures in the order in which they are documented; new ones last."""
    names = list(FIGURES)
    return names.index(name) if name in FIGURES else len(names)


def _warnings(run: RunSettings, folder: Path, env_steps: int, figures: dict[str, float]) -> dict[str, str]:
    """Signatures that the figures show by themselves, and those that held in the run's reports up to here."""
    row = {f"train/{name}": value for name, value in figures.items()}
    shown = {name for name, holds in signatures(row).items() if holds}
    watch = Watch(run).catch_up(row for row in read_rows(folder) if row.get("env_steps", 0) <= env_steps)
    return {name: sentence(name, row, run) for name in sorted(shown | watch.present)}


def _kept(run: RunSettings, spec: TeamSpec, folder: Path, episodes: int) -> EpisodeBatch:
    """Drawn uniformly, however the run samples; fewer where fewer are held."""
    replay = Replay(spec, run.replay.model_copy(update={"sampling": "uniform"}), run.seed)
    replay.load(folder)
    (batch,) = replay.sample(min(episodes, replay.size))
    return batch


def _played(run: RunSettings, checkpoint: Path, episodes: int) -> EpisodeBatch:
    """Greedy, in a stream that the run itself does not have."""
    stream = run.rollout.streams
    wide = run.model_copy(update={"rollout": run.rollout.model_copy(update={"envs_per_stream": episodes})})
    rollout = Rollout(wide, [stream], load_policy)
    try:
        rollout.set_weights(snapshot.read_policy(checkpoint), 0)
        return rollout.play_round(stream, 0, 0.0).batch
    finally:
        rollout.close()
