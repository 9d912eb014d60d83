"""The core of the off-policy actor-critic methods: actors of single agents, critics of everything together.

A method says how policies give actions, what these are worth besides (`MASAC`: entropy), and who improves together:
everybody, or one group after the other, each seeing what those before it do by now (`grouping`; the HA* methods).

DEMAR for policies, which its paper leaves open, is ours: settings of the core, so that it combines with every method.
Its two ensembles' minimum becomes one over C critics that is drawn twice: `critic.subset` of them for the target, and
`critic.improve_subset` for what the actors climb, so that they cannot lean on the critic that is wrong in their favour.
Its regulariser on the mixing weights, which say how much a single agent's value counts for, becomes one on ∂Q/∂a_i:
how much a single agent's action counts for (`critic.sensitivity`).

Rows are transitions of whole episodes, so that actors may have memory; everything inside is time first, [T, B, …].
P parts of the team have rewards of their own (`critic.rewards`): C critics for each part, p·C + c.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from phalanx.algorithms.actor_critic_diagnostics import critic_diagnostics
from phalanx.algorithms.actor_critic_settings import ActorCriticSettings
from phalanx.algorithms.base import Algorithm, Capabilities, Metrics, OptimiserStep, TensorBatch, Weights
from phalanx.algorithms.common.actor_policy import ActorPolicy
from phalanx.algorithms.common.actors import GroupedActors, Head
from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.copies import approach, frozen_copy
from phalanx.algorithms.common.critics import Critics, Look
from phalanx.algorithms.common.distributions import Distribution, gumbel, normal
from phalanx.algorithms.common.ensembles import draw_members
from phalanx.algorithms.common.grouping import Grouping, resolve_groups
from phalanx.algorithms.common.losses import episode_errors, masked_mean, weighted_squared_error
from phalanx.algorithms.common.targets import n_step_target, one_step_target, transition_mask
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec

CRITIC = "critic"


@dataclass
class Prepared:
    """A batch as an update needs it, and all that is random in it. X numbers are an agent's action: A one-hot, or D."""

    inputs: Tensor  # [T+1, B, N, I] of the actors
    state: Tensor  # [T+1, B, S] of the critics
    avail: Tensor  # [T+1, B, N, A]
    joint: Tensor  # [T, B, N, X], as stored
    reward: Tensor  # [P, T, B]
    terminated: Tensor  # [T, B]
    mask: Tensor  # [T, B] bool: what is learned from
    noise: Tensor  # [T, B, N, X] of the actions that actors are improved by
    target_noise: Tensor  # [T+1, B, N, X] of the actions that targets bootstrap from
    order: list[int]  # of the groups
    drawn: Tensor | None  # of a part's critics, for the target's minimum; None: all
    improve_drawn: Tensor | None  # the same, for what the actors improve
    importance: Tensor | None  # [B], of the episodes' errors; None for 1
    entropies: Tensor  # [T, B, N], filled while actors are improved; zeros where policies have none


