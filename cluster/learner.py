"""Learning: the only place with `.backward()`, device moves and `.item()`. Plain: no ray."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phalanx.algorithms.base import Metrics, OptimiserStep, TensorBatch, Weights
from phalanx.algorithms.common.batch import EpisodeBatch, EpisodeErrors, PrioritisedBatch
from phalanx.algorithms.common.beside import Lender, lent
from phalanx.algorithms.registry import make_algorithm
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.settings import AlgorithmSettings, Device, RunSettings
from phalanx.envs.seeding import Purpose, generator
from phalanx.envs.team import TeamSpec

AHEAD = 3  # batches prepared beside the updates at most: a core that is wanted elsewhere for a while is not waited for


class NonFinite(RunFailed):
    """A loss or gradient was NaN or infinite. On a CPU the parameters are still those from before the update; on a
    GPU, where looking costs a wait, it is noticed at the end of the same call of `Learner.update`."""


def use_threads(threads: int) -> None:
    """Torch threads of this process. Sync mode uses one everywhere, because sums in other orders differ in bits."""
    torch.set_num_threads(threads)


def learner_threads(run: RunSettings) -> int:
    """How many torch threads the learner may use."""
    return 1 if run.mode == "sync" else run.learner.threads


def choose_device(device: Device) -> torch.device:
    """UserError where `cuda` is asked for and there is none."""
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UserError(
            "learner.device=cuda, but torch sees no GPU here: set learner.device=auto (or cpu), and"
            " cluster.learner_gpus=1 where the cluster has one"
        )
    return torch.device("cuda" if there and device != "cpu" else "cpu")


def make_optimiser(
    settings: AlgorithmSettings, parameters: Sequence[torch.nn.Parameter], lr: float | None = None
) -> torch.optim.Optimizer:
    """RMSprop with PyMARL's constants, or Adam. `lr`: None for that of the settings."""
    lr = settings.lr if lr is None else lr
    if settings.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=lr, fused=True)
    return torch.optim.RMSprop(parameters, lr=lr, alpha=0.99, eps=1e-5, foreach=True)


def one_thread(name: str) -> ThreadPoolExecutor:
    """A thread with as many torch threads as this one."""
    return ThreadPoolExecutor(1, name, initializer=use_threads, initargs=(torch.get_num_threads(),))


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flattened(parameters: Sequence[torch.nn.Parameter]) -> torch.nn.Parameter:
    """One parameter whose memory, and whose gradient's memory, the given ones share from now on, in their order: the
    optimiser and the clip then take a few operations instead of a few for each parameter."""
    flat = torch.nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    start = 0
    for parameter in parameters:
        part = slice(start, start + parameter.numel())
        parameter.data = flat.data[part].view_as(parameter)
        parameter.grad = flat.grad[part].view_as(parameter)
        start = part.stop
    return flat


class _Group:
    """Parameters that are optimised together."""

    def __init__(self, parameters: list[torch.nn.Parameter], settings: AlgorithmSettings, lr: float) -> None:
        self.parameters = parameters
        self.flat = flattened(parameters)
        self.optimiser = make_optimiser(settings, [self.flat], lr)


