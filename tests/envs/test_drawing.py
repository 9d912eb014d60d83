"""Pictures of worlds, games and battles: right colours in the right places, everything said, nobody outside."""

from __future__ import annotations

from dataclasses import replace
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.envs.drawing import (
    ARENA,
    BACKGROUND,
    HEADER,
    OPPONENT,
    ROLES,
    STRIP,
    TEAM,
    Picture,
    draw_world,
    with_header,
    with_legend,
)
from phalanx.envs.drawing_battle import BAR, HEALTH, SHIELD, WALL, Units, draw_battle, letters_of
from phalanx.envs.drawing_games import CHOSEN, Table, Token, draw_choices, draw_grid, draw_tables


def pixel(picture: np.ndarray, x: float, y: float, reach: float = 1.1) -> tuple[int, ...]:
    """The colour at world position (x, y) when the camera shows -reach to reach."""
    width = picture.shape[1]
    column, row = (x / reach + 1) * width / 2, (1 - y / reach) * width / 2
    return tuple(int(c) for c in picture[int(row), int(column)])


def test_bodies_are_where_they_are_and_y_points_up() -> None:
    picture = draw_world(np.array([[0.5, 0.5], [-0.5, -0.25]]), (0.1, 0.2), ("prey", "obstacle"))
    assert picture.shape == (352 + STRIP, 352, 3) and picture.dtype == np.uint8
    assert pixel(picture, 0.5, 0.5) == ROLES["prey"]
    assert pixel(picture, -0.5, -0.25) == ROLES["obstacle"]
    assert pixel(picture, 0.5, -0.5) == ARENA
    assert tuple(picture[1, 1]) == BACKGROUND


def test_agents_are_drawn_over_what_stands_below_them() -> None:
    here = np.zeros((3, 2))
    picture = draw_world(here, (0.1, 0.3, 0.2), ("predator", "forest", "obstacle"))
    assert pixel(picture, 0.0, 0.0) == ROLES["predator"]
    assert pixel(picture, 0.15, 0.0) == ROLES["obstacle"]
    assert pixel(picture, 0.25, 0.0) == ROLES["forest"]


@settings(deadline=None)
@given(st.floats(-20, 20), st.floats(-20, 20))
def test_the_camera_draws_back_until_everybody_is_in_sight(x: float, y: float) -> None:
    picture = draw_world(np.array([[x, y]]), (0.05,), ("predator",), width=100)[:100]
    red = np.argwhere((picture == ROLES["predator"]).all(axis=2))
    assert len(red) > 0
    assert red.min() > 0 and red.max() < 99


def test_a_world_without_bodies_is_an_empty_arena() -> None:
    assert pixel(draw_world(np.empty((0, 2)), (), ()), 0.0, 0.0) == ARENA


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="ghost"):
        draw_world(np.zeros((1, 2)), (0.1,), ("ghost",))


def test_the_caller_owns_the_picture() -> None:
    draw_world(np.zeros((1, 2)), (0.1,), ("prey",))[0, 0] = 255


def has(picture: Picture, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=2).any())


def test_numbers_are_written_on_the_bodies_that_are_large_enough() -> None:
    places = np.array([[-0.5, 0.0], [0.5, 0.0]])
    plain = draw_world(places, (0.1, 0.02), ("agent", "agent"))
    numbered = draw_world(places, (0.1, 0.02), ("agent", "agent"), numbers={0: "7", 1: "8"})
    columns = np.flatnonzero((plain != numbered).any(axis=(0, 2)))
    assert len(columns) and columns.max() < 176  # on the large one, which is in the left half


# ---- headers and legends


def test_the_legend_says_each_colour_and_wraps() -> None:
    picture = np.zeros((10, 120, 3), np.uint8)
    one = with_legend(picture, [("team", TEAM)])
    assert one.shape == (10 + STRIP, 120, 3) and has(one, TEAM)
    two = with_legend(picture, [("the team", TEAM), ("its opponents", OPPONENT)])
    assert two.shape == (10 + 2 * STRIP, 120, 3)
    assert has(two[10 : 10 + STRIP], TEAM) and has(two[10 + STRIP :], OPPONENT)
    assert with_legend(picture, []) is picture


def test_the_header_stands_above_and_narrow_pictures_are_enlarged() -> None:
    picture = np.full((8, 8, 3), (1, 2, 3), np.uint8)
    found = with_header(picture, "an_environment  step 12", "return 3.5")
    assert found.shape == (STRIP + 8 * 28, 8 * 28, 3)
    assert (found[STRIP:] == (1, 2, 3)).all()
    assert tuple(found[0, 0]) == HEADER


def test_a_header_that_does_not_fit_leaves_the_right_side_legible() -> None:
    picture = np.zeros((8, 240, 3), np.uint8)
    short, long = with_header(picture, "", "return 3.5"), with_header(picture, "long " * 40, "return 3.5")
    assert (short[:STRIP, 160:] == long[:STRIP, 160:]).all()
    assert (short[:STRIP, :140] != long[:STRIP, :140]).any()


# ---- games


