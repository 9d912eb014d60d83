"""Pictures of particle worlds: right colours in the right places, nobody outside the frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.envs.drawing import ARENA, BACKGROUND, ROLES, draw_world


def pixel(picture: np.ndarray, x: float, y: float, reach: float = 1.1) -> tuple[int, ...]:
    """The colour at world position (x, y) when the camera shows -reach to reach."""
    width = picture.shape[0]
    column, row = (x / reach + 1) * width / 2, (1 - y / reach) * width / 2
    return tuple(int(c) for c in picture[int(row), int(column)])


def test_bodies_are_where_they_are_and_y_points_up() -> None:
    picture = draw_world(np.array([[0.5, 0.5], [-0.5, -0.25]]), (0.1, 0.2), ("prey", "obstacle"))
    assert picture.shape == (352, 352, 3) and picture.dtype == np.uint8
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
    picture = draw_world(np.array([[x, y]]), (0.05,), ("predator",), width=100)
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
