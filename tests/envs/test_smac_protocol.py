"""The adapter through the real packages smac and pysc2 to `stand_in_sc2`, which is no game. Proves plumbing alone."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.configs.errors import UserError
from phalanx.envs.check import check_env
from phalanx.envs.smac import Smac, SmacSettings
from phalanx.envs.smac_install import load_smac
from phalanx.envs.smac_processes import marked
from tests.envs import stand_in_sc2
from tests.envs.stub_smac import at_random, eventually, start, stop, team

MARINE, ENEMY_MARINE = 2005, 48
MMM = [(2005, 2), (2006, 7), (2007, 1)], [(54, 1), (51, 2), (48, 7)]


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A StarCraft II whose executable is the stand-in; the folder for a fault's token."""
    try:
        load_smac()
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path / "StarCraftII"
    executable = folder / "Versions" / "Base75689" / "SC2_x64"
    executable.parent.mkdir(parents=True)
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in_sc2.__file__}" "$@"\n')
    executable.chmod(0o755)
    maps = folder / "Maps" / "SMAC_Maps"
    stand_in_sc2.map_file(maps / "3m.SC2Map", [(MARINE, 3)], [(ENEMY_MARINE, 3)])
    stand_in_sc2.map_file(maps / "MMM.SC2Map", *MMM)
    monkeypatch.setenv("SC2PATH", os.fspath(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return tmp_path


def fault(monkeypatch: pytest.MonkeyPatch, folder: Path, what: str, after: int) -> None:
    monkeypatch.setenv(
        "STAND_IN_FAULT", json.dumps({"what": what, "after": after, "token": os.fspath(folder / "token")})
    )


def games_of(env: Smac) -> list[int]:
    """Numbers of the processes."""
    return marked(lambda mark: mark.startswith(f"{env._keeper._owner}."))


@pytest.mark.usefixtures("game")
@pytest.mark.parametrize("scenario", ["3m", "MMM"])
def test_conforms(scenario: str) -> None:
    settings = SmacSettings(scenario=scenario, max_steps=25, stagger_s=0)
    assert check_env(lambda n: Smac(settings, n), steps=60) == []


@pytest.mark.usefixtures("game")
def test_battles_are_won_and_lost_and_paid_as_smac_says() -> None:
    env = team(2, stagger_s=0)
    obs, rng = start(env), np.random.default_rng(0)
    assert len(games_of(env)) == 2 and env._version == (stand_in_sc2.VERSION, 75689)
    paid, wins, episodes = np.zeros(2), 0, 0
    for _ in range(150):
        step = env.step(at_random(rng, obs))
        paid += step.reward
        for e in np.flatnonzero(step.ended):
            won = bool(step.info["win"][e])
            # Everything of the enemy's, and the victory; less without.
            assert paid[e] == pytest.approx(20, rel=1e-5) if won else paid[e] < 20
            paid[e], wins, episodes = 0, wins + won, episodes + 1
        obs = step.next
    assert 0 < wins < episodes
    env.close()
    assert eventually(lambda: games_of(env) == [])


@pytest.mark.parametrize("what", ["crash", "hang"])
def test_a_game_that_fails_is_replaced(game: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    fault(monkeypatch, game, what, after=4)
    env = team(1, stagger_s=0, step_limit_s=2.0)
    obs = start(env)
    first = games_of(env)
    crashed: list[bool] = []
    for _ in range(6):
        step = env.step(stop(obs))
        crashed.append(bool(step.info["crashed"][0]))
        obs = step.next
    assert crashed == [False, False, False, True, False, False]
    assert len(games_of(env)) == 1 and games_of(env) != first
    scale: Any = env._games[0]._env.max_reward  # type: ignore[union-attr]
    assert scale == 3 * 10 + 200 + 3 * stand_in_sc2.HEALTH
    env.close()


@pytest.mark.usefixtures("game")
def test_a_killed_game_costs_its_episode() -> None:
    env = team(2, stagger_s=0)
    obs = start(env)
    obs = env.step(stop(obs)).next
    os.kill(games_of(env)[0], signal.SIGKILL)
    step = env.step(stop(obs))
    assert step.info["crashed"].sum() == 1
    assert not env.step(stop(step.next)).info["crashed"].any()
    assert eventually(lambda: len(games_of(env)) == 2)
    env.close()


def test_replays_and_pictures(game: Path) -> None:
    env = team(2, max_steps=3, stagger_s=0, replays=str(game / "replays"))
    obs = start(env)
    for _ in range(4):
        obs = env.step(stop(obs)).next
    picture = env.render(0)
    assert picture is not None and picture.ndim == 3
    env.close()
    assert len(list((game / "replays").glob("3m_*.SC2Replay"))) == 2
