"""The acting side: the same values as the learner's, its memory of each environment, and exploration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.policy import RecurrentState, ValuePolicy, explore
from phalanx.algorithms.value_mixing import ValueMixing
from tests.algorithms.helpers import NAMES, NETWORKS, SPEC, build, random_avail

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
E, N, A = 4, SPEC.n_agents, SPEC.n_actions
seeds = st.integers(0, 2**31)


def algorithm_and_policy(name: str = "demar", members: int = 3) -> tuple[ValueMixing, ValuePolicy]:
    """In single precision, as when training."""
    algorithm = build(name, ensemble={"agents": members}).float()
    policy = type(algorithm).make_policy(SPEC, algorithm.settings, NETWORKS)
    policy.load_weights(algorithm.policy_weights())
    return algorithm, policy


def observations(seed: int, steps: int) -> tuple[Floats, Bools]:
    """[steps, E, N, O] and [steps, E, N, A]."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(steps, E, N, SPEC.obs_dim)).astype(np.float32)
    return obs, random_avail(rng, (steps, E, N), A)


def record(policy: ValuePolicy) -> list[npt.NDArray[Any]]:
    """The values [K, E·N, A] of every step from now on."""
    values: list[npt.NDArray[Any]] = []
    step = policy.agents.step

    def spy(*arguments: Any) -> Any:
        result = step(*arguments)
        values.append(result[0].numpy().copy())
        return result

    policy.agents.step = spy  # type: ignore[method-assign, assignment]
    return values


