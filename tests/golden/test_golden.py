"""The golden files, and that their check can fail: a wrong update, a changed value or a damaged file is noticed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from phalanx.algorithms import res, value_mixing
from phalanx.algorithms.common.mixers import MixingWeights
from phalanx.algorithms.res import RES
from phalanx.algorithms.value_mixing import Terms, ValueMixing
from phalanx.algorithms.weighted_qmix import WeightedQMIX
from tests.algorithms.reference import Case, make_file
from tests.golden import __main__ as command
from tests.golden import checker
from tests.golden.cases import Arrays, case_of
from tests.golden.checker import check_file, compute

DATA = Path(__file__).parent / "data"
FILES = sorted(DATA.glob("*.npz"))
ROOT = Path(__file__).resolve().parents[2]
COMPARED = ("out/", "loss/", "grad/", "after/", "after2/", "step2/", "log/")


def read(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


class InMemory(dict[str, npt.NDArray[Any]]):
    """An archive without a file."""

    @property
    def files(self) -> list[str]:
        return list(self)


def run(*paths: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "tests.golden", *map(str, paths)]
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


# -- the files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agrees_with_the_authors(path: Path) -> None:
    report = check_file(path)
    assert report.passed, f"missed {report.missed}, not compared {report.not_compared}"
    assert 0 < report.worst < 1e-11  # exactly 0 would mean that nothing was computed


def test_every_case_is_there() -> None:
    assert len(FILES) == 7


def test_other_cases_are_told_apart() -> None:
    assert case_of({"mixer": "eqmix", "mixer_N": 2, "wcu": True, "wcu_phi": 0.75}) == "wcu_qmix"
    assert case_of({"mixer": "qmix", "sm2_alpha": 1.0, "sm2_omega": 0.5}) == "sm2_qmix"
    assert case_of({"mixer": "qtran_base", "opt_loss": 1, "nopt_min_loss": 0.1}) == "qtran_base"
    assert case_of({"mixer": "eqmix", "mixer_N": 2, "wcu": False, "wcu_phi": 0.75}) == "td3_qmix"
    assert case_of({"mixer": "qmix", "res": True, "res_beta": 5.0}) == "res"
    assert case_of({"mixer": "qmix", "hysteretic_qmix": False}) == "cw_qmix"


# -- files that are not in the folder, made by the plain second implementation -----------------------------------------


UNSEEN = {
    "qmix": Case("qmix", garbage=True),
    "qmix_other_sizes": Case("qmix", 1, agents=2, actions=7, obs=3, state=9, hidden=5, embed=3, hypernet=8),
    "qmix_max": Case("qmix", 2, double_q=False, garbage=True),
    "qmix_long": Case("qmix", 3, steps=9, lengths=(9, 7), terminated=(True, False), clip=1e6),
    "vdn": Case("vdn", 4, garbage=True),
    "td3": Case("td3", 5, mixers=2, mixers_drawn=2, garbage=True),
    "demar_k3_h4": Case("demar", 6, nets=3, nets_drawn=2, mixers=4, mixers_drawn=3, alpha=0.02),
    "demar_k3_h4_garbage": Case("demar", 6, nets=3, nets_drawn=2, mixers=4, mixers_drawn=3, alpha=0.02, garbage=True),
    "demar_all_drawn": Case("demar", 7, nets=2, nets_drawn=2, mixers=2, mixers_drawn=2, alpha=0.1),
    "demar_one_mixer": Case("demar", 8, nets=3, nets_drawn=1, alpha=0.1, double_q=False, garbage=True),
    "demar_one_drawn": Case("demar", 9, mixers=3, mixers_drawn=1, alpha=0.01, garbage=True),
    "ow_ff": Case("ow", 10, garbage=True),
    "ow_atten": Case("ow", 11, central="atten", weight=0.75, garbage=True),
    "cw_ff": Case("cw", 12, weight=0.1, garbage=True),
    "cw_atten": Case("cw", 13, central="atten", weight=0.5),
    "cw_one_agent_acts": Case("cw", 14, agents=1, actions=2, garbage=True),
    "res_beta_5": Case("res", 15, beta=5.0, penalty=0.05),
    "res_garbage": Case("res", 16, beta=5.0, agents=4, actions=6, garbage=True),
    "res_no_penalty": Case("res", 17, penalty=0.0, garbage=True),
    "res_one_action": Case("res", 18, actions=1, agents=2),
    "wcu": Case("wcu", 19, mixers=2, mixers_drawn=2),
    "wcu_max": Case("wcu", 20, mixers=2, mixers_drawn=2, phi=0.2, double_q=False, garbage=True),
    "sm2": Case("sm2", 21),
    "sm2_sharp": Case("sm2", 22, sm2_alpha=5.0, sm2_omega=3.0, garbage=True),
    "qtran": Case("qtran", 23),
    "qtran_garbage": Case("qtran", 24, agents=2, actions=5, opt=1.0, nopt=0.1, garbage=True),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_agrees_with_the_plain_implementation(name: str, tmp_path: Path) -> None:
    made = make_file(UNSEEN[name], tmp_path / "case.npz")
    report = check_file(tmp_path / "case.npz")
    assert report.passed, f"missed {report.missed}, not compared {report.not_compared}"
    if UNSEEN[name].is_central:  # both weights occur, or the weighting would go unseen
        assert set(np.unique(made["out/w"])) == {UNSEEN[name].weight, 1.0}


@pytest.mark.parametrize(
    "case", [Case("qmix", 3), Case("cw", 4), Case("demar", 5, nets=2, mixers=2)], ids=lambda c: c.method
)
def test_padding_is_never_learned_from(case: Case, tmp_path: Path) -> None:
    """The same episodes with zeros and with garbage after their ends: losses, gradients and steps are the same."""
    zeros = make_file(case, tmp_path / "zeros.npz")
    garbage = make_file(Case(**{**vars(case), "garbage": True}), tmp_path / "garbage.npz")
    assert np.abs(garbage["batch/obs"]).sum() > np.abs(zeros["batch/obs"]).sum() + 1
    ours = compute(case.hp(), garbage, torch.float64)
    compared = [key for key in zeros if key.startswith(("loss/", "grad/", "after", "step2/", "out/grad_norm"))]
    compared.remove("loss/reg") if "loss/reg" in compared else None
    assert len(compared) > 20
    for key in compared:
        np.testing.assert_allclose(ours[key].reshape(zeros[key].shape), zeros[key], rtol=1e-9, atol=1e-11, err_msg=key)


# -- the check can fail ------------------------------------------------------------------------------------------------

# README of the files, "Fingerprints of common mistakes": loss/total that the wrong variant gives.
FINGERPRINTS = {
    "terminated ignored": {
        "qmix": 64.701395, "vdn": 10.246120, "demar_h1_k1_reg0": 64.701395, "demar_h3_nh2_k1": 24.415270,
        "ow_qmix_a010": 7.590668, "td3_qmix": 56.399944, "res_b005_l005": 24.382840,
    },
    "greedy in the target net": {
        "qmix": 205.844110, "vdn": 10.668944, "demar_h1_k1_reg0": 205.844110, "demar_h3_nh2_k1": 13.113013,
        "ow_qmix_a010": 7.653733, "td3_qmix": 20.259030, "res_b005_l005": 41.305219,
    },
    "availability ignored": {
        "qmix": 53.230475, "vdn": 11.075262, "demar_h1_k1_reg0": 53.230475, "demar_h3_nh2_k1": 17.492139,
        "td3_qmix": 57.502447, "res_b005_l005": 19.750014,
    },
    "last action from t": {
        "qmix": 58.597943, "vdn": 9.939882, "demar_h1_k1_reg0": 58.597943, "demar_h3_nh2_k1": 18.311564,
        "ow_qmix_a010": 8.413798, "td3_qmix": 51.292785, "res_b005_l005": 20.039369,
    },
    "regulariser masked": {"demar_h3_nh2_k1": 16.902274},
    "regulariser without V": {"demar_h3_nh2_k1": 16.898008},
    "unavailable left out": {"res_b005_l005": 20.495478},
    "weights from the target nets": {"res_b005_l005": 24.815008},
}  # fmt: skip


def make_mistake(mistake: str, monkeypatch: pytest.MonkeyPatch, data: Arrays) -> None:
    """Puts the named mistake into our update."""
    inputs_of, l1_of, counterfactuals_of = value_mixing.agent_inputs, MixingWeights.l1, RES.counterfactuals

    def current_action(obs: Tensor, actions: Tensor, n_actions: int) -> Tensor:
        inputs = inputs_of(obs, actions, n_actions).unflatten(1, (obs.shape[0], obs.shape[2]))
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(data["batch/actions"]).transpose(0, 1), n_actions)
        inputs[..., obs.shape[-1] : obs.shape[-1] + n_actions] = one_hot
        return inputs.flatten(1, 2)

    def masked_l1(weights: MixingWeights) -> Tensor:
        mask = torch.from_numpy(data["out/mask"]).t().reshape(-1)
        return l1_of(weights) * mask * mask.numel() / mask.sum()

    def with_target_greedy(greedy_values: Callable[..., Any]) -> Callable[..., Any]:
        def patched(self: ValueMixing, terms: Terms) -> Any:
            prepared = terms.prepared
            values = self.target_agents(prepared.inputs).view(-1, *prepared.avail.shape).amin(0)
            theirs = value_mixing.mask_unavailable(values, prepared.avail).argmax(-1)
            return greedy_values(self, replace(terms, greedy=theirs))

        return patched

    def available_alone(self: RES, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        online, target, weight = counterfactuals_of(self, terms)
        weight = weight * terms.prepared.avail
        return online, target, weight / weight.sum((-2, -1), keepdim=True)

    def weighed_by_target(self: RES, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        online, target, _ = counterfactuals_of(self, terms)
        weight = (self.settings.softmax_beta * target[0]).flatten(-2).softmax(-1)
        return online, target, weight.view_as(online)

    if mistake == "terminated ignored":
        monkeypatch.setattr(value_mixing, "transition_mask", lambda filled, terminated: filled[:, :-1].t())
    elif mistake == "greedy in the target net":
        for kind in (ValueMixing, WeightedQMIX, RES):
            monkeypatch.setattr(kind, "greedy_values", with_target_greedy(kind.greedy_values))
    elif mistake == "availability ignored":
        for module in (value_mixing, res):
            monkeypatch.setattr(module, "mask_unavailable", lambda values, avail: values)
    elif mistake == "last action from t":
        monkeypatch.setattr(value_mixing, "agent_inputs", current_action)
    elif mistake == "regulariser masked":
        monkeypatch.setattr(MixingWeights, "l1", masked_l1)
    elif mistake == "unavailable left out":
        monkeypatch.setattr(RES, "counterfactuals", available_alone)
    elif mistake == "weights from the target nets":
        monkeypatch.setattr(RES, "counterfactuals", weighed_by_target)
    else:
        monkeypatch.setattr(MixingWeights, "l1", lambda weights: l1_of(weights) - weights.value.abs())


@pytest.mark.parametrize(
    ("mistake", "name", "loss"), [(m, name, loss) for m, row in FINGERPRINTS.items() for name, loss in row.items()]
)
def test_common_mistakes_are_found(mistake: str, name: str, loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read(DATA / f"{name}.npz")
    make_mistake(mistake, monkeypatch, data)
    wrong = compute(json.loads(str(data["hp"])), data, torch.float64)["loss/total"]
    assert float(wrong) == pytest.approx(loss, abs=6e-7)
    report = check_file(DATA / f"{name}.npz")
    assert not report.passed
    assert "loss/total" in report.missed


@pytest.mark.parametrize("name", ["vdn", "demar_h3_nh2_k1", "ow_qmix_a010", "res_b005_l005"])
def test_every_value_is_compared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value of the file in turn is changed by a millionth: that one is missed, and no other."""
    data = read(DATA / f"{name}.npz")
    hp = json.loads(str(data["hp"]))
    ours = {dtype: compute(hp, data, dtype) for dtype in (torch.float64, torch.float32)}
    monkeypatch.setattr(checker, "compute", lambda hp, data, dtype: ours[dtype])
    monkeypatch.setattr(np, "load", lambda path, allow_pickle: contextlib.nullcontext(InMemory(tampered)))
    keys = [key for key in data if key.startswith((*COMPARED, "f32/"))]
    keys += ["batch/mc_return"] * ("batch/mc_return" in data)
    assert len(keys) > 40
    for key in keys:
        tampered = dict(data)
        changed = tampered[key] = data[key].copy()
        largest = np.abs(changed).max()
        place = np.unravel_index(np.abs(changed).argmax(), changed.shape)
        changed[place] += (
            1 if changed.dtype.kind == "i" else (1e-3 if key.startswith("f32/") else 1e-6) * max(1, largest)
        )
        assert check_file(Path("tampered.npz")).missed == [key]


