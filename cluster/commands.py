"""What the commands of the command line do; `phalanx.cluster.cli` parses them and turns errors into exit statuses.

Every function returns the exit status. torch and ray are imported where they are needed, so that the quick commands
stay quick.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import itertools
import json
import os
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phalanx.configs.errors import UserError
from phalanx.configs.nearest import did_you_mean

if TYPE_CHECKING:
    from phalanx.cluster.evaluation import EvaluationResult
    from phalanx.cluster.policy import TrainedTeam
    from phalanx.configs.settings import RunSettings

_GIF_EPISODES = 3


def evaluate(folder: Path, episodes: int, gif: Path | None, as_json: bool) -> int:
    """Greedy episodes with the newest intact checkpoint; with `as_json`, stdout gets one line and nothing else."""
    from phalanx.cluster.render import require_output_path

    if gif is not None:
        require_output_path(gif, (".gif",), "--gif")
    with _stdout_to_stderr() if as_json else contextlib.nullcontext():
        from phalanx.cluster.evaluation import Evaluator
        from phalanx.cluster.learner import use_threads
        from phalanx.cluster.policy import load_policy

        use_threads(1)
        team = load_policy(folder)
        evaluator = Evaluator(team.run, load_policy)
        try:
            evaluator.set_weights(team.weights, 0)
            result = evaluator.evaluate(episodes)
        finally:
            evaluator.close()
        if gif is not None:
            _film(team, min(episodes, _GIF_EPISODES), gif)
    if as_json:
        print(json.dumps(evaluation_json(result), allow_nan=False), flush=True)
    else:
        from phalanx.cluster.closing import evaluation_table
        from phalanx.cluster.live import people

        people().print(evaluation_table(team.run, result, folder))
        if gif is not None:
            print(f"film: {gif}")
    return 0


def diagnose(folder: Path, episodes: int, play: bool, as_json: bool) -> int:
    """Looks closely at the newest intact checkpoint; with `as_json`, stdout gets one line and nothing else."""
    with _stdout_to_stderr() if as_json else contextlib.nullcontext():
        from phalanx.cluster.diagnose import diagnose, diagnosis_table
        from phalanx.cluster.learner import use_threads

        use_threads(1)
        found = diagnose(folder, episodes, play)
    if as_json:
        print(json.dumps(found.to_json(), allow_nan=False), flush=True)
    else:
        from phalanx.cluster.live import people

        people().print(diagnosis_table(found))
    return 0


def evaluation_json(result: EvaluationResult) -> dict[str, Any]:
    """The object that `phalanx evaluate --json` prints."""
    values = {key.removeprefix("eval/"): value for key, value in result.as_metrics().items()}
    data: dict[str, Any] = {
        "return_mean": values.pop("return_mean"),
        "return_std": values.pop("return_std"),
        "returns": [float(value) for value in result.returns],
        "win_rate": values.pop("win_rate", None),
        **values,
    }
    if result.greedy_joint_action is not None:
        data["greedy_joint_action"] = list(result.greedy_joint_action)
    return data


def tune(source: str, overrides: Sequence[str], out: Path | None, resume: Path | None) -> int:
    """Runs a search, or goes on with the one in the folder `resume`; prints its trials, the best first."""
    from phalanx.cluster.run_folder import CATALOGUE, free_place
    from phalanx.configs.search import load_search

    if out is not None and resume is not None:
        raise UserError("--out and --resume exclude each other: a search goes on in the folder it has")
    search = load_search(source, overrides, catalogue=CATALOGUE)

    from phalanx.cluster.closing import all_ended, search_table
    from phalanx.cluster.live import people
    from phalanx.cluster.tuning import run_search

    folder = resume or out or free_place(Path(source).stem)
    print(f"search folder: {folder}", flush=True)
    trials = run_search(search, folder, resume=resume is not None)
    people().print(search_table(search.metric, trials))
    if not all_ended(trials):
        print(f"stopped; go on with: phalanx tune {shlex.join([source, *overrides])} --resume {folder}", flush=True)
    return 0


def plot(folders: Sequence[Path], out: Path, metric: str | None, diagnostics: bool) -> int:
    """Draws learning curves, or with `diagnostics` the learner's figures, into the picture `out`."""
    from phalanx.cluster.plot import plot
    from phalanx.cluster.plot_diagnostics import plot_diagnostics
    from phalanx.cluster.render import require_output_path

    if metric is not None and diagnostics:
        raise UserError("--metric and --diagnostics exclude each other: --diagnostics draws all figures of the learner")
    require_output_path(out, (".png", ".pdf", ".svg"), "--out")
    keys = plot_diagnostics(folders, out) if diagnostics else plot(folders, out, metric)
    print(f"{out}: {', '.join(keys)}")
    return 0


