"""QTRAN-base: factorisation by a transformed sum (Son et al., ICML 2019, arXiv 1905.05408)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from phalanx.algorithms.base import Capabilities
from phalanx.algorithms.common.copies import frozen_copy
from phalanx.algorithms.common.mixers import MixingWeights
from phalanx.algorithms.common.targets import mask_unavailable, take
from phalanx.algorithms.value_mixing import Prepared, Terms
from phalanx.algorithms.vdn import VDN, UnmixedSettings
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec


class QTRANSettings(UnmixedSettings):
    double_q: Literal[True] = Field(default=True, description="always: the online utilities choose the joint action")
    joint_embed: int = Field(default=64, ge=1, description="width of the joint value network and of V")
    opt_weight: float = Field(default=1.0, ge=0, description="λ_opt, weight of the condition at the greedy action")
    nopt_weight: float = Field(default=0.1, ge=0, description="λ_nopt, weight of the condition everywhere else")


@dataclass(kw_only=True)
class QTRANTerms(Terms):
    """`Terms` in which `q_tot` [K, T, B] is the joint value, and what both conditions need besides."""

    value: Tensor  # [T, B], V(s)
    greedy_joint: Tensor  # [K, T, B], online Q_jt of the greedy joint action, a constant


class JointNetwork(nn.Module):
    """Q_jt(s, τ, u) of the state and the sum over agents of encoded recurrent states and actions, and V(s). One set of
    layers whatever the number of agent networks."""

    def __init__(self, state: int, hidden: int, actions: int, width: int) -> None:
        super().__init__()
        encoded = hidden + actions
        self.actions = actions
        self.action_encoding = nn.Sequential(nn.Linear(encoded, encoded), nn.ReLU(), nn.Linear(encoded, encoded))
        self.Q = three_layers(state + encoded, width)
        self.V = three_layers(state, width)

    def forward(self, hidden: Tensor, actions: Tensor, state: Tensor) -> Tensor:
        """hidden: [K, T, B, N, H], actions: [T, B, N], state: [T, B, S]. Returns Q_jt [K, T, B]."""
        one_hot = functional.one_hot(actions, self.actions).to(hidden.dtype).expand(*hidden.shape[:-1], -1)
        encoded = self.action_encoding(torch.cat([hidden, one_hot], -1)).sum(-2)
        q: Tensor = self.Q(torch.cat([state.expand(*encoded.shape[:-1], -1), encoded], -1))
        return q.squeeze(-1)


class QTRANBase(VDN):
    """Q_jt is learned without restriction, from y = r + γ (1 - term) Q_jt^-(s', τ', ū'), ū the greedy actions of the
    agents' utilities. Their sum is held to Q_jt: Σ_i q_i(ū_i) - Q_jt(ū) + V(s) = 0, and ≥ 0 for what was played (L_opt
    and L_nopt, in which Q_jt is a constant and V is not). Then ū maximises Q_jt.

    As in PyMARL the joint network sees the agents' recurrent states, through which the first loss trains them too. With
    K agent networks there are K joint values, of which the least that was drawn makes the target.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = QTRANSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        needs_state=True, state_use="values joint actions by the global state", input_noise=True
    )
    settings: QTRANSettings

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        width, hidden = self.settings.joint_embed, networks.agent.hidden
        self.joint = JointNetwork(spec.state_dim, hidden, spec.n_actions, width)
        self.target_joint = frozen_copy(self.joint)

    def target_utilities(self, inputs: Tensor, members: Tensor | None) -> Tensor:
        """Recurrent states: all that the target takes of the target agents."""
        hidden: Tensor = self.target_agents.hidden_states(inputs, members)
        return hidden

    def target_weights(self, state: Tensor, members: Tensor | None) -> MixingWeights | None:
        return None

    def online_terms(self, prepared: Prepared) -> Terms:
        values, hidden = self.agents.values_and_states(prepared.inputs)
        values = values.view(-1, *prepared.avail.shape)
        mean_values = values.squeeze(0) if values.shape[0] == 1 else values.mean(0)
        greedy = mask_unavailable(mean_values.detach(), prepared.avail).argmax(-1)
        chosen = take(mean_values[:-1], prepared.actions)
        states = hidden.view(*values.shape[:-1], hidden.shape[-1])[:, :-1]
        state = prepared.state[:-1]
        q_jt, value = self.joint(states, prepared.actions, state), self.joint.V(state).squeeze(-1)
        with torch.no_grad():
            greedy_joint = self.joint(states, greedy[:-1], state)
        return QTRANTerms(
            prepared, values, mean_values, greedy, chosen, q_jt, None, value=value, greedy_joint=greedy_joint
        )

    def greedy_values(self, terms: Terms) -> Tensor:
        return self.joint_values(terms.prepared, terms.greedy)

    def joint_values(self, prepared: Prepared, actions: Tensor) -> Tensor:
        q_jt: Tensor = self.target_joint(prepared.target_values, actions, prepared.target_state)
        return q_jt

    def add_losses(self, terms: Terms) -> None:
        super().add_losses(terms)
        assert isinstance(terms, QTRANTerms)
        at_greedy, at_chosen = self.conditions(terms)
        zero = at_greedy.new_zeros(())
        terms.losses["loss_opt"] = self.settings.opt_weight * self.regression(terms, at_greedy, zero)
        terms.losses["loss_nopt"] = self.settings.nopt_weight * self.regression(terms, at_chosen.clamp(max=0), zero)

    def conditions(self, terms: QTRANTerms) -> tuple[Tensor, Tensor]:
        """Σ_i q_i - sg(Q_jt) + V(s) of the greedy and of the stored joint actions, each [K, T, B]: to become 0, and not
        to be negative."""
        at_best = take(terms.mean_values, terms.greedy)[:-1].sum(-1) + terms.value
        at_chosen = terms.chosen.sum(-1) + terms.value
        return at_best - terms.greedy_joint, at_chosen - terms.q_tot.detach()


def three_layers(inputs: int, width: int) -> nn.Sequential:
    """[..., inputs] -> [..., 1]."""
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
