"""Every value-mixing method in every small environment, what is refused, and that no setting is dead; the other
families' files ask the same of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from phalanx.algorithms.base import Capabilities, require_compatible
from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.algorithms.registry import algorithm_class, algorithm_settings, make_algorithm, make_policy
from phalanx.algorithms.vdn import UnmixedSettings
from phalanx.cluster.learner import Learner
from phalanx.cluster.rollout import Rollout
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.configs.settings import RunSettings
from phalanx.envs.team import TeamSpec
from tests.algorithms.helpers import NAMES, SPEC

ENVS: dict[str, dict[str, Any]] = {
    "matrix": {"name": "matrix", "max_steps": 3},
    "simple_spread": {"name": "simple_spread", "max_steps": 5},
    "simple_tag": {"name": "simple_tag", "max_steps": 5},
    "stag_hunt": {"name": "stag_hunt", "max_steps": 5, "size": 4, "agents": 2, "prey": 2},
}
SMALL: dict[str, Any] = {
    "mode": "sync",
    "agent": {"hidden": 8},
    "mixer": {"embed": 4, "hypernet": 6},
    "learner": {"batch_episodes": 4, "device": "cpu"},
    "replay": {"capacity_episodes": 8, "min_episodes": 4},
    "rollout": {"streams": 1, "envs_per_stream": 4},
}


def run_of(algorithm: dict[str, Any] | str, env: str = "simple_spread", **sections: Any) -> RunSettings:
    algorithm = {"name": algorithm} if isinstance(algorithm, str) else algorithm
    return run_from_dict({**SMALL, "env": ENVS[env], "algorithm": algorithm, **sections}, catalogue=CATALOGUE)


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_learns_in_every_environment(name: str, env: str) -> None:
    """From episodes that its own policy played: three updates, finite and not without effect."""
    run = run_of(name, env)
    rollout = Rollout(run, [0])
    learner = Learner(run, rollout.spec)
    before = {key: tensor.clone() for key, tensor in learner.algorithm.state_dict().items()}
    batches: list[EpisodeBatch] = []
    for sequence in range(3):
        weights, version = learner.weights()
        rollout.set_weights(weights, version)
        chunk = rollout.play_round(0, sequence, 0.5)
        assert chunk.weights_version == sequence and chunk.episodes == 4
        batches.append(chunk.batch)
        assert learner.update([chunk.batch]) == sequence + 1
    rollout.close()
    metrics = learner.metrics()
    assert {"train/loss_td", "train/q_taken_mean", "train/target_mean", "train/grad_norm"} <= set(metrics)
    if metrics["train/return_scale"] == 0:  # nobody caught anything: there is no unit to measure in
        assert np.isnan(metrics.pop("train/overestimation_relative"))
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert metrics["train/grad_norm"] > 0
    for key, tensor in learner.algorithm.state_dict().items():
        assert tensor.isfinite().all(), key
        # 200 updates lie between copies of the targets. In a matrix game some inputs are always 0: compare modules.
        if key.startswith("target_"):
            assert torch.equal(tensor, before[key]), key
    for module, part in learner.algorithm.named_children():
        changed = [
            key for key in part.state_dict() if not torch.equal(part.state_dict()[key], before[f"{module}.{key}"])
        ]
        assert bool(changed) == (not module.startswith("target_") and bool(part.state_dict())), module


def test_the_same_seed_gives_the_same_algorithm() -> None:
    """And leaves torch's own generator as it was."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (make_algorithm(run_of("demar", seed=seed), SPEC).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


