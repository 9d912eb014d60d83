"""The GRU against torch's, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from phalanx.algorithms.common.agents import RecurrentAgents, agent_inputs
from phalanx.algorithms.common.gru import gru_sequence, gru_step
from phalanx.algorithms.common.networks.plan import Plan
from phalanx.configs.settings import AgentSettings

sizes = st.integers(1, 5)
many_rows = st.integers(1, 19)  # whole blocks and what is left over
state_sizes = st.sampled_from([1, 3, 5, 8, 16, 24])  # from 8 on compiled code does it, where there is a compiler


def problem(
    seed: int, members: int, steps: int, rows: int, size: int, inputs: int = 3, scale: float = 1.0
) -> tuple[Tensor, ...]:
    """What gru_sequence takes: inputs, weights of inputs and states, biases of both."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, generator=draw, dtype=torch.float64)).requires_grad_(True)

    width = 3 * size
    weights = normal(members, width, inputs), normal(members, width, size)
    return normal(members, steps, rows, inputs), *weights, normal(members, width), normal(members, width)


def by_torch(x: Tensor, *parameters: Tensor) -> Tensor:
    """torch.nn.GRU, one member after the other."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    gru = nn.GRU(x.shape[-1], parameters[1].shape[-1]).double()
    members = [dict(zip(names, (p[k] for p in parameters), strict=True)) for k in range(x.shape[0])]
    return torch.stack([torch.func.functional_call(gru, values, (x[k],))[0] for k, values in enumerate(members)])


def gradients(outcome: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weights = torch.randn(outcome.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.autograd.grad((outcome * weights).sum(), tensors)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), members=sizes, steps=sizes, rows=many_rows, size=state_sizes, inputs=sizes)
def test_equals_torch(seed: int, members: int, steps: int, rows: int, size: int, inputs: int) -> None:
    tensors = problem(seed, members, steps, rows, size, inputs)
    ours, theirs = gru_sequence(*tensors), by_torch(*tensors)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(ours, tensors), gradients(theirs, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), members=sizes, steps=sizes, rows=many_rows, size=state_sizes)
def test_steps_make_the_sequence(seed: int, members: int, steps: int, rows: int, size: int) -> None:
    x, weight_ih, weight_hh, bias_ih, bias_hh = problem(seed, members, steps, rows, size)
    hidden = torch.zeros(members, rows, size, dtype=torch.float64)
    stepped = []
    with torch.no_grad():
        for t in range(steps):
            gates = torch.einsum("kmi,kgi->kmg", x[:, t], weight_ih) + bias_ih[:, None]
            hidden = gru_step(gates, hidden, weight_hh, bias_hh)
            stepped.append(hidden)
        sequence = gru_sequence(x, weight_ih, weight_hh, bias_ih, bias_hh)
    torch.testing.assert_close(torch.stack(stepped, 1), sequence, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("size", [2, 8])
def test_gradients_numerically(size: int) -> None:
    assert torch.autograd.gradcheck(gru_sequence, problem(3, 2, 4, 3, size), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [4, 8])
def test_gradients_of_one_step_alone(size: int) -> None:
    """What comes after the only step that the loss uses has gradient zero, not whatever was in memory."""
    tensors = problem(5, 2, 5, 3, size)
    for t in (0, 2, 4):
        mine = torch.autograd.grad(gru_sequence(*tensors)[:, t].square().sum(), tensors)
        torchs = torch.autograd.grad(by_torch(*tensors)[:, t].square().sum(), tensors)
        for a, b in zip(mine, torchs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        assert not mine[0][:, t + 1 :].any()


@pytest.mark.parametrize("size", [5, 8])
def test_gradients_without_those_of_the_input(size: int) -> None:
    """The learner's inputs need none; the parameters' must not change for it, nor where nothing is saved."""
    x, *parameters = problem(6, 3, 4, 2, size)
    of_all = gradients(gru_sequence(x, *parameters), (x, *parameters))[1:]
    of_parameters = gradients(gru_sequence(x.detach(), *parameters), tuple(parameters))
    assert all(torch.equal(a, b) for a, b in zip(of_all, of_parameters, strict=True))
    nothing_saved = gru_sequence(x.detach(), *(p.detach() for p in parameters))
    assert torch.equal(nothing_saved, gru_sequence(x, *parameters))


@pytest.mark.parametrize(("size", "scale"), [(4, 100.0), (8, 100.0), (8, 1e30)])
def test_saturated_gates_stay_finite(size: int, scale: float) -> None:
    """Sigmoid and tanh are flat, and a tanh made of a sigmoid must still be -1 and 1."""
    tensors = problem(7, 2, 6, 3, size, scale=scale)
    ours = gru_sequence(*tensors)
    torch.testing.assert_close(ours, by_torch(*tensors), rtol=1e-12, atol=1e-12)
    assert all(g.isfinite().all() for g in gradients(ours, tensors))


@pytest.mark.parametrize(("members", "size"), [(1, 2), (2, 2), (2, 8)])
def test_inputs_are_left_alone(members: int, size: int) -> None:
    tensors = problem(9, members, 3, 4, size)
    before = [tensor.detach().clone() for tensor in tensors]
    outcome = gru_sequence(*tensors)
    kept = outcome.detach().clone()
    outcome.sum().backward()
    gates = torch.randn(members, 4, 3 * size, dtype=torch.float64)
    gates_before = gates.clone()
    gru_step(gates, kept[:, 0], tensors[2].detach(), tensors[4].detach())
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert torch.equal(outcome, kept) and torch.equal(gates, gates_before)


@pytest.mark.parametrize("size", [2, 8])
def test_backward_twice(size: int) -> None:
    """What is saved survives a first backward (retain_graph)."""
    tensors = problem(11, 2, 3, 4, size)
    loss = gru_sequence(*tensors).square().sum()
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, tensors), strict=True))


@pytest.mark.parametrize(
    ("x", "weight_ih", "weight_hh"),
    [
        ((2, 5, 4, 3), (3, 12, 3), (2, 12, 4)),  # members of the weights
        ((1, 5, 4, 3), (2, 12, 3), (2, 12, 4)),  # members of the input
        ((5, 4, 3), (1, 12, 3), (1, 12, 4)),  # no axis for members
        ((2, 5, 4, 3), (2, 12, 4), (2, 12, 4)),  # inputs
        ((2, 5, 4, 3), (2, 12, 3), (2, 12, 5)),  # not three blocks
        ((2, 5, 4, 3), (2, 9, 3), (2, 12, 4)),  # width
    ],
)
def test_wrong_shapes_are_refused(x: tuple[int, ...], weight_ih: tuple[int, ...], weight_hh: tuple[int, ...]) -> None:
    biases = torch.zeros(weight_hh[:2]), torch.zeros(weight_hh[:2])
    with pytest.raises(ValueError, match=r"not \[K, T, M, I\], \[K, 3H, I\] and \[K, 3H, H\]"):
        gru_sequence(torch.zeros(x), torch.zeros(weight_ih), torch.zeros(weight_hh), *biases)


# -- the network around it ---------------------------------------------------------------------------------------------


def test_members_are_independent_networks() -> None:
    """K networks side by side are the same as K networks one by one, also where some of them are chosen."""
    torch.manual_seed(0)
    together = RecurrentAgents(Plan(3, 5, 2, AgentSettings(hidden=4))).double()
    inputs = torch.randn(6, 7, 5, dtype=torch.float64)
    values, hidden = together(inputs), together.hidden_states(inputs)
    assert values.shape == (3, 6, 7, 2) and hidden.shape == (3, 6, 7, 4)
    for k in range(3):
        alone = RecurrentAgents(Plan(1, 5, 2, AgentSettings(hidden=4))).double()
        alone.load_state_dict({name: tensor[k : k + 1] for name, tensor in together.state_dict().items()})
        torch.testing.assert_close(alone(inputs)[0], values[k], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(alone.hidden_states(inputs)[0], hidden[k], rtol=1e-13, atol=1e-13)
    for members in ([2, 0], [1], [0, 1, 2]):
        chosen = together(inputs, torch.tensor(members))
        torch.testing.assert_close(chosen, values[members], rtol=1e-13, atol=1e-13)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), episodes=sizes, steps=sizes, agents=sizes, obs=sizes, actions=sizes)
def test_what_agents_see(seed: int, episodes: int, steps: int, agents: int, obs: int, actions: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    seen = torch.randn(episodes, steps + 1, agents, obs, generator=draw)
    acted = torch.randint(actions, (episodes, steps, agents), generator=draw)
    inputs = agent_inputs(seen, acted, actions)
    assert inputs.shape == (steps + 1, episodes * agents, obs + actions + agents)
    moved = torch.randn(episodes, steps, agents, actions, generator=draw)
    continuous = agent_inputs(seen, moved, 0)
    for b in range(episodes):
        for t in range(steps + 1):
            for n in range(agents):
                last = [0.0] * actions
                if t > 0:
                    last[acted[b, t - 1, n]] = 1.0
                identity = [float(i == n) for i in range(agents)]
                assert inputs[t, b * agents + n].tolist() == [*seen[b, t, n].tolist(), *last, *identity]
                last = moved[b, t - 1, n].tolist() if t > 0 else last
                assert continuous[t, b * agents + n].tolist() == [*seen[b, t, n].tolist(), *last, *identity]


@pytest.mark.parametrize("native", ["1", "0"])
def test_a_sequence_goes_on_from_a_state(native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the later part of a longer one whose states are constants up to there."""
    if native == "0":
        monkeypatch.setattr("phalanx.algorithms.common.gru.gru_kernel", lambda like: None)
    draw = torch.Generator().manual_seed(3)
    shapes = ((2, 7, 5, 3), (2, 24, 3), (2, 24, 8), (2, 24), (2, 24))
    x, *weights = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
    whole = gru_sequence(x, *weights)
    for weight in weights:
        weight.requires_grad_(True)
    later = gru_sequence(x[:, 4:], *weights, whole[:, 3])
    torch.testing.assert_close(later, whole[:, 4:], rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(later.square().sum(), weights)
    state, steps = whole[:, 3], []
    for t in range(4, 7):
        gates = torch.baddbmm(weights[2].unsqueeze(1), x[:, t], weights[0].transpose(1, 2))
        state = gru_step(gates, state, weights[1], weights[3])
        steps.append(state)
    expected = torch.autograd.grad(torch.stack(steps, 1).square().sum(), weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
