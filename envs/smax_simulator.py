"""The SMAX simulator (JaxMARL) behind numpy arrays: one compiled step of E battles, one compiled start of a few.

jax and jaxmarl are imported by `load`, which is called when the first environment is built.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import io
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.envs.smax_scenarios import Scenario, Sizes
from phalanx.envs.team import Bools, Floats, Obs

ENDLESS = 2**30
STARTED_TOGETHER = 4  # battles that one call starts; few end in the same step
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


class Frame(NamedTuple):
    """What all E battles look like, in arrays that are the receiver's."""

    obs: Floats  # [E, N, O]
    state: Floats  # [E, S]
    avail: Bools  # [E, N, A]
    alive: Bools  # [E, N + M], allies first

    def shown(self, n_allies: int) -> Obs:
        return Obs(self.obs, self.state, self.avail, self.alive[:, :n_allies].copy())


@dataclass(frozen=True)
class Layout:
    """Where things lie in a row of what the simulator shows of a battle: one array is handed over faster than many."""

    shapes: tuple[tuple[int, ...], ...]  # of one battle's obs, state, avail and alive

    @classmethod
    def of(cls, scenario: Scenario) -> Layout:
        n, m = scenario.n_allies, scenario.n_enemies
        sizes = Sizes.of(n, m)
        return cls(((n, sizes.obs), (sizes.state,), (n, sizes.actions), (n + m,)))

    def read(self, rows: Floats) -> Frame:
        """rows: [E, everything] -> new arrays."""
        parts: list[npt.NDArray[Any]] = []
        start = 0
        for shape, kind in zip(self.shapes, (np.float32, np.float32, np.bool_, np.bool_), strict=True):
            size = int(np.prod(shape))
            parts.append(rows[:, start : start + size].astype(kind).reshape(len(rows), *shape))
            start += size
        return Frame(*parts)


@lru_cache(maxsize=1)
def load() -> tuple[Any, Any]:
    """(jax, jaxmarl.environments.smax), set up for one thread on the CPU and for the cache of compiled functions that
    all processes share. A UserError names the extra where they are not installed."""
    _one_thread(os.environ)
    try:
        jax = importlib.import_module("jax")
        _configure(jax)  # before jaxmarl, whose modules compute when they are imported
        with _kept_streams():
            smax = importlib.import_module("jaxmarl.environments.smax")
    except ModuleNotFoundError as error:
        raise UserError(
            f"env.name=smax needs {error.name}, which is not installed: pip install 'phalanx-marl[smax]', or"
            " pip install -e '.[smax]' in a checkout"
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
    """XLA reads its flags when jax computes for the first time. What the user has set stays."""
    flags = environment.get("XLA_FLAGS", "")
    wanted = [text for name, text in FLAGS.items() if name not in flags]
    wanted += [f"{THREADS}=1"] if THREADS not in flags else []
    environment["XLA_FLAGS"] = " ".join([*flags.split(), *wanted])
    environment.setdefault("JAX_PLATFORMS", "cpu")


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
    """E battles. `step` never starts a new one; `begin` does, in some of them."""

    def __init__(self, rules: Rules, num_envs: int) -> None:
        load()
        self._together = min(STARTED_TOGETHER, num_envs)
        self._num_envs = num_envs
        self._layout = Layout.of(rules.scenario)
        self._step, self._begin, fresh = _compiled(rules, num_envs)
        self._carry = fresh()

    def begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> Frame:
        """Starts the battle of seed `seeds[j]` in environment `rows[j]`; what those rows look like."""
        shown = []
        for start in range(0, len(rows), self._together):
            some = rows[start : start + self._together]
            places = np.full(self._together, self._num_envs, np.int32)  # beyond the last: for nobody
            places[: len(some)] = some
            keys = np.zeros(self._together, np.uint32)
            keys[: len(some)] = np.array(seeds[start : start + self._together], np.uint64) % 2**32
            self._carry, seen = self._begin(self._carry, places, keys)
            shown.append(np.asarray(seen)[: len(some)])
        return self._layout.read(np.concatenate(shown) if len(shown) > 1 else shown[0])

    def step(self, actions: npt.NDArray[Any]) -> tuple[Frame, Floats]:
        """One step with the allies' actions [E, N]; what followed, and the simulator's own reward [E]."""
        self._carry, seen = self._step(self._carry, np.ascontiguousarray(actions, np.int32))
        rows = np.asarray(seen)
        return self._layout.read(rows), rows[:, -1].copy()

    def units(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of places [E, N + M, 2] (0 to 32), types, health and who lives [E, N + M], allies first."""
        battle = self._carry.state.state
        names = {"positions": "unit_positions", "types": "unit_types", "health": "unit_health", "alive": "unit_alive"}
        return {ours: np.array(getattr(battle, theirs)) for ours, theirs in names.items()}


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
    """What the compiled functions hand on; of E battles, every array begins with E."""

    key: Any  # jax's random key
    state: Any  # JaxMARL's
    enemy_obs: Any  # [M, O] what the heuristic decides by: computed with what the allies see, one step before


@lru_cache(maxsize=16)
def _compiled(rules: Rules, num_envs: int) -> tuple[Callable[..., Any], ...]:
    """(step, begin, fresh): the two compiled functions, and what makes the E battles that they hand on.

    Battles lose jax's weak types: arrays that differ in nothing but this are different to its compiler, so that
    everything would be compiled twice.
    """
    jax, _ = load()
    jnp, game = jax.numpy, make_game(rules)

    def made(key: Any, state: Any, obs: dict[str, Any], *more: Any) -> tuple[_Battle, Any]:
        battle = _Battle(key, state, jnp.stack([obs[agent] for agent in game.enemy_agents]))
        legal = game.get_avail_actions(state)
        seen = (*(obs[agent] for agent in game.agents), game.get_world_state(state))
        rest = (*(legal[agent] for agent in game.agents), state.state.unit_alive, *more)
        row = jnp.concatenate([jnp.atleast_1d(part).astype(jnp.float32) for part in (*seen, *rest)])
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), battle), row

    def start(seed: Any) -> tuple[_Battle, Any]:
        key, own = jax.random.split(jax.random.PRNGKey(seed))
        _, state = game.reset(own)
        return made(key, state, game.get_all_unit_obs(state))

    def advance(battle: _Battle, actions: Any) -> tuple[_Battle, Any]:
        """What HeuristicEnemySMAX.step_env does, without computing anew what the enemies see."""
        key, own = jax.random.split(battle.key)
        own, deciding = jax.random.split(own)
        chosen, policy = game.get_enemy_actions(deciding, battle.state.enemy_policy_state, battle.enemy_obs)
        everyone = jnp.concatenate([actions, jnp.stack([chosen[agent] for agent in game.enemy_agents])])
        decoded = game._decode_discrete_actions(everyone)
        obs, units, reward, _, _ = game.step_env_no_decode(own, battle.state.state, decoded)
        state = battle.state.replace(state=units, enemy_policy_state=policy)
        return made(key, state, obs, reward[game.agents[0]])

    def begin(battles: _Battle, rows: Any, seeds: Any) -> tuple[_Battle, Any]:
        new, seen = jax.vmap(start)(seeds)
        return jax.tree.map(lambda old, put: old.at[rows].set(put, mode="drop"), battles, new), seen

    def fresh() -> Any:
        shapes = jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.uint32))[0]
        return jax.tree.map(lambda s: jnp.zeros((num_envs, *s.shape), s.dtype), shapes)

    return jax.jit(jax.vmap(advance), donate_argnums=0), jax.jit(begin, donate_argnums=0), fresh
