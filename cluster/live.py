"""What a person sees while a run is going: a live panel on a terminal, a line now and then in a log."""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from phalanx.cluster import metrics
from phalanx.cluster.metrics import Row
from phalanx.configs.settings import RunSettings

SECONDS_BETWEEN_LINES = 10.0
_SPEED_WINDOW_S = 60.0
_BARS = "▁▂▃▄▅▆▇█"
_NOT_A_SCORE = {metrics.EVAL_RETURN_STD, metrics.EVAL_LENGTH, metrics.EVAL_ENV_STEPS}


class View(Protocol):
    """Shows report rows; a context manager around the run."""

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def report(self, row: Row) -> None: ...


class Story:
    """What the rows so far say: newest values, speed, time left, and the evaluations."""

    def __init__(self, run: RunSettings) -> None:
        self.run = run
        self.latest: dict[str, float | int] = {}
        self.evaluations: dict[str, list[float]] = {}  # eval/... -> values, in order
        self.began_untrained = False  # the first evaluation was of weights that had seen no data
        self._recent: deque[tuple[float, int]] = deque()

    def add(self, row: Row) -> None:
        scores = {k: float(v) for k, v in row.items() if k.startswith("eval/") and k not in _NOT_A_SCORE}
        if scores and not self.evaluations:
            self.began_untrained = row.get(metrics.EVAL_ENV_STEPS, row[metrics.ENV_STEPS]) == 0
        for key, value in scores.items():
            self.evaluations.setdefault(key, []).append(value)
        self.latest.update(row)
        now = float(row[metrics.WALL_S])
        self._recent.append((now, self.env_steps))
        while len(self._recent) > 2 and now - self._recent[0][0] > _SPEED_WINDOW_S:
            self._recent.popleft()

    @property
    def env_steps(self) -> int:
        return int(self.latest.get(metrics.ENV_STEPS, 0))

    @property
    def share(self) -> float:
        return min(1.0, self.env_steps / self.run.total_env_steps)

    @property
    def speed(self) -> float | None:
        """Env steps per second over the last minute: steadier than the last report's, fresher than the run's."""
        if len(self._recent) < 2:
            return None
        (first_s, first), (last_s, last) = self._recent[0], self._recent[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else None

    @property
    def seconds_left(self) -> float | None:
        speed = self.speed
        if not speed:
            return None
        return max(0, self.run.total_env_steps - self.env_steps) / speed


class LivePanel:
    """A panel that is drawn over and over at the bottom of the terminal; what is printed meanwhile scrolls above."""

    def __init__(self, run: RunSettings, title: str, console: Console | None = None) -> None:
        self.story = Story(run)
        self.title = title
        self._console = console or Console()
        self._live = Live(
            get_renderable=self.render,
            console=self._console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=True,
            redirect_stderr=True,
        )

    def __enter__(self) -> LivePanel:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def report(self, row: Row) -> None:
        self.story.add(row)

    def render(self) -> RenderableType:
        story = self.story
        run = story.run
        what, how = f"{run.algorithm.name} on {run.env.name}", f"   {run.mode}, seed {run.seed}"
        subject = Text.assemble((what, "bold"), (how, "dim"))
        parts: list[RenderableType] = [subject, Text()]
        if story.latest:
            parts += [_progress(story), Text(), _numbers(story)]
        else:
            parts.append(Text("starting Ray, the workers and the learner …", style="dim"))
        if metrics.EVAL_RETURN in story.evaluations:
            parts += [Text(), _evaluations(story)]
        troubles = [line for line in (_losses(story), _warnings(story)) if line]
        if troubles:
            parts += [Text(), *(Text(line, style="yellow") for line in troubles)]
        return Panel(
            Group(*parts),
            title=f"[bold]phalanx[/] {self.title}",
            subtitle="[dim]Ctrl-C saves a checkpoint and stops[/]",
            title_align="left",
            subtitle_align="left",
            padding=(1, 2),
            width=min(96, self._console.width),
        )


class LogLines:
    """One line per report, but not more than one in `every_s` seconds; the last report is always printed."""

    def __init__(
        self,
        run: RunSettings,
        print_line: Callable[[str], None],
        every_s: float = SECONDS_BETWEEN_LINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.story = Story(run)
        self._print = print_line
        self._every_s = every_s
        self._clock = clock
        self._printed_at = -math.inf
        self._pending = False

    def __enter__(self) -> LogLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pending:
            self._print(self.line())

    def report(self, row: Row) -> None:
        self.story.add(row)
        now = self._clock()
        self._pending = now - self._printed_at < self._every_s
        if not self._pending:
            self._printed_at = now
            self._print(self.line())

    def line(self) -> str:
        story = self.story
        latest = story.latest
        parts = [f"{story.env_steps:,} of {story.run.total_env_steps:,} env steps ({story.share:.0%})"]
        if story.speed is not None:
            parts.append(f"{story.speed:,.0f}/s")
        parts.append(f"{int(latest.get(metrics.UPDATES, 0)):,} updates")
        if metrics.ROLLOUT_RETURN in latest:
            parts.append(f"return {number(latest[metrics.ROLLOUT_RETURN])}")
        if metrics.EVAL_RETURN in story.evaluations:
            parts.append(f"evaluation {_now_and_first(story, metrics.EVAL_RETURN)}")
        if story.seconds_left is not None and story.share < 1:
            parts.append(f"{duration(story.seconds_left)} left")
        return " · ".join([*parts, *(line for line in (_losses(story), _warnings(story)) if line)])


def open_view(run: RunSettings, title: str, console: Console) -> View:
    """The live panel where `console` is a terminal, log lines otherwise. `title` says which run it is."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LivePanel(run, title, console)
    return LogLines(run, lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False))


def people() -> Console:
    """The console on stdout; where that is no terminal, lines are long enough not to be broken."""
    console = _Console()
    return console if console.is_terminal else _Console(width=120)


class _Console(Console):
    """Goes on in silence where its reader is gone (`phalanx train … | head`), because a run is worth more than what is
    said of it; rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def sparkline(values: Sequence[float], width: int) -> str:
    """`values` as a row of at most `width` bars, lowest to highest; longer series are averaged in equal parts."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    if len(finite) > width:
        cuts = [round(i * len(finite) / width) for i in range(width + 1)]
        finite = [sum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(finite), max(finite)
    if high == low:
        return _BARS[3] * len(finite)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in finite)


def number(value: float) -> str:
    """A number for people: thousands separated, three or four significant digits."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """`1:02:05`."""
    return str(timedelta(seconds=round(seconds)))


def label(key: str) -> str:
    """`eval/contacts_mean` -> `contacts`: a metric's name for people."""
    return key.split("/", 1)[-1].removesuffix("_mean").replace("_", " ")


def _progress(story: Story) -> RenderableType:
    line = Table.grid(padding=(0, 2))
    steps = f"{story.env_steps:,} of {story.run.total_env_steps:,} env steps"
    left = "" if story.seconds_left is None else f"{duration(story.seconds_left)} left"
    bar = ProgressBar(total=1.0, completed=story.share, width=30)
    line.add_row(bar, f"{story.share:4.0%}", steps, Text(left, style="cyan"))
    return line


def _numbers(story: Story) -> RenderableType:
    latest = story.latest
    wanted = story.run.replay.samples_per_insert
    cells: list[tuple[str, str]] = [
        ("env steps/s", "" if story.speed is None else f"{story.speed:,.0f}"),
        ("updates/s", _value(latest, metrics.UPDATE_SPEED)),
        ("updates", f"{int(latest.get(metrics.UPDATES, 0)):,}"),
        ("samples per insert", f"{_value(latest, metrics.SAMPLES_PER_INSERT)} of {number(wanted)}"),
        ("policy lag", f"{_value(latest, metrics.POLICY_LAG)} updates"),
        ("replay", f"{_value(latest, metrics.REPLAY_SIZE)} episodes"),
        ("training return", _value(latest, metrics.ROLLOUT_RETURN)),
        ("exploration", _value(latest, metrics.ROLLOUT_EPSILON)),
        ("TD loss", _value(latest, "train/loss_td")),
    ]
    grid = Table.grid(padding=(0, 3, 0, 0))
    for index in range(0, len(cells), 3):
        row: list[RenderableType] = []
        for name, value in cells[index : index + 3]:
            row += [Text(name, style="dim"), Text(value)]
        grid.add_row(*row)
    return grid


def _evaluations(story: Story) -> RenderableType:
    grid = Table.grid(padding=(0, 3, 0, 0))
    for key in _scores(story.evaluations):
        name = "evaluation return" if key == metrics.EVAL_RETURN else label(key)
        bars = Text(sparkline(story.evaluations[key], 32), style="green")
        grid.add_row(Text(name, style="dim"), Text(_now_and_first(story, key), style="bold"), bars)
    return grid


def _scores(keys: Iterable[str]) -> list[str]:
    """The return first, then at most three others."""
    return sorted(keys, key=lambda key: key != metrics.EVAL_RETURN)[:4]


def _now_and_first(story: Story, key: str) -> str:
    values = story.evaluations[key]
    if len(values) == 1:
        return f"{number(values[0])}{' untrained' if story.began_untrained else ''}"
    return f"{number(values[-1])} ({'untrained' if story.began_untrained else 'first'} {number(values[0])})"


def _losses(story: Story) -> str:
    restarts = int(story.latest.get(metrics.RESTARTS, 0))
    lost = int(story.latest.get(metrics.EPISODES_LOST, 0))
    if not restarts and not lost:
        return ""
    return f"{restarts} actor {'restart' if restarts == 1 else 'restarts'}, {lost} episodes lost"


def _warnings(story: Story) -> str:
    """Failure signatures that hold now."""
    area = f"{metrics.WARNING}/"
    names = [key.removeprefix(area) for key, value in story.latest.items() if key.startswith(area) and value]
    return f"warning: {', '.join(names)}" if names else ""


def _value(row: dict[str, float | int], key: str) -> str:
    return number(row[key]) if key in row else "–"
