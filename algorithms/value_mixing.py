"""The core of every value-mixing method: K agent networks, H mixers, a target, a weighted error.

QMIX is this core as it stands. A method overrides what it changes: the mixer (`make_mixer`), the value of the greedy
joint action (`greedy_values`), the weighting (`loss_weight`) or the terms of the loss (`add_losses`). Ensembles with a
minimum over drawn members and the hypernetwork regulariser (DEMAR) are settings of the core, so they combine with
every method; so are targets of several steps, the shape of the loss and how the target networks follow.

Everything inside is time first: [T, B, …] (R = T·B rows), so that the GRU reads contiguous steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from phalanx.algorithms.adaptive import Adaptation, measurement
from phalanx.algorithms.base import EVERYTHING, Algorithm, Capabilities, Metrics, OptimiserStep, TensorBatch, Weights
from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.beside import Branch
from phalanx.algorithms.common.copies import approach, frozen_copy
from phalanx.algorithms.common.diagnostics import value_diagnostics
from phalanx.algorithms.common.ensembles import draw_members
from phalanx.algorithms.common.losses import episode_errors, masked_mean, weighted_huber_error, weighted_squared_error
from phalanx.algorithms.common.mixers import Mixer, MixingWeights, QMixer, mixing_gradient
from phalanx.algorithms.common.networks.base import AgentNetworks
from phalanx.algorithms.common.networks.build import make_agent_networks
from phalanx.algorithms.common.noise import noisy
from phalanx.algorithms.common.policy import ValuePolicy
from phalanx.algorithms.common.targets import (
    lambda_target,
    mask_unavailable,
    n_step_target,
    one_step_target,
    take,
    transition_mask,
)
from phalanx.algorithms.value_mixing_settings import EnsembleSettings, RegulariserSettings, ValueMixingSettings
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec

__all__ = [
    "EnsembleSettings",
    "Prepared",
    "RegulariserSettings",
    "Terms",
    "ValueMixing",
    "ValueMixingSettings",
]


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
    target_state: Tensor  # [T+1, B, S] as the target networks see it: `state`, but for the noise
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
    capabilities: ClassVar[Capabilities] = Capabilities(needs_state=True, input_noise=True)
    settings: ValueMixingSettings

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        ensemble = self.settings.ensemble
        self.agents = self.make_agents(spec, self.settings, networks)
        self.mixer = self.make_mixer(ensemble.mixers)
        self.target_agents = frozen_copy(self.agents)
        self.target_mixer = frozen_copy(self.mixer)
        self.adaptation: Adaptation | None = None
        if self.settings.adaptive.enabled:
            members, alpha = (ensemble.agents, ensemble.mixers), self.settings.regulariser.alpha
            self.adaptation = Adaptation(self.settings.adaptive, alpha, self.members_drawn, members)

    @property
    def members_drawn(self) -> tuple[int, int]:
        """N_K and N_H."""
        if self.adaptation is not None:
            return self.adaptation.state.subsets
        ensemble = self.settings.ensemble
        return ensemble.agents_subset or ensemble.agents, ensemble.mixers_subset or ensemble.mixers

    @property
    def alpha(self) -> float:
        """α_reg."""
        return self.settings.regulariser.alpha if self.adaptation is None else self.adaptation.state.alpha

    @staticmethod
    def make_agents(spec: TeamSpec, settings: Any, networks: NetworkSettings) -> AgentNetworks:
        return make_agent_networks(spec, settings.ensemble.agents, networks.agent)

    def make_mixer(self, members: int) -> Mixer:
        mixer = self.networks.mixer
        return QMixer(members, self.spec.n_agents, self.spec.state_dim, mixer.embed, mixer.hypernet)

    @classmethod
    def make_policy(cls, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> ValuePolicy:
        return ValuePolicy(spec, cls.make_agents(spec, settings, networks), networks.input_noise)

    def policy_weights(self) -> Weights:
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.agents.state_dict().items()}

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def moves_targets(self, updates: int) -> bool:
        adjusts = self.adaptation is not None and self.adaptation.adjusts(updates)
        return adjusts or self.settings.target_update == "soft" or self._copies_targets(updates)

    def _copies_targets(self, updates: int) -> bool:
        return updates % self.settings.target_update_updates == 0

    def after_update(self, updates: int) -> None:
        if self.settings.target_update == "soft":
            self.approach_targets()
        elif self._copies_targets(updates):
            self.copy_targets()
        if self.adaptation is not None:
            self.adaptation.after_update(updates)

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Every trained network `x` that has a target network `target_x`, with it."""
        modules = dict(self.named_children())
        return [(modules[name], modules[f"target_{name}"]) for name in modules if f"target_{name}" in modules]

    def copy_targets(self) -> None:
        """What a hard update does."""
        for trained, target in self.target_pairs():
            target.load_state_dict(trained.state_dict())

    def approach_targets(self) -> None:
        """What a soft update does: target ← target + τ (trained − target)."""
        approach(self.target_pairs(), self.settings.target_tau)

    # -- the update -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, batch: TensorBatch, rng: np.random.Generator) -> Prepared:
        """The batch as the core sees it, and what the target networks say of it; random subsets are drawn from `rng`,
        agents first, then noise (`env.noise.demar`): the target networks' own, then that of all trained networks."""
        ensemble = self.settings.ensemble
        agents_drawn = draw_members(rng, ensemble.agents, self.members_drawn[0])
        mixers_drawn = draw_members(rng, ensemble.mixers, self.members_drawn[1])
        inputs = agent_inputs(batch.obs, batch.actions, self.spec.n_actions)
        state, avail = batch.state.transpose(0, 1), batch.avail.transpose(0, 1)
        noise = self.networks.input_noise
        target_state = noisy(state, noise, rng)
        utilities = self.target_utilities(noisy(inputs, noise, rng), agents_drawn)
        return Prepared(
            noisy(inputs, noise, rng),
            noisy(state, noise, rng),
            avail,
            batch.actions.transpose(0, 1),
            batch.reward.t(),
            batch.terminated.t(),
            transition_mask(batch.filled, batch.terminated),
            utilities.view(-1, *avail.shape[:3], utilities.shape[-1]),
            self.target_weights(target_state, mixers_drawn),
            target_state,
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

    def steps(self, prepared: Prepared, *, with_errors: bool = False) -> Iterator[OptimiserStep]:
        if with_errors:
            yield OptimiserStep(EVERYTHING, *self.loss_and_errors(prepared))
        else:
            yield OptimiserStep(EVERYTHING, *self.loss(prepared))

    def loss(self, prepared: Prepared) -> tuple[Tensor, Metrics]:
        """The scalar to minimise and metrics (see `OptimiserStep`)."""
        terms = self.terms(prepared)
        return terms.total, self._metrics(terms)

    def loss_and_errors(self, prepared: Prepared) -> tuple[Tensor, Metrics, Tensor]:
        """What `loss` gives, and the size of each episode's error [B], detached: what a prioritised replay goes by."""
        terms = self.terms(prepared)
        with torch.no_grad():
            errors = episode_errors(self.prediction(terms), terms.target, terms.mask)
        return terms.total, self._metrics(terms), errors

    @torch.no_grad()
    def _metrics(self, terms: Terms) -> Metrics:
        metrics = {name: value.detach() for name, value in terms.losses.items()}
        metrics["q_taken_mean"] = masked_mean(terms.q_tot, terms.mask)
        metrics["target_mean"] = masked_mean(terms.target, terms.mask)
        if self.adaptation is not None:
            if self.adaptation.wants_measurement():
                self._measure(terms, self.adaptation)
            metrics |= self.adaptation.metrics(terms.q_tot.device)
        return metrics

    def _measure(self, terms: Terms, adaptation: Adaptation) -> None:
        prepared, mask = terms.prepared, terms.mask
        figures = measurement(terms.q_tot, prepared.reward, prepared.terminated, mask, self.settings.gamma)
        sensitivity = None
        if isinstance(terms.generated, MixingWeights):
            slope = mixing_gradient(terms.chosen.flatten(0, 1), terms.generated).mean((0, -1))
            sensitivity = masked_mean(slope.view_as(mask), mask)
        adaptation.measure(figures, sensitivity)

    def terms(self, prepared: Prepared) -> Terms:
        """One update's forward pass."""
        terms = self.online_terms(prepared)
        with torch.no_grad():
            terms.greedy_values = self.greedy_values(terms)
            terms.target = self.target(terms)
        self.add_losses(terms)
        return terms

    def target(self, terms: Terms) -> Tensor:
        """What the values are drawn to, from `terms.greedy_values`: [T, B]."""
        settings, prepared = self.settings, terms.prepared
        reward, terminated, mask, gamma = prepared.reward, prepared.terminated, prepared.mask, settings.gamma
        next_value = self.pessimistic(terms.greedy_values[:, 1:])
        if settings.targets == "td0":
            return one_step_target(reward, terminated, next_value, gamma)
        if settings.targets == "n_step":
            return n_step_target(reward, terminated, mask, next_value, gamma, settings.target_steps)
        taken = None
        if settings.targets == "td_lambda":
            actions = torch.cat([prepared.actions, terms.greedy[-1:]])
            taken = self.pessimistic(self.joint_values(prepared, actions)[:, 1:])
        return lambda_target(reward, terminated, mask, next_value, gamma, settings.target_lambda, taken)

    def online_terms(self, prepared: Prepared) -> Terms:
        """What the trained networks say: everything of `Terms` but the target and the losses."""
        weights = Branch(lambda: self.mixer.generate(prepared.state[:-1].flatten(0, 1)))
        values = self.agents(prepared.inputs).view(-1, *prepared.avail.shape)
        mean_values = values.squeeze(0) if values.shape[0] == 1 else values.mean(0)
        chosen = take(mean_values[:-1], prepared.actions)
        generated = weights.result()
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

    def joint_values(self, prepared: Prepared, actions: Tensor) -> Tensor:
        """The target networks' value of any joint action, of every drawn mixer. actions: [T+1, B, N]. Returns
        [N_H, T+1, B]."""
        chosen = take(self.target_agent_values(prepared), actions)
        return self.mix(self.target_mixer, chosen, prepared.target_mixing)

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
        if self.settings.loss == "huber":
            return weighted_huber_error(prediction, target, terms.mask, self.settings.huber_delta, weight)
        return weighted_squared_error(prediction, target, terms.mask, weight)

    def add_losses(self, terms: Terms) -> None:
        """Adds this method's loss terms to `terms.losses`; the total is their sum."""
        weight = self.loss_weight(terms)
        terms.losses["loss_td"] = self.regression(terms, self.prediction(terms), terms.target, weight)
        if self.alpha > 0 and terms.generated is not None:
            # Not masked: padded steps count, as in the method as published (DEMAR's code).
            terms.losses["loss_reg"] = self.alpha * terms.generated.l1().mean()

    # -- what reports show ------------------------------------------------------------------------------------------

    def diagnostics(self, batch: TensorBatch) -> Metrics:
        """Figures for a report, from one forward pass of the batch: see `phalanx.algorithms.common.diagnostics`."""
        return value_diagnostics(self, batch)
