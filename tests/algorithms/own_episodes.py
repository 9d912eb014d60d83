"""Learning from what the method's own policy plays."""

from __future__ import annotations

import numpy as np
import torch

from phalanx.cluster.learner import Learner
from phalanx.cluster.rollout import Rollout
from phalanx.configs.settings import RunSettings


def learner_of_own_episodes(run: RunSettings) -> tuple[Learner, dict[str, float]]:
    """A learner after two updates from episodes that its own policy played, and its metrics: all is finite, and
    everything that is trained has moved."""
    rollout = Rollout(run, [0])
    learner = Learner(run, rollout.spec)
    before = {key: tensor.clone() for key, tensor in learner.algorithm.state_dict().items()}
    for sequence in range(2):
        rollout.set_weights(*learner.weights())
        learner.update([rollout.play_round(0, sequence, 0.5).batch])
    rollout.close()
    after = learner.algorithm.state_dict()
    assert all(tensor.isfinite().all() for tensor in after.values())
    for module, part in learner.algorithm.named_children():
        assert any(not torch.equal(after[f"{module}.{k}"], before[f"{module}.{k}"]) for k in part.state_dict()), module
    metrics = learner.metrics()
    if metrics["train/return_scale"] == 0:  # nobody was rewarded: there is no unit to measure in
        assert np.isnan(metrics.pop("train/overestimation_relative"))
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    return learner, metrics
