"""OMDPG in whole runs: environments, resuming, metrics, settings, groups."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.algorithms.omdpg import OMDPG, OMDPGSettings
from phalanx.algorithms.registry import make_algorithm, make_policy
from phalanx.cluster.checkpoint import checkpoint_folders
from phalanx.cluster.loop import train_serially
from phalanx.cluster.run_folder import CATALOGUE, RunFolder
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.configs.settings import RunSettings
from tests.algorithms.actor_critic_helpers import batch_of, build, prepared, update
from tests.algorithms.helpers import SPEC
from tests.algorithms.own_episodes import learner_of_own_episodes
from tests.algorithms.test_actor_critic_settings import BESIDES, OF_THE_LEARNER, OF_THE_POLICY, OTHER
from tests.algorithms.test_omdpg import BOXES, TEAM
from tests.algorithms.test_registry import ENVS, leaves, with_value


def run_of(env: dict[str, Any], algorithm: dict[str, Any], **sections: Any) -> RunSettings:
    data: dict[str, Any] = {
        "seed": 5,
        "mode": "sync",
        "total_env_steps": 240,
        "env": {"max_steps": 5, **env},
        "algorithm": {"name": "omdpg", **algorithm},
        "agent": {"hidden": 8},
        "learner": {"batch_episodes": 4, "device": "cpu"},
        "replay": {"samples_per_insert": 2, "min_episodes": 8, "capacity_episodes": 50},
        "rollout": {"streams": 2, "envs_per_stream": 4},
        "exploration": {"env_steps": 200},
        "evaluation": {"every_env_steps": 160, "episodes": 3},
        "checkpoint": {"every_env_steps": 120, "keep": 9},
        "report": {"every_env_steps": 80},
    }
    return run_from_dict({**data, **sections}, catalogue=CATALOGUE)


HUNT = {"name": "stag_hunt_het", "agents": 4, "beaters": 2, "prey": 2, "size": 5}
SPREAD = {"name": "dispersion", "actions": "continuous"}


@pytest.mark.parametrize("env", [*ENVS.values(), HUNT, SPREAD], ids=lambda env: str(env["name"]))
def test_it_learns_in_every_environment(env: dict[str, Any]) -> None:
    """From episodes that its own policy played: two updates, finite, and everything that is trained moves."""
    run = run_of({**env, "max_steps": 3}, {"critic": {"hidden": 8}})
    learner, metrics = learner_of_own_episodes(run)
    groups = len(learner.algorithm.parameter_groups()) - 1
    actors = ["actor"] if groups == 1 else [f"actor_{k}" for k in range(groups)]
    assert set(metrics) >= {
        *(f"train/grad_norm_{name}" for name in ("critic", *actors)),
        *(f"train/{name}" for name in ("loss_td", "loss_pu", "loss_actor", "q_taken_mean", "target_mean")),
        *(f"train/{name}" for name in ("critic_std_unseen", "marginal_contribution", "marginal_contribution_positive")),
        *(f"train/{name}" for name in ("overestimation", "target_spread")),
    }


OURS: dict[str, Any] = {
    **OTHER,
    "omq.continuation": "coordinate",
    "omq.gradient": "expected",
    "omq.perturb": 0.5,
    "gqc.lambda_pu": 0.9,
    "gqc.beta_pu": 0.0,
    "groups_seed": 1,
}
ELSEWHERE = OF_THE_LEARNER | OF_THE_POLICY | {"critic.lr"}  # nothing of OMDPG: see the core's tests
PATHS = [path for path, _ in leaves(OMDPGSettings) if path not in ELSEWHERE]


@pytest.mark.parametrize("path", PATHS)
def test_every_setting_changes_what_is_learned(path: str) -> None:
    assert path in OURS, f"{path} is new: say here which other value to try"
    spec = BOXES if path.startswith("smoothing") else replace(TEAM, agent_rewards=True)
    besides = {"groups": "random"} if path == "groups_seed" else BESIDES.get(path, {})
    outcomes = []
    for settings in (besides, with_value(besides, path, OURS[path])):
        algorithm = build("omdpg", spec, **settings)
        given = prepared(algorithm, batch=batch_of(spec))
        for number in range(1, 4):
            update(algorithm, number, given)
            algorithm.after_update(number)
        outcomes.append([parameter.detach() for parameter in algorithm.parameters()])
    shapes = [[parameter.shape for parameter in outcome] for outcome in outcomes]
    assert shapes[0] != shapes[1] or any(not torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


@pytest.mark.parametrize("network", ["gru", "mlp", "hyper_mlp"])
@pytest.mark.parametrize("sharing", ["full", "none"])
def test_actors_are_agent_networks(network: str, sharing: str) -> None:
    algorithm = build("omdpg", TEAM, agent={"network": network, "sharing": sharing})
    before = [parameter.clone() for parameter in algorithm.actors.parameters()]
    update(algorithm, 1, prepared(algorithm))
    assert any(not torch.equal(a, b) for a, b in zip(before, algorithm.actors.parameters(), strict=True))


@pytest.mark.parametrize(
    ("env", "algorithm"),
    [
        (HUNT, {"groups": "random", "groups_seed": 3, "omq": {"continuation": "coordinate", "perturb": 0.1}}),
        (SPREAD, {"groups": [[0, 1], [2], [3]], "target_steps": 3}),
    ],
    ids=["discrete", "continuous"],
)
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    env: dict[str, Any], algorithm: dict[str, Any], tmp_path: Path
) -> None:
    run, whole, resumed = run_of(env, algorithm), tmp_path / "whole", tmp_path / "resumed"
    train_serially(run, whole)
    shutil.copytree(whole, resumed)
    for folder in checkpoint_folders(RunFolder.open(resumed).checkpoints)[:-1]:  # newest first
        shutil.rmtree(folder)
    (resumed / "summary.json").unlink()
    train_serially(run, resumed, resume=True)

    def told(out: Path) -> dict[str, Any]:
        row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        return {
            key: row[key] for key in row if key.startswith(("train/", "eval/", "rollout/return")) and "_s" not in key
        }

    assert told(whole) == told(resumed) and told(whole)["train/loss_pu"] > 0


def test_players_share_actors_as_the_learner_does() -> None:
    """Also where groups are drawn: workers and learner draw the same."""
    run = run_of(HUNT, {"groups": "random", "groups_seed": 3})
    spec = replace(TEAM, n_agents=4, agent_names=tuple("abcd"), obs_dims=(4,) * 4, action_dims=(4,) * 4)
    spec = replace(spec, group_ids=(0, 0, 1, 1))
    algorithm = make_algorithm(run, spec)
    assert isinstance(algorithm, OMDPG)
    assert len(algorithm.actors.groups) == 2 and [0, 1] not in algorithm.actors.groups
    policy = make_policy(run, spec)
    policy.load_weights(algorithm.policy_weights())
    obs, avail = np.ones((2, 4, 4), np.float32), np.ones((2, 4, 4), np.bool_)
    actions = policy.act(obs, policy.initial_state(2), avail, np.random.default_rng(0), 0.0)
    inputs = torch.zeros(1, 8, 4 + 4 + 4)
    inputs[..., :4], inputs[..., 8:] = 1, torch.eye(4).repeat(2, 1)
    expected = algorithm.actors(inputs, torch.ones(1, 2, 4, 4, dtype=torch.bool)).mode()[0]
    assert np.array_equal(actions, expected.numpy())


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ({"omq": {"continuation": "gredy"}}, ["algorithm.omq.continuation", "gredy", "greedy, coordinate"]),
        ({"omq": {"perturb": 1.5}}, ["algorithm.omq.perturb", "1.5"]),
        ({"gqc": {"lambda_pu": -1}}, ["algorithm.gqc.lambda_pu", "-1"]),
        ({"groups": "some"}, ["algorithm.groups", "some", "spec", "random"]),
        ({"groups_seed": 3}, ["groups_seed=3 has no effect with groups=spec", "groups=random"]),
        ({"critic": {"members": 0}}, ["algorithm.critic.members", "0"]),
    ],
)
def test_wrong_settings_are_refused_by_name(algorithm: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        run_of(HUNT, algorithm)
    for word in words:
        assert word in str(error.value), error.value


def test_what_does_not_fit_the_team_is_refused() -> None:
    for algorithm, spec, words in (
        ({"groups": [[0, 1]]}, TEAM, r"algorithm\.groups=\[\[0, 1\]\] leaves out agent 2"),
        ({"groups": "random"}, SPEC, r"algorithm\.groups=random .* nowhere has one group"),
        ({"omq": {"continuation": "coordinate"}}, BOXES, r"omq\.continuation=coordinate .* set .*=greedy"),
        ({"omq": {"gradient": "expected"}}, BOXES, r"omq\.gradient=expected .* set .*=sampled"),
    ):
        with pytest.raises(UserError, match=words):
            make_algorithm(run_of(HUNT, algorithm), spec)
