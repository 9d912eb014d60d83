"""Every command and every piece of Python in the README and the guides works as it stands there."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from phalanx.cluster import cli
from phalanx.cluster.loop import train_serially
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import load_run, shipped_runs
from phalanx.configs.search import load_search, shipped_searches

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULE = ["python", "-m", "phalanx.cluster.cli"]
QUICK = ("list", "show-config", "check-env")
NEED_A_RUN = ("evaluate", "diagnose", "plot")
TINY = ("total_env_steps=200", "env.max_steps=5", "rollout.streams=1", "rollout.envs_per_stream=4", "agent.hidden=8")
TINY_EVALUATION = (
    "evaluation.episodes=2",
    "exploration.env_steps=100",
    "replay.min_episodes=4",
    "learner.batch_episodes=4",
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def written_commands() -> list[list[str]]:
    """Every shell command of the pages, in words and without comments, also those in `code` that begin with ours."""
    found: list[list[str]] = []
    for page in PAGES:
        lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        lines += re.findall(r"`((?:phalanx|make) [^`]+)`", prose.replace("\n", " "))
        found += [words for line in lines if (words := shlex.split(line, comments=True))]
    return found


def phalanx_commands() -> Iterator[list[str]]:
    """The words after `phalanx`, also where it runs as a module or below `ray job submit … --`."""
    for words in written_commands():
        for start in (["phalanx"], MODULE, ["cluster/cli.py", "--"]):
            for at in range(len(words)):
                if words[at : at + len(start)] == start and (at == 0 or words[0] == "ray"):
                    yield words[at + len(start) :]


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Command and parameters as the command line sees them; fails where it does not know an option."""
    group: Any = typer.main.get_command(cli.app)
    context = group.make_context("phalanx", list(words))
    name, command, rest = group.resolve_command(context, list(words))
    return name, command.make_context(name, rest, parent=context).params


MENTIONS = sorted({words[0] for words in phalanx_commands() if len(words) == 1})
COMMANDS = [pytest.param(words, id=" ".join(words)) for words in phalanx_commands() if len(words) > 1]
OTHERS = [pytest.param(words, id=" ".join(words)) for words in written_commands()]


def with_name(*names: str) -> list[Any]:
    return [case for case in COMMANDS if case.values[0][0] in names]


@pytest.mark.parametrize("words", COMMANDS)
def test_command_is_understood(words: list[str]) -> None:
    name, given = parsed(words)
    overrides = given.get("overrides") or ()
    if name == "train":
        load_run(given["run"], overrides, catalogue=CATALOGUE)
    elif name == "tune":
        load_search(given["search"], overrides, catalogue=CATALOGUE)


def test_mentioned_commands_exist() -> None:
    group: Any = typer.main.get_command(cli.app)
    assert set(MENTIONS) <= set(group.commands)


@pytest.mark.parametrize("words", with_name(*QUICK))
def test_quick_command_runs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


@pytest.fixture(scope="module")
def folder_with_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the runs that the pages speak of have been trained, for a moment."""
    folder = tmp_path_factory.mktemp("pages")
    run = load_run("demar_tag", ("mode=sync", *TINY, *TINY_EVALUATION), catalogue=CATALOGUE)
    for name in ("demar_tag", "tag-sync"):
        train_serially(run, folder / "runs" / name)
    return folder


@pytest.mark.parametrize("words", with_name(*NEED_A_RUN))
def test_command_on_a_run_works(
    words: list[str], folder_with_runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder_with_runs)
    words = ["2" if before == "--episodes" else word for before, word in zip(["", *words], words, strict=False)]
    assert cli.main(words) == 0, capsys.readouterr().err
    if "--json" in words:
        (line,) = capsys.readouterr().out.splitlines()
        assert {"evaluate": "return_mean", "diagnose": "figures"}[words[0]] in json.loads(line)
    for option in ("--out", "--gif"):
        if option in words:
            assert Path(words[words.index(option) + 1]).stat().st_size > 0


@pytest.mark.parametrize("code", [code for page in PAGES for code in blocks(page, "python")])
def test_python_works(code: str, folder_with_runs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder_with_runs,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [case for case in OTHERS if case.values[0][0] == "make"])
def test_make_target_exists(words: list[str]) -> None:
    done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [case for case in OTHERS if case.values[0][:2] == ["python", "-m"]])
def test_module_and_its_files_exist(words: list[str], folder_with_runs: Path) -> None:
    assert importlib.util.find_spec(words[2]) is not None
    for word in words[3:]:
        if "/" in word:
            assert list(ROOT.glob(word)) or (folder_with_runs / word).exists(), word


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_everything_shipped_is_named() -> None:
    text = PAGES[0].read_text()
    for name in (*CATALOGUE.env_names, *CATALOGUE.algorithm_names):
        assert f"`{name}`" in text, name
    assert "demar_tag" in shipped_runs()
    assert "demar_ensembles" in shipped_searches()
