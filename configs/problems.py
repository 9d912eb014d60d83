"""What pydantic finds wrong, said to the person who wrote it: key, got, allowed, where, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from phalanx.configs.describe import KeyTree, allowed, value_words
from phalanx.configs.documents import KeyPath
from phalanx.configs.errors import UserError


class Origins(Protocol):
    """Where keys were given: 'my.yaml:7', 'the command line', …"""

    def origin(self, path: KeyPath) -> str:
        """Of the key, or else of the nearest section around it."""

    def given(self, path: KeyPath) -> bool:
        """Whether this very key was given; otherwise its default holds."""


_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|(?<![\w.])(?:seed|mode|total_env_steps)(?=[= ])")


def sentences(
    error: ValidationError, tree: KeyTree, origins: Origins, data: Mapping[str, Any], section: KeyPath = ()
) -> list[str]:
    """One sentence for each key with a problem. `section` is where in `tree` the validated `data` stand."""
    found: dict[KeyPath, str] = {}
    for details in error.errors(include_url=False):
        path, position, in_union = _split(tree, section, details["loc"])
        if path in found:  # the members of a union complain one by one
            continue
        position = "" if in_union else position
        if not position:  # as it was written, before numbers were converted
            details["input"] = _given(data, path[len(section) :], details["input"])
        found[path] = _sentence(details, path, position, tree, origins)
    return list(found.values())


def raise_problems(problems: Sequence[str]) -> None:
    """Raises a UserError with the sentences, one line each; does nothing without any."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError(f"{len(problems)} settings are wrong:\n" + "\n".join(f"  {problem}" for problem in problems))


def unknown_key(path: KeyPath, tree: KeyTree, where: str) -> str:
    """The sentence for a key that does not exist."""
    key, parent = ".".join(path), path[:-1]
    while tree.model(parent) is None:
        parent = parent[:-1]
    if tree.field(path[: len(parent) + 1]) is not None:  # below a value, which has no keys
        value = ".".join(path[: len(parent) + 1])
        return (
            f"{key} ({where}): {value} is a value, not a section, and has no keys:"
            f" give {value} itself, {allowed(tree.field(path[: len(parent) + 1]))}"  # type: ignore[arg-type]
        )
    near = tree.nearest(path)
    model = tree.model(parent)
    names = ", ".join(model.model_fields) if model is not None else ""
    inside = f"in {'.'.join(parent)}" if parent else "at the top"
    hint = f"did you mean {'.'.join(near)}? " if near else ""
    return f"{key} ({where}): there is no such key; {hint}Allowed {inside}: {names}"


def _sentence(details: ErrorDetails, path: KeyPath, position: str, tree: KeyTree, origins: Origins) -> str:
    key, kind = ".".join(path), details["type"]
    if kind == "extra_forbidden":
        return unknown_key(path, tree, origins.origin(path))
    if kind in ("value_error", "assertion_error"):
        return _own_words(details, path, tree, origins)
    declared = tree.field(path)
    model = tree.model(path)
    if declared is None or kind == "invalid_key":
        return f"{key} ({origins.origin(path)}): got {value_words(details['input'])}: {details['msg']}"
    what = f"a section with the keys {', '.join(model.model_fields)}" if model is not None else allowed(declared)
    meaning = f"{key} is {declared.description}" if declared.description else ""
    if kind == "missing":
        return f"{key} is missing: give {what} as {key}=... or in {origins.origin(())}; {meaning}"
    default = tree.default_words(path)
    advice = f"the default is {key}={default}" if default is not None else meaning
    return f"{key}{position} ({origins.origin(path)}): got {value_words(details['input'])}, allowed: {what}; {advice}"


def _own_words(details: ErrorDetails, path: KeyPath, tree: KeyTree, origins: Origins) -> str:
    """The sentence of a model's own check, with the places of the keys that it names."""
    message = str(details.get("ctx", {}).get("error", details["msg"]))
    named = [tuple(key.split(".")) for key in _DOTTED.findall(message)]
    known = [key for key in dict.fromkeys(named) if tree.field(key) is not None]
    if tree.model(path) is None and path not in known:
        message, known = f"{'.'.join(path)}={value_words(details['input'])}: {message}", [path, *known]
    if not known:
        return f"{message} ({origins.origin(path)})"
    return f"{message} ({'; '.join(f'{chr(46).join(key)}: {_place(key, origins)}' for key in known)})"


def _place(key: KeyPath, origins: Origins) -> str:
    return origins.origin(key) if origins.given(key) else "its default"


def _split(tree: KeyTree, section: KeyPath, loc: Iterable[int | str]) -> tuple[KeyPath, str, bool]:
    """A pydantic location as the key, the position inside its value, and whether it passed through a union."""
    path, position, inside = section, "", False
    for part in loc:
        if not inside and tree.model(path) is not None:
            path = (*path, str(part))
            inside = tree.model(path) is None
        elif isinstance(part, int):
            position += f"[{part}]"
    declared = tree.field(path)
    members = [one for one in get_args(declared.annotation) if one is not type(None)] if declared is not None else []
    union = declared is not None and len(members) > 1 and " or " in allowed(declared)
    return path, position, union


def _given(data: Mapping[str, Any], path: KeyPath, otherwise: Any) -> Any:
    value: Any = data
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return otherwise
        value = value[part]
    return value
