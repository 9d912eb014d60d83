"""Each method's own idea, against its definition written out step by step."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.algorithms.common.ensembles import draw_members
from phalanx.algorithms.value_mixing import Terms, ValueMixing
from tests.algorithms.helpers import (
    MIXING,
    NAMES,
    SPEC,
    UNMIXED,
    allowed_double_q,
    assert_same,
    build,
    doubles,
    learned,
    random_batch,
    snapshot,
    terms,
)

seeds = st.integers(0, 2**31)
quick = settings(max_examples=20)
Doubles = npt.NDArray[np.float64]


class Given:
    """Stands in for the learner's generator: the first `size` members of a fixed order."""

    def __init__(self, agents: list[int], mixers: list[int]) -> None:
        self.orders = [agents, mixers]

    def choice(self, members: int, size: int, replace: bool) -> npt.NDArray[np.int64]:
        order = self.orders.pop(0)
        assert len(order) == members and not replace
        return np.array(order[:size])


def values_of(algorithm: ValueMixing, batch: EpisodeBatch, which: str) -> Doubles:
    """[K, B, T+1, N, A]: what the named agent networks say, unmasked."""
    tensors = doubles(batch)
    with torch.no_grad():
        flat = getattr(algorithm, which)(agent_inputs(tensors.obs, tensors.actions, SPEC.n_actions))
    values = flat.view(flat.shape[0], *batch.avail.shape[:2][::-1], SPEC.n_agents, SPEC.n_actions)
    return cast(Doubles, values.transpose(1, 2).numpy())


def valid(batch: EpisodeBatch) -> list[tuple[int, int]]:
    """(b, t) of every transition that is learned from."""
    return [(b, t) for b, length in enumerate(batch.lengths) for t in range(length)]


# -- independent and summed values -------------------------------------------------------------------------------------


@quick
@given(seed=seeds, double_q=st.booleans(), gamma=st.floats(0, 1))
def test_vdn_and_iql_by_brute_force(seed: int, double_q: bool, gamma: float) -> None:
    batch = random_batch(seed, [4, 2, 6])
    losses = {"vdn": 0.0, "iql": 0.0}
    algorithms = {name: build(name, seed=seed, double_q=double_q, gamma=gamma) for name in losses}
    online, target = (values_of(algorithms["vdn"], batch, which)[0] for which in ("agents", "target_agents"))
    for b, t in valid(batch):
        q, y = np.zeros(3), np.zeros(3)
        for n in range(3):
            q[n] = online[b, t, n, batch.actions[b, t, n]]
            legal = np.flatnonzero(batch.avail[b, t + 1, n])
            chooser = online if double_q else target
            best = legal[chooser[b, t + 1, n][legal].argmax()]
            y[n] = 0.0 if batch.terminated[b, t] else gamma * target[b, t + 1, n, best]
        losses["vdn"] += (q.sum() - batch.reward[b, t] - y.sum()) ** 2
        losses["iql"] += ((q - batch.reward[b, t] - y) ** 2).mean()
    for name, loss in losses.items():
        assert float(learned(algorithms[name], batch)[0]) == pytest.approx(loss / len(valid(batch)), rel=1e-9)


