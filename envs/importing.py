"""Importing what settings name: a user's module, a class in one, a library that only some environments need."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import pkgutil
import re
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.configs.nearest import did_you_mean
from phalanx.envs.faults import FAULTS, in_words

LOG = logging.getLogger(__name__)
_MODULE = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"


def import_module(name: str, key: str, example: str) -> ModuleType:
    """The module `name` that the setting `key` asks for; importing it runs its code, so it is logged. `example` is what
    the setting could look like; a UserError tells what is wrong with it."""
    if not re.fullmatch(_MODULE, name):
        raise UserError(f"{key}={name!r} is not the name of a Python module; write it as in {example}{_of_file(name)}")
    return _imported(name, f"{key}={name}", key)


def import_object(place: str, key: str, example: str) -> Any:
    """What the setting `key` names as `module:Name`; errors as in `import_module`."""
    if not re.fullmatch(rf"{_MODULE}:{_MODULE}", place):
        raise UserError(f"{key}={place!r} is not a place module:Name; write it as in {example}{_of_file(place)}")
    module, _, path = place.partition(":")
    found: Any = _imported(module, f"{key}={place}", key)
    for name in path.split("."):
        if not hasattr(found, name):
            raise UserError(f"{key}={place}: {module} has no {path}{did_you_mean(name, dir(found))}")
        found = getattr(found, name)
    return found


def _of_file(given: str) -> str:
    """What to write where somebody named a file: `; for /games/tag.py: PYTHONPATH=/games and tag`."""
    path, _, name = given.partition(".py")
    folder, _, stem = path.rpartition("/")
    if not re.fullmatch(r"[A-Za-z_]\w*", stem) or ("/" not in given and ".py" not in given):
        return ""
    return f"; a file is named by its folder on PYTHONPATH: PYTHONPATH={folder or '$PWD'} … {stem}{name}"


def _siblings(module: str) -> list[str]:
    """Names of the modules beside `module` in its package, where that could be imported."""
    package = sys.modules.get(module.rpartition(".")[0])
    return [found.name for found in pkgutil.iter_modules(getattr(package, "__path__", ()))]


def import_library(module: str, needs: str) -> Any:
    """A library that comes with an extra or that users install themselves. `needs` is the sentence that says who needs
    it and how to install it, which is what a UserError says where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"{needs} (there is no module {error.name})") from error
    except Exception as error:
        raise UserError(f"{needs} (importing {module} failed: {type(error).__name__}: {error})") from error


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of the installed distributions among `packages`, for metadata.json."""
    found = {}
    for package in filter(None, packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _imported(module: str, shown: str, key: str) -> ModuleType:
    LOG.info("importing %s, as %s asks", module, key)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        own = module == missing or module.startswith(missing + ".")
        near = did_you_mean(module.rpartition(".")[2], _siblings(module)) if own else ""
        why = f"there is no module {missing}{near}" if own else f"it needs {missing}, which is not installed"
        raise UserError(
            f"{shown} cannot be imported: {why}; check the name, pip install it, or put its folder on PYTHONPATH"
            f"{_of_file(module) if own else ''}"
        ) from error
    except SyntaxError as error:  # says itself where
        raise UserError(f"{shown} cannot be imported: {type(error).__name__}: {error}") from error
    except FAULTS as error:
        raise UserError(f"{shown} cannot be imported: {in_words(error)}") from error
