from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from phalanx.algorithms.base import TensorBatch
from phalanx.algorithms.common import diagnostics
from phalanx.algorithms.registry import make_algorithm
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.cluster.metrics import FIGURES
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.load import load_run
from phalanx.envs.registry import make_env
from phalanx.envs.team import TeamSpec
from tests.algorithms.helpers import MIXING, NAMES, SPEC, build, doubles, random_batch, terms, with_garbage

LENGTHS = [3, 1, 6, 5]


def figures(algorithm: ValueMixing, batch: Any) -> dict[str, float]:
    return {name: float(value) for name, value in algorithm.diagnostics(doubles(batch)).items()}


def mask_of(*rows: str) -> Tensor:
    """[T, B] from one string for each episode: x where something is learned from."""
    return torch.tensor([[letter == "x" for letter in row] for row in rows]).t()


# -- values against returns --------------------------------------------------------------------------------------------


def test_returns_end_with_the_episode() -> None:
    reward = torch.tensor([[1.0, 2.0, 4.0], [3.0, 100.0, 100.0]]).t()
    returns = diagnostics.episode_returns(reward, mask_of("xxx", "x  "), 0.5)
    assert returns.tolist() == [1 + 1 + 1, 3]


@pytest.mark.parametrize("garbage", [float("inf"), float("nan")])
def test_padding_may_hold_anything(garbage: float) -> None:
    reward = torch.tensor([[1.0, garbage]]).t()
    assert diagnostics.episode_returns(reward, mask_of("x "), 0.9).tolist() == [1.0]


def test_an_episode_that_was_cut_off_stands_for_what_bootstrapping_adds() -> None:
    reward = torch.tensor([[-2.0, -2.0], [5.0, 0.0]]).t()
    mask = mask_of("xx", "x ")
    ended = torch.tensor([[False, False], [True, False]]).t()
    # -2 for ever is -4 with γ = 1/2; the other episode is over
    assert float(diagnostics.return_scale(reward, ended, mask, 0.5)) == 5.0
    assert float(diagnostics.return_scale(reward[:, :1], ended[:, :1], mask[:, :1], 0.5)) == 4.0
    # what a padded step says of an end does not count
    beyond = torch.tensor([[False, True]]).t()
    assert float(diagnostics.return_scale(reward[:, :1], beyond, mask_of("x "), 0.5)) == 4.0
    # without a discount there is no such sum; the scale stays finite
    assert np.isfinite(float(diagnostics.return_scale(reward, ended, mask, 1.0)))


