"""Films of trained teams, and the clips that runs leave on their way."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from phalanx.algorithms.registry import make_algorithm
from phalanx.cluster import evaluation
from phalanx.cluster.loop import train_serially
from phalanx.cluster.policy import TrainedTeam
from phalanx.cluster.render import gif_bytes, make_drawn_env, play_frames, write_gif
from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.settings import RunSettings, SinkSettings
from phalanx.envs.drawing import STRIP
from phalanx.envs.drawing_games import CHOSEN
from phalanx.envs.registry import ENVIRONMENTS, env_settings, make_env
from phalanx.envs.team import Bools, Floats, TeamEnv
from tests.cluster.test_loop import run_of
from tests.cluster.test_sinks import scalars
from tests.envs.needed import LIBRARIES, SETTINGS
from tests.envs.toys import Toy

OF_THE_CORE = [name for name in ENVIRONMENTS if name not in SETTINGS and name not in LIBRARIES]


class RandomTeam:
    """Random legal actions, always the same ones."""

    def reset(self, num_envs: int) -> None:
        self._rng = np.random.default_rng(0)

    def reset_rows(self, rows: Any) -> None: ...

    def act(self, obs: Floats, avail: Bools) -> Any:
        return (self._rng.random(avail.shape) * avail).argmax(-1)


def made(name: str, num_envs: int = 1, **settings: Any) -> TeamEnv:
    return make_env(env_settings(name)(name=name, **settings), num_envs)


@pytest.mark.parametrize("name", OF_THE_CORE)
def test_every_environment_of_the_core_can_be_filmed(name: str, tmp_path: Path) -> None:
    least = env_settings(name)(name=name).max_steps or 25
    env = made(name, 2, max_steps=min(least, 25))
    frames = play_frames(env, RandomTeam(), 2, run_seed=1)
    assert {(frame.shape, frame.dtype) for frame in frames} == {(frames[0].shape, np.dtype(np.uint8))}
    assert any(not np.array_equal(frames[0], frame) for frame in frames)
    again = play_frames(env, RandomTeam(), 2, run_seed=1)
    assert all(np.array_equal(one, other) for one, other in zip(frames, again, strict=True))
    write_gif(tmp_path / "film.gif", frames[:40])
    with Image.open(tmp_path / "film.gif") as film:
        assert film.format == "GIF" and film.size == frames[0].shape[1::-1]
        film.seek(0)
        shown = np.asarray(film.convert("RGB"), np.int64)
    assert np.quantile(np.abs(shown - frames[0]), 0.999) < 30  # a few colours stand for all


def test_a_film_ends_with_the_end_of_the_episode() -> None:
    """Also where the environment has begun the next one: what was played is to be seen."""
    frames = play_frames(made("matrix"), RandomTeam(), 1, run_seed=0)
    before, after = frames[0][STRIP:], frames[-1][STRIP:]
    assert not (before[:-STRIP] == CHOSEN).all(axis=2).any()
    assert (after[:-STRIP] == CHOSEN).all(axis=2).any()
    assert len(frames) == 2 + 9  # the beginning, the end, and a pause


def test_nothing_is_drawn_once_the_film_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made("matrix")
    play_frames(env, RandomTeam(), 1, run_seed=0)
    monkeypatch.setattr(type(env), "render", lambda *_: pytest.fail("drawn"))
    env.step(np.zeros((1, 2), np.int64))


def test_an_environment_that_shows_nothing_says_why() -> None:
    with pytest.raises(UserError, match="sleepy cannot draw itself: it only waits"):
        play_frames(made("sleepy", wait_ms=0), RandomTeam(), 1, run_seed=0)


def test_pictures_that_grow_are_brought_to_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made("two_step")
    sizes = iter((230, 240, 235, 230))
    monkeypatch.setattr(env, "render", lambda _: np.zeros((next(sizes), 250, 3), np.uint8))
    frames = play_frames(env, RandomTeam(), 1, run_seed=0)
    assert {frame.shape for frame in frames} == {(240 + STRIP, 250, 3)}


def test_a_render_that_gives_no_picture_or_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made("two_step")
    monkeypatch.setattr(env, "render", lambda index: np.full((30, 40), 0.5))
    assert play_frames(env, RandomTeam(), 1, 0)[0].shape[2] == 3
    monkeypatch.setattr(env, "render", lambda index: "a picture")
    with pytest.raises(UserError, match=r"cannot draw itself: its render\(\) gave <U9 \(\), not an array"):
        play_frames(env, RandomTeam(), 1, 0)
    monkeypatch.setattr(env, "render", lambda index: {}["window"])
    with pytest.raises(RunFailed, match=r"failed in render: KeyError: 'window' \(test_render\.py"):
        play_frames(env, RandomTeam(), 1, 0)


def test_pictures_of_simulators_are_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made("two_step")
    monkeypatch.setattr(env, "render", lambda _: np.zeros((1000, 2048, 3), np.uint8))
    assert play_frames(env, RandomTeam(), 1, run_seed=0)[0].shape == (250 + STRIP, 512, 3)


def test_a_film_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere/film\.gif cannot be written"):
        write_gif(tmp_path / "nowhere/film.gif", [np.zeros((4, 4, 3), np.uint8)])


# ---- environments of other libraries


def test_environments_of_other_libraries_are_built_for_pictures() -> None:
    pytest.importorskip("mpe2")
    settings = env_settings("pettingzoo")(name="pettingzoo", module="mpe2.simple_spread_v3", max_steps=3)
    assert make_env(settings, 1).render(0) is None
    env = make_drawn_env(settings, 1)
    frames = play_frames(env, RandomTeam(), 1, run_seed=0)
    assert len(frames) == 4 + 9 and frames[0].shape == (512 + STRIP, 512, 3)
    assert not np.array_equal(frames[0], frames[3])
    env.close()
    chosen = settings.model_copy(update={"kwargs": {"render_mode": None}})
    assert chosen.for_pictures() is chosen


def test_one_that_does_not_know_the_argument_says_what_is_missing() -> None:
    settings = env_settings("pettingzoo")(name="pettingzoo", module="tests.envs.toys", max_steps=3)
    with pytest.raises(UserError, match=r"env\.module=tests\.envs\.toys gives none.*render_mode=rgb_array"):
        play_frames(make_drawn_env(settings, 1), RandomTeam(), 1, run_seed=0)


class NoPencil(Toy):
    """Needs for pictures what is not there, which it says when it is made or, where `late`, when it is reset."""

    late = False
    made: ClassVar[list[NoPencil]] = []

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.missing, self.closed = render_mode is not None, False
        self.made.append(self)
        if not self.late:
            self.require_a_pencil()

    def require_a_pencil(self) -> None:
        if self.missing:
            raise ImportError("pencil is not installed, run pip install pencil")

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.require_a_pencil()
        return super().reset(seed, options)

    def close(self) -> None:
        self.closed = True


class NoPencilLater(NoPencil):
    late = True
    made: ClassVar[list[NoPencil]] = []


@pytest.mark.parametrize("toy", [NoPencil, NoPencilLater])
@pytest.mark.parametrize("terminal", [False, True])
def test_one_that_lacks_what_it_draws_with_says_so_and_is_closed(toy: type[NoPencil], terminal: bool) -> None:
    toy.made.clear()
    settings = env_settings("pettingzoo")(
        name="pettingzoo", module=f"{__name__}:{toy.__name__}", max_steps=3, timeout_is_terminal=terminal
    )
    env = make_drawn_env(settings, 1)
    with pytest.raises(UserError, match=r"render_mode=rgb_array.*pencil is not installed, run pip install pencil"):
        play_frames(env, RandomTeam(), 1, run_seed=0)
    half_made, whole = toy.made
    assert half_made.closed == toy.late and not whole.closed  # what was never made cannot be closed
    env.close()
    assert whole.closed


# ---- clips on the way


def filmed(every: int, **sections: Any) -> RunSettings:
    sinks = SinkSettings(tensorboard=True, clip_every_evaluations=every)
    return run_of(**sections).model_copy(update={"sinks": sinks})


def images(folder: Path) -> list[tuple[int, bytes]]:
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            found += [(event.step, v.image.encoded_image_string) for v in event.summary.value if v.tag == "eval/clip"]
            at += 12 + size + 4
    return found


def test_a_run_leaves_clips_and_is_the_same_with_and_without(tmp_path: Path) -> None:
    train_serially(filmed(2), tmp_path / "filmed")
    train_serially(run_of(), tmp_path / "plain")
    clips = images(tmp_path / "filmed/tensorboard")
    assert [step for step, _ in clips] == [0, 800, 1200]  # evaluations 1 and 3, and the last
    for _, data in clips:
        with Image.open(io.BytesIO(data)) as film:
            assert film.n_frames >= 10
    one, other = ((tmp_path / each / "evaluations.json").read_bytes() for each in ("filmed", "plain"))
    assert one == other
    assert scalars(tmp_path / "filmed/tensorboard")["eval/return_mean"]


def test_pictures_that_fail_do_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no pencil")

    monkeypatch.setattr("phalanx.cluster.render.play_frames", broken)
    summary = train_serially(filmed(1, total_env_steps=80), tmp_path / "run")
    assert summary["exit_reason"] == "completed"
    assert "no clip of the evaluation after 0 env steps: no pencil" in caplog.text
    assert images(tmp_path / "run/tensorboard") == []


def test_a_clip_is_the_first_evaluated_episode() -> None:
    run = filmed(1, evaluation={"episodes": 1})
    judge = evaluation.Evaluator(run)
    judge.set_weights(make_algorithm(run, judge.spec).policy_weights(), 0)
    with_clip, plain = judge.evaluate(film=True), judge.evaluate()
    assert plain.clip is None and not plain.no_clip and with_clip.clip is not None
    np.testing.assert_array_equal(with_clip.returns, plain.returns)
    team = TrainedTeam(run, judge.spec, judge._weights)
    assert with_clip.clip == gif_bytes(play_frames(make_env(run.env, 1), team, 1, run.seed))
