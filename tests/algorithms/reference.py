"""A second, plain implementation of the update, for comparison: GRU cells stepped in a loop, every member and mixer on
its own, autograd for all gradients, RMSprop by hand. It shares no code with phalanx; it makes golden files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tests.algorithms import reference_methods as methods
from tests.algorithms.reference_networks import Parameters, agent_net, mix, mix_centrally, pick, valid_steps

IMPOSSIBLE = -9999999.0
Arrays = dict[str, npt.NDArray[Any]]


MIXERS = {"vdn": "vdn", "demar": "eqmix", "td3": "eqmix", "wcu": "eqmix", "qtran": "qtran_base"}


@dataclass
class Case:
    """One file to be made: sizes, method and how its padding looks."""

    method: str  # qmix, vdn, td3, wcu, res, sm2, qtran, demar, ow or cw
    seed: int = 0
    agents: int = 3
    actions: int = 4
    obs: int = 5
    state: int = 6
    hidden: int = 7
    embed: int = 4
    hypernet: int = 6
    steps: int = 5
    lengths: tuple[int, ...] = (5, 2, 4, 1)
    terminated: tuple[bool, ...] = (False, True, False, True)
    garbage: bool = False
    nets: int = 1
    nets_drawn: int = 1
    mixers: int = 1
    mixers_drawn: int = 1
    alpha: float = 0.0  # of the regulariser
    weight: float = 0.3  # of transitions that are not favoured
    central: str = "ff"
    width: int = 6
    beta: float = 0.5  # of the softmax of RES
    penalty: float = 0.2  # λ of RES
    phi: float = 0.7  # of WCU
    sm2_alpha: float = 0.9
    sm2_omega: float = 0.6
    opt: float = 0.8  # of QTRAN
    nopt: float = 0.3
    gamma: float = 0.97
    lr: float = 7e-4
    clip: float = 3.0
    double_q: bool = True
    smoothing: float = 0.98
    eps: float = 2e-5
    extra_hp: dict[str, Any] = field(default_factory=dict)

    @property
    def is_central(self) -> bool:
        return self.method in ("ow", "cw")

    def hp(self) -> dict[str, Any]:
        """As the golden files say it."""
        hp: dict[str, Any] = {
            "case": self.method, "batch": len(self.lengths), "T": self.steps, "n_agents": self.agents,
            "n_actions": self.actions, "obs_shape": self.obs, "state_shape": self.state, "gamma": self.gamma,
            "double_q": self.double_q, "lr": self.lr, "optim_alpha": self.smoothing, "optim_eps": self.eps,
            "grad_norm_clip": self.clip, "rnn_hidden_dim": self.hidden, "mixing_embed_dim": self.embed,
            "hypernet_embed": self.hypernet, "hypernet_layers": 2, "obs_agent_id": True, "obs_last_action": True,
            "mixer": MIXERS.get(self.method, "qmix"),
        }  # fmt: skip
        if self.method in ("td3", "wcu"):
            hp |= {"mixer_N": self.mixers, "wcu": self.method == "wcu", "wcu_phi": self.phi}
        if self.method == "res":
            hp |= {"res": True, "res_beta": self.beta, "res_lambda": self.penalty}
        if self.method == "sm2":
            hp |= {"sm2_alpha": self.sm2_alpha, "sm2_omega": self.sm2_omega}
        if self.method == "qtran":
            hp |= {"opt_loss": self.opt, "nopt_min_loss": self.nopt}
        if self.method == "demar":
            hp |= {"agent_N": self.nets, "agent_M": self.nets_drawn, "mixer_N": self.mixers}
            hp |= {"mixer_M": self.mixers_drawn, "hyper_alpha": self.alpha, "red_lambda": 0.0, "v_reg": False}
        if self.is_central:
            hp |= {"hysteretic_qmix": self.method == "ow", "w": self.weight, "central_mixer": self.central}
            hp |= {"central_mixing_embed_dim": self.width, "qmix_loss": 1, "central_loss": 1}
        return hp | self.extra_hp


# -- what a file starts from -------------------------------------------------------------------------------------------


def make_batch(case: Case, rng: np.random.Generator) -> Arrays:
    """Episodes as in the golden files; with `garbage`, everything that was never seen is random."""
    b, t, n, a = len(case.lengths), case.steps, case.agents, case.actions
    avail = (rng.random((b, t + 1, n, a)) < 0.6).astype(np.int32)
    avail[np.arange(b)[:, None, None], np.arange(t + 1)[:, None], np.arange(n), rng.integers(a, size=(b, t + 1, n))] = 1
    scores = np.where(avail > 0, rng.random(avail.shape), -1.0)
    batch: Arrays = {
        "obs": rng.normal(size=(b, t + 1, n, case.obs)).astype(np.float32),
        "state": rng.normal(size=(b, t + 1, case.state)).astype(np.float32),
        "avail": avail,
        "actions": scores.argmax(-1),
        "reward": rng.normal(size=(b, t + 1)).astype(np.float32),
        "terminated": rng.integers(0, 2, size=(b, t + 1)).astype(np.uint8),
        "filled": np.zeros((b, t + 1), np.int64),
    }
    for row, (length, ends) in enumerate(zip(case.lengths, case.terminated, strict=True)):
        # A terminated episode's last observation is filled too, as PyMARL's runner leaves it; a full one's as well.
        batch["filled"][row, : length + (1 if ends or length == t else 0)] = 1
        batch["terminated"][row, :length] = 0
        batch["terminated"][row, length - 1] = ends
        if not case.garbage:
            batch["terminated"][row, length:] = 0
            batch["reward"][row, length:] = 0
            batch["actions"][row, length:] = 0
            for name in ("obs", "state", "avail"):
                batch[name][row, length + 1 :] = 0
            batch["avail"][row, length + 1 :, :, 0] = 1
    return batch


def make_parameters(case: Case, rng: np.random.Generator) -> Arrays:
    """Online and target values, drawn independently, exact in float32."""
    n, s, h, e, y = case.agents, case.state, case.hidden, case.embed, case.hypernet
    net = {"fc1": (h, case.obs + case.actions + n), "fc2": (case.actions, h)}
    gru = {"gru.weight_ih": (3 * h, h), "gru.weight_hh": (3 * h, h), "gru.bias_ih": (3 * h,), "gru.bias_hh": (3 * h,)}
    mixer = {
        "hyper_w1.0": (y, s), "hyper_w1.2": (n * e, y), "hyper_wf.0": (y, s), "hyper_wf.2": (e, y), "hyper_b1": (e, s),
        "V.0": (e, s), "V.2": (1, e),
    }  # fmt: skip
    w = case.width
    ff = {"net.0": (w, s + n), "net.2": (w, w), "net.4": (w, w), "net.6": (1, w), "V.0": (w, s), "V.2": (1, w)}
    atten = {
        "atten_layer.0": (y, s), "atten_layer.2": (n * w, y), "net.0": (w, w), "net.2": (w, w), "net.4": (1, w),
        "V.0": (w, s), "V.2": (1, w),
    }  # fmt: skip

    def layers(shapes: dict[str, tuple[int, int]], scale: float) -> dict[str, tuple[tuple[int, ...], float]]:
        weights = {f"{name}.weight": (shape, scale) for name, shape in shapes.items()}
        return weights | {f"{name}.bias": ((shape[0],), scale) for name, shape in shapes.items()}

    agent = layers(net, 0.6) | {name: (shape, 0.6) for name, shape in gru.items()}
    wanted: dict[str, tuple[tuple[int, ...], float]] = {}
    for k in range(case.nets):
        wanted |= {f"agent/{f'k{k}.' if case.method == 'demar' else ''}{name}": x for name, x in agent.items()}
    for m in range(case.mixers if case.method not in ("vdn", "qtran") else 0):
        prefix = f"h{m}." if case.method in PREFIXED else ""
        wanted |= {f"mixer/{prefix}{name}": x for name, x in layers(mixer, 0.7).items()}
    if case.method == "qtran":
        wanted |= {f"mixer/{name}": x for name, x in layers(methods.qtran_shapes(case), 0.7).items()}
    if case.is_central:
        wanted |= {f"central_agent/{name}": x for name, x in agent.items()}
        central = layers(ff if case.central == "ff" else atten, 0.8)
        wanted |= {f"central_mixer/{name}": x for name, x in central.items()}
    return {
        prefix + name: rng.uniform(-scale, scale, shape).astype(np.float32)
        for prefix in ("", "target_")
        for name, (shape, scale) in wanted.items()
    }


# -- one update --------------------------------------------------------------------------------------------------------


def forward(
    case: Case, p: Parameters, batch: Parameters, nets_drawn: list[int], mixers_drawn: list[int]
) -> tuple[Tensor, Parameters]:
    """The loss, and everything the format knows about it by the format's keys."""
    if case.method == "qtran":
        return methods.qtran(case, p, batch)
    out: Parameters = {}
    prefixed = case.method == "demar"
    names = [f"k{k}." if prefixed else "" for k in range(case.nets)]
    online = [agent_net(p, f"agent/{name}", case, batch) for name in names]
    target = [agent_net(p, f"target_agent/{name}", case, batch)[0].detach() for name in names]
    mean = torch.stack([values for values, _ in online]).sum(0) / case.nets
    minimum = torch.stack([target[k] for k in nets_drawn]).amin(0)
    impossible, worst = batch["avail"] == 0, torch.tensor(IMPOSSIBLE, dtype=torch.float64)
    minimum = torch.where(impossible, worst, minimum)
    greedy = torch.where(impossible, worst, mean.detach()).argmax(-1)
    mask = valid_steps(case, batch)

    chosen = pick(mean[:, :-1], batch["actions"][:, :-1])
    at_next = pick(minimum, greedy) if case.double_q else minimum.amax(-1)
    if case.method == "sm2":
        at_next = methods.soft_mellowmax(case, minimum, batch["avail"])
        out["out/sm2_q"] = at_next[:, 1:]
    q_tot, v, target_v, per_mixer, l1 = mixed(case, p, batch, chosen, at_next)
    if case.is_central:
        central = central_values(case, p, batch, greedy)
        next_value = central["next"]
        out |= {f"out/q_central{key}": central[x] for key, x in CENTRAL_KEYS.items()}
    elif case.method == "res":
        found = methods.softmax_of_counterfactuals(case, p, batch, mean.detach(), minimum, greedy)
        next_value = found.pop("value")
        out |= found
    else:
        next_value = per_mixer[..., mixers_drawn].amin(-1)
    y = batch["reward"][:, :-1] + case.gamma * (1 - batch["terminated"][:, :-1].double()) * next_value
    y = y.detach()
    error = q_tot - y[..., None]

    def over_valid(x: Tensor) -> Tensor:
        return (x * mask.reshape(*mask.shape, *[1] * (x.dim() - 2))).sum() / mask.sum() / max(1, x[0, 0].numel())

    if case.method == "wcu":
        out |= methods.weighted_critics(case, q_tot, y, over_valid)
        total = (out["loss/td_0"] + out["loss/td_1"]) / 2
    elif case.is_central:
        out |= weighted(case, batch, greedy, error, central, y, over_valid)
        total = out["loss/qmix"] + out["loss/central"]
    else:
        out["loss/td"] = over_valid(error**2)
        total = out["loss/td"]
    if case.method == "res":
        out["loss/mc"] = over_valid((q_tot[..., 0] - batch["mc_return"][:, :-1]) ** 2)
        total = total + case.penalty * out["loss/mc"]
    if prefixed:
        out |= {"loss/reg": l1.mean(), "log/hyper_loss": l1.mean(), "out/v": v, "out/target_v": target_v}
        out |= {"out/q_online_mean": mean, "out/q_target_min_masked": minimum[:, 1:]}
        out["out/dqtotsum_dqi"] = torch.autograd.grad(q_tot.sum(), chosen, retain_graph=True)[0]
        for key, x in DEMAR_LOGS.items():
            out[f"log/{key}"] = over_valid(chosen if x is None else out[f"out/{x}"]) / case.agents
        total = total + case.alpha * l1.mean()
    if case.method in PREFIXED:
        out["out/next_target_per_mixer"] = per_mixer
    states = [state for _, state in online]
    out |= {
        "out/q_online": torch.stack([values for values, _ in online], -1) if prefixed else online[0][0],
        "out/h_online": torch.stack(states, -1) if prefixed else states[0],
        "out/q_target": torch.stack(target, -1) if prefixed else target[0],
        "out/greedy_actions": greedy if case.is_central else greedy[:, 1:],
        "out/mask": mask, "out/y": y, "out/next_target": next_value, "loss/total": total, "log/loss": total,
        "out/q_tot": q_tot if case.mixers > 1 else q_tot[..., 0],
        "out/td_error": error if case.mixers > 1 else error[..., 0],
        "log/td_error_abs": over_valid(out.get("mean_error", error).abs()),
        "log/target_mean": over_valid(y) / case.agents, "log/q_taken_mean": over_valid(q_tot) / case.agents,
    }  # fmt: skip
    out.pop("mean_error", None)
    return total, out


