"""Every on-policy method in every small environment, that no setting is dead, and runs that are resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.algorithms.on_policy import OnPolicy
from phalanx.algorithms.on_policy_settings import GroupedSettings, OnPolicySettings
from phalanx.algorithms.registry import algorithm_settings, make_algorithm, make_policy
from phalanx.cluster.checkpoint import checkpoint_folders
from phalanx.cluster.learner import Learner
from phalanx.cluster.loop import train_serially
from phalanx.cluster.rollout import Rollout
from phalanx.cluster.run_folder import CATALOGUE, RunFolder
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import TeamSpec
from tests.algorithms.helpers import SPEC
from tests.algorithms.on_policy_helpers import CONTINUOUS, ON_POLICY
from tests.algorithms.test_registry import ENVS, leaves, same, with_value

PAYS_AGENTS = {"name": "specialisation", "agents": 3, "max_steps": 5}
SMALL: dict[str, Any] = {
    "mode": "sync",
    "agent": {"hidden": 8},
    "learner": {"device": "cpu"},
    "rollout": {"streams": 1, "envs_per_stream": 4},
}


def run_of(algorithm: dict[str, Any] | str, env: Any = "simple_spread", **sections: Any) -> RunSettings:
    algorithm = {"name": algorithm} if isinstance(algorithm, str) else algorithm
    env = ENVS[env] if isinstance(env, str) else env
    return run_from_dict({**SMALL, "env": env, "algorithm": algorithm, **sections}, catalogue=CATALOGUE)


def trained(run: RunSettings, updates: int) -> Learner:
    """Learned from what its own policy played."""
    rollout = Rollout(run, [0])
    learner = Learner(run, rollout.spec)
    for sequence in range(updates):
        rollout.set_weights(*learner.weights())
        learner.update([rollout.play_round(0, sequence, 1.0).batch])
    rollout.close()
    return learner


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("name", ON_POLICY)
def test_every_method_learns_in_every_environment(name: str, env: str) -> None:
    """Three updates, finite and not without effect; in its own play nothing is stale."""
    run = run_of(name, env)
    learner = trained(run, 3)
    metrics = learner.metrics()
    grouped = issubclass(algorithm_settings(name), GroupedSettings)
    assert {"train/loss_value", "train/loss_policy", "train/entropy", "train/kl", "train/staleness"} <= set(metrics)
    assert ("train/baseline_drift" in metrics) == grouped
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert metrics["train/staleness"] < 1e-5 and metrics["train/entropy"] > 0
    if grouped:
        assert metrics["train/baseline_drift"] < 1e-6
    before, after = make_algorithm(run, learner.algorithm.spec).state_dict(), learner.algorithm.state_dict()
    for module in ("actors", "critic", "value_norm"):
        assert any(not torch.equal(before[key], after[key]) for key in after if key.startswith(f"{module}.")), module


@pytest.mark.parametrize("network", ["gru", "mlp", "hyper_linear", "hyper_mlp"])
@pytest.mark.parametrize("sharing", ["full", "full_id", "groups", "none"])
def test_every_sharing_and_network_learns(sharing: str, network: str) -> None:
    for name in ("ippo", "happo"):
        learner = trained(run_of(name, agent={"hidden": 8, "network": network, "sharing": sharing}), 2)
        assert all(np.isfinite(value) for value in learner.metrics().values())


@pytest.mark.parametrize("name", ON_POLICY)
def test_policies_of_continuous_actions_are_built_and_sample(name: str) -> None:
    run = run_of(name)
    policy = make_policy(run, CONTINUOUS)
    policy.load_weights(make_algorithm(run, CONTINUOUS).policy_weights())
    obs, avail = np.zeros((2, 3, 4), np.float32), np.ones((2, 3, 0), np.bool_)
    actions = policy.act(obs, policy.initial_state(2), avail, np.random.default_rng(0), 1.0)
    assert actions.shape == (2, 3, 2) and actions.dtype == np.float32 and (actions[:, 2, 1] == 0).all()
    assert policy.log_prob is not None and policy.log_prob.shape == (2, 3)


def test_agents_are_paid_one_by_one() -> None:
    for name in ON_POLICY:
        learner = trained(run_of({"name": name, "rewards": "agents"}, PAYS_AGENTS), 2)
        assert all(np.isfinite(value) for value in learner.metrics().values())
    with pytest.raises(UserError, match=r"algorithm\.rewards=agents .* env\.name=matrix pays the team alone"):
        trained(run_of({"name": "mappo", "rewards": "agents"}, "matrix"), 1)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ({"name": "mappo", "epochs": 0}, ["epochs"]),
        ({"name": "mappo", "minibatches": 0}, ["minibatches"]),
        ({"name": "mappo", "chunk_length": 0}, ["chunk_length"]),
        ({"name": "mappo", "clip": 0}, ["clip"]),
        ({"name": "mappo", "gae_lambda": 1.5}, ["gae_lambda", "1.5"]),
        ({"name": "mappo", "rewards": "agent"}, ["rewards", "agent", "team, agents"]),
        ({"name": "mappo", "correction": "v_trace"}, ["correction", "v_trace", "vtrace, ratios, none"]),
        ({"name": "mappo", "groups": "none"}, ["groups"]),
        ({"name": "haa2c", "clip": 0.2}, ["clip"]),
        ({"name": "hatrpo", "backtrack": 1.0}, ["backtrack"]),
        ({"name": "happo", "groups": "some"}, ["groups", "some"]),
        ({"name": "happo", "groups": "spec", "groups_seed": 1}, ["groups_seed=1", "groups=spec", "random"]),
        ({"name": "mapo"}, ["mapo", "mappo"]),
    ],
)
def test_wrong_settings_are_refused_by_name(algorithm: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        run_of(algorithm)
    for word in words:
        assert word in str(error.value), error.value


@pytest.mark.parametrize("name", ["mappo", "happo"])
def test_critics_of_the_state_need_one(name: str) -> None:
    with pytest.raises(UserError, match=f"={name} has a critic that sees the global state, but nowhere has none"):
        make_algorithm(run_of(name), replace(SPEC, state_dim=0))
    make_algorithm(run_of("ippo"), replace(SPEC, state_dim=0))


# -- no setting is dead ------------------------------------------------------------------------------------------------

OTHER: dict[str, Any] = {
    "lr": 2e-3,
    "gamma": 0.5,
    "optimiser": "rmsprop",
    "grad_norm_clip": 1e-3,
    "critic_lr": 2e-3,
    "epochs": 2,
    "minibatches": 2,
    "chunk_length": 2,
    "gae_lambda": 0.3,
    "advantage_norm": False,
    "entropy": 0.5,
    "value_norm": False,
    "value_clip": 1e-3,
    "huber_delta": 1e-3,
    "correction": "none",
    "rho_max": 0.8,
    "c_max": 0.8,
    "clip": 1e-4,
    "groups": [[0, 1], [2]],
    "kl_limit": 1e-4,
    "cg_iterations": 1,
    "damping": 3.0,
    "line_search": 1,
    "backtrack": 0.3,
    "accept": 0.99,
}
# What makes a difference: several epochs, stale batches, a step that must be shortened.
BESIDES: dict[str, dict[str, Any]] = {
    "line_search": {"kl_limit": 3.0, "damping": 0.0},
    "backtrack": {"kl_limit": 3.0, "damping": 0.0},
    "accept": {"kl_limit": 3.0, "damping": 0.0},
}
ELSEWHERE = {"rewards", "groups_seed"}  # of agents: see above; of random groups: see below
CORE = {path for path, _ in leaves(OnPolicySettings)}
# What the core does with its settings is the same everywhere: asked of a method with one turn and of one with many.
SETTINGS = [
    (name, path)
    for name in ON_POLICY
    for path, _ in leaves(algorithm_settings(name))
    if path not in ELSEWHERE and (path not in CORE or name in ("mappo", "hatrpo"))
]


@pytest.fixture(scope="module")
def episodes() -> tuple[TeamSpec, list[EpisodeBatch]]:
    """Stale ones: all of the first policy."""
    rollout = Rollout(run_of("ippo"), [0])
    played = [rollout.play_round(0, sequence, 1.0).batch for sequence in range(3)]
    rollout.close()
    return rollout.spec, played


def learned(run: RunSettings, episodes: tuple[TeamSpec, Sequence[EpisodeBatch]]) -> dict[str, torch.Tensor]:
    learner = Learner(run, episodes[0])
    learner.update(episodes[1])
    return learner.algorithm.state_dict()


@pytest.mark.parametrize(("name", "path"), SETTINGS)
def test_every_setting_changes_what_is_learned(
    name: str, path: str, episodes: tuple[TeamSpec, list[EpisodeBatch]]
) -> None:
    assert path in OTHER, f"{path} is new: say here which other value to try"
    besides = {"name": name, **BESIDES.get(path, {})}
    plain, changed = run_of(besides), run_of(with_value(besides, path, OTHER[path]))
    assert plain.algorithm != changed.algorithm
    first, again, differently = (learned(run, episodes) for run in (plain, plain, changed))
    assert same(first, again) and not same(first, differently)


def test_random_groups_are_drawn_with_their_seed() -> None:
    spec = replace(SPEC, group_ids=(0, 0, 1), group_names=("a", "b"))
    drawn = []
    for seed in range(6):
        algorithm = make_algorithm(run_of({"name": "happo", "groups": "random", "groups_seed": seed}), spec)
        assert isinstance(algorithm, OnPolicy)
        drawn.append(tuple(map(tuple, algorithm.actors.groups)))
    assert len(set(drawn)) > 1 and ((0, 1), (2,)) not in drawn


@pytest.mark.parametrize("name", ON_POLICY)
def test_network_sizes_reach_the_networks(name: str) -> None:
    shapes = [
        {
            key: value.shape
            for key, value in make_algorithm(run_of(name, agent={"hidden": hidden}), SPEC).state_dict().items()
        }
        for hidden in (8, 11)
    ]
    assert shapes[0].keys() == shapes[1].keys() and shapes[0] != shapes[1]


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mappo", "happo", "hatrpo"])
def test_a_resumed_run_is_the_run(name: str, tmp_path: Path) -> None:
    """Networks, optimisers, statistics of returns, orders and minibatches go on to the bit."""
    run = run_of(
        {"name": name, "minibatches": 2, "epochs": 2},
        rollout={"streams": 2, "envs_per_stream": 2},
        total_env_steps=160,
        evaluation={"every_env_steps": 80, "episodes": 2},
        checkpoint={"every_env_steps": 80, "keep": 9},
        report={"every_env_steps": 40},
    )
    whole, part = tmp_path / "whole", tmp_path / "part"
    train_serially(run, whole)
    shutil.copytree(whole, part)
    newest, *_ = checkpoint_folders(RunFolder.open(part).checkpoints)
    shutil.rmtree(newest)
    (part / "summary.json").unlink()
    train_serially(run, part, resume=True)

    def told(folder: Path) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        timed = ("wall_s", "_ms", "_per_s", "_share", "learner/", "rollout/env_s")
        return [{k: v for k, v in row.items() if not any(word in k for word in timed)} for row in rows]

    assert told(whole) == told(part) and len(told(whole)) >= 4
    last = told(whole)[-1]
    assert last["updates"] == 8 and last["train/staleness"] < 1e-5
