"""UPDeT (Hu et al., ICLR 2021, arXiv 2101.08001): a transformer over entities, whose memory is one more token."""

from __future__ import annotations

import torch
from torch import Tensor

from phalanx.algorithms.common.networks.attention import attend_folded, folded, normalised, project
from phalanx.algorithms.common.networks.base import AgentNetworks, Layers
from phalanx.algorithms.common.networks.entities import EntityReader
from phalanx.algorithms.common.networks.plan import Plan


class UPDeTAgents(AgentNetworks):
    """Tokens: memory, the agent itself, enemies, allies, objects; each kind has an embedding of its own. Blocks: x =
    LN(x + attention(x)), x = LN(x + FF(x)), heads as wide as a token, FF four times. Basic actions are Linear(own
    token); the action aimed at an enemy is worth the mean of the same Linear of its token; the memory's token is the
    next memory.

    As published there is neither id nor last action: `sharing: full`, `last_action: false`.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        layout, hidden, attention = plan.entities, self.hidden, plan.agent.attention
        heads, blocks = attention.heads or 3, attention.blocks
        self.reader, self.layout, self.heads, self.blocks = EntityReader(layout), layout, heads, blocks
        self.state_shape = (hidden,)
        self.add_linear("embed_own", len(layout.own), hidden)
        for kind in layout.kinds:
            self.add_linear(f"embed_{kind}", layout.size(kind), hidden)
        for k in range(blocks):
            for part in ("queries", "keys", "values"):
                self.add_projection(f"{part}{k}", hidden, heads * hidden)
            self.add_linear(f"unify{k}", heads * hidden, hidden)
            self.add_norm(f"norm_attention{k}")
            self.add_linear(f"widen{k}", hidden, 4 * hidden)
            self.add_linear(f"narrow{k}", 4 * hidden, hidden)
            self.add_norm(f"norm{k}")
        self.add_final("head", hidden, len(layout.basic))
        self._aimed = len(layout.aimed)
        self._kept = 2 + self._aimed  # tokens that the last block computes: memory, own, enemies that are aimed at

    def chosen(self, members: Tensor | None = None) -> Layers:
        """With each block's queries and keys folded into one product, and its values and heads into another."""
        layers = super().chosen(members)
        for k in range(self.blocks):
            weights = [layers.pop(f"{part}{k}")[0] for part in ("queries", "keys", "values")]
            unify, bias = layers.pop(f"unify{k}")
            asking, saying = folded(weights[0], weights[1], weights[2], unify)
            layers[f"ask{k}"] = asking, asking.new_zeros(asking.shape[:2])
            layers[f"say{k}"] = saying, bias
        return layers

    def unroll(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        tokens = self._embedded(x, layers)  # [S, T, M, n, H], for all steps at once
        memory = tokens.new_zeros(tokens.shape[0], x.shape[2], self.hidden)
        out = []
        for seen in tokens.unbind(1):
            kept = self._through(memory, seen, layers)
            memory = kept[:, :, 0]
            out.append(kept)
        kept = torch.stack(out, 1)  # [S, T, M, kept, H]
        return self._values(kept, layers), kept[..., 0, :]

    def advance(self, x: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        kept = self._through(state, self._embedded(x, layers), layers)
        return self._values(kept, layers), kept[..., 0, :]

    def _embedded(self, x: Tensor, layers: Layers) -> Tensor:
        """x: [S, …, I]. Returns all tokens but the memory's, [S, …, n, H]."""
        tokens = [project(self.reader.own(x).unsqueeze(-2), layers["embed_own"])]
        for kind in self.layout.kinds:
            tokens.append(project(self.reader.entities(x, kind), layers[f"embed_{kind}"]))
        return torch.cat(tokens, -2)

    def _through(self, memory: Tensor, tokens: Tensor, layers: Layers) -> Tensor:
        """All blocks, for one step. memory: [S, M, H]; tokens: [S, M, n, H]. Returns [S, M, kept, H]."""
        x = torch.cat([memory.unsqueeze(2), tokens], 2)
        for k in range(self.blocks):
            asking = x[:, :, : self._kept] if k == self.blocks - 1 else x
            mixed = attend_folded(project(asking, layers[f"ask{k}"]), x)
            x = normalised(asking + project(mixed, layers[f"say{k}"]), layers[f"norm_attention{k}"])
            wide = torch.relu(project(x, layers[f"widen{k}"]))
            x = normalised(x + project(wide, layers[f"narrow{k}"]), layers[f"norm{k}"])
        return x

    def _values(self, kept: Tensor, layers: Layers) -> Tensor:
        """kept: [S, …, memory | own | enemies, H]. Returns [S, …, A]."""
        values = project(kept[..., 1:, :], layers["head"])
        return self.reader.ordered(values[..., 0, :], values[..., 1:, :].mean(-1))
