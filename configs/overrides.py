"""Settings from several places, laid over one another: published values, the run file, the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

from phalanx.configs.describe import KeyTree, value_words
from phalanx.configs.documents import Document, KeyPath, parse_value
from phalanx.configs.errors import UserError
from phalanx.configs.problems import unknown_key

COMMAND_LINE = "the command line"
_KEY = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*")


@dataclass(frozen=True)
class Override:
    """One `key.path=value`."""

    path: KeyPath
    value: Any
    origin: str = COMMAND_LINE

    @property
    def key(self) -> str:
        return ".".join(self.path)


def parse_override(text: str) -> Override:
    """`algorithm.lr=1e-4` and the like; values are YAML. Raises a UserError that says how to write it."""
    key, equals, written = text.partition("=")
    key = key.strip()
    if not equals:
        raise UserError(f"{text!r} is no setting: write key=value with no spaces, such as seed=1")
    if not _KEY.fullmatch(key):
        raise UserError(f"{text!r}: {key!r} is no key: write key=value, such as algorithm.lr=0.0005")
    if not written.strip():
        raise UserError(f"{key}: no value after '=': write {key}=null for none or {key}=\"''\" for empty text")
    try:
        value = parse_value(written)
    except ValueError as error:
        raise UserError(f"{key}: the value {written!r} is not YAML that can be read: {error}") from None
    return Override(tuple(key.split(".")), value)


def value_on(overrides: Iterable[Override], path: KeyPath) -> Override | None:
    """What the overrides say about the key `path`, directly or inside a whole section; None where nothing. Raises a
    UserError where they contradict each other."""
    found: Override | None = None
    for one in overrides:
        value: Any = one.value
        if one.path != path[: len(one.path)]:
            continue
        for part in path[len(one.path) :]:
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            found = _agreeing(found, Override(path, value, one.origin))
    return found


def _agreeing(first: Override | None, second: Override) -> Override:
    if first is not None and (type(first.value), first.value) != (type(second.value), second.value):
        raise UserError(
            f"{second.key} is given twice ({second.origin}): {value_words(first.value)} and"
            f" {value_words(second.value)}; give it once"
        )
    return second


class Merged:
    """Settings as they come together: plain nested data and where each key came from. Sections merge, values replace;
    what a key's value is (also a mapping, such as env.kwargs) is for the models in `tree` to say."""

    def __init__(self, tree: KeyTree, source: str) -> None:
        self.tree = tree
        self.source = source
        self.data: dict[str, Any] = {}
        self._origins: dict[KeyPath, str] = {}

    def origin(self, path: KeyPath) -> str:
        """Where the key, or else the nearest section around it, was given."""
        while path and path not in self._origins:
            path = path[:-1]
        return self._origins.get(path, self.source)

    def given(self, path: KeyPath) -> bool:
        """Whether somebody gave this very key; otherwise the default holds."""
        return path in self._origins

    def lay(self, document: Document, section: KeyPath = ()) -> None:
        """Lays a document (of the whole, or of one section) over what is there."""
        for key, value in document.data.items():
            for path, leaf in self._flattened((*section, str(key)), value):
                inside = path[len(section) :]
                self._put(path, leaf, document.origin(inside))
                for name in leaf if isinstance(leaf, Mapping) else ():
                    self._origins[(*path, str(name))] = document.origin((*inside, str(name)))

    def apply(self, overrides: Sequence[Override]) -> list[str]:
        """Lays overrides over what is there, in whatever order they came; gives the sentences on those that have no
        place to go to."""
        given: dict[KeyPath, Override] = {}
        for one in overrides:
            for path, leaf in self._flattened(one.path, one.value):
                given[path] = _agreeing(given.get(path), Override(path, leaf, one.origin))
        problems = []
        for path in sorted(given, key=lambda path: (len(path), path)):  # the whole before its parts
            if self._has_place(path):
                self._put(path, given[path].value, given[path].origin)
            else:
                problems.append(unknown_key(path, self.tree, given[path].origin))
        return problems

    def _flattened(self, path: KeyPath, value: Any) -> Iterable[tuple[KeyPath, Any]]:
        """A section's keys one by one; an empty section as itself."""
        if isinstance(value, Mapping) and value and self.tree.model(path) is not None:
            for key, item in value.items():
                yield from self._flattened((*path, str(key)), item)
        else:
            yield path, value

    def _has_place(self, path: KeyPath) -> bool:
        parent = path[:-1]
        if self.tree.model(parent) is not None:
            return True  # whether the section has such a key is for its model to say
        declared = self.tree.field(parent)
        return declared is not None and get_origin(declared.annotation) in (dict, Mapping)

    def _put(self, path: KeyPath, value: Any, origin: str) -> None:
        section = self.data
        for depth, part in enumerate(path[:-1], start=1):
            inner = section.get(part)
            if not isinstance(inner, Mapping):
                declared = self.tree.field(path[:depth]) if self.tree.model(path[:depth]) is None else None
                inner = {} if declared is None else declared.get_default(call_default_factory=True)
            section[part] = dict(inner) if isinstance(inner, Mapping) else {}
            section = section[part]
        empty_section = value == {} and self.tree.model(path) is not None
        if not (empty_section and isinstance(section.get(path[-1]), Mapping)):
            section[path[-1]] = value
            for below in [key for key in self._origins if key[: len(path)] == path]:
                del self._origins[below]
        self._origins[path] = origin
