"""Maps of light from events of a line: a table, closure on a known map, merging, too few events."""

import numpy as np
import pytest

from amstrax.calibration import maps
from amstrax.exceptions import NoResult
from amstrax.processing.events import s1_map_correction, s2_map_correction

R_EDGES, Z_EDGES = np.sqrt(np.linspace(0, 31**2, 4)), np.linspace(-52, 0, 7)
XY_EDGES = np.linspace(-32, 32, 9)


def s1_light(r, z):
    return 1 - 0.006 * z - 0.0002 * r**2


def s2_light(x, y):
    return 1.2 - 0.0003 * (x**2 + y**2) + 0.004 * x


def events(n, seed):
    """Return x, y, z, S1s of 200 PE and S2s of 10,000 PE with 10 % spread, 3 % of them other."""
    rng = np.random.default_rng(seed)
    r, phi, z = 31 * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n), rng.uniform(-52, 0, n)
    x, y = r * np.cos(phi), r * np.sin(phi)
    s1, s2 = (
        np.where(rng.random(n) < 0.03, rng.uniform(0, 5, n), rng.normal(1, 0.1, n)) * light
        for light in (200 * s1_light(r, z), 1e4 * s2_light(x, y))
    )
    return x, y, r, z, s1, s2


def test_table():
    """Means of bins relative to that of all, by volume; events outside of all bins do not count."""
    area = np.array([1.0] * 4 + [3.0] * 4 + [99.0])
    r = np.array([1.0] * 4 + [3.0] * 4 + [5.0])
    found = maps.s1_map(r, np.full(9, -1.0), area, np.array([0, 2, 4]), np.array([-2, 0]), 2)
    mean = (4 * 1 + 12 * 3) / 16
    np.testing.assert_allclose(found.ratio, [[1 / mean], [3 / mean]])
    np.testing.assert_array_equal(found.n_events, [[4], [4]])
    found = maps.s2_map(r, r, area, np.array([0, 2, 4]), np.array([0, 2, 4]), 2)
    np.testing.assert_allclose(found.ratio, [[0.5, 0], [0, 1.5]])
    assert found.option()["hist_ratio"] == [[0.5, 0.0], [0.0, 1.5]]
    # The empty bin is as the nearest other one, and beyond all it is the last
    factor = s2_map_correction(
        np.array([1, 3.5, 9, np.nan]), np.array([3.5, 3, 9, 0]), found.option()
    )
    np.testing.assert_allclose(factor[1:], [1 / 1.5, 1 / 1.5, np.nan])
    assert factor[0] in (1 / 0.5, 1 / 1.5)


def test_closure():
    """Pulls of all bins are normal, also without outliers, and the corrected line is flat."""
    pulls = []
    for seed in range(8):
        x, y, r, z, s1, s2 = events(20_000, seed)
        for found, light, places, area, correct in (
            (maps.s1_map(r, z, s1, R_EDGES, Z_EDGES), s1_light, (r, z), s1, s1_map_correction),
            (maps.s2_map(x, y, s2, XY_EDGES, XY_EDGES), s2_light, (x, y), s2, s2_map_correction),
        ):
            index = [
                np.searchsorted(e, p, "right") - 1
                for e, p in zip(found.edges, places, strict=False)
            ]
            index = np.ravel_multi_index(index, found.ratio.shape)
            total = np.bincount(index, light(*places), found.ratio.size)
            true = (total / np.maximum(found.n_events.ravel(), 1)).reshape(found.ratio.shape)
            good = found.n_events >= maps.MIN_EVENTS
            assert np.all(found.n_used[good] == found.n_events[good])
            scale = np.average(true[good] / found.ratio[good], weights=found.n_events[good])
            pulls.append(((found.ratio - true / scale) / np.maximum(found.error, 1e-9))[good])
            flat = area * correct(*places, found.option())
            half = np.median(flat[places[0] > np.median(places[0])]) / np.median(flat)
            assert abs(half - 1) < 0.01
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 0.15 and 0.9 < pulls.std() < 1.15


def test_sparse_bins_are_merged():
    x, y, r, z, s1, s2 = events(600, 1)
    found = maps.s1_map(r, z, s1, np.linspace(0, 31, 6), Z_EDGES, 40)
    assert found.n_events[0].max() < 40 <= found.n_used.min()
    assert np.all((found.error > 0) & (abs(found.ratio - 1) < 0.5))
    found = maps.s2_map(x, y, s2, XY_EDGES, XY_EDGES, 40)
    filled = found.n_events > 0
    assert found.n_used[filled].min() >= 40
    assert np.all((found.ratio > 0) == filled) and not filled[0, 0]


@pytest.mark.parametrize("n", [0, 20])
def test_too_few_events(n):
    x, y, r, z, s1, s2 = events(n, 1)
    with pytest.raises(NoResult, match="events from z = -52 to .* take more runs or fewer bins"):
        maps.s1_map(r, z, s1, R_EDGES, Z_EDGES)
    with pytest.raises(NoResult, match=f"{n} events in all bins|events in all bins of x and y"):
        maps.s2_map(x, y, s2, XY_EDGES, XY_EDGES)


def test_missing_positions_do_not_count():
    x, y, r, z, s1, s2 = events(5000, 3)
    before = maps.s1_map(r, z, s1, R_EDGES, Z_EDGES)
    r, z, s1 = (np.append(column, [np.nan] * 9) for column in (r, z, s1))
    s1[-3:], r[-3:], z[-3:] = -5.0, 3.0, -3.0
    after = maps.s1_map(r, z, s1, R_EDGES, Z_EDGES)
    np.testing.assert_array_equal(after.ratio, before.ratio)
