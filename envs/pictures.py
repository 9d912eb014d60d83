"""Pictures that somebody else's renderer gives, as the bytes that films are made of. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.configs.errors import UserError


def as_picture(given: Any) -> npt.NDArray[np.uint8]:
    """[H, W, 3] of bytes from an array that is grey, has a fourth channel (which is left out) or numbers from 0 to 1.
    A UserError says what it is where it is no picture."""
    picture = np.asarray(given)
    shape, kind = picture.shape, picture.dtype.kind
    if picture.ndim == 2:
        picture = picture[:, :, None]
    if picture.ndim != 3 or picture.shape[2] not in (1, 3, 4) or not picture.size or kind not in "buif":
        raise UserError(f"its render() gave {picture.dtype} {shape}, not an array [height, width, 3] of bytes")
    if kind in "bf" and picture.max() <= 1:
        picture = picture * np.float32(255)
    colours = np.clip(picture, 0, 255).astype(np.uint8)[:, :, :3]
    return np.array(np.broadcast_to(colours, (*shape[:2], 3)))
