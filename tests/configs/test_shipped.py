"""Everything that is shipped loads, and the documentation covers every setting of every model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from phalanx.algorithms.registry import ALGORITHMS, algorithm_settings
from phalanx.configs.catalogue import Catalogue, published_settings
from phalanx.configs.describe import section_model
from phalanx.configs.load import dump_run, load_run, run_from_dict, settings_docs, shipped_runs
from phalanx.configs.search import base_run, load_search, shipped_searches, trial_points
from phalanx.configs.search_settings import SearchSettings
from phalanx.configs.settings import RunSettings
from phalanx.envs.registry import ENVIRONMENTS, env_settings

CATALOGUE = Catalogue(env_settings, algorithm_settings, tuple(ENVIRONMENTS), tuple(ALGORITHMS))
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MODELS = {
    "run": RunSettings,
    "search": SearchSettings,
    **{f"env {name}": env_settings(name) for name in ENVIRONMENTS},
    **{f"algorithm {name}": algorithm_settings(name) for name in ALGORITHMS},
}


def models_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        inner = section_model(field.annotation)
        if inner is not None:
            yield from models_below(inner)


def test_the_runs_that_outside_tools_name_are_shipped() -> None:
    promised = "demar_tag qmix_spread qmix_matrix ow_qmix_matrix cw_qmix_matrix qmix_stag_hunt ow_qmix_stag_hunt"
    assert set(promised.split()) <= set(shipped_runs())
    assert "demar_ensembles" in shipped_searches()


@pytest.mark.parametrize("name", sorted(shipped_runs()))
def test_every_shipped_run_loads_by_name_from_anywhere_and_survives_a_round_trip(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a run folder of the same name does not hide the shipped run
    run = load_run(name, catalogue=CATALOGUE)
    assert run == load_run(shipped_runs()[name], catalogue=CATALOGUE)
    assert run_from_dict(yaml.safe_load(dump_run(run)), catalogue=CATALOGUE) == run


@pytest.mark.parametrize("name", sorted(shipped_searches()))
def test_every_trial_of_every_shipped_search_is_a_valid_run(name: str) -> None:
    search = load_search(name, catalogue=CATALOGUE)
    assert len(trial_points(search, base_run(search, catalogue=CATALOGUE))) > 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_file_says_what_it_is_and_belongs_to_something(path: Path) -> None:
    assert path.read_text().startswith("# ")
    known = {"run": shipped_runs(), "search": shipped_searches(), "algorithm": ALGORITHMS}
    assert path.stem in known[path.parent.name]


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_published_settings_are_valid_and_differ_from_the_models_defaults(name: str) -> None:
    published = published_settings(name)
    assert "name" not in published.data
    settings = algorithm_settings(name).model_validate({"name": name, **published.data}).model_dump()
    default = algorithm_settings(name).model_validate({"name": name}).model_dump()

    def compare(written: Any, value: Any, default: Any, key: str) -> None:
        if isinstance(written, dict):
            for part in written:
                compare(written[part], value[part], default[part], f"{key}.{part}")
        else:
            assert value != default, f"{key} repeats the model's default"

    compare(published.data, settings, default, name)


def test_the_main_job_is_demar_as_published_for_simple_tag_but_for_what_its_file_says() -> None:
    run = load_run("demar_tag", catalogue=CATALOGUE)
    algorithm = run.algorithm.model_dump()
    assert algorithm["ensemble"] == {"agents": 1, "agents_subset": None, "mixers": 3, "mixers_subset": None}
    assert algorithm["regulariser"] == {"alpha": 0.002}
    assert (algorithm["target_update_updates"], algorithm["lr"], algorithm["optimiser"]) == (200, 5e-4, "adam")
    assert run.env.model_dump()["opponents"] == "scripted"


@pytest.mark.parametrize("name", [name for name in sorted(shipped_runs()) if name.endswith("_matrix")])
def test_another_game_can_be_given_to_a_shipped_matrix_run(name: str) -> None:
    run = load_run(name, ["env.payoff=[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]"], catalogue=CATALOGUE)
    assert run.env.model_dump()["payoff"][1][1][1] == 8
    assert (run.exploration.start, run.exploration.end) == (1.0, 1.0)


@pytest.mark.parametrize("name", MODELS)
def test_every_field_of_every_model_has_a_description(name: str) -> None:
    for model in models_below(MODELS[name]):
        for key, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{key}"


def test_the_documentation_has_a_row_for_every_setting() -> None:
    text = settings_docs(CATALOGUE)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert all(row.replace(r"\|", "").count("|") == 5 for row in rows)
    keys = {row.split("`")[1] for row in rows}

    def flat(data: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in data.items():
            if isinstance(value, dict) and value:
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key

    for name in shipped_runs():
        run = load_run(name, ["sinks.wandb={}"], catalogue=CATALOGUE)
        assert set(flat(run.model_dump())) - {"env.name", "algorithm.name"} <= keys
    for name in (*ENVIRONMENTS, *ALGORITHMS):
        assert f".name={name}\n" in text
    assert "| `seed` | a whole number >= 0 and < 9223372036854775808 | `0` | seed of the whole run |" in rows
    assert any(row.startswith("| `env.module` | text | required |") for row in rows)
    assert any(row.startswith("| `parameters` |") for row in rows)


def test_the_documentation_shows_published_values_as_defaults() -> None:
    demar = settings_docs(CATALOGUE).split("## algorithm.name=demar")[1].split("## ")[0]
    assert "| `algorithm.ensemble.mixers` | a whole number >= 1 | `3` |" in demar


def test_loading_a_run_needs_neither_torch_nor_ray_until_the_algorithm_is_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys, phalanx.configs.load, phalanx.configs.search\n"
        "assert not {'torch', 'ray', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(CONFIGS.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env)
