"""Look-up of positions in a map, against scipy's interpolation."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import RegularGridInterpolator

from amstrax.processing.events import PositionMap, position_map, positions

PROPERTY = settings(max_examples=100, deadline=None, database=None)
NUMBERS = st.floats(-40, 40, allow_nan=False)
#: Within the map, at its edges, beyond them, and no numbers
COORDINATES = st.one_of(
    st.floats(-1, 1),
    st.floats(-1e6, 1e6),
    st.sampled_from([-1.0, 1.0, 0.0, -0.5, np.nextafter(1, 0), np.nan, np.inf, -np.inf]),
)


def make_map(n, x, y, uv_min=-1.0):
    """Return the map of two functions of u and v."""
    u, v = np.meshgrid(*2 * [np.linspace(uv_min, -uv_min, n)], indexing="ij")
    table = {"uv_min": uv_min, "step": -2 * uv_min / (n - 1), "n": n}
    return position_map(table | {"x": x(u, v).tolist(), "y": y(u, v).tolist()})


@st.composite
def maps(draw):
    n = draw(st.integers(2, 7))
    uv_min = draw(st.floats(-3, -0.1))
    x, y = (draw(arrays(np.float64, (n, n), elements=NUMBERS)) for _ in "xy")
    return PositionMap(uv_min, -2 * uv_min / (n - 1), x, y)


def by_scipy(map_, u, v):
    """Return x and y from scipy's bilinear interpolation, u and v clipped to the map."""
    edge = -map_.uv_min
    axis = np.linspace(-edge, edge, len(map_.x))
    points = np.stack([np.clip(w, -edge, edge) for w in (u, v)], axis=-1)
    bad = ~(np.isfinite(u) & np.isfinite(v))
    points[bad] = 0
    found = [RegularGridInterpolator((axis, axis), grid)(points) for grid in (map_.x, map_.y)]
    return [np.where(bad, np.nan, values) for values in found]


@pytest.mark.parametrize("n", [2, 3, 41, 401])
def test_value_of_the_specification(n):
    map_ = make_map(n, lambda u, v: 30 * u, lambda u, v: -20 * v)
    x, y = positions(map_, np.array([-0.5]), np.array([0.5]))
    np.testing.assert_allclose([x[0], y[0]], [-15, -10], atol=1e-12)
    assert x.dtype == y.dtype == np.float64


@PROPERTY
@given(maps(), st.lists(st.tuples(COORDINATES, COORDINATES), max_size=20))
@example(make_map(3, lambda u, v: u, lambda u, v: v), [(1.0, -1.0), (5.0, 5.0), (np.nan, 0.0)])
def test_positions_are_those_of_scipy(map_, uv):
    u, v = np.array(uv, dtype=np.float64).reshape(-1, 2).T
    for found, expected in zip(positions(map_, u, v), by_scipy(map_, u, v), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@PROPERTY
@given(maps())
def test_grid_points_have_their_values(map_):
    n = len(map_.x)
    axis = map_.uv_min + map_.step * np.arange(n)
    u, v = (w.ravel() for w in np.meshgrid(axis, axis, indexing="ij"))
    for found, grid in zip(positions(map_, u, v), (map_.x, map_.y), strict=True):
        np.testing.assert_allclose(found, grid.ravel(), rtol=0, atol=1e-9)


@PROPERTY
@given(maps(), COORDINATES, COORDINATES)
def test_beyond_the_map_its_edge_counts(map_, u, v):
    uv = np.array([[u], [v]])
    found = np.array(positions(map_, *uv))
    if np.isfinite(uv).all():
        at_edge = positions(map_, *np.clip(uv, map_.uv_min, -map_.uv_min))
        np.testing.assert_array_equal(found, at_edge)
    else:
        assert np.isnan(found).all()
