"""Searches: their files, their overrides, and trials of which none is invalid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.configs.search import (
    asha_env_steps,
    base_run,
    load_search,
    resolve_trial,
    trial_points,
    trial_run,
)
from phalanx.configs.search_settings import SearchSettings
from phalanx.configs.settings import RunSettings
from tests.configs.stub import CATALOGUE, RUN, Mix

SEARCH = """\
run: run.yaml
overrides:
  total_env_steps: 9000
  algorithm.lr: 1e-3
parameters:
  algorithm.ensemble.agents: [1, 2, 10]
  algorithm.ensemble.agents_subset: [0.1, 0.5, 1.0, null]
max_concurrent: 2
"""
AGENTS, SUBSET, MIXERS = (f"algorithm.ensemble.{key}" for key in ("agents", "agents_subset", "mixers_subset"))


@pytest.fixture
def search_file(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(RUN)
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH)
    return path


def load(path: Path, *overrides: str) -> SearchSettings:
    return load_search(path, overrides, catalogue=CATALOGUE)


def mistake(path: Path | str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_search(path, overrides, catalogue=CATALOGUE)
    return str(error.value)


def ensemble(run: RunSettings) -> tuple[int, int | None]:
    assert isinstance(run.algorithm, Mix)
    return run.algorithm.ensemble.agents, run.algorithm.ensemble.agents_subset


def test_a_search_gives_a_base_run_and_all_combinations(search_file: Path) -> None:
    search = load(search_file)
    base = base_run(search, catalogue=CATALOGUE)
    assert (base.total_env_steps, base.algorithm.lr, base.seed) == (9000, 1e-3, 3)
    runs = [trial_run(base, point, catalogue=CATALOGUE) for point in trial_points(search, base)]
    assert [ensemble(run) for run in runs] == [
        *((1, 1), (1, 1), (1, 1), (1, None)),
        *((2, 1), (2, 1), (2, 2), (2, None)),
        *((10, 1), (10, 5), (10, 10), (10, None)),
    ]
    assert all(run.model_copy(update={"algorithm": base.algorithm}) == base for run in runs)


def test_overrides_go_to_the_search_or_to_its_run(search_file: Path) -> None:
    search = load(
        search_file, "max_concurrent=3", "mode=min", "asha.reduction_factor=2", "seed=8", "total_env_steps=800"
    )
    assert (search.max_concurrent, search.mode, search.asha.reduction_factor) == (3, "min", 2)
    base = base_run(search, catalogue=CATALOGUE)
    assert (base.seed, base.total_env_steps, base.mode) == (8, 800, "async")
    assert asha_env_steps(search, base) == (200, 800)
    search = load(search_file, "mode=sync")
    assert (search.mode, base_run(search, catalogue=CATALOGUE).mode) == ("max", "sync")


def test_parameters_can_be_changed_and_added(search_file: Path) -> None:
    search = load(search_file, f"parameters.{AGENTS}=[4]", "parameters.seed=[1, 2]", f"parameters.{SUBSET}=[null]")
    assert search.parameters == {AGENTS: [4], SUBSET: [None], "seed": [1, 2]}
    assert load(search_file, "parameters={seed: [1, 2]}").parameters == {"seed": [1, 2]}
    assert load(search_file, "overrides.seed=5").overrides["seed"] == 5


def test_samples_are_drawn_with_the_runs_seed(search_file: Path) -> None:
    few = load(search_file, "samples=5")
    base = base_run(few, catalogue=CATALOGUE)
    drawn = trial_points(few, base)
    every = trial_points(load(search_file), base)
    assert len(drawn) == 5
    assert all(point in every for point in drawn)
    assert drawn == trial_points(few, base)
    others = [trial_points(few, base.model_copy(update={"seed": seed})) for seed in range(5)]
    assert any(other != drawn for other in others)
    assert trial_points(load(search_file, "samples=100"), base) == every


def test_asha_defaults_to_the_length_of_the_run(search_file: Path) -> None:
    search = load(search_file)
    base = base_run(search, catalogue=CATALOGUE)
    assert asha_env_steps(search, base) == (1000, 9000)
    assert asha_env_steps(load(search_file, "asha={grace_env_steps: 7, max_env_steps: 70}"), base) == (7, 70)
    assert asha_env_steps(load(search_file, "total_env_steps=1"), base.model_copy(update={"total_env_steps": 1})) == (
        1,
        1,
    )


BASE = run_from_dict(
    {"env": {"name": "chase"}, "algorithm": {"name": "mix", "ensemble": {"agents": 6}}}, catalogue=CATALOGUE
)


@given(st.integers(1, 40), st.floats(0, 1, exclude_min=True) | st.none())
def test_a_fraction_never_gives_an_invalid_trial(agents: int, fraction: float | None) -> None:
    point = {AGENTS: agents, SUBSET: fraction}
    members, subset = ensemble(trial_run(BASE, point, catalogue=CATALOGUE))
    assert members == agents
    if fraction is None:
        assert subset is None
    else:
        assert subset is not None
        assert 1 <= subset <= agents
        assert abs(subset - fraction * agents) <= 0.5 or (subset == 1 and fraction * agents < 0.5)


def test_members_come_from_the_run_where_the_point_has_none() -> None:
    assert resolve_trial(BASE, {SUBSET: 0.5, MIXERS: 1.0}) == {SUBSET: 3, MIXERS: 1}
    assert resolve_trial(BASE, {SUBSET: 2, "algorithm.lr": 0.5}) == {SUBSET: 2, "algorithm.lr": 0.5}


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_what_is_no_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(UserError) as error:
        resolve_trial(BASE, {SUBSET: fraction})
    assert f"{SUBSET}: got {fraction}, allowed in a search: a whole number of members, a fraction" in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sampels=1"], "sampels (the command line): there is no such key; did you mean samples? Allowed: keys of the"),
        (["samples=0"], "samples (the command line): got 0, allowed: a whole number >= 1 or null"),
        (["asha.grace=1"], "asha.grace (the command line): there is no such key; did you mean asha.grace_env_steps?"),
        (["mode=mean"], "mode (the command line): got 'mean', allowed: one of sync, async"),
        (["metric=return"], "metric (the command line): got 'return', allowed: text that matches"),
        (["parameters=3"], "parameters (the command line): got 3, allowed: a mapping of names to lists"),
        (["parameters={}"], "parameters (the command line): got {}, allowed: a mapping of names to lists"),
        (["parameters.seed=1"], "parameters.seed (the command line): got 1, allowed: a list"),
        (["parameters.seed=[]"], "parameters.seed (the command line): got [], allowed: a list (at least 1 of them)"),
        (
            ["parameters={algorithm.lrr: [1]}"],
            "algorithm.lrr (the command line): there is no such key; did you mean algorithm.lr? Allowed in algorithm:",
        ),
        (
            [f"parameters={{seed: [1, 2], {AGENTS}: [1, 0]}}"],
            f"{AGENTS} (the command line): got 0, allowed: a whole number >= 1; the default is {AGENTS}=1;"
            f" in the trial seed=1 {AGENTS}=0",
        ),
        (
            [f"parameters={{{AGENTS}: [1, 2], {SUBSET}: [2]}}"],
            f"{SUBSET}=2 is more than {AGENTS}=1 ({SUBSET}: the command line; {AGENTS}: the command line)",
        ),
        (
            ["algorithm.ensemble.agents=3"],
            "algorithm.ensemble.agents is searched (FILE:6), so one value",
        ),
        (["cluster.workers=0"], "cluster.workers (the command line): got 0, allowed: a whole number >= 1"),
        (
            [f"parameters.seed={list(range(1000))}"],
            "parameters (FILE:5): got 12,000 combinations, allowed: at most 1,000",
        ),
        (
            ["asha.grace_env_steps=9001"],
            "asha.grace_env_steps=9001 (the command line) is more than total_env_steps=9000: no trial",
        ),
        (["run=demar_tga"], "'demar_tga' is neither a file nor a shipped run: did you mean demar_tag?"),
        (["run=nowhere.yaml"], "nowhere.yaml does not exist"),
    ],
)
def test_a_search_that_is_wrong(search_file: Path, overrides: list[str], sentence: str) -> None:
    assert sentence.replace("FILE", str(search_file)) in mistake(search_file, *overrides)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("run: run.yaml\n", "", "run is missing: give text as run=... or in FILE"),
        (
            "max_concurrent",
            "max_concurent",
            "max_concurent (FILE:8): there is no such key; did you mean max_concurrent?",
        ),
        ("[1, 2, 10]", "7", "parameters.algorithm.ensemble.agents (FILE:6): got 7, allowed: a list"),
        ("[1, 2, 10]", "[1, x]", "algorithm.ensemble.agents (FILE:6): got 'x', allowed: a whole number >= 1"),
        ("algorithm.lr: 1e-3", "algorithm.rl: 1e-3", "algorithm.rl (FILE:4): there is no such key"),
    ],
)
def test_a_search_file_that_is_wrong(search_file: Path, old: str, new: str, sentence: str) -> None:
    search_file.write_text(SEARCH.replace(old, new))
    assert sentence.replace("FILE", str(search_file)) in mistake(search_file)


def test_a_run_is_no_search() -> None:
    assert mistake("demar_tag") == "demar_tag is not a search: use it with `phalanx train demar_tag`"
    assert "did you mean demar_ensembles?" in mistake("demar_ensemble")


def test_the_settings_of_a_search_are_plain_data(search_file: Path) -> None:
    data: dict[str, Any] = load(search_file).model_dump()
    assert SearchSettings.model_validate(data) == load(search_file)