def test_the_played_cell_is_marked_where_it_is() -> None:
    payoff = np.array([[8.0, -12.0], [-12.0, 0.0]])
    for row, column in np.ndindex(2, 2):
        marked = np.argwhere((draw_tables([Table(payoff, (row, column))], ("a", "b"))[:264] == CHOSEN).all(axis=2))
        y, x = marked.mean(axis=0)
        assert (y > 132, x > 176) == (bool(row), bool(column))
    assert not has(draw_tables([Table(payoff)], ("a", "b"))[:264], CHOSEN)


def test_choices_are_in_the_row_of_who_made_them() -> None:
    legal = np.array([[True, True, True], [True, True, False]])
    before, after = (draw_choices(("one", "two"), legal, chosen, "")[:-STRIP] for chosen in ([-1, -1], [2, 0]))
    assert not has(before, TEAM)
    y, x = np.argwhere((after == TEAM).all(axis=2)).T
    upper = y < 54 + 36
    assert x[upper].min() > x[~upper].max()


def test_tokens_stand_on_their_cells() -> None:
    picture = draw_grid(11, [Token(0, 0, TEAM), Token(10, 3, OPPONENT, "x", is_round=False)], [("team", TEAM)])
    assert picture.shape == (11 * 32 + 2 + STRIP, 352, 3)
    assert tuple(picture[16, 16]) == TEAM
    assert tuple(picture[10 * 32 + 6, 3 * 32 + 8]) == OPPONENT


# ---- battles


def battle(n: int = 3, m: int = 3) -> Units:
    """Two lines face to face, everybody well."""
    places = [(10.0, 6.0 + 2 * k) for k in range(n)] + [(22.0, 6.0 + 2 * k) for k in range(m)]
    units = n + m
    return Units(
        places=np.array(places),
        health=np.ones(units),
        enemy=np.arange(units) >= n,
        kinds=np.zeros(units, np.int64),
        alive=np.ones(units, np.bool_),
        radii=np.full(units, 0.5),
        names=("marine", "zealot"),
        size=(32.0, 32.0),
    )


def test_both_sides_are_where_they_are_in_their_colours() -> None:
    picture = draw_battle(battle())
    assert picture.shape == (448 + STRIP, 448, 3)
    scale = 448 / 24  # the middle of the map
    for x, colour in ((10.0, TEAM), (22.0, OPPONENT)):
        place = picture[round((28 - 6) * scale) + 5, round((x - 4) * scale) - 6]  # beside the letter
        assert tuple(place) == colour
    assert has(picture[:448], HEALTH[0][1])


def test_the_camera_shows_the_whole_map_when_somebody_leaves_its_middle() -> None:
    units = battle()
    far = units.places.copy()
    far[0] = 1.0, 1.0
    picture = draw_battle(replace(units, places=far))
    assert picture.shape == draw_battle(units).shape
    assert tuple(picture[31 * 14 + 4, 14 - 5]) == TEAM and tuple(picture[0, 0]) == WALL
    fallen = replace(units, places=far, alive=np.arange(6) > 0)
    assert tuple(draw_battle(fallen)[0, 0]) != WALL  # the dead decide nothing


def test_health_shields_and_the_dead_can_be_told() -> None:
    units = battle()
    well = draw_battle(units)[:448]
    assert not has(well, HEALTH[-1][1]) and not has(well, SHIELD)
    hurt = draw_battle(replace(units, health=np.full(6, 0.25), shield=np.full(6, 0.5)))[:448]
    assert has(hurt, HEALTH[-1][1]) and has(hurt, SHIELD) and has(hurt, BAR)
    fallen = draw_battle(replace(units, alive=~units.enemy))[:448]
    assert has(fallen, TEAM) and not has(fallen, OPPONENT)


def test_attacks_are_lines_between_who_is_meant() -> None:
    units = battle()
    quiet = draw_battle(replace(units, target=np.full(6, -1)))
    np.testing.assert_array_equal(quiet, draw_battle(units))
    firing = draw_battle(replace(units, target=np.array([3, -1, -1, -1, -1, -1])))
    rows, columns = np.nonzero((quiet != firing).any(axis=2))
    scale = 448 / 24
    assert columns.min() > 6 * scale and columns.max() < 18 * scale  # between the two lines
    assert abs(rows.mean() - (28 - 6) * scale) < 3
    dead = replace(units, alive=np.array([False] + [True] * 5))
    np.testing.assert_array_equal(draw_battle(replace(dead, target=np.array([3] + [-1] * 5))), draw_battle(dead))


def test_units_at_the_edge_keep_their_bars_within_the_picture() -> None:
    units = battle(1, 1)
    at_top = replace(units, places=np.array([[16.0, 32.0], [22.0, 6.0]]))
    assert has(draw_battle(at_top)[:8], HEALTH[0][1])


def test_every_kind_has_a_letter_of_its_own() -> None:
    names = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk", "medivac", "spine_crawler")
    assert letters_of(names)[:6] == ("m", "M", "s", "z", "Z", "h")
    assert len(set(letters_of(names))) == len(names)


def test_a_large_battle_is_drawn_in_less_than_10_ms() -> None:
    units = replace(battle(27, 30), target=np.arange(57)[::-1].copy(), shield=np.ones(57))
    draw_battle(units)
    times = []
    for _ in range(15):
        started = process_time()
        draw_battle(units)
        times.append(process_time() - started)
    assert min(times) < 0.01
