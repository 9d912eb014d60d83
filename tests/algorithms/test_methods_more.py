"""What defines RES, TD3-, WCU-, SM2-, Sub-AVG-QMIX and QTRAN, each against its definition written out step by step."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phalanx.algorithms import res
from phalanx.algorithms.common.batch import EpisodeBatch, empty_batch
from phalanx.algorithms.common.mixers import QMixer
from phalanx.algorithms.common.targets import UNAVAILABLE
from phalanx.algorithms.qtran_base import QTRANBase, QTRANTerms
from phalanx.algorithms.registry import algorithm_settings
from phalanx.algorithms.res import RES
from phalanx.algorithms.sm2_qmix import soft_mellowmax
from phalanx.algorithms.sub_avg_qmix import sub_average
from phalanx.algorithms.value_mixing import Terms, ValueMixing
from phalanx.configs.load import published_settings
from phalanx.configs.settings import NetworkSettings
from tests.algorithms.helpers import SPEC, assert_same, build, doubles, learned, random_batch, snapshot, terms
from tests.algorithms.test_methods import valid, values_of

seeds = st.integers(0, 2**31)
quick = settings(max_examples=15)


def shipped(name: str, **changes: Any) -> ValueMixing:
    """As its file configures it."""
    return build(name, **{**published_settings(name).data, **changes})


def mixed(mixer: Any, member: int, q: Any, state: Any) -> float:
    """Q_tot of one joint action by one mixer."""
    rows = torch.as_tensor(np.asarray(q))[None], torch.as_tensor(np.asarray(state)).double()[None]
    return float(mixer(*rows)[member, 0].detach())


# -- RES ---------------------------------------------------------------------------------------------------------------


def res_target_by_hand(algorithm: RES, batch: EpisodeBatch, found: Terms) -> None:
    """Every joint action of the set through the mixers, one after the other."""
    rule = algorithm.settings
    online, target = values_of(algorithm, batch, "agents").mean(0), values_of(algorithm, batch, "target_agents").min(0)
    for b, t in valid(batch):
        state, legal = batch.state[b, t + 1], batch.avail[b, t + 1]
        own = np.where(legal, online[b, t + 1], UNAVAILABLE)
        theirs = np.where(legal, target[b, t + 1], UNAVAILABLE)
        joints = []
        for n, a in itertools.product(range(3), range(4)):
            if legal[n, a] or rule.softmax_over == "all":
                joint = own.argmax(-1)
                joint[n] = a
                joints.append(joint)
        members = range(rule.ensemble.mixers)
        q = [np.mean([mixed(algorithm.mixer, h, own[range(3), joint], state) for h in members]) for joint in joints]
        shares = np.exp(rule.softmax_beta * (np.array(q) - max(q)))
        values = [
            np.dot(shares, [mixed(algorithm.target_mixer, h, theirs[range(3), joint], state) for joint in joints])
            for h in members
        ]
        y = float(batch.reward[b, t])
        if not batch.terminated[b, t]:
            y += 0.99 * min(values) / shares.sum()
        assert found.target[t, b].item() == pytest.approx(y, rel=1e-9)


@pytest.mark.parametrize("over", ["available", "all"])
@pytest.mark.parametrize("members", [1, 2])
def test_res_by_brute_force(over: str, members: int) -> None:
    ensemble = {"agents": members, "mixers": members}
    algorithm = build("res", seed=members, softmax_over=over, softmax_beta=2.0, penalty_lambda=0.3, ensemble=ensemble)
    assert isinstance(algorithm, RES)
    batch = random_batch(members, [4, 2])
    found = terms(algorithm, batch)
    res_target_by_hand(algorithm, batch, found)
    distances = []
    for b, t in valid(batch):
        rest = batch.reward[b, t : batch.lengths[b]]
        followed = sum(0.99**k * float(reward) for k, reward in enumerate(rest))  # nothing is added where it was cut
        distances += [(found.q_tot[h, t, b].item() - followed) ** 2 for h in range(members)]
    assert found.losses["loss_return"].item() == pytest.approx(0.3 * np.mean(distances), rel=1e-9)


def test_res_with_one_action_and_no_penalty_is_qmix() -> None:
    spec = replace(SPEC, n_actions=1, action_dims=(1, 1, 1))
    batch = random_batch(3, [4, 2, 6], spec)
    softmax = learned(build("res", spec=spec, penalty_lambda=0, softmax_beta=5.0), batch)
    assert_same(softmax, learned(build("qmix", spec=spec), batch), 1e-12)
    assert learned(build("res", spec=spec, penalty_lambda=0.1), batch)[0] > softmax[0]


def test_a_hot_softmax_is_a_mean_and_a_cold_one_the_best() -> None:
    batch = random_batch(1, [5, 6])
    for beta, cold in ((1e-9, False), (1e9, True)):
        algorithm = build("res", softmax_beta=beta)
        assert isinstance(algorithm, RES)
        found = terms(algorithm, batch)
        online, target, weight = algorithm.counterfactuals(found)
        assert torch.allclose(weight.sum((-2, -1)), torch.ones(()).double())
        legal = found.prepared.avail
        if cold:
            assert torch.allclose((weight * online).sum((-2, -1)), online.masked_fill(~legal, -1e9).amax((-2, -1)))
        else:
            mean = target[0].where(legal, 0.0).sum((-2, -1)) / legal.sum((-2, -1))
            assert torch.allclose(found.greedy_values[0], mean)
        assert (found.greedy_values[0] <= target[0].masked_fill(~legal, -1e9).amax((-2, -1)) + 1e-9).all()
        assert (found.greedy_values[0] >= target[0].masked_fill(~legal, 1e9).amin((-2, -1)) - 1e-9).all()


def test_unavailable_joint_actions_weigh_only_where_asked_for() -> None:
    batch = random_batch(1, [5, 6])
    assert not batch.avail.all()
    weights, targets = {}, {}
    for over in ("available", "all"):
        algorithm = build("res", softmax_over=over)
        assert isinstance(algorithm, RES)
        found = terms(algorithm, batch)
        weights[over], targets[over] = algorithm.counterfactuals(found)[2], found.target
        impossible = ~found.prepared.avail
    assert (weights["available"][impossible] == 0).all() and (weights["all"][impossible] > 0).all()
    assert not torch.allclose(targets["available"], targets["all"])
    batch.avail[:] = True
    assert_same(
        learned(build("res", softmax_over="available"), batch), learned(build("res", softmax_over="all"), batch), 0
    )


def test_the_halves_of_res() -> None:
    batch = random_batch(2, [4, 2, 6])
    qmix, whole = terms(build("qmix"), batch), terms(shipped("res"), batch)
    softmax, penalty = terms(shipped("s_qmix"), batch), terms(shipped("re_qmix"), batch)
    assert set(softmax.losses) == {"loss_td"} and set(penalty.losses) == {"loss_td", "loss_return"}
    assert torch.equal(softmax.target, whole.target) and not torch.allclose(softmax.target, qmix.target)
    assert torch.equal(penalty.target, qmix.target)
    assert torch.equal(penalty.losses["loss_return"], whole.losses["loss_return"])


def test_res_takes_large_batches_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = random_batch(2, [4, 2, 6])
    whole = learned(build("res"), batch)
    monkeypatch.setattr(res, "HIDDEN_AT_ONCE", 3 * 4 * 4 * 5)  # five states at once
    assert_same(whole, learned(build("res"), batch), 1e-14)


def test_res_generates_mixing_weights_once_for_each_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each of the n·|A| joint actions."""
    rows: list[int] = []
    generate = QMixer.generate

    def counted(self: QMixer, state: Tensor, *members: Any) -> Any:
        rows.append(len(state))
        return generate(self, state, *members)

    monkeypatch.setattr(QMixer, "generate", counted)
    terms(build("res"), random_batch(2, [4, 6]))
    assert sum(rows) == 2 * 2 * (6 + 1)  # online and target, 2 episodes, 7 states