@pytest.mark.parametrize("members", [1, 3])
def test_acting_gives_the_values_that_are_learned(members: int) -> None:
    """Step by step with random exploration, against the sequence that the learner unrolls from the same episode."""
    algorithm, policy = algorithm_and_policy(members=members)
    obs, avail = observations(0, 7)
    values, state, rng = record(policy), policy.initial_state(E), np.random.default_rng(1)
    actions = np.stack([policy.act(o, state, a, rng, 0.5) for o, a in zip(obs, avail, strict=True)])
    seen = torch.from_numpy(obs).transpose(0, 1)
    acted = torch.from_numpy(actions[:-1]).transpose(0, 1)
    with torch.no_grad():
        learners = algorithm.agents(agent_inputs(seen, acted, A))
    assert learners.shape == (members, 7, E * N, A)
    np.testing.assert_allclose(np.stack(values, 1), learners.numpy(), rtol=1e-5, atol=1e-5)
    assert len(np.unique(actions)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_greedy_in_the_mean_of_the_ensemble(name: str) -> None:
    _, policy = algorithm_and_policy(name)
    obs, avail = observations(2, 6)
    values, state, rng = record(policy), policy.initial_state(E), np.random.default_rng(0)
    before = rng.bit_generator.state
    differs = 0
    for o, a in zip(obs, avail, strict=True):
        actions = policy.act(o, state, a, rng, 0.0)
        assert actions.shape == (E, N) and actions.dtype == np.int64
        each = np.where(a, values[-1].reshape(3, E, N, A), -np.inf)
        np.testing.assert_array_equal(actions, np.where(a, each.mean(0), -np.inf).argmax(-1))
        differs += int((actions != each.min(0).argmax(-1)).sum())
    assert differs > 0  # the minimum would act otherwise: it is the mean that counts
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("rows", [np.array([1]), np.array([False, True, False, False]), np.array(1)])
def test_reset_rows_starts_one_environment_anew(rows: npt.NDArray[Any]) -> None:
    """Its values are to the bit those of a first step; the other environments do not notice."""
    obs, avail = observations(3, 4)

    def play(reset: bool) -> tuple[npt.NDArray[Any], RecurrentState]:
        _, policy = algorithm_and_policy()
        state, rng = policy.initial_state(E), np.random.default_rng(0)
        for o, a in zip(obs[:3], avail[:3], strict=True):
            policy.act(o, state, a, rng, 0.3)
        if reset:
            policy.reset_rows(state, rows)
        values = record(policy)
        policy.act(obs[3], state, avail[3], rng, 0.0)
        return values[0].reshape(3, E, N, A), state

    (undisturbed, _), (restarted, state) = play(False), play(True)
    _, policy = algorithm_and_policy()
    first, fresh = record(policy), policy.initial_state(E)
    policy.act(obs[3], fresh, avail[3], np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(restarted[:, 1], first[0].reshape(3, E, N, A)[:, 1])
    np.testing.assert_array_equal(restarted[:, [0, 2, 3]], undisturbed[:, [0, 2, 3]])
    assert (restarted[:, 1] != undisturbed[:, 1]).all()
    np.testing.assert_array_equal(state.inputs[..., -N:], np.broadcast_to(np.eye(N), (E, N, N)))


def test_resetting_nothing_changes_nothing() -> None:
    _, policy = algorithm_and_policy()
    obs, avail = observations(4, 1)
    state = policy.initial_state(E)
    policy.act(obs[0], state, avail[0], np.random.default_rng(0), 0.0)
    before = state.hidden.clone(), state.inputs.copy()
    policy.reset_rows(state, np.flatnonzero(np.zeros(E, np.bool_)))
    assert torch.equal(state.hidden, before[0]) and np.array_equal(state.inputs, before[1])


def test_streams_do_not_share_memory() -> None:
    """One policy serves several streams: what one plays does not depend on the other."""
    obs, avail = observations(5, 6)
    _, policy = algorithm_and_policy()
    values, rng = record(policy), np.random.default_rng(0)
    alone = policy.initial_state(E)
    for t in range(3):
        policy.act(obs[t], alone, avail[t], rng, 0.0)
    first, other = policy.initial_state(E), policy.initial_state(E)
    for t in range(3):
        policy.act(obs[t + 3], other, avail[t + 3], rng, 0.0)
        policy.act(obs[t], first, avail[t], rng, 0.0)
    np.testing.assert_array_equal(values[:3], values[4::2])


def test_observations_and_availability_are_only_read() -> None:
    obs, avail = observations(6, 2)
    before = obs.copy(), avail.copy()
    _, policy = algorithm_and_policy()
    state = policy.initial_state(E)
    for o, a in zip(obs, avail, strict=True):
        policy.act(o, state, a, np.random.default_rng(0), 0.5)
    np.testing.assert_array_equal(obs, before[0])
    np.testing.assert_array_equal(avail, before[1])


@pytest.mark.parametrize("name", NAMES)
def test_weights_travel(name: str) -> None:
    """Whole and to the bit, as numpy arrays that share nothing; a policy of another size refuses them."""
    algorithm, policy = algorithm_and_policy(name)
    weights = algorithm.policy_weights()
    kept = {key: array.copy() for key, array in weights.items()}
    for array in weights.values():
        array.flags.writeable = False  # as Ray hands them out
    policy.load_weights(weights)
    for key, tensor in algorithm.agents.state_dict().items():
        assert torch.equal(policy.agents.state_dict()[key], tensor)
    for parameter in algorithm.parameters():
        parameter.data.add_(1.0)
    for key, array in kept.items():
        np.testing.assert_array_equal(weights[key], array)
        np.testing.assert_array_equal(policy.agents.state_dict()[key].numpy(), array)
    assert not any(parameter.requires_grad for parameter in policy.agents.parameters())
    assert all(parameter.requires_grad for parameter in algorithm.trained_parameters())
    other = build(name, ensemble={"agents": 2}).float().policy_weights()
    with pytest.raises(RuntimeError, match="size mismatch"):
        policy.load_weights(other)
    with pytest.raises(RuntimeError, match="Missing key"):
        policy.load_weights({key: array for key, array in weights.items() if key != "fc2.bias"})


# -- exploration -------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seed=seeds, epsilon=st.floats(0, 1), actions=st.integers(1, 6))
def test_only_available_actions_are_drawn(seed: int, epsilon: float, actions: int) -> None:
    rng = np.random.default_rng(seed)
    avail = random_avail(rng, (20, 3), actions)
    greedy = np.where(avail, rng.random(avail.shape), -1).argmax(-1)
    chosen = explore(greedy, avail, rng, epsilon)
    assert np.take_along_axis(avail, chosen[..., None], -1).all()
    assert chosen.shape == greedy.shape and chosen.dtype == np.int64


def test_random_actions_are_uniform_and_as_frequent_as_epsilon() -> None:
    """A million draws: within five standard deviations of what is due."""
    rng, rows = np.random.default_rng(0), 500_000
    avail = np.zeros((rows, 2, 5), np.bool_)
    avail[:, 0, [1, 2, 4]] = True
    avail[:, 1, [0, 3]] = True
    greedy = np.broadcast_to(np.array([4, 0]), (rows, 2)).copy()
    chosen = explore(greedy, avail, rng, 0.3)
    for agent, due in ((0, {1: 0.1, 2: 0.1, 4: 0.8}), (1, {0: 0.85, 3: 0.15})):
        for action in range(5):
            share, p = (chosen[:, agent] == action).mean(), due.get(action, 0.0)
            assert abs(share - p) <= 5 * np.sqrt(p * (1 - p) / rows), (agent, action)
    # Agents explore independently of each other.
    both = ((chosen[:, 0] != 4) & (chosen[:, 1] != 0)).mean()
    assert both == pytest.approx(0.2 * 0.15, abs=5 * np.sqrt(0.03 / rows))


def test_no_exploration_draws_nothing() -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    greedy = np.array([[2, 0, 1]])
    np.testing.assert_array_equal(explore(greedy, np.ones((1, 3, 4), np.bool_), rng, 0.0), greedy)
    assert rng.bit_generator.state == before


@settings(max_examples=20)
@given(seed=seeds, epsilon=st.floats(1e-6, 1))
def test_what_is_drawn_depends_on_the_shape_alone(seed: int, epsilon: float) -> None:
    """Neither on ε nor on what is available: a run's randomness stays in step."""
    first, second = np.random.default_rng(seed), np.random.default_rng(seed)
    everything = np.ones((4, 3, 5), np.bool_)
    greedy = np.zeros((4, 3), np.int64)
    explore(greedy, everything, first, epsilon)
    explore(greedy + 1, random_avail(np.random.default_rng(seed), (4, 3), 5), second, 1.0)
    assert first.bit_generator.state == second.bit_generator.state


def test_a_random_action_is_remembered_as_the_last_action() -> None:
    _, policy = algorithm_and_policy()
    obs, avail = observations(7, 5)
    state, rng = policy.initial_state(E), np.random.default_rng(3)
    for o, a in zip(obs, avail, strict=True):
        actions = policy.act(o, state, a, rng, 1.0)
        remembered = state.inputs[..., SPEC.obs_dim : SPEC.obs_dim + A]
        np.testing.assert_array_equal(remembered, np.eye(A, dtype=np.float32)[actions])
