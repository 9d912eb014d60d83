"""The SMAX simulator (JaxMARL) behind numpy arrays: one compiled step of E battles, one compiled start of a few.

jax and jaxmarl are imported by `load`, which is called when the first environment is built.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import io
import itertools
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.envs.smax_import import import_smax
from phalanx.envs.smax_random import unrolled_threefry
from phalanx.envs.smax_scenarios import Scenario, Sizes
from phalanx.envs.team import Floats, Ints, Obs

ENDLESS = 2**30
STARTED_TOGETHER = 16  # battles that one call starts: hardly more work than one
FLAGS = {"xla_cpu_multi_thread_eigen": "--xla_cpu_multi_thread_eigen=false"}
THREADS = "intra_op_parallelism_threads"


@dataclass(frozen=True)
class Rules:
    """What the simulator is built for; equal rules share their compiled functions."""

    scenario: Scenario
    enemy_attack: str  # closest, random
    enemy_shoots: bool
    see_enemy_actions: bool
    walls_kill: bool


Words = npt.NDArray[np.uint32]


class Layout:
    """Where things lie in the words of a row. All that the simulator knows and shows of a battle is one row of 32-bit
    words, as handing over one array costs a fraction of handing over many: what is shown, then the battle itself.
    """

    def __init__(self, scenario: Scenario) -> None:
        n, m = scenario.n_allies, scenario.n_enemies
        sizes = Sizes.of(n, m)
        self._obs_shape, self._avail_shape = (-1, n, sizes.obs), (-1, n, sizes.actions)
        ends = np.cumsum([0, n * sizes.obs, sizes.state, n * sizes.actions, n + m, 1]).tolist()
        self._obs, self._state, self._avail, self._alive, self._reward = map(slice, ends, ends[1:])
        self._allies = slice(self._alive.start, self._alive.start + n)
        self._sides = np.repeat(np.eye(2, dtype=np.uint32), (n, m), axis=0)

    def read(self, rows: Words) -> Obs:
        """rows: [E, words] -> what the allies see, in new arrays."""
        return Obs(
            obs=rows[:, self._obs].view(np.float32).copy().reshape(self._obs_shape),
            state=rows[:, self._state].view(np.float32).copy(),
            avail=rows[:, self._avail].astype(np.bool_).reshape(self._avail_shape),
            alive=rows[:, self._allies].astype(np.bool_),
        )

    def living(self, rows: Words) -> Ints:
        """[E, 2] How many allies and how many enemies live."""
        counts: Ints = rows[:, self._alive].dot(self._sides).astype(np.int64)
        return counts

    def reward(self, rows: Words) -> Floats:
        """[E] The simulator's, of the step before."""
        return rows[:, self._reward].view(np.float32)[:, 0].copy()


@lru_cache(maxsize=1)
def load() -> tuple[Any, Any]:
    """(jax, jaxmarl.environments.smax), set up for one thread on the CPU and for the cache of compiled functions that
    all processes share. A UserError names the extra where they are not installed."""
    _one_thread(os.environ)
    try:
        jax = importlib.import_module("jax")
        _configure(jax)  # before jaxmarl, whose modules compute when they are imported
        with _kept_streams():
            smax = import_smax()
    except ModuleNotFoundError as error:
        raise UserError(
            f"env.name=smax needs {error.name}, which is not installed: pip install '.[smax]' in a checkout of phalanx"
        ) from error
    return jax, smax


def _configure(jax: Any) -> None:
    jax.config.update("jax_platforms", "cpu")  # a GPU, if there is one, is the learner's
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # the results are needed at once
    cache = cache_folder()
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@contextlib.contextmanager
def _kept_streams() -> Iterator[None]:
    """jaxmarl, when imported, prints what it did not find, and puts the process's original streams in the place of
    whatever sys.stdout and sys.stderr were."""
    kept = sys.stdout, sys.stderr, sys.__stdout__
    sys.stdout = sys.__stdout__ = io.StringIO()  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.__stdout__ = kept  # type: ignore[misc]


def versions() -> dict[str, str]:
    """Of everything that decides how a battle goes."""
    return {package: importlib.metadata.version(package) for package in ("jaxmarl", "jax", "jaxlib")}


def _one_thread(environment: Any) -> None:
    """XLA reads its flags when jax computes for the first time. Those that the user has set stay."""
    flags = environment.get("XLA_FLAGS", "")
    wanted = [text for name, text in FLAGS.items() if name not in flags]
    wanted += [f"{THREADS}=1"] if THREADS not in flags else []
    environment["XLA_FLAGS"] = " ".join([*flags.split(), *wanted])


