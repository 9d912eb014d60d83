"""What a run asks of a cluster, and whether it can ever be given. Plain: no ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from phalanx.configs.errors import UserError
from phalanx.configs.settings import RunSettings

SMALL_CPUS = 0.001  # where Ray does not take none

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
    """Placement group of a trial: the coordinator with replay and evaluator, the learner, and each worker. Ray refuses
    empty bundles, so nothing is rounded up to a little CPU."""
    wanted: list[Request] = [{}, learner_request(run), *(worker_request(run) for _ in hosting(run))]
    return [_positive(request) or {"CPU": SMALL_CPUS} for request in wanted]


def require_placeable(run: RunSettings, nodes: Iterable[Mapping[str, float]], *, in_group: bool = False) -> None:
    """UserError where the nodes (total resources of each) could not hold the run even if nothing else ran; with
    `in_group` as a trial's placement group."""
    nodes = list(nodes)
    workers = len(hosting(run))
    requests = bundles(run) if in_group else [learner_request(run), *(worker_request(run) for _ in hosting(run))]
    for name in ("GPU", "CPU"):
        have = sum(node.get(name, 0.0) for node in nodes)
        largest = max((node.get(name, 0.0) for node in nodes), default=0.0)
        learner, worker = learner_request(run).get(name, 0.0), worker_request(run).get(name, 0.0)
        key = f"cluster.learner_{name.lower()}s"
        for setting, wanted in ((key, learner), ("cluster.worker_cpus", worker)):
            if wanted > largest:
                raise UserError(
                    f"{setting}={wanted:g}, but the largest node of the cluster has {largest:g} {name}s: this could"
                    f" never be placed; ask for at most {largest:g} or add a larger node"
                )
        wanted = sum(request.get(name, 0.0) for request in requests)
        if wanted > have + 1e-9:
            raise UserError(
                f"cluster.workers={workers} with cluster.worker_cpus={worker:g} and {key}={learner:g} need"
                f" {wanted:g} {name}s, but the cluster has {have:g}: this could never be placed; ask for less or add"
                " nodes"
            )


def _positive(request: Request) -> Request:
    return {name: amount for name, amount in request.items() if amount > 0}
