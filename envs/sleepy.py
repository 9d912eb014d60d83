"""A stand-in for slow simulators: almost nothing is computed, every step waits. To measure how collection scales."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from phalanx.configs.settings import EnvSettings
from phalanx.envs.team import BatchedTeamEnv, Bools, Floats, Obs, TeamPolicy, TeamSpec


class SleepySettings(EnvSettings):
    """`env.name=sleepy`."""

    name: Literal["sleepy"] = Field(default="sleepy", description="sleepy: every step waits, nothing is computed")
    agents: int = Field(default=2, ge=1, description="agents")
    wait_ms: float = Field(
        default=5.0,
        ge=0,
        description="milliseconds that one step of the whole vector waits, however many environments are in it;"
        " other threads run meanwhile, as they do beside a simulator in a process of its own",
    )


class Sleepy(BatchedTeamEnv):
    """At its start an episode tosses a coin that all agents see. Each step pays the share of agents whose action (0 or
    1) names it. Episodes end by the time limit only (truncated).

    Observation of everybody, and state: the coin, and the share of the episode that is over.
    """

    Settings = SleepySettings
    why_no_picture = "it only waits, so there is nothing to be seen"

    def __init__(
        self, settings: SleepySettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        n = settings.agents
        spec = TeamSpec(
            env_name="sleepy",
            n_agents=n,
            obs_dim=2,
            state_dim=2,
            n_actions=2,
            episode_limit=settings.max_steps,
            agent_names=tuple(f"agent_{i}" for i in range(n)),
            obs_dims=(2,) * n,
            action_dims=(2,) * n,
            obs_range=(0, 1),
            state_range=(0, 1),
        )
        super().__init__(spec, num_envs)
        self._wait_s = settings.wait_ms / 1000
        self._coins = np.zeros(num_envs, np.int64)

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        self._coins[rows] = np.array(seeds, np.int64) % 2

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        if self._wait_s:
            time.sleep(self._wait_s)
        right = np.asarray(actions) == self._coins[:, None]
        paid: Floats = np.add.reduce(right, axis=1, dtype=np.float32) / np.float32(self.spec.n_agents)
        return paid, np.zeros(self.num_envs, np.bool_), {}

    def _observe(self) -> Obs:
        e, n = self.num_envs, self.spec.n_agents
        state = np.empty((e, 2), np.float32)
        state[:, 0], state[:, 1] = self._coins, self._elapsed / self.spec.episode_limit
        return Obs(
            obs=state[:, None].repeat(n, axis=1),
            state=state,
            avail=np.ones((e, n, 2), np.bool_),
            alive=np.ones((e, n), np.bool_),
        )
