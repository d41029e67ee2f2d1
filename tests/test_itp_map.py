"""Interpolating maps are straxen's, and give what they should."""

import subprocess
import sys

import numpy as np
import pytest

import amstrax
from amstrax import itp_map


def test_names_are_those_of_straxen():
    import straxen

    for name in itp_map.__all__:
        assert getattr(itp_map, name) is getattr(straxen.itp_map, name)
        assert name in dir(itp_map)
    assert amstrax.itp_map is itp_map
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = itp_map.other


def test_import_does_not_import_straxen():
    code = "import sys, amstrax.itp_map; sys.exit('straxen' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("method", ["WeightedNearestNeighbors", "RegularGridInterpolator"])
def test_a_map(method):
    """A plane: exact on the grid, and between for the second method."""
    xs, ys = np.linspace(-30, 30, 13), np.linspace(0, 50, 11)
    grid = [[x, y] for x in xs for y in ys]
    values = [2 * x + y for x, y in grid]
    map_ = itp_map.InterpolatingMap(
        {"coordinate_system": grid, "map": values, "name": "a plane"}, method=method
    )
    points = np.array([[-30.0, 0.0], [5.0, 25.0], [30.0, 50.0]])
    np.testing.assert_allclose(map_(points), [-60, 35, 110], atol=1e-4)
    between = np.array([[1.0, 12.0]])
    tolerance = 1e-9 if method == "RegularGridInterpolator" else 4
    np.testing.assert_allclose(map_(between), [14], atol=tolerance)


def test_points_and_values():
    points = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    interpolate = itp_map.InterpolateAndExtrapolate(points, np.array([1.0, 2.0, 3.0, 4.0]))
    assert interpolate(np.array([[0.5, 0.5]])) == pytest.approx([2.5])
    assert interpolate(points) == pytest.approx([1, 2, 3, 4], abs=1e-4)
    assert np.isnan(interpolate(np.array([[np.nan, 0.0]]))).all()
