"""The off-policy actor-critic methods in whole runs: environments, resuming, metrics, settings, frozen opponents."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.algorithms.actor_critic import Prepared
from phalanx.cluster import cli
from phalanx.cluster.checkpoint import checkpoint_folders
from phalanx.cluster.freeze import freeze
from phalanx.cluster.loop import train_serially
from phalanx.cluster.policy import load_policy
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import UserError
from phalanx.configs.load import load_run, run_from_dict
from phalanx.configs.settings import RunSettings
from phalanx.envs.frozen import FrozenPolicy
from phalanx.envs.registry import env_settings, make_env
from tests.algorithms.actor_critic_helpers import (
    ACTORS,
    SEQUENTIAL,
    SIDES,
    build,
    prepared,
    update,
)
from tests.algorithms.own_episodes import learner_of_own_episodes
from tests.algorithms.test_registry import ENVS

SMALL: dict[str, Any] = {
    "mode": "sync",
    "total_env_steps": 240,
    "env": {"name": "simple_tag", "max_steps": 5},
    "agent": {"hidden": 8},
    "learner": {"batch_episodes": 4, "device": "cpu"},
    "replay": {"samples_per_insert": 4, "capacity_episodes": 16, "min_episodes": 4},
    "rollout": {"streams": 1, "envs_per_stream": 4},
    "evaluation": {"episodes": 4, "every_env_steps": 120},
    "checkpoint": {"every_env_steps": 100, "keep": 9},
    "report": {"every_env_steps": 40},
    "exploration": {"env_steps": 100},
}


def run_of(name: str, **sections: Any) -> RunSettings:
    data = {**SMALL, "algorithm": {"name": name, "critic": {"hidden": 8}}}
    for section, values in sections.items():
        data[section] = {**data[section], **values} if isinstance(values, dict) else values
    return run_from_dict(data, catalogue=CATALOGUE)


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("name", ACTORS)
def test_every_method_learns_in_every_environment(name: str, env: str) -> None:
    """From episodes that its own policy played: two updates, finite, and everything that is trained moves."""
    run = run_of(name, env={**ENVS[env], "max_steps": 3})
    learner_of_own_episodes(run)


@pytest.mark.parametrize("sharing", ["full", "full_id", "groups", "none"])
@pytest.mark.parametrize("network", ["gru", "mlp", "hyper_linear", "hyper_mlp"])
def test_actors_are_agent_networks(network: str, sharing: str) -> None:
    spec = SIDES
    for name in ("masac", "haddpg"):
        algorithm = build(name, spec, agent={"network": network, "sharing": sharing})
        before = [parameter.clone() for parameter in algorithm.actors.parameters()]
        update(algorithm, 1, prepared(algorithm))
        assert any(not torch.equal(a, b) for a, b in zip(before, algorithm.actors.parameters(), strict=True))


def test_sequential_methods_have_an_actor_for_each_agent_or_group() -> None:
    for name in SEQUENTIAL:
        assert build(name, SIDES).actors.groups == [[0], [1], [2]]
        assert build(name, SIDES, groups="spec").actors.groups == [[0, 2], [1]]
        assert build(name, SIDES, groups=[[0], [1, 2]]).actors.groups == [[0], [1, 2]]
    assert build("maddpg", SIDES).actors.groups == [[0, 1, 2]]


@pytest.mark.parametrize("name", ["masac", "hatd3"])
def test_a_resumed_run_equals_one_that_was_never_stopped(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    run = run_of(name)
    train_serially(run, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    folder = tmp_path / "stopped/checkpoints"
    for newer in checkpoint_folders(folder)[:-1]:  # newest first
        shutil.rmtree(newer)
    (tmp_path / "stopped/summary.json").unlink()
    train_serially(run, tmp_path / "stopped", resume=True)
    same = [(tmp_path / out / "evaluations.json").read_bytes() for out in ("whole", "stopped")]
    assert same[0] == same[1]
    ends = [load_policy(tmp_path / out).weights for out in ("whole", "stopped")]
    assert all(np.array_equal(ends[0][key], ends[1][key]) for key in ends[0])


COMMON = {
    *("loss_td", "q_taken_mean", "target_mean", "loss_actor", "grad_norm_critic"),
    *("q_start_mean", "mc_return_mean", "overestimation", "overestimation_relative", "return_scale"),
    *("td_error_abs_mean", "td_error_p10", "td_error_p50", "td_error_p90"),
}
METRICS = {
    "maddpg": {"grad_norm_actor"},
    "matd3": {"grad_norm_actor"},
    "masac": {"grad_norm_actor", "entropy_mean", "temperature", "loss_temperature", "grad_norm_temperature"},
    "haddpg": {"grad_norm_actor_0", "grad_norm_actor_1", "grad_norm_actor_2"},
    "hatd3": {"grad_norm_actor_0", "grad_norm_actor_1", "grad_norm_actor_2"},
    "hasac": {
        *("grad_norm_actor_0", "grad_norm_actor_1", "grad_norm_actor_2"),
        *("entropy_mean", "temperature", "loss_temperature", "grad_norm_temperature"),
    },
}


@pytest.mark.parametrize("name", ACTORS)
def test_a_run_reports_these_metrics(name: str, tmp_path: Path) -> None:
    train_serially(run_of(name, total_env_steps=120), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    reported = {key.removeprefix("train/") for row in rows for key in row if key.startswith("train/")}
    several = set() if name in ("maddpg", "haddpg") else {"target_spread"}
    assert reported == COMMON | METRICS[name] | several


@pytest.mark.parametrize("name", ["matd3", "hasac"])
def test_a_prioritised_replay_hears_of_the_critics_errors(name: str, tmp_path: Path) -> None:
    train_serially(run_of(name, total_env_steps=120, replay={"sampling": "prioritised"}), tmp_path / "run")
    algorithm = build(name)
    given = prepared(algorithm)
    step = algorithm.critic_step(given, with_errors=True)
    values = algorithm.critics(given.state[:-1], given.joint.flatten(-2))
    size = (values - algorithm.target(given)).abs().mean(0).detach()
    expected = [0.9 * size[:n, b].max() + 0.1 * size[:n, b].mean() for b, n in enumerate(lengths_of(given))]
    assert step.errors is not None
    torch.testing.assert_close(step.errors, torch.stack(expected))


def lengths_of(given: Prepared) -> list[int]:
    return [int(length) for length in given.mask.sum(0)]


# -- frozen opponents --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A moment of the run that the opponents of simple_tag come from."""
    short = ["total_env_steps=1600", "env.max_steps=10", "replay.min_episodes=16", "algorithm.lr=0.02"]
    out = tmp_path_factory.mktemp("runs") / "both"
    train_serially(load_run("maddpg_tag_both", ["mode=sync", *short], catalogue=CATALOGUE), out)
    return out


