"""The core of every on-policy method: actors, a critic, advantages, and a sweep of policy steps over one batch.

A method says what its critic sees (`central_critic`), which agents share an actor and learn in turn (`agent_groups`,
`turns`), what it maximises (`surrogate`) and how a policy moves (`policy_step`). What the sequential methods add, the
factor M of those who have moved before, is 1 where there is one turn.

One update, with π the policy at its beginning and μ the one that played (the same in sync mode):

1. log π and the critic's values of the whole batch, GAE or V-trace, value targets; nothing here is trained.
2. For every epoch and minibatch a step of the critic; for every turn, epoch and minibatch a step of the actors.

The ratio that methods clip is that to π, and each step's loss carries min(ρ̄, π/μ): what staleness costs does not eat
up what an update may change (Hilton et al. 2022). Ratios are of single agents, not of joint actions, whose product
over the team would hardly ever be near 1.

Everything inside is time first: [T, B, …].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from phalanx.algorithms.base import (
    Algorithm,
    Metrics,
    OptimiserStep,
    Policy,
    TensorBatch,
    Weights,
)
from phalanx.algorithms.common.actors import Actors, GroupedActors
from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.distributions import Distribution
from phalanx.algorithms.common.networks.values import Sees, ValueNetworks
from phalanx.algorithms.common.returns import gae, vtrace
from phalanx.algorithms.common.targets import transition_mask
from phalanx.algorithms.common.value_norm import ValueNorm
from phalanx.algorithms.on_policy_batch import Experience, Prepared, kept_chunks, mean_over, standardised
from phalanx.algorithms.on_policy_settings import OnPolicySettings
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AlgorithmSettings, NetworkSettings
from phalanx.envs.team import TeamSpec

CRITIC = "critic"
ENTITY_NETWORKS = ("asn", "updet", "atm")


class OnPolicy(Algorithm):
    """See the module's docstring."""

    Settings: ClassVar[type[AlgorithmSettings]] = OnPolicySettings
    central_critic: ClassVar[bool] = False
    """Whether values are of the global state."""
    settings: OnPolicySettings

    def __init__(self, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> None:
        super().__init__(spec, settings, networks)
        if self.settings.rewards == "agents" and not spec.agent_rewards:
            raise UserError(
                f"algorithm.rewards=agents learns from each agent's own reward, but env.name={spec.env_name} pays the"
                " team alone: set algorithm.rewards=team, or choose an environment that rewards single agents"
            )
        if self.settings.chunk_length is not None and networks.agent.network in ENTITY_NETWORKS:
            raise UserError(
                f"algorithm.chunk_length={self.settings.chunk_length} needs networks that can begin in the middle of an"
                f" episode, and agent.network={networks.agent.network} cannot: leave it at null, or choose gru, mlp,"
                " hyper_linear or hyper_mlp"
            )
        self.actors = self.make_actors(spec, self.settings, networks)
        self.critic = self.make_critic()
        self.value_norm = ValueNorm() if self.settings.value_norm else None

    # -- what methods override --------------------------------------------------------------------------------------

    @classmethod
    def agent_groups(cls, spec: TeamSpec, settings: AlgorithmSettings) -> list[list[int]]:
        """Agents by the actors that they share; each group has an optimiser of its own."""
        return [list(range(spec.n_agents))]

    def turns(self) -> list[tuple[int, list[int]]]:
        """Who learns one after the other: group, and which of its agents (positions within it)."""
        return [(k, list(range(len(group)))) for k, group in enumerate(self.actors.groups)]

    @abstractmethod
    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """What is maximised in each step; ratio: π_θ / π."""

    # -- the critic -------------------------------------------------------------------------------------------------

    def make_critic(self) -> ValueNetworks:
        """Networks like the agents', of their inputs, or of the state: one value for the team, or one for each agent
        where agents are rewarded one by one."""
        of_state: Sees = "state" if self.settings.rewards == "agents" else "team"
        return ValueNetworks(self.spec, self.networks.agent, of_state if self.central_critic else "observation")

    def outputs(self, prepared: Prepared) -> Tensor:
        """The critic's, of all steps: [T+1, B, N], or [T+1, B, 1] for one value of the team."""
        memory = prepared.memory.get(CRITIC)
        known = None if memory is None else memory.flatten(1, 2)
        found: Tensor = self.critic(prepared.inputs.flatten(1, 2), prepared.state, known)
        return found

    # -- the acting side --------------------------------------------------------------------------------------------

    @classmethod
    def make_actors(cls, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> GroupedActors:
        return GroupedActors(spec, networks.agent, "gaussian", cls.agent_groups(spec, settings))

    @classmethod
    def make_policy(cls, spec: TeamSpec, settings: AlgorithmSettings, networks: NetworkSettings) -> Policy:
        from phalanx.algorithms.common.actor_policy import ActorPolicy

        return ActorPolicy(spec, cls.make_actors(spec, settings, networks))

    def policy_weights(self) -> Weights:
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.actors.state_dict().items()}

    # -- parameters -------------------------------------------------------------------------------------------------

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {self.group_name(k): list(self.actors.of_group(k).parameters()) for k in range(self.n_groups)}
        return {**groups, CRITIC: list(self.critic.parameters())}

    @property
    def n_groups(self) -> int:
        return len(self.actors.groups)

    def group_name(self, k: int) -> str:
        """Of the actors of group k."""
        return "actor" if self.n_groups == 1 else f"actor_{k}"

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.parameter_groups().values() for parameter in group]

    def learning_rate(self, group: str) -> float:
        settings = self.settings
        return settings.critic_lr if group == CRITIC and settings.critic_lr is not None else settings.lr

    def moves_targets(self, updates: int) -> bool:
        return False  # `prepare` reads no parameters

    def after_update(self, updates: int) -> None:
        """There are no target networks."""

    # -- the update -------------------------------------------------------------------------------------------------

    def prepare(self, batch: TensorBatch, rng: np.random.Generator) -> Prepared:
        """The batch as the core sees it; minibatches are drawn first, then the order of the turns."""
        episodes, steps = batch.reward.shape
        agents = self.spec.n_agents
        reward = batch.agent_reward if self.settings.rewards == "agents" else batch.reward.unsqueeze(-1)
        inputs = agent_inputs(batch.obs, batch.actions, self.spec.n_actions)
        mask, length = transition_mask(batch.filled, batch.terminated), self.settings.chunk_length
        pieces = episodes if length is None else len(kept_chunks(mask, length))
        minibatches = self._draw_minibatches(pieces, rng, batch.obs.device)
        turns = len(self.turns())
        return Prepared(
            inputs=inputs.view(steps + 1, episodes, agents, -1),
            state=batch.state.transpose(0, 1),
            avail=batch.avail.transpose(0, 1),
            actions=batch.actions.transpose(0, 1),
            played=batch.log_prob.transpose(0, 1),
            reward=reward.transpose(0, 1),
            terminated=batch.terminated.t(),
            mask=mask,
            minibatches=minibatches,
            order=[0] if turns == 1 else [int(turn) for turn in rng.permutation(turns)],
            memory={},
        )

    def _draw_minibatches(self, episodes: int, rng: np.random.Generator, device: torch.device) -> list[Tensor | None]:
        epochs, parts = self.settings.epochs, min(self.settings.minibatches, episodes)
        if parts == 1:
            return [None] * epochs
        drawn = [part for _ in range(epochs) for part in np.array_split(rng.permutation(episodes), parts)]
        return [torch.from_numpy(part).to(device) for part in drawn]

    def steps(self, prepared: Prepared, *, with_errors: bool = False) -> Iterator[OptimiserStep]:
        assert not with_errors, "capabilities.errors is False"
        experience, about = self.experience(prepared)
        pieces = self._pieces(experience)
        for part in prepared.minibatches:
            yield OptimiserStep(CRITIC, *self.critic_loss(pieces.part(part), about))
            about = {}
        turns = [self.turns()[turn] for turn in prepared.order]
        for number, (group, slots) in enumerate(turns):
            again = group in (before for before, _ in turns[:number])
            yield from self.take_turn(experience, group, slots, again=again, last=number + 1 == len(turns))

    @torch.no_grad()
    def experience(self, prepared: Prepared) -> tuple[Experience, Metrics]:
        """What the update learns from, and figures about it."""
        settings, mask = self.settings, prepared.mask
        distribution = self.distribution(prepared)
        log_prob = distribution.log_prob(prepared.actions)
        # Padding may hold anything, such as actions that are not available.
        ratio = (log_prob - prepared.played).masked_fill(~mask.unsqueeze(-1), 0.0).exp()
        outputs = self.outputs(prepared)
        values = outputs if self.value_norm is None else self.value_norm.denormalise(outputs)
        given = (prepared.reward, values, prepared.terminated, mask)
        if settings.correction == "vtrace":
            # One value for the team is corrected by the mean of its agents' ratios.
            of_values = ratio if values.shape[-1] == ratio.shape[-1] else ratio.mean(-1, keepdim=True)
            advantage, returns = vtrace(
                *given, of_values, settings.gamma, settings.gae_lambda, settings.rho_max, settings.c_max
            )
        else:
            advantage, returns = gae(*given, settings.gamma, settings.gae_lambda)
        metrics = {
            "value_mean": mean_over(values[:-1], mask),
            "return_mean": mean_over(returns, mask),
            "staleness": mean_over((ratio - 1).abs(), mask),
        }
        if self.value_norm is not None:
            self.value_norm.update(returns, mask)
            returns = self.value_norm.normalise(returns)
        if settings.advantage_norm:
            advantage = standardised(advantage, mask)
        weight = torch.ones_like(ratio) if settings.correction == "none" else ratio.clamp(max=settings.rho_max)
        factor = torch.ones_like(advantage[..., :1])
        states = self._states(prepared)
        return Experience(prepared, log_prob, weight, advantage, outputs[:-1], returns, states, factor), metrics

    def distribution(self, prepared: Prepared, group: int | None = None) -> Distribution:
        """The policies' of all agents or of a group's, over [T, B, N]."""
        actors = self.actors if group is None else self.actors.of_group(group)
        inputs, avail = prepared.inputs[:-1], prepared.avail[:-1]
        if group is not None and self.n_groups > 1:
            agents = self.actors.groups[group]
            inputs, avail = inputs[:, :, agents], avail[:, :, agents]
        memory = None if group is None else prepared.memory.get(self.group_name(group))
        if memory is not None and isinstance(actors, Actors):
            raw = actors.network.resumed(inputs.flatten(1, 2), memory.flatten(1, 2))[0]
            return actors.distribution(_apart(raw, len(actors.agents)), avail)
        found: Distribution = actors(inputs.flatten(1, 2), avail)
        return found

    def _states(self, prepared: Prepared) -> dict[str, Tensor]:
        """`Experience.states`."""
        if self.settings.chunk_length is None:
            return {}
        rows, found = prepared.inputs.flatten(1, 2), {}
        for k, group in enumerate(self.actors.groups):
            seen = rows if self.n_groups == 1 else prepared.inputs[:, :, group].flatten(1, 2)
            found[self.group_name(k)] = (self.actors.of_group(k).network, seen, len(group))
        found[CRITIC] = (self.critic.network, self.critic.seen(rows, prepared.state), self.critic.rows)
        return {
            name: _apart(network.hidden_states(seen)[0], agents)
            for name, (network, seen, agents) in found.items()
            if network.state_shape != (0,)
        }

    def _pieces(self, experience: Experience) -> Experience:
        """What minibatches are made of: episodes or chunks."""
        length = self.settings.chunk_length
        return experience if length is None else experience.chunks(length)

    def critic_loss(self, experience: Experience, about: Metrics) -> tuple[Tensor, Metrics]:
        """Huber's loss of the values, or of the clipped values where that is more (Schulman et al. 2017's PPO in its
        authors' code)."""
        settings, mask = self.settings, experience.prepared.mask
        outputs = self.outputs(experience.prepared)[:-1]

        def cost(outputs: Tensor) -> Tensor:
            error = (experience.returns - outputs).masked_fill(~mask.unsqueeze(-1), 0.0).abs()
            linear = settings.huber_delta * (error - 0.5 * settings.huber_delta)
            return torch.where(error <= settings.huber_delta, 0.5 * error.square(), linear)

        costs = cost(outputs)
        if settings.value_clip is not None:
            moved = (outputs - experience.outputs).clamp(-settings.value_clip, settings.value_clip)
            costs = torch.maximum(costs, cost(experience.outputs + moved))
        loss = mean_over(costs, mask)
        return loss, {**about, "loss_value": loss.detach()}

    def take_turn(
        self, experience: Experience, group: int, slots: list[int], *, again: bool, last: bool
    ) -> Iterator[OptimiserStep]:
        """All policy steps of some agents, one after the other; `again`: the group's actor has moved in this update.
        `experience.factor` then counts what they did, which nobody asks for after the `last` turn."""
        agents = [self.actors.groups[group][slot] for slot in slots]
        pieces = self._pieces(experience)
        for episodes in self.policy_parts(experience.prepared):
            part = pieces.part(episodes)
            distribution = self.distribution(part.prepared, group)
            yield self.policy_step(part, group, slots, agents, distribution)
        if not last:
            with torch.no_grad():
                now = self.log_ratio(experience, self.distribution(experience.prepared, group), slots, agents)
            experience.factor = experience.factor * now.sum(-1, keepdim=True).exp()

    def log_ratio(
        self, experience: Experience, distribution: Distribution, slots: list[int], agents: list[int]
    ) -> Tensor:
        """log π_θ − log π of the actions of `agents`, [T, B, n]; 0 where nothing is learned. `distribution`: of their
        group, in which they have the places `slots`."""
        of_group = self.actors.groups
        prepared = experience.prepared
        group = next(members for members in of_group if agents[0] in members)
        actions = prepared.actions if len(of_group) == 1 else prepared.actions[:, :, group]
        log_prob = distribution.log_prob(actions)
        old = experience.log_prob
        if len(slots) < len(group):
            log_prob = log_prob[..., slots]
        if len(agents) < self.spec.n_agents:
            old = old[..., agents]
        return (log_prob - old).masked_fill(~prepared.mask.unsqueeze(-1), 0.0)

    def policy_parts(self, prepared: Prepared) -> list[Tensor | None]:
        """The episodes of each policy step of a turn."""
        return prepared.minibatches

    def policy_step(
        self, experience: Experience, group: int, slots: list[int], agents: list[int], distribution: Distribution
    ) -> OptimiserStep:
        """One step of the actors of `agents`."""
        loss, metrics = self.policy_loss(experience, slots, agents, distribution)
        return OptimiserStep(self.group_name(group), loss, metrics)

    def policy_loss(
        self, experience: Experience, slots: list[int], agents: list[int], distribution: Distribution
    ) -> tuple[Tensor, Metrics]:
        """−(surrogate + entropy), the mean over steps and agents; and figures."""
        mask = experience.prepared.mask
        log_ratio = self.log_ratio(experience, distribution, slots, agents)
        ratio = log_ratio.exp()
        gain = mean_over(
            _of(experience.weight, agents) * self.surrogate(ratio, self.advantage(experience, agents)), mask
        )
        entropy = mean_over(_of(distribution.entropy(), slots), mask)
        with torch.no_grad():
            metrics = {
                "loss_policy": -gain,
                "entropy": entropy.detach(),
                "ratio_deviation": mean_over((ratio - 1).abs(), mask),
                # Schulman's low-variance estimate of KL(π ‖ π_θ).
                "kl": mean_over(ratio - 1 - log_ratio, mask),
            }
        return -gain - self.settings.entropy * entropy, metrics

    def advantage(self, experience: Experience, agents: list[int]) -> Tensor:
        """M · A of `agents`, [T, B, n] or [T, B, 1]."""
        return experience.factor * _of(experience.advantage, agents)


def _apart(rows: Tensor, agents: int) -> Tensor:
    """rows: [T, B·n, …]. Returns [T, B, n, …]."""
    return rows.view(len(rows), -1, agents, *rows.shape[2:])


def _of(tensor: Tensor, agents: list[int]) -> Tensor:
    """The entries of `agents`, where there is one for each agent and not all are asked for."""
    return tensor if tensor.shape[-1] in (1, len(agents)) else tensor[..., agents]
