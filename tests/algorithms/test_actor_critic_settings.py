"""Settings of the off-policy actor-critic methods: none is dead, and wrong ones are refused with a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.algorithms.registry import make_algorithm
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from tests.algorithms.actor_critic_helpers import (
    ACTORS,
    CONTINUOUS,
    SIDES,
    SOFT,
    batch_of,
    build,
    prepared,
    update,
)
from tests.algorithms.helpers import SPEC
from tests.algorithms.test_registry import leaves, with_value

RUN = {"env": {"name": "simple_tag"}}

OTHER: dict[str, Any] = {
    "target_tau": 0.3,
    "target_steps": 3,
    "actor_every": 3,
    "critic.members": 4,
    "critic.subset": 1,
    "critic.improve": "mean",
    "critic.improve_subset": 1,
    "critic.sensitivity": 0.5,
    "critic.rewards": "agents",
    "critic.hidden": 9,
    "critic.depth": 3,
    "critic.lr": 0.01,
    "gamma": 0.5,
    "smoothing": 0.7,
    "smoothing_clip": 0.05,
    "sampled_targets": True,
    "logit_penalty": 0.5,
    "others": "current",
    "groups": "all",
    "temperature.initial": 0.5,
    "temperature.learned": False,
    "temperature.target": 0.9,
    "temperature.lr": 0.1,
}
OF_THE_LEARNER = {"lr", "optimiser", "grad_norm_clip"}  # see test_registry.py
OF_THE_POLICY = {"action_noise"}
BESIDES: dict[str, dict[str, Any]] = {
    "critic.subset": {"critic": {"members": 3}},
    "critic.improve": {"critic": {"members": 3, "improve": "min"}},
    "critic.improve_subset": {"critic": {"members": 3, "improve": "min"}},
    "smoothing_clip": {"smoothing": 0.9, "smoothing_clip": 0.5},
    "sampled_targets": {"sampled_targets": False},
    "smoothing": {"smoothing": 0.1},
}
CASES = [
    (name, path) for name in ACTORS for path, _ in leaves(type(build(name).settings)) if path not in OF_THE_LEARNER
]


@pytest.mark.parametrize(("name", "path"), sorted({case for case in CASES if case[1] not in OF_THE_POLICY}))
def test_every_setting_changes_what_is_learned(name: str, path: str) -> None:
    assert path in OTHER, f"{path} is new: say here which other value to try"
    spec = CONTINUOUS if path.startswith("smoothing") else SIDES
    outcomes = []
    for settings in (BESIDES.get(path, {}), with_value(BESIDES.get(path, {}), path, OTHER[path])):
        algorithm = build(name, spec, **settings)
        given = prepared(algorithm, batch=batch_of(spec))
        for number in range(1, 5):
            groups = algorithm.parameter_groups()
            for step in algorithm.steps(given):
                gradients = torch.autograd.grad(step.loss, groups[step.group], allow_unused=True)
                with torch.no_grad():
                    for parameter, gradient in zip(groups[step.group], gradients, strict=True):
                        if gradient is not None:
                            parameter -= algorithm.learning_rate(step.group) * gradient
            algorithm.after_update(number)
        outcomes.append([parameter.detach() for parameter in algorithm.parameters()])
    shapes = [[parameter.shape for parameter in outcome] for outcome in outcomes]
    assert shapes[0] != shapes[1] or any(not torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


def test_noise_is_of_the_policy() -> None:
    played = []
    for noise in (0.0, 0.3):
        algorithm = build("maddpg", CONTINUOUS, action_noise=noise)
        policy = type(algorithm).make_policy(CONTINUOUS, algorithm.settings, algorithm.networks)
        policy.load_weights(algorithm.float().policy_weights())
        obs, avail = np.ones((2, 3, 4), np.float32), np.zeros((2, 3, 0), np.bool_)
        memory = policy.initial_state(2)
        played.append(policy.act(obs, memory, avail, np.random.default_rng(0), 1e-9))
    assert played[0].shape == (2, 3, 2) and not np.array_equal(played[0], played[1])


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ({"name": "maddpg", "critic": {"subset": 2}}, ["critic.subset=2", "critic.members", "1"]),
        ({"name": "masac", "critic": {"improve_subset": 3}}, ["critic.improve_subset=3", "2"]),
        ({"name": "matd3", "critic": {"improve_subset": 1}}, ["critic.improve_subset=1", "critic.improve=first"]),
        ({"name": "maddpg", "critic": {"improve": "max"}}, ["critic.improve", "max", "min, mean"]),
        ({"name": "masac", "temperature": {"learned": False, "lr": 0.1}}, ["temperature.lr=0.1", "learned=false"]),
        ({"name": "masac", "temperature": {"initial": 0}}, ["temperature.initial"]),
        ({"name": "maddpg", "groups": "spec"}, ["groups"]),
        ({"name": "hasac", "groups": "pairs"}, ["groups", "pairs"]),
        ({"name": "haddpg", "others": "stored"}, ["others"]),
        ({"name": "masac", "smoothing": 0.1}, ["smoothing"]),
        ({"name": "maddpg", "target_steps": 0}, ["target_steps"]),
    ],
)
def test_wrong_settings_are_refused_by_name(algorithm: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        run_from_dict({**RUN, "algorithm": algorithm}, catalogue=CATALOGUE)
    for word in words:
        assert word in str(error.value), error.value


def test_what_the_environment_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"algorithm\.critic\.rewards=groups needs rewards of single agents, but"):
        build("maddpg", SPEC, critic={"rewards": "groups"})
    with pytest.raises(UserError, match=r"algorithm\.groups=\[\[0\]\] leaves out agents 1, 2"):
        build("hasac", SPEC, groups=[[0]])
    for name in ACTORS:  # discrete and continuous actions, and no state, are all welcome
        assert build(name, CONTINUOUS).width == 2
    with pytest.raises(UserError, match=r"algorithm\.name=qmix needs discrete actions, but nowhere has continuous"):
        make_algorithm(run_from_dict({**RUN, "algorithm": {"name": "qmix"}}, catalogue=CATALOGUE), CONTINUOUS)


@pytest.mark.parametrize("name", SOFT)
def test_without_a_state_critics_see_all_observations(name: str) -> None:
    spec = replace(SPEC, state_dim=0)
    algorithm = build(name, spec)
    batch = batch_of()
    batch.state = batch.state[..., :0]
    given = prepared(algorithm, batch=batch)
    np.testing.assert_allclose(given.state[2, 1], batch.obs[1, 2].reshape(-1))
    update(algorithm, 1, given)
