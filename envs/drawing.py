"""Pictures of particle worlds, drawn with Pillow: no display, no window, a few milliseconds each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

ROLES: dict[str, Colour] = {
    "forest": (193, 225, 193),
    "obstacle": (120, 124, 132),
    "landmark": (176, 180, 188),
    "goal": (64, 170, 104),
    "food": (74, 124, 214),
    "agent": (62, 106, 190),
    "predator": (214, 76, 70),
    "prey": (44, 160, 92),
}
"""Fill colour of each role. Roles that come later are drawn over those before them."""

BACKGROUND: Colour = (247, 247, 244)
ARENA: Colour = (255, 255, 255)
LINE: Colour = (205, 205, 200)
SMOOTHING = 2  # drawn this many times larger, then averaged
SMALLEST = 2.0  # radius in pixels below which nothing is drawn, however far the camera is
MARGIN = 1.1  # the camera sees this many times further than it must


def draw_world(
    positions: npt.NDArray[np.float64], sizes: Sequence[float], roles: Sequence[str], width: int = 352
) -> npt.NDArray[np.uint8]:
    """A picture [width, width, 3] of round bodies: `positions` [M, 2], radii and roles (keys of `ROLES`).

    The square from -1 to 1 is the arena. The camera shows it whole and draws back as far as anybody strays.
    """
    outermost = (np.abs(positions).max(axis=1, initial=0.0) + sizes).max(initial=1.0)
    reach = float(outermost) * MARGIN
    pixels = width * SMOOTHING
    scale = pixels / (2 * reach)
    image = Image.new("RGB", (pixels, pixels), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    low, high = pixels / 2 - scale, pixels / 2 + scale
    canvas.rectangle((low, low, high, high), fill=ARENA, outline=LINE, width=SMOOTHING)
    order = list(ROLES)
    for body in sorted(range(len(roles)), key=lambda b: order.index(roles[b])):
        x, y = pixels / 2 + scale * positions[body, 0], pixels / 2 - scale * positions[body, 1]
        radius, fill = max(scale * sizes[body], SMALLEST * SMOOTHING), ROLES[roles[body]]
        edge = (fill[0] * 3 // 4, fill[1] * 3 // 4, fill[2] * 3 // 4)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=edge, width=SMOOTHING)
    return np.array(image.reduce(SMOOTHING))