DEMAR_LOGS = {
    "v_taken_mean": "v",
    "target_v_mean": "target_v",
    "qtot_qi_gradient": "dqtotsum_dqi",
    "agent_utility": None,
}
PREFIXED = ("demar", "td3", "wcu")
CENTRAL_KEYS = {"_online": "online", "_target": "target", "": "chosen"}


def mixed(case: Case, p: Parameters, batch: Parameters, chosen: Tensor, at_next: Tensor) -> tuple[Tensor, ...]:
    """Q_tot, V, target V, the target mixers' values at the next step and L1 norms, each [B, T, H]."""
    if case.method == "vdn":
        zero = torch.zeros_like(chosen[..., :1])
        return chosen.sum(-1, keepdim=True), zero, zero, at_next[:, 1:].sum(-1, keepdim=True), zero
    names = [f"h{m}." if case.method in PREFIXED else "" for m in range(case.mixers)]
    now = [mix(p, f"mixer/{name}", chosen, batch["state"][:, :-1]) for name in names]
    after = [mix(p, f"target_mixer/{name}", at_next[:, 1:], batch["state"][:, 1:]) for name in names]
    q_tot, v, l1 = (torch.stack([x[i] for x in now], -1) for i in range(3))
    return q_tot, v, torch.stack([x[1] for x in after], -1), torch.stack([x[0] for x in after], -1).detach(), l1


