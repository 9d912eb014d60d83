"""Pictures drawn with Pillow: no display, no window, a few milliseconds each. Particle worlds, headers and legends.

Colours mean the same in every environment: blue is the team, red whoever is against it. Only the hunts of the particle
worlds keep their own (predators red, prey green), whichever side is the team; there, too, the team's agents are the
numbered ones. Every picture says below what its colours are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Picture = npt.NDArray[np.uint8]  # [H, W, 3]
Legend = Sequence[tuple[str, Colour]]

TEAM: Colour = (62, 106, 190)
OPPONENT: Colour = (214, 76, 70)

ROLES: dict[str, Colour] = {
    "forest": (193, 225, 193),
    "obstacle": (120, 124, 132),
    "landmark": (176, 180, 188),
    "goal": (64, 170, 104),
    "food": (226, 160, 52),
    "agent": TEAM,
    "adversary": OPPONENT,
    "predator": OPPONENT,
    "prey": (44, 160, 92),
}
"""Fill colour of each role. Roles that come later are drawn over those before them."""

BACKGROUND: Colour = (247, 247, 244)
ARENA: Colour = (255, 255, 255)
LINE: Colour = (205, 205, 200)
INK: Colour = (52, 56, 64)
HEADER: Colour = (38, 42, 50)
PAPER: Colour = (245, 245, 242)
WIDTH = 352
SMOOTHING = 2  # drawn this many times larger, then averaged
LEGIBLE = 6.5  # radius in pixels below which a body bears no number
SMALLEST = 2.0  # radius in pixels below which nothing is drawn, however far the camera is
MARGIN = 1.1  # the camera sees this many times further than it must
STRIP = 24  # height of the header and of a line of the legend
TEXT = 13


@lru_cache(maxsize=32)
def font(size: int) -> Any:
    """Pillow's own typeface, `size` pixels high."""
    return ImageFont.load_default(size)


def write(
    canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: Colour, anchor: str = "mm"
) -> None:
    """Text with its middle (or another of Pillow's anchors) at `place`."""
    canvas.text(place, text, fill=fill, font=font(size), anchor=anchor)


def edge_of(fill: Colour) -> Colour:
    """A darker one of the same kind."""
    return (fill[0] * 3 // 4, fill[1] * 3 // 4, fill[2] * 3 // 4)


def paler(fill: Colour, share: float) -> Colour:
    """`fill` mixed with that share of white."""
    mixed = [round(part + (255 - part) * share) for part in fill]
    return (mixed[0], mixed[1], mixed[2])


def draw_world(
    positions: npt.NDArray[np.float64],
    sizes: Sequence[float],
    roles: Sequence[str],
    width: int = WIDTH,
    numbers: Mapping[int, str] | None = None,
    legend: Legend | None = None,
) -> Picture:
    """A picture of round bodies: `positions` [M, 2], radii and roles (keys of `ROLES`), [width + legend, width, 3].

    The square from -1 to 1 is the arena. The camera shows it whole and draws back as far as anybody strays. `numbers`:
    what is written on some bodies. `legend`: by default the roles that there are.
    """
    outermost = (np.abs(positions).max(axis=1, initial=0.0) + sizes).max(initial=1.0)
    pixels = width * SMOOTHING
    scale = pixels / (2 * float(outermost) * MARGIN)
    image = Image.new("RGB", (pixels, pixels), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    low, high = pixels / 2 - scale, pixels / 2 + scale
    canvas.rectangle((low, low, high, high), fill=ARENA, outline=LINE, width=SMOOTHING)
    order = list(ROLES)
    for body in sorted(range(len(roles)), key=lambda b: order.index(roles[b])):
        x, y = pixels / 2 + scale * positions[body, 0], pixels / 2 - scale * positions[body, 1]
        radius, fill = max(scale * sizes[body], SMALLEST * SMOOTHING), ROLES[roles[body]]
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=edge_of(fill), width=2)
        if numbers is not None and body in numbers and radius >= LEGIBLE * SMOOTHING:
            write(canvas, (x, y), numbers[body], round(min(1.2 * radius, 13 * SMOOTHING)), ARENA)
    found = [(role, ROLES[role]) for role in ROLES if role in roles] if legend is None else legend
    return with_legend(np.array(image.reduce(SMOOTHING)), found)


def with_header(picture: Picture, left: str, right: str = "") -> Picture:
    """The picture below a dark line of text, which is shortened where it does not fit; narrow ones are enlarged."""
    enlarged = picture.repeat(factor := -(-220 // picture.shape[1]), axis=0).repeat(factor, axis=1)
    width = enlarged.shape[1]
    image = Image.new("RGB", (width, STRIP), HEADER)
    canvas = ImageDraw.Draw(image)
    taken = canvas.textlength(right, font(TEXT)) + 16 if right else 8
    write(canvas, (8, STRIP / 2), _fitting(left, width - taken - 8), TEXT, PAPER, "lm")
    write(canvas, (width - 8, STRIP / 2), right, TEXT, PAPER, "rm")
    return np.concatenate([np.array(image), enlarged])


def with_legend(picture: Picture, legend: Legend) -> Picture:
    """The picture above a line or more that says what its colours are; as it is where there is nothing to say."""
    lines = _legend_lines(tuple(legend), picture.shape[1])
    return np.concatenate([picture, lines]) if len(lines) else picture


@lru_cache(maxsize=64)
def _legend_lines(legend: tuple[tuple[str, Colour], ...], width: int) -> Picture:
    places: list[tuple[int, float]] = []  # line and x of each entry
    line, x = 0, 8.0
    for name, _ in legend:
        size = 22 + font(TEXT).getlength(name)
        if x + size > width and x > 8:
            line, x = line + 1, 8.0
        places.append((line, x))
        x += size + 8
    height = (line + 1) * STRIP if legend else 0
    image = Image.new("RGB", (width * SMOOTHING, height * SMOOTHING), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    for (name, fill), (line, x) in zip(legend, places, strict=True):
        middle = (line + 0.5) * STRIP * SMOOTHING
        left = x * SMOOTHING
        size = 12 * SMOOTHING
        dot = (left, middle - size / 2, left + size, middle + size / 2)
        canvas.ellipse(dot, fill=fill, outline=edge_of(fill), width=2)
        write(canvas, (left + 17 * SMOOTHING, middle), name, TEXT * SMOOTHING, INK, "lm")
    return np.array(image.reduce(SMOOTHING)) if legend else np.zeros((0, width, 3), np.uint8)


def _fitting(text: str, width: float) -> str:
    """`text`, cut where it is wider than `width` pixels."""
    if font(TEXT).getlength(text) <= width:
        return text
    while text and font(TEXT).getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
