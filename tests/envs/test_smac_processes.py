"""Game processes end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phalanx.envs import smac_processes
from phalanx.envs.smac_processes import MARK, Keeper, is_orphan, kill, marked
from tests.envs.stub_smac import eventually

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import subprocess, sys, time
from phalanx.envs.smac_processes import Keeper
keeper = Keeper()
keeper.start()
with keeper.marking(keeper.new_mark()):
    game = subprocess.Popen(["sleep", "300"])
print(game.pid, keeper._watchdog.pid, flush=True)
time.sleep(300)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc")


def runs(pid: int) -> bool:
    """Whether the process is there and not only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_owner() -> tuple[subprocess.Popen[str], int, int]:
    """An owner, its game and its watchdog."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=env)
    assert owner.stdout is not None
    game, watchdog = map(int, owner.stdout.readline().split())
    owner.stdout.close()
    return owner, game, watchdog


def test_games_of_a_killed_owner_end_and_so_does_the_watchdog() -> None:
    owner, game, watchdog = start_owner()
    assert runs(game) and runs(watchdog)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert eventually(lambda: not runs(game))
    assert eventually(lambda: not runs(watchdog))


def test_the_next_owner_ends_what_a_lost_watchdog_has_left() -> None:
    owner, game, watchdog = start_owner()
    os.kill(watchdog, signal.SIGKILL)
    keeper = Keeper()
    try:
        assert keeper.start() == 0 and runs(game)  # its owner lives
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        time.sleep(0.1)
        assert runs(game)
        assert keeper.start() == 1
        assert eventually(lambda: not runs(game))
    finally:
        keeper.close()


def test_marks_tell_games_apart_and_are_gone_afterwards() -> None:
    keeper, other = Keeper(), Keeper()
    marks = [keeper.new_mark(), keeper.new_mark(), other.new_mark()]
    games = []
    for mark in marks:
        with keeper.marking(mark):
            games.append(subprocess.Popen(["sleep", "300"]))
    plain = subprocess.Popen(["sleep", "300"])
    try:
        assert MARK not in os.environ
        assert [marked(mark.__eq__) for mark in marks] == [[game.pid] for game in games]
        assert not any(is_orphan(mark) for mark in marks)
        assert kill(marks[0].__eq__) == 1
        assert games[0].wait() == -signal.SIGKILL and runs(games[1].pid)
        keeper.close()  # ends its own, and nobody else's
        assert games[1].wait() == -signal.SIGKILL and runs(games[2].pid) and runs(plain.pid)
    finally:
        other.close()
        plain.kill()
        plain.wait()
    assert games[2].wait() == -signal.SIGKILL


def test_orphans_are_judged_within_one_container_only(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Keeper().new_mark()
    space, pid, began, rest = mark.split("-", 3)
    assert is_orphan(f"{space}-{pid}-{int(began) + 1}-{rest}")  # another process has its number now
    assert is_orphan(f"{space}-{2**22 + 1}-{began}-{rest}")
    monkeypatch.setattr(smac_processes, "_space", lambda: "other")
    assert not is_orphan(f"{space}-{2**22 + 1}-{began}-{rest}")


@pytest.mark.parametrize("value", [b"", b"foo", b"1-2-3-4", b"a-b-c-d.1", b"4026531836-x-1-ab.1", b"\xff-1-1-a.1"])
def test_a_variable_that_is_no_mark_of_ours_is_left_alone(value: bytes) -> None:
    """Any readable process may have it, and no start must fail for it."""
    stranger = subprocess.Popen(["sleep", "300"], env={**os.environb, MARK.encode(): value})
    keeper = Keeper()
    try:
        keeper.start()
        assert stranger.poll() is None and not is_orphan(value.decode(errors="replace"))
    finally:
        stranger.kill()
        stranger.wait()
        keeper.close()


def test_the_watchdog_needs_the_standard_library_only() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(Path(smac_processes.__file__)), "nobody"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