# -- TD3 and WCU -------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds)
def test_the_target_of_the_pair_is_never_above_either(seed: int) -> None:
    batch = random_batch(seed, [4, 2, 6])
    algorithm = build("td3_qmix", seed=seed)
    found = terms(algorithm, batch)
    assert found.greedy_values.shape[0] == 2 == found.q_tot.shape[0]
    reward, going = found.prepared.reward, 0.99 * (~found.prepared.terminated).double()
    each = reward + going * found.greedy_values[:, 1:]
    assert (found.target <= each + 1e-12).all()
    torch.testing.assert_close(found.target, each.amin(0), rtol=1e-12, atol=1e-12)


def test_td3_is_the_core_with_two_mixers() -> None:
    batch = random_batch(2, [4, 2, 6])
    assert_same(learned(build("td3_qmix"), batch), learned(build("qmix", ensemble={"mixers": 2}), batch), 0)


@pytest.mark.parametrize("name", ["td3_qmix", "wcu_qmix"])
def test_one_mixer_is_no_pair(name: str) -> None:
    with pytest.raises(ValueError, match=r"ensemble\.mixers"):
        build(name, ensemble={"mixers": 1})


@quick
@given(seed=seeds, phi=st.floats(0, 1), mixers=st.integers(2, 4))
def test_wcu_by_brute_force(seed: int, phi: float, mixers: int) -> None:
    batch = random_batch(seed, [4, 2])
    algorithm = build("wcu_qmix", seed=seed, phi=phi, ensemble={"mixers": mixers})
    found = terms(algorithm, batch)
    q, squares = found.q_tot.detach(), []
    for b, t in valid(batch):
        for h in range(mixers):
            others = np.mean([q[k, t, b].item() for k in range(mixers) if k != h])
            squares.append((phi * q[h, t, b].item() + (1 - phi) * others - found.target[t, b].item()) ** 2)
    assert found.losses["loss_td"].item() == pytest.approx(np.mean(squares), rel=1e-9)


