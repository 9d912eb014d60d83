"""Settings of the on-policy core: what every method built on it understands."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from phalanx.algorithms.common.grouping import Grouping
from phalanx.configs.settings import AlgorithmSettings


class OnPolicySettings(AlgorithmSettings):
    on_policy: ClassVar[bool] = True
    rewards_key: ClassVar[str | None] = "rewards"

    lr: float = Field(default=5e-4, gt=0, description="learning rate of the policies")
    optimiser: Literal["rmsprop", "adam"] = Field(
        default="adam", description="adam, or rmsprop (smoothing 0.99, epsilon 1e-5)"
    )
    critic_lr: float | None = Field(default=None, gt=0, description="learning rate of the critic; null: lr")
    epochs: int = Field(default=5, ge=1, description="how often each batch is learned from")
    minibatches: int = Field(
        default=1,
        ge=1,
        description="parts that an epoch splits the batch's episodes (or chunks) into; at most as many as there are",
    )
    chunk_length: int | None = Field(
        default=None,
        ge=1,
        description="steps of the pieces that episodes are learned from in; minibatches are made of them, and recurrent"
        " networks' gradients reach no further back; null: whole episodes",
    )
    gae_lambda: float = Field(
        default=0.95, ge=0, le=1, description="λ of the advantages: 0 looks ahead one step, 1 to the end of the episode"
    )
    advantage_norm: bool = Field(
        default=True, description="advantages of a batch are shifted and scaled to mean 0 and deviation 1"
    )
    entropy: float = Field(default=0.01, ge=0, description="weight of the policies' entropy in the loss")
    value_norm: bool = Field(
        default=True, description="the critic predicts returns scaled by their running mean and deviation"
    )
    value_clip: float | None = Field(
        default=0.2,
        gt=0,
        description="how far one batch can draw the critic's output from what it was, in the output's own (with"
        " value_norm: scaled) units; null: as far as it likes",
    )
    huber_delta: float = Field(
        default=10.0,
        gt=0,
        description="size of the critic's error, in the same units, beyond which its cost is no longer squared",
    )
    rewards: Literal["team", "agents"] = Field(
        default="team",
        description="what agents learn from: the team's reward, or each agent's own where the environment pays it",
    )
    correction: Literal["vtrace", "ratios", "none"] = Field(
        default="vtrace",
        description="of batches that an older policy played (async mode): vtrace (value targets and policy losses"
        " weighted by truncated ratios), ratios (policy losses alone) or none",
    )
    rho_max: float = Field(default=1.0, gt=0, description="ρ̄, where the ratios that weigh errors and losses are cut")
    c_max: float = Field(
        default=1.0, gt=0, description="c̄, where vtrace cuts the ratios that carry errors back in time"
    )


class ClippedSettings(OnPolicySettings):
    clip: float = Field(
        default=0.2, gt=0, description="how far from 1 the ratio of new to old probabilities still pays (PPO's clip)"
    )


class GroupedSettings(OnPolicySettings):
    groups: Grouping = Field(
        default="none",
        description="which agents share a policy: none (each has its own, as the method's proof asks), spec (the"
        " environment's groups), all, random (of the sizes of the environment's) or lists of agents such as"
        " [[0,1],[2]]",
    )
    groups_seed: int = Field(default=0, ge=0, description="groups=random: what the members are drawn with")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> GroupedSettings:
        if self.groups_seed and self.groups != "random":
            raise ValueError(
                f"groups_seed={self.groups_seed} has no effect with groups={self.groups}: leave it at 0, or set"
                " groups=random"
            )
        return self
