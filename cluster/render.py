"""A trained team on film: greedy episodes, drawn by the environment, as an animated GIF. Pillow is imported lazily."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import RunFailed, UserError
from phalanx.configs.settings import EnvSettings
from phalanx.envs.faults import FAULTS, in_words, reset_env, step_env
from phalanx.envs.pictures import as_picture
from phalanx.envs.registry import make_env
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import Obs, Step, TeamEnv, TeamPolicy

Frame = npt.NDArray[np.uint8]  # [H, W, 3]

FRAMES_PER_S = 12
_PAUSE_FRAMES = 9  # the last picture of an episode stays for as long as so many
_COLOURS = 128
_LARGEST = 512  # pixels


def require_output_path(path: Path, suffixes: Sequence[str], option: str) -> None:
    """Refuses, before any work is done, a path that no file of this kind can be written to. An existing one is
    replaced; anything else that exists is not, because its name ends differently or it is a folder."""
    allowed = " or ".join(suffixes)
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{option} {path} must be a file whose name ends in {allowed}")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: give a file whose name ends in {allowed}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}; create it first")


def make_drawn_env(
    settings: EnvSettings, num_envs: int, load_policy: Callable[[str], TeamPolicy] | None = None
) -> TeamEnv:
    """What `make_env` gives, made for pictures where that can be done. Where it cannot, because the environment does
    not take the argument or lacks what it draws with, `why_no_picture` says why not."""
    drawn = settings.for_pictures()
    if drawn is settings:
        return make_env(settings, num_envs, load_policy)
    try:
        return make_env(drawn, num_envs, load_policy)
    except (UserError, RunFailed) as error:
        reason = str(error)
    env = make_env(settings, num_envs, load_policy)
    env.why_no_picture += f". Made for pictures it failed: {reason}"
    return env


def most_crashes(num_envs: int) -> int:
    """How many episodes of so many environments may crash before an evaluation, or a film, is given up."""
    return 20 + 4 * num_envs


def play_frames(env: TeamEnv, policy: TeamPolicy, episodes: int, run_seed: int) -> list[Frame]:
    """Pictures of greedy episodes of environment 0, one after the other, each with a line above that says how far the
    episode is and what it has earned; the other environments are ignored.

    The episodes are the first ones of seed `run_seed` that did not crash, so the same team gives the same film.
    UserError where the environment gives no picture, RunFailed where it keeps crashing.
    """
    env.film(0)
    try:
        return _of_one_size(_frames(env, policy, episodes, run_seed))
    finally:
        env.film(-1)


def _frames(env: TeamEnv, policy: TeamPolicy, episodes: int, run_seed: int) -> list[Frame]:
    obs = reset_env(env, [EpisodeSeeds(run_seed, Purpose.EVALUATION, e) for e in range(env.num_envs)])
    policy.reset(env.num_envs)
    films: list[list[Frame]] = []
    crashes = 0
    while len(films) < episodes:
        film, last = _one_episode(env, policy, obs, _Line(env, len(films), episodes))
        obs = last.next
        if not last.info.get("crashed", (False,))[0]:
            films.append([*film, *[film[-1]] * _PAUSE_FRAMES])
            continue
        crashes += 1  # it has no end, so the next one is shown instead, as evaluations count it instead
        if crashes > most_crashes(env.num_envs):
            raise RunFailed(f"environment {env.spec.env_name} crashed {crashes} times while it was filmed")
    return [frame for film in films for frame in film]


def _one_episode(env: TeamEnv, policy: TeamPolicy, obs: Obs, line: _Line) -> tuple[list[Frame], Step]:
    """Pictures of environment 0's episode that begins with `obs`, and its last step."""
    frames = [line.above(_picture(env))]
    while True:
        step = step_env(env, policy.act(obs.obs, obs.avail))
        obs, ended = step.next, bool(step.ended[0])
        if step.ended.any():
            policy.reset_rows(np.flatnonzero(step.ended))
        line.add(step)
        last = _last_picture(env) if ended else _picture(env)
        # Whoever cannot draw the end (an environment of one's own, perhaps) shows the step before it.
        frames.append(frames[-1] if last is None else line.above(last))
        if ended:
            return frames, step


class _Line:
    """What is said above a picture."""

    def __init__(self, env: TeamEnv, episode: int, episodes: int) -> None:
        self._spec = env.spec
        self._name = env.spec.env_name + (f"  episode {episode + 1}/{episodes}" if episodes > 1 else "")
        self._steps, self._sum, self._outcome = 0, 0.0, ""

    def add(self, step: Step) -> None:
        """Environment 0 made a step."""
        self._steps += 1
        self._sum += float(step.earned[0])
        if self._spec.has_win and step.ended[0]:
            self._outcome = "  won" if step.info["win"][0] else "  not won"

    def above(self, picture: Frame) -> Frame:
        """The picture with the line."""
        from phalanx.envs.drawing import with_header

        return with_header(picture, f"{self._name}  step {self._steps}", f"return {self._sum:.4g}{self._outcome}")


def _last_picture(env: TeamEnv) -> Frame | None:
    picture = env.last_picture()
    return None if picture is None else _usable(env, picture)


def _picture(env: TeamEnv) -> Frame:
    try:
        picture = env.render(0)
    except FAULTS as error:
        raise RunFailed(f"environment {env.spec.env_name} failed in render: {in_words(error)}") from error
    if picture is None:
        raise UserError(f"the environment {env.spec.env_name} cannot draw itself: {env.why_no_picture}")
    return _usable(env, picture)


def _usable(env: TeamEnv, picture: Any) -> Frame:
    try:
        return _not_too_large(as_picture(picture))
    except UserError as error:
        raise UserError(f"the environment {env.spec.env_name} cannot draw itself: {error}") from error


def _not_too_large(picture: Frame) -> Frame:
    """Simulators' own pictures may be larger than a film needs."""
    from PIL import Image

    share = max(picture.shape[:2]) / _LARGEST
    if share <= 1:
        return picture
    size = (round(picture.shape[1] / share), round(picture.shape[0] / share))
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _of_one_size(frames: list[Frame]) -> list[Frame]:
    """All as large as the largest: an environment may show more at one time than at another."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    if all(frame.shape[:2] == (height, width) for frame in frames):
        return frames
    return [
        np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), constant_values=255)
        for frame in frames
    ]


def write_gif(path: Path, frames: Sequence[Frame], frames_per_s: int = FRAMES_PER_S) -> None:
    """Writes `frames` as a GIF that repeats forever. UserError where the file cannot be written."""
    data = gif_bytes(frames, frames_per_s)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def gif_bytes(frames: Sequence[Frame], frames_per_s: int = FRAMES_PER_S) -> bytes:
    """A GIF that repeats forever, with one palette for all frames, so that colours do not flicker."""
    from PIL import Image

    palette = _shared_palette(frames)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    # GIF counts time in hundredths of a second, and viewers slow anything below two of them down.
    duration_ms = max(20, round(100 / frames_per_s) * 10)
    file = io.BytesIO()
    images[0].save(
        file, format="GIF", save_all=True, append_images=images[1:], duration=duration_ms, loop=0, optimize=False
    )
    return file.getvalue()


def _shared_palette(frames: Sequence[Frame]) -> Any:
    from PIL import Image

    picked = [frames[i] for i in sorted({round(i) for i in np.linspace(0, len(frames) - 1, 8)})]
    return Image.fromarray(np.concatenate(picked, axis=0)).quantize(colors=_COLOURS, dither=Image.Dither.NONE)
