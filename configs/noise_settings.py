"""The section env.noise."""

from __future__ import annotations

from pydantic import Field

from phalanx.configs.base import Settings


class NoiseSettings(Settings):
    """Noise on what an environment shows, pays and is told, drawn anew in every step from the episode's seed, in
    evaluations, too. Masks, padding and what the dead see (zeros) stay as they are. `demar` alone is added inside the
    networks instead."""

    demar: float = Field(
        default=0.0,
        ge=0,
        description="DEMAR's noisy SMAC, where it is 0.02: whatever agent networks see (observation, last action, id)"
        " and the state that mixers see is raised by uniform numbers between 0 and this, drawn anew for every pass"
        " through a network, in playing, learning and evaluating; episodes are stored without",
    )
    obs_uniform: float = Field(
        default=0.0, ge=0, description="every observed number is raised by a uniform one between 0 and this (one-sided)"
    )
    obs_gaussian: float = Field(
        default=0.0, ge=0, description="standard deviation of normal noise on every observed number"
    )
    state_uniform: float = Field(default=0.0, ge=0, description="obs_uniform for the global state")
    state_gaussian: float = Field(default=0.0, ge=0, description="obs_gaussian for the global state")
    entity_dropout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="chance that an agent misses another entity (ally, enemy, landmark, …) in a step: its numbers are"
        " zeros, before other noise; for environments whose observations are made of entities",
    )
    reward_gaussian: float = Field(
        default=0.0,
        ge=0,
        description="standard deviation of normal noise on the rewards that are learned from, one number for the whole"
        " team; returns and wins are reported without",
    )
    action_slip: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="chance that an agent does a random legal action instead of the one it chose, which is the one that"
        " is learned from",
    )

    @property
    def wraps(self) -> bool:
        """Whether environments are wrapped: there is other noise than `demar`."""
        return any(value for key, value in self if key != "demar")
