"""A trained team on film: greedy episodes, drawn by the environment, as an animated GIF. Pillow is imported lazily."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError
from phalanx.envs.seeding import EpisodeSeeds, Purpose
from phalanx.envs.team import TeamEnv, TeamPolicy

Frame = npt.NDArray[np.uint8]  # [H, W, 3]

FRAMES_PER_S = 12
_PAUSE_FRAMES = 6  # the last picture of an episode stays for half a second
_COLOURS = 64


def require_picture_path(path: Path, suffixes: Sequence[str], option: str) -> None:
    """Refuses, before any work is done, a path that no picture can be written to. An existing picture is replaced;
    anything else that exists is not, because its name ends differently or it is a folder."""
    allowed = " or ".join(suffixes)
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{option} {path} must be a file whose name ends in {allowed}")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: give a file whose name ends in {allowed}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}; create it first")


def play_frames(env: TeamEnv, policy: TeamPolicy, episodes: int, run_seed: int) -> list[Frame]:
    """Pictures of greedy episodes of environment 0, one after the other; the other environments are ignored.

    The episodes are the first ones of seed `run_seed`, so the same team gives the same film. UserError where the
    environment has no renderer.
    """
    obs = env.reset([EpisodeSeeds(run_seed, Purpose.EVALUATION, e) for e in range(env.num_envs)])
    policy.reset(env.num_envs)
    frames: list[Frame] = []
    ended = 0
    while ended < episodes:
        picture = env.render(0)
        if picture is None:
            raise UserError(
                f"--gif: the environment {env.spec.env_name} cannot draw itself; leave --gif out, or give the"
                " environment a render() that returns pictures"
            )
        frames.append(np.asarray(picture, dtype=np.uint8))
        step = env.step(policy.act(obs.obs, obs.avail))
        obs = step.next
        if step.ended.any():
            policy.reset_rows(np.flatnonzero(step.ended))
        if step.ended[0]:
            ended += 1
            frames.extend([frames[-1]] * _PAUSE_FRAMES)
    return frames


def write_gif(path: Path, frames: Sequence[Frame], frames_per_s: int = FRAMES_PER_S) -> None:
    """Writes `frames` as a GIF that repeats forever, with one palette for all, so that colours do not flicker."""
    from PIL import Image

    palette = _shared_palette(frames)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    # GIF counts time in hundredths of a second, and viewers slow anything below two of them down.
    duration_ms = max(20, round(100 / frames_per_s) * 10)
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration_ms, loop=0, optimize=False)


def _shared_palette(frames: Sequence[Frame]) -> Any:
    from PIL import Image

    picked = [frames[i] for i in sorted({round(i) for i in np.linspace(0, len(frames) - 1, 8)})]
    return Image.fromarray(np.concatenate(picked, axis=0)).quantize(colors=_COLOURS, dither=Image.Dither.NONE)
