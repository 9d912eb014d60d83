"""What golden files of single methods hold besides the common values."""

from __future__ import annotations

import torch
from torch import Tensor

from phalanx.algorithms.common.losses import masked_mean, weighted_squared_error
from phalanx.algorithms.common.targets import discounted_sums
from phalanx.algorithms.qtran_base import QTRANBase, QTRANTerms
from phalanx.algorithms.res import RES, RESPrepared
from phalanx.algorithms.sm2_qmix import SM2QMIX
from phalanx.algorithms.value_mixing import Prepared, Terms, ValueMixing
from phalanx.algorithms.wcu_qmix import WCUQMIX
from tests.golden.cases import Arrays


def own_returns(algorithm: RES, prepared: Prepared, data: Arrays) -> Tensor:
    """Our returns where something is learned and the file's elsewhere, [B, T+1].

    Where padding holds rewards the file alone knows what was summed: its returns are then part of its batch, and taken.
    """
    assert isinstance(prepared, RESPrepared)
    mask, given = prepared.mask.t(), torch.from_numpy(data["batch/mc_return"])
    returns = discounted_sums(prepared.reward, prepared.mask, algorithm.settings.gamma).t()
    if bool((prepared.reward.t()[~mask] != 0).any()):
        returns = given[:, :-1].to(returns.dtype)
        prepared.returns = returns.t()
    result = given.to(returns.dtype, copy=True)
    result[:, :-1][mask] = returns[mask]
    return result


def method_outputs(algorithm: ValueMixing, terms: Terms) -> dict[str, Tensor]:
    """By the file's keys, episodes first."""
    if isinstance(algorithm, RES):
        return _res(algorithm, terms)
    if isinstance(algorithm, WCUQMIX):
        return _wcu(algorithm, terms)
    if isinstance(algorithm, SM2QMIX):
        values = algorithm.greedy_agent_values(algorithm.target_agent_values(terms.prepared), terms.greedy)
        return {"out/sm2_q": values[1:].transpose(0, 1)}
    if isinstance(algorithm, QTRANBase):
        return _qtran(algorithm, terms)
    return {}


def _res(algorithm: RES, terms: Terms) -> dict[str, Tensor]:
    online, target, weight = algorithm.counterfactuals(terms)
    prepared = terms.prepared
    assert isinstance(prepared, RESPrepared)
    returns = prepared.returns
    if returns is None:
        returns = discounted_sums(prepared.reward, prepared.mask, algorithm.settings.gamma)
    return {
        "out/counterfactual_q": online[1:].transpose(0, 1),
        "out/counterfactual_q_target": target[0, 1:].transpose(0, 1),
        "out/softmax_weights": weight[1:].transpose(0, 1),
        "loss/mc": weighted_squared_error(terms.q_tot, returns, terms.mask),
    }


def _wcu(algorithm: WCUQMIX, terms: Terms) -> dict[str, Tensor]:
    errors = algorithm.prediction(terms) - terms.target
    results = {"log/td_error_abs": masked_mean(errors.mean(0).abs(), terms.mask)}
    for h, error in enumerate(errors):
        results |= {f"out/td_error_{h}": error.t(), f"loss/td_{h}": masked_mean(error.square(), terms.mask)}
    return results


def _qtran(algorithm: QTRANBase, terms: Terms) -> dict[str, Tensor]:
    assert isinstance(terms, QTRANTerms)
    mask, count = terms.mask, terms.mask.sum()
    at_greedy, at_chosen = algorithm.conditions(terms)
    opt = masked_mean(at_greedy.square(), mask)
    nopt = masked_mean(at_chosen.clamp(max=0).square(), mask)
    td = terms.losses["loss_td"]
    error = terms.q_tot - terms.target
    return {
        "out/v": terms.value.t(),
        "loss/opt": opt,
        "loss/nopt": nopt,
        "log/td_loss": td,
        "log/opt_loss": opt,
        "log/nopt_loss": nopt,
        # As upstream logs them: "targets" is the error, and what is not valid is summed too, but not counted.
        "log/td_targets": masked_mean(error, mask),
        "log/td_chosen_qs": terms.q_tot.sum() / count,
        "log/v_mean": terms.value.sum() / count,
        "log/agent_indiv_qs": masked_mean(terms.chosen.mean(-1), mask),
    }
