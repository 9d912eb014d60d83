"""The optimal marginal Q against brute force, what must hold for it, and the pessimistic loss."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from phalanx.algorithms.common.marginal_q import (
    JointValues,
    before,
    continued,
    contributions,
    coordinate_ascent,
    marginal_q,
    pessimistic_loss,
)

teams = st.fixed_dictionaries(
    {
        "agents": st.integers(1, 3),
        "actions": st.integers(1, 4),
        "rows": st.integers(1, 3),
        "critics": st.integers(1, 3),
        "seed": st.integers(0, 2**31),
    }
)


class Game:
    """R states with a table of values for each critic, and actors' greedy, taken and available actions."""

    def __init__(self, agents: int, actions: int, rows: int, critics: int, seed: int, apart: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.agents, self.actions, self.rows = agents, actions, rows
        shape = (critics, rows, *(actions,) * agents)
        self.tables = self.drawn(*shape)
        if apart:  # increasing functions of a sum of the agents' utilities
            utilities = self.drawn(rows, agents, actions)
            total = torch.zeros(shape[1:], dtype=torch.float64)
            for agent in range(agents):
                others = [1] * agents
                others[agent] = actions
                total = total + utilities[:, agent].view(rows, *others)
            scale = (self.drawn(critics).abs() + 0.1).view(critics, *(1,) * (agents + 1))
            self.tables = scale * total + self.drawn(critics, rows).view(critics, rows, *(1,) * agents)
        avail = self.rng.random((rows, agents, actions)) < 0.6
        np.put_along_axis(avail, self.rng.integers(actions, size=(rows, agents, 1)), True, -1)
        self.avail = torch.from_numpy(avail)
        self.order = [int(agent) for agent in self.rng.permutation(agents)]
        self.taken, self.greedy = self.legal(), self.legal()

    def drawn(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.rng.normal(size=shape))

    def legal(self) -> Tensor:
        scores = self.drawn(self.rows, self.agents, self.actions).masked_fill(~self.avail, -torch.inf)
        return F.one_hot(scores.argmax(-1), self.actions).double()

    def values(self, joint: Tensor) -> Tensor:
        """Linear in each agent's action, so that it has gradients."""
        out = self.tables.unsqueeze(1)
        for agent in range(self.agents):
            weights = joint[:, :, agent]
            weights = weights.view(1, *weights.shape, *(1,) * (self.agents - agent - 1))
            out = (out * weights).sum(3)
        return out

    def brute_force(self, prefix: int) -> Tensor:
        """max over all available continuations of the first `prefix` taken actions of min_c Q_c: [R]."""
        best = torch.full((self.rows,), -torch.inf, dtype=torch.float64)
        taken = self.taken.argmax(-1)
        for row, joint in product(range(self.rows), product(range(self.actions), repeat=self.agents)):
            legal = all(self.avail[row, agent, action] for agent, action in enumerate(joint))
            kept = all(joint[agent] == taken[row, agent] for agent in self.order[:prefix])
            if legal and kept:
                best[row] = torch.maximum(best[row], self.tables[(slice(None), row, *joint)].amin())
        return best


def game(team: dict[str, Any], **more: Any) -> Game:
    return Game(**team, **more)


def test_the_table_is_read_right() -> None:
    made = Game(agents=3, actions=2, rows=4, critics=2, seed=0)
    chosen = made.taken.argmax(-1)
    expected = torch.stack([made.tables[(slice(None), row, *chosen[row])] for row in range(4)], 1)
    assert torch.equal(made.values(made.taken.unsqueeze(0))[:, 0], expected)


@settings(max_examples=30, deadline=None)
@given(teams)
def test_coordinate_is_the_maximum_where_agents_do_not_interact(team: dict[str, Any]) -> None:
    """And then nobody's contribution is positive, and they sum to what the taken actions lose."""
    made = game(team, apart=True)
    marginal = marginal_q(made.values, made.taken, made.greedy, made.order, made.avail)
    expected = torch.stack([made.brute_force(prefix) for prefix in range(made.agents + 1)])
    torch.testing.assert_close(marginal, expected)
    assert (contributions(marginal) <= 1e-12).all()
    lost = made.values(made.taken.unsqueeze(0)).amin(0)[0] - made.brute_force(0)
    torch.testing.assert_close(contributions(marginal).sum(0), lost)


@settings(max_examples=30, deadline=None)
@given(teams)
def test_greedy_is_at_most_coordinate_is_at_most_the_maximum(team: dict[str, Any]) -> None:
    made = game(team)
    greedy = marginal_q(made.values, made.taken, made.greedy, made.order)
    coordinate = marginal_q(made.values, made.taken, made.greedy, made.order, made.avail)
    assert greedy.shape == coordinate.shape == (made.agents + 1, made.rows)
    assert (coordinate >= greedy).all()
    for prefix in range(made.agents + 1):
        assert (coordinate[prefix] <= made.brute_force(prefix) + 1e-12).all()


@settings(max_examples=20, deadline=None)
@given(teams, st.booleans())
def test_with_all_actions_given_it_is_the_least_critic(team: dict[str, Any], coordinate: bool) -> None:
    made = game(team)
    avail = made.avail if coordinate else None
    marginal = marginal_q(made.values, made.taken, made.greedy, made.order, avail)
    assert torch.equal(marginal[-1], made.values(made.taken.unsqueeze(0)).amin(0)[0])
    if not coordinate:
        assert torch.equal(marginal[0], made.values(made.greedy.unsqueeze(0)).amin(0)[0])
    else:  # the last agent of the order has everybody else's action: it finds the best one
        torch.testing.assert_close(marginal[-2], made.brute_force(made.agents - 1))


@settings(max_examples=30, deadline=None)
@given(teams)
def test_unavailable_actions_are_never_chosen_and_given_ones_never_changed(team: dict[str, Any]) -> None:
    """Even where the given agents differ from state to state."""
    made = game(team)
    kept = torch.from_numpy(made.rng.random((2, made.rows, made.agents)) < 0.5)
    start = continued(kept, made.taken, made.greedy)
    best = coordinate_ascent(made.values, start, kept, made.avail, made.order)
    assert best.shape == (2, made.rows, made.agents, made.actions)
    assert torch.equal(best.sum(-1), torch.ones_like(best[..., 0]))
    assert (best * ~made.avail).sum() == 0
    assert torch.equal(best[kept], start[kept])
    assert (made.values(best).amin(0) >= made.values(start).amin(0)).all()
    # Each state by itself gives the same.
    for row in range(made.rows):

        def of_row(joint: Tensor, row: int = row) -> Tensor:
            return made.values(joint.expand(-1, made.rows, -1, -1))[:, :, row : row + 1]

        alone: JointValues = of_row
        one = coordinate_ascent(alone, start[:, row, None], kept[:, row, None], made.avail[row, None], made.order)
        assert torch.equal(one[:, 0], best[:, row])


def test_whoever_has_nothing_available_keeps_what_there_was() -> None:
    made = Game(agents=3, actions=3, rows=4, critics=2, seed=1)
    nothing = torch.zeros_like(made.avail)
    none_given = torch.zeros(1, 3, dtype=torch.bool)
    start = made.greedy.unsqueeze(0)
    assert torch.equal(coordinate_ascent(made.values, start, none_given, nothing, made.order), start)


def test_one_pass_may_miss_a_maximum_that_takes_two_agents() -> None:
    """Why `coordinate` is an approximation: the climbing game, from an equilibrium that nobody leaves alone."""
    table = torch.tensor([[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]])
    one_hot = torch.eye(3).unsqueeze(0)

    def values(joint: Tensor) -> Tensor:
        return torch.einsum("ab,pra,prb->pr", table, joint[:, :, 0], joint[:, :, 1]).unsqueeze(0)

    everything = torch.ones(1, 2, 3, dtype=torch.bool)
    for start, reached in (((1, 1), 7), ((0, 0), 11), ((0, 2), 7), ((2, 0), 11), ((2, 2), 7), ((1, 0), 11)):
        greedy = torch.stack([one_hot[:, start[0]], one_hot[:, start[1]]], 1)
        assert marginal_q(values, greedy, greedy, (0, 1), everything)[0].item() == reached, start


def test_gradients_reach_what_is_given_and_nothing_else_in_coordinate() -> None:
    made = Game(agents=3, actions=3, rows=4, critics=2, seed=3)
    made.order = [2, 0, 1]
    taken = made.taken.clone().requires_grad_()
    marginal_q(made.values, taken, made.greedy, made.order, made.avail)[1].sum().backward()
    assert taken.grad is not None
    assert taken.grad[:, 2].abs().sum() > 0 and taken.grad[:, :2].abs().sum() == 0


def test_before_names_the_first_of_the_order() -> None:
    assert before([2, 0, 1]).int().tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]


