"""The acting side of methods whose actors are policies: numpy in, numpy out, all that is random from numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.algorithms.common.actors import ActingNetworks
from phalanx.algorithms.common.distributions import LOG_STD_RANGE
from phalanx.algorithms.common.policy import NetworkPolicy, RecurrentState, explore
from phalanx.envs.team import Bools, Floats, TeamSpec

Actions = npt.NDArray[Any]
"""int64 [E, N], or float32 [E, N, D]."""

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class ActorPolicy(NetworkPolicy[ActingNetworks]):
    """Greedy (the distributions' mode) for ε = 0. For ε > 0, however large:

    * on-policy methods (`noise` None) draw from the policy, and `log_prob` says how likely what was drawn is;
    * off-policy ones play something uniformly random with probability ε, for each agent by itself, and otherwise draw
      from the policy. A deterministic one gets normal noise of deviation `noise` (half the actions' range is 1), which
      is cut to the range; no other policy looks at how large `noise` is.

    As many numbers are drawn in every step, so what a stream plays depends on its own generator alone.
    """

    def __init__(self, spec: TeamSpec, actors: ActingNetworks, noise: float | None = None) -> None:
        super().__init__(spec, actors)
        self._noise = noise
        used = actors.used()
        self._used = None if used is None else used.numpy().astype(np.float32)
        self._read_deviations()

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        super().load_weights(weights)
        self._read_deviations()

    def _read_deviations(self) -> None:
        known = self.agents.log_stds()
        self._log_std = None if known is None else known.numpy().copy()

    def act(
        self, obs: Floats, state: RecurrentState, avail: Bools, rng: np.random.Generator, epsilon: float
    ) -> Actions:
        outputs: Floats = self.outputs(obs, state, rng)[0].numpy()
        actions: Actions
        if self.spec.discrete:
            actions = self._choose(outputs, avail, rng, epsilon)
        else:
            actions = self._move(outputs, rng, epsilon)
        self.remember(state, actions)
        return actions

    def _choose(self, logits: Floats, avail: Bools, rng: np.random.Generator, epsilon: float) -> npt.NDArray[np.int64]:
        """logits, avail: [E, N, A]. Returns [E, N]."""
        logits = np.where(avail, logits, -np.inf)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        if epsilon > 0:
            # In double precision a uniform number below 1 times the whole is always less than the whole, and the first
            # action whose cumulated share is more cannot be one with a share of zero.
            heights = np.exp(shifted, dtype=np.float64).cumsum(axis=-1)
            mark = rng.random(shifted.shape[:-1]) * heights[..., -1]
            chosen: npt.NDArray[np.int64] = (heights <= mark[..., None]).sum(axis=-1)
        else:
            chosen = shifted.argmax(axis=-1)
        if self._noise is not None:
            return explore(chosen, avail, rng, epsilon)
        of_chosen = np.take_along_axis(shifted, chosen[..., None], -1)[..., 0]
        self.log_prob = of_chosen - np.log(np.exp(shifted).sum(axis=-1))
        return chosen

    def _move(self, outputs: Floats, rng: np.random.Generator, epsilon: float) -> Floats:
        """outputs: [E, N, X]. Returns [E, N, D]."""
        head, size = self.agents.head, self._last_actions.stop - self._last_actions.start
        mean = outputs[..., :size]
        drawn = rng.standard_normal(mean.shape, np.float32) if epsilon > 0 else np.zeros_like(mean)
        if head == "gaussian":
            assert self._log_std is not None
            actions = mean + np.exp(self._log_std) * drawn
            densities = -0.5 * drawn * drawn - self._log_std - np.float32(_HALF_LOG_TAU)
            self.log_prob = self._cut(densities).sum(axis=-1)
        elif head == "tanh_gaussian":
            actions = np.tanh(mean + np.exp(outputs[..., size:].clip(*LOG_STD_RANGE)) * drawn)
        else:
            actions = (np.tanh(mean) + np.float32(self._noise or 0.0) * drawn).clip(-1, 1)
        if self._noise is not None and epsilon > 0:
            anything = rng.uniform(-1, 1, mean.shape).astype(np.float32)
            actions = np.where(rng.random(mean.shape[:-1])[..., None] < epsilon, anything, actions)
        return self._cut(actions)

    def _cut(self, values: Floats) -> Floats:
        """Without the components that agents do not have."""
        return values if self._used is None else values * self._used
