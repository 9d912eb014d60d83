"""Stag hunt with two groups of unequal agents: hunters, who catch, and beaters, who hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from phalanx.envs.stag_hunt import ACTIONS, CATCH, CHANNELS, StagHunt, StagHuntSettings
from phalanx.envs.team import Floats, Ints, TeamSpec

BEATERS = 2  # the channel that shows them: the one of the hares, of which there are none


class HeterogeneousSettings(StagHuntSettings):
    """`env.name=stag_hunt_het`."""

    name: Literal["stag_hunt_het"] = Field(  # type: ignore[assignment]
        default="stag_hunt_het", description="stag_hunt_het: hunters must catch while beaters hold"
    )
    agents: int = Field(default=8, ge=2, description="hunters and beaters together")
    beaters: int = Field(default=4, ge=1, description="how many of `agents` are beaters; the others are hunters")
    catchers: int = Field(default=1, ge=1, le=4, description="hunters that must catch the same stag in the same step")
    holders: int = Field(
        default=1, ge=0, le=3, description="beaters that must stand beside a stag that is caught; 0: they only block"
    )
    beater_view: int = Field(default=3, ge=1, description="cells that a beater sees in each direction; hunters: `view`")

    @model_validator(mode="after")
    def _both_groups_do_something(self) -> HeterogeneousSettings:
        if self.beaters >= self.agents:
            raise ValueError(
                f"env.beaters={self.beaters} of env.agents={self.agents} leaves no hunter: raise env.agents or lower"
                " env.beaters"
            )
        if self.catchers + self.holders > 4:
            raise ValueError(
                f"env.catchers={self.catchers} and env.holders={self.holders} do not fit around a stag, which has 4"
                " neighbour cells: lower one of them"
            )
        there = {"hunters": self.agents - self.beaters, "beaters": self.beaters}
        for key, needed, group in (("catchers", self.catchers, "hunters"), ("holders", self.holders, "beaters")):
            if there[group] < needed:
                raise ValueError(
                    f"env.{key}={needed}, but of env.agents={self.agents} only {there[group]} are {group}, so no stag"
                    f" could ever be caught: add {group} or lower env.{key}"
                )
        return self


class HeterogeneousStagHunt(StagHunt):
    """The stag hunt with two groups; what is not said here is as in `StagHunt`. A variant of this project.

    The last `beaters` of the `agents` are beaters, the first ones hunters. A beater moves and blocks cells as anybody,
    but has no `catch` (5 actions instead of 6), sees `beater_view` cells far instead of `view`, and is never frozen.
    In its turn a stag is captured if `catchers` or more adjacent hunters chose `catch` and `holders` or more beaters
    stand beside it (whatever they did); if some hunter chose `catch` but that does not hold, the team is punished.
    Only the hunters that caught are frozen. The episode ends (terminated) when all stags are captured or all hunters
    frozen: with 4 hunters, 4 beaters and 8 stags the best return is 40, as in the game of 8 equal hunters.

    Channels of observations and state: hunters, stags, beaters. Groups: hunter, beater.
    """

    Settings = HeterogeneousSettings
    _settings: HeterogeneousSettings

    def _make_spec(self, settings: HeterogeneousSettings) -> TeamSpec:
        beaters, hunters = settings.beaters, settings.agents - settings.beaters
        sizes = [CHANNELS * (2 * view + 1) ** 2 for view in (settings.view, settings.beater_view)]
        return replace(
            super()._make_spec(settings),
            env_name="stag_hunt_het",
            obs_dim=max(sizes),
            agent_names=(*(f"hunter_{i}" for i in range(hunters)), *(f"beater_{i}" for i in range(beaters))),
            obs_dims=(sizes[0],) * hunters + (sizes[1],) * beaters,
            action_dims=(ACTIONS,) * hunters + (CATCH,) * beaters,
            group_ids=(0,) * hunters + (1,) * beaters,
            group_names=("hunter", "beater"),
        )

    def _layout(self) -> None:
        super()._layout()
        self._hunters = self._settings.agents - self._settings.beaters
        self._wide_window = self._square(self._settings.beater_view)

    def _farthest(self) -> int:
        return max(self._settings.view, self._settings.beater_view)

    def _needed(self, around: Ints) -> Ints:
        holding = np.zeros(self._blocked.size, np.int8)
        holding[self._agents[self._hunters :]] = 1
        held = holding.take(around).sum(axis=1) >= self._settings.holders
        return np.where(held, self._settings.catchers, 5)  # 5: more than there are cells around a stag

    def _mark(self, maps: Floats) -> None:
        super()._mark(maps)
        beaters = self._agents[self._hunters :]
        maps[beaters, 0], maps[beaters, BEATERS] = 0, 1

    def _look(self, maps: Floats, agents: Ints) -> Floats:
        obs = np.zeros((*agents.shape, self.spec.obs_dim), np.float32)
        views: tuple[tuple[slice, Any], ...] = (
            (slice(None, self._hunters), self._window),
            (slice(self._hunters, None), self._wide_window),
        )
        for who, window in views:
            seen = maps.take(agents[:, who, None] + window, axis=0, mode="clip")
            obs[:, who, : CHANNELS * window.size] = seen.reshape(self.num_envs, -1, CHANNELS * window.size)
        return obs
