"""Dispersion: agents that start in one place spread out to eat all food. Batched over environments in numpy.

The task and physics of VMAS (Bettini et al. 2022, scenario `dispersion` of release 1.5.2), written anew; HyperMARL
(Tessera et al. 2025) uses it with 4 agents because whoever acts alike goes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from phalanx.configs.settings import EnvSettings
from phalanx.envs.team import BatchedTeamEnv, Bools, EntityView, Floats, Obs, Step, TeamPolicy, TeamSpec

STEP_S = 0.1
DRAG = 0.25  # share of its speed that an agent loses in a step
AGENT_RADIUS = 0.035
TIME_PENALTY = np.float32(-0.01)
PUSHES = np.array([[x, y] for x in (0, -1, 1) for y in (0, -1, 1)], np.float32)  # of the 9 discrete actions
PER_AGENT, PER_FOOD = 4, 3  # numbers in the state


class DispersionSettings(EnvSettings):
    """`env.name=dispersion`."""

    name: Literal["dispersion"] = Field(default="dispersion", description="dispersion: spread out to eat all food")
    max_steps: int = Field(default=100, ge=1, description="steps after which an episode is cut off (truncated)")
    agents: int = Field(default=4, ge=1, description="agents; all start in the middle")
    food: int | None = Field(default=None, ge=1, description="pieces of food; as many as agents if not given")
    food_radius: float = Field(
        default=0.05, gt=0, description="radius of a piece of food (BenchMARL's runs: 0.02); that of an agent is 0.035"
    )
    size: float = Field(default=1.0, gt=0, description="half the width of the square that holds agents and food")
    share_reward: bool = Field(
        default=True,
        description="true: every agent is paid 1 for each piece that anybody eats; false, VMAS's default: those who"
        " eat it share the 1",
    )
    penalise_by_time: bool = Field(
        default=False, description="whether an agent that is paid nothing in a step is paid -0.01"
    )
    actions: Literal["discrete", "continuous"] = Field(
        default="discrete",
        description="discrete: stay, or push left or right and down or up (9 actions); continuous: two numbers from -1"
        " to 1, the push along each axis",
    )


class Dispersion(BatchedTeamEnv):
    """A step of 0.1 s: an agent's velocity becomes 0.75 of what it was plus 0.1 times the push, then it moves on by 0.1
    times its velocity and stops at the walls (its velocity does not). Agents pass through each other.

    A piece of food is eaten when an agent's and its discs overlap. `Step.agent_reward` holds what each agent is paid,
    the team's reward is the mean over agents: with `share_reward` 1 for each piece. The episode ends (terminated) when
    all food is eaten.

    Discrete action 3 i + j pushes along x by i and along y by j, where 0, 1, 2 stand for 0, -1, 1. Observation: the
    agent's position 2 and velocity 2, then for each piece its position as seen from the agent 2 and 1 where it is
    eaten: 16 numbers with 4 pieces. State: positions and velocities of all agents, then position and eaten of each
    piece (28 numbers for 4 and 4). Info: `eaten`, pieces in this step; win: all are eaten.
    """

    Settings = DispersionSettings

    def __init__(
        self, settings: DispersionSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        self._settings = settings
        self._discrete = settings.actions == "discrete"
        n, m = settings.agents, settings.food or settings.agents
        observed = PER_AGENT + PER_FOOD * m
        choices = len(PUSHES) if self._discrete else 0
        widest = max(1.0, 2 * settings.size)  # 1: what is eaten; velocities stay below 0.1 / 0.25
        spec = TeamSpec(
            env_name="dispersion",
            n_agents=n,
            obs_dim=observed,
            state_dim=PER_AGENT * n + PER_FOOD * m,
            n_actions=choices,
            episode_limit=settings.max_steps,
            agent_names=tuple(f"agent_{i}" for i in range(n)),
            obs_dims=(observed,) * n,
            action_dims=(choices or 2,) * n,
            discrete=self._discrete,
            has_win=True,
            entities=EntityView(own=(0, 1, 2, 3), objects=tuple((k, k + 1, k + 2) for k in range(4, observed, 3))),
            agent_rewards=True,
            metrics=("eaten",),
            obs_range=(-widest, widest),
            state_range=(-max(1.0, settings.size), max(1.0, settings.size)),
        )
        super().__init__(spec, num_envs)
        self._pos = np.zeros((num_envs, n, 2), np.float32)
        self._vel = np.zeros((num_envs, n, 2), np.float32)
        self._food = np.zeros((num_envs, m, 2), np.float32)
        self._eaten = np.zeros((num_envs, m), np.bool_)
        self._paid = np.zeros((num_envs, n), np.float32)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = super().step(actions)
        return replace(step, agent_reward=self._paid)

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        shape, size = self._food.shape[1:], self._settings.size
        self._food[rows] = np.stack([np.random.default_rng(seed).uniform(-size, size, shape) for seed in seeds])
        self._pos[rows] = self._vel[rows] = 0
        self._eaten[rows] = False

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        self._move(self._pushes(np.asarray(actions)))
        gaps = self._pos[:, :, None] - self._food[:, None]  # [E, N, M, 2]
        reach = np.float32(AGENT_RADIUS + self._settings.food_radius)
        eating = (np.sqrt(np.square(gaps).sum(axis=3)) < reach) & ~self._eaten[:, None]  # [E, N, M]
        eaters = eating.sum(axis=1)  # [E, M]
        now = eaters > 0
        eaten = now.sum(axis=1)
        if self._settings.share_reward:
            self._paid = np.repeat(eaten[:, None], self.spec.n_agents, axis=1).astype(np.float32)
        else:
            self._paid = (eating / np.maximum(eaters, 1)[:, None]).sum(axis=2).astype(np.float32)
        if self._settings.penalise_by_time:
            self._paid[self._paid == 0] = TIME_PENALTY
        self._eaten |= now
        over = np.all(self._eaten, axis=1)
        return self._paid.mean(axis=1), over, {"eaten": eaten, "win": over.copy()}

    def _pushes(self, actions: npt.NDArray[Any]) -> Floats:
        """[E, N, 2], at most 1 along each axis."""
        if not self._discrete:
            return np.clip(actions.astype(np.float32), -1, 1)
        if (actions < 0).any() or (actions >= len(PUSHES)).any():
            raise ValueError(f"there are actions 0 to {len(PUSHES) - 1} only")
        return PUSHES.take(actions, axis=0)

    def _move(self, pushes: Floats) -> None:
        size = np.float32(self._settings.size)
        self._vel = self._vel * np.float32(1 - DRAG) + pushes * np.float32(STEP_S)
        self._pos = np.clip(self._pos + self._vel * np.float32(STEP_S), -size, size)

    def _observe(self) -> Obs:
        e, n, m = self.num_envs, self.spec.n_agents, self._food.shape[1]
        obs = np.empty((e, n, self.spec.obs_dim), np.float32)
        obs[:, :, :2], obs[:, :, 2:PER_AGENT] = self._pos, self._vel
        pieces = obs[:, :, PER_AGENT:].reshape(e, n, m, PER_FOOD)  # a copy: the slice is not contiguous
        pieces[..., :2] = self._food[:, None] - self._pos[:, :, None]
        pieces[..., 2] = self._eaten[:, None]
        obs[:, :, PER_AGENT:] = pieces.reshape(e, n, -1)
        agents = np.concatenate([self._pos, self._vel], axis=2).reshape(e, -1)
        food = np.concatenate([self._food, self._eaten[:, :, None]], axis=2, dtype=np.float32).reshape(e, -1)
        return Obs(
            obs=obs,
            state=np.concatenate([agents, food], axis=1),
            avail=np.ones((e, n, self.spec.n_actions), np.bool_),
            alive=np.ones((e, n), np.bool_),
        )

    def render(self, index: int) -> npt.NDArray[np.uint8]:
        from phalanx.envs.drawing import ROLES, draw_world

        left = self._food[index][~self._eaten[index]]
        places = np.concatenate([left, self._pos[index]]).astype(np.float64) / self._settings.size
        sizes = np.array([self._settings.food_radius] * len(left) + [AGENT_RADIUS] * self.spec.n_agents)
        roles = ["food"] * len(left) + ["agent"] * self.spec.n_agents
        numbers = {len(left) + i: str(i) for i in range(self.spec.n_agents)}
        legend = [(f"food {len(left)}/{len(self._food[index])}", ROLES["food"]), ("agent", ROLES["agent"])]
        return draw_world(places, (sizes / self._settings.size).tolist(), roles, numbers=numbers, legend=legend)
