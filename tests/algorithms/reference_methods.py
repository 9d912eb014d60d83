"""What single methods add to the second, plain implementation (see reference.py): loops over samples and actions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tests.algorithms.reference_networks import Parameters, agent_net, linear, mix, pick, valid_steps

if TYPE_CHECKING:
    from tests.algorithms.reference import Case


# -- RES ---------------------------------------------------------------------------------------------------------------


def returns(case: Case, reward: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Σ γ^k r_{t+k} within each episode, and nothing in its padding. reward: [B, T+1]."""
    found = np.zeros(reward.shape, np.float64)
    for row, length in enumerate(case.lengths):
        for t in range(length):
            found[row, t] = sum(case.gamma**k * float(reward[row, t + k]) for k in range(length - t))
    return found


def softmax_of_counterfactuals(
    case: Case, p: Parameters, batch: Parameters, online: Tensor, target: Tensor, greedy: Tensor
) -> Parameters:
    """One joint action after the other through the whole mixer, unavailable ones too."""
    impossible = torch.tensor(-9999999.0, dtype=torch.float64)
    online = torch.where(batch["avail"] == 0, impossible, online)[:, 1:]
    target, greedy, state = target[:, 1:], greedy[:, 1:], batch["state"][:, 1:]
    q, q_target = torch.empty_like(online), torch.empty_like(online)
    for agent in range(case.agents):
        for action in range(case.actions):
            joint = greedy.clone()
            joint[..., agent] = action
            q[..., agent, action] = mix(p, "mixer/", pick(online, joint), state)[0].detach()
            q_target[..., agent, action] = mix(p, "target_mixer/", pick(target, joint), state)[0].detach()
    weight = torch.empty_like(q)
    for b in range(q.shape[0]):
        for t in range(q.shape[1]):
            shares = [math.exp(case.beta * (x - float(q[b, t].max()))) for x in q[b, t].flatten().tolist()]
            weight[b, t] = (torch.tensor(shares, dtype=torch.float64) / sum(shares)).view(case.agents, case.actions)
    return {
        "out/counterfactual_q": q,
        "out/counterfactual_q_target": q_target,
        "out/softmax_weights": weight,
        "value": (weight * q_target).sum((-1, -2)),
    }


# -- WCU and SM2 -------------------------------------------------------------------------------------------------------


def weighted_critics(case: Case, q_tot: Tensor, y: Tensor, over_valid: Callable[[Tensor], Tensor]) -> Parameters:
    """Two mixers; `mean_error` is what the authors log the size of."""
    first, second = q_tot[..., 0], q_tot[..., 1]
    errors = [case.phi * own + (1 - case.phi) * other.detach() - y for own, other in ((first, second), (second, first))]
    out = {f"out/td_error_{h}": error for h, error in enumerate(errors)}
    out |= {f"loss/td_{h}": over_valid(error**2) for h, error in enumerate(errors)}
    return out | {"mean_error": (errors[0] + errors[1]) / 2}


def soft_mellowmax(case: Case, values: Tensor, avail: Tensor) -> Tensor:
    """As the paper writes it, over the available actions. values, avail: [B, T+1, N, A]."""
    found = torch.zeros(values.shape[:-1], dtype=torch.float64)
    for b, t, n in np.ndindex(*found.shape):
        q = [float(x) for x, there in zip(values[b, t, n], avail[b, t, n], strict=True) if there]
        total = sum(math.exp(case.sm2_alpha * x) for x in q)
        mellow = sum(math.exp(case.sm2_alpha * x) / total * math.exp(case.sm2_omega * x) for x in q)
        found[b, t, n] = math.log(mellow) / case.sm2_omega
    return found


# -- QTRAN -------------------------------------------------------------------------------------------------------------


def qtran_shapes(case: Case) -> dict[str, tuple[int, int]]:
    s, e, x = case.state, case.embed, case.hidden + case.actions
    shapes = {"action_encoding.0": (x, x), "action_encoding.2": (x, x)}
    for name, inputs in (("Q", s + x), ("V", s)):
        shapes |= {f"{name}.0": (e, inputs), f"{name}.2": (e, e), f"{name}.4": (1, e)}
    return shapes


def deep(p: Parameters, name: str, x: Tensor, layers: tuple[int, ...]) -> Tensor:
    for layer in layers:
        x = linear(p, f"{name}.{layer}", x if layer == 0 else torch.relu(x))
    return x


def joint_value(case: Case, p: Parameters, name: str, hidden: Tensor, actions: Tensor, state: Tensor) -> Tensor:
    encoded = torch.zeros((), dtype=torch.float64)
    for n in range(case.agents):
        one_hot = torch.eye(case.actions, dtype=torch.float64)[actions[..., n]]
        x = torch.cat([hidden[..., n, :], one_hot], -1)
        encoded = encoded + deep(p, f"{name}action_encoding", x, (0, 2))
    return deep(p, f"{name}Q", torch.cat([state, encoded], -1), (0, 2, 4))[..., 0]


def qtran(case: Case, p: Parameters, batch: Parameters) -> tuple[Tensor, Parameters]:
    """The loss and everything the format knows about it."""
    values, hidden = agent_net(p, "agent/", case, batch)
    target_values, target_hidden = agent_net(p, "target_agent/", case, batch)
    impossible = torch.tensor(-9999999.0, dtype=torch.float64)
    greedy = torch.where(batch["avail"] == 0, impossible, values.detach()).argmax(-1)
    now, actions, state = greedy[:, :-1], batch["actions"][:, :-1], batch["state"]
    v = deep(p, "mixer/V", state[:, :-1], (0, 2, 4))[..., 0]
    q_jt = joint_value(case, p, "mixer/", hidden[:, :-1], actions, state[:, :-1])
    at_greedy = joint_value(case, p, "mixer/", hidden[:, :-1], now, state[:, :-1]).detach()
    following = joint_value(case, p, "target_mixer/", target_hidden[:, 1:], greedy[:, 1:], state[:, 1:]).detach()
    y = batch["reward"][:, :-1] + case.gamma * (1 - batch["terminated"][:, :-1].double()) * following
    mask = valid_steps(case, batch)
    chosen = pick(values[:, :-1], actions)
    error = q_jt - y
    opt = pick(values[:, :-1], now).sum(-1) - at_greedy + v
    nopt = (chosen.sum(-1) - q_jt.detach() + v).clamp(max=0)

    def over_valid(x: Tensor) -> Tensor:
        return (x * mask).sum() / mask.sum()

    losses = {"td": over_valid(error**2), "opt": over_valid(opt**2), "nopt": over_valid(nopt**2)}
    total = losses["td"] + case.opt * losses["opt"] + case.nopt * losses["nopt"]
    out = {f"loss/{name}": loss for name, loss in losses.items()}
    out |= {f"log/{name}_loss": loss for name, loss in losses.items()}
    out |= {
        "loss/total": total, "log/loss": total, "out/mask": mask, "out/y": y, "out/next_target": following,
        "out/q_tot": q_jt, "out/td_error": error, "out/q_online": values, "out/h_online": hidden,
        "out/q_target": target_values.detach(), "out/greedy_actions": greedy, "out/v": v,
        # As upstream logs them: "targets" is the error, and what is not valid is summed too, but not counted.
        "log/td_error_abs": over_valid(error.abs()), "log/td_targets": over_valid(error),
        "log/td_chosen_qs": q_jt.sum() / mask.sum(), "log/v_mean": v.sum() / mask.sum(),
        "log/agent_indiv_qs": over_valid(chosen.sum(-1)) / case.agents,
    }  # fmt: skip
    return total, out
