"""One game of StarCraft II behind SMAC's StarCraft2Env, and the thread that talks to it."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.envs.drawing_battle import Units
from phalanx.envs.smac_maps import SmacMap
from phalanx.envs.smac_units import units_of
from phalanx.envs.team import Bools, Floats

LOG = logging.getLogger(__name__)


class GameLost(Exception):
    """The game broke, or did not answer in time."""


class View(NamedTuple):
    """What the team sees of one game."""

    obs: Floats  # [N, O]
    state: Floats  # [S]
    avail: Bools  # [N, A]


class Played(NamedTuple):
    """What one step came to."""

    view: View
    reward: float
    terminated: bool
    truncated: bool
    won: bool
    dead: tuple[int, int]  # allies and enemies that are dead by now


class Game:
    """A StarCraft2Env that is used once: whoever loses it builds another.

    SMAC itself would restart a broken game in the middle of `step` or `reset` and go on, with rewards that are from
    then on too small (it counts the enemies' health once more into what rewards are divided by) and, in `reset`, with
    no units. Here the broken game raises GameLost instead, and its object is thrown away.

    Calls wait for a socket outside of the interpreter's lock, so that many games step at once. All of them are made by
    this game's own thread, which is a daemon: one that hangs holds up nobody.
    """

    def __init__(self, env: Any, where: SmacMap, mark: str) -> None:
        self.mark = mark  # of its process, see `smac_processes`
        self.episodes = 0  # that have ended
        self.fresh: View | None = None  # the beginning of an episode in which nobody has acted yet
        self.version: tuple[str, int] | None = None  # and build, as the game says itself once it runs
        self._env = env
        self._where = where
        self._dead_enemies = 0  # in this episode
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        env.full_restart = _refuse_to_restart
        threading.Thread(target=self._work, name=f"smac-{mark}", daemon=True).start()

    def begin(self) -> Future[View]:
        """Starts an episode; the first time the game as well."""
        return self._submit(self._begin)

    def play(self, actions: Sequence[int]) -> Future[Played]:
        """One step. The actions must be available: SMAC asserts it."""
        return self._submit(lambda: self._play(actions))

    def close(self, save_replay: bool) -> Future[None]:
        """Ends the game, after it has written its replay. The thread ends as well."""
        future = self._submit(lambda: self._close(save_replay))
        self._calls.put(None)
        return future

    def units(self) -> Units:
        """Where everybody is now, for a picture; while no call is under way."""
        return units_of(self._env, self._where)

    @property
    def can_begin_again(self) -> bool:
        """SMAC starts a second game, beside the first one, in a `reset` before the first episode's end."""
        return self.episodes > 0

    def _submit(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((call, future))
        return future

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    # ---- in the thread

    def _begin(self) -> View:
        first = self.fresh is None and not self.episodes
        obs, state = self._env.reset()
        self._dead_enemies = 0
        if first:
            self._ask_version()
            self._settle_reward_scale()
            self._check_units()
        self.fresh = self._view(obs, state)
        return self.fresh

    def _play(self, actions: Sequence[int]) -> Played:
        self.fresh = None
        reward, over, info = self._env.step(list(actions))
        if over and not info:  # how SMAC reports that it has restarted the game
            raise GameLost("SMAC restarted it in the middle of a battle")
        self.episodes += bool(over)
        truncated = bool(over and info.get("episode_limit", False))
        view = self._view(self._env.get_obs(), self._env.get_state())
        self._dead_enemies = int(info.get("dead_enemies", self._dead_enemies))
        return Played(
            view=view,
            reward=float(reward),
            terminated=bool(over) and not truncated,
            truncated=truncated,
            won=bool(info.get("battle_won", False)),
            dead=(int((~alive(view.avail)).sum()), self._dead_enemies),
        )

    def _view(self, obs: Sequence[Any], state: Any) -> View:
        return View(
            np.stack([np.asarray(row, np.float32) for row in obs]),
            np.array(state, np.float32),
            np.array(self._env.get_avail_actions(), np.bool_),
        )

    def _close(self, save_replay: bool) -> None:
        try:
            if save_replay and (self.fresh is not None or self.episodes):
                self._env.save_replay()
        finally:
            self._env.close()

    def _ask_version(self) -> None:
        # SMAC has no method for it, so its connection is asked, where it has one of this name.
        if (controller := getattr(self._env, "_controller", None)) is not None:
            answer = controller.ping()
            self.version = (str(answer.game_version), int(answer.base_build))

    def _settle_reward_scale(self) -> None:
        """SMAC divides rewards by what a perfect battle pays, and adds the enemies' health to that at every look at the
        units until all have appeared: where they took more than one look, it is too large."""
        env = self._env
        health = sum(unit.health_max + unit.shield_max for unit in env.enemies.values())
        perfect = env.n_enemies * env.reward_death_value + env.reward_win + health
        if not math.isclose(env.max_reward, perfect):
            LOG.info("SMAC counted the enemies more than once: max_reward is %g, not %g", perfect, env.max_reward)
            env.max_reward = perfect

    def _check_units(self) -> None:
        """The game's units must be those of the table, in its order."""
        n = self._where.n_allies
        types = [int(kind) for kind in self._env.get_unit_types()[:n]]
        ranks = tuple(sorted(set(types)).index(kind) for kind in types)
        if ranks != self._where.group_ids:
            raise UserError(
                f"env.scenario: the map's own units are of the types {types}, but SMAC's map of that name has"
                f" {', '.join(self._where.ally_types)}: the file Maps/SMAC_Maps/….SC2Map is another map"
            )


def make_game(build: Callable[..., Any], where: SmacMap, limit: int, mark: str, arguments: dict[str, Any]) -> Game:
    """A game that is not started yet (its first episode does that); `build` is SMAC's StarCraft2Env. A UserError where
    it knows the map by other sizes."""
    # `continuing_episode` only makes it say that an episode was cut off.
    env = build(**arguments, continuing_episode=True)
    info = env.get_env_info()
    theirs = {key: int(info[key]) for key in ("n_agents", "n_actions", "obs_shape", "state_shape")}
    ours = {
        "n_agents": where.n_allies,
        "n_actions": where.n_actions,
        "obs_shape": where.obs_size,
        "state_shape": where.state_size,
    }
    if theirs != ours:
        shown = ", ".join(f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if ours[key] != theirs[key])
        raise UserError(
            f"env.scenario={arguments['map_name']}: the installed smac has {shown}; install the version that"
            " docs/smac.md of phalanx names"
        )
    # What the steps are compared with: an episode must end in the game's own books, too, before it can be reset.
    env.episode_limit = limit
    return Game(env, where, mark)


def alive(avail: Bools) -> Bools:
    """[…, N] from masks […, N, A]: no-op is what the dead may do, and nobody else."""
    living: npt.NDArray[np.bool_] = ~avail[..., 0]
    return living


def _refuse_to_restart() -> NoReturn:
    raise GameLost(f"the connection to it broke: {sys.exc_info()[1]}")
