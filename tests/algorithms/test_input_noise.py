"""DEMAR's noise: where it is added, who sees the same, who draws it, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from phalanx.algorithms.base import Algorithm
from phalanx.algorithms.common.diagnostics import team_diversity
from phalanx.algorithms.common.noise import noisy
from phalanx.algorithms.registry import ALGORITHMS, algorithm_class, algorithm_settings, make_algorithm, make_policy
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.configs.errors import UserError
from phalanx.configs.noise_settings import NoiseSettings
from phalanx.configs.settings import AgentSettings, EnvSettings, RunSettings
from phalanx.envs.registry import env_settings
from tests.algorithms.helpers import SPEC, doubles, random_batch

SCALE = 0.02
ABLE = [name for name in ALGORITHMS if algorithm_class(name).capabilities.input_noise]


def run_of(name: str, demar: float = SCALE, **algorithm: Any) -> RunSettings:
    return RunSettings(
        env=EnvSettings(name="nowhere", noise=NoiseSettings(demar=demar)),
        algorithm=algorithm_settings(name).model_validate({"name": name, **algorithm}),
    )


def build(name: str, demar: float = SCALE, **algorithm: Any) -> ValueMixing:
    found = make_algorithm(run_of(name, demar, **algorithm), SPEC)
    assert isinstance(found, ValueMixing)
    return found.double()


def test_the_numbers_are_uniform_one_sided_and_from_the_generator() -> None:
    clean = torch.zeros(400, 500)
    found = noisy(clean, SCALE, np.random.default_rng(3))
    assert not clean.any()
    assert found.min() >= 0 and found.max() < SCALE
    assert np.histogram(found, bins=10, range=(0, SCALE))[0].min() > 0.098 * found.numel()
    assert torch.equal(found, noisy(clean, SCALE, np.random.default_rng(3)))
    rng = np.random.default_rng(3)
    assert noisy(clean, 0.0, rng) is clean
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize("name", ABLE)
def test_an_update_sees_noise_on_everything_and_stores_none(name: str) -> None:
    algorithm, clean = build(name), build(name, 0.0)
    batch = doubles(random_batch(1, (6, 4, 6)))
    kept = batch.obs.clone(), batch.state.clone()
    one, plain = (each.prepare(batch, np.random.default_rng(5)) for each in (algorithm, clean))
    assert torch.equal(batch.obs, kept[0]) and torch.equal(batch.state, kept[1])
    assert plain.target_state is plain.state
    added: list[Tensor] = [one.inputs - plain.inputs, one.state - plain.state, one.target_state - plain.state]
    for numbers in added:
        assert numbers.min() > -1e-9 and numbers.max() < SCALE and numbers.max() > 0.9 * SCALE
        assert (numbers > 0).double().mean() > 0.99  # padding, last actions and ids included
    assert not torch.equal(added[1], added[2])  # the target mixers' own
    loss, _ = algorithm.loss(one)
    assert torch.isfinite(loss)
    again = algorithm.prepare(batch, np.random.default_rng(5))
    assert torch.equal(again.inputs, one.inputs) and torch.equal(again.target_values, one.target_values)
    other = algorithm.prepare(batch, np.random.default_rng(6))
    assert not torch.equal(other.target_values, one.target_values)


def test_torchs_own_generator_is_left_alone() -> None:
    algorithm, batch = build("qmix"), doubles(random_batch(1, (6, 4)))
    before = torch.random.get_rng_state()
    algorithm.loss(algorithm.prepare(batch, np.random.default_rng(0)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_all_members_of_an_ensemble_see_the_same() -> None:
    """Equal members stay equal: were the noise each one's own, their values would differ."""
    algorithm = build("demar", ensemble={"agents": 3, "mixers": 2})
    for network in (algorithm.agents, algorithm.mixer, algorithm.target_agents, algorithm.target_mixer):
        for parameter in network.parameters():
            parameter.data[:] = parameter.data[:1]
    terms = algorithm.terms(algorithm.prepare(doubles(random_batch(1, (6, 4))), np.random.default_rng(0)))
    for values in (terms.values, terms.q_tot, terms.prepared.target_values, terms.greedy_values):
        torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_a_playing_team_draws_its_noise_from_the_streams_generator(epsilon: float) -> None:
    run = run_of("qmix", 3.0)  # so much that it decides
    weights = make_algorithm(run, SPEC).policy_weights()
    obs = np.random.default_rng(0).normal(size=(5, SPEC.n_agents, SPEC.obs_dim)).astype(np.float32)
    avail = np.ones((5, SPEC.n_agents, SPEC.n_actions), np.bool_)

    def play(seed: int, demar: float = 3.0) -> np.ndarray:
        policy = make_policy(run_of("qmix", demar), SPEC)
        policy.load_weights(weights)
        state, rng = policy.initial_state(5), np.random.default_rng(seed)
        return np.array([policy.act(obs, state, avail, rng, epsilon) for _ in range(20)])

    np.testing.assert_array_equal(play(1), play(1))
    assert (play(1) != play(2)).any()
    assert (play(1) != play(1, demar=0.0)).any()


def test_last_actions_and_ids_stay_what_they_are() -> None:
    policy = make_policy(run_of("qmix"), SPEC)
    policy.load_weights(make_algorithm(run_of("qmix"), SPEC).policy_weights())
    state = policy.initial_state(2)
    avail = np.ones((2, SPEC.n_agents, SPEC.n_actions), np.bool_)
    for _ in range(3):
        actions = policy.act(
            np.zeros((2, SPEC.n_agents, SPEC.obs_dim), np.float32), state, avail, np.random.default_rng(0), 0.0
        )
    rest = state.inputs[..., SPEC.obs_dim :]
    np.testing.assert_array_equal(rest[..., : SPEC.n_actions], np.eye(SPEC.n_actions)[actions])
    np.testing.assert_array_equal(rest[..., SPEC.n_actions :], np.tile(np.eye(SPEC.n_agents), (2, 1, 1)))


def test_equal_policies_are_not_diverse_for_their_noise() -> None:
    run = run_of("vdn", 5.0)
    run = run.model_copy(update={"agent": AgentSettings(sharing="full", hidden=8)})
    algorithm = make_algorithm(run, SPEC)
    assert isinstance(algorithm, ValueMixing)
    algorithm.double()
    for parameter in algorithm.parameters():
        parameter.data.uniform_(-1, 1)
    assert team_diversity(algorithm, doubles(random_batch(1, (6,) * 9))) == 0
    values = algorithm.terms(algorithm.prepare(doubles(random_batch(1, (6,) * 9)), np.random.default_rng(0))).values
    assert values.std() > 0


def test_a_method_without_such_noise_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: type[Algorithm] = algorithm_class("vdn")
    monkeypatch.setattr(kind, "capabilities", replace(kind.capabilities, input_noise=False))
    with pytest.raises(UserError, match=r"env\.noise\.demar=0\.02 .* algorithm\.name=vdn does.*obs_uniform.*qmix"):
        make_algorithm(run_of("vdn"), SPEC)
    make_algorithm(run_of("vdn", 0.0), SPEC)


def test_the_environment_stays_clean() -> None:
    from phalanx.envs.noise import Noise
    from phalanx.envs.registry import make_env

    settings = env_settings("two_step")(name="two_step", noise=NoiseSettings(demar=SCALE))
    assert not isinstance(make_env(settings, 1), Noise)