def test_each_mixer_of_wcu_learns_from_its_own_error_alone() -> None:
    batch = random_batch(2, [4, 2, 6])
    found = terms(build("wcu_qmix", phi=0.6), batch)
    gradient = torch.autograd.grad(found.losses["loss_td"], found.q_tot)[0]
    q = found.q_tot.detach()
    error = 0.6 * q + 0.4 * q.flip(0) - found.target
    expected = 2 * 0.6 * error * found.mask / found.mask.sum() / 2
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    assert_same(learned(build("wcu_qmix", phi=1.0), batch), learned(build("td3_qmix"), batch), 1e-14)


# -- SM2 ---------------------------------------------------------------------------------------------------------------


some_values = st.lists(st.floats(-5, 5), min_size=1, max_size=6)
positive = st.floats(0.05, 4)


@quick
@given(values=some_values, alpha=st.floats(0, 4), omega=positive)
def test_soft_mellowmax_as_the_paper_writes_it(values: list[float], alpha: float, omega: float) -> None:
    total = sum(math.exp(alpha * q) for q in values)
    plain = math.log(sum(math.exp(alpha * q) / total * math.exp(omega * q) for q in values)) / omega
    q = torch.tensor(values, dtype=torch.float64)
    assert soft_mellowmax(q, alpha, omega).item() == pytest.approx(plain, abs=1e-9)
    with_impossible = torch.cat([q, torch.tensor([UNAVAILABLE], dtype=torch.float64)])
    assert soft_mellowmax(with_impossible, alpha, omega).item() == pytest.approx(plain, abs=1e-9 if alpha else 1e9)


@quick
@given(values=some_values, scale=st.sampled_from([1.0, 1e4, 1e7]), alpha=st.floats(0, 10), omega=st.floats(0.05, 10))
def test_soft_mellowmax_lies_between_mean_and_maximum_and_never_overflows(
    values: list[float], scale: float, alpha: float, omega: float
) -> None:
    for dtype in (torch.float32, torch.float64):
        q = scale * torch.tensor(values, dtype=dtype)
        found, slack = soft_mellowmax(q, alpha, omega), 1e-5 * scale
        assert found.isfinite() and q.mean() - slack <= found <= q.max() + slack
        shifted = soft_mellowmax(q + 3 * scale, alpha, omega)
        assert abs(shifted - found - 3 * scale) <= slack + 1e-4
        assert soft_mellowmax(q, alpha, omega + 1) >= found - slack  # nearer to the maximum


