"""Every agent network under every way of sharing: acting, learning, ensembles, who is separate from whom."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.networks.base import AgentNetworks
from phalanx.algorithms.common.networks.build import make_agent_networks
from phalanx.algorithms.common.networks.mlp import MLPAgents
from phalanx.algorithms.common.networks.plan import Plan
from phalanx.algorithms.registry import algorithm_class
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.configs.errors import UserError
from phalanx.configs.settings import AgentSettings, NetworkSettings
from phalanx.envs.team import EntityView, TeamSpec
from tests.algorithms.helpers import doubles, random_batch, rows, with_garbage

NETWORKS = ("gru", "mlp", "hyper_linear", "hyper_mlp", "asn", "updet", "atm")
ENTITY_NETWORKS = ("asn", "updet", "atm")
SHARING = ("full", "full_id", "groups", "none")
GROUPS = (0, 1, 0)
ENTITIES = EntityView(
    own=(0, 1),
    allies=((2, 3), (4, 5)),
    enemies=((6, 7, 8), (9, 10, 11)),
    objects=((12,), (13,)),
    object_marks=((1.0,), (0.5,)),
    enemy_actions=(4, 1),
)
SPEC = TeamSpec(
    env_name="nowhere",
    n_agents=3,
    obs_dim=14,
    state_dim=5,
    n_actions=5,
    episode_limit=6,
    agent_names=("a", "b", "c"),
    obs_dims=(14,) * 3,
    action_dims=(5,) * 3,
    group_ids=GROUPS,
    group_names=("even", "odd"),
    entities=ENTITIES,
)
N, A = SPEC.n_agents, SPEC.n_actions
every_choice = pytest.mark.parametrize(("network", "sharing"), [(n, s) for n in NETWORKS for s in SHARING])


def agent_settings(network: str, sharing: str = "full_id", **others: Any) -> AgentSettings:
    return AgentSettings.model_validate({"hidden": 8, "network": network, "sharing": sharing, **others})


def make(network: str, sharing: str = "full_id", members: int = 1, seed: int = 0, **others: Any) -> AgentNetworks:
    """In double precision, weights large enough that nothing is nearly constant."""
    draw = torch.Generator().manual_seed(seed)
    networks = make_agent_networks(SPEC, members, agent_settings(network, sharing, **others)).double()
    for parameter in networks.parameters():
        parameter.data.uniform_(-0.8, 0.8, generator=draw)
    return networks


def some_inputs(seed: int = 0, episodes: int = 2, steps: int = 4) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    obs = torch.randn(episodes, steps, N, SPEC.obs_dim, generator=draw, dtype=torch.float64)
    return agent_inputs(obs, torch.randint(A, (episodes, steps - 1, N), generator=draw), A)


def close(first: Tensor, second: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


def build(name: str, network: str, sharing: str = "full_id", **settings_: Any) -> ValueMixing:
    kind = algorithm_class(name)
    networks = NetworkSettings.model_validate(
        {"agent": agent_settings(network, sharing).model_dump(), "mixer": {"embed": 4, "hypernet": 5}}
    )
    torch.manual_seed(0)
    algorithm = kind(SPEC, kind.Settings.model_validate({"name": name, **settings_}), networks).double()
    for parameter in algorithm.parameters():
        parameter.data.uniform_(-0.5, 0.5)
    assert isinstance(algorithm, ValueMixing)
    return algorithm


# -- acting and learning -----------------------------------------------------------------------------------------------


@every_choice
@pytest.mark.parametrize("members", [1, 3])
def test_steps_make_the_sequence(network: str, sharing: str, members: int) -> None:
    networks, inputs = make(network, sharing, members), some_inputs()
    values, states = networks.values_and_states(inputs)
    assert values.shape == (members, 4, 2 * N, A) and states.shape == (members, 4, 2 * N, 8)
    close(networks(inputs), values, 0)
    close(networks.hidden_states(inputs), states, 0)
    state, layers = networks.initial_state(2 * N), networks.chosen()
    for t, x in enumerate(inputs):
        each, state = networks.step(x, state, layers)
        assert state.shape == (members, 2 * N, *networks.state_shape)
        close(each, values[:, t])


@every_choice
def test_members_are_independent_networks(network: str, sharing: str) -> None:
    """Each computes what it would alone; chosen ones are the chosen ones."""
    together, inputs = make(network, sharing, 3), some_inputs()
    values = together(inputs)
    for k in range(3):
        alone = make(network, sharing)
        alone.load_state_dict({name: tensor.chunk(3)[k] for name, tensor in together.state_dict().items()})
        close(alone(inputs)[0], values[k])
    for chosen in ([2, 0], [1]):
        close(together(inputs, torch.tensor(chosen)), values[chosen])
    assert (values[0] - values[1]).abs().max() > 1e-3


@every_choice
def test_members_as_one_batch(network: str, sharing: str) -> None:
    """As a GPU computes them: the same values as one after the other."""
    networks, inputs = make(network, sharing, 3), some_inputs()
    x = networks._arranged(inputs)
    together, _ = networks.unroll(x.repeat(3, 1, 1, 1), networks.chosen())
    close(networks._joined([together]), networks(inputs))


@settings(max_examples=25)
@given(choice=st.sampled_from([(n, s) for n in NETWORKS for s in SHARING]), order=st.permutations(range(4)))
def test_episodes_do_not_meet(choice: tuple[str, str], order: list[int]) -> None:
    """Another order gives the same values in that order."""
    networks, inputs = make(*choice, members=2), some_inputs(episodes=4)
    by_episode = inputs.view(4, 4, N, -1)[:, order].flatten(1, 2)
    expected = networks(inputs).view(2, 4, 4, N, A)[:, :, order].flatten(2, 3)
    close(networks(by_episode), expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_is_known_in_advance(network: str) -> None:
    """What comes later does not change a value; with memory, what came before does."""
    networks, inputs = make(network), some_inputs()
    later, sooner = inputs.clone(), inputs.clone()
    later[3, :, : SPEC.obs_dim] += 1
    sooner[1, :, : SPEC.obs_dim] += 1
    before = networks(inputs)
    close(networks(later)[:, :3], before[:, :3], 0)
    assert (networks(later)[:, 3] - before[:, 3]).abs().max() > 1e-6
    close(networks(sooner)[:, 0], before[:, 0], 0)
    remembers = (networks(sooner)[:, 2] - before[:, 2]).abs().max() > 1e-9
    assert remembers == (network in ("gru", *ENTITY_NETWORKS))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["iql", "qmix", "demar", "ow_qmix"])
def test_every_learner_trains_every_network(name: str, network: str) -> None:
    """Padding and the order of episodes change nothing, and every parameter that a head uses is learned."""
    ensemble = {"agents": 2} if name == "demar" else {}
    algorithm = build(name, network, ensemble=ensemble)
    batch = random_batch(0, [4, 2, 6], SPEC)

    def learned(episodes: Any) -> list[Tensor]:
        loss, _ = algorithm.loss(algorithm.prepare(doubles(episodes), np.random.default_rng(0)))
        return [loss, *torch.autograd.grad(loss, list(algorithm.agents.parameters()))]

    plain = learned(batch)
    assert all(tensor.isfinite().all() for tensor in plain)
    assert sum(bool(gradient.any()) for gradient in plain[1:]) >= len(plain) - 3
    for other in (with_garbage(batch, 1), rows(batch, [2, 0, 1])):
        for first, second in zip(plain, learned(other), strict=True):
            close(first, second, 1e-9)


@every_choice
def test_acting_gives_the_values_that_are_learned(network: str, sharing: str) -> None:
    """The policy with its weights from the learner, an environment starting anew on the way."""
    algorithm = build("demar", network, sharing, ensemble={"agents": 2}).float()
    policy = type(algorithm).make_policy(SPEC, algorithm.settings, algorithm.networks)
    policy.load_weights(algorithm.policy_weights())
    rng, avail = np.random.default_rng(1), np.ones((2, N, A), np.bool_)
    obs = rng.normal(size=(5, 2, N, SPEC.obs_dim)).astype(np.float32)
    state = policy.initial_state(2)
    policy.act(obs[0], state, avail, rng, 1.0)
    policy.reset_rows(state, np.array([True, True]))
    actions = np.stack([policy.act(o, state, avail, rng, 0.0) for o in obs])
    inputs = agent_inputs(*(torch.from_numpy(a).transpose(0, 1) for a in (obs, actions[:-1])), A)
    with torch.no_grad():
        values = algorithm.agents(inputs).mean(0).view(5, 2, N, A)
    best = values.max(-1).values
    taken = values.gather(-1, torch.from_numpy(actions).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(taken, best, rtol=1e-5, atol=1e-6)


def test_the_policy_takes_new_weights() -> None:
    """Also where layers are generated or gathered once and kept."""
    for network, sharing in (("hyper_mlp", "full_id"), ("gru", "groups")):
        algorithm = build("qmix", network, sharing).float()
        policy = type(algorithm).make_policy(SPEC, algorithm.settings, algorithm.networks)
        avail, rng = np.ones((16, N, A), np.bool_), np.random.default_rng(0)
        obs = rng.normal(size=(16, N, SPEC.obs_dim)).astype(np.float32)
        played = []
        for scale in (1.0, -3.0):
            for parameter in algorithm.agents.parameters():
                parameter.data.uniform_(-0.5, 0.5).mul_(scale)
            policy.load_weights(algorithm.policy_weights())
            played.append(policy.act(obs, policy.initial_state(16), avail, rng, 0.0))
        assert (played[0] != played[1]).any()


# -- sharing -----------------------------------------------------------------------------------------------------------


@every_choice
def test_who_differs_from_whom(network: str, sharing: str) -> None:
    """Agents that see the same, value the same exactly where they share parameters and see no id."""
    inputs = some_inputs(steps=2).view(2, 2, N, -1).clone()
    inputs[..., : SPEC.obs_dim + A] = inputs[:, :, :1, : SPEC.obs_dim + A]
    values = make(network, sharing)(inputs.flatten(1, 2)).view(2, 2, N, A)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        alike = sharing == "full" or (sharing == "groups" and GROUPS[i] == GROUPS[j])
        assert ((values[:, :, i] - values[:, :, j]).abs().max() < 1e-12) == alike


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("sharing", ["groups", "none"])
def test_gradients_are_separate(network: str, sharing: str) -> None:
    """What one agent learns changes nobody's parameters but those of its group, or its own."""
    networks, inputs = make(network, sharing, members=2), some_inputs()
    values = networks(inputs).view(2, 4, 2, N, A)
    for agent in range(N):
        mates = {j for j in range(N) if j == agent or (sharing == "groups" and GROUPS[j] == GROUPS[agent])}
        learned = copy.deepcopy(networks)
        learned(inputs).view(2, 4, 2, N, A)[:, :, :, agent].square().sum().backward()
        with torch.no_grad():
            for parameter in learned.parameters():
                parameter -= 0.1 * torch.zeros_like(parameter) if parameter.grad is None else 0.1 * parameter.grad
            moved = learned(inputs).view(2, 4, 2, N, A)
        if network == "hyper_mlp" and sharing == "groups":  # one hypernetwork serves all groups
            continue
        for j in range(N):
            same = (moved[..., j, :] - values[..., j, :]).abs().max() < 1e-10
            assert same == (j not in mates), (agent, j)


