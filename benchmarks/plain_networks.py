"""The GRU agent of PyMARL, and ASN, UPDeT and ATM as their papers write them, one step at a time: what
`benchmarks.networks` compares with, and what tests check the values of the ones that train against.

Each takes `AgentNetworks` for its parameters alone (one member, shared by all agents) and gives `step(x, state)`:
x: [M, I] as an agent sees it, state: [M, *state_shape]; returns values [M, A] and the new state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from phalanx.algorithms.common.agents import RecurrentAgents
from phalanx.algorithms.common.networks.asn import ASNAgents
from phalanx.algorithms.common.networks.atm import ATMAgents
from phalanx.algorithms.common.networks.entities import EntityLayout, EntityReader
from phalanx.algorithms.common.networks.updet import UPDeTAgents


def linear(agents: nn.Module, name: str, x: Tensor) -> Tensor:
    layer = agents.get_submodule(name)
    return functional.linear(x, layer.weight[0], layer.bias[0])  # type: ignore[index]


def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """[M, n, heads · d] each. Returns [M, n, heads · d]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))  # type: ignore[no-untyped-call]
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    mixed: Tensor = (weights @ v).transpose(1, 2).flatten(2)
    return mixed


def tokens_of(agents: nn.Module, reader: EntityReader, layout: EntityLayout, x: Tensor) -> list[Tensor]:
    """[M, entities of the kind, H] of each kind."""
    return [linear(agents, f"embed_{kind}", reader.entities(x, kind)) for kind in layout.kinds]


def gru_step(agents: RecurrentAgents, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """With torch's cell, as `torch.nn.GRUCell` calls it."""
    weights = (agents.get_submodule(name).weight[0] for name in ("input_gates", "recurrent_gates"))  # type: ignore[index]
    biases = (agents.get_submodule(name).bias[0] for name in ("input_gates", "recurrent_gates"))  # type: ignore[index]
    after = torch.gru_cell(torch.relu(linear(agents, "fc1", x)), state, *weights, *biases)
    return linear(agents, "fc2", after), after


def asn_step(agents: ASNAgents, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    def encode(who: str, seen: Tensor, hidden: Tensor) -> Tensor:
        encoded = linear(agents, f"{who}_fc2", torch.relu(linear(agents, f"{who}_fc1", seen)))
        reset, update, new = linear(agents, f"{who}_input_gates", encoded).chunk(3, -1)
        reset_h, update_h, new_h = linear(agents, f"{who}_recurrent_gates", hidden).chunk(3, -1)
        update = torch.sigmoid(update + update_h)
        return (1 - update) * torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h) + update * hidden

    own = encode("own", x, state[:, 0])
    enemies = encode("enemy", agents.reader.entities(x, "enemies"), state[:, 1:])
    attack = (enemies * own.unsqueeze(1)).sum(-1)
    return agents.reader.ordered(linear(agents, "basic", own), attack), torch.cat([own.unsqueeze(1), enemies], 1)


def updet_step(agents: UPDeTAgents, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The memory is the last token, as published."""
    own = linear(agents, "embed_own", agents.reader.own(x)).unsqueeze(1)
    tokens = torch.cat([own, *tokens_of(agents, agents.reader, agents.layout, x), state.unsqueeze(1)], 1)
    for k in range(agents.blocks):
        parts = [linear(agents, f"{part}{k}", tokens) for part in ("queries", "keys", "values")]
        tokens = tokens + linear(agents, f"unify{k}", attention(parts[0], parts[1], parts[2], agents.heads))
        tokens = norm(agents, f"norm_attention{k}", tokens, 1)
        wide = torch.relu(linear(agents, f"widen{k}", tokens))
        tokens = norm(agents, f"norm{k}", tokens + linear(agents, f"narrow{k}", wide), 1)
    values = linear(agents, "head", tokens[:, : 1 + len(agents.layout.aimed)])
    return agents.reader.ordered(values[:, 0], values[:, 1:].mean(-1)), tokens[:, -1]


def atm_step(agents: ATMAgents, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    basic, slots = len(agents.layout.basic), agents.slots
    own = agents.reader.own(x).unsqueeze(1).expand(-1, basic, -1)
    number = torch.eye(basic, dtype=x.dtype)[:, 1:].expand(len(x), -1, -1)
    acting = linear(agents, "embed_own", torch.cat([own, number], -1))
    slot = torch.eye(slots, dtype=x.dtype).expand(len(x), -1, -1)
    memory = linear(agents, "embed_memory", torch.cat([state, slot], -1))
    tokens = torch.cat([acting, *tokens_of(agents, agents.reader, agents.layout, x), memory], 1)
    queries, keys, values = linear(agents, "queries_keys_values", tokens).chunk(3, -1)
    tokens = tokens + linear(agents, "unify", attention(queries, keys, values, agents.heads))
    tokens = norm(agents, "norm_attention", tokens, 2)
    wide = torch.relu(linear(agents, "widen", tokens))
    tokens = norm(agents, "norm", tokens + linear(agents, "narrow", wide), 2)
    bound = linear(agents, "head", tokens[:, : basic + len(agents.layout.aimed)]).squeeze(-1)
    newest = torch.tanh(linear(agents, "remember", tokens[:, :basic].mean(1)))
    return agents.reader.ordered(bound[:, :basic], bound[:, basic:]), torch.cat([newest.unsqueeze(1), state[:, :-1]], 1)


def norm(agents: nn.Module, name: str, x: Tensor, axes: int) -> Tensor:
    """Layer normalisation over the last `axes` axes, scale and offset of features."""
    layer = agents.get_submodule(name)
    return functional.layer_norm(x, x.shape[-axes:]) * layer.weight[0] + layer.bias[0]  # type: ignore[index]
