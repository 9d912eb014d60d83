"""Parameters by group where groups are drawn anew in every episode: each agent has its present kind's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from phalanx.algorithms.common.actors import GroupedActors
from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.networks.base import AgentNetworks
from phalanx.algorithms.common.networks.build import make_agent_networks
from phalanx.algorithms.registry import algorithm_class
from phalanx.cluster.loop import train_serially
from phalanx.configs.errors import UserError
from phalanx.configs.settings import EnvSettings, NetworkSettings, RunSettings
from phalanx.envs.check import check_env
from phalanx.envs.noise import Noise
from phalanx.envs.team import BatchedTeamEnv, Bools, EntityView, Floats, Obs, TeamSpec
from tests.algorithms.test_networks import agent_settings, close
from tests.cluster import fakes

NETWORKS = ("gru", "mlp", "asn", "updet", "atm")
KINDS = ("a", "b", "c")
N, A, G = 3, 4, len(KINDS)
SPEC = TeamSpec(
    env_name="mixed company",
    n_agents=N,
    obs_dim=8,
    state_dim=3,
    n_actions=A,
    episode_limit=6,
    agent_names=("x", "y", "z"),
    obs_dims=(8,) * N,
    action_dims=(A,) * N,
    group_names=KINDS,
    groups_vary=True,
    kind_columns=(5, 6, 7),
    entities=EntityView(own=(0, 5, 6, 7), allies=((1,), (2,)), enemies=((3,), (4,)), enemy_actions=(2, 3)),
)


def make(network: str, members: int = 1, spec: TeamSpec = SPEC, sharing: str = "groups") -> AgentNetworks:
    draw = torch.Generator().manual_seed(0)
    networks = make_agent_networks(spec, members, agent_settings(network, sharing)).double()
    for parameter in networks.parameters():
        parameter.data.uniform_(-0.8, 0.8, generator=draw)
    return networks


def inputs_of(kinds: Tensor, steps: int = 5) -> Tensor:
    """[T, B·N, I] of episodes in which agents are of `kinds` [B, N]."""
    draw = torch.Generator().manual_seed(1)
    obs = torch.randn(len(kinds), steps, N, SPEC.obs_dim, generator=draw, dtype=torch.float64)
    obs[..., SPEC.kind_columns] = torch.nn.functional.one_hot(kinds, G).double().unsqueeze(1)
    return agent_inputs(obs, torch.randint(A, (len(kinds), steps - 1, N), generator=draw), A)


SOME = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 1, 1]])


def of_kind(networks: AgentNetworks, network: str, member: int, kind: int) -> AgentNetworks:
    """One network of all agents with the parameters that a member has for a kind."""
    alone = make(network, sharing="full")
    stack = member * G + kind
    alone.load_state_dict({name: tensor[stack : stack + 1] for name, tensor in networks.state_dict().items()})
    return alone


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("members", [1, 2])
def test_each_row_has_what_its_kinds_network_says(network: str, members: int) -> None:
    networks, inputs = make(network, members), inputs_of(SOME)
    values, states = networks.values_and_states(inputs)
    assert values.shape == (members, 5, 9, A)
    for k in range(members):
        for kind in range(G):
            mine = SOME.flatten() == kind
            expected, known = of_kind(networks, network, k, kind).values_and_states(inputs[:, mine])
            close(values[k][:, mine], expected[0])
            close(states[k][:, mine], known[0])
    if members == 2:
        close(networks(inputs, torch.tensor([1])), values[1:])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("members", [1, 2])
def test_steps_make_the_sequence(network: str, members: int) -> None:
    networks, inputs = make(network, members), inputs_of(SOME)
    values, state, layers = networks(inputs), networks.initial_state(9), networks.chosen()
    for t, x in enumerate(inputs):
        each, state = networks.step(x, state, layers)
        assert state.shape == (members, 9, *networks.state_shape)
        close(each, values[:, t])


def test_pieces_go_on_from_what_was_known() -> None:
    networks, inputs = make("gru"), inputs_of(SOME)
    values, states = networks.values_and_states(inputs)
    close(networks.resumed(inputs[2:], states[:, 1]), values[:, 2:])


@pytest.mark.parametrize("network", NETWORKS)
def test_kinds_that_are_not_there_learn_nothing(network: str) -> None:
    networks = make(network)
    networks(inputs_of(torch.tensor([[0, 2, 2]]))).square().sum().backward()
    for parameter in networks.parameters():
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).abs().amax(1) > 0
        assert not moved[1] and parameter.grad.shape[0] == G
    assert all(any(bool(p.grad[g].any()) for p in networks.parameters() if p.grad is not None) for g in (0, 2))


def test_acting_gives_the_values_that_are_learned() -> None:
    kind = algorithm_class("demar")
    networks = NetworkSettings.model_validate({"agent": agent_settings("gru", "groups").model_dump()})
    settings = kind.Settings.model_validate({"name": "demar", "ensemble": {"agents": 2}})
    algorithm = kind(SPEC, settings, networks)
    policy = kind.make_policy(SPEC, algorithm.settings, algorithm.networks)
    policy.load_weights(algorithm.policy_weights())
    rng, avail, state = np.random.default_rng(1), np.ones((3, N, A), np.bool_), policy.initial_state(3)
    obs = rng.normal(size=(5, 3, N, SPEC.obs_dim)).astype(np.float32)
    obs[..., SPEC.kind_columns] = np.eye(G)[SOME]
    actions = np.stack([policy.act(o, state, avail, rng, 0.0) for o in obs])
    seen, done = (torch.from_numpy(a).transpose(0, 1) for a in (obs, actions[:-1]))
    with torch.no_grad():
        values = algorithm.agents(agent_inputs(seen, done, A)).mean(0).view(5, 3, N, A)  # type: ignore[operator]
    taken = values.gather(-1, torch.from_numpy(actions).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(taken, values.max(-1).values, rtol=1e-5, atol=1e-6)


def test_what_cannot_follow_kinds_that_change_is_refused() -> None:
    with pytest.raises(UserError, match=r"agent\.sharing=groups needs groups that last"):
        make("hyper_mlp")
    with pytest.raises(UserError, match="trained one after the other, needs groups that last"):
        GroupedActors(SPEC, agent_settings("gru", "groups"), "gaussian", [[0], [1, 2]])
    with pytest.raises(UserError, match="needs groups that last"):
        make("gru", spec=replace(SPEC, kind_columns=(), group_names=()))
    with pytest.raises(ValueError, match="names 2 kind_columns for 3 group_names"):
        replace(SPEC, kind_columns=(5, 6))
    with pytest.raises(ValueError, match="of 8 observed numbers"):
        replace(SPEC, kind_columns=(5, 6, 8))


class Company(BatchedTeamEnv):
    """Agents are of a kind that is drawn for each episode, and paid for the action with their kind's number."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(replace(SPEC, entities=None), num_envs)
        self.kinds = np.zeros((num_envs, N), np.int64)

    def _begin(self, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        self.kinds[rows] = [np.random.default_rng(seed).integers(G, size=N) for seed in seeds]

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
        right = (actions == self.kinds).mean(axis=1).astype(np.float32)
        return right, np.zeros(self.num_envs, np.bool_), {}

    def _observe(self) -> Obs:
        obs = np.zeros((self.num_envs, N, 8), np.float32)
        obs[..., 0], obs[..., 5:] = self._elapsed[:, None], np.eye(G)[self.kinds]
        ones = np.ones((self.num_envs, N, A), np.bool_)
        return Obs(obs, self.kinds.astype(np.float32), ones, ones[..., 0].copy())


def test_the_kinds_are_checked() -> None:
    class Shifting(Company):
        def _advance(self, actions: npt.NDArray[Any]) -> tuple[Floats, Bools, dict[str, npt.NDArray[Any]]]:
            outcome = super()._advance(actions)
            self.kinds = (self.kinds + 1) % G
            return outcome

    class Vague(Company):
        def _observe(self) -> Obs:
            obs = super()._observe()
            return replace(obs, obs=obs.obs * 0.5)

    assert check_env(Company) == []
    for fault, sentence in (
        (Shifting, "kind_columns changed within an episode"),
        (Vague, "in spec.kind_columns, not one 1"),
    ):
        assert sentence in {problem.name: problem.sentence for problem in check_env(fault)}["groups"]


def test_a_run_learns_what_each_kind_is_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("phalanx.cluster.rollout.make_env", lambda settings, count, load=None: Company(count))
    monkeypatch.setattr("phalanx.cluster.evaluation.make_env", lambda settings, count, load=None: Company(count))
    run = RunSettings.model_validate(
        {
            **fakes.settings("vdn").model_dump(),
            "env": EnvSettings(name="company"),
            "algorithm": algorithm_class("vdn").Settings(name="vdn", lr=0.01, optimiser="adam"),
            "agent": {"hidden": 16, "network": "mlp", "sharing": "groups"},
            "exploration": {"env_steps": 1500},
            "total_env_steps": 3000,
        }
    )
    summary = train_serially(run, tmp_path / "run")
    assert summary["final"]["eval/return_mean"] == pytest.approx(6, abs=0.2)  # everybody right in six steps


def test_noise_leaves_kinds_alone() -> None:
    from phalanx.configs.noise_settings import NoiseSettings

    assert check_env(lambda count: Noise(Company(count), NoiseSettings(obs_gaussian=0.1, obs_uniform=0.1))) == []
