"""The command line: `phalanx COMMAND …`, or `python -m phalanx.cluster.cli COMMAND …`.

Exit status: 0 success (also a run that was asked to stop and saved a checkpoint), 1 the run failed, 2 the request was
wrong, 130 a second Ctrl-C. What a user got wrong is answered with a sentence on stderr and never with a traceback.
Only the standard library, typer and the errors are imported here; everything else when a command needs it.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

import phalanx
from phalanx.configs.errors import RunFailed, UserError

SUCCESS, FAILED, WRONG, STOPPED_AT_ONCE = 0, 1, 2, 130
_SAY_SO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

app = typer.Typer(
    help="Trains cooperative teams of agents with a distributed actor-learner service on Ray.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="settings that differ, such as algorithm.lr=1e-4 (values are YAML)",
        show_default=False,
    ),
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="a YAML file, or the name of a shipped run", show_default=False)
]
RunFolderPath = Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a run", show_default=False)]


class Listed(str, Enum):
    """What `phalanx list` can list."""

    algorithms = "algorithms"
    envs = "envs"
    runs = "runs"
    searches = "searches"


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"phalanx {phalanx.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def train(
    run: Run,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for the run; by default runs/NAME", metavar="DIR", show_default=False)
    ] = None,
) -> None:
    """Train a team. Ctrl-C saves a checkpoint and stops; `phalanx resume` goes on."""
    from phalanx.cluster import training

    raise typer.Exit(training.train(run, _settings(overrides, "out"), out))


@app.command()
def resume(folder: RunFolderPath) -> None:
    """Go on with a run that was stopped or broke, from its newest intact checkpoint."""
    from phalanx.cluster import training

    raise typer.Exit(training.resume(folder))


@app.command()
def evaluate(
    folder: RunFolderPath,
    episodes: Annotated[int, typer.Option(help="greedy episodes to play", min=1, metavar="N")] = 32,
    gif: Annotated[
        Path | None, typer.Option(help="film the first episodes into this .gif", metavar="FILE", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one line of JSON on stdout and nothing else")] = False,
) -> None:
    """Play greedy episodes with a trained team and say how well it does."""
    from phalanx.cluster import commands

    raise typer.Exit(commands.evaluate(folder, episodes, gif, json))


@app.command()
def diagnose(
    folder: RunFolderPath,
    episodes: Annotated[int, typer.Option(help="episodes to look at", min=1, metavar="N")] = 32,
    play: Annotated[
        bool, typer.Option("--play", help="play greedy episodes also where the checkpoint holds its replay")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print one line of JSON on stdout and nothing else")] = False,
) -> None:
    """Look at the networks of a checkpoint: values against returns, mixing weights, ensembles, diversity."""
    from phalanx.cluster import commands

    raise typer.Exit(commands.diagnose(folder, episodes, play, json))


@app.command()
def tune(
    search: Annotated[
        str, typer.Argument(metavar="SEARCH", help="a YAML file, or the name of a shipped search", show_default=False)
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for the search; by default runs/NAME", metavar="DIR", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="go on with the search in this folder", metavar="DIR", show_default=False)
    ] = None,
) -> None:
    """Search for good settings with Ray Tune."""
    from phalanx.cluster import commands

    raise typer.Exit(commands.tune(search, _settings(overrides, "out", "resume"), out, resume))


@app.command()
def plot(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="the folders of runs", show_default=False)],
    out: Annotated[Path, typer.Option(help="the picture: .png, .pdf or .svg", metavar="FILE", show_default=False)],
    metric: Annotated[
        str | None,
        typer.Option(
            help="what to draw, such as train/loss_td; by default evaluations", metavar="NAME", show_default=False
        ),
    ] = None,
    diagnostics: Annotated[
        bool, typer.Option("--diagnostics", help="draw the learner's figures, a small panel for each")
    ] = False,
) -> None:
    """Draw learning curves; runs that differ by their seed alone become one line."""
    from phalanx.cluster import commands

    raise typer.Exit(commands.plot(folders, out, metric, diagnostics))


@app.command(name="list")
def list_(
    what: Annotated[Listed, typer.Argument(metavar="{algorithms|envs|runs|searches}", show_default=False)],
) -> None:
    """Name what there is."""
    from phalanx.cluster import commands

    raise typer.Exit(commands.list_names(what.value))


@app.command()
def show_config(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="a YAML file, or the name of a shipped run", show_default=False),
    ] = None,
    overrides: Overrides = None,
    docs: Annotated[bool, typer.Option("--docs", help="print what every setting means instead")] = False,
) -> None:
    """Print the complete settings of a run as YAML, or with --docs what they mean as Markdown."""
    from phalanx.cluster import commands

    raise typer.Exit(commands.show_config(run, overrides or (), docs))


@app.command()
def freeze(
    folder: RunFolderPath,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="the .npz file to write", show_default=False)],
    group: Annotated[str | None, typer.Option(help="whose network, such as opponents (default: the team's)")] = None,
) -> None:
    """Write the network of a trained team, or of one of its groups, as a small policy that needs numpy alone."""
    from phalanx.cluster.freeze import freeze as frozen
    from phalanx.cluster.render import require_output_path

    require_output_path(out, (".npz",), "FILE")
    frozen(folder, group).save(out)


@app.command()
def check_env(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="an environment, a run or a YAML file", show_default=False)
    ],
    overrides: Overrides = None,
) -> None:
    """Test whether an environment keeps the rules of a TeamEnv; exit status 1 where it does not."""
    from phalanx.cluster import commands

    raise typer.Exit(commands.check_env(spec, overrides or ()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (default: the process's own); the exit status."""
    _speak_on_stderr()
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=None if arguments is None else list(arguments), prog_name="phalanx", standalone_mode=False
        )
    except UserError as error:
        return _say(str(error), WRONG)
    except RunFailed as error:
        return _say(str(error), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return _say("stopped at once", STOPPED_AT_ONCE)
    except OSError as error:
        if error.errno not in _SAY_SO:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{os.strerror(error.errno or 0)}", WRONG)
    except Exception as error:
        # The exceptions of the command line parser, wherever this version of typer keeps them.
        if not hasattr(error, "format_message"):
            raise
        return _say(_usage(error), WRONG)
    if status == STOPPED_AT_ONCE:  # what typer makes of Ctrl-C
        return _say("stopped at once", STOPPED_AT_ONCE)
    return status if isinstance(status, int) else SUCCESS


def _settings(given: Sequence[str] | None, *options: str) -> Sequence[str]:
    """The overrides that were given; a UserError where one of them is an option of the command."""
    for one in given or ():
        key, _, value = one.partition("=")
        if key in options:
            raise UserError(f"{key} is an option, not a setting: write --{key} {value}")
    return given or ()


def _usage(error: Any) -> str:
    """`No such command 'trian'. Did you mean 'train'? (phalanx --help)`"""
    message = " ".join(str(error.format_message()).replace("Value error, ", "").split())
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "phalanx"
    wrong = str(getattr(error, "option_name", "")).lstrip("-")
    takes_settings = context is not None and any(one.name == "overrides" for one in context.command.params)
    if takes_settings and "No such option" in message:
        message += f" Settings are written without dashes, as in {wrong}=VALUE"
    return f"{message} (see `{path} --help`)"


def _say(sentence: str, status: int) -> int:
    print(f"phalanx: {sentence}", file=sys.stderr)
    return status


def _speak_on_stderr() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no ± or ∂ shows ? instead
            stream.reconfigure(errors="replace")
    log = logging.getLogger("phalanx")
    log.handlers = [_Stderr()]
    log.setLevel(logging.INFO)
    warnings.showwarning = _show_warning


class _Stderr(logging.Handler):
    """Writes to what sys.stderr is at the time: the live view replaces it while it draws."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"phalanx: {self.format(record)}", file=sys.stderr)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are sentences for users; others keep their place in the code."""
    if filename.startswith(str(Path(phalanx.__file__).parent)):
        text = f"phalanx: warning: {message}\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)


if __name__ == "__main__":
    sys.exit(main())
