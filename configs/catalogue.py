"""Which settings model an `env.name` or `algorithm.name` stands for: given by the registries, which come later in the
import order than this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from phalanx.configs.settings import AlgorithmSettings, EnvSettings


@dataclass(frozen=True)
class Catalogue:
    """`env` and `algorithm` raise a UserError for a name that they do not know. The names serve the documentation of
    the settings (`settings_docs`) and the sentence for a run that names none."""

    env: Callable[[str], type[EnvSettings]]
    algorithm: Callable[[str], type[AlgorithmSettings]]
    env_names: tuple[str, ...] = ()
    algorithm_names: tuple[str, ...] = ()
