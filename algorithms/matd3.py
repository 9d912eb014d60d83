"""MATD3: MADDPG with two critics (Ackermann et al. 2019, arXiv 1910.01465; TD3: Fujimoto et al. 2018, 1802.09477)."""

from __future__ import annotations

from phalanx.algorithms.maddpg import MADDPG


class MATD3(MADDPG):
    """MADDPG by other defaults (configs/algorithm/matd3.yaml): the target is the smaller of two critics' values, of
    target actions with cut noise; the actors climb the first critic, at every second update.

    Where actions are discrete the smoothing's counterpart is a target action sampled from the policy, which is ours.
    """
