"""Every setting of a search: type, range, default and meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from phalanx.configs.base import Settings


class AshaSettings(Settings):
    """Asynchronous successive halving: of the trials that reach a rung, the best go on."""

    grace_env_steps: int | None = Field(
        default=None,
        ge=1,
        description="env steps that every trial gets: the first rung; null: max_env_steps / reduction_factor²",
    )
    max_env_steps: int | None = Field(
        default=None, ge=1, description="env steps of the best trials; null: the run's total_env_steps"
    )
    reduction_factor: int = Field(default=3, ge=2, description="one in so many trials goes on at each rung")


class SearchSettings(Settings):
    """A search, complete (see `phalanx.configs.search`)."""

    run: str = Field(description="the run that is varied: a shipped one's name, or a path seen from the search file")
    overrides: dict[str, Any] = Field(
        default={}, description="dotted key: value, laid over the run for all trials (`phalanx tune SEARCH key=value`)"
    )
    parameters: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        description="dotted key: list of values; all combinations are tried. algorithm.ensemble.agents_subset and"
        " mixers_subset may be a fraction of the trial's members (0.5, 1.0) or null, for all of them",
        min_length=1,
    )
    samples: int | None = Field(
        default=None, ge=1, description="try only so many of the combinations, drawn with the run's seed; null: all"
    )
    metric: str = Field(
        default="eval/return_mean", pattern=r"^[a-z_]+/[A-Za-z0-9_]+$", description="what decides which trial is best"
    )
    mode: Literal["max", "min"] = Field(default="max", description="whether the metric should be high or low")
    asha: AshaSettings = Field(default=AshaSettings(), description="when trials are given up")
    max_concurrent: int = Field(default=1, ge=1, description="trials that run at the same time")
