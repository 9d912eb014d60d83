"""MADDPG: deterministic policies that climb a centralised critic (Lowe et al. 2017, arXiv 1706.02275)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from phalanx.algorithms.actor_critic import ActorCritic, Prepared
from phalanx.algorithms.actor_critic_settings import DeterministicSettings, JointSettings
from phalanx.algorithms.common.actors import Head
from phalanx.algorithms.common.copies import frozen_copy
from phalanx.algorithms.common.distributions import Categorical, Distribution
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec


class MADDPG(ActorCritic):
    """Q(s, a) is drawn to r + γ Q̄(s', μ̄(o')), where μ̄ are target actors; agent i's policy climbs
    Q(s, a_1, …, μ_i(o_i), …, a_n) (equations 5 and 6).

    Discrete actions are straight-through Gumbel-softmax samples where gradients pass, and the best ones in targets
    (the authors sample there, too: `sampled_targets`). The team's one reward is the default, so that one critic serves
    all; `critic.rewards=agents` has one for each agent, as the paper does.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = JointSettings
    head: ClassVar[Head] = "deterministic"
    settings: DeterministicSettings

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        self.target_actors = frozen_copy(self.actors)

    @staticmethod
    def action_noise(settings: AlgorithmSettings) -> float:
        assert isinstance(settings, DeterministicSettings), settings
        return settings.action_noise

    @property
    def others_as_stored(self) -> bool:
        return isinstance(self.settings, JointSettings) and self.settings.others == "stored"

    def act(self, policy: Distribution, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        return policy.differentiable(noise if self.spec.discrete else None), None

    def next_actions(self, prepared: Prepared) -> tuple[Tensor, Tensor | None]:
        """The target actors' best actions, or near them (TD3's smoothing)."""
        noise: Tensor | None = None
        if self.spec.discrete:
            noise = prepared.target_noise if self.settings.sampled_targets else None
        elif self.settings.smoothing > 0:
            clip = self.settings.smoothing_clip
            noise = (prepared.target_noise * self.settings.smoothing).clamp(-clip, clip)
        return self.policy(self.target_actors, prepared).differentiable(noise), None

    def actor_penalty(self, policy: Distribution, prepared: Prepared, agents: list[int]) -> Tensor | None:
        if not isinstance(policy, Categorical) or self.settings.logit_penalty == 0:
            return None
        avail = prepared.avail[:-1, :, agents] & prepared.mask[..., None, None]
        squares = policy.logits.masked_fill(~avail, 0.0).square()
        return self.settings.logit_penalty * squares.sum() / avail.sum()

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [*super().target_pairs(), (self.actors, self.target_actors)]
