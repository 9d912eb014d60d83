"""The two-step game of Rashid et al. 2018 (QMIX, section 5 and appendix), batched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from phalanx.configs.settings import EnvSettings
from phalanx.envs.team import BatchedTeamEnv, Bools, Floats, Obs, TeamPolicy, TeamSpec

AGENTS, ACTIONS, STATES = 2, 2, 3
FIRST, SAFE, RISKY, OVER = range(STATES + 1)
PAYOFFS = np.array(
    [
        [[0, 0], [0, 0]],  # the first step pays nothing
        [[7, 7], [7, 7]],  # where the first agent's first action leads
        [[0, 1], [1, 8]],  # where its second action leads
    ],
    np.float32,
)


class TwoStepSettings(EnvSettings):
    """`env.name=two_step`."""

    name: Literal["two_step"] = Field(default="two_step", description="two_step: choose a matrix game, then play it")
    max_steps: int = Field(
        default=2, ge=2, description="steps after which an episode would be cut off; the game ends after two"
    )


class TwoStep(BatchedTeamEnv):
    """Two agents with two actions. The first agent's action in the first step decides which matrix game is played in
    the second one: its first action the one that pays 7 whatever is done, its second action the one that pays
    [[0, 1], [1, 8]]. The first step pays nothing, the episode really ends (terminated) after the second.

    The best return is 8; VDN cannot represent it and earns 7. Observation of both, and state: which of the three
    states this is, one-hot, and zeros when the game is over.
    """

    Settings = TwoStepSettings

    def __init__(
        self, settings: TwoStepSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        spec = TeamSpec(
            env_name="two_step",
            n_agents=AGENTS,
            obs_dim=STATES,
            state_dim=STATES,
            n_actions=ACTIONS,
            episode_limit=settings.max_steps,
            agent_names=("player_0", "player_1"),
            obs_dims=(STATES,) * AGENTS,
            action_dims=(ACTIONS,) * AGENTS,
            obs_range=(0, 1),
            state_range=(0, 1),
        )
        super().__init__(spec, num_envs)
        self._states = np.zeros(num_envs, np.int64)
        self._entered = np.zeros(num_envs, np.int64)  # the state in which the newest actions were taken
        self._played = np.zeros((num_envs, AGENTS), np.int64)

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Any) -> None:
        """Nothing is random."""
        self._states[rows] = self._entered[rows] = FIRST

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        # ravel_multi_index refuses what is not an action, where plain indexing would take -1 for the last one.
        joint = np.ravel_multi_index((self._states, *np.asarray(actions).T), PAYOFFS.shape)
        over = self._states != FIRST
        self._entered, self._played[:] = self._states, actions
        self._states = np.where(over, OVER, SAFE + np.asarray(actions)[:, 0])
        return PAYOFFS.ravel()[joint], over, {}

    def _observe(self) -> Obs:
        state = np.eye(STATES + 1, STATES, dtype=np.float32)[self._states]
        return Obs(
            obs=np.repeat(state[:, None], AGENTS, axis=1),
            state=state,
            avail=np.ones((self.num_envs, AGENTS, ACTIONS), np.bool_),
            alive=np.ones((self.num_envs, AGENTS), np.bool_),
        )

    def render(self, index: int) -> npt.NDArray[np.uint8]:
        from phalanx.envs.drawing_games import Table, draw_tables

        state, first, second = int(self._states[index]), int(self._played[index, 0]), int(self._played[index, 1])
        game = int(self._entered[index]) if state == OVER else state
        tables = [
            Table(
                PAYOFFS[each],
                (first, second) if state == OVER and each == game else None,
                title=f"player_0: {each - SAFE}",
                is_open=each == game or state == FIRST,
            )
            for each in (SAFE, RISKY)
        ]
        above = {FIRST: "player_0 is about to choose the game", OVER: "the game was played"}
        return draw_tables(tables, ("player_0", "player_1"), above.get(state, "the game is about to be played"))
