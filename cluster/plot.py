"""Learning curves of run folders. Runs that differ by their seed alone become one line with its uncertainty.

matplotlib is imported lazily and needs no display. Colours are Okabe and Ito's, which people with any colour
vision can tell apart; lines differ by marker as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from phalanx.cluster import metrics
from phalanx.cluster.live import label
from phalanx.cluster.sinks import METRICS_FILE, cannot_write, read_rows
from phalanx.configs.errors import UserError

Series = npt.NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"
_RESAMPLES = 2000
_GRID_POINTS = 200
_MOST_PANELS = 3
_LONGEST_INSIDE = 40  # letters of a legend's line that a panel has room for
# Sections that do not change what is learned.
_NOT_LEARNING = ("seed", "cluster", "sinks", "report", "checkpoint", "evaluation")


@dataclass
class Curves:
    """What one run folder says: its settings, and each metric over env steps."""

    path: Path
    settings: dict[str, Any]
    series: dict[str, tuple[Series, Series]]  # key -> env steps, values
    episodes: dict[str, dict[int, Series]] = field(default_factory=dict)  # eval/..._mean -> env steps -> [episodes]
    name: str = ""  # given by whoever asks for the picture

    @property
    def group_key(self) -> str:
        """Equal for runs that differ by their seed alone."""
        if not self.settings:
            return str(self.path)
        return json.dumps({k: v for k, v in self.settings.items() if k not in _NOT_LEARNING}, sort_keys=True)


@dataclass
class Line:
    """One line of the picture: env steps [P], its middle [P], and a 95% interval around it where one can be had."""

    label: str
    env_steps: Series
    middle: Series
    low: Series | None = None
    high: Series | None = None


def plot(
    folders: Sequence[Path], out: Path, metric: str | None = None, names: Sequence[str] | None = None
) -> list[str]:
    """Draws the learning curves of `folders` into the picture `out`; the metrics that were drawn, one panel each.

    Without `metric`: the evaluation return and up to two of the environment's own metrics. `names`: what to call each
    run; None: what tells them apart. UserError where a folder is no run folder or none has the metric.
    """
    runs = [read_curves(folder) for folder in folders]
    for run, name in zip(runs, names or (), strict=names is not None):
        run.name = name
    keys = [metric] if metric else default_metrics(runs)
    lines = {key: lines_of(runs, key) for key in keys}
    _draw(lines, runs, out)
    return keys


def read_curves(folder: Path) -> Curves:
    """Reads a run folder. UserError where it holds no metrics."""
    if not folder.is_dir():
        raise UserError(
            f"there is no run folder {folder}; `phalanx plot` wants the folders of runs, such as runs/demar_tag"
        )
    if not (folder / METRICS_FILE).exists():
        raise UserError(f"{folder} is not a run folder: it has no {METRICS_FILE}")
    points: dict[str, list[tuple[float, float]]] = {}
    for row in read_rows(folder):
        for part in metrics.split_evaluation(row):
            env_steps = float(part[metrics.ENV_STEPS])
            for key, value in part.items():
                if "/" in key and np.isfinite(value):
                    points.setdefault(key, []).append((env_steps, float(value)))
    series = {}
    for key, pairs in points.items():
        table = np.asarray(sorted(dict(pairs).items()), dtype=np.float64)
        series[key] = (table[:, 0], table[:, 1])
    episodes = _read_episodes(folder)
    for key, at in episodes.items():
        # evaluations.json has every evaluation, a row of metrics.jsonl the newest one since the row before.
        steps = sorted(at)
        series[key] = (np.asarray(steps, np.float64), np.asarray([at[step].mean() for step in steps]))
    return Curves(folder, _read_settings(folder), series, episodes)


def default_metrics(runs: Sequence[Curves]) -> list[str]:
    """The evaluation return, then the win rate and the environment's own metrics, as far as there is room."""
    found = sorted({key for run in runs for key in run.series if key.startswith("eval/")})
    others = [k for k in found if k not in (metrics.EVAL_RETURN, metrics.EVAL_RETURN_STD, metrics.EVAL_LENGTH)]
    others.sort(key=lambda key: key != metrics.EVAL_WIN_RATE)
    return [metrics.EVAL_RETURN, *others][:_MOST_PANELS]


