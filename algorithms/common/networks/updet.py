"""UPDeT (Hu et al., ICLR 2021, arXiv 2101.08001): a transformer over entities, whose memory is one more token."""

from __future__ import annotations

import torch
from torch import Tensor

from phalanx.algorithms.common.networks.attention import attend, normalised, project
from phalanx.algorithms.common.networks.base import AgentNetworks, Layers
from phalanx.algorithms.common.networks.entities import EntityLayout, EntityReader
from phalanx.algorithms.common.networks.view import AgentView


class UPDeTAgents(AgentNetworks):
    """Tokens: memory, the agent itself, enemies, allies, objects; each kind has an embedding of its own. Blocks: x =
    LN(x + attention(x)), x = LN(x + FF(x)), heads as wide as a token, FF four times. Basic actions are Linear(own
    token); the action aimed at an enemy is worth the mean of the same Linear of its token; the memory's token is the
    next memory.

    As published there is neither id nor last action: `sharing: full`, `last_action: false`.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: int,
        actions: int,
        layout: EntityLayout,
        heads: int,
        blocks: int,
        view: AgentView | None = None,
    ) -> None:
        super().__init__(members, hidden, actions, view)
        self.reader, self.layout, self.heads, self.blocks = EntityReader(layout), layout, heads, blocks
        self.state_shape = (hidden,)
        self.add_linear("embed_own", len(layout.own), hidden)
        for kind in layout.kinds:
            self.add_linear(f"embed_{kind}", layout.size(kind), hidden)
        for k in range(blocks):
            self.add_linear(f"queries{k}", hidden, heads * hidden)
            self.add_linear(f"keys_values{k}", hidden, 2 * heads * hidden)
            self.add_linear(f"unify{k}", heads * hidden, hidden)
            self.add_norm(f"norm_attention{k}")
            self.add_linear(f"widen{k}", hidden, 4 * hidden)
            self.add_linear(f"narrow{k}", 4 * hidden, hidden)
            self.add_norm(f"norm{k}")
        self.add_linear("head", hidden, len(layout.basic))
        self._aimed = len(layout.aimed)
        self._kept = 2 + self._aimed  # tokens that the last block computes: memory, own, enemies that are aimed at

    def unroll(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        tokens = self._embedded(x, layers)  # [S, T, M, n, H]
        # What the memory has no part in, for all steps at once.
        queries, keys_values = self._first_projections(tokens, layers)
        memory = tokens.new_zeros(tokens.shape[0], x.shape[2], self.hidden)
        out = []
        parts = (part.unbind(1) for part in (tokens, queries, keys_values))
        for seen, q, kv in zip(*parts, strict=True):
            kept = self._through(memory, seen, q, kv, layers)
            memory = kept[:, :, 0]
            out.append(kept)
        kept = torch.stack(out, 1)  # [S, T, M, kept, H]
        return self._values(kept, layers), kept[..., 0, :]

    def advance(self, x: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        tokens = self._embedded(x, layers)
        kept = self._through(state, tokens, *self._first_projections(tokens, layers), layers)
        return self._values(kept, layers), kept[..., 0, :]

    def _embedded(self, x: Tensor, layers: Layers) -> Tensor:
        """x: [S, …, I]. Returns all tokens but the memory's, [S, …, n, H]."""
        tokens = [project(self.reader.own(x).unsqueeze(-2), layers["embed_own"])]
        for kind in self.layout.kinds:
            tokens.append(project(self.reader.entities(x, kind), layers[f"embed_{kind}"]))
        return torch.cat(tokens, -2)

    def _first_projections(self, tokens: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        """Queries and keys with values of the first block; the last block asks for the kept tokens only."""
        asking = tokens[..., : self._kept - 1, :] if self.blocks == 1 else tokens
        return project(asking, layers["queries0"]), project(tokens, layers["keys_values0"])

    def _through(self, memory: Tensor, tokens: Tensor, queries: Tensor, keys_values: Tensor, layers: Layers) -> Tensor:
        """All blocks, for one step. memory: [S, M, H]; the others: [S, M, n, …]. Returns [S, M, kept, H]."""
        memory = memory.unsqueeze(2)
        x = torch.cat([memory, tokens], 2)
        queries = torch.cat([project(memory, layers["queries0"]), queries], 2)
        keys_values = torch.cat([project(memory, layers["keys_values0"]), keys_values], 2)
        for k in range(self.blocks):
            last = k == self.blocks - 1
            if k > 0:
                queries = project(x[:, :, : self._kept] if last else x, layers[f"queries{k}"])
                keys_values = project(x, layers[f"keys_values{k}"])
            keys, values = keys_values.chunk(2, -1)
            mixed = project(attend(queries, keys, values, self.heads), layers[f"unify{k}"])
            x = normalised((x[:, :, : self._kept] if last else x) + mixed, layers[f"norm_attention{k}"])
            wide = torch.relu(project(x, layers[f"widen{k}"]))
            x = normalised(x + project(wide, layers[f"narrow{k}"]), layers[f"norm{k}"])
        return x

    def _values(self, kept: Tensor, layers: Layers) -> Tensor:
        """kept: [S, …, memory | own | enemies, H]. Returns [S, …, A]."""
        values = project(kept[..., 1:, :], layers["head"])
        return self.reader.ordered(values[..., 0, :], values[..., 1:, :].mean(-1))
