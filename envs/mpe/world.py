"""simple_world: simple_tag with food, and forests that hide who is inside."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from phalanx.envs.mpe.hunt import OBSTACLE_SIZE, Hunt
from phalanx.envs.mpe.physics import Doubles
from phalanx.envs.mpe.task import LoadPolicy, OpposedSettings, consecutive
from phalanx.envs.team import Bools, EntityView

FOOD_SIZE, FOREST_SIZE = 0.03, 0.3


class SimpleWorld(Hunt):
    """mpe2's simple_world_comm_v3 with a leader that never speaks, and without the slice where others hear it.

    Team: the predators (leadadversary_0, adversary_0, …), agents 0 to P-1; opponents: the G prey (agent_0, …). Slices
    of what an agent sees (sizes for the default 4 predators, 2 prey, 1 obstacle, 2 food, 2 forests):

        predator (30): own velocity 2 · own position 2 · obstacles, food, forests 10 · other agents 10 ·
                       velocities of the prey 4 · inside forest 2          (mpe2 goes on with the leader's message 4)
        prey (28):     own velocity 2 · own position 2 · obstacles, food, forests 10 · other agents 10 ·
                       inside forest 2 · velocities of the other prey 2    (as in mpe2)

    State: all of them one after the other, 4 · 30 + 2 · 28 = 176. Positions are as seen from the agent; "inside forest"
    is 1 or -1 for each forest. An agent sees another (its position and velocity; zeros otherwise) where both are in the
    same forest or neither is in any; the leader, agent 0, sees everybody.

    Team reward: 5 for each contact, see `Hunt`. The shaping is summed over predators; in mpe2 every predator has its
    own share only.
    """

    contact_reward = 5.0
    leaving_cost = 2.0

    class Settings(OpposedSettings):
        predators: int = Field(default=4, ge=1, description="predators: the team; the first one is the leader")
        prey: int = Field(default=2, ge=1, description="prey: the opponents")
        obstacles: int = Field(default=1, ge=0, description="round obstacles that nobody can pass")
        food: int = Field(default=2, ge=0, description="pieces of food, which the prey may like")
        forests: int = Field(default=2, ge=0, description="forests that hide who is inside")

    def __init__(self, settings: Settings, num_envs: int, load_policy: LoadPolicy | None = None) -> None:
        p, g, f = settings.predators, settings.prey, settings.forests
        self._n_obstacles, self._n_food, self._n_forests = settings.obstacles, settings.food, f
        a = p + g
        # extra rows: others' positions as shown [A-1, 2, A], prey's velocities as shown [G, 2, A], inside forest [f, A]
        self._shapes = ((a - 1, 2, a), (g, 2, a), (f, a))
        super().__init__(
            settings,
            num_envs,
            predators=("leadadversary_0", *(f"adversary_{i}" for i in range(p - 1))),
            prey=g,
            prey_size=0.045,
            landmark_sizes=(OBSTACLE_SIZE,) * settings.obstacles + (FOOD_SIZE,) * settings.food + (FOREST_SIZE,) * f,
            landmark_roles=("obstacle",) * settings.obstacles + ("food",) * settings.food + ("forest",) * f,
            n_extra=sum(int(np.prod(shape)) for shape in self._shapes),
            load_policy=load_policy,
        )
        extra = np.split(self.world.extra, np.cumsum([np.prod(shape) for shape in self._shapes[:-1]]))
        self._shown_rel, self._shown_vel, self._inside = (
            rows.reshape(*shape, num_envs) for rows, shape in zip(extra, self._shapes, strict=True)
        )

    def _seen(self, agent: int) -> list[int]:
        world, p, a = self.world, self.n_predators, self.world.n_agents
        numbers = np.split(np.arange(len(world.extra)), np.cumsum([np.prod(shape) for shape in self._shapes[:-1]]))
        rel, vel, inside = (n.reshape(shape)[..., agent] for n, shape in zip(numbers, self._shapes, strict=True))
        rows = world.vel_rows(agent) + world.pos_rows(agent)
        for body in range(a, world.n_bodies):
            rows += world.rel_rows(agent, body)
        rows += world.extra_rows(*rel.ravel())
        velocities = world.extra_rows(*(row for g in range(self.n_prey) if p + g != agent for row in vel[g]))
        forest = world.extra_rows(*inside)
        return rows + (velocities + forest if agent < p else forest + velocities)

    def _entities(self) -> EntityView:
        """Of a predator: the prey, with their velocities, are enemies; obstacles, food and forests are objects, which
        constants tell apart (one for each kind, in this order). In which forests it is, the predator knows of itself.
        No action is aimed."""
        counts = (self._n_obstacles, self._n_food, self._n_forests)
        objects, allies, prey = sum(counts), self.n_predators - 1, self.n_prey
        others = 4 + 2 * objects
        positions = consecutive(others + 2 * allies, prey)
        velocities = consecutive(others + 2 * (allies + prey), prey)
        inside = others + 2 * allies + 4 * prey
        kinds = [k for k, count in enumerate(counts) for _ in range(count)]
        return EntityView(
            own=(0, 1, 2, 3, *range(inside, inside + self._n_forests)),
            allies=consecutive(others, allies),
            enemies=tuple(here + moving for here, moving in zip(positions, velocities, strict=True)),
            objects=consecutive(4, objects),
            object_marks=tuple(tuple(float(kind == each) for each in range(len(counts))) for kind in kinds),
        )

    def _draw(self, rng: np.random.Generator, env: int) -> Doubles:
        agents = rng.uniform(-1.0, 1.0, (self.world.n_agents, 2))
        drawn = rng.uniform(-0.9, 0.9, (self.world.n_bodies - self.world.n_agents, 2))
        # mpe2 draws food and forests twice and keeps the second draw.
        again = rng.uniform(-0.9, 0.9, (self._n_food + self._n_forests, 2))
        return np.concatenate([agents, drawn[: self._n_obstacles], again])

    def _score_opponents(self) -> Doubles:
        """As of every hunt, with 2 for each piece of food that a prey touches and, with `reward=shaped`, minus 0.05
        times its distance to the nearest one (in mpe2 distances to predators do not count)."""
        paid: Doubles = super()._score_opponents()
        if not self._n_food:
            return paid
        p, a = self.n_predators, self.world.n_agents
        food = slice(a - 1 + self._n_obstacles, a - 1 + self._n_obstacles + self._n_food)
        gaps = self.world.dist[food, p:a]  # [food, G, E]
        paid = paid + 2.0 * np.count_nonzero(gaps < self.world.touch[food, p:a], axis=0)
        if self.settings.reward == "shaped":
            paid = paid - 0.05 * gaps.min(axis=0)
        return paid

    def _derive(self) -> None:
        world, p, a = self.world, self.n_predators, self.world.n_agents
        first = world.n_bodies - 1 - self._n_forests
        inside = world.dist[first:] < world.touch[first:]  # [forests, A, E]
        self._inside[:] = np.where(inside, 1.0, -1.0)
        seen = self._visible(inside)  # [A, A, E]: whom each agent sees
        others = world.others[: a - 1]
        self._shown_rel[:] = np.where(seen[others, np.arange(a)][:, None], world.rel[: a - 1], 0.0)
        self._shown_vel[:] = np.where(seen[p:, None], world.vel[:, p:].swapaxes(0, 1)[:, :, None], 0.0)

    def _visible(self, inside: Bools) -> Bools:
        """Whether agent j is seen by agent i, [j, i, E], given inside [forests, A, E]."""
        open_air: Bools = ~np.any(inside, axis=0)
        seen: Bools = open_air[:, None] & open_air[None]
        for forest in inside:
            seen |= forest[:, None] & forest[None]
        seen[:, 0] = True
        return seen