def test_demar_with_one_of_each_learns_like_qmix_to_the_bit() -> None:
    plain = {"name": "demar", "ensemble": {"agents": 1, "mixers": 1}, "regulariser": {"alpha": 0}}
    states = []
    for algorithm in ({"name": "qmix", "target_update_updates": 2}, {**plain, "target_update_updates": 2}):
        run = run_of(algorithm)
        rollout = Rollout(run, [0])
        learner = Learner(run, rollout.spec)
        for sequence in range(5):
            rollout.set_weights(*learner.weights())
            learner.update([rollout.play_round(0, sequence, 0.5).batch])
        rollout.close()
        states.append(learner.algorithm.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_policy_is_built_without_a_learner() -> None:
    for name in NAMES:
        run = run_of(name)
        weights = make_algorithm(run, SPEC).policy_weights()
        policy = make_policy(run, SPEC)
        policy.load_weights(weights)
        state = policy.initial_state(2)
        obs, avail = np.zeros((2, 3, 4), np.float32), np.ones((2, 3, 4), np.bool_)
        assert policy.act(obs, state, avail, np.random.default_rng(0), 0.0).shape == (2, 3)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ({"name": "demar", "ensemble": {"agents": 3, "agents_subset": 4}}, ["agents_subset=4", "ensemble.agents", "3"]),
        ({"name": "demar", "ensemble": {"mixers": 2, "mixers_subset": 3}}, ["mixers_subset=3", "ensemble.mixers", "2"]),
        ({"name": "qmix", "ensemble": {"mixers_subset": 2}}, ["mixers_subset=2"]),
        ({"name": "vdn", "ensemble": {"mixers": 2}}, ["vdn", "no mixing network", "mixers=2"]),
        ({"name": "iql", "regulariser": {"alpha": 0.1}}, ["iql", "no mixing network", "alpha=0.1"]),
        ({"name": "vdn", "adaptive": {"enabled": True}}, ["vdn", "no mixing network", "adaptive.enabled"]),
        ({"name": "demar", "adaptive": {"gap_low": 2}}, ["adaptive.gap_low=2.0", "adaptive.gap_high=0.5"]),
        ({"name": "qmixx"}, ["qmixx", "qmix"]),
        ({"name": "ow-qmix"}, ["ow-qmix", "ow_qmix"]),
        ({"name": "ow_qmix", "double_q": False}, ["double_q"]),
        ({"name": "ow_qmix", "central": {"mixer": "attn"}}, ["attn", "atten"]),
        ({"name": "ow_qmix", "weighting": {"alpha": 0}}, ["alpha"]),
        ({"name": "qmix", "weighting": {"alpha": 0.5}}, ["weighting"]),
        ({"name": "qmix", "gamma": 1.5}, ["gamma", "1.5"]),
        ({"name": "qmix", "target_update_updates": 0}, ["target_update_updates"]),
        ({"name": "qmix", "target_update": "polyak"}, ["target_update", "polyak", "hard, soft"]),
        ({"name": "qmix", "target_tau": 0}, ["target_tau"]),
        ({"name": "qmix", "targets": "lambda"}, ["targets", "td0, n_step, td_lambda, peng_lambda"]),
        ({"name": "qmix", "target_lambda": 1.5}, ["target_lambda", "1.5", "from 0", "to 1"]),
        ({"name": "qmix", "target_lambda": -0.1}, ["target_lambda", "-0.1"]),
        ({"name": "qmix", "target_steps": 0}, ["target_steps"]),
        ({"name": "qmix", "loss": "huber", "huber_delta": 0}, ["huber_delta"]),
        ({"name": "qmix", "ensemble": {"agents": 0}}, ["agents"]),
    ],
)
def test_wrong_settings_are_refused_by_name(algorithm: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        run_of(algorithm)
    for word in words:
        assert word in str(error.value), error.value


def test_an_unknown_algorithm_comes_with_the_nearest_name() -> None:
    for lookup in (algorithm_class, algorithm_settings):
        with pytest.raises(UserError, match=r"algorithm\.name=dema is not one of iql, vdn, .*; did you mean demar\?"):
            lookup("dema")
        with pytest.raises(UserError, match=r"algorithm\.name=zzzzz is not one of [^;]*$"):
            lookup("zzzzz")


def continuous(spec: TeamSpec) -> TeamSpec:
    return replace(spec, discrete=False, n_actions=0, action_dims=(2, 2, 2), env_name="somewhere")


@pytest.mark.parametrize("name", NAMES)
def test_continuous_actions_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"algorithm.name={name} needs discrete actions, but somewhere has continuous"):
        make_algorithm(run_of(name), continuous(SPEC))


@pytest.mark.parametrize("name", NAMES)
def test_mixing_without_a_state_is_refused(name: str) -> None:
    spec = replace(SPEC, state_dim=0)
    if name in ("vdn", "iql"):
        make_algorithm(run_of(name), spec)
        return
    does = "values joint actions by" if name == "qtran_base" else "mixes with"
    sentence = f"algorithm.name={name} {does} the global state, but nowhere has none: .* such as vdn"
    with pytest.raises(UserError, match=sentence):
        make_algorithm(run_of(name), spec)


