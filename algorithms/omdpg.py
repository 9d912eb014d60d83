"""OMDPG: actors of groups that climb the optimal marginal Q of pessimistic critics (Yu et al. 2025, arXiv 2507.09989).

The paper has no public code: `docs/omdpg.md` says what of this is published and what is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from phalanx.algorithms.actor_critic import Prepared
from phalanx.algorithms.actor_critic_settings import DeterministicSettings
from phalanx.algorithms.base import Metrics, OptimiserStep, TensorBatch
from phalanx.algorithms.common.actors import GroupedActors
from phalanx.algorithms.common.critics import Look
from phalanx.algorithms.common.distributions import Categorical, gumbel
from phalanx.algorithms.common.grouping import Grouping, resolve_groups
from phalanx.algorithms.common.losses import masked_mean
from phalanx.algorithms.common.marginal_q import (
    JointValues,
    before,
    continued,
    contributions,
    coordinate_ascent,
    marginal_q,
    pessimistic_loss,
)
from phalanx.algorithms.maddpg import MADDPG
from phalanx.configs.base import Settings
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec

AT_ONCE = 16384
"""Joint actions that critics look at together, where nothing is learned from it: more only fill the memory."""


class OMQSettings(Settings):
    continuation: Literal["greedy", "coordinate"] = Field(
        default="greedy",
        description="what the agents after one are taken to do: greedy (their actors' best actions), or, where actions"
        " are discrete, coordinate (from there, one after the other, what the critics find best)",
    )
    gradient: Literal["sampled", "expected"] = Field(
        default="sampled",
        description="how an actor of discrete actions climbs: sampled (straight-through Gumbel-softmax: by the critics'"
        " slope at a sampled action), or expected (by its policy's mean of what every action can reach, each continued"
        " for itself)",
    )
    perturb: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="probability with which each of those actions is replaced by a random one: a robustness study",
    )


class GQCSettings(Settings):
    lambda_pu: float = Field(
        default=0.1, ge=0, description="λ_PU, weight of the critics' pessimism about actions nobody took; 0: none"
    )
    beta_pu: float = Field(default=1.0, ge=0, description="β_PU, standard deviations of the critics that it goes down")


class OMDPGSettings(DeterministicSettings):
    omq: OMQSettings = Field(default=OMQSettings(), description="the optimal marginal Q")
    gqc: GQCSettings = Field(default=GQCSettings(), description="the pessimistic loss of the critics")
    groups: Grouping = Field(
        default="spec",
        description="who shares an actor: spec (the environment's groups), none (every agent alone), all, random"
        " (groups of the environment's sizes with drawn members), or lists of agents",
    )
    groups_seed: int = Field(default=0, ge=0, description="groups=random: what the members are drawn with")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> OMDPGSettings:
        if self.groups_seed and self.groups != "random":
            raise ValueError(
                f"groups_seed={self.groups_seed} has no effect with groups={self.groups}: leave it at 0, or set"
                " groups=random"
            )
        return self


@dataclass
class OMDPGPrepared(Prepared):
    """An agent order, and further randomness. R = T·B transitions, an agent's action are X numbers."""

    agents: list[int]  # the order of a_1 … a_n
    stored: Tensor  # [1, R, N] bool: whose action in â is the replay's, those of a random number of first agents
    perturbed: Tensor | None  # [R, N] bool; None: nobody's
    replacement: Tensor | None  # [R, N, X] of the perturbed
    greedy: Tensor | None = None  # [R, N, X], what the actors find best now; kept between an update's steps


