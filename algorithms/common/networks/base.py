"""What all agent networks have in common: ensembles, and agents that share parameters or do not.

A network is written once, for S independent copies side by side ("stacks"): its layers' parameters are [S, …], its
input is [S, T, M, I]. Where all agents share parameters there is one stack for each ensemble member and its rows are
all agents of all episodes; where agents have parameters of their own (or groups have), there is one for each member
and agent, k·N + i, and its rows are the episodes. So neither members nor agents cost a loop. Where groups are drawn
anew in every episode there is one for each member and group, k·G + g, and its rows are those of the group's agents,
filled up to as many as the largest group has.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phalanx.algorithms.common.linear import StackedLinear, selected
from phalanx.algorithms.common.networks.hyper import HyperNetwork, orthogonal
from phalanx.algorithms.common.networks.plan import Plan

Layers = dict[str, tuple[Tensor, Tensor]]
"""Weight and bias of each layer, [S, …] each."""


class StackedNorm(nn.Module):
    """S layer normalisations' scale and offset, [S, size] each, which begin as 1 and 0."""

    def __init__(self, stacks: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(stacks, size))
        self.bias = nn.Parameter(torch.zeros(stacks, size))


class StackedProjection(nn.Module):
    """S linear layers without bias, initialised as torch does: weight [S, out, in]; the zeros are no parameter."""

    def __init__(self, stacks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(stacks, outputs, inputs).uniform_(-bound, bound))
        self.register_buffer("bias", torch.zeros(stacks, outputs), persistent=False)


@dataclass(frozen=True)
class Groups:
    """Which of M rows belong to which of G groups. rows: [G, R], filled up with the first row, whose further outcomes
    nobody takes; places: [M], where each row lies in them, flat."""

    rows: Tensor
    places: Tensor

    @classmethod
    def of(cls, group: Tensor, number: int) -> Groups:
        """group: [M], each row's."""
        order, row = group.argsort(stable=True), torch.arange(len(group), device=group.device)
        counts = torch.bincount(group, minlength=number)
        first = counts.cumsum(0) - counts
        most = int(counts.max())
        places = torch.empty_like(order)
        places[order] = group[order] * most + row - first[group[order]]
        rows = order.new_zeros(number * most)
        rows[places] = row
        return cls(rows.view(number, most), places)