def test_frozen_opponents_act_as_the_team_they_were_taken_from(both: Path, tmp_path: Path) -> None:
    """In numpy, from a file, and from the checkpoint itself: the same episodes."""
    freeze(both, "opponents").save(tmp_path / "prey.npz")
    again = FrozenPolicy.load(tmp_path / "prey.npz")
    team = load_policy(both)
    rng = np.random.default_rng(0)
    obs = rng.normal(scale=50, size=(300, 4, 16)).astype(np.float32)  # after so few updates
    obs[:, 3, 14:] = 0
    theirs = team.act(obs)[:, 3]
    ours = again.act(obs[:, 3:, :14], np.ones((300, 1, 5), np.bool_))[:, 0]
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 1
    played = []
    settings = {"name": "simple_tag", "opponents": f"checkpoint:{both}"}
    for load in (load_policy, lambda _: again):
        env = make_env(env_settings("simple_tag").model_validate(settings), 4, load)
        env.reset([itertools.count(k) for k in range(4)])
        rng = np.random.default_rng(2)
        played.append(np.array([env.step(rng.integers(5, size=(4, 3))).next.state for _ in range(24)]))
    np.testing.assert_array_equal(*played)


def test_the_command_line_freezes(both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["freeze", str(both), str(tmp_path / "prey.npz"), "--group", "opponents"]) == 0
    assert FrozenPolicy.load(tmp_path / "prey.npz").sizes == (14, 5)
    assert cli.main(["freeze", str(both), str(tmp_path / "prey.npz"), "--group", "rabbits"]) == 2
    assert "has no group rabbits" in capsys.readouterr().err


def test_a_run_whose_policy_cannot_be_frozen_says_why(both: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no group prey: its groups are team, opponents"):
        freeze(both, "prey")
    with pytest.raises(UserError, match=r"agents that see equally much"):
        freeze(both)
    train_serially(run_of("maddpg", total_env_steps=40), tmp_path / "gru")
    with pytest.raises(UserError, match=r"with agent\.network=gru: a frozen policy needs agent\.network=mlp"):
        freeze(tmp_path / "gru")
