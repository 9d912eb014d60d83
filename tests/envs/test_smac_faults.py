"""SMAC's games that break, hang or do not start, and many games at once; against the stand-in `stub_smac`."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.cluster.recorder import Harvest, Recorder
from phalanx.cluster.render import play_frames
from phalanx.configs.errors import RunFailed
from phalanx.envs import smac, smac_processes
from phalanx.envs.smac import Smac
from phalanx.envs.smac_turns import my_turn
from tests.envs import stub_smac
from tests.envs.stub_smac import Broken, Script, StarCraft2Env, at_random, eventually, start, stop, team


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    return stub_smac.installed(monkeypatch, tmp_path / "StarCraftII")


def record(env: Smac, steps: int, seed: int = 0) -> tuple[Harvest, int]:
    """Episodes as a rollout collects them, and how many ended."""
    harvest, recorder = Harvest(env.spec, steps), Recorder(env.spec, env.num_envs, 0)
    rng = np.random.default_rng(seed)
    obs, ended = start(env, seed), 0
    for _ in range(steps):
        actions = at_random(rng, obs)
        step = env.step(actions)
        recorder.record(obs, actions, step)
        rows = np.flatnonzero(step.ended)
        if len(rows):
            recorder.collect(rows, rows, step, harvest)
            ended += len(rows)
        obs = step.next
    recorder.settle()
    return harvest, ended


def test_a_broken_game_costs_its_episode_and_is_replaced(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    def crash(env: StarCraft2Env, what: str) -> None:
        if what == "step" and env.steps == 5 and len(script.made) == 2 and env is script.made[1]:
            raise Broken("connection already closed")

    script.before = crash
    env = team(2, max_steps=30)
    obs = start(env)
    for t in range(6):
        before, step = obs, env.step(stop(obs))
        assert step.info["crashed"].tolist() == [False, t == 5]
        obs = step.next
    assert step.truncated[1] and not step.terminated.any() and step.reward[1] == 0
    assert step.final is not None
    np.testing.assert_array_equal(step.final.obs[-1], before.obs[1])  # what was seen last
    assert obs.alive[1].all()  # another battle
    assert "lost the game of environment 1" in caplog.text and "connection already closed" in caplog.text
    first, broken, new = script.made
    assert (first.launches, broken.launches, new.launches) == (1, 1, 1)  # SMAC's own restart did not happen
    assert eventually(lambda: broken.closed) and new.arguments["seed"] != broken.arguments["seed"]
    env.close()


def test_rewards_keep_their_scale(script: Script) -> None:
    perfect = 3 * 10 + 200 + 3 * stub_smac.HEALTH

    def crash(env: StarCraft2Env, what: str) -> None:
        if what == "step" and env.steps == 2 and len(script.made) == 1:
            raise Broken

    script.before, script.slow_units = crash, 4
    env = team(1)
    obs = start(env)
    assert script.made[0].max_reward == perfect  # the library by itself has counted the enemies five times
    for _ in range(3):
        obs = env.step(stop(obs)).next
    assert script.made[1].max_reward == perfect
    env.close()


def test_smacs_own_restart_would_double_what_rewards_are_divided_by(script: Script) -> None:
    """Why broken games are not used any further."""
    game = StarCraft2Env("3m")
    game.reset()
    before = game.max_reward

    def crash(env: StarCraft2Env, what: str) -> None:
        if what == "step":
            raise Broken

    script.before = crash
    assert game.step([1, 1, 1]) == (0, True, {})
    script.before = lambda env, what: None
    game.reset()
    assert game.max_reward == before + 3 * stub_smac.HEALTH


def test_a_game_that_breaks_between_two_episodes_costs_none(script: Script) -> None:
    def crash(env: StarCraft2Env, what: str) -> None:
        if what == "observe" and env.steps == 4:
            raise Broken

    script.before = crash
    env = team(1, max_steps=4)
    harvest, ended = record(env, 12)
    assert (harvest.count, harvest.crashed, ended) == (3, 0, 3)
    assert len(script.made) == 4
    env.close()


def test_a_game_that_hangs_is_killed_and_replaced(script: Script) -> None:
    def hang(env: StarCraft2Env, what: str) -> None:
        if what == "step" and env is script.made[0] and env.steps == 3:
            assert env._process is not None
            env._process.wait()  # until somebody kills it
            raise Broken

    script.before, script.processes = hang, True
    env = team(2, max_steps=30, step_limit_s=1.5)
    obs = start(env)
    for t in range(5):
        began = time.monotonic()
        step = env.step(stop(obs))
        assert step.info["crashed"].tolist() == [t == 3, False]
        assert time.monotonic() - began < 20
        obs = step.next
    env.close()
    assert eventually(lambda: all(game._process and game._process.poll() is not None for game in script.made))
    assert eventually(lambda: not any(thread.name.startswith("smac-") for thread in threading.enumerate()))


def test_a_game_that_does_not_start_is_tried_again(script: Script) -> None:
    def fail(env: StarCraft2Env, what: str) -> None:
        if what == "launch" and len(script.made) < 4:
            raise RuntimeError("no free port")

    script.before = fail
    env = team(2)
    start(env)
    assert len(script.made) >= 4
    env.close()


def test_a_game_that_never_starts_ends_the_run_with_the_reason(script: Script) -> None:
    def fail(env: StarCraft2Env, what: str) -> None:
        if what == "launch":
            raise RuntimeError("no free port")

    script.before = fail
    env = team(1)
    with pytest.raises(RunFailed, match=r"did not start in 3 attempts for .*=3m .* RuntimeError: no free port"):
        start(env)
    assert len(script.made) == smac.START_ATTEMPTS
    env.close()


# ---- films


class Standing:
    """A policy."""

    def reset(self, num_envs: int) -> None: ...

    def reset_rows(self, rows: Any) -> None: ...

    def act(self, obs: Any, avail: Any) -> Any:
        return avail[..., 1].astype(np.int64)


def crash_after(script: Script, steps: int) -> None:
    """Every game breaks in the step that follows so many."""

    def crash(env: StarCraft2Env, what: str) -> None:
        if what == "step" and env.steps >= steps:
            raise Broken

    script.before = crash


def test_the_end_of_a_lost_battle_is_not_that_of_the_one_before(script: Script) -> None:
    crash_after(script, 4)
    env = team(2, max_steps=3)
    obs = start(env)
    env.film(1)
    ends = []
    for _ in range(5):
        step = env.step(stop(obs))
        obs = step.next
        ends.append((bool(step.ended[1]), env.last_picture() is not None))
    assert ends == [(False, False), (False, False), (True, True), (False, True), (True, False)]
    for _ in range(3):
        obs = env.step(stop(obs)).next
    assert env.last_picture() is not None
    env.film(0)
    assert env.last_picture() is None
    env.close()


def test_lost_battles_are_not_on_film(script: Script) -> None:
    crash_after(script, 4)
    env = team(1, max_steps=3)
    frames = play_frames(env, Standing(), 2, run_seed=0)
    assert len(script.made) == 2 and len(frames) == 2 * (1 + 3 + 9)  # whole battles, each with a pause
    crash_after(script, 1)
    with pytest.raises(RunFailed, match=r"environment smac crashed 25 times while it was filmed"):
        play_frames(env, Standing(), 1, run_seed=0)
    env.close()


# ---- many games at once


def test_games_start_one_after_the_other_and_get_ready_side_by_side(script: Script) -> None:
    launched: list[float] = []
    all_loading = threading.Barrier(3, timeout=30)

    def slow(env: StarCraft2Env, what: str) -> None:
        if what == "launch":
            launched.append(time.monotonic())
        if what == "observe" and env.steps == 0:
            all_loading.wait()  # breaks where one waits for another to be ready

    script.before, script.processes = slow, True
    env = team(3, stagger_s=0.1)
    start(env)
    assert (np.diff(launched) > 0.08).all()
    env.close()


def test_games_start_one_after_the_other_on_the_whole_machine(script: Script) -> None:
    """Two vectors, as of two workers; a game gets ready for a while after its process is there."""
    launched: list[float] = []
    script.before = lambda env, what: launched.append(time.monotonic()) if what == "launch" else time.sleep(0.8)
    script.processes = True
    teams = [team(2, stagger_s=0.5) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(start, teams))
    assert len(launched) == 4 and (np.diff(sorted(launched)) > 0.1).all()
    for env in teams:
        env.close()
    assert all(game._process and game._process.poll() is not None for game in script.made)


def test_a_turn_that_does_not_come_is_not_waited_for_forever(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    env = team(1, start_limit_s=0.3)
    with my_turn(1.0) as why_not:
        assert why_not == ""
        start(env)
    assert "of environment 0 starts out of turn: another process has held " in caplog.text
    assert "start.lock for 0.3 s" in caplog.text and len(script.made) == 1
    env.close()


# ---- processes that are late


def test_a_process_that_comes_late_bears_its_mark(script: Script) -> None:
    script.before = lambda env, what: time.sleep(5.5) if what == "launch" else None
    script.processes = True
    env = team(1, stagger_s=0)
    start(env)
    (late,), (game,) = script.made, env._games
    assert late._process is not None and game is not None
    assert smac_processes.marked(game.mark.__eq__) == [late._process.pid]
    env.close()


def test_a_process_that_is_not_there_in_time_is_told_of(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    def slow(env: StarCraft2Env, what: str) -> None:
        if what == "launch" and env is script.made[0]:
            time.sleep(1.5)

    script.before, script.processes = slow, True
    env = team(1, stagger_s=0, start_limit_s=0.5)
    start(env)
    assert "environment 0 has no process after env.start_limit_s=0.5 s" in caplog.text
    first, second = script.made
    assert eventually(lambda: bool(first._process) and first.closed) and not second.closed
    env.close()


def test_the_games_step_at_the_same_time(script: Script) -> None:
    all_stepping = threading.Barrier(4, timeout=30)

    def work(env: StarCraft2Env, what: str) -> None:
        if what == "step":
            all_stepping.wait()  # breaks where one game waits for another's step

    script.before = work
    env = team(4, max_steps=100)
    obs = start(env)
    for _ in range(15):
        obs = env.step(stop(obs)).next
    assert not all_stepping.broken
    env.close()


# ---- fuzz


@pytest.mark.parametrize("scenario", ["3m", "MMM"])
def test_random_walk_with_games_that_are_killed(script: Script, scenario: str) -> None:
    """Killed games are counted and replaced; what is collected are whole episodes only."""
    rng = np.random.default_rng(3)

    def murder(env: StarCraft2Env, what: str) -> None:
        if what in ("step", "observe") and rng.random() < 0.02:
            assert env._process is not None
            env._process.kill()
            env._process.wait()
            env._connected()

    script.before, script.processes = murder, True
    env = team(4, scenario=scenario, max_steps=25)
    harvest, ended = record(env, 150, seed=5)
    env.close()
    assert harvest.crashed > 3
    assert harvest.count + harvest.crashed == ended
    lost = [game for game in script.made if game.launches != 1]
    assert lost == []
    batch = harvest.result()
    for k in range(harvest.count):
        length = int(harvest.lengths[k])
        over = batch.terminated[k, length - 1] or length == 25
        assert over, "an episode ends where the battle does, or at the limit"
        assert not batch.terminated[k, : length - 1].any()
    assert eventually(lambda: not smac_processes.marked(lambda mark: mark.startswith(env._keeper._owner)))