def cache_folder() -> Path | None:
    """Where compiled functions are kept: $JAX_COMPILATION_CACHE_DIR, or a folder for this kind of processor below
    $XDG_CACHE_HOME/phalanx (~/.cache/phalanx). None where nobody but us may not write there, or nothing can be."""
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return Path(chosen)
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phalanx"
        folder = root / f"xla-{_processor()}"
        for part in (root, folder):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = part.stat()
            if about.st_uid != os.getuid() or about.st_mode & 0o022:
                return None
    except (OSError, RuntimeError):  # the latter: there is no home
        return None
    return folder if os.access(folder, os.W_OK) else None


def _processor() -> str:
    """What compiled code depends on: homes are shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return hashlib.sha256("\n".join([platform.machine(), *kind]).encode()).hexdigest()[:16]


class Simulator:
    """E battles. `step` never starts a new one; `begin` does, in some of them.

    Rows, as these two return them, are read with `layout` and belong to the simulator: not to be written to.
    """

    def __init__(self, rules: Rules, num_envs: int) -> None:
        load()
        self.layout = Layout(rules.scenario)
        self._together = min(STARTED_TOGETHER, num_envs)
        self._compiled = _compiled(rules)
        self._rows: Words = np.zeros((num_envs, self._compiled.words), np.uint32)
        self._started: dict[int, Words] = {}  # first rows of battles that have not begun yet, by seed

    def begin(
        self, places: npt.NDArray[np.int64], seeds: Sequence[int], coming: Callable[[], Iterable[int]] = tuple
    ) -> Words:
        """Starts the battle of seed `seeds[j]` in environment `places[j]`; the rows of all E battles.

        `coming` tells seeds that may follow. As many of them as cost nothing are prepared with those that are needed.
        """
        seeds = [seed % 2**32 for seed in seeds]
        if any(seed not in self._started for seed in seeds):
            self._prepare(seeds, coming)
        self._rows = self._rows.copy()
        for place, seed in zip(places, seeds, strict=True):
            self._rows[place] = self._started[seed]
        for seed in seeds:
            self._started.pop(seed, None)
        return self._rows

    def forget(self) -> None:
        """Drops battles that were prepared and never begun: other seeds follow."""
        self._started.clear()

    def _prepare(self, seeds: Sequence[int], coming: Callable[[], Iterable[int]]) -> None:
        more = itertools.chain(seeds, (seed % 2**32 for seed in coming()))
        missing = [seed for seed in dict.fromkeys(more) if seed not in self._started]
        needed = sum(seed in set(seeds) for seed in missing)
        missing = missing[: -(-needed // self._together) * self._together]
        for first in range(0, len(missing), self._together):
            some = missing[first : first + self._together]
            keys = np.zeros(self._together, np.uint32)
            keys[: len(some)] = some
            rows = np.asarray(self._compiled.start(keys))
            self._started.update(zip(some, rows, strict=False))

    def step(self, actions: npt.NDArray[Any]) -> Words:
        """One step with the allies' actions [E, N]; the rows of what followed."""
        self._rows = np.asarray(self._compiled.step(self._rows, np.ascontiguousarray(actions, np.int32)))
        return self._rows

    def units(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of places [E, N + M, 2] (0 to 32), types, health, who lives and the newest attacks (as
        actions; 0 for none) [E, N + M], allies first."""
        return {name: np.array(values) for name, values in self._compiled.units(self._rows).items()}


def make_game(rules: Rules, limit: int = ENDLESS) -> Any:
    """JaxMARL's environment of these rules. Its own time limit decides nothing but the `done` that it returns."""
    jax, smax = load()
    kind = rules.scenario
    return smax.HeuristicEnemySMAX(
        scenario=smax.Scenario(
            jax.numpy.array(kind.unit_types, jax.numpy.uint8), kind.n_allies, kind.n_enemies, kind.random, kind.random
        ),
        enemy_shoots=rules.enemy_shoots,
        attack_mode=rules.enemy_attack,
        see_enemy_actions=rules.see_enemy_actions,
        walls_cause_death=rules.walls_kill,
        max_steps=limit - 1,  # it compares before it counts
    )


class _Battle(NamedTuple):
    """What one step hands on to the next, of one battle."""

    key: Any  # jax's random key
    state: Any  # JaxMARL's
    enemy_obs: Any  # [M, O] what the heuristic decides by: computed with what the allies see, one step before


class _Compiled(NamedTuple):
    """Functions of rows (see `Layout`), compiled."""

    step: Callable[[Words, Any], Any]  # rows [E, words], actions [E, N] -> rows
    start: Callable[[Any], Any]  # seeds [k] -> rows [k, words]
    units: Callable[[Words], dict[str, Any]]  # rows -> what `Simulator.units` tells
    words: int


@lru_cache(maxsize=16)
def _compiled(rules: Rules) -> _Compiled:
    """Everything that is compiled for these rules; the number of battles is that of the rows."""
    jax, _ = load()
    jnp, game = jax.numpy, make_game(rules)
    wrapped = partial(jax.random.wrap_key_data, impl=unrolled_threefry(jax))

    def opened(seed: Any) -> tuple[_Battle, Any]:
        key, own = jax.random.split(wrapped(jax.random.PRNGKey(seed)))
        _, state = game.reset(own)
        return made(key, state, game.get_all_unit_obs(state), jnp.float32(0))

    def made(key: Any, state: Any, obs: dict[str, Any], reward: Any) -> tuple[_Battle, Any]:
        """The battle and the words that show it, in the order of `Layout`."""
        legal = game.get_avail_actions(state)
        seen = [obs[agent] for agent in game.agents]
        masks = [legal[agent] for agent in game.agents]
        shown = (*seen, game.get_world_state(state), *masks, state.state.unit_alive, reward)
        battle = _Battle(jax.random.key_data(key), state, jnp.stack([obs[agent] for agent in game.enemy_agents]))
        return battle, jnp.concatenate([_words(jax, part) for part in shown])

    shapes, seen = jax.eval_shape(opened, jax.ShapeDtypeStruct((), jnp.uint32))
    leaves, structure = jax.tree.flatten(shapes)
    ends = np.cumsum([seen.size, *(leaf.size for leaf in leaves)]).tolist()

    def packed(battle: _Battle, seen: Any) -> Any:
        return jnp.concatenate([seen, *(_words(jax, leaf) for leaf in jax.tree.leaves(battle))])

    def unpacked(row: Any) -> _Battle:
        parts = zip(leaves, ends, ends[1:], strict=False)
        found: _Battle = structure.unflatten([_values(jax, row[a:b], leaf) for leaf, a, b in parts])
        return found

    def advance(row: Any, actions: Any) -> Any:
        """What HeuristicEnemySMAX.step_env does, without computing anew what the enemies see."""
        battle = unpacked(row)
        key, own = jax.random.split(wrapped(battle.key))
        own, deciding = jax.random.split(own)
        chosen, policy = game.get_enemy_actions(deciding, battle.state.enemy_policy_state, battle.enemy_obs)
        everyone = jnp.concatenate([actions, jnp.stack([chosen[agent] for agent in game.enemy_agents])])
        decoded = game._decode_discrete_actions(everyone)
        obs, units, reward, _, _ = game.step_env_no_decode(own, battle.state.state, decoded)
        state = battle.state.replace(state=units, enemy_policy_state=policy)
        return packed(*made(key, state, obs, reward[game.agents[0]]))

    def units(row: Any) -> dict[str, Any]:
        state = unpacked(row).state.state
        names = {"positions": "unit_positions", "types": "unit_types", "health": "unit_health", "alive": "unit_alive"}
        names["attacks"] = "prev_attack_actions"
        return {ours: getattr(state, theirs) for ours, theirs in names.items()}

    return _Compiled(
        step=jax.jit(jax.vmap(advance)),
        start=jax.jit(jax.vmap(lambda seed: packed(*opened(seed)))),
        units=jax.jit(jax.vmap(units)),
        words=ends[-1],
    )


def _words(jax: Any, values: Any) -> Any:
    """Values of any kind as flat 32-bit words: floats by their bits, everything else as whole numbers."""
    flat = jax.numpy.ravel(values)
    if flat.dtype == jax.numpy.float32:
        return jax.lax.bitcast_convert_type(flat, jax.numpy.uint32)
    return flat.astype(jax.numpy.uint32)


def _values(jax: Any, words: Any, like: Any) -> Any:
    """The opposite of `_words`: an array of the shape and kind of `like`."""
    if like.dtype == jax.numpy.float32:
        return jax.lax.bitcast_convert_type(words, like.dtype).reshape(like.shape)
    return words.astype(like.dtype).reshape(like.shape)
