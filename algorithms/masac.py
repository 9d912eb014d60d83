"""MASAC: soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905) with a centralised critic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from phalanx.algorithms.actor_critic import ActorCritic, Prepared
from phalanx.algorithms.actor_critic_settings import SoftSettings
from phalanx.algorithms.base import OptimiserStep
from phalanx.algorithms.common.actors import Head
from phalanx.algorithms.common.distributions import Distribution, TanhGaussian
from phalanx.algorithms.common.losses import masked_mean
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec

TEMPERATURE = "temperature"
SHARE = 0.3  # of the greatest entropy of discrete policies, where no target is given


class MASAC(ActorCritic):
    """Targets are r + γ (min_c Q̄_c(s', a') + α Σ_i H_i(o'_i)), a' from the present policies; all policies together
    climb min_c Q_c(s, a) + α Σ_i H_i(o_i). H is exact where actions are discrete (which take part as straight-through
    Gumbel-softmax samples), and −log π of the sampled action where not.

    The temperature α, one for each part of the team with a reward of its own, is moved until the mean entropy of an
    agent's policy is `temperature.target`.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = SoftSettings
    head: ClassVar[Head] = "tanh_gaussian"
    settings: SoftSettings

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        begin = torch.full((len(self.parts),), math.log(self.settings.temperature.initial))
        self.log_temperature = nn.Parameter(begin, requires_grad=self.settings.temperature.learned)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        learned = {TEMPERATURE: [self.log_temperature]} if self.settings.temperature.learned else {}
        return super().parameter_groups() | learned

    def learning_rate(self, group: str) -> float:
        return self.settings.temperature.lr if group == TEMPERATURE else super().learning_rate(group)

    def act(self, policy: Distribution, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        if isinstance(policy, TanhGaussian):
            actions, log_prob = policy.sample_with_log_prob(noise)
            return actions, -log_prob
        return policy.differentiable(noise), policy.entropy()

    def next_actions(self, prepared: Prepared) -> tuple[Tensor, Tensor | None]:
        actions, entropies = self.act(self.policy(self.actors, prepared), prepared.target_noise)
        assert entropies is not None, "soft policies have entropies"
        worth = [self.entropy_worth(entropies[:, :, members], part) for part, members in enumerate(self.parts)]
        return actions, torch.stack(worth)

    def entropy_worth(self, entropies: Tensor, part: int) -> Tensor:
        return self.log_temperature.detach()[part].exp() * entropies.sum(-1)

    def steps(self, prepared: Prepared, *, with_errors: bool = False) -> Iterator[OptimiserStep]:
        yield from super().steps(prepared, with_errors=with_errors)
        if self.settings.temperature.learned and self.actors_improve(int(self.count) + 1):
            yield self.temperature_step(prepared)

    def temperature_step(self, prepared: Prepared) -> OptimiserStep:
        """α falls where the policies' entropy is above the target: the gradient of α (H − target)."""
        entropy, wanted = self._means(prepared.entropies, prepared), self._means(self.wanted(prepared), prepared)
        temperature = self.log_temperature.exp()
        loss = (temperature * (entropy - wanted)).sum()
        metrics = {"loss_temperature": loss.detach(), "temperature": temperature.detach().mean()}
        return OptimiserStep(TEMPERATURE, loss, metrics)

    def wanted(self, prepared: Prepared) -> Tensor:
        """The entropy that each policy should have, [T, B, N]."""
        target = self.settings.temperature.target
        if target is not None:
            return torch.full_like(prepared.entropies, target)
        if self.spec.discrete:
            return SHARE * prepared.avail[:-1].sum(-1).to(prepared.entropies.dtype).log()
        return -prepared.entropies.new_tensor(self.spec.action_dims).expand_as(prepared.entropies)

    def _means(self, of_agents: Tensor, prepared: Prepared) -> Tensor:
        """[T, B, N] -> [P]: means over each part's agents and all transitions."""
        return torch.stack([masked_mean(of_agents[..., part].mean(-1), prepared.mask) for part in self.parts])
