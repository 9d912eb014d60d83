"""The adapter of SMAC against the stand-in `stub_smac`: never against the game."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from phalanx.envs.check import check_env
from phalanx.envs.registry import make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.smac import SmacSettings
from phalanx.envs.smac_maps import MAPS
from phalanx.envs.smac_units import NAMES, units_of
from tests.envs import stub_smac
from tests.envs.stub_smac import MEDIVAC, Script, StarCraft2Env, at_random, eventually, start, stop, team


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    return stub_smac.installed(monkeypatch, tmp_path / "StarCraftII")


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
    assert env.spec.versions["StarCraft II"] == "4.6.2 (build 69232)"
    assert script.made == []  # nothing is built for the spec alone
    start(env)
    (game,) = script.made
    given = game.arguments
    assert (given["map_name"], given["difficulty"], given["game_version"]) == ("3m", "A", "4.6.2")
    assert given["reward_sparse"] and not given["reward_scale"] and given["continuing_episode"]
    assert given["seed"] == next(EpisodeSeeds(0, Purpose.EPISODE, 0))
    assert game.episode_limit == 7
    env.close()
    assert team(1).spec.versions["StarCraft II"] == "4.10.0 (build 75689)"


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
    assert eventually(lambda: script.made[0].closed)
    for _ in range(5):
        obs = env.step(stop(obs)).next
    start(env)
    assert [game.launches for game in script.made] == [1, 1]
    env.close()


# ---- pictures and replays


def test_units_are_drawn_as_they_are() -> None:
    game = StarCraft2Env("MMM", seed=2)
    game.reset()
    game.agents[3].health = 0.0
    game.enemies[0].unit_type, game.enemies[1].unit_type = 54, 51
    healer = next(i for i, unit in game.agents.items() if unit.unit_type == MEDIVAC)
    game.last_action[healer, 6 + 1] = game.last_action[0, 6 + 4] = game.last_action[2, 3] = 1
    units = units_of(game, MAPS["MMM"])
    assert [NAMES[kind] for kind in units.kinds[:10]] == list(MAPS["MMM"].ally_types)
    assert [NAMES[kind] for kind in units.kinds[10:13]] == ["medivac", "marauder", "marine"]
    assert units.alive.tolist() == [i != 3 for i in range(20)]
    assert units.enemy.tolist() == [False] * 10 + [True] * 10
    assert units.target is not None
    aims = {u: t for u, t in enumerate(units.target.tolist()) if t >= 0}
    assert aims == {healer: 1, 0: 10 + 4}  # heals an ally, attacks an enemy; a move is aimed at nobody
    np.testing.assert_array_equal(units.places[12], [game.enemies[2].pos.x, game.enemies[2].pos.y])


@pytest.mark.usefixtures("script")
def test_the_last_moment_of_a_battle_can_be_seen() -> None:
    env = team(2, max_steps=3)
    assert env.render(0) is None  # not started
    obs = start(env)
    env.film(1)
    rng = np.random.default_rng(0)
    for _ in range(3):
        obs = env.step(at_random(rng, obs)).next
    last, now = env.last_picture(), env.render(1)
    assert last is not None and now is not None
    assert last.shape == now.shape and last.dtype == np.uint8 and (last != now).any()
    env.close()


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
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        env.close()
    assert caplog.text == "" and script.made[0].closed
