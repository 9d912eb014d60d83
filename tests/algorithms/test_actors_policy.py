"""The acting side of policies: the learner's distributions, numpy's randomness, what a stream's play depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from phalanx.algorithms.common.actor_policy import ActorPolicy
from phalanx.algorithms.common.actors import GroupedActors, Head
from phalanx.algorithms.common.agents import agent_inputs
from phalanx.configs.settings import AgentSettings
from phalanx.envs.team import TeamSpec
from tests.algorithms.helpers import SPEC, random_avail

E, N, A, D = 5, SPEC.n_agents, SPEC.n_actions, 3
MOVING = replace(SPEC, discrete=False, n_actions=0, action_dims=(D, 1, 2))
HEADS: tuple[Head, ...] = ("gaussian", "tanh_gaussian", "deterministic")
GROUPS = [None, [[0, 2], [1]]]


def make(
    spec: TeamSpec, head: Head, noise: float | None = None, groups: list[list[int]] | None = None, seed: int = 0
) -> tuple[GroupedActors, ActorPolicy]:
    """Actors with weights large enough that nothing is nearly constant, and a policy that was given them."""
    agent = AgentSettings(hidden=8)
    torch.manual_seed(seed)
    actors = GroupedActors(spec, agent, head, groups)
    for parameter in actors.parameters():
        parameter.data.uniform_(-0.8, 0.8)
    policy = ActorPolicy(spec, GroupedActors(spec, agent, head, groups), noise)
    policy.load_weights({name: tensor.detach().numpy().copy() for name, tensor in actors.state_dict().items()})
    return actors, policy


def seen(spec: TeamSpec, steps: int, seed: int = 0, envs: int = E) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Observations [steps, E, N, O] and availability [steps, E, N, A]."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(steps, envs, N, spec.obs_dim)).astype(np.float32)
    return obs, random_avail(rng, (steps, envs, N), A)[..., : spec.n_actions]


def play(policy: ActorPolicy, obs: Any, avail: Any, epsilon: float, seed: int = 0) -> tuple[Any, Any]:
    """Actions and log-probabilities of every step."""
    state, rng = policy.initial_state(obs.shape[1]), np.random.default_rng(seed)
    actions, log_probs = [], []
    for o, a in zip(obs, avail, strict=True):
        actions.append(policy.act(o, state, a, rng, epsilon))
        log_probs.append(policy.log_prob)
    return np.stack(actions), log_probs


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("spec", [SPEC, MOVING], ids=["discrete", "continuous"])
def test_log_probabilities_are_the_learners(spec: TeamSpec, groups: Any) -> None:
    """Step by step while acting, and from the whole episode afterwards."""
    actors, policy = make(spec, "gaussian", groups=groups)
    obs, avail = seen(spec, 7)
    actions, log_probs = play(policy, obs, avail, 0.3)
    assert actions.dtype == (np.int64 if spec.discrete else np.float32)
    acted = torch.from_numpy(actions).transpose(0, 1)
    inputs = agent_inputs(torch.from_numpy(obs).transpose(0, 1), acted[:, :-1], spec.n_actions)
    with torch.no_grad():
        learners = actors(inputs, torch.from_numpy(avail)).log_prob(acted.transpose(0, 1))
    np.testing.assert_allclose(np.stack(log_probs), learners.numpy(), rtol=1e-4, atol=1e-5)
    assert np.stack(log_probs).dtype == np.float32


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("spec", [SPEC, MOVING], ids=["discrete", "continuous"])
def test_greedy_is_the_mode_and_draws_nothing(spec: TeamSpec, head: Head) -> None:
    actors, policy = make(spec, head, noise=None if head == "gaussian" else 0.1)
    obs, avail = seen(spec, 5)
    state, rng = policy.initial_state(E), np.random.default_rng(0)
    before = rng.bit_generator.state
    actions = np.stack([policy.act(o, state, a, rng, 0.0) for o, a in zip(obs, avail, strict=True)])
    assert rng.bit_generator.state == before
    acted = torch.from_numpy(actions).transpose(0, 1)
    inputs = agent_inputs(torch.from_numpy(obs).transpose(0, 1), acted[:, :-1], spec.n_actions)
    with torch.no_grad():
        mode = actors(inputs, torch.from_numpy(avail)).mode()
    np.testing.assert_allclose(actions, mode.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [None, 0.2])
def test_discrete_actions_are_drawn_with_their_probabilities(noise: float | None) -> None:
    """Many equal environments; unavailable actions never. With ε = 0.5 half of an off-policy method's are uniform."""
    actors, policy = make(SPEC, "gaussian", noise)
    obs, avail = seen(SPEC, 1, envs=1)
    avail[:, :, 0, 2] = False
    obs, avail = np.repeat(obs, 20_000, 1), np.repeat(avail, 20_000, 1)
    actions, log_probs = play(policy, obs, avail, 0.5)
    shown = torch.from_numpy(obs).transpose(0, 1)[:1]
    inputs = agent_inputs(shown, torch.zeros(1, 0, N, dtype=torch.int64), A)
    probs = actors(inputs, torch.from_numpy(avail[:, :1])).probs[0, 0].detach().numpy()
    if noise is not None:
        probs = 0.5 * probs + 0.5 * avail[0, 0] / avail[0, 0].sum(-1, keepdims=True)
    assert np.take_along_axis(avail, actions[..., None], -1).all()
    assert (log_probs[0] is None) == (noise is not None)
    for i in range(N):
        shares = np.bincount(actions[0, :, i], minlength=A) / actions.shape[1]
        np.testing.assert_allclose(shares, probs[i], atol=0.02)


