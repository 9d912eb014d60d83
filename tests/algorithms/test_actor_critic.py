"""The off-policy actor-critic core against closed forms and slow loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phalanx.algorithms.actor_critic import ActorCritic, Prepared
from phalanx.algorithms.common.critics import Critics, Look
from phalanx.algorithms.common.distributions import Categorical, TanhGaussian
from phalanx.algorithms.masac import MASAC
from tests.algorithms.actor_critic_helpers import (
    ACTORS,
    CONTINUOUS,
    SEQUENTIAL,
    SIDES,
    SOFT,
    batch_of,
    build,
    prepared,
    update,
)
from tests.algorithms.helpers import SPEC, with_garbage

# -- critics -----------------------------------------------------------------------------------------------------------


def plain_critic(critics: Critics, c: int, state: Tensor, actions: Tensor) -> Tensor:
    """Member c as anybody would write it."""
    weight = torch.cat([critics.state_weight[c], critics.action_weight[c]], -1)
    x = functional.relu(functional.linear(torch.cat([state, actions], -1), weight, critics.first_bias[c]))
    for layer in critics.layers:
        x = functional.relu(functional.linear(x, layer.weight[c], layer.bias[c]))
    return functional.linear(x, critics.last.weight[c], critics.last.bias[c]).squeeze(-1)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_critics_are_plain_networks_one_by_one(depth: int) -> None:
    torch.manual_seed(0)
    critics = Critics(3, 5, 6, 7, depth).double()
    state, actions = torch.randn(4, 2, 5).double(), torch.randn(9, 4, 2, 6).double().requires_grad_()
    values, slopes = critics.values_and_slopes(critics.look(state), actions)
    assert values.shape == (3, 9, 4, 2) and slopes.shape == (3, 9, 4, 2, 6)
    for c in range(3):
        torch.testing.assert_close(values[c], plain_critic(critics, c, state.expand(9, -1, -1, -1), actions))
        (slope,) = torch.autograd.grad(values[c].sum(), actions, retain_graph=True)
        torch.testing.assert_close(slopes[c], slope)
    torch.testing.assert_close(critics(state, actions[4]), values[:, 4])
    drawn = torch.tensor([2, 0])
    torch.testing.assert_close(critics(state, actions, drawn), values[drawn])


def test_losses_can_be_made_of_slopes() -> None:
    """Their gradient equals that of a second pass backwards."""
    torch.manual_seed(1)
    critics = Critics(2, 3, 4, 5, 2).double()
    state, actions = torch.randn(6, 3).double(), torch.randn(6, 4).double().requires_grad_()
    _, slopes = critics.values_and_slopes(critics.look(state), actions)
    total = torch.zeros((), dtype=torch.float64)
    for values in critics(state, actions):
        total = total + torch.autograd.grad(values.sum(), actions, create_graph=True)[0].abs().sum()
    weights = [critics.action_weight, critics.last.weight]
    for ours, theirs in zip(
        torch.autograd.grad(slopes.abs().sum(), weights), torch.autograd.grad(total, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


# -- targets -----------------------------------------------------------------------------------------------------------


def all_critics(algorithm: ActorCritic, critics: Critics, state: Tensor, joint: Tensor) -> Tensor:
    return torch.stack(
        [plain_critic(critics, c, state, joint.flatten(-2)) for c in range(algorithm.settings.critic.members)]
    )


@pytest.mark.parametrize("spec", [SPEC, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("name", ACTORS)
def test_the_target_is_that_of_the_method(name: str, spec: object) -> None:
    assert spec in (SPEC, CONTINUOUS)
    algorithm = build(name, SPEC if spec is SPEC else CONTINUOUS, gamma=0.9)
    given = prepared(algorithm)
    worth: Tensor | float = 0.0
    if isinstance(algorithm, MASAC):
        policy = algorithm.policy(algorithm.actors, given)
        assert isinstance(policy, Categorical | TanhGaussian)
        if isinstance(policy, Categorical):
            actions = functional.one_hot(policy.sample(given.target_noise), 4).double()
            entropy = -(policy.probs * policy.probs.clamp(min=1e-300).log()).sum(-1)
        else:
            actions = policy.sample(given.target_noise)
            entropy = -policy.log_prob(actions)
        worth = algorithm.settings.temperature.initial * entropy.sum(-1)
    else:
        policy = algorithm.policy(algorithm.target_actors, given)  # type: ignore[arg-type]
        if spec is SPEC:
            noise = given.target_noise if name in ("matd3", "hatd3") else 0.0
            actions = functional.one_hot((policy.logits + noise).argmax(-1), 4).double()  # type: ignore[attr-defined]
        else:
            smooth = (0.2 * given.target_noise).clamp(-0.5, 0.5) if name in ("matd3", "hatd3") else 0.0
            used = algorithm.actors.used()
            assert used is not None
            actions = (policy.mode() + smooth * used).clamp(-1, 1)
    value = all_critics(algorithm, algorithm.target_critics, given.state, actions).amin(0) + worth
    expected = given.reward[0] + 0.9 * (~given.terminated) * value[1:]
    target = algorithm.target(given)
    torch.testing.assert_close(target[0][given.mask], expected[given.mask])
    assert given.terminated[given.mask].any() and not given.terminated[given.mask].all()  # truncated ones bootstrap


def test_targets_of_td3_are_never_above_any_critic() -> None:
    algorithm = build("matd3", critic={"members": 4})
    given = prepared(algorithm)
    target = algorithm.target(given)[0]
    actions, _ = algorithm.next_actions(given)
    values = all_critics(algorithm, algorithm.target_critics, given.state, actions)[:, 1:]
    each = given.reward[0] + algorithm.settings.gamma * values * ~given.terminated
    assert (target <= each + 1e-12)[:, given.mask].all()
    assert ((each - target).amin(0)[given.mask].abs() < 1e-12).all()  # and equal to one


def test_several_steps_are_summed_until_they_bootstrap() -> None:
    algorithm = build("maddpg", target_steps=3, gamma=0.9)
    given = prepared(algorithm)
    actions, _ = algorithm.next_actions(given)
    value = all_critics(algorithm, algorithm.target_critics, given.state, actions)[0]
    target = algorithm.target(given)[0]
    for b, length in enumerate((6, 3, 4)):
        for t in range(length):
            end = min(t + 3, length)
            expected = sum(0.9 ** (k - t) * given.reward[0, k, b] for k in range(t, end))
            if not (end == length and given.terminated[length - 1, b]):
                expected = expected + 0.9 ** (end - t) * value[end, b]
            torch.testing.assert_close(target[t, b], expected)


def test_drawn_critics_alone_are_minimised_over() -> None:
    algorithm = build("maddpg", critic={"members": 5, "subset": 2, "improve_subset": 3})
    seen = set()
    for seed in range(20):
        given = prepared(algorithm, seed)
        assert given.drawn is not None and given.improve_drawn is not None
        assert len(given.drawn) == 2 and len(given.improve_drawn) == 3
        actions, _ = algorithm.next_actions(given)
        values = all_critics(algorithm, algorithm.target_critics, given.state, actions)[given.drawn].amin(0)
        expected = given.reward[0] + algorithm.settings.gamma * values[1:] * ~given.terminated
        torch.testing.assert_close(algorithm.target(given)[0][given.mask], expected[given.mask])
        seen.add(tuple(given.drawn.tolist()))
    assert len(seen) > 5


# -- entropies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOFT)
def test_discrete_entropies_are_exact(name: str) -> None:
    algorithm = build(name)
    given = prepared(algorithm)
    policy = algorithm.policy(algorithm.actors, given)
    _, entropies = algorithm.act(policy, given.target_noise)
    assert entropies is not None and isinstance(policy, Categorical)
    for t, b, i in np.ndindex(entropies.shape):
        logits = [x for x, on in zip(policy.logits[t, b, i].tolist(), given.avail[t, b, i].tolist(), strict=True) if on]
        odds = np.exp(np.array(logits) - max(logits))
        p = odds / odds.sum()
        assert entropies[t, b, i].item() == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)


def test_continuous_entropies_are_those_of_the_density() -> None:
    """Mean of −log π over samples against the integral of −π log π of tanh u, u normal, on a grid."""
    algorithm = build("masac", CONTINUOUS)
    mean, log_std = torch.tensor([[0.4]]).double(), torch.tensor([[-0.3]]).double()
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((200_000, 1, 1)))
    _, entropies = algorithm.act(TanhGaussian(mean, log_std), noise)
    assert entropies is not None
    std = math.exp(-0.3)
    u = np.linspace(0.4 - 9 * std, 0.4 + 9 * std, 200_001)
    normal = np.exp(-0.5 * ((u - 0.4) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    log_density = np.log(normal) - np.log(1 / np.cosh(u) ** 2)
    expected = -(normal * log_density).sum() * (u[1] - u[0])
    assert entropies.mean().item() == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("name", SOFT)
def test_the_temperature_moves_towards_the_wanted_entropy(name: str) -> None:
    for target, sign in ((0.0, -1), (2.0, 1)):
        algorithm = build(name, temperature={"target": target})
        assert isinstance(algorithm, MASAC)
        before = algorithm.log_temperature.item()
        steps = update(algorithm, 1, prepared(algorithm))
        assert steps[-1].group == "temperature"
        assert (algorithm.log_temperature.item() - before) * sign > 0


def test_the_wanted_entropy_knows_how_many_actions_there_are() -> None:
    algorithm = build("masac")
    assert isinstance(algorithm, MASAC)
    given = prepared(algorithm)
    counts = given.avail[:-1].sum(-1).double()
    torch.testing.assert_close(algorithm.wanted(given), 0.3 * counts.log())
    continuous = build("masac", CONTINUOUS)
    assert isinstance(continuous, MASAC)
    assert continuous.wanted(prepared(continuous))[0, 0].tolist() == [-2.0, -1.0, -2.0]


# -- actors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTORS)
def test_gradients_are_finite_where_one_action_is_left(name: str) -> None:
    """And nothing is learned where there is no choice."""
    batch = batch_of()
    batch.avail[:] = False
    np.put_along_axis(batch.avail[:, :-1], batch.actions[..., None].astype(np.int64), True, -1)
    batch.avail[:, -1, :, 0] = True
    algorithm = build(name, actor_every=1)
    groups = algorithm.parameter_groups()
    for step in algorithm.steps(prepared(algorithm, batch=batch)):
        gradients = torch.autograd.grad(step.loss, groups[step.group], allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in gradients)
        if step.group.startswith("actor"):
            # the logit penalty alone pulls
            penalty = "logit_penalty" in type(algorithm.settings).model_fields
            assert penalty or all(g is None or g.abs().max() < 1e-12 for g in gradients)


@pytest.mark.parametrize("spec", [SPEC, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("others", ["stored", "current"])
def test_an_agent_improves_beside_what_the_others_did_or_do(others: str, spec: object) -> None:
    algorithm = build("maddpg", SPEC if spec is SPEC else CONTINUOUS, others=others, logit_penalty=0.0)
    given = prepared(algorithm)
    policy = algorithm.policy(algorithm.actors, given)
    noise = given.noise if spec is SPEC else None
    actions = (
        functional.one_hot(policy.sample(noise_of(given)), 4).double()[:-1] if noise is not None else policy.mode()[:-1]
    )
    losses = []
    for i in range(3):
        joint = (given.joint if others == "stored" else actions).clone()
        joint[:, :, i] = actions[:, :, i]
        losses.append(-all_critics(algorithm, algorithm.critics, given.state[:-1], joint)[0][given.mask].mean())
    step = algorithm.actor_step(given, 0, given.joint, algorithm._looks(given))
    torch.testing.assert_close(step.loss, torch.stack(losses).mean())


def noise_of(given: Prepared) -> Tensor:
    """The noise of the actors' actions with a row for the last observation."""
    return torch.cat([given.noise, torch.zeros_like(given.noise[:1])])


