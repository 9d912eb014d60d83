from __future__ import annotations

import pytest

from phalanx.cluster.placement import bundles, hosting, require_placeable
from phalanx.configs.errors import UserError
from tests.cluster.runs import tiny

TWO_CPUS = [{"CPU": 2.0, "memory": 1e9}]


@pytest.mark.parametrize(
    ("workers", "streams", "expected"),
    [(1, 3, [[0, 1, 2]]), (2, 3, [[0, 2], [1]]), (3, 3, [[0], [1], [2]]), (8, 2, [[0], [1]])],
)
def test_streams_are_dealt_out_and_no_worker_is_idle(workers: int, streams: int, expected: list[list[int]]) -> None:
    assert hosting(tiny(f"cluster.workers={workers}", f"rollout.streams={streams}")) == expected


def test_the_defaults_fit_anywhere() -> None:
    run = tiny("cluster.workers=200", "rollout.streams=200")
    require_placeable(run, TWO_CPUS)
    require_placeable(run, TWO_CPUS, in_group=True)
    require_placeable(run, [{"CPU": 1.0}])


@pytest.mark.parametrize(
    ("overrides", "nodes", "sentence"),
    [
        (["cluster.learner_gpus=1"], TWO_CPUS, r"cluster\.learner_gpus=1, but the largest node .* has 0 GPUs"),
        (["cluster.learner_gpus=3"], [{"GPU": 2.0, "CPU": 8.0}] * 2, r"cluster\.learner_gpus=3, .* has 2 GPUs"),
        (["cluster.learner_cpus=3"], TWO_CPUS, r"cluster\.learner_cpus=3, .* has 2 CPUs"),
        (["cluster.worker_cpus=4"], TWO_CPUS * 4, r"cluster\.worker_cpus=4, .* has 2 CPUs"),
        (["cluster.worker_cpus=1", "cluster.workers=3"], TWO_CPUS, r"cluster\.workers=3 .* need 3\.001 CPUs, .* has 2"),
    ],
)
def test_requests_that_can_never_be_met(overrides: list[str], nodes: list[dict[str, float]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        require_placeable(tiny(*overrides), nodes)


def test_requests_that_fill_the_cluster_are_met() -> None:
    run = tiny("cluster.worker_cpus=1", "cluster.workers=2", "cluster.learner_cpus=0")
    require_placeable(run, TWO_CPUS)
    with pytest.raises(UserError, match=r"2\.002 CPUs"):  # a trial's coordinator and learner take a little each
        require_placeable(run, TWO_CPUS, in_group=True)


def test_a_trials_bundles() -> None:
    run = tiny("cluster.worker_cpus=0.5", "cluster.workers=2", "cluster.learner_gpus=1", "cluster.learner_cpus=0")
    assert bundles(run) == [{"CPU": 0.001}, {"GPU": 1.0}, {"CPU": 0.5}, {"CPU": 0.5}]
