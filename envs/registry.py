"""Every environment by name. Modules are imported when they are first asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import cast

from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.nearest import did_you_mean
from phalanx.configs.settings import EnvSettings
from phalanx.envs.faults import FAULTS, in_words
from phalanx.envs.importing import import_object
from phalanx.envs.noise import Noise
from phalanx.envs.team import TeamEnv, TeamPolicy
from phalanx.envs.watched import Watched
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
    "smac": "phalanx.envs.smac:Smac",
    "smax": "phalanx.envs.smax:Smax",
    "pettingzoo": "phalanx.envs.pettingzoo:PettingZooTeam",
    "gymnasium": "phalanx.envs.gymnasium_team:GymnasiumTeam",
    "rllib": "phalanx.envs.rllib_team:RllibTeam",
    "mamujoco": "phalanx.envs.mamujoco:MaMuJoCo",
    "vmas": "phalanx.envs.vmas_team:VmasTeam",
}
"""name -> "module:Class". The class takes `(settings, num_envs, load_policy=None)` and has `Settings`."""

LoadPolicy = Callable[[str], TeamPolicy]
"""Loads the run in a directory as a policy; injected, because environments know nothing of checkpoints."""


def env_class(name: str) -> type[TeamEnv]:
    """The class of environment `name`: one of `ENVIRONMENTS`, or anybody's own as `module:Class`, whose module is
    imported. A UserError names the known ones and the nearest, or says what the class lacks."""
    if ":" in name:
        return _own_class(name)
    if name not in ENVIRONMENTS:
        raise UserError(
            f"env.name={name} is not an environment (known: {', '.join(ENVIRONMENTS)}; your own: module:Class)"
            f"{did_you_mean(str(name), ENVIRONMENTS)}"
        )
    module, _, attribute = ENVIRONMENTS[name].partition(":")
    return cast("type[TeamEnv]", getattr(importlib.import_module(module), attribute))


def env_settings(name: str) -> type[EnvSettings]:
    """The settings model of environment `name`; plain `EnvSettings` for a class of somebody's own that has none."""
    return cast("type[EnvSettings]", getattr(env_class(name), "Settings", EnvSettings))


def make_env(
    settings: EnvSettings, num_envs: int, load_policy: LoadPolicy | None = None, watch: bool = True
) -> TeamEnv:
    """`num_envs` environments as one TeamEnv, wrapped as the settings ask.

    `load_policy` serves `env.opponents=checkpoint:DIR`; without it such a setting is refused. `watch`: a class of
    somebody's own is looked after while it plays; whoever wants to see all its mistakes does not ask for that.
    """
    build = cast("Callable[..., TeamEnv]", env_class(settings.name))
    takes_policies = settings.name in ENVIRONMENTS or "load_policy" in inspect.signature(build).parameters
    try:
        env = build(settings, num_envs, load_policy) if takes_policies else build(settings, num_envs)
    except (UserError, RunFailed):
        raise
    except FAULTS as error:
        raise UserError(f"env.name={settings.name} cannot be made: {in_words(error)}") from error
    if settings.name not in ENVIRONMENTS:
        watched = Watched(env, settings.name)
        env = watched if watch else env
    if settings.noise.wraps:
        env = Noise(env, settings.noise)
    return TimeoutIsTerminal(env) if settings.timeout_is_terminal else env


def _own_class(place: str) -> type[TeamEnv]:
    """The TeamEnv that `module:Class` names, checked as far as a class can be without making one."""
    found = import_object(place, "env.name", "my_module:MyEnv")
    if not (isinstance(found, type) and issubclass(found, TeamEnv)):
        raise UserError(
            f"env.name={place} is {getattr(found, '__name__', type(found).__name__)}, not a class derived from"
            " phalanx.envs.team.TeamEnv (or BatchedTeamEnv); for environments of other libraries see"
            " env.name=pettingzoo, gymnasium and rllib"
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"env.name={place}: {found.__name__} does not define {', '.join(missing)}")
    settings = getattr(found, "Settings", EnvSettings)
    if not (isinstance(settings, type) and issubclass(settings, EnvSettings)):
        raise UserError(
            f"env.name={place}: {found.__name__}.Settings must be a class derived from"
            " phalanx.configs.settings.EnvSettings"
        )
    parameters = list(inspect.signature(found).parameters)
    if parameters[:2] != ["settings", "num_envs"]:
        raise UserError(
            f"env.name={place}: {found.__name__}.__init__ takes ({', '.join(parameters)}), but it is called with"
            " (settings, num_envs), and with load_policy where it takes that as well"
        )
    return found
