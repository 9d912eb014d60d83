from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import phalanx
from phalanx.cluster.checkpoint import checkpoint_folders
from phalanx.cluster.evaluation import Evaluator
from phalanx.cluster.loop import train_serially
from phalanx.cluster.policy import load_policy
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.envs.registry import make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose

RUN = run_from_dict(
    {
        "mode": "sync",
        "total_env_steps": 400,
        "env": {"name": "simple_spread", "max_steps": 10},
        "algorithm": {"name": "vdn"},
        "agent": {"hidden": 8},
        "learner": {"batch_episodes": 4, "device": "cpu"},
        "replay": {"samples_per_insert": 4, "min_episodes": 4, "capacity_episodes": 40},
        "rollout": {"streams": 1, "envs_per_stream": 4},
        "evaluation": {"episodes": 4},
        "checkpoint": {"every_env_steps": 200},
    },
    catalogue=CATALOGUE,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "spread"
    train_serially(RUN, out)
    return out


def test_it_plays_what_the_evaluation_saw(trained: Path) -> None:
    team = phalanx.load_policy(trained)
    assert team.run == RUN and team.spec.n_agents == 3
    judge = Evaluator(RUN)
    judge.set_weights(team.weights, 0)
    expected = judge.evaluate()
    env = make_env(RUN.env, 4)
    seen = env.reset([EpisodeSeeds(RUN.seed, Purpose.EVALUATION, e) for e in range(4)])
    team.reset(4)
    returns = np.zeros(4)
    for _ in range(10):
        step = env.step(team.act(seen.obs, seen.avail))
        returns += step.reward
        seen = step.next
    assert step.ended.all()
    np.testing.assert_array_equal(returns.astype(np.float32), expected.returns)


def test_one_environment_needs_no_batch_axis(trained: Path) -> None:
    team = load_policy(trained)
    obs = np.random.default_rng(0).normal(size=(5, 3, team.spec.obs_dim)).astype(np.float32)
    avail = np.ones((3, team.spec.n_actions), bool)
    single = [team.act(one, avail) for one in obs]
    assert single[0].shape == (3,)
    team.reset()
    batched = [team.act(one[None], avail[None]) for one in obs]
    np.testing.assert_array_equal(np.stack(single), np.concatenate(batched))


def test_memory_is_kept_until_it_is_reset(trained: Path) -> None:
    team = load_policy(trained)
    rng = np.random.default_rng(1)
    sequence = [rng.normal(size=(2, 3, team.spec.obs_dim)).astype(np.float32) * 3 for _ in range(30)]
    first = np.stack([team.act(obs) for obs in sequence])
    going_on = np.stack([team.act(obs) for obs in sequence])
    team.reset(2)
    np.testing.assert_array_equal(np.stack([team.act(obs) for obs in sequence]), first)
    team.reset_rows(np.array([0]))
    partly = np.stack([team.act(obs) for obs in sequence])
    np.testing.assert_array_equal(partly[:, 0], first[:, 0])
    np.testing.assert_array_equal(partly[:, 1], going_on[:, 1])


def test_unavailable_actions_are_never_taken(trained: Path) -> None:
    team = load_policy(trained)
    avail = np.zeros((7, 3, team.spec.n_actions), bool)
    avail[..., 2] = True
    assert (team.act(np.zeros((7, 3, team.spec.obs_dim), np.float32), avail) == 2).all()


def test_wrong_shapes_are_a_sentence(trained: Path) -> None:
    team = load_policy(trained)
    with pytest.raises(ValueError, match=r"obs has shape \(3, 2\)"):
        team.act(np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="avail has shape"):
        team.act(np.zeros((3, team.spec.obs_dim), np.float32), np.ones((3, 1), bool))


def test_a_checkpoint_can_be_chosen(trained: Path) -> None:
    newest, older = checkpoint_folders(trained / "checkpoints")
    chosen = load_policy(trained, checkpoint=older.name).weights
    same = load_policy(older).weights
    latest = load_policy(trained).weights
    assert all((chosen[name] == same[name]).all() for name in chosen)
    assert any((chosen[name] != latest[name]).any() for name in chosen)
    with pytest.raises(UserError, match=f"no checkpoint step_1; there are: {newest.name}, {older.name}"):
        load_policy(trained, checkpoint="step_1")


def test_a_damaged_newest_checkpoint_is_warned_of(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    newest, older = checkpoint_folders(tmp_path / "run/checkpoints")
    (newest / "policy.npz").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match=f"{newest.name} is damaged.*using {older.name}"):
        load_policy(tmp_path / "run")
    with pytest.raises(UserError, match="is damaged"):
        load_policy(newest)


def test_nothing_to_load_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [
        ({"name": "mappo"}, {"name": "dispersion", "max_steps": 8, "actions": "continuous"}),
        ({"name": "mappo"}, {"name": "simple_spread", "max_steps": 8}),
        ({"name": "masac"}, {"name": "dispersion", "max_steps": 8, "actions": "continuous"}),
    ],
    ids=lambda section: section["name"],
)
def test_actors_are_trained_kept_evaluated_and_loaded(
    algorithm: dict[str, object], env: dict[str, object], tmp_path: Path
) -> None:
    """A stochastic policy explores in training and is deterministic afterwards."""
    on_policy = algorithm["name"] == "mappo"
    sections = {
        "mode": "sync",
        "total_env_steps": 120,
        "env": env,
        "algorithm": algorithm,
        "agent": {"hidden": 8},
        "learner": {"device": "cpu", **({} if on_policy else {"batch_episodes": 4})},
        "rollout": {"streams": 1, "envs_per_stream": 4},
        "evaluation": {"episodes": 3},
        "checkpoint": {"every_env_steps": 200},
        **({} if on_policy else {"replay": {"samples_per_insert": 4, "min_episodes": 4, "capacity_episodes": 40}}),
    }
    run = run_from_dict(sections, catalogue=CATALOGUE)
    summary = train_serially(run, tmp_path / "run")
    assert summary["updates"] > 0
    teams = [load_policy(tmp_path / "run") for _ in range(2)]
    spec = teams[0].spec
    obs = np.random.default_rng(2).normal(size=(6, 5, spec.n_agents, spec.obs_dim)).astype(np.float32)
    acted = [np.stack([team.act(each) for each in obs]) for team in teams]
    np.testing.assert_array_equal(*acted)
    if spec.discrete:
        assert acted[0].shape == (6, 5, spec.n_agents) and np.issubdtype(acted[0].dtype, np.integer)
    else:
        assert acted[0].shape == (6, 5, spec.n_agents, max(spec.action_dims)) and acted[0].dtype == np.float32
    judge = Evaluator(run)
    judge.set_weights(teams[0].weights, 0)
    assert judge.evaluate().returns.mean() == summary["final"]["eval/return_mean"]
    judge.close()
