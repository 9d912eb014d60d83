"""A small catalogue, so that these tests say what loading does whatever the real models declare."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from phalanx.configs.base import Settings
from phalanx.configs.catalogue import Catalogue
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AlgorithmSettings, EnvSettings

RUN = """\
seed: 3
env:
  name: chase
  reward: sparse
algorithm:
  name: mix
  lr: 1e-4
  ensemble: {agents: 4}
"""


class Chase(EnvSettings):
    reward: Literal["shaped", "sparse"] = Field(default="shaped", description="what pays")
    opponents: str = Field(default="scripted", description="who flees")


class Adapter(EnvSettings):
    module: str = Field(description="what is imported")
    kwargs: dict[str, Any] = Field(default={}, description="arguments of the environment")
    payoff: list[list[float]] | None = Field(default=None, description="a table")
    every: int | Literal["auto"] = Field(default="auto", description="a number or auto")
    scale: float = Field(default=1.0, gt=0, lt=10, description="a factor")
    pair: tuple[int, float] = Field(default=(1, 0.5), description="two numbers")

    @field_validator("module")
    @classmethod
    def _dotted(cls, module: str) -> str:
        if module.startswith("."):
            raise ValueError("a module's name starts with a letter")
        return module


class Ensemble(Settings):
    agents: int = Field(default=1, ge=1, description="members")
    agents_subset: int | None = Field(default=None, ge=1, description="members drawn")
    mixers: int = Field(default=1, ge=1, description="mixers")
    mixers_subset: int | None = Field(default=None, ge=1, description="mixers drawn")

    @model_validator(mode="after")
    def _subset(self) -> Ensemble:
        if self.agents_subset is not None and self.agents_subset > self.agents:
            raise ValueError(f"ensemble.agents_subset={self.agents_subset} is more than ensemble.agents={self.agents}")
        return self


class Mix(AlgorithmSettings):
    ensemble: Ensemble = Field(default=Ensemble(), description="the ensemble")


class Plain(AlgorithmSettings):
    momentum: float = Field(default=0.0, ge=0, description="of the optimiser")


ENVS: dict[str, type[EnvSettings]] = {"chase": Chase, "adapter": Adapter}
ALGORITHMS: dict[str, type[AlgorithmSettings]] = {"mix": Mix, "plain": Plain}


def _env(name: str) -> type[EnvSettings]:
    if name not in ENVS:
        raise UserError(f"env.name={name} is not known")
    return ENVS[name]


def _algorithm(name: str) -> type[AlgorithmSettings]:
    if name not in ALGORITHMS:
        raise UserError(f"algorithm.name={name} is not known")
    return ALGORITHMS[name]


CATALOGUE = Catalogue(_env, _algorithm, tuple(ENVS), tuple(ALGORITHMS))
