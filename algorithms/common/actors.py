"""Policies of a team on the agent networks: `agent.network` and `agent.sharing` mean for them what they mean for Q."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from phalanx.algorithms.common.distributions import Categorical, Deterministic, Distribution, Gaussian, TanhGaussian
from phalanx.algorithms.common.networks.base import Layers
from phalanx.algorithms.common.networks.build import make_agent_networks
from phalanx.algorithms.common.networks.plan import ACTOR
from phalanx.algorithms.common.networks.view import AgentView, action_size
from phalanx.configs.settings import AgentSettings
from phalanx.envs.team import TeamSpec

Head = Literal["gaussian", "tanh_gaussian", "deterministic"]
"""Which distribution continuous actions have, see `distributions`: gaussian for on-policy methods, tanh_gaussian for
soft actor-critic, deterministic for deterministic policy gradients. Discrete ones are categorical with every head."""

FIRST_LOG_STD = -0.5
"""Of a Gaussian: a deviation of 0.6 in a range of [-1, 1]. The papers' codes have from 0.37 (HARL) to 1; ours is in
between."""


class ActingNetworks(nn.Module, ABC):
    """What maps the rows of `agent_inputs`, [T, B·n, I], to distributions over the actions of n agents."""

    members = 1  # as if it were an ensemble of one: `AgentNetworks` and this act alike
    state_shape: tuple[int, ...]

    def __init__(self, spec: TeamSpec, head: Head) -> None:
        super().__init__()
        self.discrete, self.head = spec.discrete, head

    def forward(self, inputs: Tensor, avail: Tensor) -> Distribution:
        """Over the actions of whole episodes. inputs: [T, B·n, I]; avail: [T, B, n, A], not looked at where actions are
        continuous. Returns a distribution over [T, B, n]."""
        return self.distribution(self.outputs(inputs), avail)

    def distribution(self, outputs: Tensor, avail: Tensor) -> Distribution:
        """outputs: [..., n, X]; avail: [..., n, A]."""
        if self.discrete:
            return Categorical(outputs, avail)
        if self.head == "deterministic":
            return Deterministic(outputs, self.used())
        if self.head == "tanh_gaussian":
            mean, log_std = outputs.chunk(2, -1)
            return TanhGaussian(mean, log_std, self.used())
        known = self.log_stds()
        assert known is not None
        return Gaussian(outputs, known, self.used())

    @abstractmethod
    def outputs(self, inputs: Tensor) -> Tensor:
        """What the networks give for whole episodes. inputs: [T, B·n, I]. Returns [T, B, n, X]."""

    @abstractmethod
    def log_stds(self) -> Tensor | None:
        """Gaussians', [n, D]; None for other distributions."""

    @abstractmethod
    def used(self) -> Tensor | None:
        """Components that the agents have, bool [n, D]; None for all."""

    @abstractmethod
    def initial_state(self, rows: int) -> Tensor:
        """[1, rows, *state_shape] at the beginning of an episode."""

    @abstractmethod
    def chosen(self) -> Layers:
        """The layers, for `step`: who makes many steps with the same parameters asks once."""

    @abstractmethod
    def for_acting(self, layers: Layers) -> Layers:
        """`layers` as they are best given to `step` for many steps without gradients."""

    @abstractmethod
    def step(self, inputs: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        """One step. inputs: [E·n, I], state: [1, E·n, *state_shape]. Returns outputs [1, E·n, X] and the new state."""


class Actors(ActingNetworks):
    """Policies of the agents `agents` (None: all) of a team: one network's parameters, one optimiser.

    A Gaussian's deviations do not depend on what is seen: they are a parameter, one for each parameter set of the
    network; hypernetworks do not generate them (as in HyperMARL's code).
    """

    log_std: nn.Parameter | None
    _used: Tensor
    _owners: Tensor

    def __init__(
        self, spec: TeamSpec, agent: AgentSettings, head: Head = "gaussian", agents: Sequence[int] | None = None
    ) -> None:
        super().__init__(spec, head)
        self.agents, size = tuple(range(spec.n_agents) if agents is None else agents), action_size(spec)
        self.view = AgentView.of(spec, agent, self.agents)
        # Outputs belong to entities only where each is one action's.
        outputs = None if spec.discrete else size * (2 if head == "tanh_gaussian" else 1)
        self.network = make_agent_networks(spec, 1, agent, outputs, view=self.view, initialisation=ACTOR)
        self.state_shape = self.network.state_shape
        has_std = head == "gaussian" and not spec.discrete
        self.log_std = nn.Parameter(torch.full((self.view.sets, size), FIRST_LOG_STD)) if has_std else None
        used = [[d < spec.action_dims[i] for d in range(size)] for i in self.agents]
        self.all_used = all(spec.action_dims[i] == size for i in self.agents)
        self.register_buffer("_used", torch.tensor(used), persistent=False)
        self.register_buffer("_owners", torch.tensor(self.view.owners), persistent=False)

    def outputs(self, inputs: Tensor) -> Tensor:
        raw: Tensor = self.network(inputs)[0]
        return raw.view(len(raw), -1, len(self.agents), raw.shape[-1])

    def log_stds(self) -> Tensor | None:
        return None if self.log_std is None else self.log_std.index_select(0, self._owners)

    def used(self) -> Tensor | None:
        return None if self.all_used else self._used

    def initial_state(self, rows: int) -> Tensor:
        return self.network.initial_state(rows)

    def chosen(self) -> Layers:
        return self.network.chosen()

    def for_acting(self, layers: Layers) -> Layers:
        return self.network.for_acting(layers)

    def step(self, inputs: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        return self.network.step(inputs, state, layers)


class GroupedActors(ActingNetworks):
    """All agents of a team, with one `Actors` for each of `groups` (None: one group): what methods train one after the
    other. `groups` are kept as they were given, the agents of each in ascending order.

    Each has tensors of its own, because a shared tensor whose gradient is zero would still be moved by Adam's
    momentum. Within a group `agent.sharing` says who shares parameters. ValueError where the groups are not a
    partition of the agents.
    """

    _order: Tensor

    def __init__(
        self,
        spec: TeamSpec,
        agent: AgentSettings,
        head: Head = "gaussian",
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(spec, head)
        self.groups = [sorted(group) for group in (groups or [range(spec.n_agents)])]
        everyone = [i for group in self.groups for i in group]
        if sorted(everyone) != list(range(spec.n_agents)) or not all(self.groups):
            raise ValueError(f"groups {self.groups} are not a partition of {spec.n_agents} agents")
        parts = [Actors(spec, agent, head, group) for group in self.groups]
        if len(parts) > 1 and parts[0].view.kinds:  # refused: `step` has one set for each agent
            spec.groups("agent.sharing=groups, for agents that are trained one after the other,")
        self.parts = nn.ModuleList(parts)
        self.state_shape, self._agents = parts[0].state_shape, spec.n_agents
        self._all_used = all(part.all_used for part in parts)
        self.register_buffer("_order", torch.tensor(everyone).argsort(), persistent=False)

    def of_group(self, k: int) -> Actors:
        """Group k's: takes and gives the rows of its agents alone."""
        part = self.parts[k]
        assert isinstance(part, Actors)
        return part

    def outputs(self, inputs: Tensor) -> Tensor:
        if len(self.groups) == 1:
            return self.of_group(0).outputs(inputs)
        rows = inputs.view(len(inputs), -1, self._agents, inputs.shape[-1])
        parts = [self.of_group(k).outputs(rows[:, :, group].flatten(1, 2)) for k, group in enumerate(self.groups)]
        return self._joined(parts, 2)

    def log_stds(self) -> Tensor | None:
        stds = [self.of_group(k).log_stds() for k in range(len(self.groups))]
        known = [std for std in stds if std is not None]
        return self._joined(known, 0) if known else None

    def used(self) -> Tensor | None:
        used = [self.of_group(k)._used for k in range(len(self.groups))]
        return None if self._all_used else self._joined(used, 0)

    def initial_state(self, rows: int) -> Tensor:
        return self.of_group(0).initial_state(rows)

    def chosen(self) -> Layers:
        """Every layer of each agent, [N, …]; of a single group as its network has them."""
        parts = [self.of_group(k).chosen() for k in range(len(self.groups))]
        if len(parts) == 1:
            return parts[0]

        def each(name: str, which: int) -> Tensor:
            pairs = zip(parts, self.groups, strict=True)
            return self._joined(
                [part[name][which].expand(len(g), *part[name][which].shape[1:]) for part, g in pairs], 0
            )

        return {name: (each(name, 0), each(name, 1)) for name in parts[0]}

    def for_acting(self, layers: Layers) -> Layers:
        return self.of_group(0).for_acting(layers)

    def step(self, inputs: Tensor, state: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
        """All agents in one batched pass, whatever the groups."""
        first = self.of_group(0)
        if len(self.groups) == 1:
            return first.step(inputs, state, layers)

        def apart(rows: Tensor) -> Tensor:
            return rows.view(len(rows) // self._agents, self._agents, *rows.shape[1:]).transpose(0, 1).contiguous()

        def together(stacked: Tensor) -> Tensor:
            return stacked.transpose(0, 1).flatten(0, 1).unsqueeze(0)

        outputs, after = first.network.advance(apart(first.view.cut(inputs)), apart(state[0]), layers)
        return together(outputs), together(after)

    def _joined(self, of_groups: list[Tensor], dim: int) -> Tensor:
        """Groups' agents along `dim`, put in the team's order."""
        return of_groups[0] if len(of_groups) == 1 else torch.cat(of_groups, dim).index_select(dim, self._order)