@pytest.mark.parametrize("network", NETWORKS)
def test_last_actions_can_be_left_out(network: str) -> None:
    inputs, other = some_inputs(0), some_inputs(0)
    other[..., SPEC.obs_dim : SPEC.obs_dim + A] = other[..., SPEC.obs_dim : SPEC.obs_dim + A].roll(1, -1)
    for last_action in (True, False):
        networks = make(network, last_action=last_action)
        assert torch.equal(networks(inputs), networks(other)) != last_action


# -- entities ----------------------------------------------------------------------------------------------------------


def swapped(inputs: Tensor, first: tuple[int, ...], second: tuple[int, ...]) -> Tensor:
    outcome = inputs.clone()
    outcome[..., first], outcome[..., second] = inputs[..., second], inputs[..., first]
    return outcome


@pytest.mark.parametrize("network", ["updet", "atm"])
@pytest.mark.parametrize("sharing", SHARING)
def test_entities_can_be_interchanged(network: str, sharing: str) -> None:
    """Allies leave no trace of their order; enemies take the values of the actions aimed at them along."""
    networks, inputs = make(network, sharing), some_inputs()
    values = networks(inputs)
    close(networks(swapped(inputs, *ENTITIES.allies)), values)
    aimed = networks(swapped(inputs, *ENTITIES.enemies))
    close(aimed[..., [0, 4, 2, 3, 1]], values)
    assert (aimed - values).abs().max() > 1e-3
    # Objects have marks here, which say which is which.
    assert (networks(swapped(inputs, *ENTITIES.objects)) - values).abs().max() > 1e-6


