"""Failure signatures of value-based learning, seen in report rows: what went wrong, under a name, and what to change.

A signature is told once it has held in several reports in a row, and again only after it was gone for as many. Until
then, and while the networks have hardly learned, nothing is said: what freshly drawn networks say means nothing.
All thresholds are in `Thresholds`; docs/diagnostics.md says where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from phalanx.cluster import metrics
from phalanx.configs.settings import RunSettings

Q_EXPLOSION = "q_explosion"
COLLAPSED_COORDINATION = "collapsed_coordination"
VOLATILE_MINIMUM = "volatile_minimum"
SIGNATURES = (Q_EXPLOSION, COLLAPSED_COORDINATION, VOLATILE_MINIMUM)

_TOLD = ("q_start_mean", "mc_return_mean", "dqtot_dqi_mean", "target_spread", "td_error_abs_mean")


@dataclass(frozen=True)
class Thresholds:
    """When a report row shows a signature."""

    explosion_scales: float = 5.0  # overestimation, in units of the largest return_scale so far: truth stays within 2
    explosion_growth: float = 3.0  # ... and this many times the first report's, which is of hardly trained networks
    collapsed_slope: float = 0.01  # dqtot_dqi_p90: nine in ten samples say less than this of an agent's value
    volatile_spread: float = 2.0  # target_spread, in units of the mean TD error
    reports: int = 3  # in a row, to begin and to end
    min_updates: int = 1000  # nothing is said before
    min_target_copies: int = 2  # nor before: the first target networks are not trained at all


@dataclass
class Watch:
    """Looks at the rows of one run, in order."""

    run: RunSettings
    thresholds: Thresholds = Thresholds()
    present: set[str] = field(default_factory=set)  # signatures that hold now
    _against: dict[str, int] = field(default_factory=dict)  # reports in a row that say otherwise than `present`
    _scale: float = 0.0
    _first_gap: float = math.nan

    def look(self, row: Mapping[str, float | int]) -> tuple[dict[str, int], list[str]]:
        """Takes the next row in. Returns `warning/<name>` 1 or 0 for each signature that the run's figures can show,
        and a sentence for each that begins with this row."""
        shown = self._shown(row)
        begun = []
        for name, holds in shown.items():
            if holds == (name in self.present):
                self._against[name] = 0
                continue
            self._against[name] = self._against.get(name, 0) + 1
            if self._against[name] < self.thresholds.reports:
                continue
            self._against[name] = 0
            if holds:
                self.present.add(name)
                begun.append(sentence(name, row, self.run))
            else:
                self.present.remove(name)
        return {f"{metrics.WARNING}/{name}": int(name in self.present) for name in shown}, begun

    def catch_up(self, rows: Iterable[Mapping[str, float | int]]) -> Watch:
        """Goes through rows that were reported before, without a word."""
        for row in rows:
            self.look(row)
        return self

    def _shown(self, row: Mapping[str, float | int]) -> dict[str, bool]:
        """What this row says, growth included."""
        gap = float(row.get("train/overestimation", math.nan))
        scale = float(row.get("train/return_scale", 0.0))
        self._scale = max(self._scale, scale if math.isfinite(scale) else 0.0)
        if math.isnan(self._first_gap):
            self._first_gap = gap
        shown = signatures(row, self.thresholds, scale=self._scale)
        if Q_EXPLOSION in shown:
            shown[Q_EXPLOSION] &= not gap <= self.thresholds.explosion_growth * abs(self._first_gap)
        if not has_learned(self.run, int(row.get(metrics.UPDATES, 0)), self.thresholds):
            return dict.fromkeys(shown, False)
        return shown


def has_learned(run: RunSettings, updates: int, thresholds: Thresholds = Thresholds()) -> bool:
    """Whether the networks have seen enough updates for their figures to mean something."""
    copies = getattr(run.algorithm, "target_update", "hard") == "hard"
    between = int(getattr(run.algorithm, "target_update_updates", 0)) if copies else 0
    return updates >= max(thresholds.min_updates, thresholds.min_target_copies * between)


def signatures(
    row: Mapping[str, float | int], thresholds: Thresholds = Thresholds(), scale: float | None = None
) -> dict[str, bool]:
    """Which signatures the figures `train/...` of one row show by themselves; those that the row knows nothing about
    are missing. `scale`: of returns, where more is known than the row's own `train/return_scale`."""

    def value(name: str) -> float:
        return float(row.get(f"train/{name}", math.nan))

    shown = {}
    gap, scale = value("overestimation"), value("return_scale") if scale is None else scale
    if "train/overestimation" in row and scale > 0:
        shown[Q_EXPLOSION] = not gap <= thresholds.explosion_scales * scale  # also where it is no number any more
    if "train/dqtot_dqi_p90" in row:
        shown[COLLAPSED_COORDINATION] = value("dqtot_dqi_p90") < thresholds.collapsed_slope
    if "train/target_spread" in row and "train/td_error_abs_mean" in row:
        shown[VOLATILE_MINIMUM] = value("target_spread") > thresholds.volatile_spread * value("td_error_abs_mean")
    return shown


