"""YAML files: data with lines, and a sentence for everything that is not a mapping in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from phalanx.configs.documents import dump_data, dump_value, parse_value, read_document
from phalanx.configs.errors import UserError


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_every_key_knows_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "# head\na: 1e-5\n\nb:\n  c: {d: 2e6}\n  e: [1, {f: 2}]\n")
    document = read_document(path)
    assert document.data == {"a": 1e-5, "b": {"c": {"d": 2e6}, "e": [1, {"f": 2}]}}
    assert document.origin(("a",)) == f"{path}:2"
    assert document.origin(("b", "c", "d")) == f"{path}:5"
    assert document.origin(("b", "e")) == f"{path}:6"
    assert document.origin(("b", "nowhere")) == f"{path}:4"
    assert document.origin(("nowhere",)) == str(path)


def test_merged_keys_point_at_where_they_were_written(tmp_path: Path) -> None:
    path = written(tmp_path, "a: &shared\n  x: 1\n  y: 1\nb:\n  <<: *shared\n  y: 2\n")
    document = read_document(path)
    assert document.data["b"] == {"x": 1, "y": 2}
    assert document.origin(("b", "x")) == f"{path}:2"
    assert document.origin(("b", "y")) == f"{path}:6"


MANY = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- 1\n", "holds a list"),
        ("hello\n", "holds a single value"),
        ("a: 1\nb: 2\na: 3\n", ":3: the key 'a' was already given in line 1"),
        ("a:\n  - {x: 1,\n     x: 2}\n", ":3: the key 'x' was already given in line 2"),
        ("a: [1\nb: 2\n", ":2 is not YAML that can be read: while parsing a flow sequence"),
        ("a: b: c\n", ":1 is not YAML that can be read: mapping values are not allowed here"),
        ("\ta: 1\n", ":1 is not YAML that can be read"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a: 2020-99-99\n", "month must be in 1..12"),
        ("a: *b\n", "undefined alias 'b'"),
        ("a: &x\n  b: *x\n", "an alias refers to the value that it is part of"),
        ("a: &x [*x]\n", "an alias refers to the value that it is part of"),
        (MANY, "more than 100,000 values once its aliases are followed"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("? [1, 2]\n: 3\n", "unhashable key"),
        (b"\xff\xfe\x00", "is not text (byte 0 is not UTF-8)"),
        (b"a: \x00", "is not text (it holds zero bytes)"),
        (b"a: 1\n" * 250_000, "settings have at most 1,000,000"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(tmp_path: Path, content: str | bytes, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_document(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)


def test_what_is_no_readable_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory: give a YAML file"):
        read_document(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_document(tmp_path / "nothing.yaml")
    with pytest.raises(UserError, match="cannot be read: Not a directory"):
        read_document(written(tmp_path, "a: 1\n") / "b.yaml")


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["1e-5", "2E6", "-.5e3", "null", "yes", "0x1f", "1:30", "~", "2020-01-01", "<<", "="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_a_value_written_on_one_line_is_read_back_equal(value: Any) -> None:
    text = dump_value(value)
    assert "\n" not in text
    assert parse_value(text) == value


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4))
def test_data_is_read_back_equal_by_us_and_by_safe_load(data: dict[str, Any]) -> None:
    text = dump_data(data)
    assert parse_value(text) == data
    assert yaml.safe_load(text) == data
