"""Predators hunting prey: what simple_tag and simple_world have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from phalanx.envs.mpe.physics import NOTHING, Bodies, Doubles
from phalanx.envs.mpe.task import LoadPolicy, OpposedSettings, ParticleTask, Scene

PREDATOR_SIZE, PREDATOR_PUSH, PREDATOR_SPEED = 0.075, 3.0, 1.0
PREY_PUSH, PREY_SPEED = 4.0, 1.3
OBSTACLE_SIZE = 0.2
EDGE = 0.9
"""Beyond this coordinate the scripted prey feels the border of the arena."""


class Hunt(ParticleTask):
    """The team are the P predators, agents 0 to P-1; the opponents are the G prey after them.

    The team's reward of a step is `contact_reward` for each touching pair of a predator and a prey, and with
    `reward=shaped` minus 0.1 times the sum over predators of the distance to the nearest prey. `Step.info["contacts"]`
    counts the pairs. `Step.agent_reward` (with `reward=shaped`, otherwise all are paid the same) shapes each predator
    by its own distance, as mpe2 does.
    """

    contact_reward: ClassVar[float]
    leaving_cost: ClassVar[float] = 1.0

    def __init__(
        self,
        settings: OpposedSettings,
        num_envs: int,
        *,
        predators: tuple[str, ...],
        prey: int,
        prey_size: float,
        landmark_sizes: tuple[float, ...],
        landmark_roles: tuple[str, ...],
        n_extra: int = 0,
        load_policy: LoadPolicy | None = None,
    ) -> None:
        p = len(predators)
        self.n_predators, self.n_prey = p, prey
        self.pays_agents = settings.reward == "shaped"
        self._pairs = slice(p - 1, p - 1 + prey)  # where `world.rel` holds the prey as a predator sees them
        solid = p + prey + landmark_roles.count("obstacle")
        bodies = Bodies(
            sizes=(PREDATOR_SIZE,) * p + (prey_size,) * prey + landmark_sizes,
            push=(PREDATOR_PUSH,) * p + (PREY_PUSH,) * prey,
            max_speed=(PREDATOR_SPEED,) * p + (PREY_SPEED,) * prey,
            solid=solid,
        )
        scene = Scene(
            bodies=bodies,
            agent_names=predators + tuple(f"agent_{i}" for i in range(prey)),
            team=slice(0, p),
            opponents=slice(p, p + prey),
            kinds=tuple(name.rpartition("_")[0] for name in predators),
            roles=("predator",) * p + ("prey",) * prey + landmark_roles,
            n_extra=n_extra,
            metrics=("contacts",),
        )
        super().__init__(settings, num_envs, scene, load_policy)

    def _score(self) -> tuple[Doubles, dict[str, npt.NDArray[Any]]]:
        p = self.n_predators
        gaps = self.world.dist[self._pairs, :p]  # [G, P, E]
        contacts = np.count_nonzero(gaps < self.world.touch[self._pairs, :p], axis=(0, 1))
        reward: Doubles = self.contact_reward * contacts
        if self.settings.reward == "shaped":
            nearest = gaps.min(axis=0)  # [P, E]
            self._paid = (reward - 0.1 * nearest).T.astype(np.float32)
            reward = reward - 0.1 * nearest.sum(axis=0)
        return reward, {"contacts": contacts}

    def _score_opponents(self) -> Doubles:
        """As in mpe2: minus `contact_reward` for each contact of a prey, with `reward=shaped` 0.1 times the sum of its
        distances to the predators, and what leaving the arena costs."""
        p, prey = self.n_predators, slice(self.n_predators, self.n_predators + self.n_prey)
        gaps = self.world.dist[:p, prey]  # [P, G, E]: the predators are the first of the others
        paid: Doubles = -self.contact_reward * np.count_nonzero(gaps < self.world.touch[:p, prey], axis=0)
        if self.settings.reward == "shaped":
            paid = paid + 0.1 * gaps.sum(axis=0)
        far = np.abs(self.world.pos[:, prey])
        outside = np.where(far < 1.0, 10 * np.maximum(far - EDGE, 0.0), np.minimum(np.exp(2 * far - 2), 10.0))
        paid -= self.leaving_cost * outside.sum(axis=0)
        return paid

    def _script(self) -> npt.NDArray[np.integer]:
        """Prey look one move ahead, expecting predators to coast: as far from the nearest as possible, but 5 times
        keener not to go beyond `EDGE`."""
        p = self.n_predators
        spots, _ = self.world.foresee(slice(p, p + self.n_prey))  # [5, 2, G, E]
        predators, _ = self.world.foresee(slice(0, p), NOTHING)  # [1, 2, P, E]
        delta = spots[:, :, :, None] - predators[:, :, None]  # [5, 2, G, P, E]
        nearest = np.sqrt((delta[:, 0] ** 2 + delta[:, 1] ** 2).min(axis=2))  # [5, G, E]
        beyond = np.maximum(np.abs(spots) - EDGE, 0.0)
        choice: npt.NDArray[np.integer] = np.argmax(nearest - 5.0 * (beyond[:, 0] + beyond[:, 1]), axis=0)
        return choice