def test_sm2_learns_from_values_of_ten_thousand() -> None:
    algorithm = build("sm2_qmix").float()
    for network in (algorithm.agents, algorithm.target_agents):
        network.fc2.bias.data += torch.tensor([1e4, -1e4, 1e4, -1e4])
    batch = doubles(random_batch(2, [4, 6]))
    single = replace(batch, obs=batch.obs.float(), state=batch.state.float(), reward=batch.reward.float())
    loss, _ = algorithm.loss(algorithm.prepare(single, np.random.default_rng(0)))
    gradients = torch.autograd.grad(loss, algorithm.trained_parameters())
    assert loss.isfinite() and all(g.isfinite().all() for g in gradients)


def test_sm2_mixes_each_agents_soft_mellowmax() -> None:
    batch = random_batch(5, [4, 6])
    algorithm = build("sm2_qmix", sm2_alpha=0.7, sm2_omega=1.5)
    found = terms(algorithm, batch)
    target = torch.from_numpy(values_of(algorithm, batch, "target_agents")[0])
    for b, t in valid(batch):
        legal = batch.avail[b, t + 1]
        q = [float(soft_mellowmax(target[b, t + 1, n][torch.from_numpy(legal[n])], 0.7, 1.5)) for n in range(3)]
        y = float(batch.reward[b, t])
        if not batch.terminated[b, t]:
            y += 0.99 * mixed(algorithm.target_mixer, 0, q, batch.state[b, t + 1])
        assert found.target[t, b].item() == pytest.approx(y, rel=1e-9)


# -- Sub-AVG -----------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, snapshots=st.integers(1, 6))
def test_sub_average_never_exceeds_the_mean(seed: int, snapshots: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(snapshots, 4, 3)))
    found = sub_average(values)
    assert (found <= values.mean(0) + 1e-12).all() and (found >= values.amin(0) - 1e-12).all()
    for place in np.ndindex(4, 3):
        column = values[(slice(None), *place)]
        below = column[column < column.mean()]
        assert found[place].item() == pytest.approx((below if len(below) else column).mean().item(), rel=1e-12)
    same = values[:1].expand(4, -1, -1)
    assert torch.allclose(sub_average(same), values[0])


def moved(algorithm: ValueMixing, update: int) -> None:
    """Other trained values, and the target update."""
    for parameter in algorithm.trained_parameters():
        parameter.data += 0.01 * update
    algorithm.after_update(update)


def test_snapshots_are_overwritten_in_turn() -> None:
    algorithm: Any = build("sub_avg_qmix", snapshots=3, target_update_updates=1, ensemble={"mixers": 2})
    weight = algorithm.target_mixer.value.weight
    for update in range(1, 8):
        before = weight.clone()
        moved(algorithm, update)
        slot = (update - 1) % 3
        for k in range(3):
            expected = algorithm.mixer.value.weight if k == slot else before[2 * k : 2 * k + 2]
            assert torch.equal(weight[2 * k : 2 * k + 2], expected), (update, k)
        assert torch.equal(algorithm.target_agents.fc1.weight, algorithm.agents.fc1.weight)
    with pytest.raises(ValueError, match="target_update"):
        build("sub_avg_qmix", target_update="soft")


def test_the_mean_counts_until_there_are_two_snapshots() -> None:
    batch = random_batch(2, [4, 6])
    algorithm: Any = build("sub_avg_qmix", target_update_updates=1)
    for update in (1, 2, 3):
        found = terms(algorithm, batch)
        prepared = found.prepared
        best = algorithm.greedy_agent_values(algorithm.target_agent_values(prepared), found.greedy)
        every = algorithm.mix(algorithm.target_mixer, best, prepared.target_mixing)
        assert len(every) == 5 and not torch.allclose(every.mean(0), sub_average(every))
        expected = every.mean(0) if update < 3 else sub_average(every)
        torch.testing.assert_close(found.greedy_values[0], expected, rtol=1e-12, atol=1e-12)
        moved(algorithm, update)