class Highest:
    """A generator at the end of its range."""

    def random(self, size: Any) -> Any:
        return np.full(size, np.nextafter(1.0, 0.0))


def test_the_highest_number_draws_something_available() -> None:
    _, policy = make(SPEC, "gaussian")
    for seed in range(20):
        obs, avail = seen(SPEC, 1, seed)
        avail[..., -1], avail[..., 0] = False, True
        rng: Any = Highest()
        actions = policy.act(obs[0], policy.initial_state(E), avail[0], rng, 1.0)
        assert np.take_along_axis(avail[0], actions[..., None], -1).all()


@pytest.mark.parametrize("head", HEADS)
def test_continuous_exploration(head: Head) -> None:
    """Noise of the policy's own size around the mode; uniform with probability ε where off-policy; no component that
    an agent does not have."""
    noise = None if head == "gaussian" else 0.2
    _, policy = make(MOVING, head, noise)
    obs, avail = seen(MOVING, 1, envs=1)
    obs, avail = np.repeat(obs, 20_000, 1), np.repeat(avail, 20_000, 1)
    greedy, _ = play(policy, obs, avail, 0.0)
    barely, log_probs = play(policy, obs, avail, 1e-9)
    used = np.array([[d < size for d in range(D)] for size in MOVING.action_dims])
    assert not barely[..., ~used].any() and barely[..., used].std(1).min() > 0.01
    if head == "gaussian":
        np.testing.assert_allclose(barely.mean(1), greedy.mean(1), atol=0.03)
        np.testing.assert_allclose(barely.std(1)[0], np.exp(policy.agents.log_stds().numpy()) * used, rtol=0.03)
        assert log_probs[0].shape == (20_000, N)
        return
    assert np.abs(barely).max() <= 1 and log_probs[0] is None
    if head == "deterministic":
        inner = used & (np.abs(greedy[0, 0]) < 0.4)
        assert inner.any()
        np.testing.assert_allclose((barely - greedy).std(1)[0][inner], 0.2, rtol=0.03)
    anything, _ = play(policy, obs, avail, 1.0)
    assert not anything[..., ~used].any()
    np.testing.assert_allclose(anything.std(1)[0][used], 1 / np.sqrt(3), rtol=0.03)


@pytest.mark.parametrize("spec", [SPEC, MOVING], ids=["discrete", "continuous"])
def test_play_depends_on_the_streams_own_generator_alone(spec: TeamSpec) -> None:
    """Two streams interleaved on one policy play what each plays alone; torch's global generator does not matter."""
    _, policy = make(spec, "gaussian")
    alone = []
    for stream in (1, 2):
        torch.manual_seed(stream)
        alone.append(play(policy, *seen(spec, 6, stream), 0.5, seed=stream)[0])
    states, rngs = [policy.initial_state(E) for _ in (1, 2)], [np.random.default_rng(s) for s in (1, 2)]
    for t in range(6):
        for k in range(2):
            obs, avail = seen(spec, 6, k + 1)
            np.testing.assert_array_equal(policy.act(obs[t], states[k], avail[t], rngs[k], 0.5), alone[k][t])


@pytest.mark.parametrize("groups", GROUPS)
def test_rows_begin_anew(groups: Any) -> None:
    _, policy = make(MOVING, "gaussian", groups=groups)
    obs, avail = seen(MOVING, 4)
    state, fresh, rng = policy.initial_state(E), policy.initial_state(E), np.random.default_rng(0)
    for t in range(3):
        policy.act(obs[t], state, avail[t], rng, 0.5)
    policy.reset_rows(state, np.array([1, 3]))
    after, first = (policy.act(obs[3], s, avail[3], rng, 0.0) for s in (state, fresh))
    np.testing.assert_array_equal(after[[1, 3]], first[[1, 3]])
    assert np.abs(after[0] - first[0]).max() > 1e-6
