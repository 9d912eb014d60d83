"""Rules of the house that a reader of one file cannot see: who may import whom, sizes, what no file may do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("configs", "envs", "algorithms", "cluster")
RAY_FILES = {"cluster/actors.py", "cluster/service.py", "cluster/tuning.py"}
CONSOLE_FILES = {"cluster/cli.py", "cluster/commands.py", "cluster/training.py"}
# A file may import from its own layer and from those before it.
LAYERS = ("configs", "envs", "algorithms", "cluster (plain)", "cluster (Ray)", "cli")
SIMULATORS = ("mpe2", "pettingzoo", "pygame")
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_LINE = 120  # characters


def python_files(*folders: str) -> list[Path]:
    return sorted(p for f in folders for p in (ROOT / f).rglob("*.py") if "__pycache__" not in p.parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


OURS = python_files(*FOLDERS)
OURS_AND_TOOLS = OURS + python_files("benchmarks", "tests")


def imported_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in the tree, lazily or not, as (dotted name, line)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from phalanx.cluster import service` imports a module as well.
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"<relative import of {node.module}>", node.lineno


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: not what is inside functions, nor `if TYPE_CHECKING`, nor
    `if __name__ == "__main__"`."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)]
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.If) and re.match(r"TYPE_CHECKING$|__name__ == '__main__'$", ast.unparse(node.test)):
            todo += node.orelse
            continue
        yield node
        todo += ast.iter_child_nodes(node)


def layer_of(file: str) -> int:
    folder = file.split("/", 1)[0]
    if folder != "cluster":
        return LAYERS.index(folder)
    if file in CONSOLE_FILES:
        return LAYERS.index("cli")
    return LAYERS.index("cluster (Ray)" if file in RAY_FILES else "cluster (plain)")


def layer_of_import(dotted: str) -> int | None:
    """The layer of an imported phalanx module, None for what is outside (or `phalanx` itself)."""
    parts = dotted.split(".")
    if parts[0] != "phalanx" or len(parts) < 2 or parts[1] not in FOLDERS:
        return None
    return layer_of(f"{parts[1]}/{parts[2]}.py" if len(parts) > 2 else f"{parts[1]}/__init__.py")


def wrong_directions(file: str, tree: ast.AST) -> list[str]:
    offences = []
    for dotted, line in imported_names(tree):
        layer = layer_of_import(dotted)
        if layer is not None and layer > layer_of(file):
            offences.append(f"{file}:{line} ({LAYERS[layer_of(file)]}) imports {dotted} ({LAYERS[layer]})")
        if dotted.split(".")[0] in FOLDERS or dotted.startswith("<relative"):
            offences.append(f"{file}:{line} imports {dotted}: write phalanx.<folder>")
    return offences


def importers(package: str) -> dict[str, list[bool]]:
    """Files that import `package`, each with whether each of its imports happens at import time."""
    found: dict[str, list[bool]] = {}
    for path in OURS:
        tree = ast.parse(path.read_text())
        eager = {id(node) for node in at_import_time(tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and any(
                dotted.split(".")[0] == package for dotted, _ in imported_names(ast.Module([node], []))
            ):
                found.setdefault(name_of(path), []).append(id(node) in eager)
    return found


def test_the_files_named_here_exist() -> None:
    assert {name_of(path) for path in OURS} >= RAY_FILES | CONSOLE_FILES


def test_imports_go_one_way() -> None:
    offences = [o for path in OURS for o in wrong_directions(name_of(path), ast.parse(path.read_text()))]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("envs/x.py", "from phalanx.algorithms import registry"),
        ("cluster/replay.py", "import phalanx.cluster.service"),
        ("cluster/replay.py", "def f():\n    from phalanx.cluster import actors"),
        ("cluster/service.py", "from phalanx.cluster.cli import app"),
        ("envs/x.py", "from envs.team import TeamEnv"),
        ("envs/x.py", "from .team import TeamEnv"),
    ],
)
def test_a_wrong_direction_is_seen(file: str, line: str) -> None:
    assert wrong_directions(file, ast.parse(line))


def test_ray_is_imported_in_three_files() -> None:
    assert set(importers("ray")) <= RAY_FILES


def test_environments_and_configs_know_no_torch() -> None:
    assert not [file for file in importers("torch") if file.split("/")[0] in ("envs", "configs")]


@pytest.mark.parametrize("package", ["wandb", "tensorboardX", *SIMULATORS])
def test_heavy_libraries_are_imported_lazily_in_one_file(package: str) -> None:
    files = importers(package)
    assert len(files) <= 1, files
    assert not any(eager for imports in files.values() for eager in imports), files


@pytest.mark.parametrize("package", ["matplotlib", "gymnasium"])
def test_other_slow_libraries_are_imported_lazily(package: str) -> None:
    assert not [file for file, eager in importers(package).items() if any(eager)]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("phalanx", ("torch", "ray", "numpy")),
        ("phalanx.configs.settings", ("torch", "ray", "numpy")),
        ("phalanx.envs.registry", ("torch", "ray", *SIMULATORS)),
        ("phalanx.algorithms", ("torch", "ray")),
        ("phalanx.algorithms.registry", ("ray",)),
        ("phalanx.cluster.replay", ("torch", "ray", "matplotlib")),
        ("phalanx.cluster.policy", ("ray",)),
        ("phalanx.cluster.cli", ("ray", "wandb", "matplotlib", *SIMULATORS)),
    ],
)
def test_what_an_import_does_not_load(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(set({absent!r}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_refuses_its_bare_name(folder: str) -> None:
    run = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert f"write 'import phalanx.{folder}'" in run.stderr


def test_functions_and_files_are_small() -> None:
    offences = []
    for path in OURS + python_files("benchmarks"):
        text = path.read_text()
        lines = text.count("\n")
        if lines > MAX_FILE_LINES:
            offences.append(f"{name_of(path)}: {lines} lines (at most {MAX_FILE_LINES})")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    offences.append(f"{name_of(path)}:{node.lineno} {node.name}: {length} lines")
    assert not offences, "\n".join(offences)


def test_pages_are_as_wide_as_the_code() -> None:
    """But for tables and commands, which cannot be broken."""
    offences = []
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        text = re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), path.read_text(), flags=re.M | re.S)
        for number, line in enumerate(text.splitlines(), start=1):
            if len(line) > MAX_LINE and not line.startswith("|"):
                offences.append(f"{name_of(path)}:{number}: {len(line)} characters")
    assert not offences, "\n".join(offences)


def test_public_classes_and_functions_are_documented() -> None:
    offences = []
    for path in OURS:
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            # A settings model says what it is field by field (`phalanx show-config --docs`).
            settings = isinstance(node, ast.ClassDef) and any(ast.unparse(b).endswith("Settings") for b in node.bases)
            if not settings and not ast.get_docstring(node):
                offences.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not offences, "\n".join(offences)


# What has an effect on the whole process, or depends on where it was started (Ray's workers import our modules with
# their own arguments and folder).
EFFECTS = (r"^os\.environ\[", r"^os\.environ\.(update|setdefault|pop|clear)\(", r"^os\.putenv\(", r"^sys\.argv")
PLACES = (
    r"^os\.getcwd\(",
    r"^Path\.cwd\(",
    r"^Path\(\)",
    r"^Path\('\.'\)",
    r"\.setrecursionlimit\(",
    r"^random\.seed\(",
)


def effects_at_import(tree: ast.Module) -> list[str]:
    found = []
    for node in at_import_time(tree):
        if isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
            text = ast.unparse(node)
            reads = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
            if any(re.search(pattern, text) for pattern in EFFECTS + PLACES) and not reads:
                found.append(f"line {node.lineno}: {text}")
    return found


def test_importing_a_module_changes_nothing() -> None:
    offences = [f"{name_of(p)} {e}" for p in OURS for e in effects_at_import(ast.parse(p.read_text()))]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize(
    "code",
    [
        "os.environ['A'] = '1'",
        "os.environ.setdefault('A', '1')",
        "if sys.argv: pass",
        "class A:\n    here = Path.cwd()",
        "def f(x=os.getcwd()): pass",
    ],
)
def test_an_effect_at_import_is_seen(code: str) -> None:
    assert effects_at_import(ast.parse(code))


def dangerous_calls(tree: ast.AST) -> Iterator[str]:
    """Calls that let data run code, and handlers that swallow everything."""
    safe = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    safe |= {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and {ast.unparse(b) for b in n.bases} & safe}
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: except without a type"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            name in ("eval", "exec", "os.system", "yaml.unsafe_load", "yaml.full_load")
            or re.match(r"(c?loud)?pickle\.(load|loads|Unpickler)$", name)
            or (name == "yaml.load" and given.get("Loader") not in safe)
            or (name == "torch.load" and given.get("weights_only") != "True")
            or given.get("allow_pickle") == "True"
            or given.get("shell") == "True"
        ):
            yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


def test_data_never_runs_code() -> None:
    offences = [f"{name_of(p)} {c}" for p in OURS_AND_TOOLS for c in dangerous_calls(ast.parse(p.read_text()))]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "pickle.load(f)",
        "cloudpickle.loads(b)",
        "yaml.load(f)",
        "class L(yaml.Loader): pass\nyaml.load(f, Loader=L)",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
        "try:\n    f()\nexcept:\n    pass",
    ],
)
def test_a_dangerous_call_is_seen(code: str) -> None:
    assert list(dangerous_calls(ast.parse(code)))


def test_every_file_stands_alone() -> None:
    """No path of somebody's own machine: a checkout must work wherever it lies."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    foreign = re.compile(r"\.\./" + r"shared\b|(?<![\w.}])/(?:work|root|Users)/")
    offences = []
    for file in listing.stdout.splitlines():
        path = ROOT / file
        if path.is_file() and not path.is_symlink() and path.suffix not in (".npz", ".png", ".gif"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if foreign.search(line):
                    offences.append(f"{file}:{number}: {line.strip()}")
    assert not offences, "\n".join(offences)
