"""SMAC, the game: StarCraft II's micromanagement (Samvelyan et al. 2019, arXiv 1902.04043). See docs/smac.md."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.settings import EnvSettings
from phalanx.envs.drawing_battle import draw_battle
from phalanx.envs.smac_game import Game, View, alive, make_game
from phalanx.envs.smac_install import GAME, is_version, load_smac, require_game
from phalanx.envs.smac_maps import named_map, team_spec
from phalanx.envs.smac_processes import Keeper, can_look, kill, marked
from phalanx.envs.smac_turns import my_turn
from phalanx.envs.team import Bools, Obs, Step, TeamEnv, TeamPolicy

LOG = logging.getLogger(__name__)
START_ATTEMPTS = 3
CLOSE_LIMIT_S = 10.0
LOOK_S = 0.02  # between looks for a game's process

T = TypeVar("T")


class SmacSettings(EnvSettings):
    """`env.name=smac`."""

    name: Literal["smac"] = Field(
        default="smac", description="smac: battles in StarCraft II, which you install yourself (docs/smac.md)"
    )
    scenario: str = Field(default="3m", description="a map of SMAC: 3m, 2s3z, MMM2, corridor, …")
    max_steps: int | None = Field(  # type: ignore[assignment]
        default=None,
        ge=1,
        description="steps after which a battle is cut off (truncated); if not given, the map's own limit",
    )
    difficulty: int = Field(
        default=7,
        ge=1,
        le=10,
        description="strength of the game's own player: 7 (very hard) in the papers; 8 to 10 cheat",
    )
    reward: Literal["dense", "sparse"] = Field(
        default="dense",
        description="dense (damage, kills and victory, about 20 for a won battle) or sparse (1 for a victory, -1 for a"
        " defeat)",
    )
    game_version: str | None = Field(
        default=None,
        description="version of StarCraft II, such as 4.6.2 or 4.10.0, where several are installed; null: the newest."
        " Results differ between versions",
    )
    replays: str | None = Field(
        default=None,
        description="folder for replays: each game writes one file of all its battles when it is closed, as at the"
        " end of `phalanx evaluate`",
    )
    evaluation_games: int = Field(
        default=4, ge=1, description="games that an evaluation plays at once; each is a process of about 1 GB"
    )
    start_limit_s: float = Field(
        default=120.0, gt=0, description="seconds in which a game must have started; it is tried three times"
    )
    step_limit_s: float = Field(
        default=60.0, gt=0, description="seconds in which a game must answer; it is replaced if it does not"
    )
    stagger_s: float = Field(
        default=1.0,
        ge=0,
        description="seconds between the starts of two games on a machine, of all of a user's runs; less where one is"
        " ready sooner",
    )

    @model_validator(mode="after")
    def _map_exists(self) -> SmacSettings:
        named_map(self.scenario)
        return self

    @property
    def most_evaluation_envs(self) -> int | None:
        return self.evaluation_games


class Smac(TeamEnv):
    """The allies of a battle as a team, one game process for each environment: everybody's step takes as long as the
    slowest game's.

    `Step.info`: win; dead_allies and dead_enemies (who died in this step); crashed (the game broke or hung: the episode
    ends as truncated with what was seen last, is no experience, and a new game takes the place of the old one).

    Games are seeded by their first episode's seed, when they are started; what follows is not reproducible.
    """

    Settings = SmacSettings

    def __init__(
        self, settings: SmacSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
    ) -> None:
        self._build = load_smac(max(settings.start_limit_s, settings.step_limit_s))
        self._map = named_map(settings.scenario)
        versions = require_game(settings.scenario, settings.game_version)
        self.spec = team_spec(self._map, settings.max_steps or self._map.limit, versions)
        self.num_envs = num_envs
        self._settings = settings
        self._keeper = Keeper()
        self._games: list[Game | None] = [None] * num_envs
        self._views: list[View] = []
        self._dead = np.zeros((num_envs, 2), np.int64)  # allies, enemies
        self._seeds: Sequence[Iterator[int]] = ()
        self._version: tuple[str, int] | None = None  # and build, as the first game says

    def reset(self, seeds: Sequence[Iterator[int]]) -> Obs:
        if len(seeds) != self.num_envs:
            raise ValueError(f"got {len(seeds)} seed sequences for {self.num_envs} environments")
        self._seeds = seeds
        everybody = self._begin(range(self.num_envs), lost=())
        self._views = [everybody[e] for e in range(self.num_envs)]
        return _shown(self._views)

    def step(self, actions: npt.NDArray[Any]) -> Step:
        orders = np.asarray(actions)
        self._require_legal(orders)
        chosen: list[list[int]] = orders.tolist()
        calls = {e: game.play(chosen[e]) for e, game in enumerate(self._games) if game is not None}
        outcomes, lost = self._answers(calls, self._settings.step_limit_s)
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated, win, crashed = np.zeros((4, self.num_envs), np.bool_)
        crashed[list(lost)] = truncated[list(lost)] = True
        fell = np.zeros_like(self._dead)
        last = list(self._views)  # what a lost game showed last
        for e, played in outcomes.items():
            reward[e], terminated[e], truncated[e], win[e] = played[1:5]
            fell[e] = played.dead - self._dead[e]
            last[e], self._dead[e] = played.view, played.dead
        rows = np.flatnonzero(terminated | truncated).tolist()
        if self._filmed in lost:
            self._last_picture = None  # the one before's end is not this one's, which nobody saw
        self._draw_last(np.setdiff1d(rows, list(lost)))
        self._views = list(last)
        for e, view in self._begin(rows, lost).items():
            self._views[e] = view
        return Step(
            next=_shown(self._views),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final=_shown([last[e] for e in rows]) if rows else None,
            info={"win": win, "dead_allies": fell[:, 0], "dead_enemies": fell[:, 1], "crashed": crashed},
        )

    def render(self, index: int) -> npt.NDArray[np.uint8] | None:
        """The battle from above."""
        game = self._games[index]
        return None if game is None else draw_battle(game.units())

    def close(self) -> None:
        save = self._settings.replays is not None
        calls = {e: game.close(save) for e, game in enumerate(self._games) if game is not None}
        self._games = [None] * self.num_envs
        _, failed = _results(calls, CLOSE_LIMIT_S)
        for e, reason in failed.items():
            LOG.warning("the game of environment %d was not closed in order: %s", e, reason)
        self._keeper.close()

    # ---- episodes

    def _begin(self, rows: Iterable[int], lost: Iterable[int]) -> dict[int, View]:
        """Starts an episode in each of the environments; in a new game where the old one is lost, or where SMAC could
        not do it."""
        taken = {e: next(self._seeds[e]) for e in rows}
        self._dead[list(taken)] = 0
        begun, calls = {}, {}
        for e in taken:
            game = self._games[e]
            if game is None or e in lost:
                continue
            if game.fresh is not None:
                begun[e] = game.fresh
            elif game.can_begin_again:
                calls[e] = game.begin()
        answers, _ = self._answers(calls, self._settings.step_limit_s)
        begun |= answers
        return begun | self._start({e: seed for e, seed in taken.items() if e not in begun})

    def _start(self, seeds: Mapping[int, int]) -> dict[int, View]:
        """Starts new games, one after the other, which then get ready side by side. UserError where the map is another
        one; RunFailed where a game does not start in `START_ATTEMPTS` attempts."""
        ready: dict[int, View] = {}
        reasons: dict[int, str] = {}
        if seeds and (orphans := self._keeper.start()):
            LOG.warning("ended %d games that a former run had left behind", orphans)
        for _ in range(START_ATTEMPTS):
            missing = [e for e in seeds if e not in ready]
            if not missing:
                break
            for e in missing:
                self._discard(e)
            calls = {e: self._launch(e, seeds[e]) for e in missing}
            answers, reasons = self._answers(calls, self._settings.start_limit_s)
            ready |= answers
        self._compare_version(ready)
        if len(ready) < len(seeds):
            e, reason = next(iter(reasons.items()))
            raise RunFailed(
                f"StarCraft II did not start in {START_ATTEMPTS} attempts for env.scenario={self._settings.scenario}"
                f" (environment {e}): {reason}; the game's own output may say more, and env.start_limit_s"
                f" ({self._settings.start_limit_s:g}) can be raised where the machine is slow"
            )
        return ready

    def _compare_version(self, rows: Iterable[int]) -> None:
        """The game's own word on what it is: the spec, which is there before any game, goes by names of folders."""
        said = [game.version for e in rows if (game := self._games[e]) is not None and game.version is not None]
        if self._version is not None or not said:
            return
        self._version = said[0]
        expected = self.spec.versions[GAME]
        if is_version(expected, *said[0]):
            LOG.info("%s says that it is version %s, build %d", GAME, *said[0])
        else:
            LOG.warning(
                "%s says that it is version %s, build %d, but %s was chosen, which metadata.json names: results differ"
                " between versions",
                GAME,
                *said[0],
                expected,
            )

    def _launch(self, e: int, seed: int) -> Future[View]:
        """Has a new game for environment e start, while no other one of this user's does on this machine, and returns
        when its process is there and `stagger_s` have passed, or when it is ready. Many starts at once would overload
        the machine and fight for ports."""
        settings = self._settings
        mark = self._keeper.new_mark()
        arguments = {
            "map_name": settings.scenario,
            "seed": seed,
            "difficulty": "A" if settings.difficulty == 10 else str(settings.difficulty),
            "game_version": settings.game_version,
            "reward_sparse": settings.reward == "sparse",
            "reward_scale": settings.reward == "dense",  # it would scale victories and defeats, too
            "replay_dir": "" if settings.replays is None else str(Path(settings.replays).expanduser().absolute()),
            # Files are told apart by the second otherwise, and the games are closed in the same one.
            "replay_prefix": f"{settings.scenario}_{os.getpid()}_{mark.rpartition('.')[2]}",
        }
        game = self._games[e] = make_game(self._build, self._map, self.spec.episode_limit, mark, arguments)
        with my_turn(settings.start_limit_s) as why_not:
            if why_not:
                LOG.warning("the game of environment %d starts out of turn: %s", e, why_not)
            began = time.monotonic()
            with self._keeper.marking(mark):
                call = game.begin()
                self._await_process(e, mark, call)
            wait([call], timeout=max(0.0, began + settings.stagger_s - time.monotonic()))
        return call

    def _await_process(self, e: int, mark: str, call: Future[View]) -> None:
        """Until the game's process is there, which finds the mark only then, or the call that starts it has ended."""
        deadline = time.monotonic() + self._settings.start_limit_s
        while can_look() and not call.done() and not marked(mark.__eq__):
            if time.monotonic() >= deadline:
                LOG.warning(
                    "the game of environment %d has no process after env.start_limit_s=%g s: one that comes now is"
                    " closed when it answers, but stays if it hangs or if this process is killed",
                    e,
                    self._settings.start_limit_s,
                )
                return
            wait([call], timeout=LOOK_S)

    # ---- games that fail

    def _answers(self, calls: Mapping[int, Future[T]], limit_s: float) -> tuple[dict[int, T], dict[int, str]]:
        """What the games answered within the limit, and why the others did not, by environment. Those are lost."""
        answers, reasons = _results(calls, limit_s)
        for e, reason in reasons.items():
            LOG.warning("lost the game of environment %d, another takes its place: %s", e, reason)
            self._discard(e)
        return answers, reasons

    def _discard(self, e: int) -> None:
        """Kills the environment's game, which wakes up a thread that waits for it."""
        game, self._games[e] = self._games[e], None
        if game is not None:
            kill(game.mark.__eq__)
            game.close(save_replay=False)

    def _require_legal(self, actions: npt.NDArray[Any]) -> None:
        """SMAC asserts the same, one agent at a time; an error of ours must not look like a broken game."""
        avail = np.stack([view.avail for view in self._views])
        allowed = np.take_along_axis(avail, actions[..., None].astype(np.int64), axis=2)[..., 0]
        if not allowed.all():
            e, i = np.argwhere(~allowed)[0]
            raise ValueError(f"agent {i} of environment {e} cannot take action {actions[e, i]} now")


def _results(calls: Mapping[int, Future[T]], limit_s: float) -> tuple[dict[int, T], dict[int, str]]:
    """Results that are there within the limit, and why the others are not. A UserError is raised again."""
    wait(calls.values(), timeout=limit_s)
    results: dict[int, T] = {}
    reasons: dict[int, str] = {}
    for e, call in calls.items():
        if not call.done():
            reasons[e] = f"no answer within {limit_s:.3g} s"
            continue
        error = call.exception()
        if isinstance(error, UserError):
            raise error
        if error is not None:
            reasons[e] = f"{type(error).__name__}: {error}"
        else:
            results[e] = call.result()
    return results, reasons


def _shown(views: Sequence[View]) -> Obs:
    """The views as arrays of their own."""
    obs, state, avail = (np.stack(parts) for parts in zip(*views, strict=True))
    mask: Bools = avail
    return Obs(obs, state, mask, alive(mask))
