"""The on-policy core: what an update learns from, its losses, masks and padding, and which methods are one another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.algorithms.common.returns import gae, vtrace
from phalanx.algorithms.happo import HAPPO
from phalanx.algorithms.ippo import IPPO
from phalanx.configs.errors import UserError
from tests.algorithms.helpers import SPEC, assert_same, doubles, rows, with_garbage
from tests.algorithms.on_policy_helpers import (
    CONTINUOUS,
    GRU,
    MLP,
    ON_POLICY,
    PAID,
    SEQUENTIAL,
    build,
    parameters,
    played,
    update,
)

ONE = replace(SPEC, n_agents=1, agent_names=("a",), obs_dims=(4,), action_dims=(4,), state_dim=4)
NETWORKS: dict[str, dict[str, Any]] = {
    "gru": GRU,
    "mlp": MLP,
    "hyper_linear": {"network": "hyper_linear", "hidden": 6, "depth": 1},
    "hyper_mlp": {"network": "hyper_mlp", "hidden": 6, "depth": 1, "hyper": {"embedding": 2, "width": 5}},
}


# -- which methods are one another -------------------------------------------------------------------------------------


@pytest.mark.parametrize("minibatches", [1, 2])
@pytest.mark.parametrize("agent", [MLP, GRU], ids=["mlp", "gru"])
def test_happo_with_one_agent_is_mappo(agent: dict[str, Any], minibatches: int) -> None:
    found = []
    for name in ("mappo", "happo"):
        algorithm = build(name, spec=ONE, agent=agent, minibatches=minibatches)
        for seed in range(2):
            update(algorithm, played(algorithm, seed, [4, 6, 2]))
        found.append(parameters(algorithm))
    assert_same(*found, tolerance=1e-12)


@pytest.mark.parametrize("agent", [MLP, GRU], ids=["mlp", "gru"])
def test_mappo_with_one_agent_and_its_own_state_is_ippo(agent: dict[str, Any]) -> None:
    """Where neither shows an id or a last action: then both critics see the same."""
    found = []
    for name in ("mappo", "ippo"):
        algorithm = build(name, spec=ONE, agent={**agent, "sharing": "full", "last_action": False})
        batch = played(algorithm, 3, [4, 6, 2])
        batch.state = batch.obs[:, :, 0]
        update(algorithm, batch)
        found.append(parameters(algorithm))
    assert_same(*found, tolerance=1e-12)


def test_what_all_agents_share_in_one_turn_is_mappo() -> None:
    """HAPPO's turns are what differs: a method of one group that takes one turn is MAPPO."""

    class Together(HAPPO):
        def turns(self) -> list[tuple[int, list[int]]]:
            return [(0, [0, 1, 2])]

    mappo, together = build("mappo"), build("happo", groups="all")
    together.__class__ = Together
    together.load_state_dict(mappo.state_dict())
    batch = played(mappo, 1, [3, 5])
    for algorithm in (mappo, together):
        update(algorithm, batch)
    assert_same(parameters(mappo), parameters(together))


# -- the first epoch, and what an update learns from -------------------------------------------------------------------


