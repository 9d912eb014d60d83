"""Every algorithm by name. Adding one costs a file, a YAML in configs/algorithm, a test and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from phalanx.configs.errors import UserError
from phalanx.configs.nearest import did_you_mean
from phalanx.configs.settings import AlgorithmSettings, RunSettings
from phalanx.envs.seeding import Purpose, generator
from phalanx.envs.team import TeamSpec

if TYPE_CHECKING:
    from phalanx.algorithms.base import Algorithm, Policy

ALGORITHMS: dict[str, str] = {
    "iql": "phalanx.algorithms.iql:IQL",
    "vdn": "phalanx.algorithms.vdn:VDN",
    "qmix": "phalanx.algorithms.qmix:QMIX",
    "ow_qmix": "phalanx.algorithms.ow_qmix:OWQMIX",
    "cw_qmix": "phalanx.algorithms.cw_qmix:CWQMIX",
    "demar": "phalanx.algorithms.demar:DEMAR",
    "res": "phalanx.algorithms.res:RES",
    "s_qmix": "phalanx.algorithms.res:RES",
    "re_qmix": "phalanx.algorithms.res:RES",
    "td3_qmix": "phalanx.algorithms.td3_qmix:TD3QMIX",
    "wcu_qmix": "phalanx.algorithms.wcu_qmix:WCUQMIX",
    "sm2_qmix": "phalanx.algorithms.sm2_qmix:SM2QMIX",
    "sub_avg_qmix": "phalanx.algorithms.sub_avg_qmix:SubAvgQMIX",
    "qtran_base": "phalanx.algorithms.qtran_base:QTRANBase",
    "maddpg": "phalanx.algorithms.maddpg:MADDPG",
    "matd3": "phalanx.algorithms.matd3:MATD3",
    "masac": "phalanx.algorithms.masac:MASAC",
    "haddpg": "phalanx.algorithms.haddpg:HADDPG",
    "hatd3": "phalanx.algorithms.hatd3:HATD3",
    "hasac": "phalanx.algorithms.hasac:HASAC",
    "ippo": "phalanx.algorithms.ippo:IPPO",
    "mappo": "phalanx.algorithms.mappo:MAPPO",
    "happo": "phalanx.algorithms.happo:HAPPO",
    "hatrpo": "phalanx.algorithms.hatrpo:HATRPO",
    "haa2c": "phalanx.algorithms.haa2c:HAA2C",
    "omdpg": "phalanx.algorithms.omdpg:OMDPG",
}


def algorithm_class(name: str) -> type[Algorithm]:
    """The class behind `algorithm.name`. Raises UserError for an unknown name."""
    if name not in ALGORITHMS:
        raise UserError(
            f"algorithm.name={name} is not one of {', '.join(ALGORITHMS)}{did_you_mean(str(name), ALGORITHMS)}"
        )
    module, attribute = ALGORITHMS[name].split(":")
    found: type[Algorithm] = getattr(import_module(module), attribute)
    return found


def algorithm_settings(name: str) -> type[AlgorithmSettings]:
    """The settings model of `algorithm.name`."""
    return algorithm_class(name).Settings


def make_algorithm(run: RunSettings, spec: TeamSpec) -> Algorithm:
    """Builds and initialises the run's algorithm from the run's seed; torch's global generator is left as it was.

    Raises UserError where the algorithm cannot learn in the environment.
    """
    import torch

    from phalanx.algorithms.base import require_compatible

    require_able(run)
    kind = algorithm_class(run.algorithm.name)
    require_compatible(kind, run.algorithm.name, spec)
    seed = int(generator(run.seed, Purpose.INITIALISATION).integers(2**63))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(spec, run.algorithm, run.networks)


def require_able(run: RunSettings) -> None:
    """UserError where the algorithm cannot do what other sections ask of it, whatever the environment is like."""
    from phalanx.algorithms.base import require_errors

    kind = algorithm_class(run.algorithm.name)
    require_errors(kind, run.algorithm.name, run.replay)
    _require_noise(kind, run)


def make_policy(run: RunSettings, spec: TeamSpec) -> Policy:
    """The acting side alone, with arbitrary weights."""
    return algorithm_class(run.algorithm.name).make_policy(spec, run.algorithm, run.networks)


def _require_noise(kind: type[Algorithm], run: RunSettings) -> None:
    demar = run.env.noise.demar
    if demar > 0 and not kind.capabilities.input_noise:
        able = ", ".join(name for name in ALGORITHMS if algorithm_class(name).capabilities.input_noise)
        raise UserError(
            f"env.noise.demar={demar:g} is noise inside the networks, which algorithm.name={run.algorithm.name} does"
            f" not have: set env.noise.obs_uniform and env.noise.state_uniform instead, or choose one of {able}"
        )
