"""V networks: what each sees, whose parameters it uses, how it begins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from phalanx.algorithms.common.agents import RecurrentAgents
from phalanx.algorithms.common.networks.mlp import MLPAgents
from phalanx.algorithms.common.networks.values import Sees, ValueNetworks, state_inputs
from tests.algorithms.test_actors import shaken, some_inputs
from tests.algorithms.test_networks import ENTITY_NETWORKS, NETWORKS, SHARING, SPEC, agent_settings

N = SPEC.n_agents
GROUPED = replace(SPEC, group_ids=(0, 1, 0), group_names=("x", "y"))
ALL: tuple[Sees, ...] = ("observation", "state", "team")


def some_state(seed: int = 0) -> Tensor:
    return torch.randn(4, 2, SPEC.state_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sees", ALL)
@pytest.mark.parametrize("network", NETWORKS)
def test_values_depend_on_what_is_seen_alone(network: str, sees: Sees) -> None:
    values = shaken(ValueNetworks(SPEC, agent_settings(network), sees))
    inputs, state = some_inputs(SPEC)[0], some_state()
    found = values(inputs, state)
    assert found.shape == (4, 2, 1 if sees == "team" else N)
    others = values(some_inputs(SPEC, 1)[0], state), values(inputs, some_state(1))
    assert torch.equal(found, others[0]) == (sees != "observation")
    assert torch.equal(found, others[1]) == (sees == "observation")
    assert (found != others[sees != "observation"]).all()


@pytest.mark.parametrize("network", ["mlp", "gru", "hyper_linear", "hyper_mlp"])
@pytest.mark.parametrize("sharing", SHARING)
def test_agents_share_values_of_the_state_as_asked(network: str, sharing: str) -> None:
    """All see the same, so their values differ by parameters, identities and ids alone."""
    values = shaken(ValueNetworks(GROUPED, agent_settings(network, sharing), "state"))
    found = values(some_inputs(SPEC)[0], some_state())
    alike = {(i, j) for i in range(N) for j in range(N) if torch.equal(found[..., i], found[..., j])}
    everyone = {(i, j) for i in range(N) for j in range(N)}
    own = {(i, i) for i in range(N)}
    assert alike == {"full": everyone, "full_id": own, "groups": own | {(0, 2), (2, 0)}, "none": own}[sharing]


def test_what_has_no_identity_or_entities_is_plain() -> None:
    for network, base in (("hyper_mlp", MLPAgents), ("hyper_linear", MLPAgents)):
        team = ValueNetworks(SPEC, agent_settings(network), "team").network
        assert isinstance(team, base) and team.hyper is None
        assert ValueNetworks(SPEC, agent_settings(network), "state").network.hyper is not None
    recurrent = agent_settings("hyper_mlp", hyper={"base": "gru", "layers": ["fc2"]})
    assert isinstance(ValueNetworks(SPEC, recurrent, "team").network, RecurrentAgents)
    for network in ENTITY_NETWORKS:
        for sees, kept in (("observation", True), ("state", False), ("team", False)):
            values = ValueNetworks(SPEC, agent_settings(network), sees)  # type: ignore[arg-type]
            assert isinstance(values.network, RecurrentAgents) != kept


def test_a_teams_value_sees_the_state_and_nobodys_id() -> None:
    values = ValueNetworks(SPEC, agent_settings("mlp", "none"), "team").network
    assert isinstance(values, MLPAgents) and values.get_submodule("fc1").weight.shape == (1, 8, SPEC.state_dim)  # type: ignore[union-attr]
    seen = state_inputs(some_state(), N).view(4, 2, N, -1)
    for i in range(N):
        assert torch.equal(seen[:, :, i, : SPEC.state_dim], some_state())
        assert torch.equal(seen[:, :, i, SPEC.state_dim :], torch.eye(N, dtype=torch.float64)[i].expand(4, 2, N))


@pytest.mark.parametrize("network", ["mlp", "gru", "hyper_linear"])
def test_last_layers_begin_with_gain_one(network: str) -> None:
    values = ValueNetworks(SPEC, agent_settings(network), "state").network
    *_, (weight, bias) = values.chosen().values()
    assert not bias.any()
    torch.testing.assert_close((weight @ weight.transpose(1, 2)).flatten(), torch.ones(len(weight)))
