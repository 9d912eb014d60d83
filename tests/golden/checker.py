"""Compares our learner with a golden file: every value that the file holds, in float64 to 1e-9."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phalanx.algorithms.base import TensorBatch
from phalanx.algorithms.common.agents import agent_inputs
from phalanx.algorithms.common.losses import masked_mean
from phalanx.algorithms.common.mixers import mixing_gradient
from phalanx.algorithms.common.targets import mask_unavailable
from phalanx.algorithms.qtran_base import QTRANBase
from phalanx.algorithms.res import RES
from phalanx.algorithms.value_mixing import EnsembleSettings, Terms, ValueMixing
from phalanx.cluster.learner import make_optimiser
from tests.golden.cases import Arrays, build
from tests.golden.methods import method_outputs, own_returns
from tests.golden.parameters import Unmapped, parameter_keys, slot

TOLERANCE = 1e-9
TOLERANCE_F32 = 1e-4  # of the few values that the file also holds in single precision
_COMPARED = ("out/", "loss/", "grad/", "after/", "after2/", "step2/", "log/", "f32/", "batch/mc_return")
_REQUIRED = ("loss/total", "grad/", "after/")  # without these a file shows nothing


@dataclass
class Report:
    """Outcome of one file: worst deviation max|x − ref| / max(1, max|ref|) among float64 values, and its key."""

    worst: float
    key: str
    missed: list[str]
    not_compared: list[str]

    @property
    def passed(self) -> bool:
        return not self.missed and not self.not_compared


class _FixedDraws:
    """Stands in for the learner's generator: gives the subsets that the file used, agents first."""

    def __init__(self, data: Arrays, prefix: str) -> None:
        self._subsets = [data[f"{prefix}/{kind}"] for kind in ("agents", "mixers") if f"{prefix}/{kind}" in data]

    def only_proper(self, ensemble: EnsembleSettings) -> _FixedDraws:
        """Leaves out the kinds of which all members take part: nothing is drawn for those."""
        sizes = (ensemble.agents, ensemble.mixers)
        self._subsets = [s for s, members in zip(self._subsets, sizes, strict=False) if len(s) < members]
        return self

    def choice(self, members: int, size: int, replace: bool) -> npt.NDArray[np.int64]:
        if replace or not self._subsets or len(self._subsets[0]) != size:
            raise Unmapped(f"the file holds no subset of {size} out of {members}")
        return np.asarray(self._subsets.pop(0), dtype=np.int64)


def check_file(path: Path) -> Report:
    """Runs two updates on the file's batch and compares. Raises NotThereYet, OSError, ValueError."""
    with np.load(path, allow_pickle=False) as archive:
        data = {key: archive[key] for key in archive.files}
    hp = json.loads(str(data["hp"]))
    ours = compute(hp, data, torch.float64)
    single = compute(hp, data, torch.float32) if any(key.startswith("f32/") for key in data) else {}
    ours |= {f"f32/{key}": value for key, value in single.items()}
    report = Report(
        0.0, "-", [], [f"{part} (missing)" for part in _REQUIRED if not any(k.startswith(part) for k in data)]
    )
    for key in data:
        if not key.startswith(_COMPARED):
            continue
        reference = np.asarray(data[key])
        if key not in ours or ours[key].size != reference.size:
            report.not_compared.append(key)
            continue
        deviation = _deviation(ours[key].reshape(reference.shape), reference)
        if key.startswith("f32/"):
            if not deviation <= TOLERANCE_F32:
                report.missed.append(key)
            continue
        if not deviation <= TOLERANCE:
            report.missed.append(key)
        if not deviation <= report.worst:
            report.worst, report.key = deviation, key
    return report


