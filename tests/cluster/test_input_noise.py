"""Runs with noise inside the networks are as exact as those without, and their noise is no environment's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from phalanx.algorithms.registry import make_algorithm
from phalanx.cluster.checkpoint import checkpoint_folders
from phalanx.cluster.loop import train_serially
from phalanx.cluster.policy import load_policy
from phalanx.cluster.rollout import Rollout
from phalanx.configs.settings import RunSettings
from tests.cluster.test_loop import run_of

NOISE = {"noise": {"demar": 0.5}}


def noisy_run(**sections: object) -> RunSettings:
    return run_of(env={**NOISE}, total_env_steps=640, **sections)


def test_a_stream_plays_the_same_whoever_hosts_it_and_whenever() -> None:
    run = noisy_run()
    together, alone, quiet = Rollout(run, [0, 1]), Rollout(run, [1]), Rollout(run_of(), [1])
    weights = {name: 30 * values for name, values in make_algorithm(run, alone.spec).policy_weights().items()}
    for rollout in (together, alone, quiet):
        rollout.set_weights(weights, 1)
    for sequence in (0, 1):
        together.play_round(0, sequence, 0.1)
    chunks = [rollout.play_round(1, 1, 0.1).batch for rollout in (together, alone)]
    for name, values in vars(chunks[0]).items():
        np.testing.assert_array_equal(values, getattr(chunks[1], name), err_msg=name)
    same, other = (rollout.play_round(1, 1, 0.0).batch.actions for rollout in (quiet, alone))
    assert (same != other).any()


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    run = noisy_run(checkpoint={"every_env_steps": 300})
    train_serially(run, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(checkpoint_folders(tmp_path / "again/checkpoints")[0])
    train_serially(run, tmp_path / "again", resume=True)
    one, other = ((tmp_path / each / "evaluations.json").read_bytes() for each in ("whole", "again"))
    assert one == other
    weights, resumed = (load_policy(tmp_path / each).weights for each in ("whole", "again"))
    assert all(np.array_equal(weights[name], resumed[name]) for name in weights)


def test_a_loaded_team_begins_its_noise_anew_with_each_reset(tmp_path: Path) -> None:
    """As an opponent it must not depend on what was played before."""
    run = run_of(env={"noise": {"demar": 5.0}}, total_env_steps=80)
    train_serially(run, tmp_path / "run")
    team = load_policy(tmp_path / "run")
    obs = np.random.default_rng(0).normal(size=(4, team.spec.n_agents, team.spec.obs_dim)).astype(np.float32)

    def play() -> list[list[int]]:
        return [team.act(obs).ravel().tolist() for _ in range(10)]

    team.reset(4)
    first = play()
    assert play() != first
    team.reset_rows(np.arange(4))
    assert play() == first
    team.reset(4)
    assert play() == first