def test_not_a_number_is_no_agreement(tmp_path: Path) -> None:
    data = read(DATA / "vdn.npz")
    for value in (np.nan, np.inf):
        y = data["out/y"].copy()
        y[0, 0] = value
        np.savez(tmp_path / "bad.npz", **{**data, "out/y": y})
        with np.errstate(invalid="ignore"):
            report = check_file(tmp_path / "bad.npz")
        assert report.missed == ["out/y"] and report.key == "out/y"


# -- the command -------------------------------------------------------------------------------------------------------


def test_command_accepts_what_agrees() -> None:
    done = run(DATA / "vdn.npz", DATA / "qmix.npz")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["vdn.npz: ok", "qmix.npz: ok"]


def test_command_takes_folders() -> None:
    done = run(DATA)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok, ") == 7


def test_command_says_what_is_not_there_yet(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(strange), str(DATA / "vdn.npz")]) == 3
    assert "strange.npz: algorithm unknown is not there yet\nvdn.npz: ok" in capsys.readouterr().out


def test_command_without_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.fixture
def strange(vdn: dict[str, npt.NDArray[Any]], tmp_path: Path) -> Path:
    """A file of a method that we do not have."""
    path = tmp_path / "strange.npz"
    hp = {**json.loads(str(vdn["hp"])), "mixer": "qplex"}
    np.savez(path, **{**vdn, "hp": np.array(json.dumps(hp))})
    return path