def central_values(case: Case, p: Parameters, batch: Parameters, greedy: Tensor) -> Parameters:
    online = agent_net(p, "central_agent/", case, batch)[0]
    target = agent_net(p, "target_central_agent/", case, batch)[0]
    q = pick(online[:, :-1], batch["actions"][:, :-1])
    value = mix_centrally(p, "target_central_mixer/", case, pick(target, greedy), batch["state"]).detach()
    return {
        "online": online,
        "target": target,
        "chosen": mix_centrally(p, "central_mixer/", case, q, batch["state"][:, :-1]),
        "now": value[:, :-1],
        "next": value[:, 1:],
    }


def weighted(
    case: Case, batch: Parameters, greedy: Tensor, error: Tensor, central: Parameters, y: Tensor, over_valid: Any
) -> Parameters:
    w = torch.empty_like(y)
    for b in range(w.shape[0]):
        for t in range(w.shape[1]):
            if case.method == "ow":
                full = bool(error[b, t, 0] < 0)
            else:
                is_greedy = bool((batch["actions"][b, t] == greedy[b, t]).all())
                full = is_greedy or bool(y[b, t] > central["now"][b, t])
            w[b, t] = 1.0 if full else case.weight
    square = error[..., 0] ** 2
    losses = {"loss/qmix": over_valid(w * square), "loss/central": over_valid((central["chosen"] - y) ** 2)}
    losses |= {"loss/td_unweighted": over_valid(square)}
    losses |= {"out/w": w, "log/w_to_use": w.mean()}
    return losses | {"log/qmix_loss": losses["loss/qmix"], "log/central_loss": losses["loss/central"]}


