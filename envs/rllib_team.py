"""RLlib's multi-agent environments, by the form of what they take and return: nothing of RLlib is imported here."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from phalanx.configs.errors import RunFailed, UserError
from phalanx.envs.importing import import_object
from phalanx.envs.parallel import Source
from phalanx.envs.parallel_calls import are_dicts, can_be_seeded, in_short
from phalanx.envs.parallel_settings import TwoSidedSettings
from phalanx.envs.parallel_team import ParallelTeam
from phalanx.envs.team import TeamPolicy

Everyone = dict[str, Any]


class RllibSettings(TwoSidedSettings):
    """`env.name=rllib`."""

    name: Literal["rllib"] = Field(default="rllib", description="rllib: any MultiAgentEnv of RLlib")
    module: str = Field(description="the class, as module:Class; the module is imported, so its code runs")
    config: dict[str, Any] = Field(
        default={}, description="env_config: the class's only argument (left out where the class takes none)"
    )


class RllibTeam(ParallelTeam):
    """E MultiAgentEnvs in one process.

    Agents that the dict of observations leaves out, although their episode has not ended, wait for their turn: they
    stay alive, see what they saw last and have only action 0, which is not sent; so do they when the episode is cut
    off meanwhile. Ends: each agent's own flag or `__all__`; as in RLlib, who has ended does not come back before the
    next episode.
    """

    Settings = RllibSettings

    def __init__(
        self, settings: RllibSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        label = f"env.module={settings.module}"
        made = import_object(settings.module, "env.module", "my_package.my_module:MyEnv")
        if not callable(made):
            raise UserError(f"{label} is {type(made).__name__}, not a class of environments")
        module = settings.module.partition(":")[0]
        scripted = getattr(sys.modules[module], "scripted_policy", None)
        source = Source(
            name=f"rllib:{settings.module}",
            label=label,
            make=lambda: MultiAgent(made, settings.config, label),
            arguments=settings.config,
            argument_key="env.config",
            packages=("ray", module.partition(".")[0]),
            scripted=scripted if callable(scripted) else None,
        )
        super().__init__(source, settings, num_envs, load_policy)


class MultiAgent:
    """One MultiAgentEnv in the form of the Parallel API. Agents' ids may be anything; their names are `str(id)`."""

    def __init__(self, made: Callable[..., Any], config: Mapping[str, Any], label: str) -> None:
        self._env = _constructed(made, config)
        self._label = label
        self._seeded = can_be_seeded(self._env)
        self._ids = {str(agent): agent for agent in _agent_ids(self._env)}
        if not self._ids:  # older classes tell by their first observations
            self._ids = {str(agent): agent for agent in self._first(None)[0]}
        self.possible_agents = list(self._ids)
        self.agents: list[str] = []
        self.render_mode = getattr(self._env, "render_mode", None)
        self._spaces = {name: self._space("observation", agent) for name, agent in self._ids.items()}
        self._moves = {name: self._space("action", agent) for name, agent in self._ids.items()}
        self._asked: set[str] = set()  # who acts next
        self._last: Everyone = {}  # what everybody saw last

    def __getattr__(self, name: str) -> Any:
        # How long episodes last, where the environment says so.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._env, name)

    def observation_space(self, agent: str) -> Any:
        return self._spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self._moves[agent]

    def reset(self, seed: int | None = None) -> tuple[Everyone, Everyone]:
        observations, infos = self._first(seed)
        self.agents = list(self.possible_agents)
        self._last = {}
        return self._see(observations, infos, self.agents)

    def step(self, actions: Everyone) -> tuple[Everyone, Everyone, Everyone, Everyone, Everyone]:
        sent = {self._ids[name]: action for name, action in actions.items() if name in self._asked}
        answer = self._env.step(sent)
        if not are_dicts(answer, 5):
            raise RunFailed(
                f"{self._label} must have RLlib's API since Ray 2.3, whose step returns five dicts (observations,"
                f" rewards, terminateds, truncateds, infos); this one returned {in_short(answer)}"
            )
        observations, rewards, terminated, truncated, infos = answer
        over, cut = self._flags(terminated), self._flags(truncated)
        present = self.agents
        self.agents = [name for name in present if not (over[name] or cut[name])]
        seen, told = self._see(observations, infos, [name for name in present if not over[name]])
        pays = {str(agent): pay for agent, pay in rewards.items() if pay is not None}
        return seen, pays, {name: over[name] for name in present}, {name: cut[name] for name in present}, told

    def state(self) -> Any:
        if not callable(getattr(self._env, "state", None)):
            raise NotImplementedError
        return self._env.state()

    def close(self) -> None:
        close = getattr(self._env, "close", None)
        if callable(close):
            close()

    def _first(self, seed: int | None) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
        answer = self._env.reset(seed=seed) if self._seeded else self._env.reset()
        if not are_dicts(answer, 2):
            raise RunFailed(
                f"{self._label} must have RLlib's API since Ray 2.3, whose reset returns two dicts (observations,"
                f" infos); this one returned {in_short(answer)}"
            )
        return answer  # type: ignore[no-any-return]

    def _flags(self, given: Mapping[Any, Any]) -> dict[str, bool]:
        everyone = bool(given.get("__all__", False))
        return {name: everyone or bool(given.get(agent, False)) for name, agent in self._ids.items()}

    def _see(
        self, observations: Mapping[Any, Any], infos: Mapping[Any, Any], there: list[str]
    ) -> tuple[Everyone, Everyone]:
        """What everybody who is `there` sees; who is not asked to act sees what it saw last."""
        fresh = {str(agent): seen for agent, seen in observations.items()}
        unknown = sorted(set(fresh) - set(self._ids))
        if unknown:
            raise RunFailed(
                f"{self._label} shows something to {', '.join(unknown)}, but its agents are {', '.join(self._ids)}:"
                " name all agents that can ever appear in possible_agents"
            )
        self._asked = set(fresh)
        self._last |= fresh
        told = {str(agent): info for agent, info in infos.items()}
        for name in there:
            if name not in fresh:
                if name not in self._last:
                    self._last[name] = _nothing(self._spaces[name])
                self._last[name], told[name] = self._waiting(name)
        return {name: self._last[name] for name in self.possible_agents if name in fresh or name in there}, told

    def _waiting(self, name: str) -> tuple[Any, Everyone]:
        """Observation and info of who is not asked to act: only action 0 is legal."""
        seen, space = self._last[name], self._moves[name]
        choices = int(getattr(space, "n", 0))
        mask = np.arange(choices) == 0
        if isinstance(seen, Mapping) and "action_mask" in seen:
            return {**seen, "action_mask": mask}, {}
        return seen, {"action_mask": mask} if choices else {}

    def _space(self, kind: str, agent: Any) -> Any:
        from gymnasium.spaces import Dict

        by_agent, common = getattr(self._env, f"{kind}_spaces", None), getattr(self._env, f"{kind}_space", None)
        for spaces in (by_agent, common):
            # For a Dict space, `in` asks something else.
            named = spaces.spaces if isinstance(spaces, Dict) else spaces
            if isinstance(named, Mapping) and agent in named:
                return named[agent]
        # A method of that name is PettingZoo's; a plain space is meant for everybody.
        space = common(agent) if callable(common) else common
        if space is None:
            raise UserError(f"{self._label} has neither {kind}_spaces[{agent!r}] nor {kind}_space")
        return space


def _constructed(made: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    try:
        parameters = inspect.signature(made).parameters
    except (TypeError, ValueError):
        return made(dict(config))
    return made(dict(config)) if parameters or config else made()


def _agent_ids(env: Any) -> list[Any]:
    """All agents that an environment speaks of, in its order where it has one; [] where it says nothing."""
    for key in ("possible_agents", "observation_spaces", "observation_space", "agents", "_agent_ids"):
        named = getattr(env, key, None)
        if key.startswith("observation") and not isinstance(named, Mapping):
            continue
        if named:
            return sorted(named, key=str) if isinstance(named, set | frozenset) else list(named)
    return []


def _nothing(space: Any) -> Any:
    """Zeros in the form of the space."""
    from gymnasium.spaces import flatdim, unflatten

    return unflatten(space, np.zeros(flatdim(space)))