def test_independent_agents_do_not_learn_from_each_other() -> None:
    """IQL: an agent's error is its own; VDN's gradient is common to all."""
    batch = random_batch(5, [6])
    for name, common in (("vdn", True), ("iql", False)):
        found = terms(build(name), batch)
        gradient = torch.autograd.grad(found.total, found.chosen)[0]
        assert torch.allclose(gradient[..., :1].expand_as(gradient), gradient) == common


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("double_q", [True, False])
def test_greedy_action_comes_from_the_online_mean(name: str, double_q: bool) -> None:
    if double_q not in allowed_double_q(name):
        with pytest.raises(ValueError, match="double_q"):
            build(name, double_q=double_q)
        return
    if len(allowed_double_q(name)) == 1:
        return  # with a target of its own: see its own tests
    algorithm = build(name, double_q=double_q, ensemble={"agents": 3, "agents_subset": 2})
    batch = random_batch(1, [5, 6])
    inputs: list[Doubles] = []
    mix = algorithm.mix

    def spy(mixer: Any, q: torch.Tensor, *rest: Any) -> Any:
        if mixer is algorithm.target_mixer:
            inputs.append(cast(Doubles, q.detach().numpy()))
        return mix(mixer, q, *rest)

    algorithm.mix = spy  # type: ignore[method-assign, assignment]
    algorithm.terms(algorithm.prepare(doubles(batch), cast(np.random.Generator, Given([2, 0, 1], []))))
    online = values_of(algorithm, batch, "agents").mean(0)
    target = values_of(algorithm, batch, "target_agents")[[2, 0]].min(0)
    for b, t in valid(batch):
        for n in range(3):
            legal = batch.avail[b, t + 1, n]
            if double_q:
                expected = target[b, t + 1, n, np.where(legal, online[b, t + 1, n], -np.inf).argmax()]
            else:
                expected = target[b, t + 1, n][legal].max()
            assert inputs[0][t + 1, b, n] == pytest.approx(expected, rel=1e-12)


# -- DEMAR -------------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, data=st.data())
def test_pessimism_grows_with_the_subsets(seed: int, data: st.DataObject) -> None:
    """Of nested subsets the larger one never has the larger target."""
    order = data.draw(st.permutations(range(4)), label="agents"), data.draw(st.permutations(range(4)), label="mixers")
    batch = random_batch(seed, [3, 5])
    previous: torch.Tensor | None = None
    for agents, mixers in ((1, 1), (2, 1), (2, 3), (3, 3), (4, 4)):
        ensemble = {"agents": 4, "agents_subset": agents, "mixers": 4, "mixers_subset": mixers}
        algorithm = build("demar", seed=seed, ensemble=ensemble)
        drawn = Given(list(order[0]), list(order[1]))
        target = algorithm.terms(algorithm.prepare(doubles(batch), cast(np.random.Generator, drawn))).target
        if previous is not None:
            assert (target <= previous + 1e-12).all()
        previous = target


@quick
@given(seed=seeds)
def test_demar_target_by_brute_force(seed: int) -> None:
    """Minimum over the drawn networks for every action, then the mean's greedy action, every drawn mixer, minimum."""
    ensemble = {"agents": 3, "agents_subset": 2, "mixers": 4, "mixers_subset": 2}
    algorithm = build("demar", seed=seed, ensemble=ensemble, regulariser={"alpha": 0.25})
    batch = random_batch(seed, [4, 2])
    found = algorithm.terms(
        algorithm.prepare(doubles(batch), cast(np.random.Generator, Given([2, 1, 0], [3, 0, 1, 2])))
    )
    online = values_of(algorithm, batch, "agents").mean(0)
    target = values_of(algorithm, batch, "target_agents")[[2, 1]].min(0)
    state = torch.from_numpy(batch.state).double()
    squares = []
    for b, t in valid(batch):
        actions = np.where(batch.avail[b, t + 1], online[b, t + 1], -np.inf).argmax(-1)
        q = torch.from_numpy(np.take_along_axis(target[b, t + 1], actions[:, None], -1)[:, 0])
        every = algorithm.target_mixer(q[None], state[b, t + 1][None])[:, 0]
        y = float(batch.reward[b, t])
        if not batch.terminated[b, t]:
            y += 0.99 * min(every[3].item(), every[0].item())
        assert found.target[t, b].item() == pytest.approx(y, rel=1e-9)
        squares += [(found.q_tot[h, t, b].item() - y) ** 2 for h in range(4)]
    assert found.losses["loss_td"].item() == pytest.approx(np.mean(squares), rel=1e-9)
    assert found.generated is not None
    assert found.losses["loss_reg"].item() == pytest.approx(0.25 * found.generated.l1().mean().item(), rel=1e-9)
    assert found.total.item() == pytest.approx(sum(loss.item() for loss in found.losses.values()), rel=1e-12)


