"""Which of our algorithms a golden file is a case of, and how it is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch

from phalanx.algorithms.registry import ALGORITHMS, algorithm_class
from phalanx.algorithms.value_mixing import ValueMixing
from phalanx.configs.settings import NetworkSettings
from phalanx.envs.team import TeamSpec

Arrays = Mapping[str, npt.NDArray[Any]]


class NotThereYet(Exception):
    """The case's algorithm is not part of this version."""


def case_of(hp: Mapping[str, Any]) -> str:
    """Name of the method, by the keys that only it has."""
    if "hysteretic_qmix" in hp:
        return "ow_qmix" if hp["hysteretic_qmix"] else "cw_qmix"
    if "hyper_alpha" in hp:
        return "demar"
    if hp.get("wcu"):
        return "wcu_qmix"
    if "mixer_N" in hp:
        return "td3_qmix"
    if hp.get("res"):
        return "res"
    if "sm2_alpha" in hp:
        return "sm2_qmix"
    mixer = str(hp.get("mixer"))
    return mixer if mixer in ("qtran_base", "vdn", "qmix") else "unknown"


def build(hp: Mapping[str, Any], data: Arrays, dtype: torch.dtype) -> ValueMixing:
    """The algorithm of the file, with weights still to be loaded. Raises NotThereYet."""
    case = case_of(hp)
    settings: dict[str, Any] = {"double_q": bool(hp.get("double_q", True)), "gamma": float(hp["gamma"])}
    settings |= {"lr": float(hp["lr"]), "grad_norm_clip": float(hp["grad_norm_clip"])}
    if case not in ALGORITHMS:
        raise NotThereYet(case)
    settings |= _own_settings(case, hp)
    kind = algorithm_class(case)
    networks = NetworkSettings.model_validate(
        {
            "agent": {"hidden": int(hp["rnn_hidden_dim"])},
            "mixer": {"embed": int(hp["mixing_embed_dim"]), "hypernet": int(hp.get("hypernet_embed", 64))},
        }
    )
    algorithm = kind(team_spec(data), kind.Settings.model_validate({"name": case, **settings}), networks)
    assert isinstance(algorithm, ValueMixing)
    return algorithm.to(dtype)


def _own_settings(case: str, hp: Mapping[str, Any]) -> dict[str, Any]:
    """What only the method's own `hp` say."""
    settings: dict[str, Any] = {}
    if case in ("td3_qmix", "wcu_qmix"):
        settings["ensemble"] = {"mixers": int(hp.get("mixer_N", 2))}
    if case == "wcu_qmix":
        settings["phi"] = float(hp["wcu_phi"])
    if case == "res":  # the authors keep unavailable actions
        settings |= {"softmax_beta": float(hp["res_beta"]), "softmax_over": "all"}
        settings["penalty_lambda"] = float(hp["res_lambda"])
    if case == "sm2_qmix":
        settings |= {"sm2_alpha": float(hp["sm2_alpha"]), "sm2_omega": float(hp["sm2_omega"])}
        settings["double_q"] = False  # whatever hp says
    if case == "qtran_base":
        settings |= {"opt_weight": float(hp["opt_loss"]), "nopt_weight": float(hp["nopt_min_loss"])}
        settings["joint_embed"] = int(hp["mixing_embed_dim"])
    if case == "demar":
        settings["ensemble"] = {
            "agents": int(hp["agent_N"]),
            "agents_subset": int(hp["agent_M"]),
            "mixers": int(hp["mixer_N"]),
            "mixers_subset": int(hp["mixer_M"]),
        }
        settings["regulariser"] = {"alpha": float(hp["hyper_alpha"])}
    if case in ("ow_qmix", "cw_qmix"):
        if hp.get("qmix_loss", 1) != 1 or hp.get("central_loss", 1) != 1:
            raise ValueError("qmix_loss and central_loss other than 1: ours weigh both losses alike")
        settings["weighting"] = {"alpha": float(hp["w"])}
        settings["central"] = {"mixer": hp["central_mixer"], "embed": int(hp["central_mixing_embed_dim"])}
    return settings


def team_spec(data: Arrays) -> TeamSpec:
    """Sizes from the file's own arrays."""
    _, steps, agents, obs = data["batch/obs"].shape
    actions = data["batch/avail"].shape[-1]
    return TeamSpec(
        env_name="golden",
        n_agents=agents,
        obs_dim=obs,
        state_dim=data["batch/state"].shape[-1],
        n_actions=actions,
        episode_limit=steps - 1,
        agent_names=tuple(f"agent_{i}" for i in range(agents)),
        obs_dims=(obs,) * agents,
        action_dims=(actions,) * agents,
    )