def test_snapshots_survive_a_checkpoint() -> None:
    """Continued from its state, the next snapshot is the one it would have been."""
    first, again = (build("sub_avg_qmix", seed=seed, snapshots=3, target_update_updates=1) for seed in (0, 1))
    moved(first, 1)
    again.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    for algorithm in (first, again):
        moved(algorithm, 2)
    after, restored = snapshot(first), snapshot(again)
    assert all(torch.equal(after[key], restored[key]) for key in after)
    batch = random_batch(2, [4, 6])
    assert_same(learned(first, batch), learned(again, batch), 0)


def test_one_snapshot_is_qmix_with_twice_the_loss() -> None:
    batch = random_batch(2, [4, 2, 6])
    one, qmix = build("sub_avg_qmix", snapshots=1), build("qmix")
    one.load_state_dict({**qmix.state_dict(), "target_copies": torch.tensor(7)})
    loss, *gradients = learned(qmix, batch)
    assert_same(learned(one, batch), [2 * loss, *(2 * g for g in gradients)], 1e-12)


def test_each_drawn_mixer_averages_its_own_snapshots() -> None:
    batch = random_batch(2, [4, 6])
    ensemble = {"mixers": 3, "mixers_subset": 2}
    algorithm: Any = build("sub_avg_qmix", snapshots=4, ensemble=ensemble)
    algorithm.target_copies += 2
    found = terms(algorithm, batch, seed=3)
    drawn = np.sort(np.random.default_rng(3).choice(3, size=2, replace=False))
    best = algorithm.greedy_agent_values(algorithm.target_agent_values(found.prepared), found.greedy)
    state = found.prepared.state.flatten(0, 1)
    every = algorithm.target_mixer(best.flatten(0, 1), state).view(4, 3, *best.shape[:2])
    expected = torch.stack([sub_average(every[:, h]) for h in drawn])
    torch.testing.assert_close(found.greedy_values, expected, rtol=1e-12, atol=1e-12)


# -- QTRAN -------------------------------------------------------------------------------------------------------------


