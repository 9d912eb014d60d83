"""HAPPO, HAA2C and HATRPO: turns, the factor M, the drift that sharing causes, trust regions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from phalanx.algorithms import hatrpo
from phalanx.algorithms.hatrpo import HATRPO, conjugate_gradients
from phalanx.algorithms.on_policy import CRITIC, OnPolicy
from phalanx.algorithms.on_policy_batch import Experience, mean_over
from tests.algorithms.helpers import SPEC, assert_same, doubles
from tests.algorithms.on_policy_helpers import CONTINUOUS, GRU, MLP, SEQUENTIAL, build, parameters, played, update

GROUPED = replace(SPEC, group_ids=(0, 1, 1), group_names=("scout", "porter"))


def prepared_of(algorithm: OnPolicy, seed: int = 1, **options: Any) -> Any:
    return algorithm.prepare(doubles(played(algorithm, seed, [4, 6, 3], **options)), np.random.default_rng(seed))


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_order_is_drawn_anew_for_every_update(name: str) -> None:
    algorithm, rng = build(name), np.random.default_rng(0)
    batch = doubles(played(algorithm, 1, [3]))
    orders = [tuple(algorithm.prepare(batch, rng).order) for _ in range(40)]
    assert {tuple(sorted(order)) for order in orders} == {(0, 1, 2)} and len(set(orders)) == 6


@pytest.mark.parametrize("groups", ["none", "spec", "all", [[0, 2], [1]]])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_one_agent_moves_at_a_time(name: str, groups: Any) -> None:
    """And its group's actor alone; M is the product of the ratios of those before it."""
    algorithm = build(name, spec=GROUPED, groups=groups, epochs=2)
    expected_groups = {"none": [[0], [1], [2]], "spec": [[0], [1, 2]], "all": [[0, 1, 2]]}
    assert algorithm.actors.groups == (expected_groups[groups] if isinstance(groups, str) else groups)
    seen: list[tuple[int, int, Tensor]] = []
    original = algorithm.policy_loss

    def watched(experience: Experience, slots: list[int], agents: list[int], distribution: Any) -> Any:
        assert len(agents) == 1
        if not seen or seen[-1][1] != agents[0]:
            with torch.no_grad():
                now = algorithm.distribution(prepared).log_prob(prepared.actions)
            ratios = (now - experience.log_prob).masked_fill(~prepared.mask.unsqueeze(-1), 0.0).exp()
            expected = torch.ones_like(ratios[..., :1])
            for _, before, after_turn in seen:
                expected = expected * after_turn[..., [before]]
            if seen:
                # What the agent before did is known only now that its turn is over.
                group, last, _ = seen[-1]
                expected = expected / seen[-1][2][..., [last]] * ratios[..., [last]]
                seen[-1] = (group, last, ratios)
            torch.testing.assert_close(experience.factor[prepared.mask], expected[prepared.mask], rtol=1e-9, atol=1e-9)
            group = next(k for k, members in enumerate(algorithm.actors.groups) if agents[0] in members)
            seen.append((group, agents[0], torch.ones_like(ratios)))
        return original(experience, slots, agents, distribution)

    algorithm.policy_loss = watched  # type: ignore[method-assign]
    batch = played(algorithm, 2, [4, 6, 3])
    prepared = algorithm.prepare(doubles(batch), np.random.default_rng(0))
    update(algorithm, batch)
    assert sorted(agent for _, agent, _ in seen) == [0, 1, 2]


@pytest.mark.parametrize("agent", [MLP, GRU], ids=["mlp", "gru"])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_baseline_drifts_where_agents_share_and_only_there(name: str, agent: dict[str, Any]) -> None:
    drifts = {}
    for groups in ("none", "spec", "all"):
        algorithm = build(name, spec=GROUPED, agent=agent, groups=groups, epochs=3)
        drifts[groups] = update(algorithm, played(algorithm, 3, [4, 6, 3]))["baseline_drift"]
    assert drifts["none"] == [0.0, 0.0, 0.0]
    assert len(drifts["spec"]) == 1 and len(drifts["all"]) == 2  # those who come after another of their group
    assert min(drifts["spec"] + drifts["all"]) > 1e-5


@pytest.mark.parametrize("name", ["happo", "haa2c"])
def test_every_actor_has_an_optimiser_of_its_own(name: str) -> None:
    algorithm = build(name)
    groups = algorithm.parameter_groups()
    assert set(groups) == {"actor_0", "actor_1", "actor_2", CRITIC}
    every = [id(parameter) for group in groups.values() for parameter in group]
    assert len(every) == len(set(every)) == len(list(algorithm.parameters()))
    batch, moved = played(algorithm, 4, [4, 3]), set()
    before = {group: [p.detach().clone() for p in members] for group, members in groups.items()}
    for step in algorithm.steps(algorithm.prepare(doubles(batch), np.random.default_rng(0))):
        gradients = torch.autograd.grad(step.loss, groups[step.group], allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(groups[step.group], gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.05 * gradient
        moved.add(step.group)
        others = set(groups) - moved
        for other in others:
            assert_same(before[other], groups[other], 0)
    assert moved == set(groups)


def test_learning_rates() -> None:
    algorithm = build("happo", lr=0.1, critic_lr=0.2)
    assert algorithm.learning_rate("actor_1") == 0.1 and algorithm.learning_rate(CRITIC) == 0.2
    assert build("happo", lr=0.1).learning_rate(CRITIC) == 0.1
    assert build("mappo").group_name(0) == "actor"


# -- trust regions -----------------------------------------------------------------------------------------------------


def test_conjugate_gradients_solve() -> None:
    draw = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    matrix, wanted = root @ root.t() + torch.eye(6), torch.randn(6, generator=draw, dtype=torch.float64)
    found = conjugate_gradients(lambda v: matrix @ v, wanted, 6)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, wanted), rtol=1e-6, atol=1e-8)
    assert torch.equal(conjugate_gradients(lambda v: matrix @ v, torch.zeros(6), 6), torch.zeros(6))


