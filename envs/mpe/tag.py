"""simple_tag: slower predators hunt faster prey among obstacles."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from phalanx.envs.mpe.hunt import OBSTACLE_SIZE, Hunt
from phalanx.envs.mpe.physics import Doubles
from phalanx.envs.mpe.task import LoadPolicy, OpposedSettings, consecutive
from phalanx.envs.team import EntityView


class SimpleTag(Hunt):
    """mpe2's simple_tag_v3. Team: the predators (adversary_0, …); opponents: the prey (agent_0, …).

    An agent sees its velocity 2 and position 2, the obstacles 2 each and all other agents 2 each as seen from itself,
    and the velocities of the (other) prey 2 each: 16 numbers for a predator, 14 for the prey, a state of 62.
    Reward (shared): 10 for each contact, see `Hunt`; mpe2 itself knows only `reward=sparse`.
    """

    contact_reward = 10.0

    class Settings(OpposedSettings):
        predators: int = Field(default=3, ge=1, description="predators: the team")
        prey: int = Field(default=1, ge=1, description="prey: the opponents")
        obstacles: int = Field(default=2, ge=0, description="round obstacles that nobody can pass")

    def __init__(self, settings: Settings, num_envs: int, load_policy: LoadPolicy | None = None) -> None:
        self._n_obstacles = settings.obstacles
        super().__init__(
            settings,
            num_envs,
            predators=tuple(f"adversary_{i}" for i in range(settings.predators)),
            prey=settings.prey,
            prey_size=0.05,
            landmark_sizes=(OBSTACLE_SIZE,) * settings.obstacles,
            landmark_roles=("obstacle",) * settings.obstacles,
            load_policy=load_policy,
        )

    def _seen(self, agent: int) -> list[int]:
        world = self.world
        rows = world.vel_rows(agent) + world.pos_rows(agent)
        for body in [*range(world.n_agents, world.n_bodies), *range(world.n_agents)]:
            if body != agent:
                rows += world.rel_rows(agent, body)
        for prey in range(self.n_predators, world.n_agents):
            if prey != agent:
                rows += world.vel_rows(prey)
        return rows

    def _entities(self) -> EntityView:
        """Of a predator: the prey, with their velocities, are enemies, the obstacles objects. No action is aimed."""
        obstacles, allies, prey = self._n_obstacles, self.n_predators - 1, self.n_prey
        positions = consecutive(4 + 2 * (obstacles + allies), prey)
        velocities = consecutive(4 + 2 * (obstacles + allies + prey), prey)
        return EntityView(
            own=(0, 1, 2, 3),
            allies=consecutive(4 + 2 * obstacles, allies),
            enemies=tuple(here + moving for here, moving in zip(positions, velocities, strict=True)),
            objects=consecutive(4, obstacles),
        )

    def _draw(self, rng: np.random.Generator, env: int) -> Doubles:
        agents = rng.uniform(-1.0, 1.0, (self.world.n_agents, 2))
        return np.concatenate([agents, rng.uniform(-0.9, 0.9, (self._n_obstacles, 2))])
