"""Films of SMAX: the units are where the simulator has them, and a frame costs milliseconds."""

from __future__ import annotations

from time import process_time
from typing import Any

import numpy as np
import pytest

from phalanx.cluster.render import play_frames
from phalanx.envs.drawing import OPPONENT, TEAM
from phalanx.envs.registry import env_settings, make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.smax_units import HEALTH, RADII, SIZE, units_of
from phalanx.envs.team import Bools, Floats


def test_targets_are_who_is_meant() -> None:
    """Two allies and three enemies, who number the allies from the last."""
    battles = {
        "positions": np.arange(10.0).reshape(1, 5, 2),
        "types": np.array([[0, 2, 3, 0, 0]], np.uint8),
        "health": np.array([[45.0, 80.0, 150.0, 9.0, 0.0]]),
        "alive": np.array([[1, 1, 1, 1, 0]]),
        "attacks": np.array([[7, 4, 5, 6, 0]]),
    }
    found = units_of(battles, 0, 2)
    assert found.target is not None and found.target.tolist() == [4, -1, 1, 0, -1]
    np.testing.assert_allclose(found.health, [1, 0.5, 1, 0.2, 0])
    assert found.enemy.tolist() == [False, False, True, True, True]
    assert found.radii.tolist() == [0.375, 0.625, 0.5, 0.375, 0.375]
    assert not found.alive[4]


class Fighters:
    """Everybody attacks the first enemy in range, or walks to the right."""

    def reset(self, num_envs: int) -> None: ...

    def reset_rows(self, rows: Any) -> None: ...

    def act(self, obs: Floats, avail: Bools) -> Any:
        return np.where(avail[..., 5:].any(-1), 5 + avail[..., 5:].argmax(-1), np.where(avail[..., 1], 1, 4))


def made(num_envs: int) -> Any:
    pytest.importorskip("jaxmarl")
    return make_env(env_settings("smax")(name="smax", scenario="3m", max_steps=25), num_envs)


def test_the_tables_are_the_simulators() -> None:
    pytest.importorskip("jaxmarl")
    from phalanx.envs.smax import SmaxSettings
    from phalanx.envs.smax_simulator import make_game

    game = make_game(SmaxSettings().rules())
    np.testing.assert_allclose(game.unit_type_radiuses, RADII)
    np.testing.assert_allclose(game.unit_type_health, HEALTH)
    assert game.map_width == game.map_height == SIZE


def test_a_battle_is_filmed_to_its_end_within_10_ms_a_frame() -> None:
    env = made(2)
    frames = play_frames(env, Fighters(), 1, run_seed=3)
    assert len({frame.shape for frame in frames}) == 1
    for frame in (frames[0], frames[len(frames) // 2]):
        assert (frame == TEAM).all(axis=2).any() and (frame == OPPONENT).all(axis=2).any()
    assert not np.array_equal(frames[0], frames[-1])
    times = []
    for _ in range(20):
        started = process_time()
        env.render(0)
        times.append(process_time() - started)
    assert min(times) < 0.01


def test_attacks_are_known_after_they_were_made() -> None:
    env = made(1)
    obs = env.reset([EpisodeSeeds(1, Purpose.EVALUATION, 0)])
    team, seen = Fighters(), False
    assert (units_of(env._simulator.units(), 0, 3).target == -1).all()
    for _ in range(20):
        actions = team.act(obs.obs, obs.avail)
        step = env.step(actions)
        if step.ended[0]:
            break
        target = units_of(env._simulator.units(), 0, 3).target
        assert target is not None
        expected = np.where(actions[0] >= 5, actions[0] - 5 + 3, -1)
        np.testing.assert_array_equal(target[:3], expected)
        assert set(target[3:].tolist()) <= {-1, 0, 1, 2}
        seen = seen or (actions >= 5).any()
        obs = step.next
    assert seen
