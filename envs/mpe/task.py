"""What all particle tasks share: settings, starting positions, observations as one gather, opponents, pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from phalanx.configs.errors import UserError
from phalanx.configs.settings import EnvSettings
from phalanx.envs.mpe.opponents import Opponents, Random, Scripted, Still, Trained, shipped
from phalanx.envs.mpe.physics import N_ACTIONS, Bodies, Doubles, Integrator, ParticleWorld, Rows
from phalanx.envs.opponents import checkpoint_path, load_opponents, parse_opponents
from phalanx.envs.team import BatchedTeamEnv, Bools, Columns, EntityView, Floats, Obs, Step, TeamPolicy, TeamSpec

LoadPolicy = Callable[[str], TeamPolicy]
OPPONENTS = ("scripted", "trained", "random", "still", "learning", "checkpoint")
LEARNING = "learning"
SIDES = ("team", "opponents")


def consecutive(first: int, count: int, size: int = 2) -> tuple[Columns, ...]:
    """Columns of `count` entities that lie one after the other from `first` on, `size` numbers each."""
    return tuple(tuple(range(first + size * k, first + size * (k + 1))) for k in range(count))


class MpeSettings(EnvSettings):
    """Settings of every particle task."""

    reward: Literal["shaped", "sparse"] = Field(
        default="shaped", description="shaped: distances count; sparse: only what was reached or touched counts"
    )
    integrator: Integrator = Field(
        default="mpe2",
        description="mpe2: bodies move, then their velocity changes; original: velocity first, as in OpenAI's particle"
        " environments and the papers built on them (curves of the two are not comparable)",
    )


class OpposedSettings(MpeSettings):
    """Settings of the particle tasks with agents that are not the team's."""

    opponents: str = Field(
        default="scripted",
        description="who drives the other side: scripted; trained (a policy that comes with the task); random; still;"
        " checkpoint:DIR (the policy of run DIR, one side's or both's); or learning: both sides are the team, as its"
        " groups `team` and `opponents`, each agent paid for its own side (for algorithm.critic.rewards=groups)",
    )

    @property
    def learning_opponents(self) -> bool:
        return self.opponents == LEARNING

    @field_validator("opponents")
    @classmethod
    def _opponents_are_known(cls, value: str) -> str:
        try:
            parse_opponents(value, OPPONENTS)
        except UserError as error:
            raise ValueError(str(error)) from error  # what pydantic reports together with the key
        return value


@dataclass(frozen=True)
class Scene:
    """Who and what is in a task. The team's members are neighbours and see equally many numbers."""

    bodies: Bodies
    agent_names: tuple[str, ...]  # all agents
    team: slice
    opponents: slice  # empty where there are none; driven by `settings.opponents`
    kinds: tuple[str, ...]  # of each team member: agents of one kind are interchangeable
    roles: tuple[str, ...]  # of each body, for pictures (`phalanx.envs.drawing.ROLES`)
    n_extra: int = 0  # rows of `ParticleWorld.extra`
    metrics: tuple[str, ...] = ()


def both_sides(scene: Scene) -> Scene:
    """The same scene where everybody is of the team, in two groups."""
    agents = range(scene.bodies.n_agents)
    kinds = tuple(SIDES[0] if agent in agents[scene.team] else SIDES[1] for agent in agents)
    return replace(scene, team=slice(0, len(agents)), opponents=slice(len(agents), len(agents)), kinds=kinds)


