"""HATD3: HADDPG with TD3's two critics, delay and smoothing (Zhong et al. 2024, JMLR 25(32), arXiv 2304.09870)."""

from __future__ import annotations

from phalanx.algorithms.haddpg import HADDPG


class HATD3(HADDPG):
    """HADDPG by other defaults (configs/algorithm/hatd3.yaml), which are `MATD3`'s."""
