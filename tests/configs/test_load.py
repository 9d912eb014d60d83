"""Runs from files and overrides: what is laid over what, and back to text."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from phalanx.configs.catalogue import published_settings
from phalanx.configs.documents import Document, dump_value
from phalanx.configs.load import dump_run, fingerprint, load_run, override_run, run_from_dict
from phalanx.configs.settings import ReplaySettings, RunSettings
from tests.configs.stub import CATALOGUE, RUN, Adapter, Chase, Mix, Plain

BASE: dict[str, Any] = {"env": {"name": "chase"}, "algorithm": {"name": "mix"}}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def load(path: Path, *overrides: str) -> RunSettings:
    return load_run(path, overrides, catalogue=CATALOGUE)


def test_a_file_gives_its_values_and_the_models_the_rest(run_file: Path) -> None:
    run = load(run_file)
    assert isinstance(run.env, Chase)
    assert isinstance(run.algorithm, Mix)
    assert (run.seed, run.env.reward, run.algorithm.lr, run.algorithm.ensemble.agents) == (3, "sparse", 1e-4, 4)
    assert run.replay == ReplaySettings()
    assert load_run(str(run_file), catalogue=CATALOGUE) == run


def test_overrides_win_and_are_yaml(run_file: Path) -> None:
    run = load(run_file, "seed=7", "algorithm.lr=2e-5", "mode=sync", "replay.capacity_bytes=null", "agent.hidden=8.0")
    assert (run.seed, run.algorithm.lr, run.mode, run.replay.capacity_bytes) == (7, 2e-5, "sync", None)
    assert run.agent.hidden == 8
    assert load(run_file, "algorithm={lr: 1e-3}").algorithm.lr == 1e-3
    assert load(run_file, 'env.opponents="a=b"').env.model_dump()["opponents"] == "a=b"


def test_a_whole_section_merges_and_a_value_replaces(run_file: Path) -> None:
    run = load(run_file, "algorithm.ensemble={mixers: 2}")
    assert isinstance(run.algorithm, Mix)
    assert (run.algorithm.ensemble.agents, run.algorithm.ensemble.mixers) == (4, 2)
    adapter = ["env.name=adapter", "env.module=m"]
    assert load(run_file, *adapter, "env.kwargs={a: 1}", "env.kwargs.b=1e-3").env.model_dump()["kwargs"] == {
        "a": 1,
        "b": 1e-3,
    }
    once = override_run(load(run_file, *adapter, "env.kwargs={a: 1}"), ["env.kwargs={b: 2}"], catalogue=CATALOGUE)
    assert once.env.model_dump()["kwargs"] == {"b": 2}


def test_an_optional_section_can_be_begun_and_dropped(run_file: Path) -> None:
    run = load(run_file, "sinks.wandb.project=p")
    assert run.sinks.wandb is not None
    assert run.sinks.wandb.project == "p"
    assert load(run_file, "sinks.wandb={}").sinks.wandb is not None
    assert override_run(run, ["sinks.wandb=null"], catalogue=CATALOGUE).sinks.wandb is None
    kept = override_run(run, ["sinks.wandb={}"], catalogue=CATALOGUE).sinks.wandb
    assert kept == run.sinks.wandb


def test_another_name_on_the_command_line_drops_the_section_of_the_file(run_file: Path) -> None:
    run = load(run_file, "env.name=adapter", "env.module=m")
    assert run.env == Adapter(name="adapter", module="m")
    assert isinstance(run.algorithm, Mix)
    assert run.algorithm.lr == 1e-4  # the other section stays
    run = load(run_file, "algorithm.name=plain", "algorithm.momentum=0.5")
    assert run.algorithm == Plain(name="plain", momentum=0.5)
    assert load(run_file, "algorithm={name: plain}").algorithm == Plain(name="plain")


def test_the_same_name_on_the_command_line_keeps_the_section(run_file: Path) -> None:
    assert load(run_file, "env.name=chase", "algorithm.name=mix") == load(run_file)


def test_a_section_can_come_from_the_command_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\n")
    run = load(path, "env.name=chase", "algorithm={name: mix, lr: 1}")
    assert (run.env.name, run.algorithm.lr) == ("chase", 1.0)


def test_the_order_of_overrides_does_not_matter(run_file: Path) -> None:
    overrides = ["env.module=m", "env.name=adapter", "env.kwargs.b=2", "env.kwargs={a: 1}", "env={}"]
    runs = [load(run_file, *order) for order in itertools.permutations(overrides)]
    assert all(run == runs[0] for run in runs)
    assert runs[0].env.model_dump()["kwargs"] == {"a": 1, "b": 2}


def test_saying_the_same_twice_is_fine(run_file: Path) -> None:
    assert load(run_file, "seed=5", "seed=5", "env.name=chase", "env={name: chase}").seed == 5


def test_published_settings_lie_between_the_models_and_the_file(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Document({"gamma": 0.5, "lr": 0.5, "ensemble": {"agents": 9, "mixers": 7}}, "published")

    def settings(name: str) -> Document:
        return published if name == "mix" else Document({}, "nothing")

    monkeypatch.setattr("phalanx.configs.load.published_settings", settings)
    run = load(run_file, "algorithm.gamma=0.75")
    assert isinstance(run.algorithm, Mix)
    assert (run.algorithm.gamma, run.algorithm.lr) == (0.75, 1e-4)
    assert (run.algorithm.ensemble.agents, run.algorithm.ensemble.mixers) == (4, 7)
    assert load(run_file, "algorithm.name=plain").algorithm == Plain(name="plain")
    assert load(run_file, "seed=1").algorithm.gamma == 0.5


def test_an_algorithm_without_published_settings_has_none() -> None:
    assert published_settings("no_such_algorithm").data == {}


def test_a_run_survives_being_written_and_read(run_file: Path, tmp_path: Path) -> None:
    run = load(run_file, "env.name=adapter", "env.module='1e-5'", "env.kwargs={a: 1e-05, b: '2e6', c: [1, null]}")
    text = dump_run(run)
    assert "'1e-5'" in text
    again = tmp_path / "config.yaml"
    again.write_text(text)
    assert load_run(again, catalogue=CATALOGUE) == run
    assert run_from_dict(yaml.safe_load(text), catalogue=CATALOGUE) == run
    assert run_from_dict(run.model_dump(), catalogue=CATALOGUE) == run
    assert dump_run(load_run(again, catalogue=CATALOGUE)) == text


def test_the_dump_holds_every_key_of_every_model(run_file: Path) -> None:
    data = yaml.safe_load(dump_run(load(run_file, "sinks.wandb={}")))

    def complete(model: Any, section: dict[str, Any]) -> None:
        assert list(section) == list(type(model).model_fields)
        for key, value in section.items():
            if isinstance(value, dict):
                complete(getattr(model, key), value)

    complete(load(run_file, "sinks.wandb={}"), data)


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "mode": st.sampled_from(["sync", "async"]),
        "algorithm.lr": st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False),
        "algorithm.gamma": st.floats(0, 1),
        "algorithm.ensemble.agents": st.integers(1, 50),
        "env.timeout_is_terminal": st.booleans(),
        "env.opponents": st.text(),
        "replay.capacity_bytes": st.none() | st.integers(1, 2**50),
        "replay.samples_per_insert": st.floats(1e-300, 1e300),
        "sinks.wandb.entity": st.none() | st.text(),
        "exploration.env_steps": st.integers(0, 10**12),
    },
)


@given(SETTINGS, st.randoms(use_true_random=False))
def test_overrides_reach_the_run_in_any_order_and_survive_a_round_trip(
    settings: dict[str, Any], shuffle: random.Random
) -> None:
    overrides = [f"{key}={dump_value(value)}" for key, value in settings.items()]
    base = run_from_dict(BASE, catalogue=CATALOGUE)
    run = override_run(base, overrides, catalogue=CATALOGUE)
    for key, value in settings.items():
        got: Any = run
        for part in key.split("."):
            got = getattr(got, part)
        assert (got, type(got)) == (value, type(value))
    shuffle.shuffle(overrides)
    assert override_run(base, overrides, catalogue=CATALOGUE) == run
    text = dump_run(run)
    assert run_from_dict(yaml.safe_load(text), catalogue=CATALOGUE) == run
    assert fingerprint(run_from_dict(yaml.safe_load(text), catalogue=CATALOGUE)) == fingerprint(run)


@pytest.mark.parametrize(
    "override",
    [
        "cluster.workers=5",
        "sinks.tensorboard=true",
        "report.every_s=9",
        "checkpoint.every_env_steps=9",
        "evaluation.episodes=9",
    ],
)
def test_the_fingerprint_leaves_out_how_a_run_is_hosted_and_watched(override: str) -> None:
    run = run_from_dict(BASE, catalogue=CATALOGUE)
    other = override_run(run, [override], catalogue=CATALOGUE)
    assert other != run
    assert fingerprint(other) == fingerprint(run)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "mode=sync",
        "total_env_steps=5",
        "env.max_steps=3",
        "env.reward=sparse",
        "algorithm.ensemble.mixers=2",
        "agent.hidden=8",
        "mixer.embed=8",
        "learner.batch_episodes=8",
        "replay.storage=float16",
        "rollout.streams=5",
        "exploration.end=0.5",
    ],
)
def test_the_fingerprint_covers_what_decides_learning(override: str) -> None:
    run = run_from_dict(BASE, catalogue=CATALOGUE)
    assert fingerprint(override_run(run, [override], catalogue=CATALOGUE)) != fingerprint(run)
