"""From a run file and `key=value` overrides to a checked `RunSettings`, and back to text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from phalanx.configs.base import Settings
from phalanx.configs.catalogue import Catalogue, published_settings
from phalanx.configs.describe import KeyTree, value_words
from phalanx.configs.docs import settings_docs
from phalanx.configs.documents import Document, dump_data, read_document
from phalanx.configs.errors import UserError
from phalanx.configs.nearest import nearest
from phalanx.configs.on_policy import OFF_POLICY_KEYS, without_what_follows
from phalanx.configs.overrides import Merged, Override, parse_override, value_on
from phalanx.configs.problems import raise_problems, sentences
from phalanx.configs.settings import AlgorithmSettings, EnvSettings, RunSettings

__all__ = [
    "Catalogue",
    "dump_run",
    "fingerprint",
    "load_run",
    "override_run",
    "run_from_dict",
    "settings_docs",
    "shipped_runs",
]

_HERE = Path(__file__).parent
# Sections that say how a run is watched, kept and hosted, but not what it learns.
NOT_LEARNING = frozenset({"cluster", "sinks", "report", "checkpoint", "evaluation"})
_S = TypeVar("_S", bound=Settings)


def shipped_runs() -> dict[str, Path]:
    """The runs that come with phalanx: name and file."""
    return _shipped("run")


def load_run(source: str | Path, overrides: Sequence[str] = (), *, catalogue: Catalogue) -> RunSettings:
    """The run that `source` (a path, or the name of a shipped run) and the overrides `key.path=value` describe.

    An override of `env.name` or `algorithm.name` to another name drops that section of the file; where it goes from
    an off-policy method to an on-policy one or back, also what the file says of the replay and of exploration. The
    order of the overrides does not matter. Raises a UserError that says what was got, what is allowed, which key and
    where.
    """
    return resolve(read_run_document(source), [parse_override(one) for one in overrides], catalogue)


def run_from_dict(data: Mapping[str, Any], *, catalogue: Catalogue) -> RunSettings:
    """The run that nested plain data (a resolved config.yaml, say) describes; errors as in `load_run`."""
    return resolve(Document(data, "the configuration"), (), catalogue)


def override_run(run: RunSettings, overrides: Sequence[str | Override], *, catalogue: Catalogue) -> RunSettings:
    """`run` with overrides laid over it, by the rules of `load_run`."""
    parsed = [parse_override(one) if isinstance(one, str) else one for one in overrides]
    return resolve(Document(without_what_follows(run), "the run"), parsed, catalogue)


def dump_run(run: RunSettings) -> str:
    """The complete run as YAML; `load_run` and `run_from_dict` read it back equal."""
    return dump_data(run.model_dump())


def fingerprint(run: RunSettings) -> str:
    """sha256 (hex) over what decides learning: everything but how the run is hosted, watched and kept."""
    learning = run.model_dump(mode="json", exclude=set(NOT_LEARNING))
    return hashlib.sha256(json.dumps(learning, sort_keys=True).encode()).hexdigest()


def shipped_searches() -> dict[str, Path]:
    """The searches that come with phalanx: name and file."""
    return _shipped("search")


def read_run_document(source: str | Path) -> Document:
    """The YAML of a run, unchecked: by path or by the name of a shipped one."""
    return _read("run", source, shipped_runs(), shipped_searches(), "phalanx tune")


def read_search_document(source: str | Path) -> Document:
    """The YAML of a search, unchecked: by path or by the name of a shipped one."""
    return _read("search", source, shipped_searches(), shipped_runs(), "phalanx train")


def _shipped(kind: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((_HERE / kind).glob("*.yaml"))}


def _read(
    kind: str, source: str | Path, names: Mapping[str, Path], others: Mapping[str, Path], command_for_others: str
) -> Document:
    text, path = str(source), Path(source)
    if text in names:
        return read_document(names[text], shown=f"phalanx/configs/{kind}/{text}.yaml")
    if isinstance(source, Path) or path.suffix or len(path.parts) > 1 or os.path.exists(text):
        return read_document(path)
    if text in others:
        raise UserError(f"{text} is not a {kind}: use it with `{command_for_others} {text}`")
    near = nearest(text, names)
    hint = f"did you mean {near}? " if near else ""
    raise UserError(
        f"{text!r} is neither a file nor a shipped {kind}: {hint}Shipped: {', '.join(names)};"
        " or give the path of a YAML file"
    )


def resolve(document: Document, overrides: Sequence[Override], catalogue: Catalogue) -> RunSettings:
    """Lays the overrides over the document over the algorithm's published settings, and checks the whole."""
    kept = dict(document.data)
    models: dict[str, type[Settings]] = {}
    for section, lookup in (("env", catalogue.env), ("algorithm", catalogue.algorithm)):
        name, where, changed = _name(section, document, overrides, catalogue)
        try:
            models[section] = lookup(name)
        except UserError as error:
            raise UserError(f"{error} ({where})") from None
        if changed:
            kept[section] = {"name": name}
            if section == "algorithm" and _other_kind(document, models[section], catalogue):
                kept = _without_the_others(kept)
        if section == "algorithm":
            published = published_settings(name)
    merged = Merged(KeyTree(RunSettings, models, published.values_below(("algorithm",))), document.source)
    merged.lay(published, ("algorithm",))
    merged.lay(Document(kept, document.source, document.origins))
    problems = merged.apply(overrides)
    return _validated(merged, models, problems)


