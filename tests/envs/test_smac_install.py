"""What the machine lacks for SMAC is said in sentences, one for each thing; `phalanx check-env` with the stand-in."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from phalanx.cluster import cli
from phalanx.configs.errors import UserError
from phalanx.envs.smac import Smac, SmacSettings
from phalanx.envs.smac_install import is_version, load_smac, require_game
from tests.envs import stub_smac
from tests.envs.stub_smac import Script, start


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    return stub_smac.installed(monkeypatch, tmp_path / "StarCraftII")


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder that is searched first; nothing called smac is loaded, before or after."""
    folder = tmp_path / "site-packages"
    folder.mkdir()

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "smac"]:
            del sys.modules[name]

    forget()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    forget()


def write(folder: Path, environments: str) -> None:
    """A package smac whose module env is this text."""
    (folder / "smac" / "env").mkdir(parents=True)
    (folder / "smac" / "__init__.py").touch()
    (folder / "smac" / "env" / "__init__.py").write_text(environments)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smac", None)
    with pytest.raises(
        UserError, match=r"needs the package smac from github\.com/oxwhirl/smac, which is not installed"
    ):
        load_smac()


@pytest.mark.parametrize("broken", ["", "import something_that_it_needs\n", "raise OSError('no disk')\n"])
def test_with_the_optimiser_of_the_same_name(packages: Path, broken: str) -> None:
    (packages / "smac").mkdir()
    (packages / "smac" / "__init__.py").write_text(f"{broken}class Scenario: ...\n")
    (packages / "smac" / "facade.py").touch()
    with pytest.raises(UserError, match="PyPI's `smac` is a hyper-parameter optimiser of the same name: pip uninstall"):
        load_smac()


def test_with_something_else_that_has_environments(packages: Path) -> None:
    write(packages, "")
    with pytest.raises(UserError, match="is not the StarCraft Multi-Agent Challenge"):
        load_smac()


def test_without_what_the_package_needs(packages: Path) -> None:
    write(packages, "import s2clientprotocol_that_is_missing\n")
    with pytest.raises(UserError, match="smac needs s2clientprotocol_that_is_missing, which is not installed"):
        load_smac()


def test_with_a_protobuf_that_does_not_fit(packages: Path) -> None:
    complaint = "raise TypeError('Descriptors cannot be created directly.')\n"
    write(packages, complaint)
    with pytest.raises(UserError, match="pip uninstall s2clientprotocol, then pip install pys2clientprotocol"):
        load_smac()


def test_with_a_package_that_cannot_be_imported(packages: Path) -> None:
    write(packages, "1 / 0\n")
    with pytest.raises(UserError, match=r"importing smac failed: ZeroDivisionError: .*docs/smac\.md"):
        load_smac()


