"""Every episode once, from the policy that is: the runtime under an on-policy method, with actors that die."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from phalanx.algorithms.common.batch import EpisodeBatch
from phalanx.cluster import actors
from phalanx.cluster.checkpoint import checkpoint_folders
from phalanx.cluster.diary import Diary, resume_point
from phalanx.cluster.loop import SerialLoop, train_serially
from phalanx.cluster.pipeline import Pipeline
from phalanx.cluster.progress import Progress
from phalanx.cluster.rounds import Rewind, Rounds
from phalanx.cluster.run_folder import RunFolder
from phalanx.configs.settings import RunSettings
from tests.cluster import fakes, on_policy
from tests.cluster.fleets import LocalFleet, keep_garbage_collection
from tests.cluster.runs import evaluations_of, rows_of


@pytest.fixture(autouse=True)
def method(monkeypatch: pytest.MonkeyPatch) -> None:
    on_policy.register(monkeypatch)
    keep_garbage_collection(monkeypatch)


def run_of(**sections: Any) -> RunSettings:
    defaults: dict[str, Any] = {
        "total_env_steps": 900,
        "rollout": {"streams": 3, "envs_per_stream": 4},
        "evaluation": {"every_env_steps": 300, "episodes": 3},
        "checkpoint": {"every_env_steps": 400, "keep": 9},
        "report": {"every_env_steps": 100, "every_s": 0.05},
    }
    return fakes.settings(on_policy.NAME, **{**defaults, **sections})


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the episodes that any learner was given. Episodes are numbered as they begin, whoever plays them."""
    fakes.install(monkeypatch)
    numbers = itertools.count()

    def begin(self: fakes.Clockwork, rows: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        self.seed[rows] = [next(numbers) for _ in seeds]
        self.last[rows] = 0

    monkeypatch.setattr(fakes.Clockwork, "_begin", begin)
    given: list[int] = []
    update = actors.LearnerActor.update

    def watched(self: actors.LearnerActor, batches: Sequence[EpisodeBatch]) -> int:
        made = update(self, batches)
        given.extend(int(number) for batch in batches for number in batch.obs[:, 0, 0, 0])
        return made

    monkeypatch.setattr(actors.LearnerActor, "update", watched)
    return given


def test_what_follows_from_the_method_resolves_by_itself() -> None:
    run = run_of()
    assert (run.replay.sampling, run.replay.samples_per_insert, run.learner.batch_episodes) == ("once", 1.0, 12)
    assert run.replay.capacity_episodes == run.least_capacity == 2 * 12 + 2 * 4
    again = RunSettings.model_validate({**run.model_dump(), "env": run.env, "algorithm": run.algorithm})
    assert again == run


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"replay": {"sampling": "uniform"}},
            "sampling=uniform is impossible, because algorithm.name=preferences is",
        ),
        ({"replay": {"sampling": "prioritised"}}, "sampling=prioritised is impossible"),
        ({"replay": {"samples_per_insert": 2}}, "samples_per_insert=2 is impossible.*leave it at 1"),
        ({"replay": {"capacity_episodes": 31}}, "capacity_episodes=31 is too few.*at least 32"),
        ({"replay": {"min_episodes": 64}}, "min_episodes=64 has no effect, because algorithm.name=.*leave it at 32"),
        ({"exploration": {"end": 0.1}}, "exploration.end=0.1 has no effect, because .* draw.*leave it at 0.05"),
        ({"learner": {"batch_episodes": 8}}, "batch_episodes=8 must be what a round plays, 12 episodes"),
    ],
)
def test_what_cannot_be_is_refused(sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        run_of(**sections)


def test_other_methods_are_not_for_queues() -> None:
    with pytest.raises(ValueError, match=r"replay.sampling=once is for on-policy methods, and algorithm.name=vdn"):
        fakes.settings("vdn", replay={"sampling": "once"})
    assert run_of(mode="async", learner={"batch_episodes": 8}).replay.capacity_episodes == 24


def test_a_round_is_learned_from_once_and_is_the_present_policys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fakes.install(monkeypatch, crash_every=5)
    summary = train_serially(run_of(checkpoint={}), tmp_path / "run")
    assert summary["updates"] > 15
    rows = [row for row in rows_of(tmp_path / "run") if "train/log_prob_gap" in row]
    # The mean of two steps: the first sees the very policy that played, the second the moved one.
    assert all(0 < row["train/log_prob_gap"] < 0.01 and row["learner/policy_lag_mean"] == 0 for row in rows)
    assert all(row["replay/size"] == 0 and "rollout/epsilon" not in row for row in rows)
    assert rows[-1]["replay/samples_per_insert"] == 1.0


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_policy.register(monkeypatch)
        fakes.install(monkeypatch)
        train_serially(run_of(), folder)
    return folder


def in_rounds(run: RunSettings, folder: Path, seed: int, kills: Sequence[tuple[int, str]] = ()) -> LocalFleet:
    """The sync service, as the coordinator drives it."""
    fleet = LocalFleet(run, seed, kills)
    assert fleet.spec is not None
    kept = RunFolder.create(folder, run)
    while True:
        checkpoint, progress = None, None
        if checkpoint_folders(kept.checkpoints):
            checkpoint, progress, _ = resume_point(run, kept)
        else:
            kept.truncate_to(run, Progress())
        engine = Rounds(run, fleet.spec, fleet, Diary(run, kept, progress))  # type: ignore[arg-type]
        try:
            engine.begin(checkpoint)
            while not engine.finished:
                engine.period(lambda: False)
        except Rewind:
            fleet = LocalFleet(run, seed + 1, fleet.kills)
            continue
        engine.diary.close("completed")
        return fleet


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_rounds_equal_the_serial_loop_on_any_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, serial: Path, tmp_path: Path, workers: int
) -> None:
    fakes.install(monkeypatch)
    in_rounds(run_of(cluster={"workers": workers}), tmp_path / "run", seed=workers)
    assert evaluations_of(tmp_path / "run") == evaluations_of(serial)
    same = ("env_steps", "updates", "train/loss_policy", "replay/size", "rollout/return_mean")
    ours, theirs = ([rows_of(each)[-1][key] for key in same] for each in (tmp_path / "run", serial))
    assert ours == theirs


