"""YAML in and out: plain data (`safe_load` semantics) together with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from phalanx.configs.errors import UserError

KeyPath = tuple[str, ...]
_LARGEST = 1_000_000  # bytes
_MOST_NODES = 100_000  # after aliases are followed
# YAML 1.1, which PyYAML follows, takes 1e-5 and 2e6 for text; people (and YAML 1.2) mean numbers.
_FLOAT_WITHOUT_DOT = re.compile(r"[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads every exponent as a number."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` (and `yaml.safe_load`) reads back equal: text that looks like a number is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT_WITHOUT_DOT, list("-+.0123456789"))


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Escaped where it breaks lines: PyYAML writes some breaks of Unicode plain and reads them as spaces.
    style = '"' if any(character in text for character in "\n\r\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(tuple, lambda dumper, items: dumper.represent_list(items))


@dataclass(frozen=True)
class Document:
    """A mapping and where its keys were written: `origins[("algorithm", "lr")] == "my.yaml:7"`."""

    data: Mapping[str, Any]
    source: str
    origins: Mapping[KeyPath, str] = field(default_factory=dict)
    path: Path | None = None  # of the file, where there is one

    def values_below(self, section: KeyPath) -> dict[KeyPath, Any]:
        """The values by the names that they have where the document is the section `section` of a larger one."""

        def walk(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
            if isinstance(value, Mapping) and value:
                for key, item in value.items():
                    yield from walk((*path, str(key)), item)
            else:
                yield path, value

        return dict(walk(section, self.data))

    def origin(self, path: KeyPath) -> str:
        """Where the key `path` was written, or the nearest section around it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, self.source)


def read_document(path: Path, shown: str | None = None) -> Document:
    """Reads a mapping from a YAML file, called `shown` in errors. Raises UserError, in a sentence, for everything that
    is not one."""
    name = shown or str(path)
    text = _read_text(path)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise UserError(f"{name} is empty: it must hold settings, such as 'env:' and 'algorithm:' sections")
            if not isinstance(node, yaml.MappingNode):
                kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
                raise UserError(f"{name} holds {kind}, not settings: write 'key: value' lines, such as 'seed: 1'")
            _refuse_duplicates(node, name)
            data = loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{_where(name, error)} is not YAML that can be read: {_reason(error)}") from None
    lines = _Lines(name)
    lines.collect(node, ())
    return Document(data, name, lines.origins, path)


def parse_value(text: str) -> Any:
    """The plain data that the YAML text `text` stands for. Raises ValueError with a reason."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(_reason(error)) from None


def dump_data(data: Any) -> str:
    """YAML text in blocks, keys in the order given; lists of plain values on one line."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)


def dump_value(value: Any) -> str:
    """YAML text of one value on one line, as it is written after `key=` on the command line."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31, default_flow_style=True)
    return text.removesuffix("...\n").strip()


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise UserError(f"{path} is a directory: give a YAML file, such as {path / 'config.yaml'}")
        if size > _LARGEST:
            raise UserError(f"{path} has {size:,} bytes: settings have at most {_LARGEST:,}; is it the right file?")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the path of a YAML file or the name of a shipped one") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text (byte {error.start} is not UTF-8): give a YAML file") from None
    if "\0" in text:
        raise UserError(f"{path} is not text (it holds zero bytes): give a YAML file")
    return text


def _where(name: str, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return name if mark is None else f"{name}:{mark.line + 1}"


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError):
        return ", ".join(part for part in (error.context, error.problem) if part)
    return " ".join(str(error).split())


def _refuse_duplicates(root: yaml.Node, name: str) -> None:
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and key.value in first:
                    raise UserError(
                        f"{name}:{line}: the key '{key.value}' was already given in line {first[key.value]}: keep one"
                    )
                if isinstance(key, yaml.ScalarNode):
                    first[key.value] = line
                pending.append(value)


class _Lines:
    """Walks the nodes of a constructed document as a reader of the data would: through every alias."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.origins: dict[KeyPath, str] = {}
        self._visited = 0

    def collect(self, node: yaml.Node, path: KeyPath | None, above: frozenset[int] = frozenset()) -> None:
        """`path` is None below a list, where keys have no dotted name."""
        line = node.start_mark.line + 1
        self._visited += 1
        if id(node) in above:
            raise UserError(f"{self.name}:{line}: an alias refers to the value that it is part of: write it out")
        if self._visited > _MOST_NODES:
            raise UserError(
                f"{self.name} has more than {_MOST_NODES:,} values once its aliases are followed: write less"
            )
        above = above | {id(node)}
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.collect(item, None, above)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:  # constructed: what `<<` merged in comes before the mapping's own keys
                here = (*path, key.value) if path is not None and isinstance(key, yaml.ScalarNode) else None
                if here is not None:
                    self.origins[here] = f"{self.name}:{key.start_mark.line + 1}"
                self.collect(value, here, above)
