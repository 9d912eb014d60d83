"""VMAS's scenarios, which step many environments at once. VMAS is under the GPL-3.0: users install it themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from phalanx.configs.errors import UserError
from phalanx.configs.settings import EnvSettings
from phalanx.envs.faults import FAULTS, in_words
from phalanx.envs.importing import import_library, import_object, versions
from phalanx.envs.parallel import Bounds, groups_of
from phalanx.envs.pictures import as_picture
from phalanx.envs.team import BatchedTeamEnv, Bools, Floats, Obs, Step, TeamPolicy, TeamSpec

LOG = logging.getLogger(__name__)
NEEDS = "env.name=vmas needs VMAS, which phalanx does not bring because of its licence (GPL-3.0): pip install vmas"
PROBED_STEPS = 20


class VmasSettings(EnvSettings):
    """`env.name=vmas`."""

    name: Literal["vmas"] = Field(default="vmas", description="vmas: a scenario of VMAS, which you install yourself")
    max_steps: int = Field(default=100, ge=1, description="steps after which an episode is cut off (truncated)")
    scenario: str = Field(
        default="dispersion",
        description="VMAS's name of the scenario, or module:Class of your own, whose module is imported",
    )
    continuous: bool = Field(default=False, description="continuous actions; discrete ones if not")
    reward: Literal["mean", "sum"] = Field(default="mean", description="the team's reward, over its agents")
    kwargs: dict[str, Any] = Field(default={}, description="arguments of the scenario, such as n_agents: 4")


class VmasTeam(BatchedTeamEnv):
    """E environments in one VMAS environment on the CPU; state: all observations, one after the other.

    Only resets are seeded: an episode is a function of its seed where the scenario draws nothing in a step. Where it
    does, which is tried out, the spec says that it is not reproducible.
    """

    Settings = VmasSettings

    def __init__(
        self, settings: VmasSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        self._settings = settings
        self._env = _made(settings, num_envs)
        self._seen: Sequence[Any] = self._env.reset()
        actions = list(self._env.action_space)
        self._check(actions)
        self._bounds = Bounds.of(actions) if settings.continuous else None
        names = tuple(agent.name for agent in self._env.agents)
        obs_dims = tuple(int(seen.shape[1]) for seen in self._seen)
        sizes = tuple(int(np.prod(space.shape)) if settings.continuous else int(space.n) for space in actions)
        group_ids, group_names = groups_of(names, obs_dims, sizes)
        choices = 0 if settings.continuous else max(sizes)
        self._legal: Bools = np.arange(choices) < np.array(sizes)[:, None]
        reproducible = self._draws_nothing_in_a_step(num_envs, sizes)
        if not reproducible:
            LOG.warning(
                "env.scenario=%s draws random numbers in its steps: runs are not reproducible", settings.scenario
            )
        spec = TeamSpec(
            env_name=f"vmas:{settings.scenario}",
            n_agents=len(names),
            obs_dim=max(obs_dims),
            state_dim=sum(obs_dims),
            n_actions=choices,
            episode_limit=settings.max_steps,
            agent_names=names,
            obs_dims=obs_dims,
            action_dims=sizes,
            discrete=not settings.continuous,
            group_ids=group_ids,
            group_names=group_names,
            agent_rewards=True,
            reproducible=reproducible,
            versions=versions(("vmas", "torch")),
        )
        super().__init__(spec, num_envs)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        return replace(super().step(actions), agent_reward=self._paid)

    def _check(self, actions: Sequence[Any]) -> None:
        """Refuses what cannot be padded to one array."""
        scenario = f"env.scenario={self._settings.scenario}"
        for seen in self._seen:
            if len(getattr(seen, "shape", ())) != 2:
                raise UserError(f"{scenario} shows {type(seen).__name__} instead of one vector for each agent")
        kind = "shape" if self._settings.continuous else "n"
        if not all(hasattr(space, kind) for space in actions):
            raise UserError(f"{scenario}: the actions are {actions}, but one number for each agent is needed")

    def _draws_nothing_in_a_step(self, num_envs: int, sizes: tuple[int, ...]) -> bool:
        """The same episodes twice, with other random numbers after the resets."""
        plays = []
        for later in (1, 2):
            rng, rows = np.random.default_rng(0), np.arange(num_envs)
            self._begin(rows, rows.tolist())
            self._env.seed(later)
            record = [np.concatenate([np.array(seen) for seen in self._seen], axis=1)]
            for _ in range(PROBED_STEPS):
                if self._bounds is not None:
                    chosen: Any = rng.uniform(-1, 1, (num_envs, len(sizes), max(sizes))).astype(np.float32)
                else:
                    chosen = rng.integers(sizes, size=(num_envs, len(sizes)))
                reward, _, _ = self._advance(chosen)
                record += [np.concatenate([np.array(seen) for seen in self._seen], axis=1), reward]
            plays.append(record)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*plays, strict=True))

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            self._env.seed(seed)
            # What is seen of all environments, so the last one counts.
            self._seen = self._env.reset_at(row)

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        if self._bounds is None:
            orders = [actions[:, i, None] for i in range(actions.shape[1])]
        else:
            stretched = self._bounds.stretch(actions)
            orders = [stretched[:, i, : space.shape[0]] for i, space in enumerate(self._env.action_space)]
        self._seen, rewards, done, _ = self._env.step(orders)
        # VMAS's own `wheel` pays [E, 1].
        paid = np.stack([np.asarray(reward, np.float32).reshape(len(actions)) for reward in rewards])
        self._paid = np.ascontiguousarray(paid.T)  # [E, N]
        team = paid.sum(axis=0) if self._settings.reward == "sum" else paid.mean(axis=0)
        return team, np.array(done, np.bool_), {}

    def _observe(self) -> Obs:
        spec = self.spec
        obs = np.zeros((self.num_envs, spec.n_agents, spec.obs_dim), np.float32)
        for i, seen in enumerate(self._seen):
            obs[:, i, : spec.obs_dims[i]] = np.asarray(seen)
        state = np.concatenate([obs[:, i, :size] for i, size in enumerate(spec.obs_dims)], axis=1)
        avail = np.repeat(self._legal[None], self.num_envs, axis=0)
        return Obs(obs, state, avail, np.ones((self.num_envs, spec.n_agents), np.bool_))

    def render(self, index: int) -> npt.NDArray[np.uint8] | None:
        """VMAS's own picture."""
        try:
            picture = self._env.render(mode="rgb_array", env_index=index)
            return None if picture is None else as_picture(picture)
        except Exception as error:  # of OpenGL, mostly
            self.why_no_picture = (
                f"VMAS draws with pyglet 1.5 and OpenGL (EGL where there is no display), which failed with"
                f" {type(error).__name__}: {error}"
            )
            return None


def _made(settings: VmasSettings, num_envs: int) -> Any:
    vmas = import_library("vmas", NEEDS)
    scenario: Any = settings.scenario
    if ":" in scenario:
        scenario = import_object(scenario, "env.scenario", "my_package.my_module:MyScenario")
    try:
        return vmas.make_env(
            scenario() if callable(scenario) else scenario,
            num_envs=num_envs,
            device="cpu",
            continuous_actions=settings.continuous,
            dict_spaces=False,
            max_steps=None,  # the limit is kept here
            seed=0,
            **settings.kwargs,
        )
    except FAULTS as error:
        raise UserError(
            f"env.scenario={settings.scenario} cannot be made with env.kwargs={settings.kwargs}: {in_words(error)}"
        ) from error