class OMDPG(MADDPG):
    """Critics are drawn to r + γ min_c Q̄_c(s', μ̄(o')), and by `pessimistic_loss` (GQC) at joint actions â whose first
    agents, a random number of them, do what they did and the others what continues that. Then group after group, in a
    random order, improves its actor (CCGA): agent i of it climbs φ*(s, a_{1:i}), where a_{1:i−1} are the actors' best
    actions by now, a_i is its own policy's, and what follows continues them (`marginal_q`).

    Agents of other reward parts (`critic.rewards`) are never taken to do what is best for this one: they are as their
    actors are.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = OMDPGSettings
    settings: OMDPGSettings

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        omq = self.settings.omq
        for key, asked, instead in (
            ("continuation", omq.continuation == "coordinate", "greedy"),
            ("gradient", omq.gradient == "expected", "sampled"),
        ):
            if asked and not spec.discrete:
                raise UserError(
                    f"algorithm.omq.{key}={getattr(omq, key)} looks at every action of an agent, but {spec.env_name}"
                    f" has continuous ones: set algorithm.omq.{key}={instead}"
                )

    @classmethod
    def make_actors(cls, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> GroupedActors:
        assert isinstance(settings, OMDPGSettings)
        groups = resolve_groups(spec, settings.groups, settings.groups_seed)
        return GroupedActors(spec, networks.agent, cls.head, groups)

    @torch.no_grad()
    def prepare(self, batch: TensorBatch, rng: np.random.Generator) -> OMDPGPrepared:
        """Drawn from `rng` after what the core draws: the order of agents, how many of the first ones â takes from the
        replay in each transition, perturbations."""
        prepared = super().prepare(batch, rng)
        n, perturb = self.spec.n_agents, self.settings.omq.perturb
        rows, like = prepared.mask.numel(), prepared.reward
        order = rng.permutation(n).tolist()
        given = before(order)[torch.from_numpy(rng.integers(n, size=rows))].to(like.device)
        perturbed, replacement = None, None
        if perturb > 0:
            perturbed = torch.from_numpy(rng.random((rows, n)) < perturb).to(like.device)
            replacement = self._random_actions(prepared, rng)
        return OMDPGPrepared(
            **vars(prepared), agents=order, stored=given.unsqueeze(0), perturbed=perturbed, replacement=replacement
        )

    def _random_actions(self, prepared: Prepared, rng: np.random.Generator) -> Tensor:
        """Uniform, available ones: [R, N, X]."""
        like = prepared.joint.flatten(0, 1)
        if self.spec.discrete:
            avail = prepared.avail[:-1].flatten(0, 1)
            uniform = Categorical(torch.zeros_like(like), avail)
            return uniform.differentiable(gumbel(rng, tuple(like.shape), like))
        used = torch.arange(self.width) < torch.tensor(self.spec.action_dims).unsqueeze(1)
        drawn = torch.from_numpy(rng.uniform(-1.0, 1.0, like.shape)).to(like)
        return drawn * used.to(like)

    # -- what continues ---------------------------------------------------------------------------------------------

    def continuation(
        self, values: JointValues, joint: Tensor, given: Tensor, part: list[int], prepared: OMDPGPrepared
    ) -> Tensor:
        """The joint actions [P, R, N, X], whose agents that are not `given` ([P, N] or [P, R, N] bool) do what their
        actors find best, with those agents' actions as they are taken to be."""
        given = given.unsqueeze(1) if given.dim() == 2 else given
        if self.settings.omq.continuation == "coordinate":
            others = torch.ones(self.spec.n_agents, dtype=torch.bool, device=given.device)
            others[part] = False
            avail = prepared.avail[:-1].flatten(0, 1)
            joint = coordinate_ascent(values, joint, (given | others).expand(joint.shape[:-1]), avail, prepared.agents)
        if prepared.perturbed is not None and prepared.replacement is not None:
            joint = continued(given | ~prepared.perturbed, joint, prepared.replacement)
        return joint

    def joint_values(self, look: Look) -> JointValues:
        """What these critics, in R = T·B states, make of joint actions: [C, P, R]; C is 1 where actors improve their
        mean (`critic.improve`)."""

        def values(joint: Tensor) -> Tensor:
            if not torch.is_grad_enabled() and joint.shape[:2].numel() > AT_ONCE and len(joint) > 1:
                pieces = torch.split(joint, max(1, AT_ONCE // joint.shape[1]))
                return torch.cat([at_once(piece) for piece in pieces], 1)
            return at_once(joint)

        def at_once(joint: Tensor) -> Tensor:
            found = self.critics.values(look, joint.view(len(joint), *look.rows, -1)).flatten(2)
            return found.mean(0, keepdim=True) if self.settings.critic.improve == "mean" else found

        return values

    @torch.no_grad()
    def _greedy(self, prepared: Prepared, group: int) -> Tensor:
        """What the agents of a group find best by now, [R, n, X]."""
        return self._policy_of(prepared, group).differentiable().flatten(0, 1)

    # -- the update -------------------------------------------------------------------------------------------------

    def critic_step(self, prepared: Prepared, with_errors: bool = False) -> OptimiserStep:
        step = super().critic_step(prepared, with_errors)
        weight = self.settings.gqc.lambda_pu
        if weight == 0:
            return step
        assert isinstance(prepared, OMDPGPrepared)
        loss, metrics = self.pessimism(prepared)
        return replace(step, loss=step.loss + weight * loss, metrics=step.metrics | metrics)

    def pessimism(self, prepared: OMDPGPrepared) -> tuple[Tensor, Metrics]:
        """The loss at â: the sum over critics of the mean over transitions."""
        prepared.greedy = self._all_greedy(prepared)
        unseen = continued(prepared.stored, prepared.joint.flatten(0, 1), prepared.greedy)
        mask, count = prepared.mask.flatten(), self.settings.critic.members
        losses: list[Tensor] = []
        metrics: Metrics = {}
        for k, part in enumerate(self.parts):
            members = self._members(None, range(k, k + 1))
            look = self.critics.look(prepared.state[:-1], members)
            joint = self.continuation(self.joint_values(look), unseen, prepared.stored, part, prepared)
            values = self.critics.values(look, joint[0].view(*look.rows, -1)).flatten(1)
            losses.append(pessimistic_loss(values, mask, self.settings.gqc.beta_pu))
            if count > 1:
                spread = masked_mean(values.detach().std(0, correction=0), mask)
                metrics["critic_std_unseen"] = metrics.get("critic_std_unseen", 0.0) + spread / len(self.parts)
        loss = torch.stack(losses).sum()
        return loss, metrics | {"loss_pu": loss.detach()}

    def actor_steps(self, prepared: Prepared) -> Iterator[OptimiserStep]:
        """One for each group, in the drawn order, each seeing what those before it have learned."""
        assert isinstance(prepared, OMDPGPrepared)
        greedy = self._all_greedy(prepared) if prepared.greedy is None else prepared.greedy
        looks = self._looks(prepared)
        for k in prepared.order:
            yield self.group_step(prepared, k, greedy, looks)
            if k != prepared.order[-1]:
                greedy = greedy.index_copy(1, self._index(self.actors.groups[k]), self._greedy(prepared, k))

    def group_step(self, prepared: OMDPGPrepared, k: int, greedy: Tensor, looks: list[Look]) -> OptimiserStep:
        """−mean over the group's agents of φ*(s, a_{1:i}). greedy: [R, N, X], everybody's best actions by now."""
        group = self.actors.groups[k]
        policy = self._policy_of(prepared, k)
        mask = prepared.mask.flatten()
        losses: list[Tensor] = []
        for part, look in zip(self.parts, looks, strict=True):
            improving = [agent for agent in part if agent in group]
            if not improving:
                continue
            values = self.joint_values(look)
            if isinstance(policy, Categorical) and self.settings.omq.gradient == "expected":
                each = [self.every_reached(prepared, agent, part, greedy, values) for agent in improving]
                chances = policy.probs.flatten(0, 1)[:, [group.index(agent) for agent in improving]]  # [R, P, A]
                reached = (chances.permute(1, 2, 0) * torch.stack(each)).sum(1)
            else:
                actions, _ = self.act(policy, prepared.noise[:, :, group])
                own = greedy.index_copy(1, self._index(group), actions.flatten(0, 1))
                reached = self.reached(prepared, improving, part, own, greedy, values)
            losses.append(-masked_mean(reached, mask))
        loss = torch.stack(losses).mean()
        metrics = {"loss_actor": loss.detach()}
        penalty = self.actor_penalty(policy, prepared, group)
        return OptimiserStep(self.actor_group(k), loss if penalty is None else loss + penalty, metrics)

    def reached(
        self,
        prepared: OMDPGPrepared,
        improving: list[int],
        part: list[int],
        own: Tensor,
        greedy: Tensor,
        values: JointValues,
    ) -> Tensor:
        """φ*(s, a_{1:i}) of each of these agents: [P, R]. own: [R, N, X], of which agent i's action is a_i, which alone
        gradients pass through."""
        places = [prepared.agents.index(agent) + 1 for agent in improving]
        given = before(prepared.agents)[places].to(greedy.device)
        itself = torch.zeros(len(improving), self.spec.n_agents, dtype=torch.bool, device=greedy.device)
        itself[range(len(improving)), improving] = True
        start = continued(itself, own.detach(), greedy)
        joint = self.continuation(values, start, given, part, prepared)
        return values(continued(itself, own, joint)).amin(0)

    @torch.no_grad()
    def every_reached(
        self, prepared: OMDPGPrepared, agent: int, part: list[int], greedy: Tensor, values: JointValues
    ) -> Tensor:
        """φ*(s, a_{1:i}) of this agent, with each of its A actions for a_i: [A, R]."""
        given = before(prepared.agents)[prepared.agents.index(agent) + 1].to(greedy.device)
        start = greedy.repeat(self.width, 1, 1, 1)
        start[:, :, agent] = torch.eye(self.width).to(greedy).unsqueeze(1)
        return values(self.continuation(values, start, given.expand(self.width, -1), part, prepared)).amin(0)

    def _all_greedy(self, prepared: Prepared) -> Tensor:
        """What everybody finds best by now: [R, N, X]."""
        together = prepared.joint.flatten(0, 1)
        for k, group in enumerate(self.actors.groups):
            together = together.index_copy(1, self._index(group), self._greedy(prepared, k))
        return together

    @torch.no_grad()
    def diagnostics(self, batch: TensorBatch) -> Metrics:
        """The core's, and what single agents' stored actions cost, in the environment's order and unperturbed: the mean
        over agents of φ*(s, a_{1:i}) − φ*(s, a_{1:i−1}), and the share of them above zero, which an exact maximum would
        not have."""
        prepared = super().prepare(batch, np.random.default_rng(0))
        mask, taken = prepared.mask.flatten(), prepared.joint.flatten(0, 1)
        coordinate = self.settings.omq.continuation == "coordinate" and len(self.parts) == 1
        avail = prepared.avail[:-1].flatten(0, 1) if coordinate else None
        found: list[Tensor] = []
        for look in self._looks(prepared):
            order = range(self.spec.n_agents)
            marginal = marginal_q(self.joint_values(look), taken, self._all_greedy(prepared), order, avail)
            found.append(contributions(marginal))
        each = torch.stack(found)  # [P, N, R]
        return super().diagnostics(batch) | {
            "marginal_contribution": masked_mean(each, mask),
            "marginal_contribution_positive": masked_mean((each > 1e-6).to(each.dtype), mask),
        }