def test_members_are_drawn_uniformly_without_replacement() -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert draw_members(rng, 4, 4) is None and rng.bit_generator.state == before
    draws = [tuple(cast(torch.Tensor, draw_members(rng, 4, 2)).tolist()) for _ in range(3000)]
    counts = Counter(draws)
    assert set(counts) == {(i, j) for i in range(4) for j in range(i + 1, 4)}  # in ascending order
    assert all(abs(count - 500) < 5 * np.sqrt(500) for count in counts.values())


def test_one_subset_serves_the_whole_update() -> None:
    """Agents are drawn first, then mixers, once each; a full ensemble draws nothing."""
    batch = random_batch(0, [4, 3])
    algorithm = build("demar", ensemble={"agents": 3, "agents_subset": 1, "mixers": 3, "mixers_subset": 2})
    rng, same = np.random.default_rng(7), np.random.default_rng(7)
    algorithm.prepare(doubles(batch), rng)
    same.choice(3, size=1, replace=False)
    same.choice(3, size=2, replace=False)
    assert rng.bit_generator.state == same.bit_generator.state
    build("demar", ensemble={"agents": 3, "mixers": 3}).prepare(doubles(batch), same)
    assert rng.bit_generator.state == same.bit_generator.state


def test_demar_without_ensembles_is_qmix_to_the_bit() -> None:
    batch = random_batch(2, [4, 2, 6])
    plain: dict[str, Any] = {"ensemble": {"agents": 1, "mixers": 1}, "regulariser": {"alpha": 0.0}}
    assert_same(learned(build("qmix"), batch), learned(build("demar", **plain), batch), 0)
    assert not torch.equal(
        learned(build("demar", **plain), batch)[0], learned(build("demar", regulariser={"alpha": 1e-3}), batch)[0]
    )


@pytest.mark.parametrize("name", MIXING)
def test_ensembles_and_the_regulariser_serve_every_mixing_method(name: str) -> None:
    ensemble = {"agents": 2, "agents_subset": 1, "mixers": 3, "mixers_subset": 2}
    own_target: dict[str, Any] = {"central": {"mixer": "none"}} if name in ("ow_qmix", "cw_qmix") else {}
    algorithm = build(name, ensemble=ensemble, regulariser={"alpha": 0.1}, **own_target)
    found = terms(algorithm, random_batch(0, [3, 5]))
    assert found.values.shape[0] == 2 and found.q_tot.shape[0] == 3 and found.losses["loss_reg"].item() > 0


@pytest.mark.parametrize("name", ["ow_qmix", "cw_qmix"])
def test_subsets_that_would_choose_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"ensemble\.mixers_subset=2.*central\.mixer=none"):
        build(name, ensemble={"mixers": 3, "mixers_subset": 2})


# -- Weighted QMIX -----------------------------------------------------------------------------------------------------


def central_by_hand(algorithm: Any, batch: EpisodeBatch, prefix: str) -> Any:
    """(b, t, actions) -> Q̂* of one joint action, one sample at a time."""
    utilities = values_of(algorithm, batch, f"{prefix}central_agents")[0]
    mixer = getattr(algorithm, f"{prefix}central_mixer")

    def value(b: int, t: int, actions: Any) -> Any:
        q = torch.tensor([[utilities[b, t, n, actions[n]] for n in range(3)]])
        return mixer(q, torch.from_numpy(batch.state[b, t]).double()[None]).item()

    return value


