"""Specialisation and Synchronisation: everybody chooses at once; to differ pays in the one, to agree in the other.

Tessera et al. 2025 (HyperMARL, arXiv 2412.04233), with the authors' rewards for more than two agents.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from phalanx.configs.settings import EnvSettings
from phalanx.envs.team import BatchedTeamEnv, Bools, Floats, Ints, Obs, Step, TeamPolicy, TeamSpec

NORMAL_STEPS, TEMPORAL_STEPS = 1, 10


class ChoiceSettings(EnvSettings):
    """`env.name=specialisation` and `env.name=synchronisation`."""

    agents: int = Field(default=2, ge=2, description="agents")
    actions: int | None = Field(default=None, ge=2, description="actions of each agent; as many as agents if not given")
    temporal: bool = Field(
        default=False, description="everybody sees what all chose in the step before; otherwise nothing is seen"
    )
    max_steps: int | None = Field(  # type: ignore[assignment]
        default=None,
        ge=1,
        description="times that the game is played in an episode, which then really ends (terminated);"
        f" {NORMAL_STEPS}, or {TEMPORAL_STEPS} with env.temporal=true, if not given",
    )

    def length(self) -> int:
        """Steps of an episode."""
        return self.max_steps or (TEMPORAL_STEPS if self.temporal else NORMAL_STEPS)


class _ChoiceGame(BatchedTeamEnv):
    """Counts who chose what; a subclass pays for it."""

    Settings = ChoiceSettings

    def __init__(
        self, settings: ChoiceSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        n, self._temporal = settings.agents, settings.temporal
        actions = settings.actions or n
        size = n * actions if settings.temporal else 1
        spec = TeamSpec(
            env_name=settings.name,
            n_agents=n,
            obs_dim=size,
            state_dim=size,
            n_actions=actions,
            episode_limit=settings.length(),
            agent_names=tuple(f"player_{i}" for i in range(n)),
            obs_dims=(size,) * n,
            action_dims=(actions,) * n,
            agent_rewards=True,
            metrics=("converged",),
            obs_range=(-1, 1) if settings.temporal else (1, 1),
            state_range=(-1, 1) if settings.temporal else (1, 1),
        )
        super().__init__(spec, num_envs)
        self._numbers = np.arange(actions)
        self._seen = np.ones((num_envs, size), np.float32)
        self._paid = np.zeros((num_envs, n), np.float32)
        self._chosen = np.full((num_envs, n), -1, np.int64)  # for pictures

    @abstractmethod
    def _pay(self, alike: Ints) -> npt.NDArray[np.float64]:
        """Rewards [E, N]; alike [E, N]: how many chose what this agent chose, itself included."""

    @abstractmethod
    def _converged(self, chosen: Bools) -> Bools:
        """Whether nobody can be paid better [E]; chosen [E, A]: whether anybody chose the action."""

    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = super().step(actions)
        return replace(step, agent_reward=self._paid)

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Any) -> None:
        """Nothing is random."""
        self._chosen[rows] = -1
        if self._temporal:
            self._seen[rows] = -1

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        one_hot = np.asarray(actions)[:, :, None] == self._numbers  # [E, N, A]
        if not one_hot.any(axis=2).all():
            raise ValueError(f"there are actions 0 to {self._numbers[-1]} only")
        counts = one_hot.sum(axis=1)
        self._chosen[:] = actions
        self._paid = self._pay((one_hot * counts[:, None]).sum(axis=2)).astype(np.float32)
        if self._temporal:
            self._seen = one_hot.reshape(self.num_envs, -1).astype(np.float32)
        over = self._elapsed + 1 >= self.spec.episode_limit
        return self._paid.mean(axis=1), over, {"converged": self._converged(counts > 0)}

    def _observe(self) -> Obs:
        e, n = self.num_envs, self.spec.n_agents
        return Obs(
            obs=np.repeat(self._seen[:, None], n, axis=1),
            state=self._seen.copy(),
            avail=np.ones((e, n, self.spec.n_actions), np.bool_),
            alive=np.ones((e, n), np.bool_),
        )

    def render(self, index: int) -> npt.NDArray[np.uint8]:
        from phalanx.envs.drawing_games import draw_choices

        spec, chosen = self.spec, self._chosen[index].tolist()
        above = "to differ pays" if spec.env_name == "specialisation" else "to agree pays"
        if chosen[0] >= 0:
            above += f": {self._paid[index].mean():.2f} each on average"
        return draw_choices(spec.agent_names, np.ones((spec.n_agents, spec.n_actions), np.bool_), chosen, above)


class Specialisation(_ChoiceGame):
    """An agent is paid 1 / c, where c is how many agents, itself included, chose its action.

    Two players: 1 each if they differ, 0.5 each if they agree. The team's reward is the mean over agents, which is the
    number of different actions that were chosen, divided by the number of agents; `Step.agent_reward` holds each
    agent's own. A policy that is shared and knows no agent's number is paid at most 0.75 in the two-player game
    (theorem 1 of the paper: 0.75 - (p - 0.5)² where it chooses the first action with probability p).

    Observation of everybody, and state: a single 1; with `temporal` the actions of all in the step before, one-hot and
    one after the other (agents × actions numbers), all -1 at first. Info: `converged` (1 where as many actions as
    possible were chosen).
    """

    class Settings(ChoiceSettings):
        name: str = Field(default="specialisation", description="specialisation: to differ from all others pays")

    def _pay(self, alike: Ints) -> npt.NDArray[np.float64]:
        return 1.0 / alike

    def _converged(self, chosen: Bools) -> Bools:
        different: Ints = chosen.sum(axis=1)
        return np.asarray(different == min(self.spec.n_agents, self.spec.n_actions))


class Synchronisation(_ChoiceGame):
    """An agent is paid 1 / (N - c + 1), where c is how many of the N agents, itself included, chose its action.

    Two players: 1 each if they agree, 0.5 each if they differ. The team's reward is the mean over agents;
    `Step.agent_reward` holds each agent's own. Observations and state are as in `Specialisation`. Info: `converged`
    (1 where all chose the same).
    """

    class Settings(ChoiceSettings):
        name: str = Field(default="synchronisation", description="synchronisation: to agree with all others pays")

    def _pay(self, alike: Ints) -> npt.NDArray[np.float64]:
        return 1.0 / (self.spec.n_agents - alike + 1)

    def _converged(self, chosen: Bools) -> Bools:
        different: Ints = chosen.sum(axis=1)
        return np.asarray(different == 1)
