"""Any PettingZoo environment, seen as one team against whoever else is in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic import Field

from phalanx.configs.errors import UserError
from phalanx.envs.importing import import_module
from phalanx.envs.parallel import Source
from phalanx.envs.parallel_settings import TwoSidedSettings
from phalanx.envs.parallel_team import ParallelTeam
from phalanx.envs.team import TeamPolicy

EXAMPLE = "mpe2.simple_tag_v3"


class PettingZooSettings(TwoSidedSettings):
    """`env.name=pettingzoo`."""

    name: Literal["pettingzoo"] = Field(
        default="pettingzoo", description="pettingzoo: any ParallelEnv, and AEC games that are played in cycles"
    )
    module: str = Field(
        description="Python module with a `parallel_env` (or, for AEC games, an `env`), such as mpe2.simple_tag_v3; it"
        " is imported, so its code runs"
    )
    kwargs: dict[str, Any] = Field(
        default={},
        description="arguments of `parallel_env`; for films, render_mode: rgb_array is added where it is taken",
    )


class PettingZooTeam(ParallelTeam):
    """E ParallelEnvs in one process. An AEC game goes through PettingZoo's own conversion, which is right only where
    the game says that everybody moves once in a cycle (`is_parallelizable`); others are refused."""

    Settings = PettingZooSettings

    def __init__(
        self, settings: PettingZooSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        module = import_module(settings.module, "env.module", EXAMPLE)
        label = f"env.module={settings.module}"
        scripted = getattr(module, "scripted_policy", None)
        source = Source(
            name=f"pettingzoo:{settings.module}",
            label=label,
            make=partial(_factory(module, label), **settings.kwargs),
            arguments=settings.kwargs,
            packages=("pettingzoo", settings.module.partition(".")[0]),
            scripted=scripted if callable(scripted) else None,
        )
        super().__init__(source, settings, num_envs, load_policy)


def _factory(module: Any, label: str) -> Callable[..., Any]:
    """What makes one ParallelEnv of the module."""
    parallel_env, env = getattr(module, "parallel_env", None), getattr(module, "env", None)
    if callable(parallel_env):
        return parallel_env  # type: ignore[no-any-return]
    if callable(env):
        return partial(_converted, env, label)
    raise UserError(
        f"{label} has no parallel_env and no env: name a module of a PettingZoo environment, such as {EXAMPLE}"
    )


def _converted(make: Callable[..., Any], label: str, **kwargs: Any) -> Any:
    """One AEC game as a ParallelEnv."""
    from pettingzoo.utils.conversions import aec_to_parallel

    game = make(**kwargs)
    if not getattr(game, "metadata", {}).get("is_parallelizable", False):
        raise UserError(
            f"{label} is a game of turns, in which agents see what the others just did, and a team's agents act at the"
            " same time here: only AEC games whose metadata says is_parallelizable (the world moves once everybody has"
            " chosen) can be played. Where that holds for yours, set it there"
        )
    return aec_to_parallel(game)
