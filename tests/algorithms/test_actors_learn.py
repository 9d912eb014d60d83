"""Methods with policies on every agent network: one update reaches every parameter and leaves nothing but numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from phalanx.algorithms.on_policy import OnPolicy
from phalanx.algorithms.registry import algorithm_class
from phalanx.configs.settings import NetworkSettings
from tests.algorithms.on_policy_helpers import played, update
from tests.algorithms.test_networks import NETWORKS, SPEC, every_choice

PAID = replace(SPEC, agent_rewards=True)


def build(name: str, agent: dict[str, Any], **settings: Any) -> OnPolicy:
    kind = algorithm_class(name)
    networks = NetworkSettings.model_validate({"agent": {"hidden": 8, **agent}})
    torch.manual_seed(0)
    algorithm = kind(PAID, kind.Settings.model_validate({"name": name, "epochs": 1, **settings}), networks).double()
    for parameter in algorithm.parameters():
        parameter.data.uniform_(-0.5, 0.5)
    assert isinstance(algorithm, OnPolicy)
    return algorithm


def assert_moves(algorithm: OnPolicy) -> None:
    before = {name: parameter.detach().clone() for name, parameter in algorithm.named_parameters()}
    told = update(algorithm, played(algorithm, 0, [6, 4, 5]))
    assert all(torch.isfinite(torch.tensor(values)).all() for values in told.values())
    assert len(before) == len(algorithm.trained_parameters())
    for name, parameter in algorithm.named_parameters():
        assert torch.isfinite(parameter).all()
        # ATM reads every action's logit with one bias, which no probability depends on.
        common = name.startswith("actors") and name.endswith("head.bias") and parameter.shape[-1] == 1
        assert torch.equal(parameter, before[name]) == common, name


@every_choice
def test_every_network_learns_as_policy_and_as_critic(network: str, sharing: str) -> None:
    assert_moves(build("ippo", {"network": network, "sharing": sharing}, rewards="agents"))


@pytest.mark.parametrize("rewards", ["team", "agents"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_learns_beside_a_critic_of_the_state(network: str, rewards: str) -> None:
    assert_moves(build("mappo", {"network": network}, rewards=rewards))


@pytest.mark.parametrize("groups", ["none", "spec", "all"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_learns_in_turns(network: str, groups: str) -> None:
    assert_moves(build("happo", {"network": network}, groups=groups))
