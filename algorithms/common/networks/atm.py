"""ATM (Yang et al., NeurIPS 2022): a transformer over entities, actions and a memory of the last states, in which each
action's value is read from the token that it is bound to."""

from __future__ import annotations

import torch
from torch import Tensor

from phalanx.algorithms.common.linear import affine
from phalanx.algorithms.common.native.atm import ATMSizes, atm_kernel
from phalanx.algorithms.common.networks.atm_sequence import atm_sequence
from phalanx.algorithms.common.networks.attention import attend, normalised_together, project
from phalanx.algorithms.common.networks.base import AgentNetworks, Layers
from phalanx.algorithms.common.networks.entities import EntityReader
from phalanx.algorithms.common.networks.plan import Plan


class ATMAgents(AgentNetworks):
    """Tokens: one for each basic action (the agent's own features and the action's one-hot number, zeros for the first
    action), enemies, allies, objects, and the memory's slots (with the slot's one-hot number).

    One layer: x = LN(x + attention(x)), x = LN(x + MLP(x)), where LN is over tokens and features. Q of an action is one
    Linear of the token bound to it: its own, or that of the enemy that it is aimed at. The newest slot becomes
    tanh(Linear(mean of the basic actions' tokens)), the oldest is dropped. Slots begin as unit vectors.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        layout, hidden, slots = plan.entities, self.hidden, plan.agent.attention.slots
        self.reader, self.layout, self.slots = EntityReader(layout), layout, slots
        self.heads = plan.agent.attention.heads or 4
        self.state_shape = (slots, hidden)
        self._basic, self._aimed = len(layout.basic), len(layout.aimed)
        self.add_linear("embed_own", len(layout.own) + self._basic - 1, hidden)
        for kind in layout.kinds:
            self.add_linear(f"embed_{kind}", layout.size(kind), hidden)
        self.add_linear("embed_memory", hidden + slots, hidden)
        self.add_linear("queries_keys_values", hidden, 3 * hidden)
        self.add_linear("unify", hidden, hidden)
        self.add_norm("norm_attention")
        self.add_linear("widen", hidden, hidden)
        self.add_linear("narrow", hidden, hidden)
        self.add_norm("norm")
        self.add_final("head", hidden, 1)
        self.add_linear("remember", hidden, hidden)
        self._sizes = ATMSizes(
            hidden=hidden,
            heads=self.heads,
            basic=self._basic,
            bound=self._basic + self._aimed,
            slots=slots,
            widths=(len(layout.own), *(layout.size(kind) for kind in layout.kinds)),
            counts=(1, *(layout.count(kind) for kind in layout.kinds)),
        )

    def first_state(self, rows: int) -> Tensor:
        anything = next(self.parameters())
        unit = torch.eye(self.slots, self.hidden, dtype=anything.dtype, device=anything.device)
        return unit.expand(rows, self.slots, self.hidden)

    def unroll(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        kernel = None if x.requires_grad else atm_kernel(x, self._sizes)
        if kernel is None:
            return self._unroll_by_torch(x, layers)
        kinds = tuple(self.layout.kinds)
        seen = torch.cat([self.reader.own(x), *(self.reader.entities(x, kind).flatten(-2) for kind in kinds)], -1)
        bound, known = atm_sequence(seen, layers, kinds, kernel)
        return self.reader.ordered(bound[..., : self._basic], bound[..., self._basic :]), known

    def _unroll_by_torch(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        tokens = self._embedded(x, layers)  # [S, T, M, n, H], for all steps at once
        begin = self.first_state(x.shape[2]).expand(len(tokens), -1, -1, -1)
        memory: tuple[Tensor, ...] = self._remembered(begin, layers).unbind(2)  # each slot is embedded once, not thrice
        bound, known = [], []
        for seen in tokens.unbind(1):
            kept, newest = self._through(torch.stack(memory, 2), seen, layers)
            memory = (self._remembered(newest.unsqueeze(2), layers).squeeze(2), *memory[:-1])
            bound.append(kept)
            known.append(newest)
        return self._values(torch.stack(bound, 1), layers), torch.stack(known, 1)

    def advance(self, x: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        kept, newest = self._through(self._remembered(state, layers), self._embedded(x, layers), layers)
        return self._values(kept, layers), torch.cat([newest.unsqueeze(2), state[:, :, :-1]], 2)

    def _remembered(self, slots: Tensor, layers: Layers) -> Tensor:
        """Memory as tokens, but for the slots' numbers. slots: [S, M, any, H]."""
        weight, bias = layers["embed_memory"]
        return project(slots, (weight[..., : self.hidden], bias))

    def _embedded(self, x: Tensor, layers: Layers) -> Tensor:
        """x: [S, …, I]. Returns all tokens but the memory's, [S, …, n, H]."""
        own = self.reader.own(x)
        weight, bias = layers["embed_own"]
        size = own.shape[-1]
        common = project(own, (weight[..., :size], bias)).unsqueeze(-2)  # the same for every action, but its number
        number = torch.nn.functional.pad(weight[..., size:].transpose(1, 2), (0, 0, 1, 0))  # [S, basic, H]
        tokens = [common + number.view(-1, *(1,) * (x.dim() - 2), self._basic, self.hidden)]
        for kind in self.layout.kinds:
            tokens.append(project(self.reader.entities(x, kind), layers[f"embed_{kind}"]))
        return torch.cat(tokens, -2)

    def _through(self, memory: Tensor, tokens: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        """One step. memory: [S, M, slots, H], as `_remembered`; tokens: [S, M, n, H]. Returns the bound tokens, [S, M,
        bound, H], and the newest slot, [S, M, H]."""
        number = layers["embed_memory"][0][..., self.hidden :].transpose(1, 2)  # [S, slots, H]
        x = torch.cat([tokens, memory + number.unsqueeze(1)], 2)
        mixed = project(attend(project(x, layers["queries_keys_values"]), self.heads), layers["unify"])
        x = normalised_together(x + mixed, layers["norm_attention"])
        wide = torch.relu(project(x, layers["widen"]))
        x = normalised_together(x + project(wide, layers["narrow"]), layers["norm"])
        newest = torch.tanh(affine(x[:, :, : self._basic].mean(2), *layers["remember"]))
        return x[:, :, : self._basic + self._aimed], newest

    def _values(self, bound: Tensor, layers: Layers) -> Tensor:
        """bound: [S, …, basic actions | enemies, H]. Returns [S, …, A]."""
        values = project(bound, layers["head"]).squeeze(-1)
        return self.reader.ordered(values[..., : self._basic], values[..., self._basic :])
