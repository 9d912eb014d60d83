"""OMDPG: its losses against slow ones, and who is moved by what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from phalanx.algorithms.base import OptimiserStep, TensorBatch
from phalanx.algorithms.common.distributions import Categorical
from phalanx.algorithms.common.targets import mask_unavailable
from phalanx.algorithms.maddpg import MADDPG
from phalanx.algorithms.omdpg import OMDPG, OMDPGPrepared, OMDPGSettings
from phalanx.configs.settings import NetworkSettings
from phalanx.envs.team import TeamSpec
from tests.algorithms.helpers import SPEC, doubles, random_batch

TEAM = replace(SPEC, group_ids=(0, 1, 0), group_names=("ant", "bee"))
BOXES = replace(TEAM, discrete=False, n_actions=0, action_dims=(2, 1, 2))
SMALL: dict[str, Any] = {"critic": {"members": 3, "hidden": 7}}


def build(spec: TeamSpec = TEAM, network: str = "gru", **settings: Any) -> OMDPG:
    """In double precision, with weights large enough that nothing is nearly constant."""
    networks = NetworkSettings.model_validate({"agent": {"hidden": 6, "network": network}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = OMDPG(spec, OMDPGSettings.model_validate({"name": "omdpg", **SMALL, **settings}), networks).double()
        for parameter in made.parameters():
            parameter.data.uniform_(-0.8, 0.8)
    return made


def episodes(spec: TeamSpec, seed: int = 0, lengths: tuple[int, ...] = (5, 3)) -> TensorBatch:
    """Random ones; where actions are continuous, too."""
    batch = random_batch(seed, lengths, replace(spec, discrete=True, n_actions=4))
    rng = np.random.default_rng(seed)
    batch.agent_reward[:] = rng.normal(size=batch.agent_reward.shape)
    if not spec.discrete:
        drawn = rng.uniform(-1, 1, (*batch.actions.shape, max(spec.action_dims))).astype(np.float32)
        used = np.arange(max(spec.action_dims)) < np.array(spec.action_dims)[:, None]
        batch = replace(batch, actions=drawn * used, avail=batch.avail[..., :0])
    return doubles(batch)


def prepared_by(algorithm: OMDPG, seed: int = 0) -> OMDPGPrepared:
    return algorithm.prepare(episodes(algorithm.spec, seed), np.random.default_rng(seed))


def greedy_of(algorithm: OMDPG, prepared: OMDPGPrepared) -> Tensor:
    """Everybody's best actions, [T, B, N, X]."""
    with torch.no_grad():
        policy = algorithm.actors(prepared.inputs.flatten(1, 2), prepared.avail)
        best = policy.mode()[:-1]
    return F.one_hot(best, algorithm.width).double() if algorithm.spec.discrete else best


def least(algorithm: OMDPG, prepared: OMDPGPrepared, joint: Tensor) -> Tensor:
    """min_c Q_c(s, a), [T, B]; joint: [T, B, N, X]."""
    values: Tensor = algorithm.critics(prepared.state[:-1], joint.flatten(-2))
    return values.amin(0)


def mean(values: Tensor, mask: Tensor) -> float:
    return float(values[mask].mean())


def slow_reached(algorithm: OMDPG, prepared: OMDPGPrepared, agent: int, own: Tensor, greedy: Tensor) -> Tensor:
    """φ*(s, a_{1:i}), [T, B]: a_{1:i−1} greedy, a_i `own`, then the actors' or one agent after the other's best."""
    joint = greedy.clone()
    joint[:, :, agent] = own[:, :, agent]
    if algorithm.settings.omq.continuation == "coordinate":
        after = prepared.agents[prepared.agents.index(agent) + 1 :]
        for other in after:
            tried = []
            for action in range(algorithm.width):
                there = joint.clone()
                there[:, :, other] = F.one_hot(torch.tensor(action), algorithm.width).double()
                tried.append(least(algorithm, prepared, there))
            best = mask_unavailable(torch.stack(tried, -1), prepared.avail[:-1, :, other]).argmax(-1)
            joint[:, :, other] = F.one_hot(best, algorithm.width).double()
    return least(algorithm, prepared, joint)


