"""Pictures of games of few choices: payoff tables, who chose what, grids of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from phalanx.envs.drawing import (
    ARENA,
    BACKGROUND,
    INK,
    LINE,
    SMOOTHING,
    TEAM,
    TEXT,
    WIDTH,
    Colour,
    Legend,
    Picture,
    edge_of,
    paler,
    with_legend,
    write,
)

BEST: Colour = (44, 160, 92)
WORST: Colour = (214, 76, 70)
CHOSEN: Colour = (240, 196, 40)
FREE: Colour = (233, 235, 238)
MOST_TABLE = 12  # rows or columns beyond which a table is not legible

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the large image


@dataclass(frozen=True)
class Table:
    """Payoffs [R, C] of the row's and the column's player; the cell that was played, if any; not yet open ones are
    pale."""

    payoff: npt.NDArray[np.floating]
    played: tuple[int, int] | None = None
    title: str = ""
    is_open: bool = True


def draw_tables(tables: Sequence[Table], players: tuple[str, str], above: str = "", width: int = WIDTH) -> Picture:
    """Tables side by side, below a line of text. The row's player is named first in the legend."""
    height = width * 3 // 4 if len(tables) == 1 else width * 5 // 8
    image = Image.new("RGB", (width * SMOOTHING, height * SMOOTHING), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    top = 32.0 * SMOOTHING if above else 8.0 * SMOOTHING
    write(canvas, (width * SMOOTHING / 2, 17 * SMOOTHING), above, TEXT * SMOOTHING, INK)
    share = width * SMOOTHING / len(tables)
    low = min(float(table.payoff.min()) for table in tables)
    high = max(float(table.payoff.max()) for table in tables)
    for k, table in enumerate(tables):
        box = (k * share + 12, top, (k + 1) * share - 12, height * SMOOTHING - 12)
        _paint_table(canvas, box, table, (low, high))
    return with_legend(
        np.array(image.reduce(SMOOTHING)), [(f"rows {players[0]}, columns {players[1]}", FREE), ("played", CHOSEN)]
    )


def _paint_table(canvas: ImageDraw.ImageDraw, box: Box, table: Table, limits: tuple[float, float]) -> None:
    left, top, right, bottom = box
    if table.title:
        fill = INK if table.is_open else LINE
        write(canvas, ((left + right) / 2, top + 9 * SMOOTHING), table.title, TEXT * SMOOTHING, fill)
        top += 20 * SMOOTHING
    rows, columns = table.payoff.shape
    margin = 18 * SMOOTHING  # where actions are numbered
    across, down = (right - left - margin) / columns, (bottom - top - margin) / rows
    size = round(min(down * 0.42, across * 0.3, 20 * SMOOTHING))
    for r in range(rows):
        write(canvas, (left + margin / 2, top + margin + (r + 0.5) * down), str(r), TEXT * SMOOTHING, INK)
    for c in range(columns):
        write(canvas, (left + margin + (c + 0.5) * across, top + margin / 2), str(c), TEXT * SMOOTHING, INK)
    for r, c in np.ndindex(rows, columns):
        x, y = left + margin + c * across, top + margin + r * down
        value = float(table.payoff[r, c])
        fill = _of_value(value, limits)
        fill = fill if table.is_open else paler(fill, 0.75)
        here = table.played == (r, c)
        cell = (x + 2, y + 2, x + across - 3, y + down - 3)
        canvas.rectangle(cell, fill=fill, outline=CHOSEN if here else LINE, width=(5 if here else 1) * SMOOTHING)
        if size >= 8 * SMOOTHING:
            ink = INK if table.is_open else LINE
            write(canvas, (x + across / 2, y + down / 2), f"{value:g}", size, ink)


def _of_value(value: float, limits: tuple[float, float]) -> Colour:
    """From red over white to green; half way is 0 where payoffs are of both signs."""
    low, high = limits
    if low < 0 < high:
        share = value / high if value > 0 else -value / low
    else:
        share = 2 * (value - low) / (high - low) - 1 if high > low else 0.0
    return paler(BEST if share > 0 else WORST, 1 - 0.75 * abs(share))


def draw_choices(
    players: Sequence[str], legal: npt.NDArray[np.bool_], chosen: Sequence[int], above: str, width: int = WIDTH
) -> Picture:
    """Who chose what: a row for each player, a box for each action. legal: [N, A]; chosen: [N], -1 before a choice."""
    board = _Board(tuple(players), legal.shape[1], width)
    image = _painted(board, legal.tobytes()).copy()
    canvas = ImageDraw.Draw(image)
    write(canvas, (width * SMOOTHING / 2, 17 * SMOOTHING), above, TEXT * SMOOTHING, INK)
    for i, a in enumerate(chosen):
        if a >= 0 and legal[i, a]:
            canvas.rectangle(board.cell(i, a), fill=TEAM, outline=edge_of(TEAM), width=SMOOTHING)
    return with_legend(np.array(image.reduce(SMOOTHING)), [("chosen", TEAM)])


@dataclass(frozen=True)
class _Board:
    """Where the boxes of a game of choices are, in pixels of the large image."""

    players: tuple[str, ...]
    actions: int
    width: int

    label: ClassVar[int] = 92 * SMOOTHING
    top: ClassVar[int] = 54 * SMOOTHING

    @property
    def row(self) -> int:
        return min(36, max(14, 320 // len(self.players))) * SMOOTHING

    @property
    def across(self) -> float:
        return min((self.width * SMOOTHING - self.label - 12) / self.actions, 64 * SMOOTHING)

    def cell(self, player: int, action: int) -> Box:
        y, x = self.top + player * self.row, self.label + action * self.across
        return (x + 2, y + 3, x + self.across - 3, y + self.row - 4)


@lru_cache(maxsize=8)  # games draw the same board in every step, which for many players takes longest
def _painted(board: _Board, legal: bytes) -> Image.Image:
    """The board before anybody chose. legal: the bytes of [N, A] booleans."""
    height = board.top + len(board.players) * board.row + 8 * SMOOTHING
    image = Image.new("RGB", (board.width * SMOOTHING, height + height % SMOOTHING), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    for a in range(board.actions if board.across >= 14 * SMOOTHING else 0):
        place = (board.label + (a + 0.5) * board.across, board.top - 10 * SMOOTHING)
        write(canvas, place, str(a), TEXT * SMOOTHING, INK)
    for i, name in enumerate(board.players):
        middle = board.top + (i + 0.5) * board.row
        write(canvas, (12, middle), name, min(TEXT * SMOOTHING, round(board.row * 0.7)), INK, "lm")
    for i, a in np.argwhere(np.frombuffer(legal, np.bool_).reshape(len(board.players), board.actions)).tolist():
        canvas.rectangle(board.cell(i, a), fill=FREE, outline=LINE, width=SMOOTHING)
    return image


@dataclass(frozen=True)
class Token:
    """Somebody or something on a cell of a grid."""

    row: int
    column: int
    fill: Colour
    text: str = ""
    is_round: bool = True


def draw_grid(size: int, tokens: Sequence[Token], legend: Legend, width: int = WIDTH) -> Picture:
    """A board of size × size cells, as large as fits into `width` pixels, and what stands on it."""
    cell = max(6, width // size)
    pixels = width * SMOOTHING
    image = Image.new("RGB", (pixels, (cell * size + 2) * SMOOTHING), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    side, left = cell * SMOOTHING, (pixels - size * cell * SMOOTHING) // 2
    for k in range(size + 1):
        canvas.line((left + k * side, 0, left + k * side, size * side), fill=LINE, width=SMOOTHING)
        canvas.line((left, k * side, left + size * side, k * side), fill=LINE, width=SMOOTHING)
    for token in tokens:
        x, y = left + (token.column + 0.5) * side, (token.row + 0.5) * side
        r = side * 0.38
        draw = canvas.ellipse if token.is_round else canvas.rectangle
        draw((x - r, y - r, x + r, y + r), fill=token.fill, outline=edge_of(token.fill), width=SMOOTHING)
        if token.text and r >= 5 * SMOOTHING:
            write(canvas, (x, y), token.text, round(1.2 * r), ARENA)
    return with_legend(np.array(image.reduce(SMOOTHING)), legend)
