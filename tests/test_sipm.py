"""SiPMs: solid angles against Monte Carlo and integrals, fits against what was emulated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad
from scipy.stats import chi2

import amstrax
from amstrax import SiPMdata
from amstrax.exceptions import InvalidOption

PROPERTY = settings(max_examples=50, deadline=None, database=None)

PLANE = SiPMdata.on_plane(6, 5, pitch=8, size=(6, 5), efficiency=0.25)
CYLINDER = SiPMdata.on_cylinder(12, 4, radius=25, pitch=12, size=8, efficiency=0.3, z=-20)
DISCS = SiPMdata.on_plane(5, 5, pitch=9, size=7, shape="disc", z=4.0)
ARRAYS = {"plane": PLANE, "cylinder": CYLINDER, "discs": DISCS}
#: Where events are, and where they are looked for [mm]
INSIDE = {
    "plane": ((-14, 14), (-12, 12), (-25, -8)),
    "cylinder": ((-12, 12), (-12, 12), (-35, -5)),
    "discs": ((-14, 14), (-14, 14), (-20, -5)),
}
LIMITS = {
    "plane": np.array([(-40, 40), (-40, 40), (-60, -1)]),
    "cylinder": np.array([(-24, 24), (-24, 24), (-60, 20)]),
    "discs": np.array([(-40, 40), (-40, 40), (-60, 3)]),
}


def rays(sipms, point, directions):
    """Return which of the directions from a point hit each SiPM, shape (n directions, n)."""
    hits = []
    for centre, normal, along in zip(sipms.centre, sipms.normal, sipms.along, strict=True):
        towards = directions @ normal
        distance = ((centre - point) @ normal) / towards
        where = point + distance[:, np.newaxis] * directions - centre
        x, y = where @ along, where @ np.cross(normal, along)
        if sipms.shape == "disc":
            inside = np.hypot(x, y) < sipms.size[0] / 2
        else:
            inside = (abs(x) < sipms.size[0] / 2) & (abs(y) < sipms.size[1] / 2)
        hits.append(inside & (distance > 0) & (towards < 0))
    return np.array(hits).T


@pytest.mark.parametrize("name", ARRAYS)
def test_solid_angles_against_monte_carlo(name):
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(200_000, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, np.newaxis]
    sipms, point = ARRAYS[name], np.array([4.0, -7.0, -6.0])
    exact = sipms.solid_angles(point)[0] / (4 * np.pi)
    found = rays(sipms, point, directions).mean(axis=0)
    error = np.sqrt(exact / len(directions))
    assert exact.sum() > 0.1
    assert (abs(found - exact) < 4.5 * error + 1e-12).all()


@pytest.mark.parametrize(
    ("r", "distance", "radius"), [(0, 5, 3), (2, 1, 3), (3, 1, 3), (2.9999, 0.5, 3), (7, 2, 3)]
)
def test_solid_angle_of_a_disc_is_the_integral(r, distance, radius):
    integral = dblquad(
        lambda y, x: distance / ((x - r) ** 2 + y**2 + distance**2) ** 1.5,
        -radius,
        radius,
        lambda x: -np.sqrt(radius**2 - x**2),
        lambda x: np.sqrt(radius**2 - x**2),
    )[0]
    assert SiPMdata.solid_angle_disc(r, distance, radius) == pytest.approx(integral, rel=1e-7)


def test_solid_angles_that_are_known():
    # A face of a cube, from its middle; near a plane; from behind
    assert SiPMdata.solid_angle_rectangle(0, 0, 1, 2, 2) == pytest.approx(4 * np.pi / 6)
    assert SiPMdata.solid_angle_rectangle(0, 0, 1e-9, 2, 2) == pytest.approx(2 * np.pi)
    assert SiPMdata.solid_angle_rectangle(0, 0, -1, 2, 2) == 0
    # On the axis of a disc
    assert SiPMdata.solid_angle_disc(0, 4, 3) == pytest.approx(2 * np.pi * (1 - 4 / 5))
    assert SiPMdata.solid_angle_disc(0, 0, 3) == 0


@PROPERTY
@given(
    st.floats(-50, 50), st.floats(-50, 50), st.floats(0.01, 100), st.floats(-5, 5), st.floats(-5, 5)
)
def test_solid_angle_of_a_rectangle_is_that_of_its_parts(x, y, distance, cut_x, cut_y):
    whole = SiPMdata.solid_angle_rectangle(x, y, distance, 12, 12)
    parts = 0.0
    for x0, x1 in ((-6, cut_x), (cut_x, 6)):
        for y0, y1 in ((-6, cut_y), (cut_y, 6)):
            middle = (x0 + x1) / 2, (y0 + y1) / 2
            parts += SiPMdata.solid_angle_rectangle(
                x - middle[0], y - middle[1], distance, x1 - x0, y1 - y0
            )
    assert parts == pytest.approx(whole, rel=1e-6, abs=1e-12)
    assert 0 <= whole <= 2 * np.pi


def test_geometry():
    assert len(PLANE) == 30 and len(CYLINDER) == 48
    np.testing.assert_allclose(PLANE.centre.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(PLANE.centre[0], (-20, -16, 0))
    np.testing.assert_allclose(PLANE.centre[1], (-12, -16, 0))
    np.testing.assert_allclose(CYLINDER.centre[0], (25, 0, -38))
    np.testing.assert_allclose(CYLINDER.centre[3], (0, 25, -38), atol=1e-12)
    np.testing.assert_allclose(np.hypot(*CYLINDER.centre[:, :2].T), 25)
    for sipms in ARRAYS.values():
        # They see the middle of the volume, and nothing from behind
        assert (sipms.solid_angles(np.array([0.0, 0.0, -20.0])) > 0).all()
        for axis in (sipms.normal, sipms.along, sipms.up):
            np.testing.assert_allclose(np.linalg.norm(axis, axis=1), 1)
    up = SiPMdata.on_plane(2, 2, 5, 4, down=False)
    assert (up.solid_angles([0, 0, -5]) == 0).all() and (up.solid_angles([0, 0, 5]) > 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SiPMdata.on_plane(0, 2, 5, 4), "0 times 2"),
        (lambda: SiPMdata.on_plane(2, 2, -5, 4), "-5 mm apart"),
        (lambda: SiPMdata.on_plane(2, 2, 5, 0), "0.0, 0.0"),
        (lambda: SiPMdata.on_plane(2, 2, 5, 4, efficiency=25), "efficiencies .* 25"),
        (lambda: SiPMdata.on_plane(2, 2, 5, 4, shape="star"), "'star': take rectangle or disc"),
        (lambda: SiPMdata.on_plane(2, 2, 5, (4, 3), shape="disc"), "diameter"),
        (lambda: SiPMdata.on_cylinder(2, 2, 0, 5, 4), "radius of 0"),
    ],
    ids=["number", "pitch", "size", "efficiency", "shape", "disc", "radius"],
)
def test_geometry_that_cannot_be(make, message):
    with pytest.raises(InvalidOption, match=message):
        make()


def test_expected_and_emulated_counts():
    rng = np.random.default_rng(5)
    points = np.array([[0.0, 0.0, -10.0], [5.0, 3.0, -20.0]])
    expected = SiPMdata.expected_photons(PLANE, points, [1000, 500])
    shares = PLANE.solid_angles(points) / (4 * np.pi)
    np.testing.assert_allclose(expected, shares * 0.25 * [[1000], [500]])
    counts = SiPMdata.emulate(PLANE, np.repeat(points[:1], 20_000, axis=0), 1000, rng, dark=0.5)
    assert counts.dtype.kind == "i"
    error = np.sqrt((expected[0] + 0.5) / 20_000)
    assert (abs(counts.mean(axis=0) - expected[0] - 0.5) < 4.5 * error).all()
    assert counts.var(axis=0) == pytest.approx(expected[0] + 0.5, rel=0.06)
    charges = SiPMdata.emulate(PLANE, np.repeat(points[:1], 20_000, axis=0), 1000, rng, spread=0.4)
    assert charges.var(axis=0) == pytest.approx(expected[0] * 1.16, rel=0.08)
    again = [SiPMdata.emulate(PLANE, points, 1000, np.random.default_rng(7)) for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_centre_of_gravity():
    counts = np.zeros((3, len(PLANE)))
    counts[0, 7] = 5
    counts[1, [0, 29]] = 2, 2
    counts[1, 3] = -4  # noise
    found = SiPMdata.centre_of_gravity(PLANE, counts)
    np.testing.assert_allclose(found[0], PLANE.centre[7])
    np.testing.assert_allclose(found[1], 0, atol=1e-12)
    assert np.isnan(found[2]).all()


FITS = [
    ("plane", "fit_poisson", False),
    ("plane", "fit_chi_square", True),
    ("cylinder", "fit_poisson", True),
    ("cylinder", "fit_chi_square", False),
    ("discs", "fit_poisson", False),
]


@pytest.mark.parametrize(("name", "method", "z_known"), FITS)
def test_fits_cover_the_truth(name, method, z_known):
    """Pulls are normal: mean 0 and width 1 within their errors; chi-square is that of the fit."""
    n, n_photons = 60, 40_000
    rng = np.random.default_rng(11)
    points = np.stack([rng.uniform(*bounds, n) for bounds in INSIDE[name]], axis=1)
    sipms, fit = ARRAYS[name], getattr(SiPMdata, method)
    counts = SiPMdata.emulate(sipms, points, n_photons, rng, dark=0.3)
    fits = [
        fit(sipms, c, LIMITS[name], z=p[2] if z_known else None, dark=0.3)
        for c, p in zip(counts, points, strict=True)
    ]
    assert np.mean([f.valid for f in fits]) > 0.95
    fitted = slice(0, 2 if z_known else 3)
    pulls = np.array(
        [
            (f.position - p)[fitted] / f.error[fitted]
            for f, p in zip(fits, points, strict=True)
            if f.valid
        ]
    ).T.tolist()
    pulls.append([(f.n_photons - n_photons) / f.n_photons_error for f in fits if f.valid])
    for pull in np.array(pulls):
        assert abs(pull.mean()) < 4 / np.sqrt(len(pull))
        assert abs(pull.std() - 1) < 4 / np.sqrt(2 * len(pull))
    assert fits[0].n_free == len(sipms) - (3 if z_known else 4)
    p_values = [chi2.sf(f.chi2, f.n_free) for f in fits]
    assert abs(np.mean(p_values) - 0.5) < 0.2
    if z_known:
        assert fits[0].position[2] == points[0, 2] and fits[0].error[2] == 0
    else:
        # The fit is better than the centre of gravity, which is drawn to the middle
        error = np.array([f.position for f in fits]) - points
        assert np.std(error) < 0.5 * np.std(SiPMdata.centre_of_gravity(sipms, counts) - points)
    assert fits[0].covariance.shape == (4, 4)
    assert np.sqrt(fits[0].covariance[0, 0]) == pytest.approx(fits[0].error[0], rel=0.05)


def test_chi_square_of_charges():
    """With spread and noise in its errors, it covers the truth as well."""
    rng = np.random.default_rng(13)
    point = np.array([3.0, -4.0, -12.0])
    charges = SiPMdata.emulate(PLANE, np.tile(point, (50, 1)), 40_000, rng, spread=0.5)
    charges = charges + rng.normal(0, 3, charges.shape)
    fits = [
        SiPMdata.fit_chi_square(PLANE, c, LIMITS["plane"], spread=0.5, noise=3) for c in charges
    ]
    pulls = np.array([(f.position - point) / f.error for f in fits])
    assert (abs(pulls.mean(axis=0)) < 4 / np.sqrt(50)).all()
    assert (abs(pulls.std(axis=0) - 1) < 0.4).all()


def test_fit_at_a_limit_is_not_valid():
    rng = np.random.default_rng(17)
    counts = SiPMdata.emulate(PLANE, [14.0, 0.0, -10.0], 40_000, rng)[0]
    limits = np.array([(-40, 5), (-40, 40), (-60, -1)])
    assert not SiPMdata.fit_poisson(PLANE, counts, limits).valid
    assert SiPMdata.fit_poisson(PLANE, counts, LIMITS["plane"]).valid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:-1], r"shape \(29,\)"),
        (lambda c: c * 0, "no counts"),
        (lambda c: c - 30 * (np.arange(30) == 4), "SiPM 4 has"),
        (lambda c: np.where(np.arange(30) == 4, np.nan, c), "not finite"),
    ],
    ids=["shape", "nothing", "negative", "nan"],
)
def test_counts_that_cannot_be_fitted(change, message):
    counts = SiPMdata.expected_photons(PLANE, [0.0, 0.0, -10.0], 10_000)[0]
    with pytest.raises(InvalidOption, match=message):
        SiPMdata.fit_poisson(PLANE, change(counts), LIMITS["plane"])


def test_limits_in_the_wrong_order():
    counts = SiPMdata.expected_photons(PLANE, [0.0, 0.0, -10.0], 10_000)[0]
    with pytest.raises(InvalidOption, match="lowest and highest"):
        SiPMdata.fit_poisson(PLANE, counts, LIMITS["plane"][:, ::-1])


@pytest.mark.parametrize("name", ARRAYS)
def test_event_display(name, tmp_path):
    sipms, point = ARRAYS[name], np.array([0.0, 10.0, -10.0])
    counts = SiPMdata.expected_photons(sipms, point, 10_000)[0]
    figure = SiPMdata.event_display(sipms, counts, {"true": point, "fit": point + 1})
    axes = figure.axes[0]
    (areas,) = axes.collections
    np.testing.assert_allclose(areas.get_array(), counts)
    assert len(areas.get_paths()) == len(sipms)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["true", "fit"]
    marked = axes.lines[0].get_xydata()[0]
    # Next to the SiPM that sees most
    nearest = np.argmin(np.linalg.norm(sipms.flat - marked, axis=1))
    assert counts[nearest] > 0.9 * counts.max()
    figure.savefig(tmp_path / "display.png")


def test_names():
    assert amstrax.SiPMdata is SiPMdata
    for name in SiPMdata.__all__:
        assert getattr(SiPMdata, name).__name__ == name
        assert name in dir(SiPMdata)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = SiPMdata.other
