"""What is said at the end: how good the team became, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from phalanx.cluster import metrics
from phalanx.cluster.live import duration, label, number
from phalanx.cluster.metrics import EpisodeStatistics, Row
from phalanx.cluster.sinks import read_rows
from phalanx.configs.settings import RunSettings

_NOT_SHOWN = {metrics.EVAL_RETURN_STD, metrics.EVAL_ENV_STEPS}


def closing_table(folder: Path, summary: Mapping[str, Any]) -> RenderableType:
    """Untrained, final and best evaluation side by side, then the run's counters. `summary` is summary.json's."""
    first = first_evaluation(folder)
    final, best = dict(summary.get("final") or {}), dict(summary.get("best") or {})
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("greedy evaluation")
    untrained = first.get(metrics.ENV_STEPS, 0) == 0
    for name, row in (("untrained" if untrained else "first", first), ("final", final), ("best", best)):
        at = row.get(metrics.ENV_STEPS)
        heading = name if at is None or name == "untrained" else f"{name} (at {int(at):,})"
        table.add_column(heading, justify="right", style="bold" if name == "final" else "")
    for key in _shown([*final, *first]):
        table.add_row(label(key), *(number(row[key]) if key in row else "–" for row in (first, final, best)))
    evaluations = (table, Text()) if first or final else ()
    return Group(Text(), _heading(str(folder)), *evaluations, _facts(summary))


def _facts(summary: Mapping[str, Any]) -> RenderableType:
    facts = (
        ("env steps", f"{summary['env_steps']:,}"),
        ("updates", f"{summary['updates']:,}"),
        ("wall time", duration(summary["wall_s"])),
        ("env steps/s", f"{summary['env_steps_per_s']:,.0f}"),
        ("actor restarts", str(summary["restarts"])),
        ("episodes lost", str(summary["episodes_lost"])),
    )
    grid = Table.grid(padding=(0, 3, 0, 0))
    for row in (facts[:3], facts[3:]):
        grid.add_row(*(Text.assemble((f"{name} ", "dim"), value) for name, value in row))
    return grid


def evaluation_table(run: RunSettings, result: EpisodeStatistics, folder: Path) -> RenderableType:
    """One evaluation: means over its episodes."""
    row = metrics.evaluation_metrics(result)
    played = f"{run.algorithm.name} on {metrics.task(run.env.model_dump())}"
    subject = f"{folder}: {played}, {len(result.returns)} greedy episodes"
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("per episode")
    table.add_column("mean", justify="right", style="bold")
    spread = f"± {number(float(row[metrics.EVAL_RETURN_STD]))} (standard deviation over episodes)"
    for key in _shown(row):
        notes = (spread,) if key == metrics.EVAL_RETURN else ()
        table.add_row(label(key), number(float(row[key])), *notes)
    joint = getattr(result, "greedy_joint_action", None)
    more = () if joint is None else (Text(), Text(f"greedy joint action: {joint}"))
    return Group(_heading(subject), table, *more)


class TrialOutcome(Protocol):
    """What the table shows of a trial (`phalanx.cluster.tuning.Trial`, without importing ray)."""

    @property
    def point(self) -> Mapping[str, Any]: ...
    @property
    def folder(self) -> Path: ...
    @property
    def score(self) -> float: ...
    @property
    def env_steps(self) -> int: ...
    @property
    def error(self) -> str | None: ...
    @property
    def metrics(self) -> Mapping[str, Any]: ...  # with Tune's `done`


def search_table(metric: str, trials: Sequence[TrialOutcome]) -> RenderableType:
    """Trials as they are given, the best first, and where the best one lies."""
    keys = list(trials[0].point)
    names = _short_names(keys)
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("trial")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column(metric, justify="right", style="bold")
    table.add_column("env steps", justify="right")
    for trial in trials:
        values = ("all" if trial.point[key] is None else str(trial.point[key]) for key in keys)
        score = "broke" if trial.error else number(trial.score)
        table.add_row(trial.folder.name, *values, score, f"{trial.env_steps:,}")
    best = trials[0]
    chosen = " ".join(f"{key}={'null' if value is None else value}" for key, value in best.point.items())
    so_far = "best" if all_ended(trials) else "best so far"
    lines = [
        f"{so_far}: {best.folder.name} ({metric} {number(best.score)}): {chosen}",
        f"its run folder: {best.folder}",
    ]
    broken = [trial for trial in trials if trial.error]
    if broken:
        lines.append(f"{len(broken)} of {len(trials)} trials broke; the first: {broken[0].error}")
    return Group(Text(), table, Text(), *(Text(line, no_wrap=True, overflow="ignore") for line in lines))


def all_ended(trials: Sequence[TrialOutcome]) -> bool:
    """Whether the search came to its end: no trial was under way when it stopped."""
    return all(trial.error or trial.metrics.get("done") for trial in trials)


def _short_names(keys: Sequence[str]) -> list[str]:
    """Last words of dotted keys, as long as they differ: algorithm.ensemble.agents -> agents."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return last if len(set(last)) == len(last) else list(keys)


def first_evaluation(folder: Path) -> Row:
    """`eval/...` and env_steps of the run's first evaluation; empty where there was none."""
    for row in read_rows(folder):
        part = metrics.split_evaluation(row)[-1]
        if metrics.EVAL_RETURN in part:
            return {k: v for k, v in part.items() if k.startswith("eval/") or k == metrics.ENV_STEPS}
    return {}


def _heading(text: str) -> Text:
    return Text(text, style="bold", no_wrap=True, overflow="ignore")


def _shown(keys: Any) -> list[str]:
    found = dict.fromkeys(key for key in keys if key.startswith("eval/") and key not in _NOT_SHOWN)
    return sorted(found, key=lambda key: (key != metrics.EVAL_RETURN, key == metrics.EVAL_LENGTH))