@pytest.fixture
def vdn() -> dict[str, npt.NDArray[Any]]:
    return read(DATA / "vdn.npz")


@pytest.mark.parametrize(
    "damage", ["value", "key", "truncated", "flipped", "empty", "text", "missing", "parameter", "shape"]
)
def test_command_refuses_what_does_not_agree(damage: str, vdn: dict[str, npt.NDArray[Any]], tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    if damage == "value":
        vdn["out/q_tot"].flat[np.abs(vdn["out/q_tot"]).argmax()] *= 1 + 1e-6
    elif damage == "key":
        vdn["out/unheard_of"] = np.zeros(3)
    elif damage == "parameter":
        vdn["agent/fc1.again"] = vdn["agent/fc1.bias"]
    elif damage == "shape":
        vdn["out/y"] = vdn["out/y"][:, :-1]
    np.savez_compressed(path, **vdn)
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) * 2 // 3])
    elif damage == "flipped":
        middle = whole.index(b"batch/obs.npy") + 400
        path.write_bytes(
            whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 40]) + whole[middle + 40 :]
        )
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("no archive")
    elif damage == "missing":
        path.unlink()
    # The other file is checked all the same, and its success does not hide the failure.
    if damage == "truncated":
        done = run(path, DATA / "vdn.npz")
        code, shown = done.returncode, done.stdout + done.stderr
    else:
        code, shown = command.main([str(path), str(DATA / "vdn.npz")]), ""
    assert code == 1, shown
    if shown:
        assert "bad.npz: FAILED" in shown and "\nvdn.npz: ok" in shown and "Traceback" not in shown


def test_failure_outranks_not_there_yet(strange: Path, tmp_path: Path, vdn: dict[str, npt.NDArray[Any]]) -> None:
    vdn["loss/total"] = vdn["loss/total"] * (1 + 1e-6)
    np.savez(tmp_path / "bad.npz", **vdn)
    assert command.main([str(strange), str(tmp_path / "bad.npz")]) == 1
    assert command.main([str(tmp_path / "bad.npz"), str(strange)]) == 1


def test_command_needs_something_to_check(tmp_path: Path) -> None:
    assert command.main([str(tmp_path)]) == 2