class ParticleTask(BatchedTeamEnv):
    """A cooperative particle task: 5 actions (nothing, left, right, down, up), 25 steps, ends by truncation only.

    The state is the concatenation of what *all* agents see, opponents included, in mpe2's order. The same integer
    seed starts the same episode as mpe2's `reset(seed)`.
    """

    pays_agents = False  # whether the members of the team are paid differently: `_score` then sets `_paid`
    _paid: Floats | None = None  # [E, N]
    _all_paid: Floats | None = None  # [E, A], where both sides learn

    def __init__(
        self, settings: MpeSettings, num_envs: int, scene: Scene, load_policy: LoadPolicy | None = None
    ) -> None:
        self._sides = scene.team, scene.opponents
        self._all_learn = settings.learning_opponents
        if self._all_learn:
            scene = both_sides(scene)
            self.pays_agents = True
        self.settings, self.scene = settings, scene
        self.world = ParticleWorld(scene.bodies, num_envs, settings.integrator, scene.n_extra)
        seen = [self._seen(agent) for agent in range(scene.bodies.n_agents)]
        self._state_rows: Rows = np.concatenate(seen)
        self._opponent_rows: Rows = np.array(seen[scene.opponents], dtype=np.int64)  # [n, O]
        team_dims = [len(rows) for rows in seen[scene.team]]
        first = sum(len(rows) for rows in seen[: scene.team.start])
        self._team_columns = slice(first, first + sum(team_dims))
        super().__init__(self._make_spec(team_dims, len(self._state_rows)), num_envs)
        self._opponents = self._make_opponents(load_policy)

    def _make_spec(self, team_dims: list[int], state_dim: int) -> TeamSpec:
        kinds = list(SIDES) if self._all_learn else list(dict.fromkeys(self.scene.kinds))
        return TeamSpec(
            env_name=self.settings.name,
            n_agents=len(team_dims),
            obs_dim=max(team_dims),
            state_dim=state_dim,
            n_actions=N_ACTIONS,
            episode_limit=self.settings.max_steps,
            agent_names=self.scene.agent_names[self.scene.team],
            obs_dims=tuple(team_dims),
            action_dims=(N_ACTIONS,) * len(team_dims),
            group_ids=tuple(kinds.index(kind) for kind in self.scene.kinds),
            group_names=tuple(kinds),
            agent_rewards=self.pays_agents,
            metrics=self.scene.metrics,
            entities=None if self._all_learn else self._entities(),
        )

    def _entities(self) -> EntityView | None:
        """Who is who in what a member of the team sees; None where the task does not say."""
        return None

    def _make_opponents(self, load_policy: LoadPolicy | None) -> Opponents | None:
        if not isinstance(self.settings, OpposedSettings) or self._all_learn:
            return None
        n, obs_dim = self._opponent_rows.shape
        directory = checkpoint_path(self.settings.opponents)
        if directory is not None or self.settings.opponents == "trained":
            policy = (
                shipped(self.settings.name, obs_dim)
                if directory is None
                else load_opponents(
                    load_policy, directory, n, obs_dim, N_ACTIONS, self.scene.agent_names, self.scene.opponents
                )
            )
            return Trained(policy, self.num_envs, n, self._observe_opponents)
        if self.settings.opponents == "random":
            return Random(self.num_envs, n, self.spec.episode_limit)
        return Still(self.num_envs, n) if self.settings.opponents == "still" else Scripted(self._script)

    @abstractmethod
    def _seen(self, agent: int) -> list[int]:
        """The rows of `world.rows` that `agent` observes, in order."""

    @abstractmethod
    def _draw(self, rng: np.random.Generator, env: int) -> Doubles:
        """Starting positions [M, 2] of an episode of environment `env`."""

    @abstractmethod
    def _score(self) -> tuple[Doubles, dict[str, npt.NDArray[Any]]]:
        """The team's reward [E] in the present state, and `Step.info`."""

    def _score_opponents(self) -> Doubles:
        """What each opponent is paid in the present state, [n, E]: where both sides learn."""
        raise NotImplementedError(f"{self.settings.name} has no opponents")

    def _derive(self) -> None:
        """Fills `world.extra` from the present state, where a task shows more than positions and velocities."""

    def _script(self) -> npt.NDArray[np.integer]:
        """Actions [n, E] of scripted opponents."""
        raise NotImplementedError(f"{self.settings.name} has no opponents")

    def step(self, actions: npt.NDArray[Any]) -> Step:
        """actions [E, N] of the team; the opponents choose theirs in the same instant."""
        if self._opponents is None:
            return self.step_all(actions)
        everyone = np.empty((self.num_envs, self.world.n_agents), dtype=np.int64)
        everyone[:, self.scene.team] = actions
        everyone[:, self.scene.opponents] = self._opponents.act(self._elapsed)
        return self.step_all(everyone)

    def step_all(self, actions: npt.NDArray[Any]) -> Step:
        """`step` with the actions [E, A] of all agents given, opponents included, in mpe2's order."""
        step = super().step(actions)
        paid = self._all_paid if self._all_learn else self._paid
        return replace(step, agent_reward=paid) if self.pays_agents else step

    def _begin(self, rows: Rows, seeds: Sequence[int]) -> None:
        # gymnasium's way from an integer to a generator, which is mpe2's.
        draw = [
            self._draw(np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))), int(row))
            for row, seed in zip(rows, seeds, strict=True)
        ]
        self.world.place(rows, np.array(draw))
        self._derive()
        if self._opponents is not None:
            self._opponents.begin(rows, seeds)

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        self.world.step(actions.T)
        self._derive()
        reward, info = self._score()
        if self._all_learn:
            self._pay_both(reward)
        return reward.astype(np.float32), np.zeros(self.num_envs, dtype=np.bool_), info

    def _pay_both(self, reward: Doubles) -> None:
        team, opponents = self._sides
        paid: Floats = np.empty((self.num_envs, self.world.n_agents), np.float32)
        paid[:, team] = reward[:, None] if self._paid is None else self._paid
        paid[:, opponents] = self._score_opponents().T
        self._all_paid = paid

    def _observe(self) -> Obs:
        spec, num_envs = self.spec, self.num_envs
        state = self._gather(self._state_rows)
        if self._all_learn:  # not all see equally much
            obs = np.zeros((num_envs, spec.n_agents, spec.obs_dim), np.float32)
            for agent, (size, end) in enumerate(zip(spec.obs_dims, np.cumsum(spec.obs_dims), strict=True)):
                obs[:, agent, :size] = state[:, end - size : end]
        else:
            obs = state[:, self._team_columns].copy().reshape(num_envs, spec.n_agents, spec.obs_dim)
        avail = np.ones((num_envs, spec.n_agents, N_ACTIONS), dtype=np.bool_)
        return Obs(obs, state, avail, np.ones((num_envs, spec.n_agents), dtype=np.bool_))

    def _observe_opponents(self) -> Floats:
        return self._gather(self._opponent_rows.ravel()).reshape(self.num_envs, *self._opponent_rows.shape)

    def _gather(self, rows: Rows) -> Floats:
        """[E, len(rows)]: what the rows hold now, in an array of its own."""
        return np.ascontiguousarray(self.world.rows.take(rows, axis=0).astype(np.float32).T)

    def render(self, index: int) -> npt.NDArray[np.uint8]:
        from phalanx.envs.drawing import ROLES, draw_world

        team, roles = range(self.scene.bodies.n_agents)[self.scene.team], self._roles(index)
        learning = {roles[body] for body in team}
        legend = [(f"{r} (team)" if r in learning else r, fill) for r, fill in ROLES.items() if r in roles]
        numbers = {body: str(i) for i, body in enumerate(team)}
        return draw_world(self.world.pos[:, :, index].T, self.scene.bodies.sizes, roles, numbers=numbers, legend=legend)

    def _roles(self, index: int) -> tuple[str, ...]:
        return self.scene.roles
