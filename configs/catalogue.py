"""What an `env.name` or `algorithm.name` stands for: its settings model, which the registries know (they come later in
the import order than this folder), and the settings published with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from phalanx.configs.documents import Document, read_document
from phalanx.configs.settings import AlgorithmSettings, EnvSettings


@dataclass(frozen=True)
class Catalogue:
    """`env` and `algorithm` raise a UserError for a name that they do not know. The names serve the documentation of
    the settings (`settings_docs`) and the sentence for a run that names none."""

    env: Callable[[str], type[EnvSettings]]
    algorithm: Callable[[str], type[AlgorithmSettings]]
    env_names: tuple[str, ...] = ()
    algorithm_names: tuple[str, ...] = ()


@lru_cache
def published_settings(algorithm: str) -> Document:
    """An algorithm's published settings where they differ from its model's defaults: `algorithm/<name>.yaml`. They
    stand in for the defaults."""
    path = Path(__file__).parent / "algorithm" / f"{algorithm}.yaml"
    shown = f"phalanx/configs/algorithm/{path.name}"
    return read_document(path, shown=shown) if path.is_file() else Document({}, shown)
