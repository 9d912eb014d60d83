"""JaxMARL's SMAX without JaxMARL's other environments, whose modules take several seconds to import."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

SMAX = "jaxmarl.environments.smax"


def import_smax() -> Any:
    """The module. What it lies in is represented by empty packages meanwhile; whoever imports jaxmarl later gets the
    whole of it. ModuleNotFoundError where something is not installed."""
    if SMAX in sys.modules or "jaxmarl" in sys.modules:
        return importlib.import_module(SMAX)
    places = _places()
    if not places:
        return importlib.import_module(SMAX)
    sys.modules["jaxmarl"] = _empty("jaxmarl", places)
    sys.modules["jaxmarl.environments"] = _empty("jaxmarl.environments", [place / "environments" for place in places])
    try:
        return importlib.import_module(SMAX)
    except ImportError:  # another version, which wants more of its packages: all of it is imported below
        for name in [name for name in sys.modules if name.startswith("jaxmarl.")]:
            del sys.modules[name]
    finally:
        sys.modules.pop("jaxmarl", None)
        sys.modules.pop("jaxmarl.environments", None)
    return importlib.import_module(SMAX)


def _places() -> list[Path]:
    """The folders of jaxmarl, found without running it; none where it is not installed."""
    found = importlib.util.find_spec("jaxmarl")
    return [Path(place) for place in (found.submodule_search_locations or ())] if found else []


def _empty(name: str, places: list[Path]) -> ModuleType:
    package = ModuleType(name)
    package.__path__ = [str(place) for place in places]
    return package
