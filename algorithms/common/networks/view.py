"""What each agent of a team sees of the learner's input, and whose parameters it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phalanx.configs.settings import AgentSettings
from phalanx.envs.team import TeamSpec


@dataclass(frozen=True)
class AgentView:
    """Agents of a team of N, whose common input is [observation O | last action A | one-hot id N], one row for each.

    `owners[i]` is the parameter set that agent i uses, `identities[i]` the one that a hypernetwork knows it as. Where
    groups are drawn anew in every episode, `kinds` are the observed numbers that say which set an agent uses now.
    """

    obs: int
    actions: int
    owners: tuple[int, ...]
    identities: tuple[int, ...]
    ids: int  # N
    shows_action: bool = True
    shows_id: bool = True
    kinds: tuple[int, ...] = ()

    @classmethod
    def of(cls, spec: TeamSpec, settings: AgentSettings, agents: Sequence[int] | None = None) -> AgentView:
        """Of `agents` (None: all) by `agent.sharing`. A hypernetwork's identity takes the place of the id that is
        seen."""
        sharing, hyper = settings.sharing, settings.network.startswith("hyper_")
        each = tuple(range(spec.n_agents) if agents is None else agents)
        everyone = (0,) * len(each)
        kinds = spec.kind_columns if sharing == "groups" and spec.discrete and not hyper else ()
        # Groups that happen to be empty have no parameters.
        ids = spec.groups("agent.sharing=groups") if sharing == "groups" and not kinds else ()
        groups = _numbered([ids[i] for i in each]) if ids else everyone
        each = _numbered(each)
        return cls(
            obs=spec.obs_dim,
            actions=action_size(spec),
            owners=each if sharing == "none" else groups if sharing == "groups" and not hyper else everyone,
            identities={"full": everyone, "full_id": each, "groups": groups, "none": each}[sharing],
            ids=spec.n_agents,
            shows_action=settings.last_action,
            shows_id=sharing == "full_id" and not hyper,
            kinds=kinds,
        )

    @classmethod
    def of_state(cls, spec: TeamSpec, settings: AgentSettings) -> AgentView:
        """The same agents, all of which see the state instead of what they would: [state S | one-hot id N]. It does not
        say of which kind somebody is, so agents whose kinds vary share one set."""
        return replace(cls.of(spec, settings), obs=spec.state_dim, actions=0, kinds=())

    @property
    def agents(self) -> int:
        return len(self.owners)

    @property
    def sets(self) -> int:
        """Parameter sets of each member of an ensemble."""
        return len(self.kinds) or max(self.owners) + 1

    @property
    def size(self) -> int:
        """How many numbers an agent sees."""
        return self.obs + self.extras

    @property
    def extras(self) -> int:
        """How many of them are not observed: last action and id."""
        return self.actions * self.shows_action + self.ids * self.shows_id

    def cut(self, inputs: Tensor) -> Tensor:
        """inputs: [..., O+A+N]. Returns [..., size]."""
        if self.shows_id and not self.shows_action:
            return torch.cat([inputs[..., : self.obs], inputs[..., self.obs + self.actions :]], -1)
        return inputs if self.shows_id else inputs[..., : self.size]


def action_size(spec: TeamSpec) -> int:
    """How many numbers say what an agent did: choices, one-hot, or components of a continuous action."""
    return spec.n_actions if spec.discrete else max(spec.action_dims)


def _numbered(names: Sequence[int]) -> tuple[int, ...]:
    """The names as 0, 1, … in ascending order."""
    present = sorted(set(names))
    return tuple(present.index(name) for name in names)
