"""DEMAR: dual ensembled multi-agent Q-learning with hypernet regulariser (AAMAS 2025, arXiv 2502.02018)."""

from __future__ import annotations

from phalanx.algorithms.value_mixing import ValueMixing


class DEMAR(ValueMixing):
    """Against overestimation: K agent networks and H mixers.

    Eq. 8: y = r + γ (1 - term) min_{h∈ℋ} M_h^-( min_{k∈𝒦} q_i^k(τ'_i, a*_i; θ_k^-), …; s'), with one random subset
    𝒦 of size N_K and ℋ of size N_H for each update, and a* greedy in the mean of the online networks. Every mixer is
    regressed to the common y on the mean of the agent networks; the loss adds α_reg times the L1 norm of all
    generated mixing weights and biases.

    All of it are settings of the core (`ensemble`, `regulariser`), so that the same ideas apply to every method built
    on it; what makes a run DEMAR are their values (`configs/algorithm/demar.yaml`). Differences from the authors'
    code: none in the update; ∂Q_tot/∂Q_i is reported per sample, where theirs is a gradient of a sum over mixers.
    """
