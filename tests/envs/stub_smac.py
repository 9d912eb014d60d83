"""A stand-in for github.com/oxwhirl/smac: StarCraft2Env's methods and its quirks, over a toy battle of this project.

`installed` puts it in the place of the package. A test changes what happens through `Script`: `before(env, what)` is
called when a game is launched, observed after a reset, and stepped; it may wait, or raise `Broken` (connection lost).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from phalanx.envs import smac_turns
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.smac import Smac, SmacSettings
from phalanx.envs.team import Obs, TeamEnv

# agents, enemies, limit, races, type bits, the game's numbers of the allies' types
PARAMETERS: dict[str, tuple[int, int, int, str, int, tuple[int, ...]]] = {
    "3m": (3, 3, 60, "TT", 0, (2001,) * 3),
    "2s3z": (5, 5, 120, "PP", 2, (1994,) * 2 + (1995,) * 3),
    "MMM": (10, 10, 150, "TT", 3, (2005,) * 2 + (2006,) * 7 + (2007,)),
    "2m_vs_1z": (2, 1, 150, "TP", 0, (2001,) * 2),
}
VERSIONS = {"4.6.2": 69232, "4.8.2": 71663, "4.10.0": 75689, "4.11.0": 77379, "4.11.1": 77379}  # and builds: pysc2's
INSTALLED = ("4.6.2", "4.10.0")
HEALTH, DAMAGE, BITE, RANGE, SIGHT = 45.0, 15.0, 5.0, 6.0, 9.0
MEDIVAC = 2007


class Broken(Exception):
    """What pysc2 raises when the connection to the game is lost."""


class Script:
    """What a test wants to happen, and what has happened."""

    def __init__(self) -> None:
        self.before: Callable[[StarCraft2Env, str], None] = lambda env, what: None
        self.slow_units = 0  # looks at the units before all have appeared
        self.processes = False  # every game is a process, as the real one
        self.unit_types: tuple[int, ...] | None = None
        self.version: str | None = None  # which the games say that they are; None: what was asked for
        self.made: list[StarCraft2Env] = []


script = Script()


class Unit:
    def __init__(self, kind: int, x: float, y: float) -> None:
        self.unit_type, self.pos = kind, SimpleNamespace(x=x, y=y)
        self.health = self.health_max = HEALTH
        self.shield = self.shield_max = 0.0
        self.radius = 0.375


class StarCraft2Env:
    """The methods that SMAC documents. Constructing it starts nothing."""

    def __init__(
        self,
        map_name: str = "8m",
        difficulty: str = "7",
        game_version: str | None = None,
        seed: int | None = None,
        continuing_episode: bool = False,
        reward_sparse: bool = False,
        reward_scale: bool = True,
        replay_dir: str = "",
        replay_prefix: str = "",
    ) -> None:
        self.arguments = dict(locals())
        self.n_agents, self.n_enemies, self.episode_limit, self.races, self.bits, self.types = PARAMETERS[map_name]
        self.map_name, self._seed, self.continuing_episode = map_name, seed, continuing_episode
        self.reward_sparse, self.reward_scale = reward_sparse, reward_scale
        self.replay_dir, self.replay_prefix = replay_dir, replay_prefix
        self.n_actions = 6 + self.n_enemies
        self.map_x = self.map_y = 32
        self.reward_death_value, self.reward_win = 10, 200
        self.max_reward: float = self.n_enemies * self.reward_death_value + self.reward_win
        self.agents: dict[int, Unit] = {}
        self.enemies: dict[int, Unit] = {}
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        self.launches = self.steps = self.force_restarts = 0
        self._episode_count = self._episode_steps = 0
        self._rng = np.random.default_rng(seed)
        self._process: subprocess.Popen[bytes] | None = None
        self._controller: Any = None  # pysc2's connection to the game
        self.closed = False
        script.made.append(self)

    # ---- the game's process

    def _launch(self) -> None:
        self.launches += 1
        script.before(self, "launch")
        if script.processes:
            self._process = subprocess.Popen(["sleep", "600"])
        name = script.version or self.arguments["game_version"] or INSTALLED[-1]
        answer = SimpleNamespace(game_version=f"{name}.{VERSIONS[name]}", base_build=VERSIONS[name])
        self._controller = SimpleNamespace(ping=lambda: answer)

    def _connected(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise Broken("connection already closed")

    def full_restart(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._launch()
        self.force_restarts += 1

    def close(self) -> None:
        self.closed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def save_replay(self) -> None:
        self._connected()
        Path(self.replay_dir).mkdir(parents=True, exist_ok=True)
        Path(self.replay_dir, f"{self.replay_prefix}_now.SC2Replay").write_text(f"{self._episode_count} battles")

    # ---- episodes

    def reset(self) -> tuple[list[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
        self._episode_steps = 0
        if self._episode_count == 0:
            self._launch()
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        try:
            self._connected()
            script.before(self, "observe")
            self.init_units()
        except Broken:
            self.full_restart()  # and nobody looks for units: what follows fails
            self.agents = {}
        return self.get_obs(), self.get_state()

    def init_units(self) -> None:
        for look in range(script.slow_units + 1):
            kinds = script.unit_types or self.types
            self.agents = {i: Unit(kind, *self._rng.uniform(0, 4, 2)) for i, kind in enumerate(kinds)}
            count = self.n_enemies if look == script.slow_units else self.n_enemies - 1
            self.enemies = {j: Unit(48, *self._rng.uniform(4, 8, 2)) for j in range(count)}
            if self._episode_count == 0:
                self.max_reward += sum(unit.health_max + unit.shield_max for unit in self.enemies.values())

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        assert all(type(action) is int for action in actions)
        for i, action in enumerate(actions):
            assert self.get_avail_agent_actions(i)[action] == 1, f"Agent {i} cannot perform action {action}"
        self.last_action = np.eye(self.n_actions)[np.array(actions)]
        try:
            self._connected()
            script.before(self, "step")
        except Broken:
            self.full_restart()
            return 0, True, {}
        self.steps += 1
        self._episode_steps += 1
        reward: float = self._fight(actions)
        living = [sum(unit.health > 0 for unit in side.values()) for side in (self.agents, self.enemies)]
        dead = {"dead_allies": self.n_agents - living[0], "dead_enemies": self.n_enemies - living[1]}
        info: dict[str, Any] = {"battle_won": False, **dead}
        over = not all(living)
        if over:
            won, lost = bool(living[0]), bool(living[1])
            info["battle_won"] = won
            reward = (1 if won else -1 if lost else 0) if self.reward_sparse else reward + self.reward_win * won
        elif self._episode_steps >= self.episode_limit:
            over, info = True, {"episode_limit": True} if self.continuing_episode else {"battle_won": False}
        self._episode_count += over
        if self.reward_scale:
            reward /= self.max_reward / 20
        return reward, over, info

    def _fight(self, actions: Sequence[int]) -> int:
        """Everybody moves or shoots; then the enemies shoot, unless they are far. What the damage and kills pay."""
        pay = 0.0
        for i, action in enumerate(actions):
            unit = self.agents[i]
            if action in (2, 3, 4, 5):
                unit.pos.x += (0, 0, 1, -1)[action - 2]
                unit.pos.y += (1, -1, 0, 0)[action - 2]
            elif action >= 6 and unit.unit_type != MEDIVAC:
                target = self.enemies[action - 6]
                damage = min(DAMAGE, target.health)
                target.health -= damage
                pay += damage + self.reward_death_value * (damage > 0 and target.health == 0)
            elif action >= 6:
                self.agents[action - 6].health = min(HEALTH, self.agents[action - 6].health + 5)
        for enemy in self.enemies.values():
            near = [unit for unit in self.agents.values() if unit.health > 0 and _distance(enemy, unit) <= RANGE]
            if enemy.health > 0 and near:
                victim = near[int(self._rng.integers(len(near)))]
                victim.health = max(0.0, victim.health - BITE)
        return 0 if self.reward_sparse else int(pay)

    # ---- what is seen

    def get_obs(self) -> list[npt.NDArray[np.float32]]:
        return [self.get_obs_agent(i) for i in range(self.n_agents)]

    def get_obs_agent(self, agent_id: int) -> npt.NDArray[np.float32]:
        me = self.agents[agent_id]
        if me.health <= 0:
            return np.zeros(self.get_obs_size(), np.float32)
        avail = self.get_avail_agent_actions(agent_id)
        parts: list[Any] = [avail[2:6]]
        for j, enemy in self.enemies.items():
            parts.append(self._seen(me, enemy, avail[6 + j], self.races[1]))
        parts += [self._seen(me, unit, 1, self.races[0]) for i, unit in self.agents.items() if i != agent_id]
        parts.append([me.health / HEALTH, *self._shield(self.races[0]), *self._type(me)])
        return np.concatenate(parts).astype(np.float32)

    def _seen(self, me: Unit, other: Unit, flag: int, race: str) -> list[float]:
        distance = _distance(me, other)
        width = 5 + len(self._shield(race)) + self.bits
        if other.health <= 0 or distance >= SIGHT:
            return [0.0] * width
        dx, dy = other.pos.x - me.pos.x, other.pos.y - me.pos.y
        place = [flag, distance / SIGHT, dx / SIGHT, dy / SIGHT]
        return [*place, other.health / HEALTH, *self._shield(race), *self._type(other)]

    def _shield(self, race: str) -> list[float]:
        return [0.0] if race == "P" else []

    def _type(self, unit: Unit) -> list[float]:
        return [float(unit.unit_type % max(self.bits, 1) == b) for b in range(self.bits)]

    def get_state(self) -> npt.NDArray[np.float32]:
        parts: list[Any] = []
        for side, race, cooldown in ((self.agents, self.races[0], [0.0]), (self.enemies, self.races[1], [])):
            for unit in side.values():
                row = [unit.health / HEALTH, *cooldown, unit.pos.x / 32, unit.pos.y / 32, *self._shield(race)]
                parts.append(np.array([*row, *self._type(unit)]) * (unit.health > 0))
        return np.concatenate([*parts, self.last_action.flatten()]).astype(np.float32)

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        me = self.agents[agent_id]
        if me.health <= 0:
            return [1] + [0] * (self.n_actions - 1)
        moves = [int(abs(me.pos.y + d) < 16) for d in (1, -1)] + [int(abs(me.pos.x + d) < 16) for d in (1, -1)]
        heals = me.unit_type == MEDIVAC
        targets = [u for u in self.agents.values() if u.unit_type != MEDIVAC] if heals else list(self.enemies.values())
        shots = [int(unit.health > 0 and _distance(me, unit) <= RANGE) for unit in targets]
        return [0, 1, *moves, *shots, *[0] * (self.n_enemies - len(shots))]

    def get_avail_actions(self) -> list[list[int]]:
        return [self.get_avail_agent_actions(i) for i in range(self.n_agents)]

    def get_unit_types(self) -> list[int]:
        return [unit.unit_type for unit in (*self.agents.values(), *self.enemies.values())]

    def get_obs_size(self) -> int:
        enemy, ally = (5 + (race == "P") + self.bits for race in (self.races[1], self.races[0]))
        return 4 + self.n_enemies * enemy + (self.n_agents - 1) * ally + ally - 4

    def get_state_size(self) -> int:
        ally, enemy = 4 + (self.races[0] == "P") + self.bits, 3 + (self.races[1] == "P") + self.bits
        return self.n_agents * (ally + self.n_actions) + self.n_enemies * enemy

    def get_env_info(self) -> dict[str, int]:
        return {
            "state_shape": self.get_state_size(),
            "obs_shape": self.get_obs_size(),
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def seed(self) -> int | None:
        return self._seed


def _distance(a: Unit, b: Unit) -> float:
    return float(np.hypot(a.pos.x - b.pos.x, a.pos.y - b.pos.y))


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Script:
    """Puts the stand-in in the place of smac and of pysc2's versions, and an empty game with its maps into `folder`."""
    package, module = ModuleType("smac"), ModuleType("smac.env")
    module.StarCraft2Env = StarCraft2Env  # type: ignore[attr-defined]
    package.env = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "smac", package)
    monkeypatch.setitem(sys.modules, "smac.env", module)
    known = {name: SimpleNamespace(game_version=name, build_version=build) for name, build in VERSIONS.items()}
    monkeypatch.setitem(sys.modules, "pysc2.run_configs.lib", SimpleNamespace(VERSIONS=known))
    for name in INSTALLED:
        (folder / "Versions" / f"Base{VERSIONS[name]}").mkdir(parents=True)
    (folder / "Maps" / "SMAC_Maps").mkdir(parents=True)
    for name in PARAMETERS:
        (folder / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").touch()
    monkeypatch.setenv("SC2PATH", os.fspath(folder))
    # Nobody else's games are to be waited for.
    monkeypatch.setattr(smac_turns, "lock_file", lambda: folder.parent / "start.lock")
    monkeypatch.setattr(sys.modules[__name__], "script", Script())
    return script


# ---- what the tests do with it


def team(num_envs: int = 2, **settings: Any) -> Smac:
    return Smac(SmacSettings(**settings), num_envs)


def start(env: TeamEnv, seed: int = 0) -> Obs:
    return env.reset([EpisodeSeeds(seed, Purpose.EPISODE, e) for e in range(env.num_envs)])


def at_random(rng: np.random.Generator, obs: Obs) -> npt.NDArray[np.int64]:
    choice: npt.NDArray[np.int64] = np.where(obs.avail, rng.random(obs.avail.shape), -1).argmax(axis=2)
    return choice


def stop(obs: Obs) -> npt.NDArray[np.int64]:
    """Everybody stands still; the dead do nothing."""
    still: npt.NDArray[np.int64] = obs.avail[..., 1].astype(np.int64)
    return still


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it holds within the time: some things are done by threads, or by the system, a moment later."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()
