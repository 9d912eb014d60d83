"""Policies on the agent networks: who shares, groups with tensors of their own, and how they begin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from phalanx.algorithms.common.actors import Actors, GroupedActors, Head
from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.distributions import Categorical, Deterministic, Gaussian, TanhGaussian
from phalanx.algorithms.common.networks.view import action_size
from phalanx.envs.team import TeamSpec
from tests.algorithms.test_networks import ENTITY_NETWORKS, NETWORKS, SHARING, SPEC, agent_settings

N, A, D = SPEC.n_agents, SPEC.n_actions, 3
assert SPEC.entities is not None
MOVING = replace(
    SPEC,
    discrete=False,
    n_actions=0,
    action_dims=(D, 1, 2),
    entities=replace(SPEC.entities, enemy_actions=()),
)
HEADS: tuple[Head, ...] = ("gaussian", "tanh_gaussian", "deterministic")


def some_inputs(spec: TeamSpec, seed: int = 0, episodes: int = 2, steps: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs [T, B·N, I] and availability [T, B, N, A]."""
    draw = torch.Generator().manual_seed(seed)
    obs = torch.randn(episodes, steps, N, spec.obs_dim, generator=draw, dtype=torch.float64)
    last: Tensor = torch.randn(episodes, steps - 1, N, D, generator=draw, dtype=torch.float64)
    if spec.discrete:
        last = torch.randint(A, (episodes, steps - 1, N), generator=draw)
    avail = torch.rand(steps, episodes, N, spec.n_actions, generator=draw) < 0.6
    avail[..., :1] = True
    return agent_inputs(obs, last, spec.n_actions), avail


def shaken(actors: Actors | GroupedActors, seed: int = 0) -> Any:
    """In double precision, weights large enough that nothing is nearly constant."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in actors.double().parameters():
        parameter.data.uniform_(-0.8, 0.8, generator=draw)
    return actors


def close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def play(actors: Any, inputs: Tensor) -> Tensor:
    """Outputs [T, B, N, X], one step at a time."""
    layers, state = actors.chosen(), actors.initial_state(inputs.shape[1])
    outputs = []
    for seen in inputs:
        given, state = actors.step(seen, state, layers)
        outputs.append(given[0])
    return torch.stack(outputs).view(len(inputs), -1, N, outputs[0].shape[-1])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("spec", [SPEC, MOVING], ids=["discrete", "continuous"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_gives_every_distribution(network: str, spec: TeamSpec, head: Head) -> None:
    actors = shaken(Actors(spec, agent_settings(network), head))
    inputs, avail = some_inputs(spec)
    distribution = actors(inputs, avail)
    kinds = {"gaussian": Gaussian, "tanh_gaussian": TanhGaussian, "deterministic": Deterministic}
    assert type(distribution) is (Categorical if spec.discrete else kinds[head])
    mode = distribution.mode()
    assert mode.shape == ((4, 2, N) if spec.discrete else (4, 2, N, D))
    close(actors.outputs(inputs), play(actors, inputs))
    if not spec.discrete:
        for i, size in enumerate(spec.action_dims):
            assert not mode[..., i, size:].any() and mode[..., i, :size].all()


@pytest.mark.parametrize("spec", [SPEC, MOVING], ids=["discrete", "continuous"])
@pytest.mark.parametrize("groups", [[[0], [1], [2]], [[0, 2], [1]], [[2, 1], [0]], [[0, 1, 2]], [[2, 0, 1]]])
@pytest.mark.parametrize("network", ["gru", "mlp", "hyper_linear", "hyper_mlp", *ENTITY_NETWORKS])
def test_grouped_actors_are_each_groups_own(network: str, groups: list[list[int]], spec: TeamSpec) -> None:
    """All together, each alone and step by step: the same, in the team's order; no tensor is shared."""
    actors = shaken(GroupedActors(spec, agent_settings(network), "gaussian", groups))
    inputs, avail = some_inputs(spec)
    together = actors.outputs(inputs)
    close(together, play(actors, inputs))
    rows = inputs.view(4, 2, N, -1)
    log_prob = actors(inputs, avail).log_prob(actors(inputs, avail).mode())
    for k, group in enumerate(actors.groups):
        assert group == sorted(groups[k])
        alone = actors.of_group(k)
        own = alone(rows[:, :, group].flatten(1, 2), avail[:, :, group])
        close(alone.outputs(rows[:, :, group].flatten(1, 2)), together[:, :, group])
        close(own.log_prob(own.mode()), log_prob[:, :, group])
    everything = [id(p) for k in range(len(groups)) for p in actors.of_group(k).parameters()]
    assert sorted(everything) == sorted(id(p) for p in actors.parameters()) and len(set(everything)) == len(everything)


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("network", ["gru", "hyper_mlp"])
def test_a_group_shares_as_the_whole_team_does(sharing: str, network: str) -> None:
    """What changes for one agent's parameters or identity reaches whom `agent.sharing` says, within the group."""
    spec = replace(SPEC, group_ids=(0, 0, 1), group_names=("x", "y"))
    actors = shaken(Actors(spec, agent_settings(network, sharing), "gaussian", [0, 2]))
    inputs = some_inputs(spec)[0]
    rows = inputs.view(4, 2, N, -1)[:, :, [0, 2]].clone()
    rows[:, :, 1, : spec.obs_dim + A] = rows[:, :, 0, : spec.obs_dim + A]  # both see the same, but for their ids
    outputs = actors.outputs(rows.flatten(1, 2))
    alike = torch.equal(outputs[:, :, 0], outputs[:, :, 1])
    assert alike == (sharing == "full")


