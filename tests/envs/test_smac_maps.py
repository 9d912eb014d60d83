"""SMAC's maps as a table: what is known of a team without the game."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import UserError
from phalanx.configs.load import load_run
from phalanx.envs.smac import SmacSettings
from phalanx.envs.smac_maps import MAPS, entity_view, named_map, team_spec
from tests.envs.stub_smac import MEDIVAC, PARAMETERS, SIGHT, StarCraft2Env

PAGE = Path(__file__).resolve().parents[2] / "docs" / "smac.md"

# As get_env_info() of github.com/oxwhirl/smac at d6aab33 says: observation, state, actions.
SIZES = {
    "3m": (30, 48, 9),
    "8m": (80, 168, 14),
    "25m": (250, 950, 31),
    "5m_vs_6m": (55, 98, 12),
    "8m_vs_9m": (85, 179, 15),
    "10m_vs_11m": (105, 243, 17),
    "27m_vs_30m": (285, 1170, 36),
    "MMM": (160, 290, 16),
    "MMM2": (176, 322, 18),
    "2s3z": (80, 120, 11),
    "3s5z": (128, 216, 14),
    "3s5z_vs_3s6z": (136, 230, 15),
    "3s_vs_3z": (36, 54, 9),
    "3s_vs_4z": (42, 61, 10),
    "3s_vs_5z": (48, 68, 11),
    "1c3s5z": (162, 270, 15),
    "2m_vs_1z": (16, 26, 7),
    "corridor": (156, 282, 30),
    "6h_vs_8z": (78, 140, 14),
    "2s_vs_1sc": (17, 27, 7),
    "so_many_baneling": (202, 397, 38),
    "bane_vs_bane": (336, 984, 30),
    "2c_vs_64zg": (332, 342, 70),
}


def test_sizes_are_smacs() -> None:
    assert {name: (m.obs_size, m.state_size, m.n_actions) for name, m in MAPS.items()} == SIZES


@pytest.mark.parametrize("name", MAPS)
def test_every_map_makes_a_team(name: str) -> None:
    where = MAPS[name]
    spec = team_spec(where, where.limit, {})
    assert len(spec.agent_names) == len(set(spec.agent_names)) == len(spec.group_ids) == spec.n_agents
    assert list(spec.group_ids) == sorted(spec.group_ids) and len(spec.group_names) == max(spec.group_ids) + 1
    assert spec.entities is not None
    assert spec.entities.columns == tuple(range(spec.obs_dim))  # each number belongs to somebody, none to two
    assert len(spec.entities.enemy_actions) == where.n_enemies and not spec.reproducible


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_stand_in_plays_the_same_maps(name: str) -> None:
    game, where = StarCraft2Env(name), MAPS[name]
    info = game.get_env_info()
    assert (info["n_agents"], info["n_actions"]) == (where.n_allies, where.n_actions)
    assert (info["obs_shape"], info["state_shape"]) == (where.obs_size, where.state_size)
    obs, state = game.reset()
    assert {len(row) for row in obs} == {where.obs_size} and len(state) == where.state_size


@pytest.mark.parametrize("name", PARAMETERS)
def test_who_is_moved_is_seen_in_their_own_columns(name: str) -> None:
    """Only the moved unit's columns change in what agent 0 sees, and they say where it went."""
    game, view = StarCraft2Env(name, seed=4), entity_view(MAPS[name])
    game.reset()
    me = game.agents[0]
    others = [unit for i, unit in game.agents.items() if i]
    for columns, unit in (
        *zip(view.allies, others, strict=True),
        *zip(view.enemies, game.enemies.values(), strict=True),
    ):
        unit.pos.x, unit.pos.y = me.pos.x, me.pos.y
        before = game.get_obs_agent(0)
        unit.pos.x, unit.pos.y = me.pos.x + 0.9, me.pos.y - 1.8
        after = game.get_obs_agent(0)
        assert set(np.flatnonzero(before != after)) <= set(columns)
        np.testing.assert_allclose(after[list(columns)][2:4], [0.9 / SIGHT, -1.8 / SIGHT], rtol=1e-5)
    me.health -= 9
    changed = np.flatnonzero(game.get_obs_agent(0) != after)
    assert len(changed) and set(changed) <= set(view.own)


@pytest.mark.parametrize("name", ["2s3z", "MMM"])
def test_an_attack_on_an_enemy_is_its_action(name: str) -> None:
    game, view = StarCraft2Env(name, seed=4), entity_view(MAPS[name])
    game.reset()
    for j, action in enumerate(view.enemy_actions):
        for enemy in game.enemies.values():
            enemy.pos.x = 1000.0
        game.enemies[j].pos.x, game.enemies[j].pos.y = game.agents[0].pos.x, game.agents[0].pos.y
        assert np.flatnonzero(game.get_avail_agent_actions(0)[6:]).tolist() == [action - 6]
    healers = [i for i, unit in game.agents.items() if unit.unit_type == MEDIVAC]
    assert [MAPS[name].ally_types[i] for i in healers] == ["medivac"] * len(healers)


def test_an_unknown_map_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"env\.scenario=2s3x is not a map of SMAC: .*; did you mean 2s3z\?"):
        named_map("2s3x")
    with pytest.raises(UserError, match=r"; did you mean MMM2\?"):
        named_map("mmm2")
    with pytest.raises(UserError, match="is not a map of SMAC"):
        load_run("qmix_smac_3m", ["env.scenario=3z"], catalogue=CATALOGUE)


def test_the_page_has_the_same_table() -> None:
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert {row[0]: tuple(map(int, row[1:7])) for row in rows} == {
        name: (m.n_allies, m.n_enemies, m.limit, m.obs_size, m.state_size, m.n_actions) for name, m in MAPS.items()
    }
    assert {row[0]: row[7] for row in rows} == {
        name: ", ".join(f"{count} {kind}" for kind, count in m.allies) for name, m in MAPS.items()
    }


def test_runs_have_the_papers_settings() -> None:
    for name in ("qmix_smac_3m", "demar_smac_2s3z"):
        run = load_run(name, catalogue=CATALOGUE)
        assert isinstance(run.env, SmacSettings)
        assert run.env.timeout_is_terminal and run.env.difficulty == 7
        assert (run.total_env_steps, run.exploration.env_steps) == (2_050_000, 50_000)
        assert (run.evaluation.every_env_steps, run.evaluation.episodes) == (10_000, 32)
        assert run.replay.samples_per_insert == run.learner.batch_episodes == 32  # one update per episode
        algorithm = run.algorithm.model_dump()
        assert (algorithm["lr"], algorithm["optimiser"], algorithm["target_update_updates"]) == (5e-4, "rmsprop", 200)
        assert run.env.most_evaluation_envs == 4  # not 32 games
    assert algorithm["ensemble"] == {"agents": 1, "agents_subset": None, "mixers": 3, "mixers_subset": 2}
    assert algorithm["regulariser"] == {"alpha": 0.002} and run.env.noise.demar == 0.02
