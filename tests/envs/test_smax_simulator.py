"""SMAX with its simulator, against JaxMARL stepped by hand. Skipped where the extra is not installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.smax import Smax, SmaxSettings
from phalanx.envs.smax_random import unrolled_threefry
from phalanx.envs.smax_scenarios import SCENARIOS, UNIT_TYPES
from phalanx.envs.smax_simulator import load, make_game
from phalanx.envs.team import Obs, Step

pytestmark = pytest.mark.skipif(
    find_spec("jaxmarl") is None, reason="jaxmarl is not installed: pip install -e '.[smax]'"
)


def started(num_envs: int, **settings: Any) -> tuple[Smax, Obs]:
    env = Smax(SmaxSettings(**settings), num_envs)
    return env, env.reset([EpisodeSeeds(3, Purpose.EPISODE, e) for e in range(num_envs)])


def attacks(avail: np.ndarray) -> np.ndarray:
    """Everybody attacks the first enemy in range, walks towards the enemies (right) where there is none, or stops."""
    choice = np.where(avail[..., 1], 1, 4)
    return np.where(avail[..., 5:].any(axis=-1), 5 + avail[..., 5:].argmax(axis=-1), choice)


def play(env: Smax, obs: Obs, steps: int) -> list[Step]:
    taken = []
    for _ in range(steps):
        taken.append(env.step(attacks(obs.avail)))
        obs = taken[-1].next
    return taken


def test_the_table_is_the_simulator_s() -> None:
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    load()
    assert set(MAP_NAME_TO_SCENARIO) == set(SCENARIOS)
    for name, theirs in MAP_NAME_TO_SCENARIO.items():
        ours = SCENARIOS[name]
        assert tuple(np.asarray(theirs.unit_types).tolist()) == ours.unit_types, name
        assert (theirs.num_allies, theirs.num_enemies) == (ours.n_allies, ours.n_enemies)
        assert theirs.smacv2_unit_type_generation == theirs.smacv2_position_generation == ours.random
    assert tuple(make_game(SmaxSettings().rules()).unit_type_names) == UNIT_TYPES


def test_battles_are_jaxmarl_s() -> None:
    """The same seed and actions, with JaxMARL's own step of one battle: to the last step of the episode."""
    env, obs = started(3, max_steps=20, state="raw")
    jax, _ = load()
    game = make_game(SmaxSettings().rules(), 20)
    seed = next(EpisodeSeeds(3, Purpose.EPISODE, 1))
    key, own = jax.random.split(jax.random.PRNGKey(np.uint32(seed)))
    seen, state = game.reset(own)
    for t in range(1, 21):  # noqa: B007 (how long it was is looked at below)
        legal = game.get_avail_actions(state)
        for i, agent in enumerate(game.agents):
            np.testing.assert_allclose(obs.obs[1, i], seen[agent], atol=1e-5)
            np.testing.assert_array_equal(obs.avail[1, i], legal[agent])
        np.testing.assert_allclose(obs.state[1], seen["world_state"], atol=1e-5)
        actions = attacks(obs.avail)
        step, (key, own) = env.step(actions), jax.random.split(key)
        each = {agent: actions[1, i] for i, agent in enumerate(game.agents)}
        seen, state, reward, done, _ = game.step_env(own, state, each)
        np.testing.assert_allclose(step.reward[1], reward["ally_0"], atol=1e-6)
        assert bool(done["__all__"]) == bool(step.ended[1])
        if step.ended[1]:
            break
        obs = step.next
    alive = np.asarray(state.state.unit_alive)
    assert step.final is not None
    row = int(np.searchsorted(np.flatnonzero(step.ended), 1))
    np.testing.assert_allclose(step.final.obs[row, 0], seen["ally_0"], atol=1e-5)
    np.testing.assert_array_equal(step.final.alive[row], alive[:3])
    assert step.truncated[1] == (t == 20 and alive[:3].any() and alive[3:].any())


def test_wins_are_paid_and_told_and_nothing_is_compiled_twice() -> None:
    env, obs = started(3)
    compiled = env._simulator._compiled
    before = [function._cache_size() for function in (compiled.step, compiled.start)]  # type: ignore[attr-defined]
    steps = play(env, obs, 150)
    wins = np.array([step.info["win"] for step in steps])
    paid = np.array([step.reward for step in steps])
    ended = np.array([step.ended for step in steps])
    assert ended.sum() > 5 and 0 < wins.sum() < ended.sum()
    assert (ended[wins]).all() and (paid[wins] >= 1).all() and (paid[~wins] < 0.7).all()
    winner = int(np.flatnonzero(wins.any(axis=0))[0])
    last = int(np.flatnonzero(wins[:, winner])[0])
    ends = np.flatnonzero(ended[:last, winner])
    battle = slice(ends[-1] + 1 if len(ends) else 0, last + 1)
    assert sum(int(step.info["dead_enemies"][winner]) for step in steps[battle]) == 3
    assert paid[battle, winner].sum() == pytest.approx(2.0, abs=1e-4)
    after = [function._cache_size() for function in (compiled.step, compiled.start)]  # type: ignore[attr-defined]
    assert after[0] - before[0] <= 1 and after[1] == before[1]  # other tests may have compiled it for as many battles