@pytest.mark.parametrize("spec", [SPEC, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ON_POLICY)
def test_in_the_first_epoch_every_ratio_is_one(name: str, network: str, spec: Any) -> None:
    algorithm = build(name, spec=spec, agent=NETWORKS[network], epochs=2, entropy=0.1)
    told = update(algorithm, played(algorithm, 1, [4, 6]), lr=0.5)
    of_first = told["ratio_deviation"][0]
    assert of_first == pytest.approx(0, abs=1e-12) and told["staleness"] == [pytest.approx(0, abs=1e-12)]
    if name != "hatrpo":  # whose policies take one step
        assert told["ratio_deviation"][1] > 1e-4
    assert all(np.isfinite(values).all() for values in told.values())


@pytest.mark.parametrize("name", ON_POLICY)
def test_advantages_are_gae_where_nothing_is_stale(name: str) -> None:
    algorithm = build(name, value_norm=False, advantage_norm=False)
    prepared = algorithm.prepare(doubles(played(algorithm, 2, [4, 6])), np.random.default_rng(0))
    experience, _ = algorithm.experience(prepared)
    with torch.no_grad():
        values = algorithm.outputs(prepared)
    assert values.shape[-1] == (3 if name == "ippo" else 1)
    advantage, returns = gae(prepared.reward, values, prepared.terminated, prepared.mask, 0.99, 0.95)
    valid = prepared.mask
    for found, expected in ((experience.advantage, advantage), (experience.returns, returns)):
        torch.testing.assert_close(found[valid], expected[valid], rtol=1e-9, atol=1e-9)


def test_stale_batches_are_corrected_as_asked() -> None:
    weights, targets = {}, {}
    for correction in ("vtrace", "ratios", "none"):
        algorithm = build("ippo", value_norm=False, advantage_norm=False, correction=correction, rho_max=1.1, c_max=0.9)
        prepared = algorithm.prepare(doubles(played(algorithm, 2, [4, 6], stale=0.5)), np.random.default_rng(0))
        experience, metrics = algorithm.experience(prepared)
        ratio = (experience.log_prob - prepared.played).exp().masked_fill(~prepared.mask.unsqueeze(-1), 1.0)
        assert metrics["staleness"] > 0.1
        weights[correction], targets[correction] = experience.weight, experience.returns
        with torch.no_grad():
            given = (prepared.reward, algorithm.outputs(prepared), prepared.terminated, prepared.mask)
        expected = vtrace(*given, ratio, 0.99, 0.95, 1.1, 0.9) if correction == "vtrace" else gae(*given, 0.99, 0.95)
        assert_same(
            [x[prepared.mask] for x in (experience.advantage, experience.returns)], [x[prepared.mask] for x in expected]
        )
        truncated = ratio.clamp(max=1.1) if correction != "none" else torch.ones_like(ratio)
        torch.testing.assert_close(experience.weight[prepared.mask], truncated[prepared.mask])


def test_an_episode_that_was_cut_off_bootstraps_from_its_last_row_and_one_that_terminated_does_not() -> None:
    for terminated in (False, True):
        algorithm = build("mappo", value_norm=False)
        batch = played(algorithm, 4, [3, 5])
        batch.terminated[0, 2] = terminated
        returns = []
        for change in (0.0, 1.0):
            batch.state[0, 3] += change
            experience, _ = algorithm.experience(algorithm.prepare(doubles(batch), np.random.default_rng(0)))
            returns.append(experience.returns[:3, 0])
        assert torch.equal(*returns) == terminated


def test_agents_learn_from_their_own_rewards() -> None:
    for name, outputs in (("ippo", 3), ("mappo", 3), ("happo", 3)):
        algorithm = build(name, spec=PAID, rewards="agents", value_norm=False, advantage_norm=False)
        batch = played(algorithm, 5, [4, 2])
        plain, _ = algorithm.experience(algorithm.prepare(doubles(batch), np.random.default_rng(0)))
        assert plain.returns.shape[-1] == outputs
        batch.agent_reward[0, 1, 2] += 1
        raised, _ = algorithm.experience(algorithm.prepare(doubles(batch), np.random.default_rng(0)))
        moved = (raised.advantage - plain.advantage).abs() > 1e-9
        assert moved[:2, 0, 2].all() and moved.sum() == 2
        update(algorithm, batch)


def test_normalised_values_are_the_same_values() -> None:
    """Value targets, in the returns' own units, do not depend on the statistics where outputs mean the same values."""
    plain, scaled = build("mappo", value_norm=False), build("mappo")
    scaled.load_state_dict(plain.state_dict(), strict=False)
    batch = played(plain, 6, [4, 6])
    assert scaled.value_norm is not None
    before = [a.experience(a.prepare(doubles(batch), np.random.default_rng(0)))[0] for a in (plain, scaled)]
    of_scaled = scaled.value_norm.denormalise(before[1].returns)
    torch.testing.assert_close(before[0].returns[before[0].prepared.mask], of_scaled[before[0].prepared.mask])
    torch.testing.assert_close(before[0].advantage, before[1].advantage)
    assert not torch.equal(before[0].returns, before[1].returns)
    assert {"value_norm.mean", "value_norm.mean_square", "value_norm.weight"} <= set(scaled.state_dict())


# -- losses ------------------------------------------------------------------------------------------------------------


def test_outside_of_the_clip_there_is_no_gradient() -> None:
    algorithm = build("ippo", clip=0.2)
    assert isinstance(algorithm, IPPO)
    ratio = torch.tensor([0.7, 0.9, 1.1, 1.3] * 2, dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=torch.float64)
    gain = algorithm.surrogate(ratio, advantage)
    assert gain.tolist() == pytest.approx([0.7, 0.9, 1.1, 1.2, -0.8, -0.9, -1.1, -1.3])
    slope = torch.autograd.grad(gain.sum(), ratio)[0]
    # It still counts where the ratio is on the side that the advantage wants it to leave.
    assert slope.tolist() == [1, 1, 1, 0, 0, -1, -1, -1]
    assert build("haa2c").surrogate(ratio, advantage).tolist() == (ratio * advantage).tolist()


def test_values_outside_of_their_clip_have_no_gradient() -> None:
    algorithm = build("mappo", value_norm=False, value_clip=0.1)
    prepared = algorithm.prepare(doubles(played(algorithm, 7, [4])), np.random.default_rng(0))
    experience, _ = algorithm.experience(prepared)
    with torch.no_grad():
        now = algorithm.outputs(prepared)[:-1]
    # Targets above, and the output has come up by more than it may already.
    ahead = replace(experience, outputs=now - 0.2, returns=now + 1.0)
    behind = replace(experience, outputs=now + 0.2, returns=now + 1.0)
    weights = list(algorithm.critic.parameters())
    for case, moves in ((ahead, False), (behind, True)):
        loss, _ = algorithm.critic_loss(case, {})
        gradients = torch.autograd.grad(loss, weights)
        assert (max(float(g.abs().max()) for g in gradients) > 0) == moves


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_loss_is_that_of_a_loop(name: str) -> None:
    """Surrogate and entropy, step by step and agent by agent, after the policy has moved."""
    algorithm = build(name, entropy=0.3, agent=GRU)
    batch = played(algorithm, 8, [3, 5], stale=0.4)
    prepared = algorithm.prepare(doubles(batch), np.random.default_rng(0))
    experience, _ = algorithm.experience(prepared)
    experience.factor = torch.rand_like(experience.factor) + 0.5
    with torch.no_grad():
        for parameter in algorithm.actors.parameters():
            parameter += 0.05
    group, slots = algorithm.turns()[-1]
    agents = [algorithm.actors.groups[group][slot] for slot in slots]
    distribution = algorithm.distribution(prepared, group)
    loss, metrics = algorithm.policy_loss(experience, slots, agents, distribution)
    everybody = algorithm.distribution(prepared).frozen()
    log_prob, entropy = everybody.log_prob(prepared.actions), everybody.entropy()
    terms = []
    for b, length in enumerate([3, 5]):
        for t in range(length):
            for agent in agents:
                ratio = float((log_prob - experience.log_prob)[t, b, agent].exp())
                own = agent if experience.advantage.shape[-1] > 1 else 0
                advantage = float(experience.factor[t, b, 0] * experience.advantage[t, b, own])
                gain = ratio * advantage
                if name in ("ippo", "mappo", "happo"):
                    gain = min(gain, min(max(ratio, 0.8), 1.2) * advantage)
                weight = min(1.0, float((experience.log_prob - prepared.played)[t, b, agent].exp()))
                terms.append(-weight * gain - 0.3 * float(entropy[t, b, agent]))
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-10)
    assert {"loss_policy", "entropy", "kl", "ratio_deviation"} <= set(metrics) and metrics["kl"] >= 0


