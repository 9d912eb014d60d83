"""Every agent network in the environments with an entity view, from rollout to update and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from phalanx.cluster.learner import Learner
from phalanx.cluster.rollout import Rollout
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.configs.settings import RunSettings
from tests.algorithms.test_networks import ENTITY_NETWORKS, NETWORKS

ENVS: dict[str, dict[str, Any]] = {
    "simple_tag": {"max_steps": 4},
    "simple_spread": {"max_steps": 4},
    "stag_hunt": {"max_steps": 4, "size": 4, "agents": 2, "prey": 2, "view": 1},
}


def run_of(env: str, network: str, sharing: str, algorithm: str) -> RunSettings:
    sections: dict[str, Any] = {
        "mode": "sync",
        "env": {"name": env, **ENVS.get(env, {})},
        "algorithm": {"name": algorithm},
        "agent": {"network": network, "sharing": sharing, "hidden": 8},
        "mixer": {"embed": 4, "hypernet": 6},
        "learner": {"batch_episodes": 4, "device": "cpu"},
        "replay": {"capacity_episodes": 8, "min_episodes": 4},
        "rollout": {"streams": 1, "envs_per_stream": 4},
    }
    return run_from_dict(sections, catalogue=CATALOGUE)


@pytest.mark.parametrize(("algorithm", "sharing"), [("qmix", "full_id"), ("ow_qmix", "none")])
@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("network", NETWORKS)
def test_rollouts_and_updates(network: str, env: str, algorithm: str, sharing: str) -> None:
    """Twice over, to the bit; a learner that loads the state goes on equally."""
    run = run_of(env, network, sharing, algorithm)
    states = []
    for _ in range(2):
        rollout = Rollout(run, [0])
        learner = Learner(run, rollout.spec)
        for sequence in range(2):
            rollout.set_weights(*learner.weights())
            learner.update([rollout.play_round(0, sequence, 0.5).batch])
        rollout.close()
        assert np.isfinite(learner.metrics()["train/loss_td"])
        states.append(learner.algorithm.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    other = Learner(run, rollout.spec)
    other.load_state(learner.state())
    weights = (learner.weights()[0], other.weights()[0])
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("network", ENTITY_NETWORKS)
def test_workers_and_learners_refuse_alike(network: str) -> None:
    run = run_of("matrix", network, "full_id", "qmix")
    with pytest.raises(UserError, match=f"agent.network={network} .*env.name=matrix"):
        Rollout(run, [0])
