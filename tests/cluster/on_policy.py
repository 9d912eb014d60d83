"""An on-policy method as small as one can be, for tests of the runtime: agents prefer actions, whatever they see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from phalanx.algorithms.base import (
    EVERYTHING,
    Algorithm,
    Capabilities,
    OptimiserStep,
    Policy,
    TensorBatch,
    Weights,
)
from phalanx.algorithms.registry import ALGORITHMS
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import Bools, Floats, TeamSpec

NAME = "preferences"


class PreferenceSettings(AlgorithmSettings):
    on_policy: ClassVar[bool] = True
    name: str = NAME


class PreferencePolicy(Policy):
    def __init__(self, actions: int) -> None:
        self.preferences = np.zeros(actions)

    def initial_state(self, num_envs: int) -> None:
        return None

    def reset_rows(self, state: Any, rows: npt.NDArray[Any]) -> None: ...

    def act(self, obs: Floats, state: Any, avail: Bools, rng: np.random.Generator, epsilon: float) -> npt.NDArray[Any]:
        logits = np.where(avail, self.preferences, -np.inf)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        noise = rng.gumbel(size=logits.shape) if epsilon > 0 else 0.0
        actions: npt.NDArray[np.int64] = (logits + noise).argmax(-1)
        self.log_prob = np.take_along_axis(logits, actions[..., None], -1)[..., 0].astype(np.float32)
        return actions

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self.preferences = weights["preferences"].astype(np.float64)


class Preferences(Algorithm):
    """REINFORCE with one logit per action. `train/log_prob_gap`: how far the recorded log-probabilities are from those
    of the present policy, 0 where the batch is its own."""

    Settings: ClassVar[type[AlgorithmSettings]] = PreferenceSettings
    capabilities: ClassVar[Capabilities] = Capabilities(on_policy=True, errors=False)

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        self.preferences = nn.Parameter(0.1 * torch.randn(spec.n_actions))

    @classmethod
    def make_policy(cls, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> Policy:
        return PreferencePolicy(spec.n_actions)

    def policy_weights(self) -> Weights:
        return {"preferences": self.preferences.detach().numpy().copy()}

    def trained_parameters(self) -> list[nn.Parameter]:
        return [self.preferences]

    def prepare(self, batch: TensorBatch, rng: np.random.Generator) -> Any:
        return batch, float(rng.random())

    def steps(self, prepared: Any, *, with_errors: bool = False) -> Iterator[OptimiserStep]:
        batch, weight = prepared
        mask = batch.filled[:, :-1, None]
        for _ in range(2):
            log_prob = self._log_prob(batch)
            gap = ((log_prob.detach() - batch.log_prob) * mask).abs().max()
            loss = -(log_prob * batch.reward[..., None] * mask).mean() * (0.5 + weight)
            yield OptimiserStep(EVERYTHING, loss, {"loss_policy": loss.detach(), "log_prob_gap": gap})

    def _log_prob(self, batch: TensorBatch) -> Tensor:
        logits = self.preferences.expand(batch.avail.shape)[:, :-1].masked_fill(~batch.avail[:, :-1], -torch.inf)
        return logits.log_softmax(-1).gather(-1, batch.actions[..., None])[..., 0]

    def moves_targets(self, updates: int) -> bool:
        return False

    def after_update(self, updates: int) -> None: ...


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the method known as `algorithm.name=preferences` in this process."""
    monkeypatch.setitem(ALGORITHMS, NAME, f"{__name__}:Preferences")
