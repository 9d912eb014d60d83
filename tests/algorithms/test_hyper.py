"""Hypernetworks: what they generate, how that begins, and when it is the same as parameters of one's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phalanx.algorithms.common.networks.base import AgentNetworks
from phalanx.algorithms.common.networks.build import make_agent_networks
from phalanx.algorithms.common.networks.hyper import HyperNetwork
from tests.algorithms.test_networks import GROUPS, SPEC, A, N, agent_settings, close, make, some_inputs

GAINS = {"fc1": math.sqrt(2), "fc2": math.sqrt(2), "fc3": 1.0}


def fresh(network: str, sharing: str = "full_id", members: int = 1, **others: Any) -> AgentNetworks:
    """As initialised."""
    torch.manual_seed(3)
    return make_agent_networks(SPEC, members, agent_settings(network, sharing, **others)).double()


def hyper_of(networks: AgentNetworks) -> HyperNetwork:
    assert networks.hyper is not None
    return networks.hyper


def assert_orthogonal(matrix: Tensor, gain: float) -> None:
    """The vectors along the shorter side are orthogonal and `gain` long."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
    close(short @ short.t(), gain**2 * torch.eye(len(short), dtype=short.dtype), 1e-5)


@pytest.mark.parametrize("sharing", ["full", "full_id", "groups", "none"])
@pytest.mark.parametrize("members", [1, 2])
def test_one_hot_identities_begin_orthogonal(sharing: str, members: int) -> None:
    """Every identity's every layer, with the gain of its place; no two alike; biases zero."""
    for name, (weight, bias) in hyper_of(fresh("hyper_linear", sharing, members)).generate().items():
        identities = {"full": 1, "full_id": N, "groups": 2, "none": N}[sharing]
        assert len(weight) == members * identities and not bias.any()
        for matrix in weight:
            assert_orthogonal(matrix, GAINS[name])
        for i in range(len(weight)):
            for j in range(i):
                assert (weight[i] - weight[j]).abs().max() > 0.01


def test_each_row_of_a_weight_head_is_orthogonal() -> None:
    """What a learned embedding generates is a sum of such matrices, and its biases begin as zero."""
    hyper = hyper_of(fresh("hyper_mlp", members=2, hyper={"width": 5}))
    shapes = {"fc1": (8, SPEC.obs_dim + A), "fc2": (8, 8), "fc3": (A, 8)}
    for name, shape in shapes.items():
        kernel = hyper.get_submodule(f"weights.{name}").kernel
        assert isinstance(kernel, Tensor) and kernel.shape[:2] == (2, 5)
        for row in kernel.flatten(0, 1):
            assert_orthogonal(row.view(shape), GAINS[name])
    for weight, bias in hyper.generate().values():
        assert not bias.any() and weight.abs().max() > 0.01
    for k in range(2):
        assert hyper.embeddings is not None
        assert_orthogonal(hyper.embeddings[k], math.sqrt(2))


def test_the_hidden_layer_of_a_head_is_lecun_normal() -> None:
    """Variance 1 / fan-in, cut off at two standard deviations of the uncut one."""
    first = hyper_of(fresh("hyper_mlp", hyper={"embedding": 40, "width": 2000})).get_submodule("weights.fc1").first
    assert isinstance(first, Tensor)
    assert first.std().item() == pytest.approx(1 / math.sqrt(40), rel=0.02)
    assert first.abs().max() <= 2 / 0.87962566 / math.sqrt(40) + 1e-9


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), members=st.integers(1, 3), base=st.sampled_from(["mlp", "gru"]))
def test_linear_one_hot_without_bias_is_no_sharing(seed: int, members: int, base: str) -> None:
    """The same parameters under other names: values, states and gradients are equal."""
    generated = make("hyper_linear", "full_id", members, seed, hyper={"base": base})
    own = make(base, "none", members)
    named = dict(own.named_parameters())
    hyper = hyper_of(generated)
    heads = [
        (getattr(kind[name], "kernel"), named[f"{name}.{what}"])  # noqa: B009
        for kind, what in ((hyper.weights, "weight"), (hyper.biases, "bias"))
        for name in kind
    ]
    assert len(heads) == len(named) == len(list(generated.parameters()))
    for kernel, parameter in heads:
        parameter.data.copy_(kernel.data.reshape(parameter.shape))
    inputs = some_inputs(seed)
    for first, second in zip(generated.values_and_states(inputs), own.values_and_states(inputs), strict=True):
        close(first, second, 1e-13)
    gradients = (
        torch.autograd.grad(networks(inputs).square().sum(), parameters)
        for networks, parameters in ((generated, [k for k, _ in heads]), (own, [p for _, p in heads]))
    )
    for of_kernel, of_parameter in zip(*gradients, strict=True):
        close(of_kernel.reshape(of_parameter.shape), of_parameter, 1e-12)


@pytest.mark.parametrize("network", ["hyper_linear", "hyper_mlp"])
@pytest.mark.parametrize(("base", "chosen"), [("mlp", ["fc3"]), ("mlp", ["fc1", "fc2"]), ("gru", ["fc2"])])
def test_chosen_layers_alone_are_generated(network: str, base: str, chosen: list[str]) -> None:
    """The others are one for all agents, and differ for nobody."""
    networks = make(network, hyper={"base": base, "layers": chosen}, members=2)
    layers = networks.chosen()
    for name, (weight, _) in layers.items():
        each = weight.view(2, N, *weight.shape[1:])
        apart = (each[:, 0] - each[:, 1]).abs().max()
        assert bool(apart > 1e-6) == (name in chosen)
        assert (name in dict(networks.named_children())) == (name not in chosen)
    everything = dict(make(network, hyper={"base": base}).named_children())
    assert not set(layers) & set(everything)


def test_groups_share_an_identity() -> None:
    layers = make("hyper_mlp", "groups").chosen()
    for weight, bias in layers.values():
        for i in range(N):
            for j in range(N):
                assert torch.equal(weight[i], weight[j]) == (GROUPS[i] == GROUPS[j])
                assert torch.equal(bias[i], bias[j]) == (GROUPS[i] == GROUPS[j])


def test_what_is_seen_never_reaches_the_hypernetwork() -> None:
    """The id that the learner's input ends with is not looked at: who it is, is known by the row."""
    networks, inputs = make("hyper_mlp"), some_inputs()
    other = inputs.clone()
    other[..., -N:] = other[..., -N:].roll(1, -1)
    assert torch.equal(networks(inputs), networks(other))
