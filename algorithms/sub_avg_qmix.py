"""Sub-AVG-QMIX: the average of those recent target mixers that say less than the average (Wu et al., 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from phalanx.algorithms.common.copies import frozen_copy
from phalanx.algorithms.common.mixers import MixingWeights
from phalanx.algorithms.value_mixing import Prepared, Terms, ValueMixing, ValueMixingSettings
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec

LOSS_FACTOR = 2.0  # as in the authors' code: with clipped gradients it moves what is clipped
MEANINGFUL = 2  # target updates until snapshots differ enough for a selection


class SubAvgSettings(ValueMixingSettings):
    target_update: Literal["hard"] = Field(default="hard", description="always: snapshots are copies")
    snapshots: int = Field(default=5, ge=1, description="K, how many of the latest target mixers are kept")


class SubAvgQMIX(ValueMixing):
    """y = r + γ (1 - term) mean{Q_k : Q_k < mean_k Q_k}, Q_k = M_k^-(…; s') of the last K snapshots of the mixer.

    Every target update overwrites the oldest snapshot. All are the first mixer in the beginning; until two were taken,
    and where none is below the mean, the mean itself counts. Agent networks have one target, as published. With an
    ensemble each mixer has its snapshots, and the minimum is over the mixers' values.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = SubAvgSettings
    settings: SubAvgSettings
    target_copies: Tensor

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        kept, mixers = self.settings.snapshots, self.settings.ensemble.mixers
        self.target_mixer = frozen_copy(self.make_mixer(kept * mixers))  # snapshot k of mixer h at k H + h
        for snapshot in range(kept):
            self._store(snapshot)
        self.register_buffer("target_copies", torch.zeros((), dtype=torch.int64))

    def copy_targets(self) -> None:
        self.target_agents.load_state_dict(self.agents.state_dict())
        self._store(int(self.target_copies) % self.settings.snapshots)
        self.target_copies += 1

    @torch.no_grad()
    def _store(self, snapshot: int) -> None:
        mixers = self.settings.ensemble.mixers
        for kept, current in zip(self.target_mixer.parameters(), self.mixer.parameters(), strict=True):
            kept[snapshot * mixers : (snapshot + 1) * mixers] = current

    def target_weights(self, state: Tensor, members: Tensor | None) -> MixingWeights | None:
        if members is not None:
            firsts = self.settings.ensemble.mixers * torch.arange(self.settings.snapshots, device=members.device)
            members = (firsts.unsqueeze(1) + members).flatten()
        return super().target_weights(state, members)

    def greedy_values(self, terms: Terms) -> Tensor:
        return self._selected(super().greedy_values(terms))

    def joint_values(self, prepared: Prepared, actions: Tensor) -> Tensor:
        return self._selected(super().joint_values(prepared, actions))

    def _selected(self, values: Tensor) -> Tensor:
        """[K·N_H, T+1, B], every snapshot's, to [N_H, T+1, B]."""
        by_snapshot = values.view(self.settings.snapshots, -1, *values.shape[1:])
        return torch.where(self.target_copies < MEANINGFUL, by_snapshot.mean(0), sub_average(by_snapshot))

    def add_losses(self, terms: Terms) -> None:
        super().add_losses(terms)
        terms.losses["loss_td"] = LOSS_FACTOR * terms.losses["loss_td"]


def sub_average(values: Tensor) -> Tensor:
    """The mean over the first axis of what lies strictly below the mean; the mean where nothing does."""
    mean = values.mean(0)
    below = values < mean
    count = below.sum(0)
    return torch.where(count > 0, (values * below).sum(0) / count.clamp(min=1), mean)