def test_asn_values_an_attack_by_its_enemy() -> None:
    """The agent's own half sees everything; where it does not see enemies, they can be interchanged."""
    networks, inputs = make("asn"), some_inputs()
    values = networks(inputs)
    enemy = inputs.clone()
    enemy[..., ENTITIES.enemies[0]] += 1
    networks.get_submodule("own_fc1").weight.data[..., 6:12] = 0  # type: ignore[union-attr, index]
    values, changed = networks(inputs), networks(enemy)
    close(changed[..., [0, 1, 2, 3]], values[..., [0, 1, 2, 3]], 0)
    assert (changed[..., 4] - values[..., 4]).abs().min() > 1e-9  # the first enemy's action is number 4
    close(networks(swapped(inputs, *ENTITIES.enemies))[..., [0, 4, 2, 3, 1]], values)


@pytest.mark.parametrize("network", ENTITY_NETWORKS)
def test_without_entities_the_choice_is_refused(network: str) -> None:
    with pytest.raises(UserError, match=f"agent.network={network} .*env.name=nowhere.*gru, mlp.*stag_hunt"):
        make_agent_networks(replace(SPEC, entities=None), 1, agent_settings(network))


@pytest.mark.parametrize("network", ENTITY_NETWORKS)
def test_where_no_action_is_aimed_all_are_basic(network: str) -> None:
    spec = replace(SPEC, entities=replace(ENTITIES, enemy_actions=()))
    values = make_agent_networks(spec, 1, agent_settings(network)).double()(some_inputs())
    assert values.shape == (1, 4, 2 * N, A) and (values.std(-1) > 0).all()


