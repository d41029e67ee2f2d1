"""Positions by maximum likelihood: against a plain twin, truth, and symmetry of the map."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RectBivariateSpline
from scipy.optimize import minimize

from amstrax.exceptions import InvalidOption
from amstrax.processing.likelihood_positions import (
    LightTable,
    check_table,
    fit_positions,
    table_from,
)

RADIUS = 31.0
#: Bottom PMT, and four top PMTs in the order of the lab: x > 0 first, then y > 0
PLACES = ((0, 0), (13, 13), (13, -13), (-13, 13), (-13, -13))
ROTATED = [0, 2, 4, 1, 3]  # PMT whose place another has after a turn by 90 degrees


def light(x, y):
    """Return light like that of small PMTs, 17 mm above; the bottom PMT is 70 mm away."""
    return np.stack(
        [
            1 / (1 + ((x - a) ** 2 + (y - b) ** 2) / (70.0 if i == 0 else 17.0) ** 2) ** 1.5
            for i, (a, b) in enumerate(PLACES)
        ],
        axis=1,
    )


TABLE = table_from(light, RADIUS)


def fit(areas, used=None, table=TABLE, fano=1.5, min_area=5):
    areas = np.asarray(areas, dtype=np.float32)
    used = np.ones(areas.shape, dtype=bool) if used is None else used
    return fit_positions(areas, used, table, fano, min_area)


def plain_fit(areas, table):
    """Return x, y of the largest likelihood: each node of the table, and from there scipy."""
    half = table.light.shape[1] // 2
    axis = np.arange(-half, half + 1) * table.step
    splines = [RectBivariateSpline(axis, axis, part) for part in table.light]

    def loss(place):
        f = np.array([spline(*place, grid=False) for spline in splines])
        return -np.sum(areas * np.log(f / f.sum()))

    p = table.light / table.light.sum(axis=0)
    score = np.tensordot(areas, np.log(p), axes=1)
    score[np.hypot(*np.meshgrid(axis, axis, indexing="ij")) > table.limit] = -np.inf
    start = axis[list(np.unravel_index(score.argmax(), score.shape))]
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-10})
    return found.x


@pytest.mark.parametrize(
    "x, y", [(0, 0), (5, 0), (-12.3, 7.9), (20, -20), (0, 30.5), (-30.9, 0.1), (21, 22)]
)
def test_light_without_fluctuations_comes_from_its_place(x, y):
    found = fit(1e4 * light(np.array([float(x)]), np.array([float(y)])))
    assert (found.x[0], found.y[0]) == pytest.approx((x, y), abs=0.02)
    assert found.deviance[0] == pytest.approx(0, abs=1e-2)


def test_errors_fall_with_the_light_and_are_those_of_truth():
    rng = np.random.default_rng(0)
    x, y = np.full(2000, 24.0), np.full(2000, 10.0)
    mean = light(x, y)
    areas = 1.5 * rng.poisson(5000 / 1.5 * mean / mean.sum(axis=1, keepdims=True))
    found = fit(areas)
    assert found.x.std() == pytest.approx(np.median(found.x_error), rel=0.08)
    assert found.y.std() == pytest.approx(np.median(found.y_error), rel=0.08)
    assert np.hypot(found.x, found.y).std() == pytest.approx(np.median(found.r_error), rel=0.08)
    assert found.deviance.mean() == pytest.approx(1, abs=0.1)
    assert found.x.mean() == pytest.approx(24, abs=0.1)
    np.testing.assert_allclose(fit(4 * areas).x_error, found.x_error / 2, rtol=1e-3)
    wrong = areas.copy()
    wrong[:, 1] *= 1.3
    assert fit(wrong).deviance.mean() > 3


def test_against_plain_twin():
    rng = np.random.default_rng(1)
    r, phi = RADIUS * np.sqrt(rng.random(40)), rng.uniform(0, 2 * np.pi, 40)
    mean = light(r * np.cos(phi), r * np.sin(phi))
    areas = rng.poisson(2000 * mean / mean.sum(axis=1, keepdims=True)).astype(float)
    found = fit(areas)
    inside = np.hypot(found.x, found.y) < TABLE.limit - 1
    expected = np.array([plain_fit(a, TABLE) for a in areas])
    np.testing.assert_allclose(found.x[inside], expected[inside, 0], atol=0.03)
    np.testing.assert_allclose(found.y[inside], expected[inside, 1], atol=0.03)
    assert inside.sum() > 30


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.lists(st.floats(20, 3000), min_size=5, max_size=5),
    st.sets(st.integers(1, 4), max_size=1),
)
def test_rotation_by_90_degrees(areas, left_out):
    """A turn of light and PMTs that are left out turns the position, unless maxima are equal."""
    areas, used = np.array(areas), np.array([i not in left_out for i in range(5)])
    turned = ROTATED
    first, second = (
        fit(areas[np.newaxis], used[np.newaxis]),
        fit(areas[turned][np.newaxis], used[turned][np.newaxis]),
    )
    p = [_likelihood(areas, used, f.x[0], f.y[0], k) for k, f in enumerate((first, second))]
    assert p[0] == pytest.approx(p[1], abs=1e-2)
    r = [np.hypot(f.x[0], f.y[0]) for f in (first, second)]
    assert max(r) <= TABLE.limit + 1e-9


def _likelihood(areas, used, x, y, turns):
    """Return the logarithm of the likelihood at a position that is turned back."""
    for _ in range(turns):
        x, y = y, -x
    if np.hypot(x, y) > RADIUS:
        half = TABLE.light.shape[1] // 2
        axis = np.arange(-half, half + 1) * TABLE.step
        f = np.array([RectBivariateSpline(axis, axis, p)(x, y)[0, 0] for p in TABLE.light])
    else:
        f = light(np.array([x]), np.array([y]))[0]
    f = f[used]
    return float(np.sum(areas[used] * np.log(f / f.sum())))


def test_channels_that_are_left_out():
    areas = 1e3 * light(np.array([10.0]), np.array([-5.0]))
    for channel in range(5):
        used = np.ones((1, 5), dtype=bool)
        used[0, channel] = False
        wrong = areas.copy()
        wrong[0, channel] = 1e6
        found = fit(wrong, used)
        assert (found.x[0], found.y[0]) == pytest.approx((10, -5), abs=0.03)
    # Three channels fix a place, without a degree of freedom; two do not
    three, two = np.array([[1, 1, 1, 0, 0]], dtype=bool), np.array([[0, 1, 1, 0, 0]], dtype=bool)
    assert np.isfinite(fit(areas, three).x) and np.isnan(fit(areas, three).deviance)
    assert all(np.isnan(part).all() for part in fit(areas, two))


def test_too_little_light_and_no_peaks():
    found = fit([[1, 1, 1, 1, 0.9], [1, 1, 1, 1, 1.1], [0, 0, 0, 0, 0], [-1, -1, 9, 0, 0]])
    assert np.isnan(found.x).tolist() == [True, False, True, False]
    assert np.isnan(fit([[0, 0, 0, 0, 0]], min_area=0).x).all()
    assert all(part.shape == (0,) for part in fit(np.zeros((0, 5))))


def test_tables():
    content = {"radius": RADIUS, "step": TABLE.step, "light": TABLE.light.tolist()}
    table = check_table(content, 5, "here")
    assert isinstance(table, LightTable) and table.limit == TABLE.limit
    areas = 1e3 * light(np.array([10.0]), np.array([-5.0]))
    assert fit(areas, table=table).x == fit(areas).x
    for wrong, text in (
        ({}, "here: no light map"),
        ({"radius": "wide"}, "here: no light map"),
        ({"light": TABLE.light[:4]}, "shape"),
        ({"light": TABLE.light[:, 1:, 1:]}, "n odd"),
        ({"light": -TABLE.light}, "above 0"),
        ({"step": np.nan}, "above 0"),
        ({"radius": 37.0}, "two steps"),
    ):
        with pytest.raises(InvalidOption, match=text):
            check_table({**content, **wrong} if wrong else {}, 5, "here")
    with pytest.raises(InvalidOption, match="variance over mean of areas 0"):
        fit(areas, fano=0)
    with pytest.raises(ValueError, match="map of 5 PMTs"):
        fit(areas[:, :4])
