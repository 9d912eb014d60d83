"""simple_adversary (physical deception): reach the goal without showing the adversary which landmark it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from phalanx.envs.mpe.physics import Bodies, Doubles
from phalanx.envs.mpe.task import LoadPolicy, OpposedSettings, ParticleTask, Scene, consecutive
from phalanx.envs.team import EntityView

AGENT_SIZE, LANDMARK_SIZE = 0.15, 0.08
PRIZE = 5.0


class SimpleAdversary(ParticleTask):
    """mpe2's simple_adversary_v3 with N good agents and N landmarks, one of which is the goal; nothing collides.

    Team: the good agents (agent_0, …), agents 1 to N; opponent: adversary_0, agent 0. A good agent sees the goal 2, the
    landmarks 2 each and the other agents 2 each, all as seen from itself (10 numbers for N=2); the adversary sees the
    same without the goal (8); the state has 28.

    Team reward (shared): the adversary's distance to the goal minus that of the nearest good agent. With
    `reward=sparse` (not in mpe2): +5 while a good agent is within two landmark radii of the goal, -5 while the
    adversary is.
    """

    class Settings(OpposedSettings):
        good_agents: int = Field(default=2, ge=1, description="good agents (the team), and as many landmarks")

    def __init__(self, settings: Settings, num_envs: int, load_policy: LoadPolicy | None = None) -> None:
        n = settings.good_agents
        self._goal = np.zeros(num_envs, dtype=np.int64)
        self._envs = np.arange(num_envs)
        bodies = Bodies(
            sizes=(AGENT_SIZE,) * (n + 1) + (LANDMARK_SIZE,) * n,
            push=(5.0,) * (n + 1),
            max_speed=(np.inf,) * (n + 1),
            solid=0,
        )
        scene = Scene(
            bodies=bodies,
            agent_names=("adversary_0", *(f"agent_{i}" for i in range(n))),
            team=slice(1, n + 1),
            opponents=slice(0, 1),
            kinds=("agent",) * n,
            roles=("adversary",) + ("agent",) * n + ("landmark",) * n,
            n_extra=2 * (n + 1),  # the goal as each agent would see it, [2, agents]
        )
        super().__init__(settings, num_envs, scene, load_policy)

    def _seen(self, agent: int) -> list[int]:
        world, a = self.world, self.world.n_agents
        rows = world.extra_rows(agent, a + agent) if agent > 0 else []
        for body in [*range(a, world.n_bodies), *range(a)]:
            if body != agent:
                rows += world.rel_rows(agent, body)
        return rows

    def _entities(self) -> EntityView:
        """Of a good agent: the landmarks are objects, the adversary is an enemy. Which landmark is the goal, the agent
        knows of itself: where it is. No action is aimed."""
        n = self.world.n_agents - 1  # good agents, and landmarks
        return EntityView(
            own=(0, 1),
            allies=consecutive(4 + 2 * n, n - 1),
            enemies=consecutive(2 + 2 * n, 1),
            objects=consecutive(2, n),
        )

    def _draw(self, rng: np.random.Generator, env: int) -> Doubles:
        self._goal[env] = rng.integers(self.world.n_bodies - self.world.n_agents)
        return rng.uniform(-1.0, 1.0, (self.world.n_bodies, 2))

    def _derive(self) -> None:
        a = self.world.n_agents
        goal = self.world.rel[a - 1 + self._goal, :, :, self._envs]  # [E, 2, A]
        self.world.extra[:] = goal.reshape(self.num_envs, 2 * a).T

    def _score(self) -> tuple[Doubles, dict[str, npt.NDArray[Any]]]:
        a = self.world.n_agents
        gaps = self.world.dist[a - 1 + self._goal, :, self._envs]  # [E, A]
        adversary, nearest = gaps[:, 0], gaps[:, 1:].min(axis=1)
        if self.settings.reward == "shaped":
            return adversary - nearest, {}
        close = 2 * LANDMARK_SIZE
        return PRIZE * (nearest < close) - PRIZE * (adversary < close), {}

    def _score_opponents(self) -> Doubles:
        """Minus the adversary's distance to the goal; sparse: 5 within two landmark radii (as in mpe2, but for its
        squared distance)."""
        a = self.world.n_agents
        gap = self.world.dist[a - 1 + self._goal, 0, self._envs]  # [E]
        shaped = self.settings.reward == "shaped"
        return np.asarray(-gap if shaped else PRIZE * (gap < 2 * LANDMARK_SIZE), dtype=np.float64)[None]

    def _script(self) -> npt.NDArray[np.integer]:
        """The adversary knows no goal: it heads for, and halts at, the landmark nearest to the good agents' centre."""
        a = self.world.n_agents
        landmarks = self.world.pos[:, a:]
        crowd = self.world.pos[:, 1:a].mean(axis=1)
        guess = ((landmarks - crowd[:, None]) ** 2).sum(axis=0).argmin(axis=0)  # [E]
        target = landmarks[:, guess, self._envs]
        _, halt = self.world.foresee(slice(0, 1))  # [5, 2, 1, E]
        choice: npt.NDArray[np.integer] = ((halt - target[:, None]) ** 2).sum(axis=1).argmin(axis=0)
        return choice

    def _roles(self, index: int) -> tuple[str, ...]:
        goal = self.world.n_agents + self._goal[index]
        return tuple("goal" if body == goal else role for body, role in enumerate(self.scene.roles))
