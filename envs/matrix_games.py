"""Matrix games: every agent chooses once, the team is paid what the table says."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from phalanx.configs.settings import EnvSettings
from phalanx.envs.team import BatchedTeamEnv, Bools, Floats, Obs, TeamPolicy, TeamSpec

GAMES: dict[str, list[list[float]]] = {
    # Rashid et al. 2020 (Weighted QMIX), table 2; also Son et al. 2019 (QTRAN)
    "wqmix": [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]],
    # Claus and Boutilier 1998
    "climbing": [[11, -30, 0], [-30, 7, 6], [0, 0, 5]],
}
PENALTY = -100.0
LARGEST = float(np.finfo(np.float32).max)
OBSERVATION = 5  # every agent, and the state, always sees five ones


def penalty_game(k: float) -> list[list[float]]:
    """Claus and Boutilier's penalty game: two optima of 10 that miscoordination makes dangerous, k <= 0."""
    return [[k, 0, 10], [0, 2, 0], [10, 0, k]]


class MatrixSettings(EnvSettings):
    """`env.name=matrix`."""

    name: Literal["matrix"] = Field(default="matrix", description="matrix: a table pays for the joint action")
    max_steps: int = Field(
        default=1, ge=1, description="times that the game is played in an episode, which then really ends (terminated)"
    )
    game: Literal["wqmix", "climbing", "penalty"] | None = Field(
        default=None, description="a game from the literature; wqmix where neither this nor `payoff` is given"
    )
    penalty: float | None = Field(
        default=None, le=0, description=f"what miscoordination costs, for game=penalty only; {PENALTY:g} if not given"
    )
    payoff: list[Any] | None = Field(
        default=None,
        description="any game: nested lists, one level for each agent (payoff[a0][a1]… is the team's reward), such as"
        " [[8,-12,-12],[-12,0,0],[-12,0,0]]; two agents or more, each with its own number of actions",
    )

    @field_validator("payoff")
    @classmethod
    def _rectangular(cls, payoff: list[Any] | None) -> list[Any] | None:
        return None if payoff is None else _numbers(payoff, "env.payoff")[0]

    @model_validator(mode="after")
    def _one_game(self) -> MatrixSettings:
        if self.payoff is not None and self.game is not None:
            raise ValueError(f"env.payoff and env.game={self.game} exclude each other: give one of them")
        if self.penalty is not None and self.game != "penalty":
            raise ValueError(
                f"env.penalty={self.penalty:g} means something for env.game=penalty only: set that game or leave"
                " env.penalty out"
            )
        return self

    def table(self) -> npt.NDArray[np.float32]:
        """The payoff as an array with one axis for each agent."""
        if self.payoff is not None:
            return np.array(self.payoff, np.float32)
        if self.game == "penalty":
            return np.array(penalty_game(PENALTY if self.penalty is None else self.penalty), np.float32)
        return np.array(GAMES[self.game or "wqmix"], np.float32)


class MatrixGame(BatchedTeamEnv):
    """A one-shot game, or the same one repeated `max_steps` times; observations and state never change."""

    Settings = MatrixSettings

    def __init__(
        self, settings: MatrixSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        self._payoff = settings.table()
        agents, actions = self._payoff.ndim, self._payoff.shape
        spec = TeamSpec(
            env_name="matrix",
            n_agents=agents,
            obs_dim=OBSERVATION,
            state_dim=OBSERVATION,
            n_actions=max(actions),
            episode_limit=settings.max_steps,
            agent_names=tuple(f"player_{i}" for i in range(agents)),
            obs_dims=(OBSERVATION,) * agents,
            action_dims=actions,
        )
        super().__init__(spec, num_envs)
        self._avail = np.arange(spec.n_actions) < np.array(actions)[:, None]
        self._played = np.full((num_envs, agents), -1, np.int64)  # for pictures

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Any) -> None:
        """Nothing is random, and nothing is remembered that anybody sees."""
        self._played[rows] = -1

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        # ravel_multi_index refuses what is not an action, where plain indexing would take -1 for the last one.
        joint = np.ravel_multi_index(tuple(np.asarray(actions).T), self._payoff.shape)
        self._played[:] = actions
        return self._payoff.ravel()[joint], self._elapsed + 1 >= self.spec.episode_limit, {}

    def _observe(self) -> Obs:
        e, n = self.num_envs, self.spec.n_agents
        return Obs(
            obs=np.ones((e, n, OBSERVATION), np.float32),
            state=np.ones((e, OBSERVATION), np.float32),
            avail=np.repeat(self._avail[None], e, axis=0),
            alive=np.ones((e, n), np.bool_),
        )

    def render(self, index: int) -> npt.NDArray[np.uint8]:
        from phalanx.envs.drawing_games import MOST_TABLE, Table, draw_choices, draw_tables

        played, names = self._played[index], self.spec.agent_names
        payoff = None if played[0] < 0 else float(self._payoff[tuple(played)])
        if len(names) == 2 and max(self._payoff.shape) <= MOST_TABLE:
            cell = None if payoff is None else (int(played[0]), int(played[1]))
            return draw_tables([Table(self._payoff, cell)], (names[0], names[1]))
        best = f"the best joint action pays {self._payoff.max():g}"
        above = best if payoff is None else f"paid {payoff:g}; {best}"
        return draw_choices(names, self._avail, played.tolist(), above)


def _numbers(value: Any, where: str) -> tuple[Any, tuple[int, ...]]:
    """`value` with every leaf a float, and its shape; a ValueError says what is no payoff and where."""
    if not isinstance(value, list):
        return _number(value, where), ()
    if not value:
        raise ValueError(f"{where} is an empty list: every agent needs at least one action")
    parts = [_numbers(part, f"{where}[{i}]") for i, part in enumerate(value)]
    for i, (_, shape) in enumerate(parts):
        if shape != parts[0][1]:
            raise ValueError(
                f"{where} is ragged: {where}[0] is {_words(parts[0][1])} but {where}[{i}] is {_words(shape)};"
                " every list of one level must have the same length"
            )
    shape = (len(value), *parts[0][1])
    if where == "env.payoff" and len(shape) < 2:
        raise ValueError(
            f"env.payoff has one level of lists, which is one agent: a team needs two or more, such as"
            f" [[1,0],[0,1]], got {value}"
        )
    return [part for part, _ in parts], shape


def _number(value: Any, where: str) -> float:
    if isinstance(value, str):  # PyYAML reads 1e3 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where} must be a number, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be finite, got {value!r}")
    if abs(value) > LARGEST:
        raise ValueError(f"{where} must lie within ±{LARGEST:.3g}, which float32 holds, got {_short(value)}")
    return float(value)


def _short(value: float) -> str:
    try:
        return f"{float(value):g}"
    except OverflowError:
        return "a whole number with more than 308 digits"


def _words(shape: tuple[int, ...]) -> str:
    return "a number" if not shape else "a list of " + " × ".join(map(str, shape))