def test_the_limit_truncates_and_the_reward_can_be_smac_s() -> None:
    (short, obs), (scaled, _) = started(3, max_steps=4), started(3, max_steps=4, reward="smac", scenario="3m")
    stop = np.full((3, 3), 4)
    for t in range(8):
        left, right = short.step(stop), scaled.step(stop)
        assert left.truncated.all() == (t % 4 == 3) and not left.terminated.any()
        np.testing.assert_allclose(left.reward * 10, right.reward)
    assert obs.alive.all()


def test_random_scenarios_draw_types_and_tell_them() -> None:
    env, obs = started(3, scenario="smacv2_5_units", max_steps=2)
    assert env.spec.groups_vary and env.spec.group_names == UNIT_TYPES

    def types() -> np.ndarray:
        return env._simulator.units()["types"][:, :5]

    first = types()
    for seen in (obs, env.step(attacks(obs.avail)).next, env.step(attacks(obs.avail)).next):
        assert seen.alive.all()
        shown = seen.obs[..., env.spec.kind_columns]
    np.testing.assert_array_equal(obs.obs[..., env.spec.kind_columns], np.eye(6)[first])
    np.testing.assert_array_equal(shown, np.eye(6)[types()])
    assert (types() != first).any()  # another episode


def test_battles_prepared_ahead_are_those_that_are_started_when_they_begin() -> None:
    """Seeds that can be known ahead are used so; those of any other iterator are not."""
    ahead, seen = started(3, max_steps=3)
    seeds = [EpisodeSeeds(3, Purpose.EPISODE, e) for e in range(3)]
    plain = Smax(SmaxSettings(max_steps=3), 3)
    np.testing.assert_array_equal(seen.obs, plain.reset([map(int, of) for of in seeds]).obs)
    for _ in range(2):  # reset forgets what was prepared
        for left, right in zip(play(ahead, seen, 7), play(plain, seen, 7), strict=True):
            np.testing.assert_array_equal(left.next.obs, right.next.obs)
            np.testing.assert_array_equal(left.next.state, right.next.state)
        other = [[EpisodeSeeds(4, Purpose.EPISODE, e) for e in range(3)] for _ in range(2)]
        seen = ahead.reset(other[0])
        plain.reset([map(int, of) for of in other[1]])


def test_the_state_is_scaled_unless_asked_otherwise() -> None:
    (scaled, left), (raw, right) = (
        started(2, scenario="2s3z", state=state, max_steps=3) for state in ("scaled", "raw")
    )
    for k, (ours, theirs) in enumerate(zip(play(scaled, left, 4), play(raw, right, 4), strict=True)):
        np.testing.assert_array_equal(ours.next.obs, theirs.next.obs)
        np.testing.assert_allclose(ours.next.state * np.float32(32), theirs.next.state * _factors(), rtol=1e-5)
        assert theirs.next.state.max() > 8 and np.abs(ours.next.state).max() < 3
        assert (ours.final is None) == (k != 2)
    assert ours.next.state[0, -10:].tolist() == pytest.approx([0.4, 0.4, 0.6, 0.6, 0.6] * 2)  # stalkers, zealots


def _factors() -> np.ndarray:
    """By how much a scaled state of 2s3z times 32 is more than the raw one."""
    units = np.tile([32.0, 1.0, 1.0] + [32.0] * 7, 10)
    return np.concatenate([units, [32.0] * 10, [32 / 5] * 10])


def test_random_numbers_are_jax_s() -> None:
    jax, _ = load()
    key = jax.random.PRNGKey(7)
    ours = jax.random.wrap_key_data(key, impl=unrolled_threefry(jax))
    for function in (jax.random.split, lambda k: jax.random.split(k, (2, 3)), lambda k: jax.random.fold_in(k, 5)):
        np.testing.assert_array_equal(jax.random.key_data(function(ours)), function(key))
    for draw in (jax.random.uniform, jax.random.normal, lambda k, shape: jax.random.randint(k, shape, 0, 9)):
        np.testing.assert_array_equal(draw(ours, (3, 2)), draw(key, (3, 2)))


def test_importing_is_quiet_and_lazy() -> None:
    code = (
        "import io, sys; sys.stdout = mine = io.StringIO(); import phalanx.envs.smax as s;"
        "assert 'jax' not in sys.modules; from phalanx.envs.smax_simulator import load; load();"
        "assert sys.stdout is mine; sys.stdout = sys.__stdout__; print(repr(mine.getvalue()), 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "'' False\n"


def test_only_smax_is_imported_and_the_rest_can_be_later() -> None:
    code = (
        "import sys; from phalanx.envs.smax_simulator import load; _, smax = load();"
        "assert not [m for m in sys.modules if m.startswith('jaxmarl') and 'storm' in m], 'all was imported';"
        "assert 'jaxmarl' not in sys.modules; import jaxmarl;"
        "assert type(jaxmarl.make('HeuristicEnemySMAX')) is smax.HeuristicEnemySMAX"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