# -- sizes and settings ------------------------------------------------------------------------------------------------


def count(networks: AgentNetworks) -> int:
    return sum(parameter.numel() for parameter in networks.parameters())


def test_numbers_of_parameters() -> None:
    h, seen = 8, SPEC.obs_dim + A

    def size(network: str, inputs: int) -> int:
        between = {"mlp": 1, "gru": 6}[network]  # hidden layers; three gates, from inputs and states
        return (inputs + 1) * h + between * h * (h + 1) + (h + 1) * A

    for network in ("mlp", "gru"):
        for sharing, sets, inputs in zip(SHARING, (1, 1, 2, 3), (seen, seen + N, seen, seen), strict=True):
            assert count(make(network, sharing)) == sets * size(network, inputs)
            assert count(make(network, sharing, members=4)) == 4 * sets * size(network, inputs)
    d, w = 4, 64  # hyper_mlp: an embedding for each agent, two hidden layers and heads for each layer
    layers = [(seen, h), (h, h), (h, A)]
    heads = sum(2 * (d + 1) * w + (w + 1) * (i * o + o) for i, o in layers)
    assert count(make("hyper_mlp")) == N * d + heads
    assert count(make("hyper_linear")) == N * size("mlp", seen)
    assert count(make("hyper_linear", hyper={"bias": True})) == (N + 1) * size("mlp", seen)


