"""Settings of environments that are reached through the Parallel API."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from phalanx.configs.settings import EnvSettings


class ParallelSettings(EnvSettings):
    """What every environment that is reached through the Parallel API understands."""

    max_steps: int | None = Field(  # type: ignore[assignment]
        default=None,
        ge=1,
        description="steps after which an episode is cut off (truncated) where the environment did not end it before;"
        " the environment's own limit (max_cycles, max_steps, …) if not given",
    )
    reward: Literal["mean", "sum", "first"] = Field(
        default="mean",
        description="the team's reward: mean or sum over all its agents (vanished ones count 0), or that of the first"
        " agent still there (right where all are paid the same)",
    )
    state: Literal["auto", "env", "all_obs", "team_obs"] = Field(
        default="auto",
        description="the global state: the environment's state(), the observations of all agents or of the team, one"
        " after the other; auto takes state(), or all_obs where there is none or where it is the same",
    )

    def for_pictures(self) -> EnvSettings:
        """With `render_mode: rgb_array` among the environment's arguments, unless the user has chosen a mode."""
        kwargs = getattr(self, "kwargs", {"render_mode": None})
        if "render_mode" in kwargs:
            return self
        return self.model_copy(update={"kwargs": {**kwargs, "render_mode": "rgb_array"}})


class TwoSidedSettings(ParallelSettings):
    """Where some agents may be left to opponents."""

    team: list[str] | None = Field(
        default=None, description="the agents that learn, by name or pattern (adversary_*); all if not given"
    )
    opponents: str = Field(
        default="random",
        description="who plays the other agents: random, still, scripted (the module's own scripted_policy) or"
        " checkpoint:DIR",
    )
