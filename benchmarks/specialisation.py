"""Who must share parameters to specialise: HyperMARL, one network for all with ids, and a network for each.

`python -m benchmarks.specialisation [--agents 4 8] [--seeds 3] [--out docs/results] [key=value …]` trains the shipped
runs hyper_, shared_ and unshared_specialisation in this process, one after the other (sync, so to the bit the same
wherever), and writes specialisation.json and specialisation.png. Figures are of greedy play: the mean reward per agent
and step, whose optimum is 1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import emit, set_threads

HIDDEN = 64
PAPER = {
    "hyper": {2: 0.82, 4: 0.69, 8: 0.59, 16: 0.57},
    "shared": {2: 0.64, 4: 0.40, 8: 0.25, 16: 0.13},
    "unshared": {2: 0.88, 4: 0.74, 8: 0.68, 16: 0.64},
}
"""Tessera et al. 2025, table 1 and figure 3a: REINFORCE, 10 seeds. HyperMARL's are read off the figure."""
NAMES = {"hyper": "HyperMARL (MLP)", "shared": "one network, ids", "unshared": "a network each"}


def overrides_of(variant: str, agents: int) -> list[str]:
    """Sizes that the paper's authors let depend on how many agents there are."""
    sizes = {"hyper": f"agent.hyper.embedding={HIDDEN // agents}", "unshared": f"agent.hidden={HIDDEN // agents}"}
    return [f"env.agents={agents}", *([sizes[variant]] if variant in sizes else [])]


def train(variant: str, agents: int, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """One run: greedy reward per agent and step over env steps, and the last one of exploring play."""
    from phalanx.cluster import metrics
    from phalanx.cluster.loop import train_serially
    from phalanx.cluster.plot import read_curves
    from phalanx.cluster.run_folder import CATALOGUE
    from phalanx.configs.load import load_run

    keys = [*overrides_of(variant, agents), f"seed={seed}", *overrides]
    run = load_run(f"{variant}_specialisation", keys, catalogue=CATALOGUE)
    length = run.env.length()  # type: ignore[attr-defined]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train_serially(run, Path(folder) / "run")
        curves = read_curves(Path(folder) / "run")
    env_steps, returns = curves.series[metrics.EVAL_RETURN]
    return {
        "variant": variant,
        "agents": agents,
        "seed": seed,
        "env_steps": [int(step) for step in env_steps],
        "greedy": [round(float(value) / length, 4) for value in returns],
        "playing": round(float(curves.series[metrics.ROLLOUT_RETURN][1][-1]) / length, 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def draw(runs: Sequence[dict[str, Any]], out: Path) -> None:
    """One panel for each number of agents; means of seeds, bands from the worst seed to the best."""
    import numpy as np
    from matplotlib.figure import Figure

    from phalanx.cluster.plot import COLOURS, MARKERS

    sizes = sorted({run["agents"] for run in runs})
    figure = Figure(figsize=(5.4 * len(sizes), 4.2), layout="constrained")
    for axis, agents in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        for index, (variant, name) in enumerate(NAMES.items()):
            some = [run for run in runs if run["agents"] == agents and run["variant"] == variant]
            if not some:
                continue
            values, steps = np.array([run["greedy"] for run in some]), some[0]["env_steps"]
            colour = COLOURS[index]
            axis.plot(steps, values.mean(0), color=colour, marker=MARKERS[index], ms=4, lw=2, label=name)
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.18, lw=0)
            if agents in PAPER[variant]:
                axis.axhline(PAPER[variant][agents], color=colour, lw=1, ls=":")
        axis.set_title(f"{agents} agents", loc="left")
        axis.set_xlabel("env steps")
        axis.set_ylim(0, 1.03)
        axis.grid(axis="y", color="#e5e5e5", lw=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes = figure.get_axes()
    axes[0].set_ylabel("greedy reward per agent and step")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(NAMES), frameon=False)
    figure.supxlabel(
        "IPPO; bands: worst to best seed; dotted: the paper's values with REINFORCE", fontsize=8.5, color="#666666"
    )
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the JSON and the picture")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    set_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for agents in arguments.agents:
        for variant in NAMES:
            some = [train(variant, agents, seed, arguments.overrides) for seed in range(arguments.seeds)]
            last = [run["greedy"][-1] for run in some]
            emit(
                row="specialisation",
                variant=variant,
                agents=agents,
                greedy=sum(last) / len(last),
                seeds=last,
                paper=PAPER[variant].get(agents),
                seconds=max(run["seconds"] for run in some),
            )
            runs += some
    (arguments.out / "specialisation.json").write_text(json.dumps(runs) + "\n", encoding="utf-8")
    draw(runs, arguments.out / "specialisation.png")


if __name__ == "__main__":
    main()