@pytest.mark.parametrize(("inputs", "expected"), [(16 * 16 + 16, 18_512), (16, 2_128)])
def test_sizes_of_the_specialisation_game(inputs: int, expected: int) -> None:
    """HyperMARL's table 9, 16 agents and actions, one hidden layer of 64: with everybody's last action and the own id,
    289 h + 16 parameters, with the id alone 33 h + 16."""
    assert count(MLPAgents(Plan(1, inputs, 16, AgentSettings(network="mlp", depth=1)))) == expected


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"network": "gruu"}, ["gru"]),
        ({"sharing": "some"}, ["full_id"]),
        ({"network": "gru", "depth": 3}, ["agent.depth=3", "agent.network=gru"]),
        ({"network": "mlp", "hyper": {"base": "gru"}}, ["agent.hyper.base=gru", "agent.network=mlp"]),
        ({"network": "hyper_linear", "hyper": {"embedding": 8}}, ["agent.hyper.embedding=8"]),
        ({"network": "hyper_mlp", "hyper": {"bias": True}}, ["agent.hyper.bias=True"]),
        ({"network": "hyper_mlp", "hyper": {"layers": ["fc9"]}}, ["fc9", "fc1, fc2, fc3"]),
        ({"network": "hyper_mlp", "hyper": {"layers": []}}, ["agent.hyper.layers=[]"]),
        ({"network": "hyper_mlp", "hyper": {"base": "gru", "layers": ["fc3"]}}, ["fc3", "recurrent_gates"]),
        ({"network": "asn", "attention": {"heads": 2}}, ["agent.attention.heads=2", "agent.network=asn"]),
        ({"network": "updet", "attention": {"slots": 2}}, ["agent.attention.slots=2"]),
        ({"network": "atm", "hidden": 30}, ["agent.hidden=30", "4 attention heads"]),
    ],
)
def test_wrong_settings_are_refused(given_: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as error:
        AgentSettings.model_validate(given_)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("network", "others"),
    [
        ("mlp", {"depth": 3}),
        ("hyper_mlp", {"depth": 1}),
        ("hyper_mlp", {"hyper": {"base": "gru"}}),
        ("hyper_mlp", {"hyper": {"layers": ["fc2"]}}),
        ("hyper_mlp", {"hyper": {"embedding": 5}}),
        ("hyper_mlp", {"hyper": {"width": 9}}),
        ("hyper_linear", {"hyper": {"bias": True}}),
        ("updet", {"attention": {"heads": 2}}),
        ("updet", {"attention": {"blocks": 3}}),
        ("atm", {"attention": {"slots": 2}}),
        ("gru", {"last_action": False}),
        ("asn", {"hidden": 12}),
    ],
)
def test_settings_reach_the_networks(network: str, others: dict[str, Any]) -> None:
    shapes = [
        {name: tensor.shape for name, tensor in make(network, **given_).state_dict().items()} for given_ in ({}, others)
    ]
    assert shapes[0] != shapes[1]


def test_heads_of_atm() -> None:
    """They share the tokens' width: same shapes, other values."""
    four, two = make("atm"), make("atm", attention={"heads": 2})
    two.load_state_dict(four.state_dict())
    assert (four(some_inputs()) - two(some_inputs())).abs().max() > 1e-3