class ActorCritic(Algorithm):
    """Actors, critics, and the update (see the module's docstring)."""

    Settings: ClassVar[type[AlgorithmSettings]] = ActorCriticSettings
    capabilities: ClassVar[Capabilities] = Capabilities(discrete=True, continuous=True)
    head: ClassVar[Head]
    """Of continuous actions."""
    settings: ActorCriticSettings
    count: Tensor

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        critic = self.settings.critic
        self.parts = reward_parts(spec, critic.rewards)
        self.actors = self.make_actors(spec, self.settings, networks)
        self.width = spec.n_actions if spec.discrete else max(spec.action_dims)  # X
        state = spec.state_dim or spec.n_agents * spec.obs_dim
        members = len(self.parts) * critic.members
        self.critics = Critics(members, state, spec.n_agents * self.width, critic.hidden, critic.depth)
        self.target_critics = frozen_copy(self.critics)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # updates so far

    # -- what a method says -----------------------------------------------------------------------------------------

    @staticmethod
    def grouping(settings: AlgorithmSettings) -> Grouping:
        """Whose actors have an optimiser of their own, and improve one group after the other."""
        return "all"

    @staticmethod
    def action_noise(settings: AlgorithmSettings) -> float:
        """Of deterministic policies while training, see `ActorPolicy`."""
        return 0.0

    @property
    def others_as_stored(self) -> bool:
        """Whether an agent improves beside what the others did then, or beside what they would do now."""
        return False

    @abstractmethod
    def act(self, policy: Distribution, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """Actions of a policy with gradients, [..., n, X], and what they are worth besides: entropies [..., n]."""

    @abstractmethod
    def next_actions(self, prepared: Prepared) -> tuple[Tensor, Tensor | None]:
        """The actions [T+1, B, N, X] that targets bootstrap from, and the worth of the policies' entropies for every
        part, [P, T+1, B]."""

    def entropy_worth(self, entropies: Tensor, part: int) -> Tensor | None:
        """What entropies [T, B, n] of agents of `part` are worth, [T, B]; None for nothing."""
        return None

    def actor_penalty(self, policy: Distribution, prepared: Prepared, agents: list[int]) -> Tensor | None:
        """A further term of the actors' loss; None for none."""
        return None

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """(trained, target): what follows."""
        return [(self.critics, self.target_critics)]

    # -- the rest of an Algorithm -----------------------------------------------------------------------------------

    @classmethod
    def make_actors(cls, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> GroupedActors:
        return GroupedActors(spec, networks.agent, cls.head, resolve_groups(spec, cls.grouping(settings)))

    @classmethod
    def make_policy(cls, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> ActorPolicy:
        return ActorPolicy(spec, cls.make_actors(spec, settings, networks), cls.action_noise(settings))

    def policy_weights(self) -> Weights:
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.actors.state_dict().items()}

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {CRITIC: list(self.critics.parameters())}
        for k in range(len(self.actors.groups)):
            groups[self.actor_group(k)] = list(self.actors.of_group(k).parameters())
        return groups

    def actor_group(self, k: int) -> str:
        """The name of group k's parameters."""
        return "actor" if len(self.actors.groups) == 1 else f"actor_{k}"

    def learning_rate(self, group: str) -> float:
        return self.settings.critic.lr if group == CRITIC else self.settings.lr

    def moves_targets(self, updates: int) -> bool:
        return False  # `prepare` reads no network

    def after_update(self, updates: int) -> None:
        if self.actors_improve(updates):
            approach(self.target_pairs(), self.settings.target_tau)
        self.count.fill_(updates)

    def actors_improve(self, updates: int) -> bool:
        """Whether update number `updates` moves the actors, too."""
        return updates % self.settings.actor_every == 0

    def diagnostics(self, batch: TensorBatch) -> Metrics:
        return critic_diagnostics(self, batch)

    # -- the update -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, batch: TensorBatch, rng: np.random.Generator) -> Prepared:
        """No network is asked. Drawn from `rng`, in this order: critics for the target, critics for the actors, the
        order of the groups, noise."""
        critic, spec = self.settings.critic, self.spec
        drawn = draw_members(rng, critic.members, critic.subset or critic.members)
        improve_drawn = draw_members(rng, critic.members, critic.improve_subset or critic.members)
        groups = len(self.actors.groups)
        order = rng.permutation(groups).tolist() if groups > 1 else [0]
        steps, episodes = batch.reward.shape[1], batch.reward.shape[0]
        draw = gumbel if spec.discrete else normal
        noise = draw(rng, (steps, episodes, spec.n_agents, self.width), batch.reward)
        target_noise = draw(rng, (steps + 1, episodes, spec.n_agents, self.width), batch.reward)
        inputs = agent_inputs(batch.obs, batch.actions, spec.n_actions)
        actions = batch.actions.transpose(0, 1)
        joint = functional.one_hot(actions, spec.n_actions).to(batch.reward.dtype) if spec.discrete else actions
        state = batch.state if spec.state_dim else batch.obs.flatten(2)
        return Prepared(
            inputs.view(steps + 1, episodes, spec.n_agents, -1),
            state.transpose(0, 1),
            batch.avail.transpose(0, 1),
            joint,
            self._rewards(batch),
            batch.terminated.t(),
            transition_mask(batch.filled, batch.terminated),
            noise,
            target_noise,
            order,
            drawn,
            improve_drawn,
            batch.importance,
            torch.zeros_like(noise[..., 0]),
        )

    def _rewards(self, batch: TensorBatch) -> Tensor:
        """[P, T, B]."""
        if self.settings.critic.rewards == "team":
            return batch.reward.t().unsqueeze(0)
        return torch.stack([batch.agent_reward[..., part].mean(-1).t() for part in self.parts])

    def steps(self, prepared: Prepared, *, with_errors: bool = False) -> Iterator[OptimiserStep]:
        yield self.critic_step(prepared, with_errors)
        if self.actors_improve(int(self.count) + 1):
            yield from self.actor_steps(prepared)

    def policy(self, actors: GroupedActors, prepared: Prepared) -> Distribution:
        """What all agents would do at every step, [T+1, B, N]."""
        distribution: Distribution = actors(prepared.inputs.flatten(1, 2), prepared.avail)
        return distribution

    # -- critics ----------------------------------------------------------------------------------------------------

    def critic_step(self, prepared: Prepared, with_errors: bool = False) -> OptimiserStep:
        """Every critic on its own: the sum over critics of the mean squared error, so that none learns slower for being
        one of many."""
        target = self.target(prepared)
        look, weight = self.critics.look(prepared.state[:-1]), self.settings.critic.sensitivity
        metrics: Metrics = {}
        if weight > 0:
            values, slopes = self.critics.values_and_slopes(look, prepared.joint.flatten(-2))
            sensitivity = self.sensitivity(slopes, prepared)
        else:
            values = self.critics.values(look, prepared.joint.flatten(-2))
        values = values.unflatten(0, (len(self.parts), -1))  # type: ignore[no-untyped-call]
        error = weighted_squared_error(values, target.unsqueeze(1), prepared.mask, prepared.importance)
        loss = error * self.critics.members
        if weight > 0:
            loss = loss + weight * sensitivity * self.critics.members
            metrics["action_sensitivity"] = sensitivity.detach()
        with torch.no_grad():
            metrics["loss_td"] = error.detach()
            metrics["q_taken_mean"] = masked_mean(values, prepared.mask)
            metrics["target_mean"] = masked_mean(target, prepared.mask)
            errors = episode_errors(values, target.unsqueeze(1), prepared.mask) if with_errors else None
        return OptimiserStep(CRITIC, loss, metrics, errors)

    @torch.no_grad()
    def target(self, prepared: Prepared) -> Tensor:
        """What the critics of each part are drawn to, [P, T, B]: n steps of rewards, then the minimum over the drawn
        target critics. Terminated episodes bootstrap nothing, truncated ones from their last observation. Entropies of
        the steps in between are not counted."""
        actions, worth = self.next_actions(prepared)
        members = self._members(prepared.drawn, range(len(self.parts)))
        values = self.target_critics(prepared.state, actions.flatten(-2), members)
        value = values.view(len(self.parts), -1, *values.shape[1:]).amin(1)
        value = (value if worth is None else value + worth)[:, 1:]
        reward, terminated, settings = prepared.reward, prepared.terminated, self.settings
        if settings.target_steps == 1:
            return one_step_target(reward, terminated, value, settings.gamma)
        return n_step_target(reward, terminated, prepared.mask, value, settings.gamma, settings.target_steps)

    def sensitivity(self, slopes: Tensor, prepared: Prepared) -> Tensor:
        """Mean over critics and transitions of Σ_i ‖∂Q/∂a_i‖₁ where the stored actions are. Of one-hot actions only
        differences count, and only available ones: their slopes are taken from their mean. slopes: [P·C, T, B, N·X]."""
        slopes = slopes.view(*slopes.shape[:-1], *prepared.joint.shape[-2:])
        if self.spec.discrete:
            avail = prepared.avail[:-1]
            slopes = slopes * avail
            slopes = (slopes - slopes.sum(-1, keepdim=True) / avail.sum(-1, keepdim=True)) * avail
        return masked_mean(slopes.abs().sum((-2, -1)), prepared.mask)

    def _members(self, drawn: Tensor | None, parts: range) -> Tensor | None:
        """Indices of the drawn critics of these parts; None for all critics."""
        count = self.settings.critic.members
        if drawn is None and len(parts) == len(self.parts):
            return None
        of_one = torch.arange(count) if drawn is None else drawn
        each = [part * count + of_one for part in parts]
        return torch.cat(each).to(self.critics.first_bias.device)

    # -- actors -----------------------------------------------------------------------------------------------------

    def actor_steps(self, prepared: Prepared) -> Iterator[OptimiserStep]:
        """One optimiser step for each group, in the drawn order."""
        groups = self.actors.groups
        looks = self._looks(prepared)
        beside = prepared.joint
        if len(groups) > 1 and not self.others_as_stored:
            with torch.no_grad():
                beside = self._propose(prepared, list(range(len(groups))))
        for k in prepared.order:
            yield self.actor_step(prepared, k, beside, looks)
            if len(groups) > 1 and not self.others_as_stored:
                with torch.no_grad():  # by now
                    beside = beside.index_copy(2, self._index(groups[k]), self._propose(prepared, [k]))

    def actor_step(self, prepared: Prepared, k: int, beside: Tensor, looks: list[Look]) -> OptimiserStep:
        """Group k improves. beside: [T, B, N, X], what the other agents do."""
        agents = self.actors.groups[k]
        policy = self._policy_of(prepared, k)
        actions, entropies = self.act(policy, prepared.noise[:, :, agents])
        if entropies is not None:
            prepared.entropies[:, :, agents] = entropies.detach()
        everyone = beside.index_copy(2, self._index(agents), actions)
        if not self.others_as_stored:
            beside = everyone.detach()
        losses: list[Tensor] = []
        for part, members in enumerate(self.parts):
            improving = [agent for agent in members if agent in agents]
            if not improving:
                continue
            alone = [[agent] for agent in improving] if self.others_as_stored else [improving]
            value = self._value(looks[part], everyone, beside, alone)
            places = [agents.index(agent) for agent in improving]
            worth = None if entropies is None else self.entropy_worth(entropies[:, :, places], part)
            losses.append(-masked_mean(value if worth is None else value + worth, prepared.mask))
        loss = torch.stack(losses).mean()
        metrics = {"loss_actor": loss.detach()}
        if entropies is not None:
            metrics["entropy_mean"] = masked_mean(entropies.detach().mean(-1), prepared.mask)
        penalty = self.actor_penalty(policy, prepared, agents)
        return OptimiserStep(self.actor_group(k), loss if penalty is None else loss + penalty, metrics)

    def _value(self, look: Look, everyone: Tensor, beside: Tensor, improving: list[list[int]]) -> Tensor:
        """What the drawn critics make of it that these agents, together in each of the V lists, do as in `everyone`
        while the others do as in `beside`: [V, T, B]. Gradients pass through those agents' actions alone."""
        slots = torch.zeros(len(improving), 1, 1, everyone.shape[2], 1, dtype=torch.bool, device=everyone.device)
        for v, agents in enumerate(improving):
            slots[v, ..., agents, :] = True
        values = self.critics.values(look, torch.where(slots, everyone, beside).flatten(-2))
        return values.mean(0) if self.settings.critic.improve == "mean" else values.amin(0)

    @torch.no_grad()
    def _looks(self, prepared: Prepared) -> list[Look]:
        """What the critics that actors improve make of the states, part by part: they rest meanwhile."""
        first, count = self.settings.critic.improve == "first", self.settings.critic.members
        drawn = torch.zeros(1, dtype=torch.int64) if first and count > 1 else prepared.improve_drawn
        state = prepared.state[:-1]
        return [self.critics.look(state, self._members(drawn, range(p, p + 1))) for p in range(len(self.parts))]

    def _policy_of(self, prepared: Prepared, k: int) -> Distribution:
        """What group k would do at every step that something is learned from, [T, B, n]."""
        agents = self.actors.groups[k]
        inputs, avail = prepared.inputs[:-1], prepared.avail[:-1]
        if len(agents) < self.spec.n_agents:
            inputs, avail = inputs[:, :, agents], avail[:, :, agents]
        distribution: Distribution = self.actors.of_group(k)(inputs.flatten(1, 2), avail)
        return distribution

    def _propose(self, prepared: Prepared, groups: list[int]) -> Tensor:
        """What these groups' agents do by now, [T, B, n, X]; for all groups agents are in order."""
        proposed = prepared.joint
        for k in groups:
            agents = self.actors.groups[k]
            actions, _ = self.act(self._policy_of(prepared, k), prepared.noise[:, :, agents])
            if len(groups) == 1:
                return actions
            proposed = proposed.index_copy(2, self._index(agents), actions)
        return proposed

    def _index(self, agents: list[int]) -> Tensor:
        return torch.tensor(agents, device=self.critics.first_bias.device)


def reward_parts(spec: TeamSpec, rewards: str) -> list[list[int]]:
    """The agents that learn from one reward, for each of P rewards (`critic.rewards`). UserError where the environment
    pays no rewards of single agents, or has no groups."""
    everyone = list(range(spec.n_agents))
    if rewards == "team":
        return [everyone]
    if not spec.agent_rewards:
        raise UserError(
            f"algorithm.critic.rewards={rewards} needs rewards of single agents, but env.name={spec.env_name} pays the"
            " team: set algorithm.critic.rewards=team"
        )
    return [[agent] for agent in everyone] if rewards == "agents" else resolve_groups(spec, "spec")
