"""SMAX without its simulator: scenarios, sizes, who is who, how a battle ends, and what is said when it is missing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from phalanx.algorithms.common.grouping import resolve_groups
from phalanx.algorithms.common.networks.view import AgentView
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AgentSettings
from phalanx.envs import smax_simulator
from phalanx.envs.smac_maps import MAPS
from phalanx.envs.smax import Smax, SmaxSettings
from phalanx.envs.smax_scenarios import (
    NOT_IN_SMAX,
    PERFECT,
    SCENARIOS,
    listed_scenario,
    named_scenario,
    outcome,
    scaled,
    team_spec,
)

SIZES = {  # agents, observation, state, actions: as measured with the simulator
    "2s3z": (5, 127, 120, 10),
    "3s5z": (8, 205, 192, 13),
    "5m_vs_6m": (5, 140, 132, 11),
    "6h_vs_8z": (6, 179, 168, 13),
    "3s5z_vs_3s6z": (8, 218, 204, 14),
    "10m_vs_11m": (10, 270, 252, 16),
    "27m_vs_30m": (27, 738, 684, 35),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_known_scenarios(name: str) -> None:
    spec = team_spec(SCENARIOS[name], SCENARIOS[name].limit, {})
    assert (spec.n_agents, spec.obs_dim, spec.state_dim, spec.n_actions) == SIZES[name]


def test_units_and_limits_of_shared_maps_are_smac_s() -> None:
    shared = set(SCENARIOS) & set(MAPS)
    assert len(shared) == 11
    for name in shared:
        ours, smacs = SCENARIOS[name], MAPS[name]
        assert (ours.allies, ours.enemies, ours.limit) == (smacs.allies, smacs.enemies, smacs.limit)
    assert {scenario.limit for name, scenario in SCENARIOS.items() if name not in shared} == {200}
    assert set(NOT_IN_SMAX) <= set(MAPS)


def test_a_unit_list_is_the_named_scenario_of_the_same_units() -> None:
    own = listed_scenario({"allies": {"stalker": 3, "zealot": 5}, "enemies": {"stalker": 3, "zealot": 6}})
    known = SCENARIOS["3s5z_vs_3s6z"]
    assert own.unit_types == known.unit_types == (2, 2, 2, 3, 3, 3, 3, 3, 2, 2, 2, 3, 3, 3, 3, 3, 3)
    assert (own.n_allies, own.n_enemies, own.limit) == (8, 9, 150)


def test_groups_are_types_in_the_order_of_the_list() -> None:
    spec = team_spec(
        listed_scenario({"allies": {"zealot": 2, "marine": 1}, "enemies": {"zergling": 4}}), 30, {"jax": "1"}
    )
    assert spec.group_names == ("zealot", "marine") and spec.group_ids == (0, 0, 1)
    assert spec.agent_names == ("zealot_0", "zealot_1", "marine_0")
    assert spec.episode_limit == 30 and spec.versions == {"jax": "1"} and spec.has_win
    random = team_spec(SCENARIOS["smacv2_5_units"], 200, {})
    assert random.group_ids == () and random.agent_names[4] == "unit_4"


def test_groups_that_change_are_refused_to_whoever_needs_them() -> None:
    random, fixed = (team_spec(SCENARIOS[name], 200, {}) for name in ("smacv2_5_units", "2s3z"))
    with pytest.raises(UserError, match=r"agent\.sharing=groups needs groups that last, .*agent\.sharing=full"):
        AgentView.of(random, AgentSettings(sharing="groups", network="hyper_mlp"))
    by_kind = AgentView.of(random, AgentSettings(sharing="groups"))
    assert by_kind.sets == 6 and by_kind.kinds == tuple(range(random.obs_dim - 6, random.obs_dim))
    with pytest.raises(UserError, match=r"algorithm\.groups=spec needs groups that last"):
        resolve_groups(random, "spec")
    assert resolve_groups(random, "all") == [[0, 1, 2, 3, 4]]
    assert AgentView.of(random, AgentSettings(sharing="full_id")).sets == 1
    assert AgentView.of(fixed, AgentSettings(sharing="groups")).owners == (0, 0, 1, 1, 1)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_entity_view_names_every_number_once(name: str) -> None:
    scenario = SCENARIOS[name]
    spec = team_spec(scenario, 1, {})
    assert spec.entities is not None
    assert spec.entities.columns == tuple(range(spec.obs_dim))
    assert len(spec.entities.allies) == scenario.n_allies - 1
    assert spec.entities.enemy_actions == tuple(range(5, spec.n_actions))


# ---- what the user writes


@pytest.mark.parametrize(
    ("scenario", "sentence"),
    [
        ("3s5zz", r"env\.scenario=3s5zz is not a scenario of SMAX: .* did you mean 3s5z\?"),
        ("MMM2", r"env\.scenario=MMM2: SMAX has no medivacs"),
        ({"allies": {"stalkr": 1}, "enemies": {"marine": 1}}, r"allies: .*no unit stalkr .* did you mean stalker\?"),
        ({"allies": {"ZEALOT": 1}, "enemies": {"marine": 1}}, r"no unit ZEALOT .* did you mean zealot\?"),
        ({"allies": {"marine": 1}, "enemies": {}}, r"env\.scenario\.enemies=\{\} lists no unit"),
        (
            {"allies": {"marine": 0}, "enemies": {"marine": 1}},
            r"env\.scenario\.allies\.marine=0 must be a whole number from 1 on",
        ),
        ({"allies": {"marine": 1}}, r"env\.scenario has the keys allies: it must be a name, or units of both sides"),
    ],
)
def test_a_wrong_scenario_is_refused(scenario: Any, sentence: str) -> None:
    with pytest.raises((UserError, ValidationError), match=sentence):
        SmaxSettings(scenario=scenario)


def test_no_map_is_both_there_and_missing() -> None:
    assert not set(NOT_IN_SMAX) & set(SCENARIOS)
    for name in SCENARIOS:
        assert named_scenario(name) is SmaxSettings(scenario=name).resolved()


def test_rules_differ_by_every_setting_that_the_simulator_knows() -> None:
    plain = SmaxSettings().rules()
    for key, value in {
        "scenario": "8m",
        "enemy_attack": "random",
        "enemy_shoots": False,
        "see_enemy_actions": False,
        "walls_kill": False,
    }.items():
        assert SmaxSettings(**{key: value}).rules() != plain, key
    assert SmaxSettings(max_steps=7, reward="smac").rules() == plain  # nothing is compiled anew for these


# ---- how a battle ends


def test_ends_wins_and_draws() -> None:
    before = np.array([[2, 2], [2, 1], [1, 2], [1, 1], [2, 2]])
    after = np.array([[2, 2], [2, 0], [0, 2], [0, 0], [2, 0]])
    what = outcome(before, after, np.array([60, 3, 3, 60, 60]), 60)
    assert what.terminated.tolist() == [False, True, True, True, True]
    assert what.truncated.tolist() == [True, False, False, False, False]  # a battle decided in its last step is over
    assert what.win.tolist() == [False, True, False, False, True]  # row 3: nobody is left
    assert what.dead_allies.tolist() == [0, 0, 1, 1, 0]
    assert what.dead_enemies.tolist() == [0, 1, 0, 1, 2]


def test_reward_scales() -> None:
    reward = np.array([0.5, 2.0], np.float32)
    np.testing.assert_array_equal(scaled(reward, "smax"), reward)
    assert scaled(reward, "smac").tolist() == [5.0, PERFECT["smac"]] and scaled(reward, "smac").dtype == np.float32


# ---- the extra, threads, cache


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, package: str | None = None) -> Any:
        if name.split(".")[0] in ("jax", "jaxmarl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", absent)
    monkeypatch.setattr(smax_simulator.os, "environ", {})
    smax_simulator.load.cache_clear()
    with pytest.raises(UserError, match=r"env\.name=smax needs jax, which is not installed: pip install .*\[smax\]"):
        Smax(SmaxSettings(), 2)


def test_one_thread_unless_the_user_says_otherwise() -> None:
    fresh: dict[str, str] = {}
    smax_simulator._one_thread(fresh)
    assert fresh["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    chosen = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=true"}
    smax_simulator._one_thread(chosen)
    assert chosen["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=1"


def test_the_cache_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = smax_simulator.cache_folder()
    assert folder is not None and folder.parent == tmp_path / "phalanx" and folder.stat().st_mode & 0o077 == 0
    assert smax_simulator.cache_folder() == folder
    folder.chmod(0o777)
    assert smax_simulator.cache_folder() is None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert smax_simulator.cache_folder() == tmp_path / "mine"
