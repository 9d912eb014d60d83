"""Numbers as people write them, turned into the type that a field declares; nothing else is converted."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

_NUMERAL = re.compile(r"[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)?")
_LONGEST_NUMERAL = 64  # characters; longer ones are no number that anybody wrote, and slow to convert


def coerce_numbers(model: type[BaseModel], data: Any) -> Any:
    """A copy of the mapping `data` whose values have the number and sequence types of the fields of `model`.

    Numeric strings become numbers, whole floats integers, integers floats and lists tuples, where (and only where)
    the field asks for it. A bool is never a number. What does not fit is left as it is, for pydantic to refuse;
    nested models coerce their own fields. Anything but a mapping is returned unchanged.
    """
    if not isinstance(data, Mapping):
        return data
    fields = model.model_fields
    return {key: _coerced(fields[key].annotation, value) if key in fields else value for key, value in data.items()}


def _coerced(annotation: Any, value: Any) -> Any:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _coerced(get_args(annotation)[0], value)
    if origin in (Union, types.UnionType):
        return _for_union(get_args(annotation), value)
    scalar = _SCALARS.get(annotation)
    if scalar is not None:
        return scalar(value)
    if isinstance(value, list | tuple):
        return _for_sequence(origin or annotation, get_args(annotation), value)
    if isinstance(value, Mapping) and origin in (dict, Mapping) and len(get_args(annotation)) == 2:
        of_key, of_value = get_args(annotation)
        return {_coerced(of_key, key): _coerced(of_value, item) for key, item in value.items()}
    return value


def _for_union(members: Sequence[Any], value: Any) -> Any:
    if any(_fits(member, value) for member in members):
        return value
    for member in members:
        converted = _coerced(member, value)
        if _fits(member, converted):
            return converted
    return value


def _for_sequence(container: Any, arguments: tuple[Any, ...], value: Sequence[Any]) -> Any:
    if container not in (tuple, list, Sequence):
        return value
    if container is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            return tuple(value)
        return tuple(_coerced(of, item) for of, item in zip(arguments, value, strict=True))
    items = [_coerced(arguments[0], item) for item in value] if arguments else list(value)
    return tuple(items) if container is tuple else items


def _fits(annotation: Any, value: Any) -> bool:
    """Whether `value` already has the type `annotation`, as far as choosing a member of a union needs it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _fits(get_args(annotation)[0], value)
    if origin in (Union, types.UnionType):
        return any(_fits(member, value) for member in get_args(annotation))
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(annotation))
    if annotation is None or annotation is types.NoneType:
        return value is None
    if annotation in (int, float, bool, str):
        return type(value) is annotation
    if annotation is Any:
        return True
    container = origin or annotation
    arguments = get_args(annotation)
    if container in (tuple, list):
        if not isinstance(value, container):
            return False
        if container is tuple and arguments and arguments[-1] is not Ellipsis:
            return len(arguments) == len(value) and all(map(_fits, arguments, value))
        return not arguments or all(_fits(arguments[0], item) for item in value)
    if container in (dict, Mapping) and len(arguments) == 2 and isinstance(value, Mapping):
        return all(_fits(arguments[0], key) and _fits(arguments[1], item) for key, item in value.items())
    if isinstance(container, type) and issubclass(container, BaseModel):
        return isinstance(value, container | Mapping)
    return isinstance(container, type) and isinstance(value, container)


def _to_int(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if _is_numeral(value) and math.isfinite(float(value)):
        exact = Decimal(value)
        return int(exact) if exact == exact.to_integral_value() else value
    return value


def _to_float(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return value
    return float(value) if _is_numeral(value) else value


def _is_numeral(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > _LONGEST_NUMERAL or _NUMERAL.fullmatch(value) is None:
        return False
    try:
        float(value)  # misplaced underscores
    except ValueError:
        return False
    return True


_SCALARS: dict[Any, Callable[[Any], Any]] = {int: _to_int, float: _to_float}
