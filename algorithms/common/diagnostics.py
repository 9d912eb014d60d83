"""What reports say of a value-mixing learner besides its losses: pure functions of one batch, time first.

`value_diagnostics` is made at every report (one forward pass of the last batch and one of a few of its episodes),
`gradient_cosine` only where somebody asks: it takes a forward and a backward pass for each agent. What each figure
means, and which values are healthy, is in docs/diagnostics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from phalanx.algorithms.base import Metrics, TensorBatch
from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.losses import masked_mean
from phalanx.algorithms.common.mixers import MixingWeights, mixing_gradient
from phalanx.algorithms.common.targets import mask_unavailable

if TYPE_CHECKING:
    from phalanx.algorithms.common.networks.base import AgentNetworks
    from phalanx.algorithms.value_mixing import Terms, ValueMixing

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
SND_EPISODES = 8  # of the last batch, in a report
_LEAST_SHARE = 0.01  # an episode stands for at most a hundred times what it shows


@torch.no_grad()
def value_diagnostics(algorithm: ValueMixing, batch: TensorBatch) -> Metrics:
    """Every figure that a forward pass gives; names without an area. Where an algorithm has no generated mixing
    weights, no ensemble or no ReLU layer in front, the figures about them are missing."""
    terms = _terms(algorithm, batch)
    prepared, mask, gamma = terms.prepared, terms.mask, algorithm.settings.gamma
    figures = overestimation(terms.q_tot, prepared.reward, prepared.terminated, mask, gamma)
    if isinstance(terms.generated, MixingWeights):
        slope = mixing_gradient(terms.chosen.flatten(0, 1), terms.generated)
        figures |= sensitivity(slope.view(len(slope), *terms.chosen.shape), mask)
        figures |= mixing_norms(terms.generated, mask)
        if len(terms.q_tot) > 1:
            figures["mixers_spread"] = spread(terms.q_tot, mask)
    if len(terms.values) > 1:
        chosen = terms.values[:, :-1].gather(-1, _chosen(terms)).squeeze(-1)
        figures["agents_spread"] = spread(chosen.movedim(-1, 1), mask)
        figures["argmax_agreement"] = argmax_agreement(terms.values[:, :-1], prepared.avail[:-1], mask)
    members = _members_of_the_target(algorithm, terms)
    if len(members) > 1:
        figures["target_spread"] = gamma * spread(members.masked_fill(prepared.terminated, 0.0), mask)
    figures |= td_errors(terms.q_tot - terms.target, mask)
    figures |= dead_units(algorithm.agents, prepared.inputs[:-1], mask)
    if algorithm.spec.n_agents > 1:
        figures["snd"] = team_diversity(algorithm, first_episodes(batch, SND_EPISODES))
    return figures


# -- values against returns ------------------------------------------------------------------------------------------


def overestimation(q_tot: Tensor, reward: Tensor, terminated: Tensor, mask: Tensor, gamma: float) -> Metrics:
    """Q_tot at the first step against the discounted return that the same episode then had, means over episodes
    (and over members): both, their difference, and the difference in units of `return_scale` (NaN without any reward).

    q_tot: [M, T, B]; reward, terminated, mask (what is learned from): [T, B]. Only whole episodes are stored.
    """
    at_start = q_tot[:, 0].mean(0)
    returns = episode_returns(reward, mask, gamma)
    gap = (at_start - returns).mean()
    scale = return_scale(reward, terminated, mask, gamma)
    return {
        "q_start_mean": at_start.mean(),
        "mc_return_mean": returns.mean(),
        "overestimation": gap,
        "overestimation_relative": torch.where(scale > 0, gap / scale, torch.full_like(gap, torch.nan)),
        "return_scale": scale,
    }


def episode_returns(reward: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Discounted Monte-Carlo return of each episode from its first step. reward, mask: [T, B]. Returns [B]."""
    steps = torch.arange(len(reward), device=reward.device, dtype=reward.dtype)
    return (reward.masked_fill(~mask, 0.0) * (gamma**steps).unsqueeze(1)).sum(0)


