"""simple_spread: as many agents as landmarks; cover all of them without bumping into each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from phalanx.envs.mpe.physics import Bodies, Doubles
from phalanx.envs.mpe.task import LoadPolicy, MpeSettings, ParticleTask, Scene, consecutive
from phalanx.envs.team import EntityView

AGENT_SIZE, LANDMARK_SIZE = 0.15, 0.05
COVERED = 0.1
"""Distance within which an agent covers a landmark (mpe2's own measure of success)."""


class SimpleSpread(ParticleTask):
    """mpe2's simple_spread_v3 with N agents and N landmarks. Team: everybody.

    An agent sees its velocity 2 and position 2, the landmarks 2 each and the other agents 2 each as seen from itself,
    and 2 zeros for each other agent, where mpe2 has the messages of agents that never send any: 6N numbers (18 for
    N=3), a state of 6N².

    `Step.agent_reward` holds mpe2's rewards. Team reward: their mean over agents, that is (1 - local_ratio) times minus
    the sum over landmarks of the distance to the nearest agent, plus local_ratio times minus the mean number of other
    agents that an agent touches. With `reward=sparse` (not in mpe2) the number of covered landmarks takes the place of
    the distances.
    """

    pays_agents = True

    class Settings(MpeSettings):
        agents: int = Field(default=3, ge=1, description="agents, and as many landmarks")
        local_ratio: float = Field(
            default=0.5, ge=0, le=1, description="weight of the collisions; the landmarks weigh 1 minus it"
        )

    def __init__(self, settings: Settings, num_envs: int, load_policy: LoadPolicy | None = None) -> None:
        n = settings.agents
        self._local_ratio = settings.local_ratio
        bodies = Bodies(
            sizes=(AGENT_SIZE,) * n + (LANDMARK_SIZE,) * n, push=(5.0,) * n, max_speed=(np.inf,) * n, solid=n
        )
        scene = Scene(
            bodies=bodies,
            agent_names=tuple(f"agent_{i}" for i in range(n)),
            team=slice(0, n),
            opponents=slice(n, n),
            kinds=("agent",) * n,
            roles=("agent",) * n + ("landmark",) * n,
            n_extra=1,  # always zero: the silence of the others
        )
        super().__init__(settings, num_envs, scene, load_policy)

    def _seen(self, agent: int) -> list[int]:
        world = self.world
        others = [other for other in range(world.n_agents) if other != agent]
        rows = world.vel_rows(agent) + world.pos_rows(agent)
        for body in [*range(world.n_agents, world.n_bodies), *others]:
            rows += world.rel_rows(agent, body)
        return rows + world.extra_rows(0, 0) * len(others)

    def _entities(self) -> EntityView:
        """Landmarks are objects; what an ally does not say goes with its position. No action is aimed."""
        n = self.world.n_agents
        positions, messages = consecutive(4 + 2 * n, n - 1), consecutive(2 + 4 * n, n - 1)
        return EntityView(
            own=(0, 1, 2, 3),
            allies=tuple(here + silence for here, silence in zip(positions, messages, strict=True)),
            objects=consecutive(4, n),
        )

    def _draw(self, rng: np.random.Generator, env: int) -> Doubles:
        return rng.uniform(-1.0, 1.0, (self.world.n_bodies, 2))

    def _score(self) -> tuple[Doubles, dict[str, npt.NDArray[Any]]]:
        world, n = self.world, self.world.n_agents
        nearest = world.dist[n - 1 :].min(axis=1)  # [landmarks, E]
        shared = -nearest.sum(axis=0) if self.settings.reward == "shaped" else (nearest < COVERED).sum(axis=0)
        touched = np.count_nonzero(world.dist[: n - 1] < world.touch[: n - 1], axis=0)  # [agents, E]
        reached = shared * (1 - self._local_ratio)
        self._paid = (reached - touched * self._local_ratio).T.astype(np.float32)
        return reached - touched.sum(axis=0) / n * self._local_ratio, {}