@pytest.mark.parametrize("continuation", ["greedy", "coordinate", "boxes"])
@pytest.mark.parametrize("groups", ["spec", "all", "none"])
def test_each_group_climbs_what_its_agents_can_still_reach(continuation: str, groups: str) -> None:
    spec = BOXES if continuation == "boxes" else TEAM
    continuation = "greedy" if continuation == "boxes" else continuation
    algorithm = build(spec, groups=groups, omq={"continuation": continuation}, logit_penalty=0)
    prepared = prepared_by(algorithm)
    assert sorted(prepared.order) == list(range(len(algorithm.actors.groups)))
    greedy = greedy_of(algorithm, prepared)
    for step, k in zip(algorithm.actor_steps(prepared), prepared.order, strict=True):
        assert step.group == algorithm.actor_group(k)
        group = algorithm.actors.groups[k]
        with torch.no_grad():
            own = greedy.clone()
            actions, _ = algorithm.act(algorithm._policy_of(prepared, k), prepared.noise[:, :, group])
            own[:, :, group] = actions
            reached = [slow_reached(algorithm, prepared, agent, own, greedy) for agent in group]
        expected = -mean(torch.stack(reached, -1), prepared.mask)
        assert step.loss.item() == pytest.approx(expected, abs=1e-12)
        # The next group sees what this one has become.
        for parameter in algorithm.actors.of_group(k).parameters():
            parameter.data += 0.3 * torch.sin(torch.arange(parameter.numel()).double()).view_as(parameter)
        greedy = greedy_of(algorithm, prepared)


