"""Both sides learn (`env.opponents=learning`): never from the team's reward, which would teach opponents to lose."""

from __future__ import annotations

from typing import Any

import pytest

from phalanx.algorithms.registry import ALGORITHMS, algorithm_settings, make_algorithm
from phalanx.cluster.policy import load_policy
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.configs.settings import RunSettings
from phalanx.envs.registry import make_env

KEYS = {name: algorithm_settings(name).rewards_key for name in ALGORITHMS}


def run_of(name: str, opponents: str = "learning", env: str = "simple_tag", **algorithm: Any) -> RunSettings:
    data = {"env": {"name": env, "opponents": opponents}, "algorithm": {"name": name, **algorithm}}
    return run_from_dict({**data, "agent": {"hidden": 8}}, catalogue=CATALOGUE)


def paying(name: str, value: str) -> dict[str, Any]:
    return {"critic": {"rewards": value}} if KEYS[name] == "critic.rewards" else {"rewards": value}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_opponents_do_not_learn_from_the_teams_reward(name: str) -> None:
    key = KEYS[name]
    advice = f"set algorithm.{key} to another" if key else f"algorithm.name={name} learns from the team's reward alone"
    with pytest.raises(UserError, match=rf"env\.opponents=learning pays each side of simple_tag .*{advice}"):
        run_of(name)
    run_of(name, "random")


@pytest.mark.parametrize("env", ["simple_tag", "simple_world", "simple_adversary"])
@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key is not None])
def test_where_each_agent_is_paid_both_sides_may_learn(name: str, env: str) -> None:
    run = run_of(name, env=env, **paying(name, "agents"))
    spec = make_env(run.env, 1, load_policy).spec
    make_algorithm(run, spec)
    if KEYS[name] == "critic.rewards":
        make_algorithm(run_of(name, env=env, **paying(name, "groups")), spec)
