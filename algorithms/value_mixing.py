"""The core of every value-mixing method: K agent networks, H mixers, a one-step target, a weighted squared error.

QMIX is this core as it stands. A method overrides what it changes: the mixer (`make_mixer`), the value of the greedy
joint action (`greedy_values`), the weighting (`loss_weight`) or the terms of the loss (`add_losses`). Ensembles with a
minimum over drawn members and the hypernetwork regulariser (DEMAR) are settings of the core, so they combine with
every method.

Everything inside is time first: [T, B, …] (R = T·B rows), so that the GRU reads contiguous steps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from phalanx.algorithms.base import Algorithm, Capabilities, Metrics, TensorBatch, Weights
from phalanx.algorithms.common.agents import RecurrentAgents, agent_inputs
from phalanx.algorithms.common.diagnostics import value_diagnostics
from phalanx.algorithms.common.ensembles import draw_members
from phalanx.algorithms.common.losses import episode_errors, masked_mean, weighted_squared_error
from phalanx.algorithms.common.mixers import Mixer, MixingWeights, QMixer
from phalanx.algorithms.common.policy import ValuePolicy
from phalanx.algorithms.common.targets import mask_unavailable, one_step_target, take, transition_mask
from phalanx.configs.base import Settings
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec


class EnsembleSettings(Settings):
    agents: int = Field(default=1, ge=1, description="K, agent networks; the team acts on their mean")
    agents_subset: int | None = Field(
        default=None,
        ge=1,
        description="N_K, agent networks drawn for each target, which takes their minimum; null: all",
    )
    mixers: int = Field(default=1, ge=1, description="H, mixing networks")
    mixers_subset: int | None = Field(
        default=None,
        ge=1,
        description="N_H, mixing networks drawn for each target, which takes their minimum; null: all",
    )

    @model_validator(mode="after")
    def _subsets_fit(self) -> EnsembleSettings:
        for kind in ("agents", "mixers"):
            members, subset = getattr(self, kind), getattr(self, f"{kind}_subset")
            if subset is not None and subset > members:
                raise ValueError(
                    f"ensemble.{kind}_subset={subset} is more than the {members} of ensemble.{kind}:"
                    f" draw at most {members}, or null for all of them"
                )
        return self


class RegulariserSettings(Settings):
    alpha: float = Field(
        default=0.0,
        ge=0,
        description="α_reg, weight of the L1 norm of the generated mixing weights (DEMAR section 4.3)",
    )


class ValueMixingSettings(AlgorithmSettings):
    double_q: bool = Field(
        default=True, description="the online networks choose the next action that the target networks value"
    )
    target_update_updates: int = Field(
        default=200, ge=1, description="learner updates between hard copies to the target networks"
    )
    ensemble: EnsembleSettings = Field(default=EnsembleSettings(), description="how many networks, and the minimum")
    regulariser: RegulariserSettings = Field(default=RegulariserSettings(), description="the hypernet regulariser")


@dataclass
class Prepared:
    """All of an update that no trained parameter enters: the batch, time first, and the target networks' pass."""

    inputs: Tensor  # [T+1, B·N, I] of the agent networks
    state: Tensor  # [T+1, B, S]
    avail: Tensor  # [T+1, B, N, A]
    actions: Tensor  # [T, B, N]
    reward: Tensor  # [T, B]
    terminated: Tensor  # [T, B]
    mask: Tensor  # [T, B] bool
    target_values: Tensor  # [N_K, T+1, B, N, A] of `target_utilities`, drawn members only
    target_mixing: MixingWeights | None  # generated for every step, by drawn mixers only
    importance: Tensor | None = None  # [B], of the episodes' errors; None for 1


@dataclass
class Terms:
    """Everything an update computes on the way to its loss; what golden tests and diagnostics look at."""

    prepared: Prepared
    values: Tensor  # [K, T+1, B, N, A] online, every action
    mean_values: Tensor  # [T+1, B, N, A], over K
    greedy: Tensor  # [T+1, B, N], online
    chosen: Tensor  # [T, B, N], online mean of the stored actions
    q_tot: Tensor  # [H, T, B]
    generated: MixingWeights | None
    greedy_values: Tensor = field(init=False)  # [N_H, T+1, B], targets' value of the greedy joint action, drawn mixers
    target: Tensor = field(init=False)  # [T, B]
    losses: dict[str, Tensor] = field(default_factory=dict)  # loss name -> scalar as it enters the total

    @property
    def mask(self) -> Tensor:
        """[T, B] bool: what is learned from."""
        return self.prepared.mask

    @property
    def total(self) -> Tensor:
        """The loss."""
        return torch.stack(list(self.losses.values())).sum()