class Learner:
    """Algorithm, optimisers and the learner's randomness. `updates` counts batches learned from."""

    def __init__(self, run: RunSettings, spec: TeamSpec) -> None:
        self.run = run
        self.device = choose_device(run.learner.device)
        self.algorithm = make_algorithm(run, spec).to(self.device)
        self.updates = 0
        self._groups = {
            name: _Group(parameters, run.algorithm, self.algorithm.learning_rate(name))
            for name, parameters in self.algorithm.parameter_groups().items()
        }
        self._rng = generator(run.seed, Purpose.LEARNER)
        aside = self.device.type == "cpu" and cores() > 1
        self._ahead = one_thread("prepare") if aside else None
        self._lender = Lender(one_thread("beside")) if aside else None
        self._last_batch: TensorBatch | None = None  # for the report's diagnostics
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._seconds = 0.0
        self._updates_reported = 0

    def update(self, batches: Sequence[EpisodeBatch]) -> int:
        """One update with each batch; returns the number of updates done so far. Raises NonFinite."""
        self._update(batches)
        return self.updates

    def update_prioritised(self, batches: Sequence[PrioritisedBatch]) -> tuple[int, EpisodeErrors]:
        """The same with batches of a prioritised replay; returns the errors of all their episodes, in order, too."""
        errors: list[Tensor] = []
        self._update(batches, errors)
        numbers = np.concatenate([batch.numbers for batch in batches])
        return self.updates, EpisodeErrors(numbers, torch.cat(errors).float().cpu().numpy())

    def _update(self, batches: Sequence[EpisodeBatch], errors: list[Tensor] | None = None) -> None:
        """`errors` collects those of each batch, where they are asked for."""
        started = perf_counter()
        suspects: list[tuple[int, Metrics]] = []
        on_gpu = self.device.type == "cuda"
        for prepared in self._prepared(batches):
            with lent(self._lender):
                metrics = self._update_once(prepared, errors)
            if on_gpu:
                suspects.append((self.updates, metrics))
            self._add(metrics)
        if suspects:
            for update, metrics in suspects:
                self._require_finite(update, metrics)
        self._seconds += perf_counter() - started

    def _prepared(self, batches: Sequence[EpisodeBatch]) -> Iterator[Any]:
        """Each batch prepared: on a CPU the next ones meanwhile, by another core if there is one, unless an update in
        between moves the targets. What is computed, and drawn, is the same either way."""
        waiting: deque[Future[Any]] = deque()
        for k, batch in enumerate(batches):
            prepared = waiting.popleft().result() if waiting else self._prepare(batch)
            if self._ahead is not None:
                for ahead in range(len(waiting) + 1, min(AHEAD, len(batches) - 1 - k) + 1):
                    if self.algorithm.moves_targets(self.updates + ahead):
                        break
                    waiting.append(self._ahead.submit(self._prepare, batches[k + ahead]))
            yield prepared

    def _prepare(self, batch: EpisodeBatch) -> Any:
        self._last_batch = TensorBatch.of(batch, self.device)
        return self.algorithm.prepare(self._last_batch, self._rng)

    def _update_once(self, prepared: Any, errors: list[Tensor] | None) -> Metrics:
        """Every optimiser step of one update; the means of what they say."""
        told: dict[str, list[Tensor]] = {}
        for step in self.algorithm.steps(prepared, with_errors=errors is not None):
            if errors is not None and step.errors is not None:
                errors.append(step.errors)
            for name, value in self._step(step).items():
                told.setdefault(name, []).append(value)
        self.updates += 1
        self.algorithm.after_update(self.updates)
        return {name: values[0] if len(values) == 1 else torch.stack(values).mean() for name, values in told.items()}

    def _step(self, step: OptimiserStep) -> Metrics:
        metrics = dict(step.metrics)
        on_cpu = self.device.type == "cpu"
        if on_cpu and not math.isfinite(step.loss.item()):
            self._require_finite(self.updates + 1, {**metrics, "loss": step.loss})
        if step.made:
            return metrics
        group = self._groups[step.group]
        group.optimiser.zero_grad(set_to_none=False)
        # Into these parameters alone: an actor's loss goes through a critic that it must not move.
        only = group.parameters if len(self._groups) > 1 else None
        step.loss.backward(inputs=only)  # type: ignore[no-untyped-call]
        if self._lender is not None:
            self._lender.join()
        norm = torch.nn.utils.clip_grad_norm_(group.flat, self.run.algorithm.grad_norm_clip)
        metrics["grad_norm" if len(self._groups) == 1 else f"grad_norm_{step.group}"] = norm
        if on_cpu and not math.isfinite(norm.item()):
            group.optimiser.zero_grad(set_to_none=False)
            self._require_finite(self.updates + 1, metrics)
        group.optimiser.step()
        return metrics

    def weights(self) -> tuple[Weights, int]:
        """The policy's weights (numpy, own memory) and their version: the updates done."""
        return self.algorithm.policy_weights(), self.updates

    def metrics(self) -> dict[str, float]:
        """Means over the updates since the last call, the algorithm's diagnostics of the last batch, and
        `learner/update_ms`. Empty where no update was made."""
        updates = self.updates - self._updates_reported
        if updates == 0 or self._last_batch is None:
            return {}
        self._add(self.algorithm.diagnostics(self._last_batch))
        names = list(self._sums)
        totals = torch.stack([self._sums[name] for name in names]).tolist()  # one read for all of them
        row = {f"train/{name}": total / self._counts[name] for name, total in zip(names, totals, strict=True)}
        row["learner/update_ms"] = 1000 * self._seconds / updates
        self._forget_metrics()
        return row

    def state(self) -> dict[str, Any]:
        """Networks with targets, optimiser, counters, random state: for torch.save and weights_only=True."""
        return {
            "algorithm": _in_main_memory(dict(self.algorithm.state_dict())),
            "optimisers": {name: _in_main_memory(group.optimiser.state_dict()) for name, group in self._groups.items()},
            "updates": self.updates,
            "random": json.dumps(self._rng.bit_generator.state),  # integers of 128 bits
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues where `state()` was taken, to the bit on the same device. UserError where it does not fit."""
        try:
            self.algorithm.load_state_dict(state["algorithm"])
            for name, group in self._groups.items():
                group.optimiser.load_state_dict(state["optimisers"][name])
            self.updates = int(state["updates"])
            self._rng.bit_generator.state = json.loads(state["random"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"the learner's state does not fit algorithm.name={self.run.algorithm.name} as configured ({reason}):"
                " resume with the configuration that the checkpoint was made with"
            ) from error
        self._forget_metrics()

    def _forget_metrics(self) -> None:
        self._sums, self._counts, self._seconds = {}, {}, 0.0
        self._updates_reported = self.updates

    def _add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def _require_finite(self, update: int, metrics: Metrics) -> None:
        """Raises NonFinite naming the terms, unless all are finite."""
        names = list(metrics)
        values = torch.stack([metrics[name].detach().float() for name in names]).tolist()
        bad = [f"{name} is {value}" for name, value in zip(names, values, strict=True) if not math.isfinite(value)]
        if bad:
            raise NonFinite(
                f"update {update} failed: {', '.join(bad)}; resume from the last checkpoint with a lower"
                f" algorithm.lr (now {self.run.algorithm.lr}) or algorithm.grad_norm_clip"
            )


def _in_main_memory(state: Any) -> Any:
    """`state` with its tensors on the CPU: whoever writes the checkpoint may have no GPU."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _in_main_memory(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_in_main_memory(value) for value in state]
    return state
