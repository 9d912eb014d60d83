"""What `env.name=smac` needs of a machine: the package smac, what that stands on, the game, its maps. docs/smac.md says
how to install them."""

from __future__ import annotations

import importlib
import importlib.machinery
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.envs.importing import versions

GAME = "StarCraft II"  # its key among the spec's versions
HOW = "docs/smac.md of phalanx says how"
MISSING = (
    "env.name=smac needs the package smac from github.com/oxwhirl/smac, which is not installed; PyPI does not have it"
    f" (its `smac` is something else): {HOW}"
)
OTHER = (
    "env.name=smac: the installed package smac is not the StarCraft Multi-Agent Challenge; PyPI's `smac` is a"
    f" hyper-parameter optimiser of the same name: pip uninstall smac, then install github.com/oxwhirl/smac ({HOW})"
)
PROTOBUF = (
    "env.name=smac: s2clientprotocol was generated for an older protobuf than the installed one: pip uninstall"
    f" s2clientprotocol, then pip install pys2clientprotocol, which has the same modules ({HOW})"
)


def load_smac(patience_s: float = 0.0) -> Callable[..., Any]:
    """The class StarCraft2Env, with a game that may take `patience_s` for an answer. A UserError tells apart: no smac,
    another smac, one of its own needs missing, a protobuf that does not fit."""
    try:
        importlib.import_module("smac")
        module = importlib.import_module("smac.env")
    except ModuleNotFoundError as error:
        if error.name == "smac":
            raise UserError(MISSING) from error
        if error.name == "smac.env" or _is_another_smac():
            raise UserError(OTHER) from error
        raise UserError(f"env.name=smac: smac needs {error.name}, which is not installed: {HOW}") from error
    except Exception as error:
        if _is_another_smac():
            raise UserError(OTHER) from error
        if "Descriptors cannot be created directly" in str(error):
            raise UserError(PROTOBUF) from error
        raise UserError(
            f"env.name=smac: importing smac failed: {type(error).__name__}: {error}; {HOW} it is installed"
        ) from error
    if not hasattr(module, "StarCraft2Env"):
        raise UserError(OTHER)
    _settle_flags(patience_s)
    made: Callable[..., Any] = module.StarCraft2Env
    return made


def _is_another_smac() -> bool:
    """Whether the package found as smac, whose import failed, lacks the folder of SMAC's environments."""
    found = importlib.machinery.PathFinder.find_spec("smac")
    places = found.submodule_search_locations if found is not None else None
    return bool(places) and not any((Path(place) / "env").is_dir() for place in places or ())


def _settle_flags(patience_s: float) -> None:
    """pysc2 reads absl's flags, which refuse to be read in a program that never parsed its command line for them. One
    of them is how long it waits for a game, to start or to answer."""
    absl_flags = sys.modules.get("absl.flags")
    if absl_flags is None:
        return
    flags = absl_flags.FLAGS
    if not flags.is_parsed():
        flags.mark_as_parsed()
    if "sc2_timeout" in flags:
        flags.sc2_timeout = max(flags.sc2_timeout, math.ceil(patience_s))


def game_folder() -> Path:
    """Where StarCraft II is: SC2PATH, or where pysc2 looks otherwise."""
    return Path(os.environ.get("SC2PATH") or "~/StarCraftII").expanduser()


def require_game(map_name: str, game_version: str | None) -> dict[str, str]:
    """Versions of the simulator for the spec. A UserError where the game, a version of it or the map is missing: the
    library itself would say so only when the first game starts, in a worker."""
    folder = game_folder()
    builds = sorted(int(found[1]) for path in _listed(folder / "Versions") if (found := _build(path)))
    if not builds:
        where = "SC2PATH names" if os.environ.get("SC2PATH") else "SC2PATH is not set, so it is looked for in"
        raise UserError(
            f"env.name=smac needs StarCraft II, which is not there: {where} {folder}, and there is no"
            f" {folder / 'Versions' / 'Base…'}; {HOW} to get it"
        )
    if not (folder / "Maps" / "SMAC_Maps" / f"{map_name}.SC2Map").is_file():
        raise UserError(
            f"env.scenario={map_name}: StarCraft II in {folder} has no file Maps/SMAC_Maps/{map_name}.SC2Map; SMAC's"
            f" maps come apart from the game and from the package ({HOW})"
        )
    return {**versions(("smac", "pysc2")), GAME: _chosen(game_version, builds, folder / "Versions")}


def _chosen(wish: str | None, builds: list[int], folder: Path) -> str:
    """The version that pysc2 starts for `wish`, or a UserError where it would refuse to start one."""
    names: dict[int, list[str]] = {build: [] for build in builds}
    known = _known_builds()
    for name, build in known.items():
        names.setdefault(build, []).append(name)
    if wish is None or wish == "latest":  # pysc2's own word for it
        return _named(builds[-1], names[builds[-1]])
    full = f"{wish}.0" if wish.count(".") == 1 else wish  # pysc2 completes it like this
    if not known:  # nor can anything be started without pysc2
        return full
    if known.get(full) in builds:
        return _named(known[full], [full])
    why = f"build {known[full]} of StarCraft II, which is not installed" if full in known else "unknown to pysc2"
    there = ", ".join(_named(build, names[build]) for build in builds)
    raise UserError(
        f"env.game_version={wish} is {why}: in {folder} there is {there}; choose one of these, leave the setting out"
        f" for the newest, or install the version ({HOW})"
    )


def _known_builds() -> dict[str, int]:
    """The build of every version that pysc2 knows; nothing where there is no pysc2."""
    try:
        known = importlib.import_module("pysc2.run_configs.lib").VERSIONS.values()
    except ImportError:
        return {}
    return {version.game_version: version.build_version for version in known}


def _named(build: int, names: list[str]) -> str:
    """A build of the game, and the versions that it may be: 4.10.0 (build 75689)."""
    return f"{'/'.join(names)} (build {build})" if names else f"build {build}"


def is_version(chosen: str, version: str, build: int) -> bool:
    """Whether the game that says that it is `version` (4.10.0.75689) of `build` is what `require_game` names."""
    names = chosen.partition(" (")[0].split("/")
    return chosen == f"build {build}" or any(f"{version}.".startswith(f"{name}.") for name in names)


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _build(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"Base(\d+)", path.name)