@pytest.mark.parametrize("continuation", ["greedy", "coordinate"])
def test_expected_gradients_weigh_what_every_action_can_reach(
    continuation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the policies' probabilities; however many joint actions are looked at together."""
    omq = {"continuation": continuation, "gradient": "expected"}
    algorithm = build(TEAM, groups="spec", omq=omq, logit_penalty=0)
    prepared = prepared_by(algorithm)
    greedy = greedy_of(algorithm, prepared)
    k = prepared.order[0]
    group = algorithm.actors.groups[k]
    step = next(algorithm.actor_steps(prepared))
    expected = torch.zeros(*prepared.mask.shape, len(group), dtype=torch.float64)
    policy = algorithm._policy_of(prepared, k)
    assert isinstance(policy, Categorical)
    with torch.no_grad():
        for place, agent in enumerate(group):
            for action in range(4):
                own = greedy.clone()
                own[:, :, agent] = F.one_hot(torch.tensor(action), 4).double()
                reached = slow_reached(algorithm, prepared, agent, own, greedy)
                expected[:, :, place] += policy.probs[:, :, place, action] * reached
    assert step.loss.item() == pytest.approx(-mean(expected, prepared.mask), abs=1e-12)
    monkeypatch.setattr("phalanx.algorithms.omdpg.AT_ONCE", 20)
    assert next(algorithm.actor_steps(prepared)).loss.item() == pytest.approx(step.loss.item(), abs=1e-12)


@pytest.mark.parametrize("spec", [TEAM, BOXES], ids=["discrete", "continuous"])
def test_gradients_pass_through_one_agents_action_at_a_time(spec: TeamSpec) -> None:
    """Of the joint action that agent i climbs, only its own place moves with the policies."""
    algorithm = build(spec, groups="all")
    prepared = prepared_by(algorithm)
    greedy = greedy_of(algorithm, prepared).flatten(0, 1)
    own = greedy.clone().requires_grad_()
    for agent in range(3):
        values = algorithm.joint_values(algorithm._looks(prepared)[0])
        reached = algorithm.reached(prepared, [agent], [0, 1, 2], own, greedy, values)
        (gradient,) = torch.autograd.grad(reached.sum(), own)
        moved = gradient.abs().sum((0, 2)) > 0
        assert moved.tolist() == [place == agent for place in range(3)]


def test_a_groups_step_moves_its_actor_alone() -> None:
    algorithm = build()
    prepared = prepared_by(algorithm)
    names = {algorithm.actor_group(k) for k in range(2)}
    assert set(algorithm.parameter_groups()) == {"critic", *names}
    for step in algorithm.steps(prepared):
        groups = algorithm.parameter_groups()
        for name, parameters in groups.items():
            gradients = torch.autograd.grad(step.loss, parameters, retain_graph=True, allow_unused=True)
            moved = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
            if name != step.group and step.group != "critic" and name == "critic":
                continue  # the learner differentiates the actors' loss by the actors alone
            assert moved == (name == step.group), (name, step.group)


# -- the critics -------------------------------------------------------------------------------------------------------


def critic_step(algorithm: OMDPG, seed: int = 0) -> tuple[OptimiserStep, OMDPGPrepared]:
    prepared = prepared_by(algorithm, seed)
    return algorithm.critic_step(prepared), prepared


@pytest.mark.parametrize("spec", [TEAM, BOXES], ids=["discrete", "continuous"])
@pytest.mark.parametrize("network", ["gru", "mlp"])
def test_the_critics_loss_is_its_two_parts(spec: TeamSpec, network: str) -> None:
    algorithm = build(spec, network, gqc={"lambda_pu": 0.3, "beta_pu": 0.7})
    step, prepared = critic_step(algorithm)
    greedy, state = greedy_of(algorithm, prepared), prepared.state[:-1]
    stored = prepared.stored.view(*prepared.mask.shape, 3, 1)
    unseen = torch.where(stored, prepared.joint, greedy)
    with torch.no_grad():
        taken = algorithm.critics(state, prepared.joint.flatten(-2))
        there = algorithm.critics(state, unseen.flatten(-2))
        target_policy = algorithm.target_actors(prepared.inputs.flatten(1, 2), prepared.avail)
        after = target_policy.mode()
        after = F.one_hot(after, algorithm.width).double() if spec.discrete else after
        bootstrap = algorithm.target_critics(prepared.state, after.flatten(-2)).amin(0)[1:]
    expected = 0.0
    for t, b in prepared.mask.nonzero().tolist():
        end = bool(prepared.terminated[t, b])
        target = float(prepared.reward[0, t, b]) + (0.0 if end else 0.99 * float(bootstrap[t, b]))
        cautious = float(there[:, t, b].mean()) - 0.7 * float(np.std(there[:, t, b].numpy()))
        for c in range(3):
            expected += (float(taken[c, t, b]) - target) ** 2
            expected += 0.3 * (float(there[c, t, b]) - cautious) ** 2
    assert step.loss.item() == pytest.approx(expected / int(prepared.mask.sum()), rel=1e-9)
    assert step.metrics["loss_pu"].item() > 0 and step.metrics["critic_std_unseen"].item() > 0


def test_unseen_actions_begin_with_any_number_of_stored_ones_but_all() -> None:
    algorithm = build()
    counts = set()
    for seed in range(20):
        prepared = prepared_by(algorithm, seed)
        stored = prepared.stored[0, :, prepared.agents]  # in the order of agents
        assert (stored.int().diff(dim=1) <= 0).all()
        counts |= set(stored.sum(1).tolist())
    assert counts == {0, 1, 2}


@pytest.mark.parametrize("changes", [{"gqc": {"lambda_pu": 0}}, {"critic": {"members": 1, "hidden": 7}}])
def test_without_pessimism_critics_learn_as_maddpgs(changes: dict[str, Any]) -> None:
    """λ_PU = 0, or a single critic, which is never unsure."""
    algorithm = build(**changes)
    prepared = prepared_by(algorithm)
    ours, plain = algorithm.critic_step(prepared), MADDPG.critic_step(algorithm, prepared)
    assert ours.loss.item() == plain.loss.item()
    parameters = algorithm.parameter_groups()["critic"]
    gradients = [torch.autograd.grad(step.loss, parameters) for step in (ours, plain)]
    assert all(torch.allclose(*pair, rtol=0, atol=1e-15) for pair in zip(*gradients, strict=True))


def test_several_steps_ahead_change_the_target() -> None:
    one, three = (build(target_steps=n) for n in (1, 3))
    prepared = prepared_by(one)
    first, second = one.target(prepared), three.target(prepared)
    assert first.shape == second.shape and not torch.allclose(first[0, 0], second[0, 0])
    last = int(prepared.mask[:, 0].sum()) - 1
    assert torch.allclose(first[0, last, 0], second[0, last, 0])


# -- perturbed continuations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("continuation", ["greedy", "coordinate", "boxes"])
def test_perturbed_agents_do_anything_available(continuation: str) -> None:
    spec = BOXES if continuation == "boxes" else TEAM
    continuation = "greedy" if continuation == "boxes" else continuation
    algorithm = build(spec, omq={"continuation": continuation, "perturb": 0.5})
    prepared = prepared_by(algorithm)
    assert prepared.perturbed is not None and 0 < prepared.perturbed.double().mean() < 1
    greedy = greedy_of(algorithm, prepared).flatten(0, 1)
    given = torch.zeros(1, len(greedy), 3, dtype=torch.bool)
    given[..., 1] = True
    values = algorithm.joint_values(algorithm._looks(prepared)[0])
    joint = algorithm.continuation(values, greedy.unsqueeze(0), given, [0, 1, 2], prepared)[0]
    assert torch.equal(joint[:, 1], greedy[:, 1])
    touched = prepared.perturbed & ~given[0]
    assert prepared.replacement is not None
    assert torch.equal(joint[touched], prepared.replacement[touched])
    if spec.discrete:
        assert (joint * ~prepared.avail[:-1].flatten(0, 1)).sum() == 0 and (joint.sum(-1) == 1).all()
        if continuation == "greedy":
            assert torch.equal(joint[~touched], greedy[~touched])
    else:
        assert joint.abs().max() <= 1 and not joint[:, 1, 1].any()  # the second agent has one component


def test_replacements_are_uniform() -> None:
    algorithm = build(omq={"perturb": 1.0})
    batch = episodes(TEAM, lengths=(6,) * 300)
    batch.avail[:] = torch.tensor([True, False, True, True])
    prepared = algorithm.prepare(batch, np.random.default_rng(0))
    assert prepared.replacement is not None and prepared.perturbed is not None and prepared.perturbed.all()
    shares = prepared.replacement.flatten(0, 1).mean(0)
    np.testing.assert_allclose(shares.numpy(), [1 / 3, 0, 1 / 3, 1 / 3], atol=0.03)


def test_opponents_are_not_taken_to_help() -> None:
    """With rewards of groups, coordinate ascent leaves the other group's actions as its actors find best."""
    spec = replace(TEAM, agent_rewards=True)
    critic = {**SMALL["critic"], "rewards": "groups"}
    algorithm = build(spec, critic=critic, omq={"continuation": "coordinate"})
    prepared = prepared_by(algorithm)
    greedy = greedy_of(algorithm, prepared).flatten(0, 1)
    looks = algorithm._looks(prepared)
    changed = set()
    for part, look in zip(algorithm.parts, looks, strict=True):
        nobody = torch.zeros(1, 3, dtype=torch.bool)
        values = algorithm.joint_values(look)
        joint = algorithm.continuation(values, greedy.unsqueeze(0), nobody, part, prepared)[0]
        others = [agent for agent in range(3) if agent not in part]
        assert torch.equal(joint[:, others], greedy[:, others])
        changed |= {agent for agent in part if not torch.equal(joint[:, agent], greedy[:, agent])}
    assert changed
    assert sum(1 for _ in algorithm.steps(prepared)) == 3


def test_padding_changes_nothing() -> None:
    algorithm = build(omq={"continuation": "coordinate", "perturb": 0.2})
    prepared = prepared_by(algorithm)
    losses = [step.loss.item() for step in algorithm.steps(prepared)]
    padding = ~prepared.mask
    prepared.greedy = None
    prepared.reward[:, padding] = 1e6
    prepared.joint[padding] = 0.5
    assert [step.loss.item() for step in algorithm.steps(prepared)] == pytest.approx(losses)


def test_diagnostics_tell_what_stored_actions_cost() -> None:
    greedy, coordinate = (build(omq={"continuation": kind}) for kind in ("greedy", "coordinate"))
    batch = episodes(TEAM)
    found = [algorithm.diagnostics(batch) for algorithm in (greedy, coordinate)]
    mean_cost = [float(each["marginal_contribution"]) for each in found]
    assert mean_cost[1] < mean_cost[0]  # what could have been reached is more
    assert all(0 <= float(each["marginal_contribution_positive"]) <= 1 for each in found)
