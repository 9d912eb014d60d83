"""What a run asks of a cluster, and whether it can ever be given. Plain: no ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from phalanx.configs.errors import UserError
from phalanx.configs.settings import RunSettings

SMALL_CPUS = 0.001  # reserved for actors that have no setting of their own, so that any number fits

Request = dict[str, float]


def hosting(run: RunSettings) -> list[list[int]]:
    """The streams of each worker. Streams are dealt out in turn; a worker without any is not started."""
    workers = min(run.cluster.workers, run.rollout.streams)
    return [list(range(worker, run.rollout.streams, workers)) for worker in range(workers)]


def worker_request(run: RunSettings) -> Request:
    """Of each worker."""
    return {"CPU": run.cluster.worker_cpus}


def learner_request(run: RunSettings) -> Request:
    """Of the learner."""
    return {"CPU": run.cluster.learner_cpus, "GPU": run.cluster.learner_gpus}


def bundles(run: RunSettings) -> list[Request]:
    """Placement group of a trial: coordinator with replay and evaluator, learner, and each worker. Ray refuses
    bundles of nothing, so a request for no CPU at all is rounded up to a small one."""
    wanted = [{"CPU": 3 * SMALL_CPUS}, learner_request(run), *(worker_request(run) for _ in hosting(run))]
    return [_positive(request) or {"CPU": SMALL_CPUS} for request in wanted]


def require_placeable(run: RunSettings, nodes: Iterable[Mapping[str, float]]) -> None:
    """UserError where the nodes (total resources of each) could not hold the run even if nothing else ran."""
    nodes = list(nodes)
    workers = len(hosting(run))
    for name, plural in (("GPU", "GPUs"), ("CPU", "CPUs")):
        have = sum(node.get(name, 0.0) for node in nodes)
        largest = max((node.get(name, 0.0) for node in nodes), default=0.0)
        learner, worker = learner_request(run).get(name, 0.0), worker_request(run).get(name, 0.0)
        key = f"cluster.learner_{plural.lower()}"
        if learner > largest:
            raise UserError(
                f"{key}={learner:g}, but the largest node of the cluster has {largest:g} {plural}:"
                f" this could never be placed; ask for at most {largest:g} or add a larger node"
            )
        if worker > largest:
            raise UserError(
                f"cluster.worker_cpus={worker:g}, but the largest node of the cluster has {largest:g} {plural}:"
                f" this could never be placed; ask for at most {largest:g} or add a larger node"
            )
        if learner + workers * worker > have:
            raise UserError(
                f"cluster.workers={workers} with cluster.worker_cpus={worker:g} and {key}={learner:g} need"
                f" {learner + workers * worker:g} {plural}, but the cluster has {have:g}: this could never be placed;"
                " ask for less or add nodes"
            )


def _positive(request: Request) -> Request:
    return {name: amount for name, amount in request.items() if amount > 0}
