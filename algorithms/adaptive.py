"""Adaptive DEMAR: α_reg, N_K and N_H adjusted while training. Ours: the paper (arXiv 2502.02018) leaves it open.

DEMAR's pessimism is a matter of tuning: too little, and values run away; too much, and the mixing weights vanish. Both
can be measured while training, so the rule looks every `every_updates` updates, at one batch:

* **gap**, by how much Q_tot promises more than what followed, in units of what followed: (Q − max(R, 0)) / S. Q is
  Q_tot(s_t, u_t), mean over mixers and valid transitions. R and S are means of the discounted rewards that followed in
  the episode, G_t = Σ_k γ^k r_{t+k}, and of their size |G_t|, for an episode that the time limit cut off taken as if it
  had gone on alike: values reach beyond the limit, rewards do not, so a G_t of n steps is only a share 1 − γ^n of what
  Q_tot stands for, and both means are divided by the mean share. (To bootstrap there from the targets would ask those
  for the truth whose exaggeration is in question.) Where rewards are positive, a Q_tot that is x times too large has a
  gap of x − 1, however short the episodes. Values between the truth and 0 count as 0 or less: networks begin near 0
  and come nearer to the truth by a step with each target copy, so above a negative truth that is ignorance, not
  overestimation.
* **sensitivity**, the mean of ∂Q_tot/∂Q_i, with which a target's bias reaches the agents (DEMAR, Theorem 3.1) and
  without which they learn nothing.

All of it is smoothed exponentially, and then:

| gap | subsets N_K, N_H | α_reg |
| --- | --- | --- |
| above `gap_high` | grow by `subset_step` of their ensemble | times `alpha_factor` |
| between | stay | stays |
| below `gap_low` | shrink by `release` of that | divided by `alpha_factor` to the power of `release` |
| any, with a sensitivity below `sensitivity_low` | as above | divided by `alpha_factor` |

Pessimism comes fast and goes slowly: values that run away feed on themselves, and a low gap proves little as long as
values are still on their way to the truth.

α_reg stays within [`alpha_min`, `alpha_max`], subsets between 1 and the whole ensemble. What followed was earned by
older and exploring teams, and an episode that was cut might have become better, so the gap of a good Q_tot is not 0 but
somewhat above: thresholds are meant accordingly. As long as no reward was ever seen there is nothing to measure
against, and nothing is adjusted. Where all returns are negative, pessimism stays as low as its bounds let it, until
values rise above 0.

Nothing here is random or looks at a clock; the state is part of checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from phalanx.algorithms.common.targets import discounted_sums
from phalanx.configs.base import Settings


class AdaptiveSettings(Settings):
    enabled: bool = Field(
        default=False,
        description="adjust α_reg, N_K and N_H while training; regulariser.alpha and ensemble.*_subset are where they"
        " begin (ours, not the paper's)",
    )
    every_updates: int = Field(default=20, ge=1, description="updates between measurements; each is of one batch")
    smoothing: float = Field(
        default=0.9, ge=0, lt=1, description="what the measurements before the newest one weigh, together"
    )
    gap_high: float = Field(
        default=0.5,
        description="relative overestimation (Q_tot against the returns that followed) above which pessimism grows",
    )
    gap_low: float = Field(default=0.1, description="relative overestimation below which pessimism shrinks")
    sensitivity_low: float = Field(
        default=0.05, ge=0, description="mean ∂Q_tot/∂Q_i below which α_reg falls, whatever the overestimation"
    )
    alpha_factor: float = Field(default=1.05, gt=1, description="by which α_reg is multiplied or divided at once")
    alpha_min: float = Field(default=5e-4, gt=0, description="least α_reg (the paper's are from 0.001 to 0.05)")
    alpha_max: float = Field(default=0.1, gt=0, description="largest α_reg")
    subset_step: float = Field(
        default=0.02, ge=0, le=1, description="share of an ensemble by which its subset grows or shrinks at once"
    )
    release: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="size of the steps in which pessimism shrinks, beside those in which it grows",
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> AdaptiveSettings:
        for low, high in (("gap_low", "gap_high"), ("alpha_min", "alpha_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"adaptive.{low}={getattr(self, low)} is more than adaptive.{high}={getattr(self, high)}:"
                    " lower the one or raise the other"
                )
        return self


@dataclass(frozen=True)
class AdaptiveState:
    """All that the rule remembers: numbers, so that a checkpoint keeps it as one tensor."""

    alpha: float
    agents: float  # size of the subset, whose whole part beyond one half rounds up; so is `mixers`
    mixers: float
    updates: int = 0
    measurements: int = 0
    promised: float = 0.0  # the rest is smoothed: see Measurement
    followed: float = 0.0
    size: float = 0.0
    sensitivity: float = 0.0  # stays 0 where there are no mixing weights

    @property
    def gap(self) -> float:
        """Relative overestimation; 0 before there was any reward."""
        return (self.promised - max(self.followed, 0.0)) / self.size if self.size > 0 else 0.0

    @property
    def subsets(self) -> tuple[int, int]:
        """N_K and N_H."""
        return math.floor(self.agents + 0.5), math.floor(self.mixers + 0.5)


@dataclass(frozen=True)
class Measurement:
    """What one batch shows (see the module's docstring)."""

    promised: float  # Q
    followed: float  # R
    size: float  # S
    sensitivity: float | None  # mean ∂Q_tot/∂Q_i; None where there are no mixing weights


def adjusted(
    state: AdaptiveState, measured: Measurement, settings: AdaptiveSettings, members: tuple[int, int]
) -> AdaptiveState:
    """The rule (see the module's docstring). `members`: K and H."""
    if not all(math.isfinite(value) for value in astuple(measured) if value is not None):
        return state
    state = _smoothed(state, measured, settings.smoothing)
    if state.size <= 0:
        return state
    step = 1.0 if state.gap > settings.gap_high else -settings.release if state.gap < settings.gap_low else 0.0
    numb = measured.sensitivity is not None and state.sensitivity < settings.sensitivity_low
    alpha = state.alpha * settings.alpha_factor ** (-1.0 if numb else step)
    agents, mixers = (
        min(max(size + step * settings.subset_step * count, 1.0), float(count))
        for size, count in zip((state.agents, state.mixers), members, strict=True)
    )
    return replace(state, alpha=min(max(alpha, settings.alpha_min), settings.alpha_max), agents=agents, mixers=mixers)


def _smoothed(state: AdaptiveState, measured: Measurement, smoothing: float) -> AdaptiveState:
    # Divided by what all weights add up to, so that the first measurements count in full (as in Adam).
    count = state.measurements + 1
    new = (1 - smoothing) / (1 - smoothing**count)

    def mean(before: float, now: float) -> float:
        return before + new * (now - before)

    return replace(
        state,
        measurements=count,
        promised=mean(state.promised, measured.promised),
        followed=mean(state.followed, measured.followed),
        size=mean(state.size, measured.size),
        sensitivity=mean(state.sensitivity, measured.sensitivity or 0.0),
    )


def measurement(q_tot: Tensor, reward: Tensor, terminated: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Q, R and S of a batch: [3]. q_tot: [H, T, B]; reward, terminated, mask: [T, B]."""
    rewards = discounted_sums(reward, mask, gamma)
    share = torch.ones_like(reward)
    if gamma < 1:
        cut = ~(terminated & mask).any(0)
        share = torch.where(cut, (1 - gamma) * discounted_sums(share, mask, gamma), share)
    figures = torch.stack([q_tot.mean(0), rewards, rewards.abs(), share])
    promised, followed, size, seen = figures.masked_fill(~mask, 0.0).sum((-2, -1)) / mask.sum()
    return torch.stack([promised, followed / seen, size / seen])


class Adaptation(nn.Module):
    """Keeps the rule's state for a learner, as part of its `state_dict`. It has no parameters."""

    def __init__(
        self, settings: AdaptiveSettings, alpha: float, subsets: tuple[int, int], members: tuple[int, int]
    ) -> None:
        super().__init__()
        self.settings, self.members = settings, members
        alpha = min(max(alpha, settings.alpha_min), settings.alpha_max)
        self.state = AdaptiveState(alpha, float(subsets[0]), float(subsets[1]))
        self._measured: tuple[Tensor, Tensor | None] | None = None

    def wants_measurement(self) -> bool:
        """Whether the update under way is one to measure."""
        return self.adjusts(self.state.updates + 1)

    def measure(self, figures: Tensor, sensitivity: Tensor | None) -> None:
        """Takes what the update under way shows: `measurement`, and the mean ∂Q_tot/∂Q_i."""
        self._measured = figures, sensitivity

    def adjusts(self, updates: int) -> bool:
        """Whether α_reg and the subsets may change after update number `updates`."""
        return updates % self.settings.every_updates == 0

    def after_update(self, updates: int) -> None:
        """Counts update number `updates` and adjusts when it is time. The only read from the device."""
        if self.adjusts(updates) and self._measured is not None:
            figures, sensitivity = self._measured
            promised, followed, size = figures.tolist()
            measured = Measurement(promised, followed, size, None if sensitivity is None else float(sensitivity))
            self.state = adjusted(self.state, measured, self.settings, self.members)
        self.state = replace(self.state, updates=updates)
        self._measured = None

    def metrics(self, device: torch.device) -> dict[str, Tensor]:
        """α_reg, both subsets and the smoothed gap, as they are now."""
        agents, mixers = self.state.subsets
        values = {
            "alpha_reg": self.state.alpha,
            "agents_subset": agents,
            "mixers_subset": mixers,
            "adaptive_gap": self.state.gap,
        }
        return {name: torch.full((), float(value), device=device) for name, value in values.items()}

    def get_extra_state(self) -> Tensor:
        return torch.tensor(astuple(self.state), dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        alpha, agents, mixers, updates, measurements, *smoothed = state.tolist()
        self.state = AdaptiveState(alpha, agents, mixers, int(updates), int(measurements), *smoothed)