@pytest.mark.parametrize("victim", ["worker 1", "evaluator", "learner", "replay"])
def test_rounds_stay_exact_whoever_dies(
    monkeypatch: pytest.MonkeyPatch, serial: Path, tmp_path: Path, victim: str
) -> None:
    fakes.install(monkeypatch)
    run = run_of(cluster={"workers": 2})
    first = in_rounds(run, tmp_path / "run", 3, [(40, victim)])
    assert victim in first.killed or not first.kills
    assert evaluations_of(tmp_path / "run") == evaluations_of(serial)


def test_a_resumed_run_equals_the_uninterrupted_one(
    monkeypatch: pytest.MonkeyPatch, serial: Path, tmp_path: Path
) -> None:
    fakes.install(monkeypatch)
    folder = tmp_path / "run"
    shutil.copytree(serial, folder)
    shutil.rmtree(checkpoint_folders(folder / "checkpoints")[0])
    loop = SerialLoop(run_of(), folder, resume=True)
    assert loop.replay.size == 0
    assert 0 < loop.progress.env_steps < 900
    loop.train()
    assert evaluations_of(folder) == evaluations_of(serial)


def in_pipeline(run: RunSettings, folder: Path, seed: int, kills: Sequence[tuple[int, str]] = ()) -> LocalFleet:
    """The async service; the fleet that is left."""
    fleet = LocalFleet(run, seed, kills)
    assert fleet.spec is not None
    engine = Pipeline(run, fleet.spec, fleet, Diary(run, RunFolder.create(folder, run)))  # type: ignore[arg-type]
    engine.begin(None)
    while not engine.finished:
        engine.period(lambda: False)
    engine.diary.close("completed")
    return fleet


