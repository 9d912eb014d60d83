"""Numbers as people write them, by the type of the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from phalanx.configs.base import Settings
from phalanx.configs.coerce import coerce_numbers


class Inner(Settings):
    size: int = 1


class Everything(Settings):
    whole: int = 0
    real: float = 0.0
    text: str = ""
    flag: bool = False
    maybe: int | None = None
    either: float | str = ""
    int_or_float: int | float = 0
    choice: int | Literal["auto"] = "auto"
    limited: Annotated[float, Field(ge=0)] = 0.0
    pair: tuple[int, float] = (0, 0.0)
    table: tuple[tuple[float, ...], ...] = ()
    items: list[float] | None = None
    by_name: dict[str, float] | None = None
    anything: Any = None
    inner: Inner | None = None
    union_of_lists: list[int] | list[str] | None = None
    mapping: Mapping[str, int] | None = None


@pytest.mark.parametrize(
    ("field", "written", "value"),
    [
        ("whole", "2e6", 2_000_000),
        ("whole", 3.0, 3),
        ("whole", "12", 12),
        ("whole", "1_000", 1000),
        ("whole", "9007199254740993", 9007199254740993),  # not a float's neighbour
        ("real", "1e-5", 1e-5),
        ("real", 3, 3.0),
        ("real", ".5", 0.5),
        ("maybe", "5", 5),
        ("maybe", None, None),
        ("either", "1e3", "1e3"),  # text is already allowed
        ("either", 1, 1.0),
        ("int_or_float", 3.0, 3.0),
        ("int_or_float", "3", 3),
        ("int_or_float", "1e-3", 0.001),
        ("choice", "auto", "auto"),
        ("choice", "7", 7),
        ("limited", "1e-1", 0.1),
        ("pair", ["2", 3], (2, 3.0)),
        ("table", [[1, "2e3"], [3.5]], ((1.0, 2000.0), (3.5,))),
        ("items", (1, "2"), [1.0, 2.0]),
        ("by_name", {"a": "1e-2"}, {"a": 0.01}),
        ("anything", "1e-5", "1e-5"),
        ("text", "12", "12"),
        ("inner", {"size": "2e0"}, Inner(size=2)),
        ("union_of_lists", ["a"], ["a"]),
        ("mapping", {"a": 1.0}, {"a": 1}),
    ],
)
def test_values_become_what_the_field_declares(field: str, written: Any, value: Any) -> None:
    got = getattr(Everything.model_validate({field: written}), field)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("field", "written"),
    [
        ("whole", True),
        ("real", False),
        ("whole", "1.5"),
        ("whole", 1.5),
        ("whole", "1e999999999"),  # must not be computed
        ("whole", "1" * 100),
        ("whole", "1__0"),
        ("whole", "0x10"),
        ("whole", "ten"),
        ("real", "nan"),
        ("real", "1e999"),
        ("real", 10**400),
        ("flag", 1),
        ("flag", "true"),
        ("text", 12),
        ("pair", [1, 2, 3]),
        ("table", 3),
        ("maybe", ""),
    ],
)
def test_nothing_else_is_converted(field: str, written: Any) -> None:
    with pytest.raises(ValidationError):
        Everything.model_validate({field: written})


def test_data_that_is_no_mapping_and_unknown_keys_are_left_alone() -> None:
    assert coerce_numbers(Everything, [1]) == [1]
    assert coerce_numbers(Everything, {"nothing": "1"}) == {"nothing": "1"}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_being_written(number: float) -> None:
    assert Everything(real=repr(number)).real == number  # type: ignore[arg-type]


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_every_integer_survives_being_written(number: int) -> None:
    assert Everything(whole=str(number)).whole == number  # type: ignore[arg-type]
