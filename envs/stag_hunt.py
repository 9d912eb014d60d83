"""Stag hunt (predator-prey in which a lone catcher is punished), batched over environments in numpy.

The task of Böhmer et al. 2020 (Deep Coordination Graphs) as Weighted QMIX (Rashid et al. 2020) configures it: a
bounded grid, every cell holds one entity at most, no hares, frozen agents leave the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from phalanx.configs.settings import EnvSettings
from phalanx.envs.team import BatchedTeamEnv, Bools, EntityView, Floats, Ints, Obs, TeamPolicy, TeamSpec

RIGHT, DOWN, LEFT, UP, STAY, CATCH = range(6)
ACTIONS = 6
CHANNELS = 3  # agents, stags, hares; there are no hares, but the published sizes (75 and 300) count them
BLOCK = 256  # steps for which an episode's random numbers are drawn at once
STAG, BEATER = (150, 98, 48), (140, 92, 178)  # colours
ROLLS = 12  # equally likely outcomes of a prey's die: divisible by 1, 2, 3 and 4 free neighbours


class StagHuntSettings(EnvSettings):
    """`env.name=stag_hunt`."""

    name: Literal["stag_hunt"] = Field(default="stag_hunt", description="stag_hunt: two must catch together")
    max_steps: int = Field(default=200, ge=1, description="steps after which an episode is cut off (truncated)")
    size: int = Field(default=10, ge=2, description="rows and columns of the grid")
    agents: int = Field(default=8, ge=1, description="hunters")
    prey: int = Field(default=8, ge=1, description="stags")
    catchers: int = Field(default=2, ge=1, le=4, description="agents that must catch the same stag in the same step")
    capture_reward: float = Field(default=10.0, ge=0, description="team reward for a captured stag")
    punishment: float = Field(
        default=-2.0, le=0, description="team reward for each stag that too few agents try to catch in a step"
    )
    view: int = Field(default=2, ge=1, description="cells that an agent sees in each direction (2: a 5 × 5 window)")

    @model_validator(mode="after")
    def _everybody_fits(self) -> StagHuntSettings:
        if self.agents + self.prey > self.size**2:
            raise ValueError(
                f"env.agents={self.agents} and env.prey={self.prey} do not fit on {self.size} × {self.size} cells, one"
                " in each: raise env.size or lower the others"
            )
        return self


def window_cells(view: int) -> EntityView:
    """The cells of the window as entities, each with its place (row, column, from -1 to 1) as seen from the agent,
    whose own cell is the middle one. A hunter sees what is where, but not who: allies and stags are not told apart
    from others of their kind, so they are no entities, and no action is aimed at one of them."""
    reach = range(-view, view + 1)
    places = [(row, column) for row in reach for column in reach]
    columns = [tuple(range(CHANNELS * cell, CHANNELS * (cell + 1))) for cell in range(len(places))]
    middle = len(places) // 2
    around = [cell for cell in range(len(places)) if cell != middle]
    return EntityView(
        own=columns[middle],
        objects=tuple(columns[cell] for cell in around),
        object_marks=tuple((places[cell][0] / view, places[cell][1] / view) for cell in around),
    )


class StagHunt(BatchedTeamEnv):
    """A step: the agents move one after the other in random order (into free cells only); then each stag, in random
    order, is either captured by `catchers` or more adjacent agents that chose `catch`, or costs the punishment if
    there are some but too few of them, and walks to a random free neighbour cell if it was not captured.

    Whoever catches a captured stag is frozen and leaves the grid: it may only stay, sees zeros and is not alive. The
    episode ends (terminated) when all stags are captured or all agents frozen. With 8 agents and 8 stags the best
    return is 40.

    Observation: a window around the agent, rows × columns × (agents, stags, hares), zero off the grid. State: the
    whole grid likewise. Info: `captures` and `failed_hunts` of the step.

    Positions are indices into one flat array of all environments' grids, each surrounded by walls; frozen agents and
    captured stags are parked on a wall cell from which nothing can be reached.
    """

    Settings: type[StagHuntSettings] = StagHuntSettings

    def __init__(
        self, settings: StagHuntSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        self._settings = settings
        super().__init__(self._make_spec(settings), num_envs)
        self._layout()
        e, n, m = num_envs, settings.agents, settings.prey
        self._can_catch = np.array([size == ACTIONS for size in self.spec.action_dims])[:, None]  # [N, 1]
        # Agents and stags lie [who, environment], so that the loops over who take contiguous rows.
        self._agents = np.repeat(self._parked[None], n, axis=0)
        self._prey = np.repeat(self._parked[None], m, axis=0)
        self._alive = np.zeros((n, e), np.bool_)
        self._generators: list[np.random.Generator] = [np.random.default_rng(0)] * e  # until the first reset
        self._block = min(settings.max_steps, BLOCK)
        self._agent_order = np.zeros((self._block, n, e), np.int64)
        self._prey_order = np.zeros((self._block, m, e), np.int64)
        self._rolls = np.zeros((self._block, m, e), np.int64)

    def _make_spec(self, settings: Any) -> TeamSpec:
        n, observation = settings.agents, CHANNELS * (2 * settings.view + 1) ** 2
        return TeamSpec(
            env_name="stag_hunt",
            n_agents=n,
            obs_dim=observation,
            state_dim=CHANNELS * settings.size**2,
            n_actions=ACTIONS,
            episode_limit=settings.max_steps,
            agent_names=tuple(f"hunter_{i}" for i in range(n)),
            obs_dims=(observation,) * n,
            action_dims=(ACTIONS,) * n,
            metrics=("captures", "failed_hunts"),
            entities=window_cells(settings.view) if settings.name == "stag_hunt" else None,  # variants see otherwise
            obs_range=(0, 1),
            state_range=(0, 1),
        )

    def _layout(self) -> None:
        """The walls and everything that depends on the grid's shape alone."""
        size, self._pad = self._settings.size, max(2, self._farthest())  # 2: a parked one has walls around it
        self._width = width = size + 2 * self._pad
        wall = np.ones((self.num_envs, width, width), np.bool_)
        wall[:, self._pad : -self._pad, self._pad : -self._pad] = False
        self._wall = wall.reshape(-1)
        self._blocked = self._wall.copy()  # a wall, an agent or a stag
        self._first = np.arange(self.num_envs) * width**2
        self._parked = self._first + width + 1
        cells = np.arange(size)
        self._cells = ((cells[:, None] + self._pad) * width + cells + self._pad).reshape(-1)
        self._neighbours = np.array([1, width, -1, -width])  # right, down, left, up
        self._moves = np.array([1, width, -1, -width, 0, 0])
        self._window = self._square(self._settings.view)
        # Where a stag goes, for every set of free neighbours (bits in the order above) and every roll of the die.
        self._walks = np.zeros((16, ROLLS), np.int64)
        for bits in range(1, 16):
            free = [move for k, move in enumerate(self._neighbours) if bits >> k & 1]
            self._walks[bits] = [free[roll % len(free)] for roll in range(ROLLS)]

    def _farthest(self) -> int:
        """How many cells anybody sees in each direction."""
        return self._settings.view

    def _square(self, view: int) -> Ints:
        """From a cell to all those within `view` of it, row by row."""
        reach = np.arange(-view, view + 1)
        return (reach[:, None] * self._width + reach).reshape(-1)

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        n, m, area = self.spec.n_agents, self._settings.prey, self._width**2
        for e, seed in zip(rows, seeds, strict=True):
            rng = self._generators[e] = np.random.default_rng(seed)
            places = self._first[e] + rng.choice(self._cells, n + m, replace=False)
            grid = slice(self._first[e], self._first[e] + area)
            self._blocked[grid] = self._wall[grid]
            self._blocked[places] = True
            self._agents[:, e], self._prey[:, e] = places[:n], places[n:]
            self._draw(e)
        self._alive[:, rows] = True

    def _draw(self, e: np.int64 | int) -> None:
        """The random numbers of environment e's next block of steps, from its own generator."""
        rng = self._generators[e]
        self._agent_order[:, :, e] = rng.random((self._block, self._agents.shape[0])).argsort(axis=1)
        self._prey_order[:, :, e] = rng.random((self._block, self._prey.shape[0])).argsort(axis=1)
        self._rolls[:, :, e] = rng.integers(ROLLS, size=(self._block, self._prey.shape[0]))

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        chosen = np.asarray(actions).T
        now = self._elapsed % self._block
        for e in np.flatnonzero((now == 0) & (self._elapsed > 0)):
            self._draw(e)
        every = np.arange(self.num_envs)
        self._move_agents(self._moves[chosen], self._agent_order[now, :, every].T)
        captures, failed = self._hunt(
            (chosen == CATCH) & self._alive & self._can_catch,
            self._prey_order[now, :, every].T,
            self._rolls[now, :, every].T,
        )
        reward = (captures * self._settings.capture_reward + failed * self._settings.punishment).astype(np.float32)
        terminated = (self._prey == self._parked).all(axis=0) | ~(self._alive & self._can_catch).any(axis=0)
        return reward, terminated, {"captures": captures, "failed_hunts": failed}

    def _move_agents(self, moves: Ints, order: Ints) -> None:
        """moves: [N, E]; order: [N, E], who is k-th. A frozen agent is parked among walls, so that it cannot move."""
        blocked = self._blocked
        moves = np.take_along_axis(moves, order, axis=0)
        places = np.take_along_axis(self._agents, order, axis=0)
        targets = places + moves
        for here, there in zip(places, targets, strict=True):
            after = np.where(blocked.take(there), here, there)
            blocked[here] = False
            blocked[after] = True
            here[:] = after
        # A frozen agent's wall cell was cleared and set again above: it is still a wall.
        np.put_along_axis(self._agents, order, places, axis=0)

    def _hunt(self, catching: Bools, order: Ints, rolls: Ints) -> tuple[Ints, Ints]:
        """The stags' half of a step. catching: [N, E]; order, rolls: [M, E]. Returns captures and failed hunts [E]."""
        blocked = self._blocked
        bits = np.array([[1], [2], [4], [8]])
        hands = np.zeros(blocked.size, np.int8)  # 1 where somebody catches
        hands[self._agents[catching]] = 1
        places = np.take_along_axis(self._prey, order, axis=0)
        around = places[:, None] + self._neighbours[:, None]  # [M, 4, E]; a stag stands still until its turn
        counts = hands.take(around).sum(axis=1)
        needed = self._needed(around)
        for k, here in enumerate(places):
            walk = self._walks[((~blocked.take(around[k])) * bits).sum(axis=0), rolls[k]]
            captured = counts[k] >= needed[k]
            if captured.any():
                rows = np.flatnonzero(captured)
                walk[rows] = self._parked[rows] - here[rows]
                self._freeze(rows, around[k][:, rows], catching)
                # Whoever is frozen catches nothing else in this step.
                hands[around[k][:, rows]] = 0
                counts[k + 1 :, rows] = hands.take(around[k + 1 :, :, rows]).sum(axis=1)
            blocked[here] = False
            here += walk
            blocked[here] = True
        np.put_along_axis(self._prey, order, places, axis=0)
        successes = (counts >= needed).sum(axis=0)
        return successes, (counts > 0).sum(axis=0) - successes

    def _needed(self, around: Ints) -> Ints:
        """How many must catch each stag, [M, E] or [M, 1]; around [M, 4, E]: the cells beside it."""
        return np.full((len(around), 1), self._settings.catchers)

    def _freeze(self, rows: npt.NDArray[np.int64], cells: Ints, catching: Bools) -> None:
        """Takes the catching agents on `cells` [4, R] of the environments `rows` [R] off the grid."""
        caught = (self._agents[:, None, rows] == cells).any(axis=1) & catching[:, rows] & self._alive[:, rows]
        who, which = np.nonzero(caught)
        self._blocked[self._agents[who, rows[which]]] = False
        self._agents[who, rows[which]] = self._parked[rows[which]]
        self._alive[who, rows[which]] = False

    def _observe(self) -> Obs:
        e, n, size = self.num_envs, self.spec.n_agents, self._settings.size
        maps = np.zeros((self._wall.size, CHANNELS), np.float32)
        self._mark(maps)
        maps[self._parked] = 0
        agents, alive = self._agents.T, self._alive.T.copy()
        obs = self._look(maps, agents)
        obs[~alive] = 0
        inside = slice(self._pad, self._pad + size)
        state = maps.reshape(e, self._width, self._width, CHANNELS)[:, inside, inside].reshape(e, -1)
        around = agents[:, :, None] + self._neighbours
        avail = np.empty((e, n, ACTIONS), np.bool_)
        avail[:, :, :STAY] = ~self._wall.take(around)
        avail[:, :, STAY] = True
        avail[:, :, CATCH] = maps[:, 1].take(around).any(axis=2) & self._can_catch.T
        return Obs(obs, state, avail, alive)

    def _mark(self, maps: Floats) -> None:
        """Writes who stands where into maps [cells, channels]."""
        maps[self._agents, 0] = 1
        maps[self._prey, 1] = 1

    def _look(self, maps: Floats, agents: Ints) -> Floats:
        """What agents at the cells [E, N] see, [E, N, O]; parked ones anything (hence clip)."""
        windows = maps.take(agents[:, :, None] + self._window, axis=0, mode="clip")
        return windows.reshape(*agents.shape, -1)

    def render(self, index: int) -> npt.NDArray[np.uint8]:
        """Whoever can catch is blue, whoever cannot is violet, stags are brown squares; numbers are the agents'."""
        from phalanx.envs.drawing import TEAM
        from phalanx.envs.drawing_games import Token, draw_grid

        catches, n = self._can_catch[:, 0], self.spec.n_agents
        here = {who: self._standing(self._agents[who, index], index) for who in range(n)}
        stags = [place for one in self._prey[:, index] if (place := self._standing(one, index)) is not None]
        tokens = [Token(*place, STAG, is_round=False) for place in stags]
        for who, place in here.items():
            if place is not None:
                tokens.append(Token(*place, TEAM if catches[who] else BEATER, str(who)))
        groups = [("hunters", catches, TEAM), ("beaters", ~catches, BEATER)]
        legend = [
            (f"{name} {sum(here[int(who)] is not None for who in np.flatnonzero(some))}/{int(some.sum())}", fill)
            for name, some, fill in groups
            if some.any()
        ]
        return draw_grid(self._settings.size, tokens, [*legend, (f"stags {len(stags)}/{len(self._prey)}", STAG)])

    def _standing(self, cell: int, index: int) -> tuple[int, int] | None:
        """Row and column on the grid of environment `index`; None for who has left it."""
        if cell == self._parked[index]:
            return None
        row, column = divmod(int(cell - self._first[index]), self._width)
        return row - self._pad, column - self._pad
