"""An environment of somebody's own while it is trained on: an answer of a wrong shape would be spread in silence."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import RunFailed, UserError
from phalanx.envs.faults import FAULTS, in_words
from phalanx.envs.team import Obs, Step, TeamEnv, TeamSpec
from phalanx.envs.wrappers import Wrapper

LOG = logging.getLogger(__name__)
NUMBERS, TRUTH = "fiu", "b"
_MEANING = {NUMBERS: "numbers", TRUTH: "booleans"}


class Watched(Wrapper):
    """Looks at the form of what comes back, which costs a few microseconds in a vector step. What is in the arrays is
    `phalanx check-env`'s to find."""

    def __init__(self, env: TeamEnv, place: str) -> None:
        """`place` is the name of the environment's class. A UserError where the environment does not say what it is."""
        for name, kind in (("spec", TeamSpec), ("num_envs", int)):
            if not isinstance(getattr(env, name, None), kind):
                found = repr(getattr(env, name)) if hasattr(env, name) else "not there afterwards"
                raise UserError(
                    f"env.name={place}: __init__ must set self.{name} to a {kind.__name__}, but it is {found}"
                )
        super().__init__(env)
        self._place = place

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        obs = self.env.reset(seeds)
        self._observed(obs, self.num_envs, "reset")
        return obs

    def step(self, actions: npt.NDArray[Any]) -> Step:
        step = self.env.step(actions)
        rows = (self.num_envs,)
        self._array("step: reward", step.reward, rows, NUMBERS)
        self._array("step: terminated", step.terminated, rows, TRUTH)
        self._array("step: truncated", step.truncated, rows, TRUTH)
        if self.spec.agent_rewards:
            self._array("step: agent_reward", step.agent_reward, (*rows, self.spec.n_agents), NUMBERS)
        for name in (*self.spec.metrics, *(("win",) if self.spec.has_win else ())):
            self._array(f"step: info[{name!r}]", step.info.get(name), rows, NUMBERS + TRUTH)
        self._observed(step.next, self.num_envs, "step: next")
        ended = int(np.count_nonzero(step.ended))
        if ended:
            self._observed(step.final, ended, "step: final")
        return step

    def close(self) -> None:
        """A finished run must not fail by what cannot be closed."""
        try:
            self.env.close()
        except FAULTS as error:
            LOG.warning("env.name=%s: close() failed: %s", self._place, in_words(error))

    def _observed(self, obs: Obs | None, rows: int, where: str) -> None:
        spec = self.spec
        if not isinstance(obs, Obs):
            raise self._broken(f"{where} is {obs!r}, not an Obs of {rows} environments")
        self._array(f"{where}: obs", obs.obs, (rows, spec.n_agents, spec.obs_dim), NUMBERS)
        self._array(f"{where}: state", obs.state, (rows, spec.state_dim), NUMBERS)
        self._array(f"{where}: avail", obs.avail, (rows, spec.n_agents, spec.n_actions), TRUTH)
        self._array(f"{where}: alive", obs.alive, (rows, spec.n_agents), TRUTH)
        if spec.discrete and not obs.avail.any(axis=2).all():
            row, agent = np.argwhere(~obs.avail.any(axis=2))[0]
            raise self._broken(f"{where}: agent {agent} of environment {row} has no legal action")

    def _array(self, what: str, given: Any, shape: tuple[int, ...], kinds: str) -> None:
        if isinstance(given, np.ndarray) and given.shape == shape and given.dtype.kind in kinds:
            return
        found = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
        meant = " or ".join(meaning for kind, meaning in _MEANING.items() if kind in kinds)
        raise self._broken(f"{what} is {found}, not an array of {meant} {shape}")

    def _broken(self, what: str) -> RunFailed:
        return RunFailed(
            f"environment {self.spec.env_name}: {what}; `phalanx check-env {self._place}` tells all that is wrong"
        )