MATRIX = replace(
    SPEC, n_agents=2, obs_dim=1, state_dim=1, n_actions=3, episode_limit=1, agent_names=("a", "b"), obs_dims=(1, 1),
    action_dims=(3, 3),
)  # fmt: skip
PAYOFF = np.array([[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])  # Table 1 of the paper


def every_joint_action() -> EpisodeBatch:
    batch = empty_batch(MATRIX, 9, 1)
    batch.obs[:], batch.state[:], batch.avail[:] = 1, 1, True
    for row, (i, j) in enumerate(itertools.product(range(3), range(3))):
        batch.actions[row, 0] = (i, j)
        batch.reward[row, 0], batch.terminated[row, 0], batch.filled[row, 0] = PAYOFF[i, j], True, True
    return batch


def test_qtrans_conditions_hold_at_its_optimum() -> None:
    """Where no monotone mixing can represent the payoffs: the greedy joint action is the best one, its sum of values
    is Q_jt less V, and all others' are not below."""
    kind = algorithm_settings("qtran_base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        chosen = kind.model_validate({"name": "qtran_base", "joint_embed": 32, "nopt_weight": 1.0})
        networks = NetworkSettings.model_validate({"agent": {"hidden": 8}})
        algorithm = QTRANBase(MATRIX, chosen, networks).double()
    optimiser = torch.optim.Adam(algorithm.trained_parameters(), lr=2e-2)
    batch, updates = doubles(every_joint_action()), 400
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = 2e-2 * (1 - update / updates)
        optimiser.zero_grad()
        algorithm.loss(algorithm.prepare(batch, np.random.default_rng(0)))[0].backward()
        optimiser.step()
    found = algorithm.terms(algorithm.prepare(batch, np.random.default_rng(0)))
    assert isinstance(found, QTRANTerms)
    at_greedy, at_chosen = algorithm.conditions(found)
    np.testing.assert_allclose(found.q_tot[0, 0].detach(), PAYOFF.ravel(), atol=0.1)
    assert found.greedy[0, 0].tolist() == [0, 0]
    assert at_greedy.abs().max() < 0.1 and at_chosen.min() > -0.3
    assert at_chosen[0, 0, 1] > 5  # of the miscoordinated ones it is far from equal


def test_qtrans_losses_by_hand() -> None:
    batch = random_batch(4, [4, 2, 6])
    algorithm = build("qtran_base", opt_weight=0.4, nopt_weight=0.7)
    found = terms(algorithm, batch)
    assert isinstance(found, QTRANTerms)
    opt, nopt = [], []
    for b, t in valid(batch):
        values, v = found.mean_values[t, b].detach(), found.value[t, b].item()
        played = [values[n, batch.actions[b, t, n]].item() for n in range(3)]
        best = [values[n][torch.from_numpy(batch.avail[b, t, n])].max().item() for n in range(3)]
        opt.append((sum(best) - found.greedy_joint[0, t, b].item() + v) ** 2)
        nopt.append(min(sum(played) - found.q_tot[0, t, b].item() + v, 0) ** 2)
    assert found.losses["loss_opt"].item() == pytest.approx(0.4 * np.mean(opt), rel=1e-9)
    assert found.losses["loss_nopt"].item() == pytest.approx(0.7 * np.mean(nopt), rel=1e-9)
    assert 0 < np.count_nonzero(nopt) < len(nopt)


def test_qtrans_joint_value_learns_from_rewards_alone() -> None:
    """In both conditions Q_jt is a constant; through it the first loss reaches the agents' states, not their values."""
    algorithm: Any = build("qtran_base")
    found = terms(algorithm, random_batch(4, [4, 2, 6]))
    joint = [*algorithm.joint.Q.parameters(), *algorithm.joint.action_encoding.parameters()]
    values, v = [algorithm.agents.fc2.weight], list(algorithm.joint.V.parameters())
    states = [algorithm.agents.fc1.weight]

    def reached(loss: str, parameters: list[Tensor]) -> set[bool]:
        found_gradients = torch.autograd.grad(found.losses[loss], parameters, retain_graph=True, allow_unused=True)
        return {g is not None and bool((g != 0).any()) for g in found_gradients}

    assert reached("loss_td", joint) == {True} == reached("loss_td", states)
    assert reached("loss_td", values) == {False} == reached("loss_td", v)
    for loss in ("loss_opt", "loss_nopt"):
        assert reached(loss, joint) == {False}
        assert reached(loss, values) == reached(loss, v) == reached(loss, states) == {True}


def test_qtran_with_an_ensemble_takes_the_least_joint_value() -> None:
    batch = random_batch(4, [4, 6])
    algorithm = build("qtran_base", ensemble={"agents": 3, "agents_subset": 2})
    found = terms(algorithm, batch)
    assert found.q_tot.shape[0] == 3 and found.greedy_values.shape[0] == 2
    reward, going = found.prepared.reward, 0.99 * (~found.prepared.terminated).double()
    torch.testing.assert_close(found.target, reward + going * found.greedy_values[:, 1:].amin(0))
    with pytest.raises(ValueError, match="no mixing network"):
        build("qtran_base", ensemble={"mixers": 2})


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("res", {"softmax_beta": 0.0}), ("res", {"softmax_beta": -1.0}), ("res", {"penalty_lambda": 1.5}),
        ("res", {"penalty_lambda": -0.1}), ("res", {"softmax_over": "some"}), ("wcu_qmix", {"phi": 1.1}),
        ("sm2_qmix", {"sm2_omega": 0.0}), ("sub_avg_qmix", {"snapshots": 0}), ("qtran_base", {"nopt_weight": -1.0}),
    ],
)  # fmt: skip
def test_wrong_settings_of_single_methods_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        build(name, **wrong)
