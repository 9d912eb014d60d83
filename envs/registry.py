"""Every environment by name. Modules are imported when they are first asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import cast

from phalanx.configs.errors import UserError
from phalanx.configs.settings import EnvSettings, NoiseSettings
from phalanx.envs.noise import Noise
from phalanx.envs.team import TeamEnv, TeamPolicy
from phalanx.envs.wrappers import TimeoutIsTerminal

ENVIRONMENTS: dict[str, str] = {
    "simple_tag": "phalanx.envs.mpe.tag:SimpleTag",
    "simple_spread": "phalanx.envs.mpe.spread:SimpleSpread",
    "simple_adversary": "phalanx.envs.mpe.adversary:SimpleAdversary",
    "simple_world": "phalanx.envs.mpe.world:SimpleWorld",
    "matrix": "phalanx.envs.matrix_games:MatrixGame",
    "stag_hunt": "phalanx.envs.stag_hunt:StagHunt",
    "stag_hunt_het": "phalanx.envs.stag_hunt_het:HeterogeneousStagHunt",
    "two_step": "phalanx.envs.two_step:TwoStep",
    "specialisation": "phalanx.envs.choice_games:Specialisation",
    "synchronisation": "phalanx.envs.choice_games:Synchronisation",
    "dispersion": "phalanx.envs.dispersion:Dispersion",
    "sleepy": "phalanx.envs.sleepy:Sleepy",
    "pettingzoo": "phalanx.envs.pettingzoo:PettingZooTeam",
}
"""name -> "module:Class". The class takes `(settings, num_envs, load_policy=None)` and has `Settings`."""

LoadPolicy = Callable[[str], TeamPolicy]
"""Loads the run in a directory as a policy; injected, because environments know nothing of checkpoints."""


def env_class(name: str) -> type[TeamEnv]:
    """The class of environment `name`; a UserError names the known ones and the nearest."""
    if name not in ENVIRONMENTS:
        near = difflib.get_close_matches(str(name), ENVIRONMENTS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"env.name={name} is not an environment (known: {', '.join(ENVIRONMENTS)}){hint}")
    module, _, attribute = ENVIRONMENTS[name].partition(":")
    return cast("type[TeamEnv]", getattr(importlib.import_module(module), attribute))


def env_settings(name: str) -> type[EnvSettings]:
    """The settings model of environment `name`."""
    return cast("type[EnvSettings]", env_class(name).Settings)  # type: ignore[attr-defined]


def make_env(settings: EnvSettings, num_envs: int, load_policy: LoadPolicy | None = None) -> TeamEnv:
    """`num_envs` environments as one TeamEnv, wrapped as the settings ask.

    `load_policy` serves `env.opponents=checkpoint:DIR`; without it such a setting is refused.
    """
    build = cast("Callable[[EnvSettings, int, LoadPolicy | None], TeamEnv]", env_class(settings.name))
    env = build(settings, num_envs, load_policy)
    if settings.noise != NoiseSettings():
        env = Noise(env, settings.noise)
    return TimeoutIsTerminal(env) if settings.timeout_is_terminal else env
