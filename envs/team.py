"""TeamSpec and TeamEnv: what every environment of phalanx is.

Legend of shapes, here and everywhere: E environments stepped together, N agents, A actions, O observation size,
S state size, T time, B batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Columns = tuple[int, ...]


@dataclass(frozen=True)
class EntityView:
    """Which numbers of an agent's flat observation describe whom: what networks that look at entities need.

    Every agent's observation has this layout. Entities of one kind have equally many columns, in the same order of
    meaning, so that they can be interchanged. ValueError where that is not so.
    """

    own: Columns  # of the agent itself, and whatever belongs to no entity
    allies: tuple[Columns, ...] = ()  # one for each other member of the team
    enemies: tuple[Columns, ...] = ()
    objects: tuple[Columns, ...] = ()  # what is neither: landmarks, obstacles, cells of a grid
    object_marks: tuple[tuple[float, ...], ...] = ()  # constants that go with each object, such as a cell's place
    enemy_actions: tuple[int, ...] = ()  # the action that is aimed at each enemy; () where no action is

    def __post_init__(self) -> None:
        for kind in ("allies", "enemies", "objects", "object_marks"):
            if len({len(columns) for columns in getattr(self, kind)}) > 1:
                raise ValueError(f"{kind} have unequally many numbers: {getattr(self, kind)}")
        for kind, of in (("object_marks", "objects"), ("enemy_actions", "enemies")):
            if getattr(self, kind) and len(getattr(self, kind)) != len(getattr(self, of)):
                raise ValueError(f"{kind} has {len(getattr(self, kind))} entries for {len(getattr(self, of))} {of}")
        if len(set(self.enemy_actions)) != len(self.enemy_actions):
            raise ValueError(f"enemy_actions name an action twice: {self.enemy_actions}")

    @property
    def columns(self) -> Columns:
        """All that are named, in ascending order; some may be named twice."""
        groups = (self.own, *self.allies, *self.enemies, *self.objects)
        return tuple(sorted(column for group in groups for column in group))


@dataclass(frozen=True)
class TeamSpec:
    """What an algorithm may know of an environment before it runs.

    Unequal agents are padded to the largest: `obs_dims` and `action_dims` hold each agent's own sizes. The agent's
    id and last action are *not* part of the observation: the model adds them.
    """

    env_name: str
    n_agents: int
    obs_dim: int
    state_dim: int
    n_actions: int  # 0 where actions are continuous
    episode_limit: int
    agent_names: tuple[str, ...]
    obs_dims: tuple[int, ...]
    action_dims: tuple[int, ...]
    discrete: bool = True
    group_ids: tuple[int, ...] = ()  # one per agent; () stands for one group
    group_names: tuple[str, ...] = ()
    groups_vary: bool = False  # who is of which kind is drawn anew in every episode, so that there are no group_ids
    kind_columns: Columns = ()  # the observed numbers that say so, one for each of group_names: 1 for one's own, else 0
    has_win: bool = False  # `Step.info["win"]` is meaningful
    agent_rewards: bool = False  # every `Step` has `agent_reward`; otherwise it is not looked at
    metrics: tuple[str, ...] = ()  # keys of `Step.info` that are summed over an episode and reported
    obs_range: tuple[float, float] | None = None  # least and greatest number in an observation, padding included
    state_range: tuple[float, float] | None = None  # the same of the state; None: not declared
    reproducible: bool = True  # False: the environment cannot be seeded
    versions: Mapping[str, str] = field(default_factory=dict)  # of the simulator, for metadata.json
    entities: EntityView | None = None  # None: the observation is not made of entities

    def groups(self, key: str) -> tuple[int, ...]:
        """Each agent's group. A UserError where no group lasts; `key` is the setting that needs them."""
        if self.groups_vary:
            raise UserError(
                f"{key} needs groups that last, but in {self.env_name} the kinds of agents are drawn anew in every"
                " episode: each agent sees its own kind in its observation, so choose a setting that asks for no groups"
                " (agent.sharing=full or full_id), or an environment whose agents keep their kinds"
            )
        return self.group_ids or (0,) * self.n_agents

    def __post_init__(self) -> None:
        if self.groups_vary and self.group_ids:
            raise ValueError(f"{self.env_name} gives group_ids {self.group_ids}, and says that groups vary")
        if self.kind_columns and not (self.groups_vary and len(self.kind_columns) == len(self.group_names)):
            raise ValueError(
                f"{self.env_name} names {len(self.kind_columns)} kind_columns for {len(self.group_names)} group_names,"
                f" and groups_vary={self.groups_vary}: there must be one for each name, and only where groups vary"
            )
        if not all(0 <= column < self.obs_dim for column in self.kind_columns):
            raise ValueError(f"{self.env_name}: kind_columns {self.kind_columns} of {self.obs_dim} observed numbers")
        if self.entities is None:
            return
        outside = [column for column in self.entities.columns if not 0 <= column < self.obs_dim]
        unknown = [action for action in self.entities.enemy_actions if not 0 <= action < self.n_actions]
        if outside or unknown:
            raise ValueError(
                f"the entity view of {self.env_name} names columns {outside} outside of its {self.obs_dim} observed"
                f" numbers, or actions {unknown} outside of its {self.n_actions}"
            )