def sentence(name: str, row: Mapping[str, float | int], run: RunSettings) -> str:
    """What the signature means in this row, and which settings to change."""
    figures = {key: f"{float(row.get(f'train/{key}', math.nan)):.3g}" for key in _TOLD}
    tell = {Q_EXPLOSION: _explosion, COLLAPSED_COORDINATION: _collapse, VOLATILE_MINIMUM: _volatility}[name]
    return f"{name}: {tell(figures, run.algorithm, 'train/mixing_w1' in row)}"


def _explosion(figures: Mapping[str, str], algorithm: Any, mixes: bool) -> str:
    seen = (
        f"values run away: at the start of episodes Q_tot is {figures['q_start_mean']}, the return that followed"
        f" {figures['mc_return_mean']}"
    )
    ensemble = algorithm.ensemble
    if not mixes:
        return f"{seen}; choose a method against overestimation, such as algorithm.name=demar"
    return (
        f"{seen}; raise {_alpha(algorithm)}, or algorithm.ensemble.agents and"
        f" algorithm.ensemble.mixers with their subsets (now {ensemble.agents} and {ensemble.mixers})"
    )


def _collapse(figures: Mapping[str, str], algorithm: Any, mixes: bool) -> str:
    regularised = _adapts(algorithm) or algorithm.regulariser.alpha > 0
    advice = f"lower {_alpha(algorithm)}" if regularised else "they vanished without a regulariser: lower algorithm.lr"
    return f"the agents' values hardly enter Q_tot: ∂Q_tot/∂Q_i is {figures['dqtot_dqi_mean']} on average; {advice}"


def _volatility(figures: Mapping[str, str], algorithm: Any, mixes: bool) -> str:
    ensemble = algorithm.ensemble  # without one there is no spread
    drawn = [
        f"algorithm.ensemble.{kind}_subset (now {getattr(ensemble, f'{kind}_subset')} of {getattr(ensemble, kind)})"
        for kind in ("agents", "mixers")
        if getattr(ensemble, f"{kind}_subset") not in (None, getattr(ensemble, kind)) and not _adapts(algorithm)
    ]
    advice = f"raise {' and '.join(drawn)}, so that less depends on the draw" if drawn else "lower algorithm.lr"
    if mixes:
        advice += f", or raise {_alpha(algorithm)}"
    return (
        f"what the target is the minimum of disagrees by {figures['target_spread']}, with TD errors of"
        f" {figures['td_error_abs_mean']}; {advice}"
    )


def _alpha(algorithm: Any) -> str:
    """The setting of α_reg: with adaptive DEMAR its bound."""
    if _adapts(algorithm):
        return f"algorithm.adaptive.alpha_max (now {algorithm.adaptive.alpha_max:g})"
    return f"algorithm.regulariser.alpha (now {algorithm.regulariser.alpha:g})"


def _adapts(algorithm: Any) -> bool:
    return bool(algorithm.adaptive.enabled)
