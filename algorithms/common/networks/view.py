"""What each agent of a team sees of the learner's input, and whose parameters it uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phalanx.configs.settings import AgentSettings
from phalanx.envs.team import TeamSpec


@dataclass(frozen=True)
class AgentView:
    """N agents whose common input is [observation O | one-hot last action A | one-hot id N], one row for each.

    `owners[i]` is the parameter set that agent i uses, `identities[i]` the one that a hypernetwork knows it as.
    """

    obs: int
    actions: int
    owners: tuple[int, ...]
    identities: tuple[int, ...]
    shows_action: bool = True
    shows_id: bool = True

    @classmethod
    def of(cls, spec: TeamSpec, settings: AgentSettings) -> AgentView:
        """By `agent.sharing`. A hypernetwork's identity takes the place of the id that is seen."""
        n, sharing = spec.n_agents, settings.sharing
        everyone, each = (0,) * n, tuple(range(n))
        # Groups that happen to be empty have no parameters.
        present = sorted(set(spec.group_ids))
        groups = tuple(present.index(group) for group in spec.group_ids) or everyone
        hyper = settings.network.startswith("hyper_")
        return cls(
            obs=spec.obs_dim,
            actions=spec.n_actions,
            owners=each if sharing == "none" else groups if sharing == "groups" and not hyper else everyone,
            identities={"full": everyone, "full_id": each, "groups": groups, "none": each}[sharing],
            shows_action=settings.last_action,
            shows_id=sharing == "full_id" and not hyper,
        )

    @property
    def agents(self) -> int:
        return len(self.owners)

    @property
    def sets(self) -> int:
        """Parameter sets of each member of an ensemble."""
        return max(self.owners) + 1

    @property
    def size(self) -> int:
        """How many numbers an agent sees."""
        return self.obs + self.extras

    @property
    def extras(self) -> int:
        """How many of them are not observed: last action and id."""
        return self.actions * self.shows_action + self.agents * self.shows_id

    def cut(self, inputs: Tensor) -> Tensor:
        """inputs: [..., O+A+N]. Returns [..., size]."""
        if self.shows_id and not self.shows_action:
            return torch.cat([inputs[..., : self.obs], inputs[..., self.obs + self.actions :]], -1)
        return inputs if self.shows_id else inputs[..., : self.size]