def _other_kind(document: Document, chosen: type[Settings], catalogue: Catalogue) -> bool:
    """Whether the file's algorithm is on-policy and the chosen one is not, or the other way round."""
    inside = document.data.get("algorithm")
    try:
        written = catalogue.algorithm(inside["name"]) if isinstance(inside, Mapping) and "name" in inside else None
    except UserError:
        return False
    return written is not None and written.on_policy != getattr(chosen, "on_policy", False)


def _without_the_others(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that mean something else to a method of the other kind."""
    kept = dict(data)
    for section, keys in OFF_POLICY_KEYS.items():
        if keys is None:
            kept.pop(section, None)
        elif isinstance(kept.get(section), Mapping):
            kept[section] = {key: value for key, value in kept[section].items() if key not in keys}
    return kept


def _validated(merged: Merged, models: Mapping[str, type[Settings]], problems: list[str]) -> RunSettings:
    built: dict[str, Settings] = {}
    for section, model in models.items():
        part = _checked(model, merged.data.get(section), merged, section, problems)
        if part is not None:
            built[section] = part
    complete = len(built) == len(models)
    # Stand-ins for sections with problems, so that the other sections are checked all the same.
    stand_ins = {"env": EnvSettings.model_construct(name=""), "algorithm": AlgorithmSettings.model_construct(name="")}
    data = {**merged.data, **stand_ins, **built}
    try:
        run = RunSettings.model_validate(data)
    except ValidationError as error:
        found = sentences(error, merged.tree, merged, merged.data)
        only_fields = all(details["loc"] for details in error.errors(include_url=False))
        problems.extend(found if complete or only_fields else [])
    raise_problems(problems)
    return run


def _checked(model: type[_S], data: Any, merged: Merged, section: str, problems: list[str]) -> _S | None:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems.extend(sentences(error, merged.tree, merged, data, (section,)))
        return None


def _name(
    section: str, document: Document, overrides: Sequence[Override], catalogue: Catalogue
) -> tuple[str, str, bool]:
    """The section's name, where it was given, and whether an override changed it."""
    path = (section, "name")
    inside = document.data.get(section, {})
    override = value_on(overrides, path)
    if not isinstance(inside, Mapping) and override is None:
        raise UserError(
            f"{section} ({document.origin((section,))}): got {value_words(inside)}, allowed: a section with its own"
            f" keys; write {section}.name=..."
        )
    written = inside.get("name") if isinstance(inside, Mapping) else None
    given, where = (written, document.origin(path)) if override is None else (override.value, override.origin)
    known = catalogue.env_names if section == "env" else catalogue.algorithm_names
    thing = "environment" if section == "env" else "algorithm"
    choices = f"; known: {', '.join(known)}" if known else ""
    if given is None:
        raise UserError(f"{section}.name is missing ({document.source}): name the {thing}{choices}")
    if not isinstance(given, str):
        raise UserError(f"{section}.name ({where}): got {value_words(given)}, allowed: the name of an {thing}{choices}")
    return given, where, override is not None and given != written
