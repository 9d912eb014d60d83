"""Settings of the value-mixing core: what every method built on it understands."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from phalanx.algorithms.adaptive import AdaptiveSettings
from phalanx.configs.base import Settings
from phalanx.configs.settings import AlgorithmSettings


class EnsembleSettings(Settings):
    agents: int = Field(default=1, ge=1, description="K, agent networks; the team acts on their mean")
    agents_subset: int | None = Field(
        default=None,
        ge=1,
        description="N_K, agent networks drawn for each target, which takes their minimum; null: all",
    )
    mixers: int = Field(default=1, ge=1, description="H, mixing networks")
    mixers_subset: int | None = Field(
        default=None,
        ge=1,
        description="N_H, mixing networks drawn for each target, which takes their minimum; null: all",
    )

    @model_validator(mode="after")
    def _subsets_fit(self) -> EnsembleSettings:
        for kind in ("agents", "mixers"):
            members, subset = getattr(self, kind), getattr(self, f"{kind}_subset")
            if subset is not None and subset > members:
                raise ValueError(
                    f"ensemble.{kind}_subset={subset} is more than the {members} of ensemble.{kind}:"
                    f" draw at most {members}, or null for all of them"
                )
        return self


class RegulariserSettings(Settings):
    alpha: float = Field(
        default=0.0,
        ge=0,
        description="α_reg, weight of the L1 norm of the generated mixing weights (DEMAR section 4.3)",
    )


class ValueMixingSettings(AlgorithmSettings):
    double_q: bool = Field(
        default=True, description="the online networks choose the next action that the target networks value"
    )
    targets: Literal["td0", "n_step", "td_lambda", "peng_lambda"] = Field(
        default="td0",
        description="how far targets look ahead: one step; target_steps; λ-returns that bootstrap from the value of the"
        " joint action taken (td_lambda, on-policy) or of the greedy one (peng_lambda, Peng's Q(λ))",
    )
    target_steps: int = Field(default=3, ge=1, description="n, steps that n_step looks ahead; 1 is td0")
    target_lambda: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="λ of td_lambda and peng_lambda: 0 looks ahead one step, 1 to the end of the episode",
    )
    loss: Literal["squared", "huber"] = Field(
        default="squared", description="what errors cost; huber: large ones no more than in proportion"
    )
    huber_delta: float = Field(
        default=1.0, gt=0, description="size of error up to which huber is squared and beyond which it is linear"
    )
    target_update: Literal["hard", "soft"] = Field(
        default="hard",
        description="hard: the target networks are copies, renewed every target_update_updates; soft: after every"
        " update they come closer by target_tau",
    )
    target_update_updates: int = Field(
        default=200, ge=1, description="learner updates between hard copies to the target networks"
    )
    target_tau: float = Field(
        default=0.005,
        gt=0,
        le=1,
        description="τ, share of the trained networks that a soft update brings into the target networks (Polyak)",
    )
    ensemble: EnsembleSettings = Field(default=EnsembleSettings(), description="how many networks, and the minimum")
    regulariser: RegulariserSettings = Field(default=RegulariserSettings(), description="the hypernet regulariser")
    adaptive: AdaptiveSettings = Field(default=AdaptiveSettings(), description="adaptive DEMAR")
