"""QMIX: monotonic value function factorisation (Rashid et al., ICML 2018, arXiv 1803.11485)."""

from __future__ import annotations

from phalanx.algorithms.value_mixing import ValueMixing


class QMIX(ValueMixing):
    """The value-mixing core as it stands: double-Q target, two-layer hypernetworks, RMSprop (as in PyMARL)."""
