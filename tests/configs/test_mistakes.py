"""Every kind of mistake in a run file or an override has its sentence: got, allowed, key, where, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phalanx.configs.catalogue import Catalogue
from phalanx.configs.errors import UserError
from phalanx.configs.load import load_run, run_from_dict
from tests.configs.stub import CATALOGUE, RUN

HERE = "the command line"


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def mistake(path: str | Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_run(path, overrides, catalogue=CATALOGUE)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "algorithm.ensemble.agnets=2",
            f"algorithm.ensemble.agnets ({HERE}): there is no such key; did you mean algorithm.ensemble.agents?"
            " Allowed in algorithm.ensemble: agents, agents_subset, mixers, mixers_subset",
        ),
        (
            "algorithm.ensembel.agents=2",
            f"algorithm.ensembel.agents ({HERE}): there is no such key; did you mean algorithm.ensemble.agents?"
            " Allowed in algorithm: name, lr, gamma, optimiser, grad_norm_clip, ensemble",
        ),
        (
            "algorithm.ensembel={agents: 2}",
            f"algorithm.ensembel ({HERE}): there is no such key; did you mean algorithm.ensemble?"
            " Allowed in algorithm: name, lr, gamma, optimiser, grad_norm_clip, ensemble",
        ),
        (
            "cluster.wokers=2",
            f"cluster.wokers ({HERE}): there is no such key; did you mean cluster.workers?"
            " Allowed in cluster: workers, worker_cpus, learner_gpus, learner_cpus, address",
        ),
        (
            "algorithm.lr=fast",
            f"algorithm.lr ({HERE}): got 'fast', allowed: a number > 0; the default is algorithm.lr=0.0005",
        ),
        (
            "algorithm.lr=-1",
            f"algorithm.lr ({HERE}): got -1, allowed: a number > 0; the default is algorithm.lr=0.0005",
        ),
        (
            "algorithm.lr=.inf",
            f"algorithm.lr ({HERE}): got .inf, allowed: a number > 0, not infinite; the default is algorithm.lr=0.0005",
        ),
        (
            "exploration.end=1.5",
            f"exploration.end ({HERE}): got 1.5, allowed: a number from 0 to 1; the default is exploration.end=0.05",
        ),
        (
            "cluster.workers=-1",
            f"cluster.workers ({HERE}): got -1, allowed: a whole number >= 1; the default is cluster.workers=1",
        ),
        (
            "learner.batch_episodes=1.5",
            f"learner.batch_episodes ({HERE}): got 1.5, allowed: a whole number >= 1;"
            " the default is learner.batch_episodes=32",
        ),
        (
            "cluster.workers=true",
            f"cluster.workers ({HERE}): got true, allowed: a whole number >= 1; the default is cluster.workers=1",
        ),
        ("mode=fast", f"mode ({HERE}): got 'fast', allowed: one of sync, async; the default is mode=async"),
        (
            "sinks.tensorboard=1",
            f"sinks.tensorboard ({HERE}): got 1, allowed: true or false; the default is sinks.tensorboard=false",
        ),
        (
            "env.opponents=3",
            f"env.opponents ({HERE}): got 3, allowed: text; the default is env.opponents=scripted",
        ),
        (
            "replay.capacity_bytes=0",
            f"replay.capacity_bytes ({HERE}): got 0, allowed: a whole number >= 1 or null;"
            " the default is replay.capacity_bytes=null",
        ),
        (
            "algorithm.ensemble=3",
            f"algorithm.ensemble ({HERE}): got 3, allowed: a section with the keys agents, agents_subset, mixers,"
            " mixers_subset; algorithm.ensemble is the ensemble",
        ),
        (
            "env=chase",
            f"env ({HERE}): got 'chase', allowed: a section with the keys name, max_steps, timeout_is_terminal,"
            " noise, reward, opponents; env is the environment and its own settings",
        ),
        (
            "env.reward.x=1",
            f"env.reward.x ({HERE}): env.reward is a value, not a section, and has no keys:"
            " give env.reward itself, one of shaped, sparse",
        ),
        ("env.name=3", f"env.name ({HERE}): got 3, allowed: the name of an environment; known: chase, adapter"),
        ("env.name=chaes", f"env.name=chaes is not known ({HERE})"),
        ("algorithm.name=null", "algorithm.name is missing"),
        ("seed", "'seed' is no setting: write key=value with no spaces, such as seed=1"),
        ("se ed=1", "'se ed=1': 'se ed' is no key: write key=value, such as algorithm.lr=0.0005"),
        (".seed=1", "'.seed' is no key"),
        ("seed=", "seed: no value after '=': write seed=null for none"),
        ("seed=[1", "seed: the value '[1' is not YAML that can be read: while parsing a flow sequence"),
        ("seed=!!python/name:os.system", "seed: the value '!!python/name:os.system' is not YAML that can be read"),
    ],
)
def test_an_override_that_is_wrong(run_file: Path, override: str, sentence: str) -> None:
    assert sentence in mistake(run_file, override)


def test_a_key_of_another_section_is_found_by_its_name(run_file: Path) -> None:
    said = mistake(run_file, "lr=1e-3")
    assert f"lr ({HERE}): there is no such key; did you mean algorithm.lr? Allowed at the top: seed, mode" in said
    assert "did you mean learner.batch_episodes?" in mistake(run_file, "replay.batch_episodes=3")


def test_nothing_is_suggested_where_nothing_is_alike(run_file: Path) -> None:
    assert "did you mean" not in mistake(run_file, "qqqqqqqq=1")


@pytest.mark.parametrize(
    ("line", "text", "sentence"),
    [
        (3, "  nmae: chase", "env.nmae (FILE:3): there is no such key; did you mean env.name?"),
        (4, "  reward: dense", "env.reward (FILE:4): got 'dense', allowed: one of shaped, sparse"),
        (7, "  lr: fast", "algorithm.lr (FILE:7): got 'fast', allowed: a number > 0"),
        (1, "seed: -1", "seed (FILE:1): got -1, allowed: a whole number >= 0 and < 9223372036854775808"),
        (1, "sede: 1", "sede (FILE:1): there is no such key; did you mean seed?"),
        (1, "replay: 5", "replay (FILE:1): got 5, allowed: a section with the keys samples_per_insert,"),
        (1, "replay:", "replay (FILE:1): got null, allowed: a section"),
        (1, "1: 2", "1 (FILE:1): there is no such key"),
        (8, "  ensemble: {agents: 0}", "algorithm.ensemble.agents (FILE:8): got 0, allowed: a whole number >= 1"),
    ],
)
def test_a_line_of_a_file_that_is_wrong(run_file: Path, line: int, text: str, sentence: str) -> None:
    lines = RUN.splitlines()
    lines[line - 1] = text if line != 3 else f"{lines[2]}\n{text}"
    run_file.write_text("\n".join(lines))
    expected = sentence.replace("FILE:3", f"{run_file}:4").replace("FILE", str(run_file))
    assert expected in mistake(run_file)


def test_several_mistakes_are_told_at_once_one_line_each(run_file: Path) -> None:
    said = mistake(
        run_file, "env.reward=x", "algorithm.gamma=2", "mode=fast", "replay.nothing=1", "env.reward.x=1"
    ).splitlines()
    assert said[0] == "5 settings are wrong:"
    assert [line.split(" (")[0].strip() for line in said[1:]] == [
        "env.reward.x",
        "env.reward",
        "algorithm.gamma",
        "mode",
        "replay.nothing",
    ]


def test_the_sentence_of_a_models_own_check_says_where_its_keys_are(run_file: Path) -> None:
    assert mistake(run_file, "algorithm.ensemble.agents_subset=9") == (
        "algorithm.ensemble.agents_subset=9 is more than algorithm.ensemble.agents=4"
        f" (algorithm.ensemble.agents_subset: {HERE}; algorithm.ensemble.agents: {run_file}:8)"
    )
    assert mistake(run_file, "replay.capacity_episodes=8").endswith(
        f"(replay.capacity_episodes: {HERE}; learner.batch_episodes: its default)"
    )


def test_the_sentence_of_a_fields_own_check_says_its_key(run_file: Path) -> None:
    assert mistake(run_file, "env={name: adapter, module: .m}") == (
        f"env.module='.m': a module's name starts with a letter (env.module: {HERE})"
    )


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("env.payoff=[[1, 2], [3, x]]", f"env.payoff[1][1] ({HERE}): got 'x', allowed: a number; "),
        ("env.payoff=[1]", f"env.payoff[0] ({HERE}): got 1, allowed: a list of numbers; "),
        ("env.payoff=7", f"env.payoff ({HERE}): got 7, allowed: a list of lists of numbers or null; "),
        ("env.every=never", f"env.every ({HERE}): got 'never', allowed: a whole number or auto; "),
        ("env.scale=10", f"env.scale ({HERE}): got 10, allowed: a number > 0 and < 10; "),
        (
            "env.pair=[1, 2, 3]",
            f"env.pair ({HERE}): got [1, 2, 3], allowed: a list of 2: a whole number, then a number",
        ),
        ("env.pair=[1, x]", f"env.pair[1] ({HERE}): got 'x', allowed: a number; "),
        ("env.kwargs=[1]", f"env.kwargs ({HERE}): got [1], allowed: a mapping of names to values; "),
        ("env.kwargs={1: 2}", f"env.kwargs ({HERE}): got the name 1, allowed: names that are text; write '1'"),
    ],
)
def test_the_place_inside_a_value_is_said(run_file: Path, override: str, sentence: str) -> None:
    assert mistake(run_file, "env.name=adapter", "env.module=m", override).startswith(sentence)


def test_a_long_value_is_cut(run_file: Path) -> None:
    said = mistake(run_file, f"mode={'x' * 500}")
    assert f"got '{'x' * 76}..., allowed" in said


def test_a_missing_value_says_how_to_give_it(run_file: Path) -> None:
    assert mistake(run_file, "env.name=adapter") == (
        f"env.module is missing: give text as env.module=... or in {run_file}; env.module is what is imported"
    )


@pytest.mark.parametrize(
    ("overrides", "both"),
    [
        (("seed=1", "seed=2"), "seed is given twice (the command line): 1 and 2; give it once"),
        (
            ("env.name=chase", "env={name: adapter}"),
            "env.name is given twice (the command line): 'chase' and 'adapter'",
        ),
        (
            ("algorithm.ensemble.agents=2", "algorithm={ensemble: {agents: 3}}"),
            "algorithm.ensemble.agents is given twice (the command line): 2 and 3",
        ),
    ],
)
def test_overrides_that_contradict_each_other(run_file: Path, overrides: tuple[str, ...], both: str) -> None:
    assert both in mistake(run_file, *overrides)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"algorithm": {"name": "mix"}}, "env.name is missing (the configuration): name the environment; known: chase"),
        ({"env": {}, "algorithm": {"name": "mix"}}, "env.name is missing (the configuration)"),
        ({"env": "chase", "algorithm": {"name": "mix"}}, "env (the configuration): got 'chase', allowed: a section"),
        (
            {"env": {"name": "chase", "reward": object}, "algorithm": {"name": "mix"}},
            "got <class 'object'>, allowed: one of shaped, sparse",
        ),
    ],
)
def test_a_configuration_that_is_wrong(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        run_from_dict(data, catalogue=CATALOGUE)
    assert sentence in str(error.value)


def test_a_catalogue_without_names_lists_none() -> None:
    with pytest.raises(UserError) as error:
        run_from_dict({"algorithm": {"name": "mix"}}, catalogue=Catalogue(CATALOGUE.env, CATALOGUE.algorithm))
    assert str(error.value) == "env.name is missing (the configuration): name the environment"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("demar_tga", "'demar_tga' is neither a file nor a shipped run: did you mean demar_tag? Shipped: "),
        ("qqqq", "'qqqq' is neither a file nor a shipped run: Shipped: "),
        ("demar_ensembles", "demar_ensembles is not a run: use it with `phalanx tune demar_ensembles`"),
        ("", "'' is neither a file nor a shipped run"),
        ("x" * 300, f"'{'x' * 300}' is neither a file nor a shipped run"),
        ("x" * 300 + ".yaml", "x" * 300 + ".yaml cannot be read: File name too long"),
        ("nowhere/demar_tag", "nowhere/demar_tag does not exist"),
        ("demar_tag.yml", "demar_tag.yml does not exist"),
    ],
)
def test_a_run_that_is_not_there(source: str, sentence: str) -> None:
    assert mistake(source).startswith(sentence)


def test_a_run_folder_in_place_of_a_file(tmp_path: Path) -> None:
    assert mistake(tmp_path) == f"{tmp_path} is a directory: give a YAML file, such as {tmp_path / 'config.yaml'}"
