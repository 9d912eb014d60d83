"""Weighted QMIX (Rashid et al., NeurIPS 2020, arXiv 2006.10800): what OW- and CW-QMIX share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from phalanx.algorithms.common.copies import frozen_copy
from phalanx.algorithms.common.mixers import CentralAttention, CentralFeedForward, MixingWeights
from phalanx.algorithms.common.networks.build import make_agent_networks
from phalanx.algorithms.common.targets import take
from phalanx.algorithms.value_mixing import Prepared, Terms, ValueMixing, ValueMixingSettings
from phalanx.configs.base import Settings
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec


class WeightingSettings(Settings):
    alpha: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="α, weight of transitions that are not favoured; 1 weighs all alike (QMIX + Q̂*)",
    )


class CentralSettings(Settings):
    mixer: Literal["ff", "atten", "none"] = Field(
        default="ff",
        description="mixer of the unrestricted Q̂*; none bootstraps from Q_tot's own target (ablation QMIX+OW, QMIX+CW)",
    )
    embed: int = Field(default=256, ge=1, description="width of the unrestricted mixer")


class WeightedQMIXSettings(ValueMixingSettings):
    double_q: Literal[True] = Field(default=True, description="always: the greedy joint action is the online one")
    weighting: WeightingSettings = Field(default=WeightingSettings(), description="the weighting of the projection")
    central: CentralSettings = Field(default=CentralSettings(), description="the unrestricted joint value Q̂*")

    @model_validator(mode="after")
    def _no_idle_subsets(self) -> WeightedQMIXSettings:
        drawn = (self.ensemble.agents_subset, self.ensemble.mixers_subset)
        if self.central.mixer != "none" and drawn != (None, None):
            raise ValueError(
                f"ensemble.agents_subset={drawn[0]} and ensemble.mixers_subset={drawn[1]} choose target networks, but"
                f" with central.mixer={self.central.mixer} the target comes from Q̂*: leave them null, or set"
                " central.mixer=none"
            )
        return self

    @model_validator(mode="after")
    def _no_idle_adjustments(self) -> WeightedQMIXSettings:
        adjusts = self.adaptive.enabled and self.adaptive.subset_step > 0
        if self.central.mixer != "none" and adjusts and (self.ensemble.agents, self.ensemble.mixers) != (1, 1):
            raise ValueError(
                f"adaptive.subset_step={self.adaptive.subset_step} adjusts which target networks are drawn, but with"
                f" central.mixer={self.central.mixer} the target comes from Q̂*: set adaptive.subset_step=0, so that"
                " only α_reg is adjusted, or central.mixer=none"
            )
        return self


class WeightedQMIX(ValueMixing):
    """Q_tot is projected onto targets from an unrestricted Q̂* = f(s, utilities of agents of its own), with weights.

    y = r + γ (1 - term) Q̂*_-(s', τ', û*), û* the online agents' greedy joint action; both losses regress to it.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = WeightedQMIXSettings
    settings: WeightedQMIXSettings

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        self.has_central = self.settings.central.mixer != "none"
        if self.has_central:
            self.central_agents = make_agent_networks(spec, 1, networks.agent)
            self.central_mixer = self._make_central_mixer()
            self.target_central_agents = frozen_copy(self.central_agents)
            self.target_central_mixer = frozen_copy(self.central_mixer)

    def _make_central_mixer(self) -> nn.Module:
        n, state, width = self.spec.n_agents, self.spec.state_dim, self.settings.central.embed
        if self.settings.central.mixer == "ff":
            return CentralFeedForward(n, state, width)
        return CentralAttention(n, state, width, self.networks.mixer.hypernet)

    def central_value(self, utilities: Tensor, actions: Tensor, state: Tensor, mixer: nn.Module) -> Tensor:
        """Q̂* of joint actions. utilities: [T, B, N, A], actions: [T, B, N], state: [T, B, S]. Returns [T, B]."""
        steps, batch, agents = actions.shape
        chosen = take(utilities, actions).reshape(-1, agents)
        value: Tensor = mixer(chosen, state.reshape(steps * batch, -1))
        return value.view(steps, batch)

    def target_utilities(self, inputs: Tensor, members: Tensor | None) -> Tensor:
        if not self.has_central:
            return super().target_utilities(inputs, members)
        utilities: Tensor = self.target_central_agents(inputs)
        return utilities

    def target_weights(self, state: Tensor, members: Tensor | None) -> MixingWeights | None:
        return None if self.has_central else super().target_weights(state, members)

    def greedy_values(self, terms: Terms) -> Tensor:
        return self.joint_values(terms.prepared, terms.greedy) if self.has_central else super().greedy_values(terms)

    def joint_values(self, prepared: Prepared, actions: Tensor) -> Tensor:
        if not self.has_central:
            return super().joint_values(prepared, actions)
        utilities = prepared.target_values.squeeze(0)
        return self.central_value(utilities, actions, prepared.target_state, self.target_central_mixer).unsqueeze(0)

    def add_losses(self, terms: Terms) -> None:
        super().add_losses(terms)
        if self.has_central:
            prepared = terms.prepared
            utilities = self.central_agents(prepared.inputs).view(prepared.avail.shape)
            central = self.central_value(utilities[:-1], prepared.actions, prepared.state[:-1], self.central_mixer)
            terms.losses["loss_central"] = self.regression(terms, central, terms.target)

    @abstractmethod
    def favoured(self, terms: Terms) -> Tensor:
        """Which squared errors count in full, bool like `terms.q_tot`: [H, T, B]."""

    def loss_weight(self, terms: Terms) -> Tensor:
        one = torch.ones_like(terms.q_tot)
        return torch.where(self.favoured(terms), one, one * self.settings.weighting.alpha)