class AgentNetworks(nn.Module, ABC):
    """K agent networks side by side. M rows are B·N, agents fastest, as `agent_inputs` arranges them.

    X is `outputs`: values of the A actions, unless something else was asked for. `state_shape` is that of one row's
    memory. Subclasses name their layers once, in `__init__`, with `add_linear`, `add_final` and `add_norm`, and say in
    `unroll` and `advance` what is computed with them.
    """

    state_shape: tuple[int, ...] = ()
    _owners: Tensor
    _identities: Tensor

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.members, self.hidden, self.outputs, self.view = plan.members, plan.agent.hidden, plan.outputs, plan.view
        self.initialisation, view = plan.initialisation, plan.view
        self.hyper: HyperNetwork | None = None
        if view is not None and plan.agent.network.startswith("hyper_"):
            sets = view.sets
            self.hyper = HyperNetwork(plan.members * sets, 1 if sets > 1 else max(view.identities) + 1, plan.agent)
        self._names: list[str] = []
        self.kinds = list(view.kinds) if view is not None else []
        owners = tuple(range(len(self.kinds))) or (view.owners if view is not None else (0,))
        identities = view.identities if self.hyper is not None and view is not None else owners
        self.split = not self.kinds and max(*owners, *identities, 0) > 0
        # Not persistent: the settings say it, and names of checkpoints' tensors are those of parameters alone.
        self.register_buffer("_owners", torch.tensor(owners), persistent=False)
        self.register_buffer("_identities", torch.tensor(identities), persistent=False)

    # -- for subclasses ---------------------------------------------------------------------------------------------

    def add_linear(self, name: str, inputs: int, outputs: int, gain: float = math.sqrt(2)) -> None:
        """Adds a layer; `gain` is that of an orthogonal initialisation, if it has one."""
        self._names.append(name)
        if self.hyper is not None and self.hyper.generates(name):
            self.hyper.add(name, inputs, outputs, gain)
        else:
            layer = StackedLinear(self._stacks, inputs, outputs)
            if self.initialisation.orthogonal:
                for matrix in layer.weight.data:
                    matrix.copy_(orthogonal(outputs, inputs, gain))
                layer.bias.data.zero_()
            self.add_module(name, layer)

    def add_final(self, name: str, inputs: int, outputs: int) -> None:
        """Adds a layer whose outputs are the network's."""
        self.add_linear(name, inputs, outputs, self.initialisation.final_gain)

    def add_projection(self, name: str, inputs: int, outputs: int) -> None:
        """Adds a layer without bias."""
        self._names.append(name)
        self.add_module(name, StackedProjection(self._stacks, inputs, outputs))

    def add_norm(self, name: str) -> None:
        """Adds a layer normalisation of `hidden` numbers."""
        self._names.append(name)
        self.add_module(name, StackedNorm(self._stacks, self.hidden))

    @abstractmethod
    def unroll(self, x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        """From the beginning of episodes. x: [S, T, M, I]. Returns outputs [S, T, M, X] and what the agents know after
        each step, [S, T, M, H]."""

    def unroll_from(self, x: Tensor, state: Tensor, layers: Layers) -> Tensor:
        """The outputs of `unroll` where the memory before it was `state`, [S, M, *state_shape]."""
        raise NotImplementedError(f"{type(self).__name__} begins with episodes")

    @abstractmethod
    def advance(self, x: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        """One step. x: [S, M, I], state: [S, M, *state_shape]. Returns outputs [S, M, X] and the new state."""

    def first_state(self, rows: int) -> Tensor:
        """The memory at the beginning of an episode: zeros, unless overridden. [rows, *state_shape]."""
        anything = next(self.parameters())
        return anything.new_zeros(rows, *self.state_shape)

    # -- for learners and policies ----------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, members: Tensor | None = None) -> Tensor:
        """Values of whole episodes by the chosen `members` (indices; None: all). inputs: [T, M, O+A+N]. Returns
        [K, T, M, A].

        On a GPU all members are one batch; a CPU takes one after the other, whose steps then stay in its cache.
        """
        return self._joined([values for values, _ in self._each(inputs, members)])

    def resumed(self, inputs: Tensor, state: Tensor) -> Tensor:
        """What one member says of pieces of episodes, before which its memory was `state` [1, M, *state_shape], which
        gets no gradient. inputs and outputs as in `forward`. NotImplementedError unless it is a GRU's."""
        groups = self._groups(inputs)
        x, layers = self._arranged(inputs, groups), self.chosen()
        return self._joined([self._back(self.unroll_from(x, self._apart(state, groups), layers), groups)])

    def hidden_states(self, inputs: Tensor, members: Tensor | None = None) -> Tensor:
        """What the agents know after each step: the input of the last layer, or the memory. Returns [K, T, M, H]."""
        return self._joined([states for _, states in self._each(inputs, members)])

    def values_and_states(self, inputs: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both of the above from one pass."""
        values, states = zip(*self._each(inputs, members), strict=True)
        return self._joined(list(values)), self._joined(list(states))

    def step(self, inputs: Tensor, state: Tensor, layers: Layers | None = None) -> tuple[Tensor, Tensor]:
        """One step of all members. inputs: [M, O+A+N], state: [K, M, *state_shape]. Returns values [K, M, A] and the
        new state. `layers`: what `chosen()` gave; who makes many steps with the same parameters asks once."""
        layers = self.chosen() if layers is None else layers
        groups = self._groups(inputs.unsqueeze(0))
        if self.split or groups is not None:
            x = self._arranged(inputs.unsqueeze(0), groups).squeeze(1).repeat(self.members, 1, 1)
        else:
            x = (inputs if self.view is None else self.view.cut(inputs)).expand(self.members, -1, -1)
        values, after = self.advance(x, self._apart(state, groups), layers)
        if groups is not None:
            return self._back(values.unsqueeze(1), groups).squeeze(1), self._back(after.unsqueeze(1), groups).squeeze(1)
        return self._together(values), self._together(after)

    def initial_state(self, rows: int) -> Tensor:
        """[K, rows, *state_shape] at the beginning of an episode."""
        return self.first_state(rows).expand(self.members, rows, *self.state_shape).clone()

    def chosen(self, members: Tensor | None = None) -> Layers:
        """Every layer of the chosen members, one for each stack: generated, picked for each agent, or as it is."""
        generated = self.hyper.generate() if self.hyper is not None else {}
        shared = self._index(members, self._owners)
        by_identity = self._index(members, self._identities)
        layers: Layers = {}
        for name in self._names:
            if name in generated:
                weight, bias, index = *generated[name], by_identity
            else:
                layer = getattr(self, name)
                weight, bias, index = layer.weight, layer.bias, shared
            layers[name] = selected(weight, index), selected(bias, index)
        return layers

    def for_acting(self, layers: Layers) -> Layers:
        """`layers` as they are best given to `step` for many steps without gradients."""
        return layers

    # -- stacks -----------------------------------------------------------------------------------------------------

    @property
    def _stacks(self) -> int:
        return self.members * (self.view.sets if self.view is not None else 1)

    def _index(self, members: Tensor | None, of: Tensor) -> Tensor | None:
        """Which of a layer's stacked parameters each stack uses; None for all of them in order."""
        if not self.split and not self.kinds:
            return members
        count = int(of.max()) + 1
        if members is None and count == len(of):
            return None
        k = torch.arange(self.members, device=of.device) if members is None else members
        return (k.unsqueeze(1) * count + of).flatten()

    def _each(self, inputs: Tensor, members: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        groups = self._groups(inputs)
        x, layers = self._arranged(inputs, groups), self.chosen(members)
        stacks, of_one = len(next(iter(layers.values()))[0]), len(x)
        outcomes: Iterable[tuple[Tensor, Tensor]]
        if stacks == of_one:
            outcomes = [self.unroll(x, layers)]
        elif inputs.is_cuda:
            x = x.expand(stacks, -1, -1, -1) if of_one == 1 else x.repeat(stacks // of_one, 1, 1, 1)
            outcomes = [self.unroll(x, layers)]
        else:
            parts = {name: [torch.split(tensor, of_one) for tensor in pair] for name, pair in layers.items()}
            of_members = (
                {name: (weight[k], bias[k]) for name, (weight, bias) in parts.items()} for k in range(stacks // of_one)
            )
            outcomes = (self.unroll(x, of_member) for of_member in of_members)
        for values, states in outcomes:
            yield self._back(values, groups), self._back(states, groups)

    def _groups(self, inputs: Tensor) -> Groups | None:
        """Whose rows are whose, where groups vary: inputs [T, M, I]. Who never sees its kind (the dead) is of the
        first."""
        if not self.kinds:
            return None
        return Groups.of(inputs[..., self.kinds].sum(0).argmax(-1), len(self.kinds))

    @staticmethod
    def _back(stacked: Tensor, groups: Groups | None) -> Tensor:
        """Where groups vary, [K·G, T, R, …] -> [K, T, M, …]."""
        if groups is None:
            return stacked
        number = len(groups.rows)
        apart = stacked.view(len(stacked) // number, number, *stacked.shape[1:]).transpose(1, 2)
        return apart.flatten(2, 3).index_select(2, groups.places)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """[S, T, M, …] of some members each. Returns [K, T, M, …]."""
        stacked = parts[0] if len(parts) == 1 else torch.cat(parts)
        if not self.split:
            return stacked
        apart = stacked.view(-1, len(self._owners), *stacked.shape[1:])  # [K, N, T, B, …]
        return apart.permute(0, 2, 3, 1, *range(4, apart.dim())).flatten(2, 3)

    def _arranged(self, inputs: Tensor, groups: Groups | None = None) -> Tensor:
        """inputs: [T, M, I]. Returns what one member's stacks see, [1, T, M, size], [N, T, B, size] or, of groups that
        vary, [G, T, R, size]."""
        x = inputs if self.view is None else self.view.cut(inputs)
        if groups is not None:
            return x[:, groups.rows].transpose(0, 1).contiguous()
        if not self.split:
            return x.unsqueeze(0)
        steps, rows, size = x.shape
        agents = len(self._owners)
        return x.reshape(steps, rows // agents, agents, size).permute(2, 0, 1, 3).contiguous()

    def _apart(self, state: Tensor, groups: Groups | None = None) -> Tensor:
        """[K, M, …] -> [S, rows, …]."""
        if groups is not None:
            return state[:, groups.rows].flatten(0, 1)
        if not self.split:
            return state
        agents = len(self._owners)
        members, rows, rest = len(state), state.shape[1] // agents, state.shape[2:]
        return state.view(members, rows, agents, *rest).transpose(1, 2).reshape(members * agents, rows, *rest)

    def _together(self, stacked: Tensor) -> Tensor:
        """[S, rows, …] -> [K, M, …]."""
        if not self.split:
            return stacked
        agents = len(self._owners)
        members, rows, rest = len(stacked) // agents, stacked.shape[1], stacked.shape[2:]
        return stacked.view(members, agents, rows, *rest).transpose(1, 2).reshape(members, rows * agents, *rest)