def return_scale(reward: Tensor, terminated: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """The largest value that an episode of the batch could stand for: Σ γ^t |r_t|, for an episode that a time limit
    cut off after T steps as if it went on alike for ever, divided by 1 - γ^T (values bootstrap past the limit, so
    they are larger than the returns that were seen). reward, terminated, mask: [T, B]. Returns a scalar."""
    seen = episode_returns(reward.abs(), mask, gamma)
    share = (1 - gamma ** mask.sum(0).to(seen.dtype)).clamp(min=_LEAST_SHARE)
    ended = (terminated & mask).any(0)
    return torch.where(ended, seen, seen / share).max()


def td_errors(errors: Tensor, mask: Tensor) -> Metrics:
    """Q_tot minus target, quantiles and mean size over valid steps and members. errors: [M, T, B]; mask: [T, B]."""
    valid = errors[..., mask]
    return {"td_error_abs_mean": valid.abs().mean(), **_named("td_error", valid)}


# -- the mixing ------------------------------------------------------------------------------------------------------


def sensitivity(slope: Tensor, mask: Tensor) -> Metrics:
    """∂Q_tot/∂Q_i over valid samples, agents and mixers, and Σ_i (∂Q_tot/∂Q_i)², the factor with which a target's
    bias comes back in Q_tot (DEMAR, Theorem 3.1). slope: [H, T, B, N]; mask: [T, B]."""
    valid = slope.movedim(-1, 0)[..., mask]  # [N, H, valid]
    return {
        "dqtot_dqi_mean": valid.mean(),
        **_named("dqtot_dqi", valid),
        "bias_gain_mean": valid.square().sum(0).mean(),
    }


def mixing_norms(weights: MixingWeights, mask: Tensor) -> Metrics:
    """L1 norms of what the hypernetworks generated, means over valid samples and mixers: the four summands of
    DEMAR's regulariser. mask: [T, B], R = T·B rows of `weights`."""
    rows = mask.flatten()
    parts = {"w1": weights.first, "w2": weights.last, "b1": weights.bias, "v": weights.value.unsqueeze(-1)}
    return {f"mixing_{name}": part[:, rows].abs().flatten(2).sum(-1).mean() for name, part in parts.items()}


# -- the ensembles ---------------------------------------------------------------------------------------------------


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation over members, mean over the rest. values: [M, ..., T, B]; mask: [T, B]."""
    return masked_mean(values.std(0, correction=0), mask)


def argmax_agreement(values: Tensor, avail: Tensor, mask: Tensor) -> Tensor:
    """Share of pairs of members that would choose the same action, over valid steps and agents that have a choice.

    values: [K, T, B, N, A]; avail: [T, B, N, A]; mask: [T, B]. Returns a scalar; 1 where nobody ever has a choice.
    """
    members = len(values)
    favourites = mask_unavailable(values, avail).argmax(-1, keepdim=True)
    votes = torch.zeros_like(values).scatter_(-1, favourites, 1.0).sum(0)
    agreeing = (votes * (votes - 1)).sum(-1) / (members * (members - 1))
    counted = (avail.sum(-1) > 1) & mask.unsqueeze(-1)
    count = counted.sum()
    total = agreeing.masked_fill(~counted, 0.0).sum()
    return torch.where(count > 0, total / count.clamp(min=1), torch.ones_like(total))


def _members_of_the_target(algorithm: ValueMixing, terms: Terms) -> Tensor:
    """The next value as each drawn pair of agent network and mixer alone would have it, [M, ..., T, B]: what the
    target is the minimum of."""
    prepared, drawn = terms.prepared, terms.prepared.target_values
    if len(drawn) == 1:
        values = terms.greedy_values.unsqueeze(0)
    else:
        alone = [replace(prepared, target_values=drawn[k : k + 1]) for k in range(len(drawn))]
        values = torch.stack([algorithm.greedy_values(replace(terms, prepared=one)) for one in alone])
    # Without generated weights the second dimension is no ensemble: IQL has a value for each agent there.
    return (values.flatten(0, 1) if prepared.target_mixing is not None else values)[..., 1:, :]


# -- the agents ------------------------------------------------------------------------------------------------------


def dead_units(agents: AgentNetworks, inputs: Tensor, mask: Tensor) -> Metrics:
    """`dead_share` of the agent networks' first layer, if that is one with ReLU: of gru, mlp (also as the base of
    hyper_*) and asn. inputs: [T, B·N, I]; mask: [T, B]."""
    layers = agents.chosen()
    first = layers.get("fc1", layers.get("own_fc1"))
    if first is None:
        return {}
    seen = inputs.view(*mask.shape, -1, inputs.shape[-1])[mask]  # [valid, N, I]
    if agents.view is not None:
        seen = agents.view.cut(seen)
    # With parameters of their own, each agent's layers see what that agent sees.
    return {"dead_units": dead_share(*first, seen.movedim(1, 0) if agents.split else seen.flatten(0, 1).unsqueeze(0))}


def dead_share(weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
    """Share of the ReLU units of S layers side by side that no row of their input activates.

    weight: [S, U, I], bias: [S, U], inputs: [N, R, I], of which layer s sees number s mod N. Returns a scalar.
    """
    # One layer after the other: all at once may not fit into memory.
    ever = [(inputs[s % len(inputs)] @ weight[s].t() + bias[s] > 0).any(0) for s in range(len(weight))]
    return 1 - torch.stack(ever).to(inputs.dtype).mean()


def team_diversity(algorithm: ValueMixing, batch: TensorBatch) -> Tensor:
    """SND (HyperMARL) of the team's greedy policies: every agent is shown the same history, agent b mod N's in
    episode b, and their choices are compared.

    The greedy policy is what the team plays; unlike a softmax, it does not depend on the scale of the values. For it
    SND is the share of pairs of agents, over valid steps, that would act differently in each other's place. Noise in
    the inputs (env.noise.demar), which would be each agent's own, is left out.
    """
    alike = in_one_place(batch)
    prepared = algorithm.prepare(alike, np.random.default_rng(0))
    terms = algorithm.online_terms(
        replace(prepared, inputs=agent_inputs(alike.obs, alike.actions, algorithm.spec.n_actions))
    )
    policies = greedy_policies(terms.mean_values[:-1], terms.prepared.avail[:-1])
    return system_neural_diversity(policies[terms.mask].movedim(-2, 0))


def in_one_place(batch: TensorBatch) -> TensorBatch:
    """The batch with the history (observations, actions, available actions) of agent b mod N for every agent of
    episode b."""
    agents = batch.obs.shape[2]
    episodes = torch.arange(batch.obs.shape[0], device=batch.obs.device)

    def alike(values: Tensor) -> Tensor:
        return values[episodes, :, episodes % agents].unsqueeze(2).expand_as(values).contiguous()

    return replace(batch, obs=alike(batch.obs), avail=alike(batch.avail), actions=alike(batch.actions))


def greedy_policies(values: Tensor, avail: Tensor) -> Tensor:
    """Probability 1 for the best available action. values, avail: [..., A]. Returns [..., A]."""
    best = mask_unavailable(values, avail).argmax(-1, keepdim=True)
    return torch.zeros_like(values).scatter_(-1, best, 1.0)


def system_neural_diversity(policies: Tensor) -> Tensor:
    """SND: Jensen-Shannon distance (base 2) of every two agents' policies, mean over pairs and observations, from 0
    (all alike) to 1 (no two ever do the same). policies: [N, R, A] of N > 1 agents on the same R observations."""
    first, second = torch.triu_indices(len(policies), len(policies), 1, device=policies.device)
    return jensen_shannon_distance(policies[first], policies[second]).mean()


def jensen_shannon_distance(p: Tensor, q: Tensor) -> Tensor:
    """Square root of the Jensen-Shannon divergence with the logarithm to base 2. p, q: [..., A]. Returns [...]."""
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return divergence.clamp(min=0).sqrt()


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """In bits; q is positive wherever p is."""
    return torch.where(p > 0, p * (p / q).log2(), torch.zeros_like(p)).sum(-1)


# -- gradients of each agent -----------------------------------------------------------------------------------------


def gradient_cosine(algorithm: ValueMixing, batch: TensorBatch) -> Tensor:
    """Mean cosine between the agents' gradients (HyperMARL): below 0 they pull shared parameters apart. NaN where
    fewer than two agents have a gradient."""
    prepared = algorithm.prepare(batch, np.random.default_rng(0))
    return mean_pairwise_cosine(
        agent_gradients(lambda: algorithm.terms(prepared), tuple(algorithm.agents.parameters()))
    )


def agent_gradients(terms: Callable[[], Terms], parameters: Sequence[Tensor]) -> Tensor:
    """The gradient of the loss by `parameters` through each agent's own chosen value: rows that add up to the whole
    gradient through them. `terms` is called for each agent anew, because a backward pass may use up its graph.
    Returns [N, P]."""
    rows: list[Tensor] = []
    agents = 1
    while len(rows) < agents:
        found = terms()
        agents = found.chosen.shape[-1]
        (by_value,) = torch.autograd.grad(found.total, found.chosen, retain_graph=True)
        own = torch.zeros_like(by_value)
        own[..., len(rows)] = by_value[..., len(rows)]
        gradients = torch.autograd.grad(found.chosen, parameters, own, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def mean_pairwise_cosine(vectors: Tensor) -> Tensor:
    """Over pairs of the vectors [N, P] that are not zero; NaN where there is no such pair."""
    lengths = vectors.norm(dim=-1)
    directions = vectors[lengths > 0] / lengths[lengths > 0].unsqueeze(-1)
    count = len(directions)
    if count < 2:
        return vectors.new_tensor(float("nan"))
    everything: Tensor = (directions.sum(0).square().sum() - count) / (count * (count - 1))
    return everything.clamp(-1, 1)


# -- helpers ---------------------------------------------------------------------------------------------------------


def quantiles(values: Tensor, at: Sequence[float]) -> list[Tensor]:
    """Quantiles of all values, with linear interpolation; any number of values (torch.quantile takes 2^24)."""
    ordered = values.flatten().sort().values
    found = []
    for share in at:
        place = share * (len(ordered) - 1)
        low = int(place)
        found.append(torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], place - low))
    return found


def first_episodes(batch: TensorBatch, count: int) -> TensorBatch:
    """The first `count` episodes of the batch."""
    return replace(batch, **{name: each[:count] for name, each in vars(batch).items() if each is not None})


def _named(name: str, values: Tensor) -> Metrics:
    found = quantiles(values, tuple(QUANTILES.values()))
    return {f"{name}_{suffix}": value for suffix, value in zip(QUANTILES, found, strict=True)}


def _terms(algorithm: ValueMixing, batch: TensorBatch) -> Terms:
    """Of a batch that nothing is learned from; which subsets are drawn does not matter, but it is always the same."""
    return algorithm.terms(algorithm.prepare(batch, np.random.default_rng(0)))


def _chosen(terms: Terms) -> Tensor:
    """[K, T, B, N, 1]: the stored actions, for every member."""
    return terms.prepared.actions.unsqueeze(-1).expand(len(terms.values), *terms.prepared.actions.shape, 1)
