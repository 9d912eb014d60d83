"""SMAX: battles like StarCraft's micromanagement, simulated by JaxMARL (arXiv 2311.10090). Needs the extra `smax`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from phalanx.configs.settings import EnvSettings
from phalanx.envs.seeding import ahead
from phalanx.envs.smax_scenarios import (
    Scenario,
    listed_scenario,
    named_scenario,
    outcome,
    scaled,
    state_scales,
    team_spec,
)
from phalanx.envs.smax_simulator import Rules, Simulator, Words, versions
from phalanx.envs.team import Obs, Step, TeamEnv, TeamPolicy


class SmaxSettings(EnvSettings):
    """`env.name=smax`."""

    name: Literal["smax"] = Field(default="smax", description="smax: battles against a heuristic, simulated by JaxMARL")
    scenario: str | dict[str, Any] = Field(
        default="3m",
        description="a scenario of the simulator (3m, 2s3z, 3s5z, smacv2_10_units, …), or units of both sides:"
        " {allies: {stalker: 3, zealot: 5}, enemies: {marine: 8}}; there are marine, marauder, stalker, zealot,"
        " zergling, hydralisk",
    )
    max_steps: int | None = Field(  # type: ignore[assignment]
        default=None,
        ge=1,
        description="steps after which a battle is cut off (truncated); if not given, the limit of SMAC's map of that"
        " name, 200 for smacv2_*, 150 for units of one's own",
    )
    reward: Literal["smax", "smac"] = Field(
        default="smax",
        description="scale of the reward: smax (the simulator's: a won battle returns 2, half of it for the enemies'"
        " health, half for the victory) or smac (ten times as much: 20, as in SMAC)",
    )
    state: Literal["scaled", "raw"] = Field(
        default="scaled",
        description="scaled: places and types in the state lie between 0 and 1, as everything else in it; raw: as the"
        " simulator has them, up to 32 and 5, with which mixers learn badly",
    )
    enemy_attack: Literal["closest", "random"] = Field(
        default="closest", description="whom an enemy shoots at among those in range, until they are dead or gone"
    )
    enemy_shoots: bool = Field(default=True, description="false: enemies walk, but never shoot")
    see_enemy_actions: bool = Field(
        default=True, description="agents see how enemies that are in sight moved and whom they shot at"
    )
    walls_kill: bool = Field(
        default=True, description="units that touch the edge of the map die (enemies' deaths are paid for, too)"
    )

    @model_validator(mode="after")
    def _scenario_exists(self) -> SmaxSettings:
        self.resolved()
        return self

    def resolved(self) -> Scenario:
        """The scenario that is meant."""
        if isinstance(self.scenario, str):
            return named_scenario(self.scenario)
        return listed_scenario(self.scenario)

    def rules(self) -> Rules:
        """What the simulator is built for."""
        return Rules(
            scenario=self.resolved(),
            enemy_attack=self.enemy_attack,
            enemy_shoots=self.enemy_shoots,
            see_enemy_actions=self.see_enemy_actions,
            walls_kill=self.walls_kill,
        )


class Smax(TeamEnv):
    """The allies of a battle as a team: they move (up, right, down, left), stop, or attack an enemy in range.

    The dead may only stop. `Step.info`: win, dead_allies and dead_enemies (who died in this step).
    """

    Settings = SmaxSettings

    def __init__(
        self, settings: SmaxSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        scenario = settings.resolved()
        self._simulator = Simulator(settings.rules(), num_envs)
        self._layout = self._simulator.layout
        self.spec = team_spec(scenario, settings.max_steps or scenario.limit, versions())
        self.num_envs = num_envs
        self._scale = settings.reward
        self._state_scales = state_scales(scenario) if settings.state == "scaled" else None
        self._sizes = (scenario.n_allies, scenario.n_enemies)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._living = np.zeros((num_envs, 2), np.int64)  # allies, enemies
        self._seeds: Sequence[Iterator[int]] = ()

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        if len(seeds) != self.num_envs:
            raise ValueError(f"got {len(seeds)} seed sequences for {self.num_envs} environments")
        self._seeds = seeds
        self._simulator.forget()
        return self._seen(self._begin(np.arange(self.num_envs)))

    def step(self, actions: npt.NDArray[Any]) -> Step:
        rows = self._simulator.step(actions)
        self._elapsed += 1
        reward = scaled(self._layout.reward(rows), self._scale)
        living = self._layout.living(rows)
        what = outcome(self._living, living, self._elapsed, self.spec.episode_limit)
        self._living = living
        ended = np.flatnonzero(what.terminated | what.truncated)
        final = None
        if len(ended):
            final = self._seen(rows[ended])
            self._draw_last(ended)
            rows = self._begin(ended)
        return Step(
            next=self._seen(rows),
            reward=reward,
            terminated=what.terminated,
            truncated=what.truncated,
            final=final,
            info={"win": what.win, "dead_allies": what.dead_allies, "dead_enemies": what.dead_enemies},
        )

    def render(self, index: int) -> npt.NDArray[np.uint8]:
        """The battle from above."""
        from phalanx.envs.drawing_battle import draw_battle
        from phalanx.envs.smax_units import units_of

        return draw_battle(units_of(self._simulator.units(), index, self.spec.n_agents))

    def _begin(self, places: npt.NDArray[np.int64]) -> Words:
        self._elapsed[places] = 0
        self._living[places] = self._sizes
        return self._simulator.begin(places, [next(self._seeds[e]) for e in places], self._coming)

    def _seen(self, rows: Words) -> Obs:
        seen = self._layout.read(rows)
        if self._state_scales is not None:
            seen.state *= self._state_scales
        return seen

    def _coming(self) -> list[int]:
        """The seeds of all environments' next episodes, where they can be known before they are taken."""
        return [seed for seed in map(ahead, self._seeds) if seed is not None]
