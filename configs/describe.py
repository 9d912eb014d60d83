"""Words for what the models declare: types, ranges, keys, and the key that a mistyped one was meant to be."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from phalanx.configs.documents import KeyPath, dump_value

_SCALARS: dict[Any, tuple[str, str]] = {  # one of them, several of them
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "true or false"),
    Any: ("any value", "values"),
}


def section_model(annotation: Any) -> type[BaseModel] | None:
    """The settings model that a field holds (also where null is allowed), or None where it holds a value."""
    candidates = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    models = [one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)]
    return models[0] if len(models) == 1 else None


@dataclass(frozen=True)
class KeyTree:
    """All keys under the model `root`; `sections` says which model stands for a top-level section whose declared one
    is only a base (`env`, `algorithm`); `published` are values that stand in for the models' defaults."""

    root: type[BaseModel]
    sections: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    published: Mapping[KeyPath, Any] = field(default_factory=dict)

    def model(self, path: KeyPath) -> type[BaseModel] | None:
        """The model of the section `path`, or None where it is no section."""
        if not path:
            return self.root
        if len(path) == 1 and path[0] in self.sections:
            return self.sections[path[0]]
        declared = self.field(path)
        return None if declared is None else section_model(declared.annotation)

    def field(self, path: KeyPath) -> FieldInfo | None:
        parent = self.model(path[:-1]) if path else None
        return None if parent is None else parent.model_fields.get(path[-1])

    def default_words(self, path: KeyPath) -> str | None:
        """The default as it is written after `key=`, or None where there is none."""
        declared = self.field(path)
        if declared is None or self.model(path) is not None:
            return None
        default = self.published.get(path, declared.get_default(call_default_factory=False))
        return None if default is PydanticUndefined else dump_value(default)

    def leaves(self, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
        """Every key that holds a value, in the order of the models."""
        model = self.model(prefix)
        for name, declared in {} if model is None else model.model_fields.items():
            here = (*prefix, name)
            if self.model(here) is None:
                yield here, declared
            else:
                yield from self.leaves(here)

    def nearest(self, wrong: KeyPath) -> KeyPath | None:
        """The key that `wrong` was probably meant to be: a neighbour spelt alike, the same name in another section,
        a neighbour that goes on after it (every, every_env_steps), or the dotted name most like it."""
        parent = self.model(wrong[:-1])
        neighbours = {name: (*wrong[:-1], name) for name in ({} if parent is None else parent.model_fields)}
        keys = sorted({key[:end] for key, _ in self.leaves() for end in range(1, len(key) + 1)})
        by_name = {".".join(key): key for key in keys}
        elsewhere = {name: key for name, key in by_name.items() if key[-1] == wrong[-1]}
        dotted = ".".join(wrong)
        beginning = {name: key for name, key in neighbours.items() if name.startswith(f"{wrong[-1]}_")}
        for word, among, cutoff in (
            (wrong[-1], neighbours, 0.8),
            (dotted, elsewhere, 0.0),
            (wrong[-1], beginning, 0.0),
            (wrong[-1], neighbours, 0.6),
            (dotted, by_name, 0.6),
        ):
            alike = difflib.get_close_matches(word, among, n=1, cutoff=cutoff)
            if alike:
                return among[alike[0]]
        return None


def allowed(declared: FieldInfo) -> str:
    """What a field takes: 'a whole number >= 1', 'one of rmsprop, adam', …"""
    return type_words(declared.annotation, declared.metadata)


def allowed_inside(declared: FieldInfo, parts: Sequence[int | str]) -> tuple[str, tuple[int | str, ...]]:
    """What a field takes at a place inside its value, and that place: `parts` (positions in lists, keys of mappings)
    as far as there is one type only."""
    annotation, metadata = declared.annotation, list(declared.metadata)
    for depth, part in enumerate(parts):
        single = _only_type(annotation)
        origin, arguments = get_origin(single), get_args(single)
        if origin in (dict, Mapping) and len(arguments) == 2:
            annotation = arguments[1]
        elif origin is tuple and arguments[-1] is not Ellipsis and isinstance(part, int) and part < len(arguments):
            annotation = arguments[part]
        elif origin in (list, tuple, Sequence):
            annotation = arguments[0]
        else:
            return type_words(annotation, metadata), tuple(parts[:depth])
        metadata = []
    return type_words(annotation, metadata), tuple(parts)


def _only_type(annotation: Any) -> Any:
    """The type without its limits and without `or null`."""
    if get_origin(annotation) is Annotated:
        return _only_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = [one for one in get_args(annotation) if not _is_none(one)]
        return _only_type(members[0]) if len(members) == 1 else annotation
    return annotation


def type_words(annotation: Any, metadata: Sequence[Any] = (), several: bool = False) -> str:
    """The type `annotation` with the limits in `metadata`, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0], [*_flat(arguments[1:]), *metadata], several)
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(one, metadata, several) for one in sorted(arguments, key=_is_none))
    if origin is Literal:
        choices = [dump_value(choice) for choice in arguments]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if _is_none(annotation):
        return "null"
    if annotation in _SCALARS:
        return _SCALARS[annotation][several] + _limits(metadata) + _pattern(metadata)
    if origin in (list, tuple, Sequence) or annotation in (list, tuple):
        return _list_words(arguments, several) + _lengths(metadata)
    if origin in (dict, Mapping) or annotation is dict:
        of = f" to {type_words(arguments[1], several=True)}" if len(arguments) == 2 else " to values"
        return f"{'mappings' if several else 'a mapping'} of names{of}"
    model = section_model(annotation)
    if model is not None:
        return f"{'sections' if several else 'a section'} with the keys {', '.join(model.model_fields)}"
    return getattr(annotation, "__name__", str(annotation))


def value_words(value: Any) -> str:
    """A value that was given, short; text in quotes."""
    if isinstance(value, BaseModel):
        return "a section"
    text = repr(value) if isinstance(value, str) else dump_value(_plain(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(value: Any) -> Any:
    """`value` with everything that YAML has no notion of as text: it comes from Python callers only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _is_none(annotation: Any) -> bool:
    return annotation is None or annotation is types.NoneType


def _flat(metadata: Sequence[Any]) -> list[Any]:
    return [one for item in metadata for one in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _limits(metadata: Sequence[Any]) -> str:
    found = {name: getattr(one, name) for one in metadata for name in ("ge", "gt", "le", "lt") if hasattr(one, name)}
    if "ge" in found and "le" in found:
        return f" from {found['ge']} to {found['le']}"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return "".join(f" {'and ' * (index > 0)}{signs[name]} {value}" for index, (name, value) in enumerate(found.items()))


def _pattern(metadata: Sequence[Any]) -> str:
    found = [str(one.pattern) for one in metadata if getattr(one, "pattern", None)]
    return f" that matches {found[0]}" if found else ""


def _lengths(metadata: Sequence[Any]) -> str:
    words = {"min_length": "at least", "max_length": "at most"}
    found = [(name, getattr(one, name, None)) for one in metadata for name in words]
    parts = [f"{words[name]} {value}" for name, value in found if value is not None]
    return f" ({' and '.join(parts)} of them)" if parts else ""


def _list_words(arguments: tuple[Any, ...], several: bool) -> str:
    word = "lists" if several else "a list"
    if not arguments or arguments == (Any,):
        return word
    if len(arguments) == 1 or arguments[-1] is Ellipsis:
        return f"{word} of {type_words(arguments[0], several=True)}"
    return f"{word} of {len(arguments)}: {', then '.join(type_words(one) for one in arguments)}"
