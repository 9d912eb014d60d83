"""What the learner's figures were in the course of runs: one picture of small panels, warnings shaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phalanx.cluster.metrics import WARNING
from phalanx.cluster.plot import COLOURS, Curves, grouped, line_of, read_curves, save, title_of
from phalanx.cluster.signatures import COLLAPSED_COORDINATION, Q_EXPLOSION, VOLATILE_MINIMUM
from phalanx.configs.errors import UserError

_DASHES = ("-", "--", ":", "-.")
_COLUMNS = 3
_SHADE = "#FFE3D3"


@dataclass(frozen=True)
class Panel:
    """Lines of one colour for each group of runs: `keys` (with what the legend calls them, where there are several)
    and a band between two more. Shaded where `warning` held."""

    title: str
    keys: dict[str, str]
    band: tuple[str, str] | None = None
    log: bool = False
    warning: str | None = None
    share: bool = False  # from 0 to 1


PANELS = (
    Panel(
        "value at the start of episodes",
        {"q_start_mean": "Q_tot", "mc_return_mean": "return that followed"},
        warning=Q_EXPLOSION,
    ),
    Panel("overestimation / scale of returns", {"overestimation_relative": ""}, warning=Q_EXPLOSION),
    Panel("TD error (median, 10% to 90%)", {"td_error_p50": ""}, ("td_error_p10", "td_error_p90")),
    Panel(
        "∂Q_tot/∂Q_i (median, 10% to 90%)",
        {"dqtot_dqi_p50": ""},
        ("dqtot_dqi_p10", "dqtot_dqi_p90"),
        warning=COLLAPSED_COORDINATION,
    ),
    Panel("Σ (∂Q_tot/∂Q_i)²", {"bias_gain_mean": ""}, log=True),
    Panel(
        "L1 norms of what hypernetworks generate",
        {"mixing_w1": "W1", "mixing_w2": "w2", "mixing_b1": "b1", "mixing_v": "V"},
        log=True,
        warning=COLLAPSED_COORDINATION,
    ),
    Panel("spread over mixers", {"mixers_spread": ""}),
    Panel("spread over agent networks", {"agents_spread": ""}),
    Panel(
        "spread of the target's members",
        {"target_spread": "spread", "td_error_abs_mean": "mean size of TD errors"},
        warning=VOLATILE_MINIMUM,
    ),
    Panel("agreement of agent networks", {"argmax_agreement": ""}, share=True),
    Panel("diversity of the team (SND)", {"snd": ""}, share=True),
    Panel("dead units", {"dead_units": ""}, share=True),
)


def plot_diagnostics(folders: Sequence[Path], out: Path) -> list[str]:
    """Draws the learner's figures in the runs `folders` into the picture `out`; the figures that were drawn.

    Figures that no run has (ensembles of one, mixers without weights) get no panel. UserError where there is none.
    """
    runs = [read_curves(folder) for folder in folders]
    known = {key for run in runs for key in run.series}
    panels = [panel for panel in PANELS if _area(next(iter(panel.keys))) in known]
    if not panels:
        names = ", ".join(str(run.path) for run in runs)
        raise UserError(f"no run among {names} has diagnostics: wait for the first report after an update")
    _draw(panels, runs, out)
    return [_area(key) for panel in panels for key in (*panel.keys, *(panel.band or ())) if _area(key) in known]


def warned(run: Curves, name: str) -> list[tuple[float, float]]:
    """Where the warning held, as intervals of env steps: from the report that began it to the one that ended it."""
    at, values = run.series.get(f"{WARNING}/{name}", (np.empty(0), np.empty(0)))
    found: list[tuple[float, float]] = []
    began: float | None = None
    for env_steps, value in zip(at.tolist(), values.tolist(), strict=True):
        if value and began is None:
            began = env_steps
        elif not value and began is not None:
            found.append((began, env_steps))
            began = None
    return found if began is None else [*found, (began, float(at[-1]))]


def _draw(panels: Sequence[Panel], runs: Sequence[Curves], out: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    groups = grouped(runs)
    rows = -(-len(panels) // _COLUMNS)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.0 * _COLUMNS, 2.5 * rows + 0.5), layout="constrained")
        axes = list(figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).flat)
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel, groups)
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.tick_params(labelbottom=True)
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.suptitle(title_of(runs), fontsize=12, x=0.01, ha="left")
        if len(groups) > 1:
            handles = [Line2D([], [], color=_colour(i), label=name) for i, (name, _) in enumerate(groups)]
            figure.legend(handles=handles, loc="outside upper right", ncols=min(4, len(groups)))
        shaded = any(warned(run, panel.warning) for run in runs for panel in panels if panel.warning)
        note = "env steps; shaded: a warning held" if shaded else "env steps"
        figure.supxlabel(note, fontsize=8.5, color="#666666", x=0.995, ha="right")
        save(figure, out)


def _draw_panel(axis: Any, panel: Panel, groups: Sequence[tuple[str, Sequence[Curves]]]) -> None:
    from matplotlib.lines import Line2D

    for index, (name, members) in enumerate(groups):
        lines = {
            key: line_of(name, having, _area(key))
            for key in (*panel.keys, *(panel.band or ()))
            if (having := [run for run in members if _area(key) in run.series])
        }
        for key, dash in zip(panel.keys, _DASHES, strict=False):
            if key in lines:
                axis.plot(lines[key].env_steps, lines[key].middle, dash, color=_colour(index), lw=1.5)
        if panel.band is not None and set(panel.band) <= set(lines):
            low, high = (lines[key] for key in panel.band)
            axis.fill_between(low.env_steps, low.middle, high.middle, color=_colour(index), alpha=0.18, lw=0)
        for run in members if panel.warning else ():
            for begin, end in warned(run, str(panel.warning)):
                axis.axvspan(begin, end, color=_SHADE, lw=0, zorder=0)
    if panel.warning and any(warned(run, panel.warning) for _, members in groups for run in members):
        paper = {"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1.5}
        axis.text(
            0.98, 0.96, panel.warning, transform=axis.transAxes, ha="right", va="top", color=COLOURS[1], bbox=paper
        )
    if len(panel.keys) > 1:
        pairs = zip(panel.keys.values(), _DASHES, strict=False)
        axis.legend(
            handles=[Line2D([], [], color="#444444", ls=dash, lw=1.2, label=name) for name, dash in pairs],
            fontsize=7.5,
            ncols=2 if len(panel.keys) > 2 else 1,
        )
    axis.set_title(panel.title, fontsize=9.5, loc="left")
    axis.grid(axis="y", color="#e5e5e5", lw=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0.02)
    if panel.log:
        axis.set_yscale("log")
    if panel.share:
        axis.set_ylim(-0.03, 1.03)


def _area(figure: str) -> str:
    return f"train/{figure}"


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
