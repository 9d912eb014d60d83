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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.envs.smax_scenarios import Scenario
from phalanx.envs.team import Bools, Floats, Obs

STARTED_TOGETHER = 4  # battles that one call starts; few end in the same step
FLAGS = {"xla_cpu_multi_thread_eigen": "--xla_cpu_multi_thread_eigen=false"}
THREADS = "intra_op_parallelism_threads"


@dataclass(frozen=True)
class Rules:
    """What the simulator is built for; equal rules share their compiled functions."""

    scenario: Scenario
    limit: int
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


@lru_cache(maxsize=1)
def load() -> tuple[Any, Any]:
    """(jax, jaxmarl.environments.smax), set up for one thread on the CPU and for the cache of compiled functions that
    all processes share. A UserError names the extra where they are not installed."""
    _one_thread(os.environ)
    try:
        jax = importlib.import_module("jax")
        with contextlib.redirect_stdout(io.StringIO()):  # it tells about modules that are of no interest here
            smax = importlib.import_module("jaxmarl.environments.smax")
    except ModuleNotFoundError as error:
        raise UserError(
            f"env.name=smax needs {error.name}, which is not installed: pip install 'phalanx-marl[smax]', or"
            " pip install -e '.[smax]' in a checkout"
        ) from error
    jax.config.update("jax_platforms", "cpu")  # a GPU, if there is one, is the learner's
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # the results are needed at once
    cache = cache_folder()
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return jax, smax


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
        self._step, self._begin, fresh = _compiled(rules, num_envs, self._together)
        self._carry = fresh()

    def begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int], frame: Frame) -> None:
        """Starts the battle of seed `seeds[j]` in environment `rows[j]` and writes what it looks like to `frame`."""
        for start in range(0, len(rows), self._together):
            some = rows[start : start + self._together]
            places = np.full(self._together, self._num_envs, np.int32)  # beyond the last: for nobody
            places[: len(some)] = some
            keys = np.zeros(self._together, np.uint32)
            keys[: len(some)] = np.array(seeds[start : start + self._together], np.uint64) % 2**32
            self._carry, seen = self._begin(self._carry, places, keys)
            for array, new in zip(frame, seen, strict=True):
                array[some] = np.asarray(new)[: len(some)]

    def step(self, actions: npt.NDArray[Any]) -> tuple[Frame, Floats]:
        """One step with the allies' actions [E, N]; what followed, and the simulator's own reward [E]."""
        self._carry, seen, reward = self._step(self._carry, np.ascontiguousarray(actions, np.int32))
        return Frame(*(np.array(part) for part in seen)), np.array(reward)

    def empty_frame(self, n_agents: int, obs_dim: int, state_dim: int, n_actions: int, units: int) -> Frame:
        """Arrays for `begin` to write to."""
        e = self._num_envs
        return Frame(
            np.zeros((e, n_agents, obs_dim), np.float32),
            np.zeros((e, state_dim), np.float32),
            np.zeros((e, n_agents, n_actions), np.bool_),
            np.zeros((e, units), np.bool_),
        )

    def units(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of places [E, N + M, 2] (0 to 32), types, health and who lives [E, N + M], allies first."""
        battle = self._carry[1].state
        names = {"positions": "unit_positions", "types": "unit_types", "health": "unit_health", "alive": "unit_alive"}
        return {ours: np.array(getattr(battle, theirs)) for ours, theirs in names.items()}


def make_game(rules: Rules) -> Any:
    """JaxMARL's environment of these rules."""
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
        max_steps=rules.limit - 1,  # it compares before it counts
    )


@lru_cache(maxsize=16)
def _compiled(rules: Rules, num_envs: int, together: int) -> tuple[Callable[..., Any], ...]:
    """(step, begin, fresh): the two compiled functions, and what makes the E battles that they hand on.

    Battles are (random key, JaxMARL's state). Their leaves lose jax's weak types: arrays that differ in nothing but
    this are different to its compiler, so that everything would be compiled twice.
    """
    jax, _ = load()
    jnp, game = jax.numpy, make_game(rules)

    def strict(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)

    def look(obs: dict[str, Any], state: Any) -> tuple[Any, ...]:
        legal = game.get_avail_actions(state)
        seen = jnp.stack([obs[agent] for agent in game.agents])
        avail = jnp.stack([legal[agent] for agent in game.agents]).astype(bool)
        return seen, obs["world_state"], avail, state.state.unit_alive

    def start(seed: Any) -> tuple[Any, Any]:
        key, own = jax.random.split(jax.random.PRNGKey(seed))
        obs, state = game.reset(own)
        return strict((key, state)), look(obs, state)

    def advance(battle: Any, actions: Any) -> tuple[Any, Any, Any]:
        key, own = jax.random.split(battle[0])
        each = {agent: actions[i] for i, agent in enumerate(game.agents)}
        obs, state, reward, _, _ = game.step_env(own, battle[1], each)
        return strict((key, state)), look(obs, state), reward[game.agents[0]]

    def begin(battles: Any, rows: Any, seeds: Any) -> tuple[Any, Any]:
        new, seen = jax.vmap(start)(seeds)
        return jax.tree.map(lambda old, put: old.at[rows].set(put, mode="drop"), battles, new), seen

    def fresh() -> Any:
        shapes = jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.uint32))[0]
        return jax.tree.map(lambda s: jnp.zeros((num_envs, *s.shape), s.dtype), shapes)

    return jax.jit(jax.vmap(advance), donate_argnums=0), jax.jit(begin, donate_argnums=0), fresh
