"""Games start one at a time, whatever becomes of the processes that start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.envs import smac_turns
from phalanx.envs.smac_turns import lock_file, my_turn

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import subprocess, sys, time
from phalanx.envs.smac_turns import my_turn
with my_turn(5.0) as why_not:
    game = subprocess.Popen(["sleep", "300"])
    print(why_not or "mine", game.pid, flush=True)
    time.sleep(300)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(smac_turns.tempfile, "tempdir", os.fspath(tmp_path))
    return tmp_path


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process whose turn it is, and which has started a game."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": os.fspath(folder)}
    other = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=env)
    assert other.stdout is not None
    word, game = other.stdout.readline().split()
    assert word == "mine"
    yield other
    other.stdout.close()
    other.kill()
    other.wait()
    os.kill(int(game), signal.SIGKILL)


@pytest.mark.usefixtures("holder")
def test_nobody_waits_for_longer_than_they_want_to() -> None:
    began = time.monotonic()
    with my_turn(0.3) as why_not:
        assert why_not == f"another process has held {lock_file()} for 0.3 s"
    assert 0.3 <= time.monotonic() - began < 5


def test_the_lock_ends_with_its_holder_and_not_with_the_game_that_it_has_started(
    holder: subprocess.Popen[str],
) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    with my_turn(30.0) as why_not:
        assert why_not == ""
    with my_turn(0.0) as why_not:  # and with ours
        assert why_not == ""


def test_without_the_file_there_is_no_lock(folder: Path) -> None:
    lock_file().symlink_to(folder / "elsewhere")
    with my_turn(0.0) as why_not:
        assert why_not.startswith(f"{lock_file()} cannot be opened (")
    assert not (folder / "elsewhere").exists()


def test_the_file_is_the_users(folder: Path) -> None:
    with my_turn(0.0):
        assert lock_file().parent == folder and str(os.getuid()) in lock_file().name
        assert lock_file().stat().st_mode & 0o077 == 0