# -- masks, padding, order ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [PAID, replace(CONTINUOUS, agent_rewards=True)], ids=["discrete", "continuous"])
@pytest.mark.parametrize("agent", [MLP, GRU], ids=["mlp", "gru"])
@pytest.mark.parametrize("rewards", ["team", "agents"])
@pytest.mark.parametrize("name", ON_POLICY)
def test_padding_and_the_order_of_episodes_change_nothing(
    name: str, rewards: str, agent: dict[str, Any], spec: Any
) -> None:
    results = []
    lengths = [3, 6, 1]
    for case in ("plain", "garbage", "longer", "order"):
        algorithm = build(name, spec=spec, agent=agent, rewards=rewards, epochs=2)
        batch = played(algorithm, 9, lengths, steps=9 if case == "longer" else None, stale=0.2)
        if case == "longer":
            plain = played(algorithm, 9, lengths, stale=0.2)
            for field in ("log_prob", "agent_reward", "actions"):
                array = np.zeros_like(getattr(batch, field))
                array[:, :6] = getattr(plain, field)
                setattr(batch, field, array)
        if case == "garbage":
            batch = with_garbage(batch, 1) if spec.discrete else batch
            unseen = ~batch.filled[:, :-1]
            batch.log_prob[unseen], batch.agent_reward[unseen] = 7.0, 1e3
        if case == "order":
            batch = rows(batch, [2, 0, 1])
        update(algorithm, batch)
        results.append(parameters(algorithm))
    for other in results[1:]:
        assert_same(results[0], other, 1e-8 if name == "hatrpo" else 1e-10)


def test_agents_without_a_choice_get_no_gradient() -> None:
    algorithm = build("ippo", entropy=0.5)
    batch = played(algorithm, 3, [4, 4])
    batch.avail[:] = False
    np.put_along_axis(batch.avail[:, :-1], batch.actions[..., None].astype(np.int64), True, -1)
    batch.avail[:, -1, :, 0] = True
    batch.log_prob[:] = 0
    before = [p.detach().clone() for p in algorithm.actors.parameters()]
    update(algorithm, batch)
    assert_same(before, [p.detach() for p in algorithm.actors.parameters()], 0)