def lines_of(runs: Sequence[Curves], key: str) -> list[Line]:
    """One line for each group of runs that differ by their seed alone. UserError where no run has the metric."""
    having = [run for run in runs if key in run.series]
    if not having:
        known = sorted({key for run in runs for key in run.series})
        names = ", ".join(str(run.path) for run in runs)
        has = f"it has {', '.join(known)}" if known else "there are no metrics yet: wait for the first report"
        raise UserError(f"no run among {names} has the metric {key}; {has}")
    return [line_of(name, members, key) for name, members in grouped(having)]


def grouped(runs: Sequence[Curves]) -> list[tuple[str, list[Curves]]]:
    """Runs that differ by their seed alone together, under names that tell the groups apart."""
    groups: dict[str, list[Curves]] = {}
    for run in runs:
        groups.setdefault(run.group_key, []).append(run)
    labels = _labels([members[0] for members in groups.values()])
    return list(zip(labels, groups.values(), strict=True))


def interquartile_mean(values: Series) -> Series:
    """Mean of the middle half of `values` [..., n] over the last axis; at the quarter marks a value counts in part."""
    n = values.shape[-1]
    edges = np.arange(n + 1) / n
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return np.asarray(np.sort(values, axis=-1) @ (weights / weights.sum()), dtype=np.float64)


def bootstrap(values: Series, robust: bool) -> tuple[Series, Series]:
    """95% percentile interval of the mean (`robust`: interquartile mean) of `values` [P, n] over n: two of [P].

    Resampled with a fixed seed, so that the same runs give the same picture.
    """
    draws = np.random.default_rng(0).integers(0, values.shape[1], (_RESAMPLES, values.shape[1]))
    middles = np.empty((values.shape[0], _RESAMPLES))
    for index, row in enumerate(values):  # one point at a time: all at once would be large for long curves
        drawn = row[draws]
        middles[index] = interquartile_mean(drawn) if robust else drawn.mean(axis=1)
    low, high = np.percentile(middles, (2.5, 97.5), axis=1)
    return low, high


def line_of(name: str, members: Sequence[Curves], key: str) -> Line:
    """One group's line: of its only run, with an interval over evaluation episodes where it has them, or the mean
    (from three seeds on the interquartile mean) with an interval over seeds. Every member has the metric."""
    if len(members) == 1:
        env_steps, values = members[0].series[key]
        episodes = members[0].episodes.get(key, {})
        if not env_steps.size or any(int(step) not in episodes for step in env_steps):
            return Line(name, env_steps, values)
        bounds = [bootstrap(episodes[int(step)][None], robust=False) for step in env_steps]
        low, high = (np.concatenate(part) for part in zip(*bounds, strict=True))
        return Line(name, env_steps, values, low, high)
    grid = _common_grid([run.series[key][0] for run in members])
    values = np.stack([np.interp(grid, *run.series[key]) for run in members], axis=1)
    robust = len(members) >= 3
    middle = interquartile_mean(values) if robust else values.mean(axis=1)
    low, high = bootstrap(values, robust)
    statistic = "IQM" if robust else "mean"
    return Line(f"{name} ({statistic} of {len(members)} seeds)", grid, middle, low, high)


def _common_grid(axes: Sequence[Series]) -> Series:
    """Env steps where every run can be read: their own where all agree, otherwise evenly spaced ones."""
    if all(np.array_equal(axis, axes[0]) for axis in axes):
        return axes[0]
    start, stop = max(axis[0] for axis in axes), min(axis[-1] for axis in axes)
    return np.linspace(start, stop, min(_GRID_POINTS, max(len(axis) for axis in axes)))


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}  # a curve without its settings is still a curve
    return settings if isinstance(settings, dict) else {}