@quick
@given(seed=seeds, name=st.sampled_from(["ow_qmix", "cw_qmix"]), mixer=st.sampled_from(["ff", "atten"]))
def test_weighted_qmix_by_brute_force(seed: int, name: str, mixer: str) -> None:
    algorithm = build(name, seed=seed, weighting={"alpha": 0.25}, central={"mixer": mixer, "embed": 6})
    batch = random_batch(seed, [4, 2, 6])
    online = values_of(algorithm, batch, "agents")[0]
    greedy = np.where(batch.avail, online, -np.inf).argmax(-1)
    batch.actions[0] = greedy[0, :-1]  # so that greedy joint actions occur
    online = values_of(algorithm, batch, "agents")[0]  # actions are inputs of the next step
    greedy = np.where(batch.avail, online, -np.inf).argmax(-1)
    found = terms(algorithm, batch)
    central, target = (central_by_hand(algorithm, batch, prefix) for prefix in ("", "target_"))
    td, unrestricted = [], []
    for b, t in valid(batch):
        y = float(batch.reward[b, t])
        if not batch.terminated[b, t]:
            y += 0.99 * target(b, t + 1, greedy[b, t + 1])
        assert found.target[t, b].item() == pytest.approx(y, rel=1e-9)
        q_tot = found.q_tot[0, t, b].item()
        if name == "ow_qmix":
            favoured = q_tot < y
        else:
            favoured = bool((batch.actions[b, t] == greedy[b, t]).all()) or y > target(b, t, greedy[b, t])
        td.append((1.0 if favoured else 0.25) * (q_tot - y) ** 2)
        unrestricted.append((central(b, t, batch.actions[b, t]) - y) ** 2)
    assert found.losses["loss_td"].item() == pytest.approx(np.mean(td), rel=1e-9)
    assert found.losses["loss_central"].item() == pytest.approx(np.mean(unrestricted), rel=1e-9)


def test_greedy_actions_count_in_full_whatever_they_promise() -> None:
    """CW only: with targets far below Q̂* nothing is favoured but the greedy joint action."""
    batch = random_batch(0, [6, 6])
    batch.reward[:] = -100.0
    algorithm = build("cw_qmix")
    online = values_of(algorithm, batch, "agents")[0]
    greedy = np.where(batch.avail, online, -np.inf).argmax(-1)
    batch.actions[0, 0] = greedy[0, 0]
    batch.actions[1, 0] = greedy[1, 0]
    batch.actions[1, 0, 2] = (greedy[1, 0, 2] + 1) % 4  # one agent of three deviates
    found = terms(algorithm, batch)
    weight = algorithm.loss_weight(found)
    assert weight is not None
    assert weight[0, 0].tolist() == [1.0, pytest.approx(0.1)]


@pytest.mark.parametrize("name", ["ow_qmix", "cw_qmix"])
def test_alpha_one_weighs_all_alike(name: str) -> None:
    """QMIX + Q̂*: an unweighted projection onto the targets of Q̂*, the same for both weightings, to the bit."""
    batch = random_batch(2, [4, 2, 6])
    algorithm = build(name, weighting={"alpha": 1.0})
    found = terms(algorithm, batch)
    error = (found.q_tot - found.target)[:, found.mask].square().mean()
    assert found.losses["loss_td"].item() == pytest.approx(error.item(), rel=1e-12)
    assert_same(learned(algorithm, batch), learned(build("ow_qmix", weighting={"alpha": 1.0}), batch), 0)
    assert learned(algorithm, batch)[0] > learned(build(name, weighting={"alpha": 0.1}), batch)[0]


@pytest.mark.parametrize("name", ["ow_qmix", "cw_qmix"])
def test_without_a_central_mixer_q_tot_bootstraps_itself(name: str) -> None:
    batch = random_batch(2, [4, 2, 6])
    qmix, alone = build("qmix"), build(name, central={"mixer": "none"}, weighting={"alpha": 0.5})
    assert not [key for key in alone.state_dict() if "central" in key]
    assert alone.state_dict().keys() == qmix.state_dict().keys()
    plain, weighted = terms(qmix, batch), terms(alone, batch)
    assert torch.equal(plain.target, weighted.target) and torch.equal(plain.q_tot, weighted.q_tot)
    assert set(weighted.losses) == {"loss_td"}
    assert 0.5 * plain.losses["loss_td"] < weighted.losses["loss_td"] < plain.losses["loss_td"]
    unweighted = build(name, central={"mixer": "none"}, weighting={"alpha": 1.0})
    assert_same(learned(qmix, batch), learned(unweighted, batch), 0)