# -- two steps, and the file -------------------------------------------------------------------------------------------


def make_file(case: Case, path: Path) -> Arrays:
    """Writes the case's file and returns its contents."""
    rng = np.random.default_rng(case.seed)
    data: Arrays = make_parameters(case, rng)
    trained = [name for name in data if not name.startswith("target_")]
    data |= {f"batch/{name}": array for name, array in make_batch(case, rng).items()}
    if case.method == "res":
        data["batch/mc_return"] = methods.returns(case, data["batch/reward"])
    batch = {name[6:]: torch.from_numpy(array) for name, array in data.items() if name.startswith("batch/")}
    batch |= {name: batch[name].double() for name in ("obs", "state", "reward")}
    p = {name: torch.from_numpy(array).double() for name, array in data.items() if not name.startswith("batch/")}
    average = {name: torch.zeros_like(p[name]) for name in trained}
    results: Parameters = {}
    for step, after in enumerate(("after", "after2")):
        nets = sorted(rng.choice(case.nets, case.nets_drawn, replace=False).tolist(), reverse=True)
        mixers = rng.choice(case.mixers, case.mixers_drawn, replace=False).tolist()
        if case.method == "demar":
            kind = "subset" if step == 0 else "subset2"
            data |= {f"{kind}/agents": np.array(nets), f"{kind}/mixers": np.array(mixers)}
        for name in trained:
            p[name].requires_grad_(True)
        total, out = forward(case, p, batch, nets, mixers if case.method == "demar" else list(range(case.mixers)))
        gradients = dict(zip(trained, torch.autograd.grad(total, [p[name] for name in trained]), strict=True))
        norm = torch.sqrt(torch.stack([(g**2).sum() for g in gradients.values()]).sum())
        if step == 0:
            results |= out | {f"grad/{name}": g for name, g in gradients.items()}
            results |= {"out/grad_norm": norm, "log/grad_norm": norm}
        else:
            results |= {"step2/loss_total": total, "step2/grad_norm": norm}
        scale = min(1.0, case.clip / (float(norm) + 1e-6))
        for name in trained:
            g = gradients[name] * scale
            average[name] = case.smoothing * average[name] + (1 - case.smoothing) * g**2
            p[name] = (p[name] - case.lr * g / (torch.sqrt(average[name]) + case.eps)).detach()
            results[f"{after}/{name}"] = p[name].clone()
    data |= {name: value.detach().numpy() for name, value in results.items()}
    data |= {f"f32/{name}": data[name].astype(np.float32) for name in ("loss/total", "out/grad_norm", "out/y")}
    data["hp"] = np.array(json.dumps(case.hp()))
    np.savez(path, **data)
    return data