def _read_episodes(folder: Path) -> dict[str, dict[int, Series]]:
    """Outcomes of every evaluation episode from evaluations.json, whose steps look like
    `"step_3": {"step_count": 300, "return": [...], ...}` at some depth."""
    try:
        tree = json.loads((folder / "evaluations.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    found: dict[str, dict[int, Series]] = {}

    def walk(node: Any) -> None:
        if not isinstance(node, Mapping):
            return
        if "step_count" not in node:
            for child in node.values():
                walk(child)
            return
        for name, values in node.items():
            if isinstance(values, list) and values:
                key = metrics.EVAL_WIN_RATE if name.startswith("win") else f"eval/{name}_mean"
                found.setdefault(key, {})[int(node["step_count"])] = np.asarray(values, dtype=np.float64)

    walk(tree)
    return found


def _labels(runs: Sequence[Curves]) -> list[str]:
    """The shortest names that tell the groups apart: the given ones, the algorithm, else the settings that differ, else
    the folder."""
    if all(run.name for run in runs):
        return [run.name for run in runs]
    names = [_algorithm(run) for run in runs]
    if len(set(names)) == len(names) and all(names):
        return names
    flat = [_flatten({k: v for k, v in run.settings.items() if k not in _NOT_LEARNING}) for run in runs]
    keys = sorted({key for settings in flat for key in settings})
    differing = [key for key in keys if len({json.dumps(settings.get(key)) for settings in flat}) > 1]
    if 0 < len(differing) <= 3 and all(run.settings for run in runs):
        return [", ".join([n, *(f"{k}={s.get(k)}" for k in differing)]) for n, s in zip(names, flat, strict=True)]
    return [run.path.name or str(run.path) for run in runs]


def _algorithm(run: Curves) -> str:
    return str((run.settings.get("algorithm") or {}).get("name", "")).upper().replace("_", "-")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _draw(panels: Mapping[str, Sequence[Line]], runs: Sequence[Curves], out: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.ticker import EngFormatter

    style: Any = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    with matplotlib.rc_context(style):
        width = 6.8 if len(panels) == 1 else 5.4 * len(panels)
        figure = Figure(figsize=(width, 4.2), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (key, lines) in zip(axes, panels.items(), strict=True):
            _draw_panel(axis, key, lines)
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        if any(len(lines) > 1 or "seeds)" in lines[0].label for lines in panels.values()):
            longest = max(len(line.label) for lines in panels.values() for line in lines)
            if longest <= _LONGEST_INSIDE:
                axes[0].legend(loc="best", fontsize=10)
            else:
                figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", fontsize=10)
        figure.suptitle(title_of(runs), fontsize=13, x=0.01, ha="left")
        footnote = _footnote([line for lines in panels.values() for line in lines])
        if footnote:
            figure.supxlabel(footnote, fontsize=8.5, color="#666666", x=0.995, ha="right")
        save(figure, out)


def save(figure: Any, out: Path) -> None:
    """The picture as a file. UserError where it cannot be written."""
    try:
        figure.savefig(out, dpi=150)
    except OSError as error:
        raise cannot_write(out, error) from error


def _draw_panel(axis: Any, key: str, lines: Sequence[Line]) -> None:
    for index, line in enumerate(lines):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        every = max(1, len(line.env_steps) // 15)
        axis.plot(
            line.env_steps, line.middle, color=colour, marker=marker, markevery=every, ms=4, lw=2, label=line.label
        )
        if line.low is not None and line.high is not None:
            axis.fill_between(line.env_steps, line.low, line.high, color=colour, alpha=0.18, lw=0)
    axis.set_xlabel("env steps")
    axis.set_ylabel(_axis_name(key))
    axis.grid(axis="y", color="#e5e5e5", lw=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0.02)


def _axis_name(key: str) -> str:
    if key == metrics.EVAL_RETURN:
        return "return per greedy episode"
    if key == metrics.EVAL_WIN_RATE:
        return "share of greedy episodes won"
    area, _, name = key.partition("/")
    if area == "eval":
        return f"{label(key)} per greedy episode"
    return f"{name.replace('_', ' ')} ({area})"


def title_of(runs: Sequence[Curves]) -> str:
    """What the picture is about."""
    envs = sorted({metrics.task(run.settings.get("env") or {}) for run in runs} - {""})
    names = sorted({_algorithm(run) for run in runs} - {""})
    if len(envs) != 1:
        return "Learning curves"
    return f"{names[0]} on {envs[0]}" if len(names) == 1 else f"Learning on {envs[0]}"


def _footnote(lines: Sequence[Line]) -> str:
    if all(line.low is None for line in lines):
        return ""
    over = "seeds" if any("seeds)" in line.label for line in lines) else "evaluation episodes"
    return f"band: 95% bootstrap interval over {over}"