def test_hyper_actors_of_one_hot_identities_are_unshared_ones() -> None:
    """`hyper_linear` without a bias: the same parameters under other names, also where groups have their own."""
    for groups in (None, [[0, 2], [1]]):
        generated, own = (
            shaken(GroupedActors(SPEC, agent, "gaussian", groups))
            for agent in (agent_settings("hyper_linear"), agent_settings("mlp", "none"))
        )
        for k in range(len(generated.groups)):
            parameters = dict(own.of_group(k).network.named_parameters())
            heads = generated.of_group(k).network.hyper
            for kind, what in ((heads.weights, "weight"), (heads.biases, "bias")):
                for name, head in kind.items():
                    parameters[f"{name}.{what}"].data.copy_(
                        head.kernel.data.reshape(parameters[f"{name}.{what}"].shape)
                    )
        inputs, avail = some_inputs(SPEC)
        close(generated(inputs, avail).probs, own(inputs, avail).probs)


@pytest.mark.parametrize("network", ["gru", "mlp", "hyper_linear", "hyper_mlp"])
def test_policies_begin_without_a_preference(network: str) -> None:
    """Last layers are small, the others orthogonal with their gain, biases zero; what an embedding generates is a sum
    of such matrices, and larger."""
    actors = Actors(SPEC, agent_settings(network, hidden=32), "gaussian")
    inputs, _ = some_inputs(SPEC)
    probs = actors(inputs.float(), torch.ones(4, 2, N, A, dtype=torch.bool)).probs
    assert (probs - 1 / A).abs().max() < (0.5 if network == "hyper_mlp" else 0.05)
    for name, (weight, bias) in actors.network.chosen().items():
        assert not bias.any()
        if network != "hyper_mlp":
            for matrix in weight:
                short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
                gain = 0.01 if len(matrix) == A else 1.0 if "gates" in name else 2**0.5
                torch.testing.assert_close(short @ short.t(), gain**2 * torch.eye(len(short)), rtol=1e-4, atol=1e-5)


def test_deviations_belong_to_parameter_sets() -> None:
    for sharing, sets in {"full": 1, "full_id": 1, "groups": 2, "none": N}.items():
        actors = Actors(replace(MOVING, group_ids=(0, 1, 0), group_names=("x", "y")), agent_settings("mlp", sharing))
        assert actors.log_std is not None and actors.log_std.shape == (sets, D)
        stds = actors.log_stds()
        assert stds is not None and stds.shape == (N, D)
    assert Actors(SPEC, agent_settings("mlp")).log_std is None
    assert Actors(MOVING, agent_settings("mlp"), "tanh_gaussian").log_std is None
    assert action_size(MOVING) == D and action_size(SPEC) == A


@pytest.mark.parametrize("groups", [[[0, 1]], [[0, 1], [1, 2]], [[0, 1, 2], []], [[0, 1, 3]]])
def test_groups_are_a_partition(groups: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="not a partition of 3 agents"):
        GroupedActors(SPEC, agent_settings("mlp"), "gaussian", groups)