def list_names(what: str) -> int:
    """Names, one a line, each with what it is; of algorithms also what they can be used for."""
    if what == "algorithms":
        from phalanx.algorithms.registry import ALGORITHMS, algorithm_class

        uses = {name: algorithm_class(name).capabilities.in_words for name in ALGORITHMS}
        column = max(map(len, uses.values()))
        found = {name: f"{uses[name]:<{column}}  {_docstring(place)}" for name, place in ALGORITHMS.items()}
    elif what == "envs":
        from phalanx.envs.registry import ENVIRONMENTS

        found = {name: _docstring(place) for name, place in ENVIRONMENTS.items()}
    else:
        from phalanx.configs.load import shipped_runs, shipped_searches

        files = shipped_runs() if what == "runs" else shipped_searches()
        found = {name: _first_comment(path) for name, path in files.items()}
    width = max(map(len, found), default=0)
    for name, meaning in found.items():
        print(f"{name:<{width}}  {meaning}".rstrip())
    return 0


def show_config(run: str | None, overrides: Sequence[str], docs: bool) -> int:
    """Prints a run's complete settings, or the documentation of all settings."""
    from phalanx.cluster.run_folder import CATALOGUE
    from phalanx.configs.docs import settings_docs
    from phalanx.configs.load import dump_run, load_run

    if docs:
        print(settings_docs(CATALOGUE), end="")
    elif run is None:
        raise UserError("show-config needs a run: a YAML file or one of `phalanx list runs`, or --docs instead")
    else:
        print(dump_run(load_run(run, overrides, catalogue=CATALOGUE)), end="")
    return 0


def check_env(spec: str, overrides: Sequence[str]) -> int:
    """1 where the environment breaks a rule."""
    from phalanx.cluster.policy import load_policy
    from phalanx.envs.check import check_env, format_report
    from phalanx.envs.registry import make_env

    settings = _run_of_environment(spec, overrides).env
    problems = check_env(lambda count: make_env(settings, count, load_policy, watch=False))
    print(format_report(spec, problems))
    return 1 if problems else 0


def _run_of_environment(spec: str, overrides: Sequence[str]) -> RunSettings:
    """Settings for `check-env SPEC`: an environment's name, or module:Class, stands for a run of any algorithm."""
    from phalanx.cluster.run_folder import CATALOGUE
    from phalanx.configs.documents import Document
    from phalanx.configs.load import load_run, resolve, shipped_runs
    from phalanx.configs.overrides import parse_override
    from phalanx.envs.registry import ENVIRONMENTS

    if spec in ENVIRONMENTS or (":" in spec and not Path(spec).exists()):
        document = Document({"env": {"name": spec}, "algorithm": {"name": "iql"}}, "the command line")
        return resolve(document, [parse_override(one) for one in overrides], CATALOGUE)
    names = (*ENVIRONMENTS, *shipped_runs())
    if Path(spec).suffix or Path(spec).exists() or spec in names:
        return load_run(spec, overrides, catalogue=CATALOGUE)
    raise UserError(
        f"{spec!r} is neither an environment ({', '.join(ENVIRONMENTS)}) nor a class module:Class nor a"
        f" shipped run ({', '.join(shipped_runs())}) nor a YAML file{did_you_mean(spec, names)}"
    )


def _film(team: TrainedTeam, episodes: int, gif: Path) -> None:
    from phalanx.cluster.policy import load_policy
    from phalanx.cluster.render import make_drawn_env, play_frames, write_gif

    env = make_drawn_env(team.run.env, 1, load_policy)
    try:
        write_gif(gif, play_frames(env, team, episodes, team.run.seed))
    finally:
        env.close()


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Everything that this process and its libraries, also those in C, write to stdout goes to stderr."""
    sys.stdout.flush()
    try:
        ours = os.dup(1)
    except OSError:  # stdout is closed
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(ours, 1)
        os.close(ours)


def _docstring(place: str) -> str:
    """First line of the docstring of the module in `module:Class`; read, because importing it may load a simulator."""
    found = importlib.util.find_spec(place.partition(":")[0])
    if found is None or found.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(found.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _first_comment(path: Path) -> str:
    """The comment at the top of a YAML file, as far as it fits into a line."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return textwrap.shorten(" ".join(line.lstrip("# ") for line in comment), 100, placeholder=" …")