def test_weights_and_targets_are_constants() -> None:
    """The projection changes neither Q̂* nor, through the target, anything else."""
    algorithm: Any = build("cw_qmix")
    batch = random_batch(2, [4, 6])
    found: Terms = terms(algorithm, batch)
    assert not found.target.requires_grad and not found.greedy_values.requires_grad
    central = [*algorithm.central_agents.parameters(), *algorithm.central_mixer.parameters()]
    projected = [*algorithm.agents.parameters(), *algorithm.mixer.parameters()]
    for loss, own, others in (("loss_td", projected, central), ("loss_central", central, projected)):
        assert all(g is None for g in torch.autograd.grad(found.losses[loss], others, None, True, allow_unused=True))
        assert all(g is not None for g in torch.autograd.grad(found.losses[loss], own, None, True, allow_unused=True))


# -- target networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*NAMES} - {"sub_avg_qmix"}))
def test_targets_change_only_when_they_are_copied(name: str) -> None:
    ensemble = {"agents": 2} if name in UNMIXED else {"agents": 2, "mixers": 2}
    algorithm = build(name, target_update_updates=3, ensemble=ensemble)
    optimiser = torch.optim.RMSprop(algorithm.trained_parameters(), lr=1e-2)
    batch = random_batch(0, [4, 6])
    pairs = [(name, f"target_{name}") for name in snapshot(algorithm) if not name.startswith("target_")]
    assert {target for _, target in pairs} == {name for name in snapshot(algorithm) if name.startswith("target_")}
    for update in range(1, 8):
        before = snapshot(algorithm)
        optimiser.zero_grad()
        algorithm.loss(algorithm.prepare(doubles(batch), np.random.default_rng(update)))[0].backward()
        optimiser.step()
        algorithm.after_update(update)
        after = snapshot(algorithm)
        for online, target in pairs:
            assert not torch.equal(after[online], before[online]), online
            assert torch.equal(after[target], after[online] if update % 3 == 0 else before[target]), (update, target)


@pytest.mark.parametrize("name", NAMES)
def test_the_optimiser_gets_every_online_parameter_and_no_target(name: str) -> None:
    algorithm = build(name)
    trained = {id(parameter) for parameter in algorithm.trained_parameters()}
    for key, parameter in algorithm.named_parameters():
        assert (id(parameter) in trained) == (not key.startswith("target_")), key
    untouched = type(algorithm)(SPEC, algorithm.settings, algorithm.networks).state_dict()
    for key, tensor in untouched.items():  # a new algorithm's targets are copies, of sub_avg_qmix five
        if not key.startswith("target_"):
            copies = untouched[f"target_{key}"]
            assert torch.equal(copies, tensor.repeat(len(copies) // len(tensor), *[1] * (tensor.dim() - 1)))


# -- what reports show -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_diagnostics(name: str) -> None:
    algorithm = build(name, gamma=0.9, ensemble={"agents": 2} if name in UNMIXED else {"mixers": 3})
    batch = random_batch(4, [3, 1, 6])
    batch.reward[0, 3:] = 50.0  # padding
    found, metrics = terms(algorithm, batch), algorithm.diagnostics(doubles(batch))
    followed = [sum(0.9**t * float(batch.reward[b, t]) for t in range(n)) for b, n in enumerate(batch.lengths)]
    at_start = [found.q_tot[:, 0, b].mean().item() for b in range(3)]
    assert float(metrics["overestimation"]) == pytest.approx(np.mean(at_start) - np.mean(followed), rel=1e-9)
    if name in UNMIXED:
        assert "dqtot_dqi_mean" not in metrics
        return
    slope = torch.autograd.grad(found.q_tot.sum(), found.chosen)[0]  # summed over mixers
    assert float(metrics["dqtot_dqi_mean"]) == pytest.approx(float(slope[found.mask].mean()) / len(found.q_tot))
