"""What pydantic finds wrong, said to the person who wrote it: key, got, allowed, where, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from phalanx.configs.describe import KeyTree, allowed, allowed_inside, value_words
from phalanx.configs.documents import KeyPath
from phalanx.configs.errors import UserError


class Origins(Protocol):
    """Where keys were given: 'my.yaml:7', 'the command line', …"""

    def origin(self, path: KeyPath) -> str:
        """Of the key, or else of the nearest section around it."""

    def given(self, path: KeyPath) -> bool:
        """Whether this very key was given; otherwise its default holds."""


_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


@dataclass(frozen=True)
class _Problem:
    """One complaint of pydantic: about the key `path`, at the place `inside` its value. `data` start `depth` keys down
    from the whole."""

    details: ErrorDetails
    path: KeyPath
    inside: tuple[int | str, ...]
    data: Mapping[str, Any]
    depth: int

    def given(self, place: Iterable[int | str] = ()) -> Any:
        """The value as it was written, before numbers were converted."""
        value: Any = self.data
        for part in (*self.path[self.depth :], *place):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return self.details["input"]
        return value


def sentences(
    error: ValidationError, tree: KeyTree, origins: Origins, data: Mapping[str, Any], section: KeyPath = ()
) -> list[str]:
    """One sentence for each key with a problem. `section` is where in `tree` the validated `data` stand."""
    found: dict[KeyPath, str] = {}
    for details in error.errors(include_url=False):
        path, inside = section, list(details["loc"])
        while inside and tree.model(path) is not None:
            path = (*path, str(inside.pop(0)))
        if path not in found:  # the alternatives that a key has complain one by one
            found[path] = _sentence(_Problem(details, path, tuple(inside), data, len(section)), tree, origins)
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


def _sentence(problem: _Problem, tree: KeyTree, origins: Origins) -> str:
    path, kind = problem.path, problem.details["type"]
    if kind == "extra_forbidden":
        return unknown_key(path, tree, origins.origin(path))
    if kind in ("value_error", "assertion_error"):
        return _own_words(problem, tree, origins)
    key, model, declared = ".".join(path), tree.model(path), tree.field(path)
    if declared is None or kind == "invalid_key":
        return f"{key} ({origins.origin(path)}): got {value_words(problem.details['input'])}: {problem.details['msg']}"
    if problem.inside[-1:] == ("[key]",):
        name = value_words(problem.details["input"])
        return f"{key} ({origins.origin(path)}): got the name {name}, allowed: names that are text; write '{name}'"
    what, place = allowed_inside(declared, problem.inside)
    if model is not None:
        what = f"a section with the keys {', '.join(model.model_fields)}"
    if kind == "finite_number":
        what += ", not infinite"
    meaning = f"{key} is {declared.description}" if declared.description else ""
    if kind == "missing":
        return f"{key} is missing: give {what} as {key}=... or in {origins.origin(())}; {meaning}"
    default = tree.default_words(path)
    advice = f"the default is {key}={default}" if default is not None else meaning
    where = origins.origin((*path, *(part for part in place if isinstance(part, str))))
    position = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return f"{key}{position} ({where}): got {value_words(problem.given(place))}, allowed: {what}; {advice}"


def _own_words(problem: _Problem, tree: KeyTree, origins: Origins) -> str:
    """The sentence of a model's own check, with the places of the keys that it names."""
    details, path = problem.details, problem.path
    known: list[KeyPath] = []

    def full_name(found: re.Match[str]) -> str:
        name: KeyPath = tuple(found[0].split("."))
        for key in (name, (*path[:1], *name)):  # a section's model need not know where in the run it stands
            if tree.field(key) is not None:
                known.extend([key] if key not in known else [])
                return ".".join(key)
        return found[0]

    message = _DOTTED.sub(full_name, str(details.get("ctx", {}).get("error", details["msg"])))
    if tree.model(path) is None and path not in known:
        message, known = f"{'.'.join(path)}={value_words(problem.given())}: {message}", [path, *known]
    if not known:
        return f"{message} ({origins.origin(path)})"
    return f"{message} ({'; '.join(f'{chr(46).join(key)}: {_place(key, origins)}' for key in known)})"


def _place(key: KeyPath, origins: Origins) -> str:
    return origins.origin(key) if origins.given(key) else "its default"