# -- the pessimistic loss ----------------------------------------------------------------------------------------------

floats = st.floats(-100, 100)


@given(st.lists(floats, min_size=1, max_size=6), st.integers(1, 5), st.floats(0, 3))
def test_critics_that_agree_are_left_alone(row: list[float], critics: int, beta: float) -> None:
    values = torch.tensor([row] * critics, dtype=torch.float64).requires_grad_()
    loss = pessimistic_loss(values, torch.ones(len(row), dtype=torch.bool), beta)
    loss.backward()
    assert values.grad is not None
    assert loss.item() == pytest.approx(0, abs=1e-20)
    assert values.grad.abs().max().item() == pytest.approx(0, abs=1e-10)


@given(st.lists(floats, min_size=2, max_size=6).filter(lambda row: max(row) - min(row) > 1e-3), st.floats(0.01, 3))
def test_where_critics_differ_their_mean_falls_and_they_approach_each_other(row: list[float], beta: float) -> None:
    values = torch.tensor(row, dtype=torch.float64).unsqueeze(1).requires_grad_()
    pessimistic_loss(values, torch.ones(1, dtype=torch.bool), beta).backward()
    assert values.grad is not None
    spread = float(np.std(row))  # the population's
    np.testing.assert_allclose(values.grad.mean().item(), 2 * beta * spread, rtol=1e-9, atol=1e-9)
    after = values.detach() - 0.05 * values.grad
    assert after.mean() < values.mean()
    assert after.std() < values.std()


def test_one_critic_has_no_uncertainty() -> None:
    values = torch.randn(1, 7, requires_grad=True)
    loss = pessimistic_loss(values, torch.ones(7, dtype=torch.bool), 1.0)
    loss.backward()
    assert loss.item() == 0 and values.grad is not None and not values.grad.any()


def test_padding_does_not_count() -> None:
    values = torch.tensor([[1.0, 1.0, torch.inf], [3.0, 1.0, torch.nan]])
    mask = torch.tensor([True, True, False])
    # y = 2 - 1 = 1 in the first column: (1 - 1)² + (3 - 1)²; nothing in the second one.
    assert pessimistic_loss(values, mask, 1.0).item() == 2.0
