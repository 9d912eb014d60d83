"""Any PettingZoo environment, seen as one team against whoever else is in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic import Field

from phalanx.configs.errors import UserError
from phalanx.envs.importing import import_module, import_object
from phalanx.envs.parallel import Source
from phalanx.envs.parallel_settings import TwoSidedSettings
from phalanx.envs.parallel_team import ParallelTeam
from phalanx.envs.team import TeamPolicy

EXAMPLE = "mpe2.simple_tag_v3"
EXAMPLE_OF_A_CLASS = "my_package.my_module:MyEnv"


class PettingZooSettings(TwoSidedSettings):
    """`env.name=pettingzoo`."""

    name: Literal["pettingzoo"] = Field(
        default="pettingzoo", description="pettingzoo: any ParallelEnv, and AEC games that are played in cycles"
    )
    module: str = Field(
        description="Python module with a `parallel_env` (or, for AEC games, an `env`), such as mpe2.simple_tag_v3, or"
        " module:Name for a class or function of another name; it is imported, so its code runs"
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
        label = f"env.module={settings.module}"
        name = settings.module.partition(":")[0]
        if ":" in settings.module:
            make = import_object(settings.module, "env.module", EXAMPLE_OF_A_CLASS)
            module = sys.modules[name]
        else:
            module = import_module(settings.module, "env.module", EXAMPLE)
            make = getattr(module, "parallel_env", getattr(module, "env", None))
        if not callable(make):
            raise UserError(
                f"{label} names no environment: it must be a module with a parallel_env or an env, as {EXAMPLE} is, or"
                f" a class as in {EXAMPLE_OF_A_CLASS}"
            )
        scripted = getattr(module, "scripted_policy", None)
        source = Source(
            name=f"pettingzoo:{settings.module}",
            label=label,
            make=partial(_parallel, make, label, **settings.kwargs),
            arguments=settings.kwargs,
            packages=("pettingzoo", name.partition(".")[0]),
            scripted=scripted if callable(scripted) else None,
        )
        super().__init__(source, settings, num_envs, load_policy)


def _parallel(make: Callable[..., Any], label: str, **kwargs: Any) -> Any:
    """One ParallelEnv: what `make` gives, or converted from it where that is an AEC game."""
    game = make(**kwargs)
    if not callable(getattr(game, "agent_iter", None)):  # of AEC games only
        return game
    from pettingzoo.utils.conversions import aec_to_parallel

    if not getattr(game, "metadata", {}).get("is_parallelizable", False):
        raise UserError(
            f"{label} is a game of turns, in which agents see what the others just did, and a team's agents act at the"
            " same time here: only AEC games whose metadata says is_parallelizable (the world moves once everybody has"
            " chosen) can be played. Where that holds for yours, set it there"
        )
    return aec_to_parallel(game)
