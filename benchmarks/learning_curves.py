"""Runs that belong in one picture, over seeds: what docs/results shows.

    python -m benchmarks.learning_curves NAME [--seeds 0,1,2] [--runs runs/curves] [--out docs/results]

trains the lines of the experiment NAME (`EXPERIMENTS` below), one run after the other, each in a process of its own,
and writes NAME.json (every evaluation of every run, its env steps, updates and wall time) and NAME.png. Run folders
stay under `--runs`: a second call trains what is missing, goes on with what was interrupted, and draws again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phalanx.cluster.plot import plot, read_curves
from phalanx.cluster.sinks import read_rows


@dataclass(frozen=True)
class Line:
    """One line of a picture: a shipped run, and what is changed."""

    label: str
    run: str
    overrides: tuple[str, ...] = ()


ADVERSARY = ("total_env_steps=400000",)
SPREAD = ("total_env_steps=400000", "evaluation.every_env_steps=20000", "evaluation.episodes=64")
HUNT = ("total_env_steps=100000",)
WORLD = ("total_env_steps=200000", "evaluation.every_env_steps=20000", "evaluation.episodes=64")
EXPERIMENTS: dict[str, tuple[Line, ...]] = {
    "adaptive_tag": (Line("fixed", "demar_tag"), Line("adaptive", "adaptive_demar_tag")),
    "adaptive_adversary": (
        Line("fixed", "demar_adversary", ADVERSARY),
        Line("adaptive", "adaptive_demar_adversary", ADVERSARY),
    ),
    "spread": (
        Line("MAPPO", "mappo_spread", SPREAD),
        Line("IPPO", "ippo_spread", SPREAD),
        Line("QMIX", "qmix_spread_learning", SPREAD),
    ),
    "drift": (Line("HAPPO", "happo_world", WORLD), Line("HAPPO, groups", "happo_world_groups", WORLD)),
    "policies_tag": (Line("MADDPG", "maddpg_tag"), Line("MASAC", "masac_tag")),
    "omdpg": (
        Line("OMDPG", "omdpg_stag_hunt_het", HUNT),
        Line("perturbed continuation", "omdpg_perturbed_stag_hunt_het", HUNT),
        Line("random groups", "omdpg_random_groups_stag_hunt_het", HUNT),
    ),
    "smax_3m": (
        Line("QMIX", "qmix_smax_3m"),
        Line("DEMAR", "demar_smax_3m"),
        Line("DEMAR, noise 0.02", "demar_smax_3m", ("env.noise.demar=0.02",)),
    ),
    "smax_2s3z": (Line("QMIX", "qmix_smax_2s3z"),),
}


def train(line: Line, seed: int, folder: Path) -> None:
    """Trains until `folder` holds the finished run."""
    phalanx = [sys.executable, "-m", "phalanx.cluster.cli"]
    if (folder / "checkpoints").exists():
        command = [*phalanx, "resume", str(folder)]  # says so where it is finished
    else:
        command = [*phalanx, "train", line.run, *line.overrides, f"seed={seed}", "--out", str(folder)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def told(line: Line, seed: int, folder: Path) -> dict[str, Any]:
    """What a finished run reached, and all its evaluations."""
    summary = json.loads((folder / "summary.json").read_text())
    curves = read_curves(folder)
    keys = sorted(key for key in curves.series if key.startswith("eval/"))
    steps, _ = curves.series["eval/return_mean"]
    columns = [np.interp(steps, *curves.series[key]) for key in keys]
    rows = np.stack([steps, *columns], axis=1)
    drift = [row["train/baseline_drift"] for row in read_rows(folder) if "train/baseline_drift" in row]
    return {
        "run": line.run,
        "overrides": list(line.overrides),
        "seed": seed,
        **{key: summary[key] for key in ("env_steps", "updates", "wall_s", "restarts")},
        **({"baseline_drift_mean": float(np.mean(drift))} if drift else {}),
        "columns": ["env_steps", *keys],
        "evaluations": [[float(f"{value:.6g}") for value in row] for row in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(EXPERIMENTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs/curves"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    folders: list[Path] = []
    names: list[str] = []
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in map(int, arguments.seeds.split(",")):
        for line in EXPERIMENTS[arguments.name]:
            folder = arguments.runs / arguments.name / f"{line.label}-{seed}"
            train(line, seed, folder)
            folders.append(folder)
            names.append(line.label)
            results.setdefault(line.label, []).append(told(line, seed, folder))
    (arguments.out / f"{arguments.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(folders, arguments.out / f"{arguments.name}.png", names=names)


if __name__ == "__main__":
    main()