@pytest.mark.parametrize("spec", [SPEC, CONTINUOUS], ids=["discrete", "continuous"])
def test_differences_of_slopes_are_the_fisher_matrix(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against second derivatives of the divergence by autograd."""
    products: list[tuple[Tensor, Tensor]] = []

    def recorded(product: Any, wanted: Tensor, iterations: int) -> Tensor:
        vectors = [wanted, torch.randn_like(wanted)]
        products.extend((v, product(v)) for v in vectors)
        return torch.zeros_like(wanted)

    monkeypatch.setattr(hatrpo, "conjugate_gradients", recorded)
    monkeypatch.setattr(hatrpo, "PROBE", 1e-5)  # so short that it crosses no kink of a ReLU
    algorithm = build("hatrpo", spec=spec, damping=0.3, epochs=1)
    prepared = prepared_of(algorithm)
    experience, _ = algorithm.experience(prepared)
    before = parameters(algorithm)
    distribution = algorithm.distribution(prepared, 1)
    algorithm.policy_step(experience, 1, [0], [1], distribution)
    assert_same(before, parameters(algorithm), 0)  # no direction, no step
    weights = list(algorithm.actors.of_group(1).parameters())
    with torch.no_grad():
        old = algorithm.distribution(prepared, 1)
    divergence = mean_over(old.kl(algorithm.distribution(prepared, 1)), prepared.mask)
    slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(divergence, weights, create_graph=True)])
    for vector, found in products:
        exact = torch.autograd.grad(slope @ vector, weights, retain_graph=True, allow_unused=True)
        flat = torch.cat(
            [torch.zeros(p.numel()) if g is None else g.reshape(-1) for p, g in zip(weights, exact, strict=True)]
        )
        torch.testing.assert_close(found, flat + 0.3 * vector, rtol=1e-4, atol=1e-4 * float(vector.norm()))


@pytest.mark.parametrize("spec", [SPEC, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("agent", [MLP, GRU], ids=["mlp", "gru"])
def test_a_step_stays_in_its_region_and_raises_the_objective(agent: dict[str, Any], spec: Any) -> None:
    algorithm = build("hatrpo", spec=spec, agent=agent, kl_limit=0.02, epochs=1)
    assert isinstance(algorithm, HATRPO) and set(algorithm.parameter_groups()) == {CRITIC}
    prepared = prepared_of(algorithm)
    experience, _ = algorithm.experience(prepared)
    with torch.no_grad():
        old = algorithm.distribution(prepared)
    for group in range(3):
        before, _ = algorithm.policy_loss(experience, [0], [group], algorithm.distribution(prepared, group))
        (step,) = algorithm.take_turn(experience, group, [0], again=False, last=True)
        after, _ = algorithm.policy_loss(experience, [0], [group], algorithm.distribution(prepared, group))
        with torch.no_grad():
            kl = mean_over(old.kl(algorithm.distribution(prepared))[..., [group]], prepared.mask)
        assert step.made and 0 < kl <= 0.02 and after < before
        assert step.metrics["step_taken"] > 0
        assert float(step.metrics["kl"]) == pytest.approx(float(kl), rel=1e-6)
        assert kl > 0.002  # it is not timid


def test_the_line_search_takes_the_first_step_that_will_do_or_none() -> None:
    algorithm = build("hatrpo", line_search=4, backtrack=0.5, accept=0.5, kl_limit=0.1)
    assert isinstance(algorithm, HATRPO)
    assert algorithm._search(lambda share: (share, 0.3 * share**2), promised=1.0) == (0.5, pytest.approx(0.075))
    assert algorithm._search(lambda share: (share, 0.01), promised=4.0) == (0.0, 0.0)  # less than half of the promise
    assert algorithm._search(lambda share: (1.0, 50 * share), promised=1.0) == (0.0, 0.0)
    assert algorithm._search(lambda share: (float("nan"), 0.0), promised=1.0) == (0.0, 0.0)
    tried: list[float] = []
    algorithm._search(lambda share: (tried.append(share) or -1.0, 0.0), promised=1.0)  # type: ignore[func-returns-value]
    assert tried == [1.0, 0.5, 0.25, 0.125] and all(b == a / 2 for a, b in pairwise(tried))
