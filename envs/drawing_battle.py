"""Pictures of battles between two sides, for any simulator that can say where its units are (SMAX, SMAC)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from phalanx.envs.drawing import (
    ARENA,
    BACKGROUND,
    OPPONENT,
    SMOOTHING,
    TEAM,
    Colour,
    Picture,
    edge_of,
    paler,
    with_legend,
    write,
)
from phalanx.envs.team import Bools, Ints

WIDTH = 448
LEAST_RADIUS = 7.5  # pixels; a letter must fit
EDGE = 1 / 8  # share of the map on each side that is left out while nobody is there
GRID = 4.0  # a line every so many units of length
SHIELD: Colour = (92, 176, 232)
HEALTH: tuple[tuple[float, Colour], ...] = ((0.6, (72, 178, 88)), (0.3, (230, 176, 44)), (0.0, (222, 66, 56)))
BAR: Colour = (60, 64, 72)
WALL: Colour = (150, 154, 162)


@dataclass(frozen=True)
class Units:
    """All units of one battle at one moment. The dead count, too: where they fell is marked."""

    places: npt.NDArray[np.floating]  # [U, 2], x to the right and y upwards, in the map's units of length
    health: npt.NDArray[np.floating]  # [U], share of full health
    enemy: Bools  # [U], who is against the team
    kinds: Ints  # [U], places in `names`
    alive: Bools  # [U]
    radii: npt.NDArray[np.floating]  # [U], in units of length
    names: tuple[str, ...]  # of the kinds of units that the simulator knows
    size: tuple[float, float]  # of the map
    shield: npt.NDArray[np.floating] | None = None  # [U], share of the full shield; 0 for who has none
    target: Ints | None = None  # [U], whom each unit attacked (or healed) in the last step; -1 for nobody


def draw_battle(units: Units, width: int = WIDTH) -> Picture:
    """A picture `width` pixels wide: who is where, of what kind (a letter), how well, and whom they attacked. The
    camera shows the middle of the map, and all of it once somebody alive is outside of that."""
    cut = EDGE if _all_in_the_middle(units) else 0.0  # of the map on each side
    pixels = width * SMOOTHING
    scale = pixels / (units.size[0] * (1 - 2 * cut))
    height = SMOOTHING * round(units.size[1] * (1 - 2 * cut) * scale / SMOOTHING)
    left, low = units.size[0] * cut, units.size[1] * cut
    image = _ground(pixels, height, scale, (left, low))
    canvas = ImageDraw.Draw(image)
    x, y = (units.places[:, 0] - left) * scale, height - (units.places[:, 1] - low) * scale
    radii = np.maximum(units.radii * scale, LEAST_RADIUS * SMOOTHING)
    letters = letters_of(units.names)
    for u in np.flatnonzero(~units.alive).tolist():
        reach, pale = 4 * SMOOTHING, paler(_colour(units, u), 0.5)
        for up in (-reach, reach):
            canvas.line((x[u] - reach, y[u] - up, x[u] + reach, y[u] + up), fill=pale, width=2 * SMOOTHING)
    living = np.flatnonzero(units.alive).tolist()
    for u in living:
        if units.target is not None and units.target[u] >= 0:
            _draw_attack(canvas, (x[u], y[u]), (x[units.target[u]], y[units.target[u]]), _colour(units, u))
    for u in living:
        disc = _disc(round(radii[u]), _colour(units, u), letters[units.kinds[u]])
        image.paste(disc, (round(x[u] - radii[u]), round(y[u] - radii[u])), disc)
    for u in living:  # over all discs, so that none hides another's health
        _draw_bars(canvas, x[u], y[u] - radii[u], radii[u], units, u)
    return with_legend(np.array(image.reduce(SMOOTHING)), _legend(units, letters))


@lru_cache(maxsize=8)
def letters_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """A letter for each kind of unit: the first of its name, or that as a capital, or the first that is free."""
    found: list[str] = []
    for name in names:
        wanted = [name[:1].lower(), name[:1].upper(), *name[1:].lower(), *name[1:].upper()]
        found.append(next((letter for letter in wanted if letter.isalpha() and letter not in found), "?"))
    return tuple(found)


def _all_in_the_middle(units: Units) -> bool:
    places = units.places[units.alive] / np.array(units.size)
    return bool(((places > EDGE) & (places < 1 - EDGE)).all())


@lru_cache(maxsize=8)
def _empty_ground(width: int, height: int, scale: float, corner: tuple[float, float]) -> Image.Image:
    """The ground with its grid, and the walls where the whole map is shown. corner: the map's place that is shown in
    the lower left one of the picture."""
    image = Image.new("RGB", (width, height), ARENA)
    canvas = ImageDraw.Draw(image)
    left, low = corner
    for k in range(math.ceil((left + width / scale) / GRID)):
        x = (k * GRID - left) * scale
        canvas.line((x, 0, x, height), fill=BACKGROUND, width=SMOOTHING)
    for k in range(math.ceil((low + height / scale) / GRID)):
        y = height - (k * GRID - low) * scale
        canvas.line((0, y, width, y), fill=BACKGROUND, width=SMOOTHING)
    if not left:
        canvas.rectangle((0, 0, width - 1, height - 1), outline=WALL, width=2 * SMOOTHING)
    return image


def _ground(width: int, height: int, scale: float, corner: tuple[float, float]) -> Image.Image:
    return _empty_ground(width, height, scale, corner).copy()


@lru_cache(maxsize=256)
def _disc(radius: int, fill: Colour, letter: str) -> Image.Image:
    """A unit, on a ground that can be seen through. Text takes longer to draw than all the rest."""
    image = Image.new("RGBA", (2 * radius + 1, 2 * radius + 1))
    canvas = ImageDraw.Draw(image)
    canvas.ellipse((0, 0, 2 * radius, 2 * radius), fill=fill, outline=edge_of(fill), width=SMOOTHING)
    write(canvas, (radius, radius), letter, round(1.4 * radius), ARENA)
    return image


def _colour(units: Units, unit: int) -> Colour:
    return OPPONENT if units.enemy[unit] else TEAM


def _draw_attack(
    canvas: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], fill: Colour
) -> None:
    canvas.line((*start, *end), fill=paler(fill, 0.35), width=SMOOTHING)
    # The end is marked short of the target's middle, which its disc will hide.
    length = math.dist(start, end)
    if length > 0:
        share = max(0.0, 1 - (LEAST_RADIUS + 4) * SMOOTHING / length)
        x, y = start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share
        r = 2 * SMOOTHING
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _draw_bars(canvas: ImageDraw.ImageDraw, x: float, top: float, radius: float, units: Units, unit: int) -> None:
    """Health, and the shield above it, over a unit whose disc begins at `top`."""
    bars = [(float(units.health[unit]), _health_colour(float(units.health[unit])))]
    if units.shield is not None and units.shield[unit] > 0:
        bars.append((float(units.shield[unit]), SHIELD))
    thick, half = 3 * SMOOTHING, max(radius, 9.0 * SMOOTHING)
    low = max(top - SMOOTHING, len(bars) * (thick + 1))  # within the picture
    for share, fill in bars:
        canvas.rectangle((x - half, low - thick, x + half, low), fill=BAR)
        reach = x - half + 2 * half * min(max(share, 0.0), 1.0)
        canvas.rectangle((x - half + 1, low - thick + 1, max(reach - 1, x - half + 1), low - 1), fill=fill)
        low -= thick + 1


def _health_colour(share: float) -> Colour:
    return next(fill for above, fill in HEALTH if share >= above or above == 0)


def _legend(units: Units, letters: tuple[str, ...]) -> list[tuple[str, Colour]]:
    """Both sides, with how many of them live, and the kinds that each began with."""
    entries = []
    for side, is_enemy, fill in (("team", False, TEAM), ("enemies", True, OPPONENT)):
        own = units.enemy == is_enemy
        kinds = ", ".join(
            f"{letters[kind]} {units.names[kind]}" for kind in dict.fromkeys(sorted(units.kinds[own].tolist()))
        )
        entries.append((f"{side} {int((units.alive & own).sum())}/{int(own.sum())}: {kinds}", fill))
    return entries