@pytest.mark.parametrize("seed", range(2))
def test_async_every_episode_is_learned_from_once(learned: list[int], tmp_path: Path, seed: int) -> None:
    run = run_of(mode="async", total_env_steps=2000, cluster={"workers": 3}, checkpoint={"every_env_steps": 900})
    fleet = in_pipeline(run, tmp_path / "run", seed)
    last = rows_of(tmp_path / "run")[-1]
    assert len(learned) == len(set(learned)) == last["updates"] * 12
    assert fleet.queued == last["episodes"] - len(learned) < 12
    assert last["cluster/episodes_lost"] == 0
    lags = [row["learner/policy_lag_mean"] for row in rows_of(tmp_path / "run") if "learner/policy_lag_mean" in row]
    assert lags and max(lags) <= 4


@pytest.mark.parametrize("seed", range(4))
def test_async_no_episode_comes_twice_whoever_dies(learned: list[int], tmp_path: Path, seed: int) -> None:
    run = run_of(mode="async", total_env_steps=4000, cluster={"workers": 3}, checkpoint={"every_env_steps": 1500})
    victims = ["replay", "learner", "worker 0", "evaluator", "replay", "learner", "worker 2"]
    order = np.random.default_rng(seed).permutation(len(victims))
    kills = [(150 + 120 * turn, victims[k]) for turn, k in enumerate(order)]
    fleet = in_pipeline(run, tmp_path / "run", seed, kills)
    assert len(fleet.killed) >= 4
    last = rows_of(tmp_path / "run")[-1]
    assert len(learned) == len(set(learned))
    unseen = last["episodes"] - len(learned) - fleet.queued
    assert 0 <= unseen <= last["cluster/episodes_lost"]


def test_async_a_checkpoint_holds_each_episode_as_learned_or_as_queued(learned: list[int], tmp_path: Path) -> None:
    run = run_of(mode="async", total_env_steps=1500, cluster={"workers": 2}, checkpoint={"every_env_steps": 500})
    in_pipeline(run, tmp_path / "run", 5)
    newest = checkpoint_folders(tmp_path / "run/checkpoints")[-1]
    before = len(learned)
    folder = RunFolder.open(tmp_path / "run")
    for path in checkpoint_folders(folder.checkpoints):
        if path != newest:
            shutil.rmtree(path)
    checkpoint, progress, _ = resume_point(run, folder)
    fleet = LocalFleet(run, 6)
    assert fleet.spec is not None
    engine = Pipeline(run, fleet.spec, fleet, Diary(run, folder, progress))  # type: ignore[arg-type]
    engine.begin(checkpoint)
    seen, queued = progress.updates * 12, fleet.queued
    assert seen <= before
    assert queued == engine._limiter.replay_size
    while not engine.finished:
        engine.period(lambda: False)
    later = learned[before:]
    assert len(later) == len(set(later)) and not set(later) & set(learned[:seen])


def test_async_a_checkpoint_leaves_nobody_waiting(
    learned: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While it is written the learner takes nothing; if the workers wait for it by then, no answer sets it going."""
    run = run_of(mode="async", cluster={"workers": 2})
    fleet = LocalFleet(run)
    assert fleet.spec is not None
    engine = Pipeline(run, fleet.spec, fleet, Diary(run, RunFolder.create(tmp_path / "run", run)))  # type: ignore[arg-type]
    engine.begin(None)
    going: list[bool] = []
    monkeypatch.setattr(engine, "_save", lambda: going.append(not engine._learning.held))
    monkeypatch.setattr(engine, "_advance", lambda: going.append(not engine._learning.held))
    engine.save()
    assert going == [False, True]
