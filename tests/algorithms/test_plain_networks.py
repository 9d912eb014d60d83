"""The GRU agent against PyMARL's cells, ASN, UPDeT and ATM against their papers' form, step by step, in values and
gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.networks import step_by_step
from phalanx.algorithms.common.networks.attention import attend, attend_folded, folded
from tests.algorithms.test_networks import close, make, some_inputs


@pytest.mark.parametrize("network", ["gru", "asn", "updet", "atm"])
@pytest.mark.parametrize("sharing", ["full", "full_id"])
def test_as_the_papers_write_them(network: str, sharing: str) -> None:
    networks, inputs = make(network, sharing), some_inputs(episodes=3, steps=6)
    ours, theirs = networks(inputs), step_by_step(networks)(inputs)
    close(ours, theirs)
    parameters = list(networks.parameters())
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((values * weights).sum(), parameters) for values in (ours, theirs)]
    for first, second in zip(*gradients, strict=True):
        close(first, second, 1e-9)


@pytest.mark.parametrize(
    ("network", "others"),
    [("updet", {"blocks": 1}), ("updet", {"blocks": 3, "heads": 1}), ("atm", {"heads": 1, "slots": 1})],
)
def test_with_other_sizes(network: str, others: dict[str, Any]) -> None:
    networks, inputs = make(network, attention=others), some_inputs()
    close(networks(inputs), step_by_step(networks)(inputs))


def test_attention_numerically() -> None:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: attend(x, 2), normal(2, 1, 3, 12))
    assert torch.autograd.gradcheck(attend_folded, (normal(1, 2, 2, 6), normal(1, 2, 3, 3)))


@pytest.mark.parametrize("heads", [1, 3])
def test_folded_heads_are_the_same_attention(heads: int) -> None:
    """The two ways to write heads that are as wide as a token."""
    draw = torch.Generator().manual_seed(2)
    tokens, size = torch.randn(2, 5, 4, 6, generator=draw, dtype=torch.float64), 6
    q, k, v = (torch.randn(2, heads * size, size, generator=draw, dtype=torch.float64) for _ in range(3))
    unify = torch.randn(2, size, heads * size, generator=draw, dtype=torch.float64)
    asking, saying = folded(q, k, v, unify)
    plain = attend(torch.cat([torch.einsum("soi,smni->smno", w, tokens) for w in (q, k, v)], -1), heads)
    plain = torch.einsum("soi,smni->smno", unify, plain)
    short = attend_folded(torch.einsum("soi,smni->smno", asking, tokens), tokens)
    close(torch.einsum("soi,smni->smno", saying, short), plain)