def _deviation(ours: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    reference = reference.astype(np.float64)
    deviation = np.abs(ours - reference).max(initial=0) / max(1.0, np.abs(reference).max(initial=0))
    return float(np.nan_to_num(deviation, nan=np.inf))  # a NaN is the worst of deviations


def compute(hp: dict[str, Any], data: Arrays, dtype: torch.dtype) -> dict[str, npt.NDArray[Any]]:
    """Every value of the file's format that our learner can produce, by the file's keys."""
    for flag in ("obs_agent_id", "obs_last_action"):
        if not hp.get(flag, True):
            raise ValueError(f"{flag}=false: our agents always see it")
    algorithm = build(hp, data, dtype)
    names = parameter_keys(list(data))
    for key in names:
        slot(algorithm, key).copy_(torch.from_numpy(data[key]))
    batch = _batch(data, dtype)
    optimiser = make_optimiser(algorithm.settings, algorithm.trained_parameters())
    for group in optimiser.param_groups:
        group["alpha"], group["eps"] = hp["optim_alpha"], hp["optim_eps"]
    trained = [key for key in names if not key.startswith("target_")]
    clip = algorithm.settings.grad_norm_clip

    results: dict[str, Tensor] = {}
    for step, (losses, after) in enumerate((("loss", "after"), ("", "after2"))):
        draws = _FixedDraws(data, "subset" if step == 0 else "subset2").only_proper(algorithm.settings.ensemble)
        prepared = algorithm.prepare(batch, cast(np.random.Generator, draws))
        if isinstance(algorithm, RES) and "batch/mc_return" in data:
            results["batch/mc_return"] = own_returns(algorithm, prepared, data)
        terms = algorithm.terms(prepared)
        optimiser.zero_grad()
        terms.total.backward()
        if step == 0:
            results |= {f"grad/{key}": slot(algorithm, key, grad=True).clone() for key in trained}
            results |= _outputs(algorithm, batch, terms)
            if data.get("out/greedy_actions", np.zeros(0)).shape[1:2] == batch.reward.shape[1:]:
                results["out/greedy_actions"] = results["out/greedy_actions"][:, 1:]
            results |= _norms(algorithm)
        norm = torch.nn.utils.clip_grad_norm_(algorithm.trained_parameters(), clip)
        optimiser.step()
        results |= {f"{after}/{key}": slot(algorithm, key).clone() for key in trained}
        if losses:
            results |= {"out/grad_norm": norm, "log/grad_norm": norm}
        else:
            results |= {"step2/loss_total": terms.total, "step2/grad_norm": norm}
    return {key: np.asarray(value.detach().cpu().numpy()) for key, value in results.items()}


def _batch(data: Arrays, dtype: torch.dtype) -> TensorBatch:
    def floats(key: str) -> Tensor:
        return torch.from_numpy(data[f"batch/{key}"]).to(dtype)

    return TensorBatch(
        obs=floats("obs"),
        state=floats("state"),
        avail=torch.from_numpy(data["batch/avail"]) > 0,
        actions=torch.from_numpy(data["batch/actions"][:, :-1]).long(),
        log_prob=torch.zeros(*data["batch/reward"][:, :-1].shape, 0, dtype=dtype),
        reward=floats("reward")[:, :-1],
        agent_reward=torch.zeros(*data["batch/reward"][:, :-1].shape, 0, dtype=dtype),
        terminated=torch.from_numpy(data["batch/terminated"][:, :-1]) > 0,
        filled=torch.from_numpy(data["batch/filled"]) > 0,
    )


def _norms(algorithm: ValueMixing) -> dict[str, Tensor]:
    """Partial gradient norms before clipping."""

    def norm(module: torch.nn.Module) -> Tensor:
        gradients = [p.grad.norm() for p in module.parameters() if p.grad is not None]
        return torch.stack(gradients).norm() if gradients else torch.zeros(())

    agent, mixer = norm(algorithm.agents), norm(algorithm.mixer)
    return {
        "out/grad_norm_agent": agent,
        "log/agent_norm": agent,
        "out/grad_norm_mixer": mixer,
        "log/mixer_norm": mixer,
    }


def _episodes_first(x: Tensor) -> Tensor:
    """[T, B, …] -> [B, T, …]."""
    return x.transpose(0, 1)


def _members_last(x: Tensor, always: bool) -> Tensor:
    """[H, T, B, …] -> [B, T, …, H]; one member alone keeps no axis of its own unless `always`."""
    moved = x.transpose(1, 2).movedim(0, -1)
    return moved if always or moved.shape[-1] > 1 else moved.squeeze(-1)


def _outputs(algorithm: ValueMixing, batch: TensorBatch, terms: Terms) -> dict[str, Tensor]:
    with torch.no_grad():
        results = _value_outputs(algorithm, batch, terms)
        results |= _loss_outputs(algorithm, terms)
        if hasattr(algorithm, "central_agents"):
            results |= _central_outputs(algorithm, batch, terms)
        if terms.generated is not None:
            results |= _generated_outputs(algorithm, batch, terms)
        results |= method_outputs(algorithm, terms)
    return results


def _value_outputs(algorithm: ValueMixing, batch: TensorBatch, terms: Terms) -> dict[str, Tensor]:
    inputs = agent_inputs(batch.obs, batch.actions, algorithm.spec.n_actions)
    shape = terms.values.shape[1:-1]
    hidden = algorithm.agents.hidden_states(inputs)
    target_values = algorithm.target_agents(inputs).view(-1, *terms.values.shape[1:])
    ensemble = has_member_axis(algorithm)
    masked = mask_unavailable(_drawn_minimum(algorithm, terms), _episodes_first(batch.avail))[1:]
    return {
        "out/q_online": _members_last(terms.values, ensemble),
        "out/q_target": _members_last(target_values, ensemble),
        "out/h_online": _members_last(hidden.view(hidden.shape[0], *shape, -1), ensemble),
        "out/q_online_mean": _episodes_first(terms.mean_values),
        "out/q_target_min_masked": _episodes_first(masked),
        "out/mask": _episodes_first(terms.mask).to(batch.obs.dtype),
        "out/q_tot": _members_last(terms.q_tot, False),
        "out/y": _episodes_first(terms.target),
        "out/td_error": _members_last(terms.q_tot - terms.target, False),
        "out/greedy_actions": _episodes_first(terms.greedy),
        "out/next_target": _episodes_first(algorithm.pessimistic(terms.greedy_values[:, 1:])),
    }


def _drawn_minimum(algorithm: ValueMixing, terms: Terms) -> Tensor:
    if hasattr(algorithm, "central_agents") or isinstance(algorithm, QTRANBase):  # the target does not use them
        return torch.full_like(terms.mean_values, torch.nan)
    return terms.prepared.target_values.amin(0)


def has_member_axis(algorithm: ValueMixing) -> bool:
    """Whether the file's outputs carry a last axis for the agent networks (DEMAR's do, even for one)."""
    return algorithm.settings.name == "demar"


def _loss_outputs(algorithm: ValueMixing, terms: Terms) -> dict[str, Tensor]:
    mask, n = terms.mask, algorithm.spec.n_agents
    error = terms.q_tot - terms.target

    total = terms.total
    td = terms.losses["loss_td"]
    return {
        "loss/total": total,
        "log/loss": total,
        "loss/td": td,
        "loss/qmix": td,
        "log/qmix_loss": td,
        "loss/td_unweighted": masked_mean(error.square(), mask),
        "log/td_error_abs": masked_mean(error.abs(), mask),
        "log/q_taken_mean": masked_mean(terms.q_tot, mask) / n,
        "log/target_mean": masked_mean(terms.target, mask) / n,
        "log/agent_utility": masked_mean(terms.chosen.mean(-1), mask) / n,
    }


def _central_outputs(algorithm: Any, batch: TensorBatch, terms: Terms) -> dict[str, Tensor]:
    inputs = agent_inputs(batch.obs, batch.actions, algorithm.spec.n_actions)
    state, actions = _episodes_first(batch.state), _episodes_first(batch.actions)
    shape = terms.mean_values.shape
    online = algorithm.central_agents(inputs).view(shape)
    target = algorithm.target_central_agents(inputs).view(shape)
    weight = algorithm.loss_weight(terms)
    central = terms.losses["loss_central"]
    return {
        "out/q_central_online": _episodes_first(online),
        "out/q_central_target": _episodes_first(target),
        "out/q_central": _episodes_first(
            algorithm.central_value(online[:-1], actions, state[:-1], algorithm.central_mixer)
        ),
        "out/w": _members_last(weight, False),
        "log/w_to_use": weight.mean(),
        "loss/central": central,
        "log/central_loss": central,
    }


def _generated_outputs(algorithm: ValueMixing, batch: TensorBatch, terms: Terms) -> dict[str, Tensor]:
    """What depends on the generated mixing weights: V(s), the regulariser, ∂Q_tot/∂Q_i, every target mixer."""
    generated = terms.generated
    assert generated is not None
    mask, n = terms.mask, algorithm.spec.n_agents
    state, avail = _episodes_first(batch.state), _episodes_first(batch.avail)
    masked = mask_unavailable(_drawn_minimum(algorithm, terms), avail)[1:]
    best = algorithm.greedy_agent_values(masked, terms.greedy[1:])
    target_generated = algorithm.target_mixer.generate(state[1:].flatten(0, 1))
    every = algorithm.mix(algorithm.target_mixer, best, target_generated)
    assert target_generated is not None
    value = generated.value.view(terms.q_tot.shape)
    target_value = target_generated.value.view(terms.q_tot.shape)
    rows = terms.chosen.reshape(-1, n)
    slope = mixing_gradient(rows, generated).sum(0).view(*mask.shape, n)
    reg = generated.l1().mean()

    return {
        "out/next_target_per_mixer": _members_last(every, True),
        "out/v": _members_last(value, True),
        "out/target_v": _members_last(target_value, True),
        "out/dqtotsum_dqi": _episodes_first(slope),
        "loss/reg": reg,
        "log/hyper_loss": reg,
        "log/v_taken_mean": masked_mean(value, mask) / n,
        "log/target_v_mean": masked_mean(target_value, mask) / n,
        "log/qtot_qi_gradient": masked_mean(slope.mean(-1), mask) / n,
    }