class ValueMixing(Algorithm):
    """QMIX's update over ensembles (see the module's docstring)."""

    Settings: ClassVar[type[AlgorithmSettings]] = ValueMixingSettings
    capabilities: ClassVar[Capabilities] = Capabilities(needs_state=True)
    settings: ValueMixingSettings

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        ensemble = self.settings.ensemble
        self.agents = self.make_agents(spec, self.settings, networks)
        self.mixer = self.make_mixer(ensemble.mixers)
        self.target_agents = frozen_copy(self.agents)
        self.target_mixer = frozen_copy(self.mixer)
        self.members_drawn = (ensemble.agents_subset or ensemble.agents, ensemble.mixers_subset or ensemble.mixers)

    @staticmethod
    def make_agents(spec: TeamSpec, settings: Any, networks: NetworkSettings) -> RecurrentAgents:
        inputs = spec.obs_dim + spec.n_actions + spec.n_agents
        return RecurrentAgents(settings.ensemble.agents, inputs, networks.agent.hidden, spec.n_actions)

    def make_mixer(self, members: int) -> Mixer:
        mixer = self.networks.mixer
        return QMixer(members, self.spec.n_agents, self.spec.state_dim, mixer.embed, mixer.hypernet)

    @classmethod
    def make_policy(cls, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> ValuePolicy:
        return ValuePolicy(spec, cls.make_agents(spec, settings, networks))

    def policy_weights(self) -> Weights:
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.agents.state_dict().items()}

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def moves_targets(self, updates: int) -> bool:
        return updates % self.settings.target_update_updates == 0

    def after_update(self, updates: int) -> None:
        if self.moves_targets(updates):
            self.copy_targets()

    def copy_targets(self) -> None:
        self.target_agents.load_state_dict(self.agents.state_dict())
        self.target_mixer.load_state_dict(self.mixer.state_dict())

    # -- the update -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, batch: TensorBatch, rng: np.random.Generator) -> Prepared:
        """The batch as the core sees it, and what the target networks say of it; random subsets are drawn from `rng`,
        agents first."""
        ensemble = self.settings.ensemble
        agents_drawn = draw_members(rng, ensemble.agents, self.members_drawn[0])
        mixers_drawn = draw_members(rng, ensemble.mixers, self.members_drawn[1])
        inputs = agent_inputs(batch.obs, batch.actions, self.spec.n_actions)
        state, avail = batch.state.transpose(0, 1), batch.avail.transpose(0, 1)
        utilities = self.target_utilities(inputs, agents_drawn)
        return Prepared(
            inputs,
            state,
            avail,
            batch.actions.transpose(0, 1),
            batch.reward.t(),
            batch.terminated.t(),
            transition_mask(batch.filled, batch.terminated),
            utilities.view(-1, *avail.shape[:3], utilities.shape[-1]),
            self.target_weights(state, mixers_drawn),
            batch.importance,
        )

    def target_utilities(self, inputs: Tensor, members: Tensor | None) -> Tensor:
        """The target agents' values of every action, [N_K, T+1, B·N, A]."""
        values: Tensor = self.target_agents(inputs, members)
        return values

    def target_weights(self, state: Tensor, members: Tensor | None) -> MixingWeights | None:
        """What the target mixers' hypernetworks generate, if they have any. state: [T+1, B, S]."""
        weights: MixingWeights | None = self.target_mixer.generate(state.flatten(0, 1), members)
        return weights

    def loss(self, prepared: Prepared) -> tuple[Tensor, Metrics]:
        terms = self.terms(prepared)
        return terms.total, self._metrics(terms)

    def loss_and_errors(self, prepared: Prepared) -> tuple[Tensor, Metrics, Tensor]:
        terms = self.terms(prepared)
        errors = episode_errors(terms.q_tot.detach(), terms.target, terms.mask)
        return terms.total, self._metrics(terms), errors

    def _metrics(self, terms: Terms) -> Metrics:
        with torch.no_grad():
            metrics = {name: value.detach() for name, value in terms.losses.items()}
            metrics["q_taken_mean"] = masked_mean(terms.q_tot.detach(), terms.mask)
            metrics["target_mean"] = masked_mean(terms.target, terms.mask)
        return metrics

    def terms(self, prepared: Prepared) -> Terms:
        """One update's forward pass."""
        terms = self.online_terms(prepared)
        with torch.no_grad():
            terms.greedy_values = self.greedy_values(terms)
            next_value = self.pessimistic(terms.greedy_values[:, 1:])
            terms.target = one_step_target(prepared.reward, prepared.terminated, next_value, self.settings.gamma)
        self.add_losses(terms)
        return terms

    def online_terms(self, prepared: Prepared) -> Terms:
        """What the trained networks say: everything of `Terms` but the target and the losses."""
        values = self.agents(prepared.inputs).view(-1, *prepared.avail.shape)
        mean_values = values.squeeze(0) if values.shape[0] == 1 else values.mean(0)
        chosen = take(mean_values[:-1], prepared.actions)
        generated = self.mixer.generate(prepared.state[:-1].flatten(0, 1))
        q_tot = self.mix(self.mixer, chosen, generated)
        greedy = mask_unavailable(mean_values.detach(), prepared.avail).argmax(-1)
        return Terms(prepared, values, mean_values, greedy, chosen, q_tot, generated)

    def mix(self, mixer: Any, q: Tensor, weights: MixingWeights | None) -> Tensor:
        """q: [T, B, N], `weights`: what `mixer` generated for those steps. Returns Q_tot [H, T, B]."""
        q_tot: Tensor = mixer.mix(q.flatten(0, 1), weights)
        return q_tot.view(-1, *q.shape[:2])

    def greedy_values(self, terms: Terms) -> Tensor:
        """The target networks' value of the greedy joint action at every step, of every drawn mixer: [N_H, T+1, B].
        `terms`: what the trained networks say."""
        best = self.greedy_agent_values(self.target_agent_values(terms.prepared), terms.greedy)
        return self.mix(self.target_mixer, best, terms.prepared.target_mixing)

    def target_agent_values(self, prepared: Prepared) -> Tensor:
        """[T+1, B, N, A]: the minimum over the drawn target agents, for every action before one is chosen (DEMAR
        Eq. 8); what no maximum picks where an action is not available."""
        values = prepared.target_values
        return mask_unavailable(values[0] if values.shape[0] == 1 else values.amin(0), prepared.avail)

    def greedy_agent_values(self, masked: Tensor, greedy: Tensor) -> Tensor:
        """masked: [T, B, N, A], greedy: [T, B, N]. Each agent's value of its best action, [T, B, N]."""
        return take(masked, greedy) if self.settings.double_q else masked.amax(-1)

    def pessimistic(self, values: Tensor) -> Tensor:
        """Minimum over the drawn mixers (DEMAR Eq. 8). values: [N_H, T, B]. Returns [T, B]."""
        return values[0] if values.shape[0] == 1 else values.amin(0)

    def loss_weight(self, terms: Terms) -> Tensor | None:
        """Weights of the squared errors, like `terms.q_tot`; None for 1."""
        return None

    def prediction(self, terms: Terms) -> Tensor:
        """What is drawn to the target, [H, T, B]."""
        return terms.q_tot

    def regression(self, terms: Terms, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss that draws `prediction` [..., T, B] to `target` where there is something to learn, every episode
        counting as much as the replay says. All losses of single transitions go through here."""
        importance = terms.prepared.importance
        if importance is not None:
            weight = importance if weight is None else weight * importance
        return weighted_squared_error(prediction, target, terms.mask, weight)

    def add_losses(self, terms: Terms) -> None:
        """Adds this method's loss terms to `terms.losses`; the total is their sum."""
        weight = self.loss_weight(terms)
        terms.losses["loss_td"] = self.regression(terms, self.prediction(terms), terms.target, weight)
        alpha = self.settings.regulariser.alpha
        if alpha > 0 and terms.generated is not None:
            # Not masked: padded steps count, as in the method as published (DEMAR's code).
            terms.losses["loss_reg"] = alpha * terms.generated.l1().mean()

    # -- what reports show ------------------------------------------------------------------------------------------

    def diagnostics(self, batch: TensorBatch) -> Metrics:
        """Figures for a report, from one forward pass of the batch: see `phalanx.algorithms.common.diagnostics`."""
        return value_diagnostics(self, batch)


def frozen_copy(module: nn.Module) -> Any:
    """A target network: the same values, never trained."""
    return copy.deepcopy(module).requires_grad_(False)