def test_capabilities_decide_what_is_compatible(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = algorithm_class("vdn")
    require_compatible(kind, "vdn", SPEC)
    monkeypatch.setattr(kind, "capabilities", Capabilities(discrete=False, continuous=True))
    require_compatible(kind, "vdn", continuous(SPEC))
    with pytest.raises(UserError, match="=vdn needs continuous actions, but nowhere has discrete ones"):
        require_compatible(kind, "vdn", SPEC)


# -- no setting is dead ------------------------------------------------------------------------------------------------

# Another value for every setting; and, where it takes others to have an effect, what both runs have besides.
OTHER: dict[str, Any] = {
    "lr": 2e-3,
    "gamma": 0.5,
    "optimiser": "adam",
    "grad_norm_clip": 1e-3,
    "double_q": False,
    "targets": "td_lambda",
    "target_steps": 2,
    "target_lambda": 0.3,
    "loss": "huber",
    "huber_delta": 0.1,
    "target_update": "soft",
    "target_update_updates": 2,
    "target_tau": 0.3,
    "ensemble.agents": 2,
    "ensemble.agents_subset": 1,
    "ensemble.mixers": 3,
    "ensemble.mixers_subset": 1,
    "regulariser.alpha": 0.3,
    "weighting.alpha": 0.9,
    "central.mixer": "atten",
    "central.embed": 5,
    "softmax": False,
    "softmax_beta": 2.0,
    "penalty_lambda": 0.5,
    "phi": 0.3,
    "sm2_alpha": 0.1,
    "sm2_omega": 3.0,
    "snapshots": 2,
    "joint_embed": 5,
    "opt_weight": 0.3,
    "nopt_weight": 0.9,
    "adaptive.enabled": True,
    "adaptive.every_updates": 2,
    "adaptive.smoothing": 0.1,
    "adaptive.gap_high": 1000.0,
    "adaptive.gap_low": 999.0,
    "adaptive.sensitivity_low": 1000.0,
    "adaptive.alpha_factor": 1.5,
    "adaptive.alpha_min": 0.0049,
    "adaptive.alpha_max": 0.0051,
    "adaptive.subset_step": 0.3,
    "adaptive.release": 1.0,
}
OTHER_FOR = {
    ("re_qmix", "softmax"): True,
    ("sub_avg_qmix", "double_q"): True,
    ("demar", "ensemble.mixers"): 2,
}  # whose files say what is above
ADAPTIVE: dict[str, Any] = {
    "ensemble": {"agents": 3, "agents_subset": 2, "mixers": 3, "mixers_subset": 2},
    "regulariser": {"alpha": 0.005},
    "adaptive": {"every_updates": 1, "gap_low": -1000.0, "gap_high": -1000.0},  # pessimism grows
}
BESIDES: dict[str, dict[str, Any]] = {
    "double_q": {"lr": 0.05},  # until the online and the target networks prefer different actions
    "target_steps": {"targets": "n_step"},
    "target_lambda": {"targets": "peng_lambda"},
    "loss": {"huber_delta": 0.1},
    "huber_delta": {"loss": "huber"},
    "target_tau": {"target_update": "soft"},
    "ensemble.agents_subset": {"ensemble": {"agents": 3}},
    "ensemble.mixers_subset": {"ensemble": {"mixers": 3}},
    "snapshots": {"target_update_updates": 1},
    "adaptive.enabled": ADAPTIVE,
    **{
        f"adaptive.{key}": {**ADAPTIVE, "adaptive": {**ADAPTIVE["adaptive"], "enabled": True, **changes}}
        for key, changes in {
            "every_updates": {},
            "smoothing": {},
            "gap_high": {},
            "gap_low": {"gap_high": 1000.0},
            "sensitivity_low": {},
            "alpha_factor": {},
            "alpha_min": {"gap_low": 1000.0, "gap_high": 1000.0},
            "alpha_max": {},
            "subset_step": {},
            "release": {"gap_low": 1000.0, "gap_high": 1000.0},
        }.items()
    },
}
ONE_VALUE = {
    *((name, "double_q") for name in ("ow_qmix", "cw_qmix", "res", "s_qmix", "re_qmix", "sm2_qmix", "qtran_base")),
    ("sub_avg_qmix", "target_update"),
}
ELSEWHERE = {
    ("res", "softmax_over"),  # here all actions are available
    ("sub_avg_qmix", "target_tau"),  # of soft updates, which it refuses
}  # see test_methods_more.py
NEED_A_MIXER = {"ensemble.mixers", "ensemble.mixers_subset", "regulariser.alpha"} | {
    key for key in OTHER if key.startswith("adaptive.")
}
WITHOUT = {name for name in NAMES if issubclass(algorithm_settings(name), UnmixedSettings)}
UNMIXED = {(name, key) for name in WITHOUT for key in NEED_A_MIXER}  # refused: see above
# The rule is the same everywhere: that it can be switched on is asked of every method, the rest of one.
ONE_RULE = {
    (name, key)
    for name in set(NAMES) - {"demar"}
    for key in OTHER
    if key.startswith("adaptive.") and key != "adaptive.enabled"
}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as a dotted path with its type."""
    for field, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{field}.")
        elif f"{prefix}{field}" != "name":
            yield f"{prefix}{field}", kind


def with_value(settings: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    inner = with_value(settings.get(head, {}), rest, value) if rest else value
    return {**settings, head: inner}


@pytest.fixture(scope="module")
def episodes() -> tuple[TeamSpec, list[EpisodeBatch]]:
    rollout = Rollout(run_of("vdn"), [0])
    played = [rollout.play_round(0, sequence, 1.0).batch for sequence in range(5)]
    rollout.close()
    return rollout.spec, played


def learned(run: RunSettings, episodes: tuple[TeamSpec, list[EpisodeBatch]]) -> dict[str, torch.Tensor]:
    learner = Learner(run, episodes[0])
    learner.update(episodes[1])
    return learner.algorithm.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[key].shape == second[key].shape and torch.equal(first[key], second[key]) for key in first
    )


# s_qmix and re_qmix are res by other defaults.
METHODS = [name for name in NAMES if name not in ("s_qmix", "re_qmix")]
SETTINGS = [(name, path) for name in METHODS for path, _ in leaves(algorithm_settings(name))]
SETTINGS += [("s_qmix", "softmax_beta"), ("s_qmix", "penalty_lambda"), ("re_qmix", "softmax")]


@pytest.mark.parametrize(("name", "path"), sorted(set(SETTINGS) - ONE_VALUE - UNMIXED - ONE_RULE - ELSEWHERE))
def test_every_setting_changes_what_is_learned(
    name: str, path: str, episodes: tuple[TeamSpec, list[EpisodeBatch]]
) -> None:
    assert path in OTHER, f"{path} is new: say here which other value to try"
    besides = {"name": name, **BESIDES.get(path, {})}
    if name.endswith("w_qmix") and (path.startswith("adaptive.") or path.endswith("_subset")):
        besides["central"] = {"mixer": "none"}  # Q̂* bootstraps from itself: the ensembles' minimum is not asked for
    other = OTHER_FOR.get((name, path), OTHER[path])
    plain, changed = run_of(besides), run_of(with_value(besides, path, other))
    assert plain.algorithm != changed.algorithm
    first, again, differently = (learned(run, episodes) for run in (plain, plain, changed))
    repeatable, effective = same(first, again), not same(first, differently)
    assert repeatable and effective


def test_adam_takes_the_learning_rate(episodes: tuple[TeamSpec, list[EpisodeBatch]]) -> None:
    adam = {"name": "vdn", "optimiser": "adam"}
    slow, fast = (learned(run_of({**adam, "lr": lr}), episodes) for lr in (1e-5, 1e-2))
    start = make_algorithm(run_of(adam), episodes[0]).state_dict()
    moved = [(end["agents.fc2.bias"] - start["agents.fc2.bias"]).abs().max().item() for end in (slow, fast)]
    assert 0 < moved[0] <= 5.1e-5 and 1e-2 < moved[1] <= 5.1e-2  # Adam's steps are about as long as lr


def test_what_is_left_out_above_has_one_value_only() -> None:
    for name, path in ONE_VALUE:
        kind = dict(leaves(algorithm_settings(name)))[path]
        assert get_origin(kind) is Literal and len(get_args(kind)) == 1


@pytest.mark.parametrize("section", ["agent.hidden", "mixer.embed", "mixer.hypernet"])
@pytest.mark.parametrize("name", NAMES)
def test_network_sizes_reach_the_networks(name: str, section: str) -> None:
    """Another width gives other shapes, wherever there is such a network."""
    key, field = section.split(".")
    shapes = [
        {k: v.shape for k, v in make_algorithm(run, SPEC).state_dict().items()}
        for run in (run_of(name), run_of(name, "simple_spread", **{key: {**SMALL[key], field: 11}}))
    ]
    assert (shapes[0] == shapes[1]) == (name in WITHOUT and key == "mixer")
