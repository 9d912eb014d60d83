from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from phalanx.cluster.live import LivePanel, LogLines, Story, duration, label, number, open_view, sparkline
from phalanx.cluster.metrics import Row
from phalanx.configs.settings import AlgorithmSettings, EnvSettings, RunSettings

RUN = RunSettings(
    total_env_steps=10_000, env=EnvSettings(name="some_env"), algorithm=AlgorithmSettings(name="some_algorithm")
)


def row(env_steps: int, wall_s: float, **more: float) -> Row:
    return {"env_steps": env_steps, "updates": env_steps // 10, "episodes": 0, "wall_s": wall_s, **more}


def evaluated(env_steps: int, wall_s: float, mean: float, contacts: float) -> Row:
    return {**row(env_steps, wall_s), "eval/return_mean": mean, "eval/return_std": 1.0, "eval/contacts_mean": contacts}


def drawn(panel: LivePanel, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(panel.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def a_panel(width: int = 100) -> LivePanel:
    return LivePanel(RUN, "runs/x", Console(file=io.StringIO(), width=width))


def test_speed_and_time_left_follow_the_last_minute() -> None:
    story = Story(RUN)
    assert story.speed is None
    for wall_s, env_steps in ((0.0, 0), (100.0, 1000), (160.0, 1600), (170.0, 2000)):
        story.add(row(env_steps, wall_s))
    assert story.speed == pytest.approx(40.0)  # from 160 s on, not the 10 a second of before
    assert story.seconds_left == pytest.approx(200.0)


def test_time_left_never_turns_negative() -> None:
    story = Story(RUN)
    story.add(row(0, 0.0))
    story.add(row(10_400, 10.0))
    assert story.seconds_left == 0
    assert story.share == 1.0


def test_the_panel_shows_progress_numbers_and_evaluations() -> None:
    panel = a_panel()
    assert "starting Ray" in drawn(panel)
    panel.report(evaluated(0, 0.0, 2.0, 1.0))
    panel.report(
        {
            **evaluated(2500, 5.0, 8.0, 4.0),
            "replay/samples_per_insert": 31.9,
            "learner/policy_lag_mean": 1.25,
            "learner/updates_per_s": 64.0,
            "rollout/return_mean": 5.5,
            "cluster/actor_restarts": 0,
        }
    )
    text = drawn(panel)
    for expected in (
        "runs/x",
        "some_algorithm on some_env",
        "2,500 of 10,000 env steps",
        "25%",
        "0:00:15 left",
        "31.90 of 32",
        "1.25 updates",
        "64",
        "8 (untrained 2)",
        "contacts",
        "▁█",
    ):
        assert expected in text, expected
    assert "restart" not in text
    assert "return std" not in text


def test_losses_are_shown_once_there_are_some() -> None:
    panel = a_panel()
    panel.report({**row(100, 1.0), "cluster/actor_restarts": 1, "cluster/episodes_lost": 12})
    assert "1 actor restart, 12 episodes lost" in drawn(panel)


def test_warnings_are_shown_while_they_hold() -> None:
    panel, lines = a_panel(), list[str]()
    log = LogLines(RUN, lines.append, every_s=0)
    held = {"warning/q_explosion": 1, "warning/collapsed_coordination": 0, "warning/volatile_minimum": 1}
    for view in (panel, log):
        view.report({**row(100, 1.0), **held})
    assert "warning: q_explosion, volatile_minimum" in drawn(panel)
    assert lines[-1].endswith(" · warning: q_explosion, volatile_minimum")
    for view in (panel, log):
        view.report({**row(200, 2.0), **dict.fromkeys(held, 0)})
    assert "warning" not in drawn(panel) + lines[-1]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_panel_fits_the_terminal(width: int) -> None:
    panel = a_panel(width)
    panel.report(evaluated(0, 0.0, 2.0, 1.0))
    panel.report(evaluated(5000, 5.0, 8.0, 4.0))
    lines = drawn(panel, width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("╭")
    assert lines[-1].startswith("╰")


def test_what_others_print_scrolls_above_the_panel() -> None:
    file = io.StringIO()
    panel = LivePanel(RUN, "runs/x", Console(file=file, width=80, force_terminal=True))
    with panel:
        panel.report(row(100, 1.0))
        print("a line of Ray's", file=sys.stderr)
        print("a line of the environment's")
    text = file.getvalue()
    assert "a line of Ray's\n" in text
    assert "a line of the environment's\n" in text


def test_log_lines_keep_to_one_in_ten_seconds_and_end_with_the_last_report() -> None:
    now = 0.0
    lines: list[str] = []
    view = LogLines(RUN, lines.append, clock=lambda: now)
    with view:
        for second in range(0, 25, 2):
            now = float(second)
            view.report(row(second * 100, now))
        assert [line.split(" of ")[0] for line in lines] == ["0", "1,000", "2,000"]
    assert len(lines) == 4
    assert lines[-1].startswith("2,400 of 10,000 env steps (24%)")


def test_the_last_report_is_not_printed_twice() -> None:
    lines: list[str] = []
    view = LogLines(RUN, lines.append, clock=lambda: 0.0)
    with view:
        view.report(row(10_000, 5.0))
    assert len(lines) == 1


def test_a_log_line_says_what_matters() -> None:
    view = LogLines(RUN, print, clock=lambda: 0.0)
    view.story.add(evaluated(0, 0.0, 2.0, 1.0))
    view.story.add({**evaluated(5000, 10.0, 8.0, 4.0), "rollout/return_mean": 5.25, "cluster/actor_restarts": 2})
    assert view.line() == (
        "5,000 of 10,000 env steps (50%) · 500/s · 500 updates · return 5.25 · evaluation 8 (untrained 2)"
        " · 0:00:10 left · 2 actor restarts, 0 episodes lost"
    )


def test_a_resumed_run_does_not_call_its_first_evaluation_untrained() -> None:
    view = LogLines(RUN, print)
    view.story.add(evaluated(5000, 10.0, 8.0, 4.0))
    view.story.add(evaluated(6000, 12.0, 9.0, 4.0))
    assert "evaluation 9 (first 8)" in view.line()


def test_lines_are_plain_where_stdout_is_no_terminal() -> None:
    file = io.StringIO()
    view = open_view(RUN, "runs/x", Console(file=file, width=40))
    assert isinstance(view, LogLines)
    with view:
        view.report({**row(5000, 10.0), "rollout/return_mean": 1.0})
    assert file.getvalue() == "5,000 of 10,000 env steps (50%) · 500 updates · return 1\n"
    assert isinstance(open_view(RUN, "x", Console(file=file, force_terminal=True)), LivePanel)


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0, 3.0], 8) == "▄▄"
    assert sparkline([float("nan"), 1.0, 2.0], 8) == "▁█"
    assert sparkline([], 8) == ""
    assert sparkline([0, 0, 10, 10], 2) == "▁█"
    assert len(sparkline(list(range(1000)), 32)) == 32


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (0.01234, "0.0123"), (5.0, "5"), (-3.14159, "-3.14"), (float("nan"), "–")]
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert number(value) == text


def test_a_reader_that_is_gone_does_not_end_the_process() -> None:
    code = (
        "import sys; from phalanx.cluster.live import people\n"
        "for _ in range(3): people().print('line\\n' * 9_000, highlight=False)\n"
        "print('more'); sys.stdout.flush(); sys.exit(7)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 7)


def test_names_and_times_for_people() -> None:
    assert label("eval/contacts_mean") == "contacts"
    assert label("eval/win_rate") == "win rate"
    assert duration(3725.4) == "1:02:05"
