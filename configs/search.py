"""Searches: which run is varied, over which values, and when a trial is given up (ASHA)."""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phalanx.configs.catalogue import Catalogue
from phalanx.configs.describe import KeyTree, value_words
from phalanx.configs.documents import Document, dump_value
from phalanx.configs.errors import UserError
from phalanx.configs.load import override_run, read_run_document, read_search_document, resolve, shipped_searches
from phalanx.configs.overrides import Merged, Override, parse_override
from phalanx.configs.problems import raise_problems, sentences
from phalanx.configs.search_settings import AshaSettings, SearchSettings
from phalanx.configs.settings import RunSettings

__all__ = [
    "AshaSettings",
    "Point",
    "SearchSettings",
    "asha_env_steps",
    "base_run",
    "load_search",
    "resolve_trial",
    "shipped_searches",
    "trial_points",
    "trial_run",
]

Point = dict[str, Any]
"""The values of one trial: dotted key -> value."""

_ENSEMBLE = "algorithm.ensemble"
_SUBSETS = {f"{_ENSEMBLE}.{members}_subset": members for members in ("agents", "mixers")}
_MOST_TRIALS = 1000


def load_search(source: str | Path, overrides: Sequence[str] = (), *, catalogue: Catalogue) -> SearchSettings:
    """The search that `source` (a path, or the name of a shipped search) and the overrides describe, with every trial
    checked. Overrides of the search's own keys (`max_concurrent=2`, `parameters.algorithm.lr=[1e-3]`) change the
    search, all others the run that it varies. Raises a UserError as `load_run` does."""
    document = read_search_document(source)
    own, for_run = _sorted_out([parse_override(one) for one in overrides])
    merged = Merged(KeyTree(SearchSettings), document.source)
    merged.lay(document)
    problems = merged.apply([*own, *(Override(("overrides", one.key), one.value) for one in for_run)])
    try:
        search = SearchSettings.model_validate(merged.data)
    except ValidationError as error:
        problems += sentences(error, merged.tree, merged, merged.data)
    raise_problems(problems)
    for one in for_run:
        if one.key in search.parameters:
            raise UserError(
                f"{one.key} is searched ({merged.origin(('parameters', one.key))}), so one value cannot be given for"
                f" it: write parameters.{one.key}=[{dump_value(one.value)}]"
            )
    search = search.model_copy(update={"run": _seen_from(document, search.run)})
    _check_trials(search, merged, catalogue)
    return search


def base_run(
    search: SearchSettings, *, catalogue: Catalogue, origin: Callable[[str], str] = lambda key: "the search"
) -> RunSettings:
    """The run that the search varies, with the search's overrides; `origin` says in errors where one was given."""
    overrides = _overrides(search.overrides, origin)
    return resolve(read_run_document(search.run), overrides, catalogue)


def asha_env_steps(search: SearchSettings, base: RunSettings) -> tuple[int, int]:
    """Env steps of ASHA's first rung and of its last."""
    longest = search.asha.max_env_steps or base.total_env_steps
    return search.asha.grace_env_steps or max(1, longest // search.asha.reduction_factor**2), longest


def all_points(search: SearchSettings) -> list[Point]:
    """Every combination, in a fixed order; subsets may still be fractions (see `resolve_trial`)."""
    keys = list(search.parameters)
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*search.parameters.values())]


def trial_points(search: SearchSettings, base: RunSettings) -> list[Point]:
    """The points that are tried: all, or `samples` of them drawn with the run's seed."""
    points = all_points(search)
    if search.samples is None or search.samples >= len(points):
        return points
    chosen = sorted(random.Random(base.seed).sample(range(len(points)), search.samples))
    return [points[index] for index in chosen]


def resolve_trial(base: RunSettings, point: Mapping[str, Any]) -> dict[str, Any]:
    """The point as overrides of `base`: subsets that are fractions become numbers of members, rounded, at least 1,
    given the members of the trial (the point's, or else the run's)."""
    resolved = dict(point)
    for key, members in _SUBSETS.items():
        fraction = point.get(key)
        if not isinstance(fraction, float):
            continue
        if not 0 < fraction <= 1:
            raise UserError(
                f"{key}: got {value_words(fraction)}, allowed in a search: a whole number of members, a fraction of"
                " them (more than 0, at most 1.0), or null for all"
            )
        ensemble = getattr(base.algorithm, "ensemble", None)
        count = point.get(f"{_ENSEMBLE}.{members}", getattr(ensemble, members, 1))
        if isinstance(count, int):
            resolved[key] = max(1, math.floor(fraction * count + 0.5))
        else:  # refused as what it is; a fraction of it would be a second complaint
            del resolved[key]
    return resolved


def trial_run(
    base: RunSettings,
    point: Mapping[str, Any],
    *,
    catalogue: Catalogue,
    origin: Callable[[str], str] = lambda key: "the search",
) -> RunSettings:
    """The run of one trial; `origin` says in errors where a key of the point was given."""
    return override_run(base, _overrides(resolve_trial(base, point), origin), catalogue=catalogue)


def _overrides(values: Mapping[str, Any], origin: Callable[[str], str]) -> list[Override]:
    return [Override(tuple(key.split(".")), value, origin(key)) for key, value in values.items()]


def _sorted_out(overrides: Sequence[Override]) -> tuple[list[Override], list[Override]]:
    """Overrides of the search itself and of the run that it varies. `mode` is a key of both, with different values."""
    own, for_run = [], []
    for one in overrides:
        first = one.path[0]
        if first in SearchSettings.model_fields and (first != "mode" or one.value in ("max", "min")):
            nested = first in ("parameters", "overrides") and len(one.path) > 1
            own.append(Override((first, ".".join(one.path[1:])), one.value) if nested else one)
        elif first in RunSettings.model_fields:
            for_run.append(one)
        else:
            known = [*SearchSettings.model_fields, *RunSettings.model_fields]
            near = difflib.get_close_matches(first, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(
                f"{one.key} ({one.origin}): there is no such key; {hint}Allowed: keys of the search"
                f" ({', '.join(SearchSettings.model_fields)}) and of the run that it varies"
            )
    return own, for_run


def _seen_from(document: Document, run: str) -> str:
    """A relative path in a search file starts at that file's folder; the name of a shipped run stays one."""
    path = Path(run)
    if document.path is None or (len(path.parts) == 1 and not path.suffix):
        return run
    return str(document.path.parent / path)


def _check_trials(search: SearchSettings, merged: Merged, catalogue: Catalogue) -> None:
    count = math.prod(len(values) for values in search.parameters.values())
    if count > _MOST_TRIALS:
        raise UserError(
            f"parameters ({merged.origin(('parameters',))}): got {count:,} combinations, allowed: at most"
            f" {_MOST_TRIALS:,}; give shorter lists"
        )
    base = base_run(search, catalogue=catalogue, origin=lambda key: merged.origin(("overrides", key)))
    grace, longest = asha_env_steps(search, base)
    if grace > longest:
        limit = "asha.max_env_steps" if search.asha.max_env_steps else "total_env_steps"
        raise UserError(
            f"asha.grace_env_steps={grace} ({merged.origin(('asha', 'grace_env_steps'))}) is more than"
            f" {limit}={longest}: no trial could be given up; lower it"
        )
    for point in all_points(search):
        try:
            trial_run(base, point, catalogue=catalogue, origin=lambda key: merged.origin(("parameters", key)))
        except UserError as error:
            trial = " ".join(f"{key}={dump_value(value)}" for key, value in point.items())
            raise UserError(f"{error}; in the trial {trial}") from None
