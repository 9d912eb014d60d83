"""Settings of the off-policy actor-critic core. No torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from phalanx.configs.base import Settings
from phalanx.configs.settings import AlgorithmSettings


class CriticSettings(Settings):
    members: int = Field(default=1, ge=1, description="C, centralised critics; targets take their minimum")
    subset: int | None = Field(
        default=None, ge=1, description="critics drawn for each target, which takes their minimum; null: all"
    )
    improve: Literal["min", "mean", "first"] = Field(
        default="min", description="what of the critics the actors improve: their minimum, mean, or the first one (TD3)"
    )
    improve_subset: int | None = Field(
        default=None, ge=1, description="critics drawn, by themselves, for each such minimum or mean; null: all"
    )
    sensitivity: float = Field(
        default=0.0,
        ge=0,
        description="weight of the L1 norm of ∂Q/∂a_i, summed over agents: how far a critic depends on what a single"
        " agent does (DEMAR's regulariser, carried over to policies; ours)",
    )
    rewards: Literal["team", "groups", "agents"] = Field(
        default="team",
        description="whose rewards critics learn: the team's; the mean in each of the environment's groups, with"
        " critics of its own for each, so that groups may be opponents; each agent's own",
    )
    hidden: int = Field(default=128, ge=1, description="width of the critics' hidden layers")
    depth: int = Field(default=2, ge=1, description="hidden layers of the critics")
    lr: float = Field(default=1e-3, gt=0, description="learning rate of the critics (algorithm.lr is the actors')")

    @model_validator(mode="after")
    def _subsets_fit(self) -> CriticSettings:
        for key in ("subset", "improve_subset"):
            drawn = getattr(self, key)
            if drawn is not None and drawn > self.members:
                raise ValueError(
                    f"critic.{key}={drawn} is more than the {self.members} of critic.members: draw at most"
                    f" {self.members}, or null for all of them"
                )
        if self.improve == "first" and self.improve_subset is not None:
            raise ValueError(
                f"critic.improve_subset={self.improve_subset} has no effect with critic.improve=first: leave it at"
                " null, or set critic.improve=min or mean"
            )
        return self


class ActorCriticSettings(AlgorithmSettings):
    rewards_key: ClassVar[str | None] = "critic.rewards"

    optimiser: Literal["rmsprop", "adam"] = Field(
        default="adam", description="rmsprop (smoothing 0.99, epsilon 1e-5, as in PyMARL) or adam"
    )
    target_tau: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="τ, share of the trained networks that each update brings into the target networks (Polyak)",
    )
    target_steps: int = Field(default=1, ge=1, description="n, steps that targets look ahead before they bootstrap")
    actor_every: int = Field(
        default=1, ge=1, description="actors improve, and target networks follow, at every so many updates"
    )
    critic: CriticSettings = Field(default=CriticSettings(), description="the centralised critics")


class DeterministicSettings(ActorCriticSettings):
    """Of methods whose policies are deterministic but for exploration."""

    action_noise: float = Field(
        default=0.1,
        ge=0,
        description="continuous actions while training: standard deviation of normal noise, in half-ranges of the"
        " actions (discrete ones are sampled from the policy); besides, random with probability epsilon"
        " (exploration.*)",
    )
    smoothing: float = Field(
        default=0.0,
        ge=0,
        description="continuous actions: standard deviation of normal noise on the target actors' actions (TD3)",
    )
    smoothing_clip: float = Field(default=0.5, gt=0, description="size to which that noise is cut")
    sampled_targets: bool = Field(
        default=False,
        description="discrete actions: the target actors' next action is sampled instead of the best one; what"
        " smoothing is where actions have no neighbours (ours)",
    )
    logit_penalty: float = Field(
        default=1e-3,
        ge=0,
        description="discrete actions: weight of the mean squared logit of available actions, which keeps choices from"
        " becoming so certain that no gradient is left (as in MADDPG's authors' code)",
    )


class JointSettings(DeterministicSettings):
    """Of those among them whose agents all improve at once."""

    others: Literal["stored", "current"] = Field(
        default="stored",
        description="beside which actions of the others an agent improves: the stored ones (MADDPG), or what they would"
        " do now, all agents being one step's work (FACMAC's centralised gradient)",
    )


class SequentialSettings(ActorCriticSettings):
    """Of methods whose agents improve one after the other (HA*)."""

    groups: Literal["none", "spec", "all"] | list[list[int]] = Field(
        default="none",
        description="who improves together, with actors of its own: none (every agent alone, as published), spec (the"
        " environment's groups), all, or lists of agents; agent.sharing says who shares parameters within a group",
    )


class SequentialDeterministicSettings(SequentialSettings, DeterministicSettings):
    """Of HADDPG and HATD3."""


class TemperatureSettings(Settings):
    initial: float = Field(default=0.1, gt=0, description="α, worth of a nat of entropy; where it begins, if learned")
    learned: bool = Field(default=True, description="α is moved until the policies have the entropy of target")
    target: float | None = Field(
        default=None,
        description="mean entropy of an agent's policy, in nats; null: 0.3 log(available actions) where discrete,"
        " minus the number of components where continuous",
    )
    lr: float = Field(default=1e-3, gt=0, description="learning rate of log α")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> TemperatureSettings:
        for key in ("target", "lr"):
            given, default = getattr(self, key), type(self).model_fields[key].default
            if not self.learned and given != default:
                raise ValueError(
                    f"temperature.{key}={given} has no effect with temperature.learned=false: leave it at"
                    f" {'null' if default is None else default}, or set temperature.learned=true"
                )
        return self


class SoftSettings(ActorCriticSettings):
    """Of methods that maximise entropy as well."""

    temperature: TemperatureSettings = Field(default=TemperatureSettings(), description="the worth of entropy")


class SequentialSoftSettings(SequentialSettings, SoftSettings):
    """Of HASAC."""