@pytest.mark.parametrize("spec", [SPEC, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_later_agents_see_what_earlier_ones_have_just_learned(
    name: str, spec: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = build(name, SPEC if spec is SPEC else CONTINUOUS, actor_every=1)
    given = prepared(algorithm)
    asked: list[Tensor] = []

    def values(look: Look, actions: Tensor) -> Tensor:
        asked.append(actions.detach().clone())
        return Critics.values(algorithm.critics, look, actions)

    monkeypatch.setattr(algorithm.critics, "values", values)
    before = algorithm._propose(given, [0, 1, 2]).detach()
    updated = update(algorithm, 1, given, lr=50.0)
    after = algorithm._propose(given, [0, 1, 2]).detach()
    assert [step.group for step in updated][1:4] == [f"actor_{k}" for k in given.order]
    of_actors = [actions.unflatten(-1, (3, -1)).squeeze(0) for actions in asked[1:]]
    for turn, joint in enumerate(of_actors):
        for place, agent in enumerate(given.order):
            expected = after if place < turn else before
            torch.testing.assert_close(joint[:, :, agent], expected[:, :, agent])
    assert not torch.equal(before, after)


def test_an_actors_loss_moves_its_own_group_alone() -> None:
    algorithm = build("hasac", actor_every=1)
    given = prepared(algorithm)
    step = algorithm.actor_step(given, 1, algorithm._propose(given, [0, 1, 2]).detach(), algorithm._looks(given))
    for k in (0, 1, 2):
        gradients = torch.autograd.grad(
            step.loss, list(algorithm.actors.of_group(k).parameters()), allow_unused=True, retain_graph=True
        )
        moved = any(g is not None and g.abs().max() > 0 for g in gradients)
        assert moved == (k == 1)


# -- several rewards ---------------------------------------------------------------------------------------------------


def test_each_side_learns_its_own_reward_and_climbs_its_own_critic() -> None:
    algorithm = build("maddpg", SIDES, critic={"rewards": "groups"}, logit_penalty=0.0, others="current")
    batch = batch_of(SIDES)
    given = prepared(algorithm, batch=batch)
    assert algorithm.parts == [[0, 2], [1]]
    torch.testing.assert_close(given.reward[0], torch.from_numpy(batch.agent_reward[..., [0, 2]].mean(-1)).t().double())
    torch.testing.assert_close(given.reward[1], torch.from_numpy(batch.agent_reward[..., 1]).t().double())
    algorithm.critics.last.weight.data[1] = 0.0  # the second side's critic does not care what is done
    step = algorithm.actor_step(given, 0, given.joint, algorithm._looks(given))
    policy = algorithm.policy(algorithm.actors, given)
    assert isinstance(policy, Categorical)
    # Agent 1's logits get no gradient: its own critic is flat, and the other side's is not its to climb.
    inputs = given.inputs.clone().requires_grad_()
    again = algorithm.actor_step(replace(given, inputs=inputs), 0, given.joint, algorithm._looks(given))
    torch.testing.assert_close(again.loss, step.loss)
    (gradient,) = torch.autograd.grad(again.loss, inputs)
    assert gradient[:, :, 1].abs().max() == 0 and gradient[:, :, 0].abs().max() > 0


def test_agents_may_each_have_a_critic() -> None:
    algorithm = build("masac", SIDES, critic={"rewards": "agents", "members": 2})
    assert algorithm.critics.members == 6
    steps = update(algorithm, 1, prepared(algorithm))
    assert [step.group for step in steps] == ["critic", "actor", "temperature"]


# -- the regulariser ---------------------------------------------------------------------------------------------------


def test_sensitivity_is_what_single_actions_change() -> None:
    """With a linear critic it is the spread of the agents' weights over the actions they have."""
    algorithm = build("maddpg", critic={"sensitivity": 0.5, "depth": 1})
    critics = algorithm.critics
    critics.first_bias.data.fill_(100.0)  # every unit active: linear
    weights = (critics.last.weight[0] @ critics.action_weight[0]).view(3, 4)
    given = prepared(algorithm)
    step = algorithm.critic_step(given)
    expected, count = torch.zeros((), dtype=torch.float64), 0
    for t, b in given.mask.nonzero().tolist():
        count += 1
        for i in range(3):
            own = weights[i][given.avail[t, b, i]]
            expected = expected + (own - own.mean()).abs().sum()
    torch.testing.assert_close(step.metrics["action_sensitivity"], (expected / count).detach())
    plain = build("maddpg", critic={"depth": 1})
    plain.load_state_dict(algorithm.state_dict())
    torch.testing.assert_close(step.loss, plain.critic_step(given).loss + 0.5 * expected / count)


# -- what does not count -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["gru", "mlp"])
@pytest.mark.parametrize("name", ACTORS)
def test_padding_changes_nothing(name: str, network: str) -> None:
    batch = batch_of()
    outcomes = []
    for each in (batch, with_garbage(batch, 3)):
        algorithm = build(name, agent={"network": network}, actor_every=1, critic={"sensitivity": 0.1})
        steps = update(algorithm, 1, prepared(algorithm, batch=each))
        assert steps[0].errors is not None
        outcomes.append([*(step.loss.detach() for step in steps), steps[0].errors, *algorithm.parameters()])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ACTORS)
def test_importance_weighs_the_critics_errors(name: str) -> None:
    algorithm = build(name)
    given = prepared(algorithm)
    ones = algorithm.critic_step(replace(given, importance=torch.ones(3).double())).loss
    halves = algorithm.critic_step(replace(given, importance=torch.full((3,), 0.5).double())).loss
    torch.testing.assert_close(ones, algorithm.critic_step(given).loss)
    torch.testing.assert_close(halves, ones / 2)


def test_actors_and_targets_wait_for_their_turn() -> None:
    algorithm = build("matd3")
    given = prepared(algorithm)
    before = [parameter.clone() for parameter in algorithm.target_critics.parameters()]
    assert [step.group for step in update(algorithm, 1, given)] == ["critic"]
    assert all(torch.equal(a, b) for a, b in zip(before, algorithm.target_critics.parameters(), strict=True))
    assert [step.group for step in update(algorithm, 2, given)] == ["critic", "actor"]
    tau = algorithm.settings.target_tau
    pairs = zip(before, algorithm.critics.parameters(), algorithm.target_critics.parameters(), strict=True)
    for old, trained, target in pairs:
        torch.testing.assert_close(target, old + tau * (trained - old))
