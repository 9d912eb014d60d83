"""The wheel holds `phalanx/` and nothing else, completely, and works away from the checkout."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("algorithms", "cluster", "configs", "envs")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    return subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


def build(what: str, source: Path, out: Path) -> Path:
    """Builds a wheel or an sdist without touching the network; returns the file."""
    done = run(sys.executable, "-m", "build", f"--{what}", "--no-isolation", "--outdir", out, source, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone would hold, so that leftovers of earlier builds in this folder play no part."""
    to = tmp_path_factory.mktemp("checkout")
    listing = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT)
    assert listing.returncode == 0, listing.stderr
    for name in listing.stdout.splitlines():
        source, target = ROOT / name, to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.is_file() and name.split("/")[0] not in ("tests", "docs", "benchmarks"):
            target.write_bytes(source.read_bytes())
    return to


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed alone into a folder; its dependencies are those of this Python."""
    to = tmp_path_factory.mktemp("site")
    done = run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", to, wheel, cwd=to
    )
    assert done.returncode == 0, done.stderr
    return to


def shipped_files() -> set[str]:
    """Every module, configuration and trained opponent of the four folders, as paths below phalanx/."""
    found = {p for f in FOLDERS for end in ("*.py", "*.yaml", "*.npz") for p in (ROOT / f).rglob(end)}
    return {f"phalanx/{p.relative_to(ROOT).as_posix()}" for p in found} | {"phalanx/__init__.py", "phalanx/py.typed"}


def test_wheel_holds_phalanx_alone_and_complete(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"phalanx"}
    assert shipped_files() - names == set()
    assert {n for n in names if n.endswith(".py")} - shipped_files() == set()


def test_sdist_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build("wheel", source, tmp_path / "wheel")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_installed_command_works_elsewhere(site: Path, tmp_path: Path) -> None:
    phalanx = (sys.executable, "-m", "phalanx.cluster.cli")
    listed = run(*phalanx, "list", "runs", cwd=tmp_path, PYTHONPATH=str(site))
    assert listed.returncode == 0, listed.stderr
    assert "demar_tag" in listed.stdout
    shown = run(*phalanx, "show-config", "demar_tag", "seed=7", cwd=tmp_path, PYTHONPATH=str(site))
    assert shown.returncode == 0, shown.stderr
    assert "seed: 7" in shown.stdout
    where = run(
        sys.executable, "-c", "import phalanx.envs; print(phalanx.envs.__file__)", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert where.stdout.startswith(str(site)), "the test ran the checkout, not the wheel"


def test_console_script_is_declared(site: Path) -> None:
    (entry_points,) = site.glob("phalanx_marl-*.dist-info/entry_points.txt")
    assert "phalanx = phalanx.cluster.cli:main" in entry_points.read_text()


def test_command_line_file_runs_by_its_path(site: Path, tmp_path: Path) -> None:
    """`ray submit` copies cluster/cli.py to the head's home folder and runs it there."""
    (tmp_path / "cli.py").write_bytes((ROOT / "cluster" / "cli.py").read_bytes())
    done = run(sys.executable, "cli.py", "list", "runs", cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "demar_tag" in done.stdout


def test_bare_checkout_works(tmp_path: Path, checkout: Path) -> None:
    # -S leaves out .pth files and with them an editable install of phalanx; dependencies come back through PYTHONPATH.
    libraries = os.pathsep.join(p for p in sys.path if p.endswith(("site-packages", "dist-packages")))
    done = run(sys.executable, "-S", "-m", "phalanx.cluster.cli", "list", "runs", cwd=checkout, PYTHONPATH=libraries)
    assert done.returncode == 0, done.stderr
    assert "demar_tag" in done.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_bare_names_are_not_installed(folder: str, site: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-S", "-c", f"import {folder}", cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 1
    assert f"No module named '{folder}'" in done.stderr


def imported_libraries(*folders: str) -> set[str]:
    """Top-level names of what the folders import and Python does not bring, lazily or not."""
    found = set()
    for path in (p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"phalanx", "tests", "benchmarks"}


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[>=<;! ]", requirement)[0].lower() for requirement in requirements}


def test_every_library_is_declared(site: Path) -> None:
    """What is imported comes with `pip install`, in the tests with the extra `dev`; nothing is left to luck."""
    (metadata,) = site.glob("phalanx_marl-*.dist-info/METADATA")
    lines = re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.MULTILINE)
    core = declared([line for line in lines if "extra ==" not in line])
    everything = declared(lines)
    distributions = packages_distributions()
    for folders, allowed in ((FOLDERS, core), (("tests", "benchmarks"), everything)):
        for library in imported_libraries(*folders):
            names = {name.lower() for name in distributions.get(library, [library])}
            names |= {name.replace("_", "-") for name in names} | {name.removesuffix("_core") for name in names}
            assert names & allowed, f"{library} is imported in {', '.join(folders)} but not declared"