@dataclass
class Obs:
    """What the team sees. Arrays are the receiver's to keep: an environment never writes to them again."""

    obs: Floats  # [E, N, O]
    state: Floats  # [E, S]
    avail: Bools  # [E, N, A]; every row has a legal action ([E, N, 0] where continuous)
    alive: Bools  # [E, N]

    def rows(self, index: npt.NDArray[Any]) -> Obs:
        """A copy of the rows `index` (integers or booleans over E)."""
        return Obs(self.obs[index].copy(), self.state[index].copy(), self.avail[index].copy(), self.alive[index].copy())


@dataclass
class Step:
    """The outcome of one vector step, with same-step autoreset.

    `terminated` and `truncated` exclude each other. Where one of them is set, `next` holds the first observation of
    the next episode and `final` the last one of the ended episode: row `j` of `final` belongs to the `j`-th ended
    environment in ascending order (`np.flatnonzero(terminated | truncated)`); None where none ended.
    """

    next: Obs
    reward: Floats  # [E], the team's
    terminated: Bools  # [E]
    truncated: Bools  # [E]
    final: Obs | None = None
    info: dict[str, npt.NDArray[Any]] = field(default_factory=dict)  # [E] each: spec.metrics, "win", "crashed"
    agent_reward: Floats | None = None  # [E, N], where agents are rewarded one by one (`spec.agent_rewards`)
    raw_reward: Floats | None = None  # [E], `reward` without the noise on it (`env.noise.reward_gaussian`)

    @property
    def earned(self) -> Floats:
        """The reward that counts as the team's return: without noise."""
        return self.reward if self.raw_reward is None else self.raw_reward

    @property
    def ended(self) -> Bools:
        return self.terminated | self.truncated


class TeamEnv(ABC):
    """A vector of E environments seen as one team; numpy in and out."""

    spec: TeamSpec
    num_envs: int
    why_no_picture: str = "give the environment a render() that returns pictures"
    """What is said where somebody wants pictures and `render` gives none."""

    _filmed: int = -1
    _last_picture: npt.NDArray[np.uint8] | None = None

    @abstractmethod
    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        """Starts an episode in every environment. `seeds[e]` yields the seeds of environment e's episodes, one for
        each, autoreset included (see `phalanx.envs.seeding.EpisodeSeeds`)."""

    @abstractmethod
    def step(self, actions: npt.NDArray[Any]) -> Step:
        """actions: [E, N] int (discrete) or [E, N, D] float32 (continuous). The latter are in [-1, 1], which the
        environment stretches to its own bounds; what lies outside is cut, and so are components that an agent does not
        have."""

    def render(self, index: int) -> npt.NDArray[np.uint8] | None:
        """A picture [H, W, 3] of environment `index`, or None where there is no renderer."""
        return None

    def film(self, index: int) -> None:
        """From now on the last moment of every episode of environment `index` (-1: of none) is drawn before the next
        episode takes its place. What was drawn before is forgotten."""
        self._filmed, self._last_picture = index, None

    def last_picture(self) -> npt.NDArray[np.uint8] | None:
        """How the newest episode of the environment that is filmed ended; None where that was not drawn."""
        return self._last_picture

    def _draw_last(self, rows: npt.NDArray[np.int64]) -> None:
        """To be called when the episodes in `rows` have ended and those that follow have not begun."""
        if self._filmed >= 0 and self._filmed in rows:
            self._last_picture = self.render(self._filmed)

    def close(self) -> None:
        """Releases what the environment holds (processes, windows)."""


class TeamPolicy(Protocol):
    """Whoever can drive a team greedily; recurrent state is kept inside, one row for each environment."""

    def reset(self, num_envs: int) -> None: ...

    def reset_rows(self, rows: npt.NDArray[Any]) -> None: ...

    def act(self, obs: Floats, avail: Bools) -> npt.NDArray[Any]: ...


class BatchedTeamEnv(TeamEnv):
    """Autoreset and time limit for environments written in batched numpy.

    A subclass gives `_begin` (start episodes in some rows), `_advance` (one step of all rows) and `_observe`
    (fresh arrays of all rows).
    """

    def __init__(self, spec: TeamSpec, num_envs: int) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._seeds: Sequence[Iterator[int]] = ()

    @abstractmethod
    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Starts the episode with seed `seeds[j]` in environment `rows[j]`."""

    @abstractmethod
    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        """One step of every environment: reward [E], terminated [E], info of [E] arrays."""

    @abstractmethod
    def _observe(self) -> Obs:
        """What every environment shows now, in arrays of its own."""

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        if len(seeds) != self.num_envs:
            raise ValueError(f"got {len(seeds)} seed sequences for {self.num_envs} environments")
        self._seeds = seeds
        self._begin_rows(np.arange(self.num_envs))
        return self._observe()

    def step(self, actions: npt.NDArray[Any]) -> Step:
        reward, terminated, info = self._advance(actions)
        self._elapsed += 1
        truncated = (self._elapsed >= self.spec.episode_limit) & ~terminated
        ended = terminated | truncated
        after = self._observe()
        if not ended.any():
            return Step(after, reward, terminated, truncated, None, info)
        rows = np.flatnonzero(ended)
        final = after.rows(rows)
        self._draw_last(rows)
        self._begin_rows(rows)
        return Step(self._observe(), reward, terminated, truncated, final, info)

    def _begin_rows(self, rows: npt.NDArray[np.int64]) -> None:
        self._begin(rows, [next(self._seeds[e]) for e in rows])
        self._elapsed[rows] = 0