def test_overestimation_is_the_mean_over_episodes_and_members() -> None:
    q_tot = torch.tensor([[[5.0, 1.0]], [[7.0, 3.0]]])  # [H=2, T=1, B=2]
    reward, mask = torch.tensor([[4.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
    found = diagnostics.overestimation(q_tot, reward, mask, mask, 0.9)
    assert {name: float(value) for name, value in found.items()} == {
        "q_start_mean": 4.0,
        "mc_return_mean": 2.0,
        "overestimation": 2.0,
        "overestimation_relative": 0.5,
        "return_scale": 4.0,
    }


def test_without_any_reward_there_is_nothing_to_compare_with() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = diagnostics.overestimation(torch.ones(1, 1, 2), torch.zeros(1, 2), mask, mask, 0.9)
    assert torch.isnan(found["overestimation_relative"])
    assert (float(found["overestimation"]), float(found["return_scale"])) == (1.0, 0.0)


def test_td_errors_have_quantiles_over_valid_steps() -> None:
    errors = torch.tensor([[-1.0, 0.0, 1.0, 2.0, 99.0]]).t()[None]  # [1, T, 1]
    found = diagnostics.td_errors(errors, mask_of("xxxx "))
    assert float(found["td_error_abs_mean"]) == 1.0
    for name, at in diagnostics.QUANTILES.items():
        assert float(found[f"td_error_{name}"]) == pytest.approx(np.quantile([-1, 0, 1, 2], at))


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_quantiles_are_numpys(count: int) -> None:
    values = torch.from_numpy(np.random.default_rng(count).normal(size=count))
    shares = (0.0, 0.1, 0.5, 0.9, 1.0)
    found = [float(value) for value in diagnostics.quantiles(values, shares)]
    np.testing.assert_allclose(found, np.quantile(values.numpy(), shares), rtol=1e-12)


# -- the mixing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "settings"), [("qmix", {}), ("demar", {}), ("cw_qmix", {}), ("ow_qmix", {})])
def test_sensitivity_equals_autograd(name: str, settings: dict[str, Any]) -> None:
    algorithm = build(name, ensemble={"agents": 2, "mixers": 3}, **settings)
    batch = random_batch(1, LENGTHS)
    found, said = terms(algorithm, batch), figures(algorithm, batch)
    slopes = torch.stack([torch.autograd.grad(q.sum(), found.chosen, retain_graph=True)[0] for q in found.q_tot])
    valid = slopes[:, found.mask]  # [H, valid, N]
    assert said["dqtot_dqi_mean"] == pytest.approx(float(valid.mean()), rel=1e-9)
    for suffix, at in diagnostics.QUANTILES.items():
        expected = np.quantile(valid.numpy(), at)
        assert said[f"dqtot_dqi_{suffix}"] == pytest.approx(expected, rel=1e-9)
    assert said["bias_gain_mean"] == pytest.approx(float(valid.square().sum(-1).mean()), rel=1e-9)


def test_mixing_norms_add_up_to_the_regulariser() -> None:
    algorithm = build("demar", ensemble={"mixers": 3}, regulariser={"alpha": 1.0})
    batch = random_batch(2, [6, 6])  # no padding, which the regulariser counts
    batch.terminated[:] = False
    said = figures(algorithm, batch)
    parts = sum(said[f"mixing_{part}"] for part in ("w1", "w2", "b1", "v"))
    assert parts == pytest.approx(terms(algorithm, batch).losses["loss_reg"].item(), rel=1e-9)


# -- the ensembles -----------------------------------------------------------------------------------------------------


def test_spread_is_the_population_standard_deviation() -> None:
    values = torch.tensor([[[0.0, 5.0]], [[4.0, 7.0]]])  # [M=2, T=1, B=2]
    assert float(diagnostics.spread(values, mask_of("x", "x"))) == pytest.approx((2 + 1) / 2)
    assert float(diagnostics.spread(values, mask_of("x", " "))) == pytest.approx(2)


def test_agreement_counts_pairs_where_there_is_a_choice() -> None:
    values = torch.zeros(3, 1, 1, 3, 3)  # [K, T, B, N, A]
    values[0, ..., 0, 0] = values[1, ..., 0, 0] = values[2, ..., 0, 1] = 1.0  # two of three agree: one pair of three
    values[..., 1, 2] = 1.0  # all agree
    values[0, ..., 2, 0] = values[1, ..., 2, 1] = values[2, ..., 2, 2] = 1.0  # ... but this agent has no choice
    avail = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    avail[..., 2, 1:] = False
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert float(diagnostics.argmax_agreement(values, avail, mask)) == pytest.approx((1 / 3 + 1) / 2)
    avail[..., 1:] = False
    assert float(diagnostics.argmax_agreement(values, avail, mask)) == 1.0


@pytest.mark.parametrize("name", ["qmix", "demar", "cw_qmix"])
def test_members_that_are_alike_agree(name: str) -> None:
    central = {"central": {"mixer": "none"}} if name == "cw_qmix" else {}
    algorithm = build(name, ensemble={"agents": 2, "mixers": 2}, **central)
    batch = random_batch(3, LENGTHS)
    apart = figures(algorithm, batch)
    for figure in ("agents_spread", "mixers_spread", "target_spread"):
        assert apart[figure] > 1e-3
    assert apart["argmax_agreement"] < 1
    with torch.no_grad():
        for parameter in (*algorithm.agents.parameters(), *algorithm.mixer.parameters()):
            parameter[1] = parameter[0]
    algorithm.copy_targets()
    alike = figures(algorithm, batch)
    for figure in ("agents_spread", "mixers_spread", "target_spread"):
        assert alike[figure] == pytest.approx(0, abs=1e-12)
    assert alike["argmax_agreement"] == 1


def test_the_targets_members_are_pairs_of_an_agent_network_and_a_mixer() -> None:
    algorithm = build("demar", gamma=0.5, ensemble={"agents": 2, "mixers": 3})
    batch = random_batch(4, LENGTHS)
    found = terms(algorithm, batch)
    prepared, greedy = found.prepared, found.greedy
    each = []
    for values in prepared.target_values:
        best = values.gather(-1, greedy.unsqueeze(-1)).squeeze(-1)
        each.append(algorithm.mix(algorithm.target_mixer, best, prepared.target_mixing))
    following = torch.cat(each)[:, 1:]
    expected = 0.5 * following.std(0, correction=0)[found.mask & ~prepared.terminated].sum() / found.mask.sum()
    assert figures(algorithm, batch)["target_spread"] == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("name", ["vdn", "iql"])
def test_without_mixing_weights_and_ensembles_their_figures_are_missing(name: str) -> None:
    said = figures(build(name), random_batch(5, LENGTHS))
    assert set(said) == {
        *("q_start_mean", "mc_return_mean", "overestimation", "overestimation_relative", "return_scale"),
        *("td_error_abs_mean", "td_error_p10", "td_error_p50", "td_error_p90", "dead_units", "snd"),
    }
    more = figures(build(name, ensemble={"agents": 3}), random_batch(5, LENGTHS))
    assert set(more) - set(said) == {"agents_spread", "argmax_agreement", "target_spread"}


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_its_figures_and_padding_changes_none(name: str) -> None:
    mixing = name in MIXING
    algorithm = build(name, ensemble={"agents": 2, "mixers": 2} if mixing else {"agents": 2})
    batch = random_batch(6, LENGTHS)
    missing = {"agent_gradient_cosine"}
    if not mixing:
        missing |= {"mixers_spread", "bias_gain_mean", *(f"mixing_{part}" for part in ("w1", "w2", "b1", "v"))}
        missing |= {f"dqtot_dqi_{suffix}" for suffix in ("mean", "p10", "p50", "p90")}
    if name in ("ow_qmix", "cw_qmix"):
        missing.add("target_spread")  # the target comes from one unrestricted network
    assert set(figures(algorithm, batch)) == set(FIGURES) - missing
    clean, dirty = figures(algorithm, batch), figures(algorithm, with_garbage(batch, 7))
    assert dirty == pytest.approx(clean, rel=1e-9)


# -- the agents --------------------------------------------------------------------------------------------------------


def test_dead_units_by_hand() -> None:
    weight = torch.tensor([[[1.0], [-1.0], [0.0]], [[1.0], [1.0], [1.0]]])
    bias = torch.tensor([[0.0, 0.0, -1.0], [-5.0, -1.0, 0.0]])
    few = torch.tensor([[[2.0], [1.0]]])  # [1, R=2, I=1], for both layers
    # units: x > 0 lives; -x > 0 and 0 > 1 are dead; x > 5 is dead; x > 1 and x > 0 live
    assert float(diagnostics.dead_share(weight, bias, few)) == pytest.approx(3 / 6)
    more = torch.tensor([[[2.0], [-9.0]]])
    assert float(diagnostics.dead_share(weight, bias, more)) == pytest.approx(2 / 6)
    each_its_own = torch.tensor([[[-1.0]], [[9.0]]])
    assert float(diagnostics.dead_share(weight, bias, each_its_own)) == pytest.approx(2 / 6)


def test_a_unit_that_only_padding_activates_is_dead() -> None:
    algorithm = build("qmix")
    batch = random_batch(8, [2, 6])
    batch.obs[:] = 0
    batch.obs[0, 3:, :, 0] = 1.0  # never seen
    with torch.no_grad():
        algorithm.agents.fc1.weight[:] = 0
        algorithm.agents.fc1.bias[:] = -0.5
        algorithm.agents.fc1.bias[:, 0] = 1.0
        algorithm.agents.fc1.weight[:, 1, 0] = 1.0
    units = algorithm.agents.hidden
    assert figures(algorithm, batch)["dead_units"] == pytest.approx((units - 1) / units)
    batch.obs[1, 5, 1, 0] = 1.0
    assert figures(algorithm, batch)["dead_units"] == pytest.approx((units - 2) / units)


def test_dead_units_of_an_algorithm() -> None:
    algorithm = build("qmix", ensemble={"agents": 2})
    batch = random_batch(8, LENGTHS)
    with torch.no_grad():
        before = figures(algorithm, batch)["dead_units"]
        algorithm.agents.fc1.bias[:] = 100.0
        assert figures(algorithm, batch)["dead_units"] == 0
        algorithm.agents.fc1.bias[1] = -100.0
    assert figures(algorithm, batch)["dead_units"] == pytest.approx(0.5)
    assert before < 0.5


def test_jensen_shannon_distance_is_scipys() -> None:
    spatial = pytest.importorskip("scipy.spatial.distance")
    p, q = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 20))
    p[0, 0] = q[1, 2] = 0
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    found = diagnostics.jensen_shannon_distance(torch.from_numpy(p), torch.from_numpy(q))
    np.testing.assert_allclose(found, spatial.jensenshannon(p, q, base=2, axis=-1), rtol=1e-9)


def test_snd_is_zero_for_equal_and_one_for_opposite_policies() -> None:
    anything = torch.from_numpy(np.random.default_rng(1).dirichlet(np.ones(3), size=7))
    assert float(diagnostics.system_neural_diversity(anything.expand(4, -1, -1))) == pytest.approx(0, abs=1e-7)
    opposite = torch.eye(3).unsqueeze(1).expand(3, 5, 3)
    assert float(diagnostics.system_neural_diversity(opposite)) == 1.0
    two_alike = opposite[[0, 0, 1]]
    assert float(diagnostics.system_neural_diversity(two_alike)) == pytest.approx(2 / 3)


def ignore_ids(algorithm: ValueMixing) -> None:
    with torch.no_grad():
        algorithm.agents.fc1.weight[..., -SPEC.n_agents :] = 0


@pytest.mark.parametrize("name", ["qmix", "iql", "cw_qmix"])
def test_agents_that_cannot_tell_who_they_are_have_no_diversity(name: str) -> None:
    algorithm = build(name)
    batch = random_batch(9, LENGTHS)
    ignore_ids(algorithm)
    assert figures(algorithm, batch)["snd"] == 0


def test_agents_that_act_by_who_they_are_have_full_diversity() -> None:
    algorithm = build("vdn")
    batch = random_batch(9, LENGTHS)
    batch.avail[:] = True
    with torch.no_grad():  # units 0, 1, 2 of the GRU follow the id, actions 0, 1, 2 follow these units
        for parameter in algorithm.agents.parameters():
            parameter.zero_()
        unit = torch.arange(SPEC.n_agents)
        hidden = algorithm.agents.hidden
        algorithm.agents.fc1.weight[0, unit, -SPEC.n_agents + unit] = 1.0
        algorithm.agents.input_gates.weight[0, 2 * hidden + unit, unit] = 1.0
        algorithm.agents.fc2.weight[0, unit, unit] = 1.0
    assert figures(algorithm, batch)["snd"] == 1


def test_everybody_is_shown_one_agents_history() -> None:
    batch = doubles(random_batch(10, LENGTHS))
    shown = diagnostics.in_one_place(batch)
    for episode in range(len(LENGTHS)):
        for agent in range(SPEC.n_agents):
            source = episode % SPEC.n_agents
            assert torch.equal(shown.obs[episode, :, agent], batch.obs[episode, :, source])
            assert torch.equal(shown.actions[episode, :, agent], batch.actions[episode, :, source])
            assert torch.equal(shown.avail[episode, :, agent], batch.avail[episode, :, source])


# -- other networks ----------------------------------------------------------------------------------------------------

NETWORKS = [
    *(
        {"network": network, "sharing": sharing}
        for network in ("gru", "mlp")
        for sharing in ("full", "full_id", "none")
    ),
    *({"network": network} for network in ("hyper_linear", "hyper_mlp", "asn", "updet", "atm")),
]


def of_networks(agent: dict[str, Any], ensemble: int = 1) -> ValueMixing:
    """QMIX on simple_tag, which says what its entities are; single precision, initial weights."""
    overrides = [f"agent.{key}={value}" for key, value in {"hidden": 12, **agent}.items()]
    run = load_run("demar_tag", [*overrides, f"algorithm.ensemble.agents={ensemble}"], catalogue=CATALOGUE)
    algorithm = make_algorithm(run, tag_spec())
    assert isinstance(algorithm, ValueMixing)
    return algorithm


@functools.cache
def tag_spec() -> TeamSpec:
    return make_env(load_run("demar_tag", catalogue=CATALOGUE).env, 1).spec


@pytest.mark.parametrize("agent", NETWORKS, ids=lambda agent: "-".join(agent.values()))
def test_every_agent_network_has_its_figures(agent: dict[str, Any]) -> None:
    algorithm = of_networks(agent, ensemble=2)
    batch = TensorBatch.of(random_batch(14, [4, 2, 3], spec=tag_spec()), torch.device("cpu"))
    found = {name: float(value) for name, value in algorithm.diagnostics(batch).items()}
    assert all(np.isfinite(value) for value in found.values())
    missing = {"dead_units"} if agent["network"] in ("updet", "atm") else set()
    assert set(found) == set(FIGURES) - {"agent_gradient_cosine"} - missing
    assert missing or 0 <= found["dead_units"] < 1
    if agent.get("sharing") == "full":
        assert found["snd"] == 0
    elif agent.get("sharing") == "none" or agent["network"].startswith("hyper_"):
        assert 0 < found["snd"] <= 1
    cosine = float(diagnostics.gradient_cosine(algorithm, batch))
    if agent.get("sharing") == "none":
        assert cosine == pytest.approx(0, abs=1e-6)  # no parameter belongs to two agents
    else:
        assert -1 <= cosine <= 1


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vdn", "iql", "qmix", "demar", "res", "sm2_qmix", "wcu_qmix"])
def test_the_agents_gradients_add_up_to_the_whole(name: str) -> None:
    algorithm = build(name)
    batch = random_batch(11, LENGTHS)
    prepared = algorithm.prepare(doubles(batch), np.random.default_rng(0))
    parameters = tuple(algorithm.agents.parameters())
    rows = diagnostics.agent_gradients(lambda: algorithm.terms(prepared), parameters)
    assert len(rows) == SPEC.n_agents
    whole = torch.autograd.grad(algorithm.terms(prepared).total, parameters)
    torch.testing.assert_close(rows.sum(0), torch.cat([g.flatten() for g in whole]), rtol=1e-9, atol=1e-12)


def test_cosine_of_pairs() -> None:
    right, up = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    cosine = diagnostics.mean_pairwise_cosine
    assert float(cosine(torch.stack([right, 3 * right]))) == pytest.approx(1)
    assert float(cosine(torch.stack([right, -right]))) == pytest.approx(-1)
    assert float(cosine(torch.stack([right, up, -up]))) == pytest.approx(-1 / 3)
    assert float(cosine(torch.stack([right, torch.zeros(2), up]))) == pytest.approx(0)
    assert torch.isnan(cosine(torch.stack([right, torch.zeros(2)])))


def test_agents_in_one_place_pull_the_same_way() -> None:
    algorithm = build("vdn")
    ignore_ids(algorithm)
    batch = doubles(random_batch(12, LENGTHS))
    apart = float(diagnostics.gradient_cosine(algorithm, batch))
    together = float(diagnostics.gradient_cosine(algorithm, diagnostics.in_one_place(batch)))
    # the ids' columns of the first layer still have a gradient of their own for each agent
    assert -1 <= apart < together <= 1
    assert together > 0.5


@pytest.mark.parametrize("adaptive", [False, True])
def test_diagnostics_change_nothing_and_are_repeatable(adaptive: bool) -> None:
    ensemble = {"agents": 3, "agents_subset": 2, "mixers": 3, "mixers_subset": 2}
    algorithm = build("demar", ensemble=ensemble, adaptive={"enabled": adaptive, "every_updates": 1})
    batch = random_batch(13, LENGTHS)
    before = {name: tensor.clone() for name, tensor in algorithm.state_dict().items()}
    tensors = doubles(batch)
    copies = {f.name: getattr(tensors, f.name) for f in dataclasses.fields(tensors)}
    copies = {name: each.clone() for name, each in copies.items() if each is not None}
    first = {name: float(value) for name, value in algorithm.diagnostics(tensors).items()}
    assert {name: float(value) for name, value in algorithm.diagnostics(tensors).items()} == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in algorithm.state_dict().items())
    assert all(torch.equal(getattr(tensors, name), each) for name, each in copies.items())
    assert all(parameter.grad is None for parameter in algorithm.parameters())
