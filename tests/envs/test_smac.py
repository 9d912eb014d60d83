"""The adapter of SMAC against the stand-in `stub_smac`: never against the game."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.cluster.recorder import Harvest, Recorder
from phalanx.configs.errors import RunFailed
from phalanx.envs import smac, smac_processes
from phalanx.envs.check import check_env
from phalanx.envs.registry import make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.smac import Smac, SmacSettings
from phalanx.envs.team import Obs, TeamEnv
from tests.envs import stub_smac
from tests.envs.stub_smac import Broken, Script, StarCraft2Env


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    return stub_smac.installed(monkeypatch, tmp_path / "StarCraftII")


def team(num_envs: int = 2, **settings: Any) -> Smac:
    return Smac(SmacSettings(**settings), num_envs)


def start(env: TeamEnv, seed: int = 0) -> Obs:
    return env.reset([EpisodeSeeds(seed, Purpose.EPISODE, e) for e in range(env.num_envs)])


def at_random(rng: np.random.Generator, obs: Obs) -> np.ndarray[Any, Any]:
    choice: np.ndarray[Any, Any] = np.where(obs.avail, rng.random(obs.avail.shape), -1).argmax(axis=2)
    return choice


def stop(obs: Obs) -> np.ndarray[Any, Any]:
    """Everybody stands still; the dead do nothing."""
    still: np.ndarray[Any, Any] = obs.avail[..., 1].astype(np.int64)
    return still


def threads_left() -> list[str]:
    """Threads of games that are still there, after a moment in which they may end."""
    deadline = time.monotonic() + 2
    while (names := [t.name for t in threading.enumerate() if t.name.startswith("smac-")]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.01)
    return names


# ---- what it promises


@pytest.mark.parametrize("scenario", sorted(stub_smac.PARAMETERS))
@pytest.mark.parametrize("terminal", [False, True])
def test_conforms(script: Script, scenario: str, terminal: bool) -> None:
    settings = SmacSettings(scenario=scenario, max_steps=20, timeout_is_terminal=terminal)
    assert check_env(lambda n: make_env(settings, n)) == []
    assert all(env.closed for env in script.made)


@pytest.mark.usefixtures("script")
def test_what_is_shown_is_what_smac_shows() -> None:
    env = team(2, scenario="2s3z")
    first = start(env)
    games = stub_smac.script.made
    rng = np.random.default_rng(0)
    for _ in range(3):
        for e, game in enumerate(games):
            np.testing.assert_array_equal(first.obs[e], game.get_obs())
            np.testing.assert_array_equal(first.state[e], game.get_state())
            np.testing.assert_array_equal(first.avail[e], game.get_avail_actions())
            assert first.alive[e].tolist() == [unit.health > 0 for unit in game.agents.values()]
        first = env.step(at_random(rng, first)).next
    env.close()


def test_the_game_is_asked_for_what_the_settings_say(script: Script) -> None:
    settings = {"scenario": "3m", "difficulty": 10, "reward": "sparse", "game_version": "4.6.2", "max_steps": 7}
    env = team(1, **settings)
    assert env.spec.versions["StarCraft II"] == "4.6.2"
    assert script.made == []  # nothing is built for the spec alone
    start(env)
    (game,) = script.made
    given = game.arguments
    assert (given["map_name"], given["difficulty"], given["game_version"]) == ("3m", "A", "4.6.2")
    assert given["reward_sparse"] and not given["reward_scale"] and given["continuing_episode"]
    assert given["seed"] == next(EpisodeSeeds(0, Purpose.EPISODE, 0))
    assert game.episode_limit == 7
    env.close()
    assert team(1).spec.versions["StarCraft II"] == "build 75689"


@pytest.mark.usefixtures("script")
def test_the_time_limit_is_no_end_unless_it_is_asked_to_be() -> None:
    for terminal in (False, True):
        env = make_env(SmacSettings(max_steps=3, timeout_is_terminal=terminal), 2)
        obs = start(env)
        for t in range(6):
            step = env.step(stop(obs))
            assert step.ended.all() == (t % 3 == 2)
            assert step.terminated.any() == (terminal and t % 3 == 2)
            assert not step.info["win"].any()
            obs = step.next
        env.close()


def test_victories_and_the_dead_are_counted_in_the_step_that_they_happen_in(script: Script) -> None:
    env = team(2)
    rng = np.random.default_rng(1)
    obs = start(env)
    dead, wins, episodes = np.zeros((2, 2), np.int64), 0, 0
    for _ in range(400):
        step = env.step(at_random(rng, obs))
        dead[:, 0] += step.info["dead_allies"]
        dead[:, 1] += step.info["dead_enemies"]
        for e in np.flatnonzero(step.ended):
            assert step.final is not None
            row = int(np.searchsorted(np.flatnonzero(step.ended), e))
            assert dead[e, 0] == (~step.final.alive[row]).sum()
            if step.terminated[e]:
                assert step.info["win"][e] == (dead[e, 1] == 3 and dead[e, 0] < 3)
            wins += int(step.info["win"][e])
            dead[e] = 0
        episodes += int(step.ended.sum())
        obs = step.next
    assert 0 < wins < episodes
    assert [game.launches for game in script.made] == [1, 1]
    env.close()


def test_an_illegal_action_is_the_callers_mistake_not_a_lost_game(script: Script) -> None:
    env = team(2)
    start(env)
    with pytest.raises(ValueError, match="agent 2 of environment 1 cannot take action 0 now"):
        env.step(np.array([[1, 1, 1], [1, 1, 0]]))
    assert len(script.made) == 2
    env.close()


# ---- SMAC's reset before the first episode's end would start a second game


def test_beginning_anew_costs_a_new_game_only_before_the_first_end(script: Script) -> None:
    env = team(1, max_steps=4)
    obs = start(env)
    start(env)
    assert len(script.made) == 1  # nobody has acted: it is a beginning still
    env.step(stop(obs))
    obs = start(env)
    assert [game.launches for game in script.made] == [1, 1]
    assert script.made[0].closed
    for _ in range(5):
        obs = env.step(stop(obs)).next
    start(env)
    assert [game.launches for game in script.made] == [1, 1]
    env.close()


# ---- broken games


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
    return harvest, ended


def test_a_broken_game_costs_its_episode_and_is_replaced(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    def crash(env: StarCraft2Env, what: str) -> None:
        if what == "step" and env.steps == 5 and len(script.made) == 2 and env is script.made[1]:
            raise Broken

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
    assert "lost the game of environment 1" in caplog.text
    first, broken, new = script.made
    assert (first.launches, broken.launches, new.launches) == (1, 1, 1)  # SMAC's own restart did not happen
    assert broken.closed and new.arguments["seed"] != broken.arguments["seed"]
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
    env = team(2, max_steps=30, step_limit_s=0.3)
    obs = start(env)
    for t in range(5):
        began = time.monotonic()
        step = env.step(stop(obs))
        assert step.info["crashed"].tolist() == [t == 3, False]
        assert time.monotonic() - began < 3
        obs = step.next
    env.close()
    assert all(game._process is not None and game._process.poll() is not None for game in script.made)
    assert threads_left() == []


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


# ---- many games at once


def test_games_start_one_after_the_other_and_get_ready_side_by_side(script: Script) -> None:
    launched: list[float] = []

    def slow(env: StarCraft2Env, what: str) -> None:
        if what == "launch":
            launched.append(time.monotonic())
        if what == "observe":
            time.sleep(0.4)

    script.before, script.processes = slow, True
    env = team(3, stagger_s=0.1)
    began = time.monotonic()
    start(env)
    assert time.monotonic() - began < 0.9  # 0.2 + 0.4, not 3 × 0.4
    assert (np.diff(launched) > 0.08).all()
    env.close()


def test_a_step_takes_as_long_as_one_game_not_as_all_of_them(script: Script) -> None:
    def work(env: StarCraft2Env, what: str) -> None:
        if what == "step":
            time.sleep(0.02)

    script.before = work
    env = team(4, max_steps=100)
    obs = start(env)
    times = []
    for _ in range(15):
        began = time.monotonic()
        obs = env.step(stop(obs)).next
        times.append(time.monotonic() - began)
    assert 0.02 <= np.median(times) < 2 * 0.02
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
    assert smac_processes.marked(lambda mark: True) == []


def test_replays_are_written_when_the_games_are_closed(script: Script, tmp_path: Path) -> None:
    env = team(2, max_steps=3, replays=str(tmp_path / "replays"))
    obs = start(env)
    for _ in range(4):
        obs = env.step(stop(obs)).next
    assert not (tmp_path / "replays").exists()
    env.close()
    files = sorted((tmp_path / "replays").glob("3m_*.SC2Replay"))
    assert [file.read_text() for file in files] == ["1 battles"] * 2
    assert all(game.closed for game in script.made)


def test_without_replays_none_are_written(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    env = team(1)
    start(env)
    with caplog.at_level(logging.WARNING):
        env.close()
    assert caplog.text == "" and script.made[0].closed
