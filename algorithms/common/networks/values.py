"""V networks of critics on the agent networks: `agent.network` and `agent.sharing` mean for them what they mean for Q.

What each sees is chosen by the method. Two networks cannot be what `agent.network` says:

* one value for the whole team has nobody's identity from which a hypernetwork could generate it: it is the plain
  network (`agent.hyper.base`), as in HyperMARL's MAMuJoCo experiments;
* the state is not made of an agent's entities: asn, updet and atm are gru there.

HyperMARL's authors share one table of embeddings between actors and critics, whose losses are one. Here they have
optimisers each, and so a table each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from phalanx.algorithms.common.networks.build import make_agent_networks
from phalanx.algorithms.common.networks.plan import CRITIC
from phalanx.algorithms.common.networks.view import AgentView
from phalanx.configs.settings import AgentSettings, AttentionSettings, HyperSettings
from phalanx.envs.team import TeamSpec

Sees = Literal["observation", "state", "team"]
"""observation: V(o_i), of each agent's own inputs; state: V(s, i), of each agent (who shares, and whether the id is
seen, by `agent.sharing`); team: V(s), one for all."""


class ValueNetworks(nn.Module):
    """One value for each agent or, with sees="team", for all of them."""

    def __init__(self, spec: TeamSpec, agent: AgentSettings, sees: Sees) -> None:
        super().__init__()
        self.sees, self.agents = sees, spec.n_agents
        if sees == "observation":
            view = AgentView.of(spec, agent)
        else:
            agent = _of_state(agent, one=sees == "team")
            view = AgentView.of_state(spec, agent)
        if sees == "team":
            view = replace(view, owners=(0,), identities=(0,), ids=0, shows_id=False)
        self.network = make_agent_networks(spec, 1, agent, 1, view=view, initialisation=CRITIC)

    def forward(self, inputs: Tensor, state: Tensor, memory: Tensor | None = None) -> Tensor:
        """Of whole episodes, or of pieces before which the networks knew `memory` [1, B·N or B, H]. inputs: [T, B·N, I]
        from `agent_inputs`; state: [T, B, S]; what is not seen is not looked at. Returns [T, B, N], or [T, B, 1] of
        the team."""
        seen = self.seen(inputs, state)
        values: Tensor = self.network(seen)[0] if memory is None else self.network.resumed(seen, memory)[0]
        return values.view(len(values), -1, self.rows)

    @property
    def rows(self) -> int:
        """Values of each step: N, or 1."""
        return 1 if self.sees == "team" else self.agents

    def seen(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The networks' inputs, [T, B·rows, …]."""
        if self.sees == "observation":
            return inputs
        return state if self.sees == "team" else state_inputs(state, self.agents)


def state_inputs(state: Tensor, agents: int) -> Tensor:
    """The state [T, B, S] as each of `agents` sees it, with the one-hot id: [T, B·N, S+N]."""
    steps, batch, size = state.shape
    ids = torch.eye(agents, dtype=state.dtype, device=state.device).expand(steps, batch, agents, agents)
    seen = state.unsqueeze(2).expand(steps, batch, agents, size)
    return torch.cat([seen, ids], -1).flatten(1, 2)


def _of_state(agent: AgentSettings, *, one: bool) -> AgentSettings:
    """The settings of a network of the state that is nearest to the agents'."""
    if one and agent.network.startswith("hyper_"):
        return agent.model_copy(update={"network": agent.hyper.base, "hyper": HyperSettings()})
    if agent.network in ("asn", "updet", "atm"):
        return agent.model_copy(update={"network": "gru", "attention": AttentionSettings()})
    return agent