def test_minibatches_are_episodes_each_once_an_epoch() -> None:
    algorithm = build("mappo", epochs=3, minibatches=2)
    prepared = algorithm.prepare(doubles(played(algorithm, 1, [2, 3, 4, 5, 6])), np.random.default_rng(5))
    drawn = [part for part in prepared.minibatches if part is not None]
    assert len(drawn) == 6
    for epoch in range(3):
        both = torch.cat(drawn[2 * epoch : 2 * epoch + 2])
        assert sorted(both.tolist()) == list(range(5))
    assert len({tuple(part.tolist()) for part in drawn}) > 2
    told = update(algorithm, played(algorithm, 1, [2, 3, 4, 5, 6]))
    assert len(told["loss_value"]) == len(told["loss_policy"]) == 6
    fewer = update(algorithm, played(algorithm, 1, [2]))  # simulators crash
    assert len(fewer["loss_value"]) == len(fewer["loss_policy"]) == 3


@pytest.mark.parametrize("spec", [SPEC, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("name", ON_POLICY)
def test_chunks_of_networks_without_memory_are_the_episodes(name: str, spec: Any) -> None:
    """Whatever their length, also where it does not divide the episodes'."""
    found = []
    for chunk_length in (None, 2, 4, 9):
        algorithm = build(name, spec=spec, chunk_length=chunk_length)
        update(algorithm, played(algorithm, 9, [3, 6, 1], stale=0.2))
        found.append(parameters(algorithm))
    for other in found[1:]:
        assert_same(found[0], other, 1e-8 if name == "hatrpo" else 1e-10)


@pytest.mark.parametrize("network", ["gru", "hyper_linear"])
@pytest.mark.parametrize("name", ON_POLICY)
def test_chunks_of_recurrent_networks_begin_with_what_was_known(name: str, network: str) -> None:
    agent = GRU if network == "gru" else {"network": network, "hidden": 6, "hyper": {"base": "gru"}}
    whole, chunked = (build(name, agent=agent, chunk_length=length) for length in (None, 2))
    prepared = whole.prepare(doubles(played(whole, 9, [3, 6, 1])), np.random.default_rng(0))
    experience, _ = chunked.experience(prepared)
    pieces = chunked._pieces(experience)
    assert pieces.prepared.mask.shape == (2, 2 + 3 + 1)
    group, slots = chunked.turns()[-1]
    agents = [chunked.actors.groups[group][slot] for slot in slots]
    _, metrics = chunked.policy_loss(pieces, slots, agents, chunked.distribution(pieces.prepared, group))
    assert metrics["ratio_deviation"] == pytest.approx(0, abs=1e-12)
    losses = [a.critic_loss(e, {})[0] for a, e in ((whole, experience), (chunked, pieces))]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(loss, list(a.critic.parameters())) for loss, a in zip(losses, (whole, chunked), strict=True)
    ]
    apart = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    assert apart > 1e-6  # they reach back two steps at most
    long = build(name, agent=agent, chunk_length=6)
    batch = played(whole, 4, [3, 6, 1])
    for algorithm in (whole, long):
        update(algorithm, batch)
    assert_same(parameters(whole), parameters(long), 1e-8 if name == "hatrpo" else 1e-10)


def test_minibatches_of_chunks() -> None:
    algorithm = build("mappo", agent=GRU, chunk_length=2, minibatches=3, epochs=2)
    batch = played(algorithm, 9, [3, 6, 1])
    prepared = algorithm.prepare(doubles(batch), np.random.default_rng(0))
    for epoch in range(2):
        drawn = [part for part in prepared.minibatches[3 * epoch : 3 * epoch + 3] if part is not None]
        assert sorted(torch.cat(drawn).tolist()) == list(range(6))
    told = update(algorithm, batch)
    assert len(told["loss_policy"]) == 6 and np.isfinite(told["loss_policy"]).all()


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_mistakes_are_told_in_sentences() -> None:
    with pytest.raises(UserError, match=r"algorithm\.rewards=agents .* env\.name=nowhere pays the team alone"):
        build("mappo", rewards="agents")
    with pytest.raises(UserError, match=r"chunk_length=2 .* agent\.network=atm cannot"):
        build("mappo", chunk_length=2, agent={"network": "atm", "hidden": 8})
    for groups, words in (([[0, 1]], "leaves out agent 2"), ([[0, 1], [1, 2]], "more than once")):
        with pytest.raises(UserError, match=words):
            build("happo", groups=groups)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_sequential_methods_are_registered(name: str) -> None:
    assert name in ON_POLICY and issubclass(type(build(name)), HAPPO)