def test_pysc2_waits_as_long_as_the_settings_allow(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flags:
        """absl's, as far as it is used."""

        def __init__(self) -> None:
            self.parsed, self.timeout = False, 120

        def __contains__(self, name: str) -> bool:
            return name == "sc2_timeout"

        def is_parsed(self) -> bool:
            return self.parsed

        def mark_as_parsed(self) -> None:
            self.parsed = True

        @property
        def sc2_timeout(self) -> int:
            assert self.parsed, "absl refuses this"
            return self.timeout

        @sc2_timeout.setter
        def sc2_timeout(self, seconds: int) -> None:
            self.timeout = seconds

    flags = Flags()
    monkeypatch.setitem(sys.modules, "absl.flags", SimpleNamespace(FLAGS=flags))
    Smac(SmacSettings(start_limit_s=60), 1)
    assert flags.parsed and flags.timeout == 120
    Smac(SmacSettings(start_limit_s=299.5), 1)
    assert flags.timeout == 300


# ---- versions of the game


def install(folder: Path, *builds: int) -> None:
    """Exactly these."""
    shutil.rmtree(folder / "StarCraftII" / "Versions")
    for build in builds:
        (folder / "StarCraftII" / "Versions" / f"Base{build}").mkdir(parents=True)


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize(
    ("wish", "builds", "named"),
    [
        (None, (69232, 75689), "4.10.0 (build 75689)"),
        ("latest", (69232, 75689), "4.10.0 (build 75689)"),
        (None, (69232, 99999), "build 99999"),
        (None, (77379,), "4.11.0/4.11.1 (build 77379)"),
        ("4.11.1", (77379,), "4.11.1 (build 77379)"),
        ("4.6.2", (69232, 75689), "4.6.2 (build 69232)"),
        ("4.10", (69232, 75689), "4.10.0 (build 75689)"),
    ],
)
def test_the_spec_names_the_version_that_pysc2_starts(
    tmp_path: Path, wish: str | None, builds: tuple[int, ...], named: str
) -> None:
    install(tmp_path, *builds)
    assert Smac(SmacSettings(game_version=wish), 1).spec.versions["StarCraft II"] == named


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize(
    ("wish", "builds", "sentence"),
    [
        (
            "4.6.2",
            (75689,),
            r"4\.6\.2 is build 69232 of StarCraft II, which is not installed: in .*Versions there is",
        ),
        ("9.9.9", (75689,), r"9\.9\.9 is unknown to pysc2: .* there is 4\.10\.0 \(build 75689\); choose one of these"),
        ("4.9", (69232, 99999), r"4\.9 is unknown to pysc2: .* is 4\.6\.2 \(build 69232\), build 99999; choose one"),
    ],
)
def test_a_version_that_is_not_there_is_refused(
    tmp_path: Path, wish: str, builds: tuple[int, ...], sentence: str
) -> None:
    install(tmp_path, *builds)
    with pytest.raises(UserError, match=rf"env\.game_version={sentence}"):
        Smac(SmacSettings(game_version=wish), 1)


def test_the_games_own_word_is_logged(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    env = Smac(SmacSettings(game_version="4.6.2"), 2)
    with caplog.at_level(logging.INFO):
        start(env)
    env.close()
    assert caplog.text.count("StarCraft II says that it is version 4.6.2.69232, build 69232\n") == 1
    caplog.clear()
    script.version = "4.8.2"
    env = Smac(SmacSettings(game_version="4.6.2"), 2)
    start(env)
    env.close()
    assert "says that it is version 4.8.2.71663, build 71663, but 4.6.2 (build 69232) was chosen" in caplog.text


def test_versions_are_compared_by_what_is_known_of_them() -> None:
    assert is_version("build 99999", "5.1.2.99999", 99999) and not is_version("build 99999", "5.1.2.99998", 99998)
    assert is_version("4.11.0/4.11.1 (build 77379)", "4.11.1.77379", 77379)
    assert not is_version("4.1.0 (build 60196)", "4.10.0.75689", 75689)


@pytest.mark.usefixtures("script")
def test_without_the_game(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"needs StarCraft II, which is not there: SC2PATH names .*nowhere, and there"):
        Smac(SmacSettings(), 1)
    monkeypatch.delenv("SC2PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"SC2PATH is not set, so it is looked for in .*/StarCraftII/Versions"):
        shutil.move(tmp_path / "StarCraftII", tmp_path / "elsewhere")
        Smac(SmacSettings(), 1)
    shutil.move(tmp_path / "elsewhere", tmp_path / "StarCraftII")
    assert require_game("3m", None)["StarCraft II"] == "4.10.0 (build 75689)"


@pytest.mark.usefixtures("script")
def test_without_the_map() -> None:
    with pytest.raises(
        UserError, match=r"env\.scenario=corridor: .*no file Maps/SMAC_Maps/corridor\.SC2Map; SMAC's maps"
    ):
        Smac(SmacSettings(scenario="corridor"), 1)


def test_with_another_map_under_the_name(script: Script) -> None:
    script.unit_types = (73, 74, 74)
    env = Smac(SmacSettings(), 1)
    with pytest.raises(UserError, match=r"units are of the types \[73, 74, 74\], but .* marine, marine, marine"):
        env.reset([iter([1])])
    env.close()


def test_with_other_sizes(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stub_smac.PARAMETERS, "3m", (3, 4, 60, "TT", 0, (2001,) * 3))
    env = Smac(SmacSettings(), 1)
    with pytest.raises(
        UserError, match="n_actions 10 instead of 9, obs_shape 35 instead of 30, state_shape 54 instead"
    ):
        env.reset([iter([1])])
    env.close()
    assert all(game.launches == 0 for game in script.made)


def test_check_env_on_the_command_line(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-env", "smac", "env.scenario=2s3z", "env.max_steps=12"]) == 0
    assert "checks passed" in capsys.readouterr().out
    assert len(script.made) == 3 and all(game.closed for game in script.made)


def test_the_command_line_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "smac", None)
    assert cli.main(["check-env", "smac"]) == 2
    assert "github.com/oxwhirl/smac" in capsys.readouterr().err
