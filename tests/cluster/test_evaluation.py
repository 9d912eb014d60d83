from __future__ import annotations

import numpy as np
import pytest

from phalanx.algorithms.registry import make_algorithm
from phalanx.cluster.evaluation import EvaluationResult, Evaluator
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import RunFailed
from phalanx.configs.load import run_from_dict
from phalanx.configs.noise_settings import NoiseSettings
from phalanx.configs.settings import RunSettings
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from tests.cluster import fakes


def run_of(episodes: int, seed: int = 0) -> RunSettings:
    return fakes.settings(seed=seed, evaluation={"episodes": episodes})


def evaluator(run: RunSettings) -> Evaluator:
    made = Evaluator(run)
    made.set_weights(make_algorithm(run, made.spec).policy_weights(), 12)
    return made


def seeds(run_seed: int, episodes: int) -> list[int]:
    """Of the episodes in the order of the result."""
    envs = min(episodes, 64)
    found = []
    for e in range(envs):
        own = EpisodeSeeds(run_seed, Purpose.EVALUATION, e)
        found += [next(own) for _ in range(episodes // envs + (e < episodes % envs))]
    return found


@pytest.mark.parametrize("episodes", [1, 3, 64, 65, 150])
def test_exactly_these_episodes_in_their_order(monkeypatch: pytest.MonkeyPatch, episodes: int) -> None:
    made = fakes.install(monkeypatch)
    result = evaluator(run_of(episodes, seed=5)).evaluate()
    assert made[0].num_envs == min(episodes, 64)
    lengths = np.array([fakes.episode_length(seed) for seed in seeds(5, episodes)])
    np.testing.assert_array_equal(result.lengths, lengths)
    np.testing.assert_array_equal(result.returns, lengths * (lengths + 1) / 2)
    np.testing.assert_array_equal(result.metrics["ticks"], lengths)
    assert result.wins is not None
    np.testing.assert_array_equal(result.wins, [seed % 3 == 0 for seed in seeds(5, episodes)])
    assert result.greedy_joint_action is None


def test_evaluations_repeat_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fakes.install(monkeypatch)
    judge = evaluator(run_of(10))
    first, again, other = judge.evaluate(), judge.evaluate(), judge.evaluate(seed=1)
    np.testing.assert_array_equal(first.lengths, again.lengths)
    assert (first.lengths != other.lengths).any()
    assert judge.version == 12 and len(made) == 1
    assert len(judge.evaluate(4).returns) == 4 and made[0].closed  # another number of environments
    with pytest.raises(ValueError, match="at least one episode"):
        judge.evaluate(0)


def test_crashed_episodes_are_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, crash_every=5)
    result = evaluator(run_of(20)).evaluate()
    assert np.isfinite(result.returns).all() and len(result.returns) == 20
    fakes.install(monkeypatch, crash_every=1)
    with pytest.raises(RunFailed, match="crashed"):
        evaluator(run_of(20)).evaluate()


def test_returns_are_told_without_the_noise_on_the_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, noise=NoiseSettings(reward_gaussian=5.0))
    result = evaluator(run_of(9)).evaluate()
    np.testing.assert_array_equal(result.returns, result.lengths * (result.lengths + 1) / 2)


def test_rewards_that_are_not_finite_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, poison=("reward", 2, 0))
    with pytest.raises(RunFailed, match="add up to nan in evaluation environment 2"):
        evaluator(run_of(5)).evaluate()


def test_a_matrix_game_shows_its_greedy_joint_action() -> None:
    run = run_from_dict({"mode": "sync", "env": {"name": "matrix"}, "algorithm": {"name": "vdn"}}, catalogue=CATALOGUE)
    judge = evaluator(run)
    result = judge.evaluate(3)
    assert result.greedy_joint_action is not None and len(result.greedy_joint_action) == judge.spec.n_agents
    assert all(type(action) is int and 0 <= action < judge.spec.n_actions for action in result.greedy_joint_action)
    judge.close()


def test_means_over_episodes() -> None:
    result = EvaluationResult(
        returns=np.array([1, 3], np.float32),
        lengths=np.array([5, 6]),
        wins=np.array([True, False]),
        metrics={"contacts": np.array([2, 0], np.float32)},
    )
    row = result.as_metrics()
    assert row["eval/return_mean"] == 2 and row["eval/return_std"] == 1
    assert row["eval/win_rate"] == 0.5 and row["eval/contacts_mean"] == 1
