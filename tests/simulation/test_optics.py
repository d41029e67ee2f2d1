"""Optics: the light patterns of PMTs, from traced photons and from the reconstruction."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.exceptions import InvalidOption
from amstrax.processing import events
from amstrax.processing.peaks import reconstruct_positions
from amstrax.simulation import optics
from amstrax.simulation.detector import DETECTORS, XAMS, XAMSL
from amstrax.simulation.optics import GEOMETRIES, Window
from amstrax.simulation.optics import InverseOfReconstruction as Inverse

PROPERTY = settings(max_examples=50, deadline=None, database=None)


def rng(seed=1):
    return np.random.default_rng(seed)


#: Nothing but vacuum, black walls, and a disc at each end
EMPTY = replace(
    GEOMETRIES["xamsl"],
    bottom=Window(0.0, 0.0, 10.0, False),
    top=(Window(0.0, 0.0, 10.0, False),),
    reflectivity_liquid=0.0,
    reflectivity_gas=0.0,
    transparency=1.0,
    refractive_index=1.0,
    absorption_length=1e12,
    rayleigh_length=1e12,
)


def within(found, expected, n):
    """Return whether shares of `n` photons are as expected."""
    expected = np.asarray(expected)
    return (abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / n) + 1e-12).all()


def traced(geometry, points, n=40_000):
    return optics.trace(rng(), np.array(points, dtype=float), n, geometry) / n


def test_solid_angle_of_a_disc():
    z = np.array([-90.0, -50.0, -5.0])
    found = traced(EMPTY, [(0.0, 0.0, value) for value in z])
    for column, distance in enumerate((z - EMPTY.bottom_plane, EMPTY.top_plane - z)):
        expected = (1 - distance / np.hypot(distance, 10.0)) / 2
        assert within(found[:, column], expected, 40_000)


def test_solid_angle_of_a_square():
    square = replace(EMPTY, bottom=Window(0.0, 0.0, 10.0, True))
    distance = -40.0 - EMPTY.bottom_plane
    # H. Gotoh and H. Yagi, NIM 96 (1971) 485, for a point above the centre
    angle = 4 * np.arctan(100 / (distance * np.sqrt(200 + distance**2)))
    assert within(traced(square, [(0, 0, -40.0)])[0, 0], angle / (4 * np.pi), 40_000)


def test_windows_are_where_they_should_be():
    four = GEOMETRIES["xams"]
    dark = replace(four, reflectivity_liquid=0.0, reflectivity_gas=0.0)
    points = [(20.0, 20.0, 5.0), (20.0, -20.0, 5.0), (-20.0, 20.0, 5.0), (-20.0, -20.0, 5.0)]
    found = traced(dark, points)[:, 1:]
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3]
    # and all are the same
    assert within(found[[0, 1, 2, 3], [0, 1, 2, 3]], found.max(axis=1).mean(), 40_000)


def test_meshes():
    """Straight up from the gate's middle: anode and screen are passed, each by the same share."""
    half = replace(EMPTY, transparency=0.5, top=(Window(0.0, 0.0, 1.0, False),))
    full = replace(half, transparency=1.0)
    # z of the windows, 1 mm below is the screen, then the anode; the liquid's surface is a plane
    one, other = (traced(g, [(0.0, 0.0, 5.0)], 200_000)[0, 1] for g in (half, full))
    assert one == pytest.approx(other / 4, rel=0.2)
    assert within(one, other / 4, 20_000)


def test_all_light_is_found_between_perfect_mirrors():
    mirror = replace(EMPTY, reflectivity_liquid=1.0, reflectivity_gas=1.0, refractive_index=1.69)
    found = traced(mirror, [(3.0, 4.0, -50.0), (0.0, 21.0, 6.0)], 2_000)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_scattering_loses_no_light():
    mirror = replace(EMPTY, reflectivity_liquid=1.0, reflectivity_gas=1.0, rayleigh_length=20.0)
    assert traced(mirror, [(3.0, 4.0, -50.0)], 2_000).sum() == 1


def test_absorption():
    """Light from the axis to a small window goes the straight way: exp(-d / length)."""
    small = replace(EMPTY, bottom=Window(0.0, 0.0, 4.0, False))
    absorbing = replace(small, absorption_length=10.0)
    distance = 20.0
    point = [(0.0, 0.0, small.bottom_plane + distance)]
    one, other = (traced(g, point, 400_000)[0, 0] for g in (small, absorbing))
    assert other / one == pytest.approx(np.exp(-distance / 10.0), rel=0.12)


@pytest.mark.parametrize("kernel", [optics._fresnel, optics._fresnel.py_func])
def test_fresnel(kernel):
    share, behind = kernel(1.0, 1.0, 1.69)
    assert share == pytest.approx((0.69 / 2.69) ** 2)
    assert behind == 1.0
    critical = np.sqrt(1 - 1 / 1.69**2)
    assert kernel(critical - 1e-6, 1.69, 1.0) == (1.0, 0.0)
    assert kernel(critical + 1e-6, 1.69, 1.0)[0] < 1
    assert kernel(0.3, 1.3, 1.3) == pytest.approx((0.0, 0.3))


def test_light_leaves_the_liquid_only_in_a_cone():
    """Of a point on the axis, black walls: the share through the surface is that of the cone."""
    g = replace(
        EMPTY,
        radius=1e6,
        refractive_index=1.69,
        top=(Window(0.0, 0.0, 9e5, False),),
        bottom=Window(0.0, 0.0, 1.0, False),
    )
    cosine = np.linspace(np.sqrt(1 - 1 / 1.69**2), 1, 2001)
    passed = [1 - optics._fresnel(c, 1.69, 1.0)[0] for c in cosine]
    expected = np.trapezoid(passed, cosine) / 2
    assert within(traced(g, [(0.0, 0.0, 0.5)])[0, 1], expected, 40_000)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_tracer_and_its_twin(name, monkeypatch):
    points = np.array([(1.0, 2.0, -20.0), (10.0, -5.0, 5.0)])
    compiled = optics.trace(rng(), points, 100, GEOMETRIES[name])
    monkeypatch.setattr(optics, "_trace", optics._trace.py_func)
    assert (optics.trace(rng(), points, 100, GEOMETRIES[name]) == compiled).all()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_maps_of_the_package_are_those_of_their_geometry(name):
    """Within the fluctuations of fewer photons, which are traced with another seed."""
    light_map = optics.load_map(name)
    geometry = light_map.geometry
    assert geometry == GEOMETRIES[name]
    assert (optics._MAPS / f"{name}.json").stat().st_size < 200_000
    n, photons, steps = 60, 4_000, 10
    phi, r = rng().uniform(0, 2 * np.pi, n), geometry.radius * np.sqrt(rng(2).random(n)) * 0.999
    x, y, z = r * np.cos(phi), r * np.sin(phi), rng(3).uniform(*geometry.s1_range, n)
    found = traced(geometry, np.stack([x, y, z], axis=1), photons)
    expected = light_map.s1_shares(x, y, z)
    pulls = (found - expected) / np.sqrt(expected / photons)
    assert pulls.std() == pytest.approx(1, abs=0.25)
    assert abs(pulls.mean(axis=0)).max() < 0.7
    # S2 light comes from all of the gas
    heights = geometry.liquid_level + (np.arange(steps) + 0.5) / steps * (
        geometry.anode - geometry.liquid_level
    )
    points = np.concatenate([np.stack([x, y, np.full(n, h)], axis=1) for h in heights])
    found = traced(geometry, points, photons // steps).reshape(steps, n, -1).mean(axis=0)
    expected = light_map.s2_shares(x, y)
    pulls = (found - expected) / np.sqrt(expected / photons)
    assert pulls.std() == pytest.approx(1, abs=0.3)
    assert abs(pulls.mean(axis=0)).max() < 0.7


def test_maps_are_the_same_for_the_same_seed(tmp_path):
    small = optics.make_map(GEOMETRIES["xams"], seed=3, points=300, photons=50)
    optics.save_map(small, tmp_path / "own.json")
    read = optics.load_map(str(tmp_path / "own.json"))
    assert read.geometry == small.geometry
    assert (read.seed, read.points, read.photons) == (3, 300, 50)
    again = optics.make_map(GEOMETRIES["xams"], seed=3, points=300, photons=50)
    x, y, z = optics._grid(small.geometry)
    assert (small.s1_shares(x, y, z) == again.s1_shares(x, y, z)).all()
    np.testing.assert_allclose(read.s1_shares(x, y, z), small.s1_shares(x, y, z), atol=1e-3)


def test_command(tmp_path):
    arguments = ["xams", "--output", str(tmp_path / "maps"), "--points", "300", "--photons", "20"]
    assert optics.main(arguments) == 0
    made = json.loads((tmp_path / "maps" / "xams.json").read_text())
    assert made["geometry"] == json.loads(json.dumps(asdict(GEOMETRIES["xams"])))


def test_maps_that_cannot_be_read(tmp_path):
    (tmp_path / "no.json").write_text("{}")
    for name in (str(tmp_path / "no.json"), str(tmp_path / "none.json"), "xmas"):
        with pytest.raises(InvalidOption, match="no light map"):
            optics.load_map(name)


@pytest.mark.parametrize("detector", DETECTORS.values())
@pytest.mark.parametrize("name", optics.MODELS)
def test_means(detector, name):
    """g1 and the gain of an electron are means over the volume."""
    patterns = optics.model(name, detector)
    x, y, z = optics._grid(GEOMETRIES[detector.light_map])
    assert patterns.s1(x, y, z).shape == (len(x), len(detector.tpc_channels))
    assert patterns.s1(x, y, z).sum(axis=1).mean() == pytest.approx(detector.g1)
    assert patterns.s2(x, y).sum(axis=1).mean() == pytest.approx(1)
    empty = np.zeros(0)
    assert patterns.s1(empty, empty, empty).shape == (0, len(detector.tpc_channels))


def test_no_probability_is_above_one():
    certain = optics.model("geometry", XAMS.with_values(g1=1.0))
    x, y, z = optics._grid(GEOMETRIES["xams"])
    assert certain.s1(x, y, z).sum(axis=1).max() <= 1 + 1e-12


@pytest.mark.parametrize(
    "values", [{"radius": 30.0}, {"gate_cathode_distance": 52.0}, {"light_map": "xamsl"}]
)
def test_maps_of_another_detector_are_refused(values):
    with pytest.raises(InvalidOption, match="light_map"):
        optics.model("geometry", XAMS.with_values(**values))
    optics.model("inverse_of_reconstruction", XAMS.with_values(**values))


def test_unknown_optics_are_refused():
    with pytest.raises(InvalidOption, match="did you mean geometry"):
        optics.model("geometrie", XAMS)


def test_agreement_with_the_published_s1_map():
    """The lab's S1 map v0 of XAMS, of Kr-83m in r and z, is within 6 % rms of the traced one."""
    centres = [(1.55, 0.267, 0.083), (31 - 1.55, 0.115, 0.056)]  # r; light at the cathode, the gate
    patterns = optics.model("geometry", XAMS)
    found = np.array(
        [
            patterns.s1(np.full(2, r), np.zeros(2), np.array([-49.4, -2.6])).sum(axis=1)
            for r, *_ in centres
        ]
    )
    published = np.array([row[1:] for row in centres])
    ratio = found / published
    assert ratio / ratio.mean() == pytest.approx(np.ones((2, 2)), abs=0.15)


def test_the_error_of_the_labs_reconstruction():
    """Without fluctuations the polynomials of the lab miss the place of traced light by mm."""
    x, y, _ = optics._grid(GEOMETRIES["xams"])
    errors = {}
    for name in optics.MODELS:
        shares = optics.model(name, XAMS).s2(x, y)
        area = 1e4 * shares.sum(axis=1).astype(np.float32)
        aft = 1 - shares[:, 0] / shares.sum(axis=1)
        found = reconstruct_positions(
            area, aft, (1e4 * shares).astype(np.float32), 1, XAMS.position_polynomials
        )
        errors[name] = np.sqrt(np.mean((found["x_corr"] - x) ** 2))
    assert errors["inverse_of_reconstruction"] < 0.01
    assert 2.5 < errors["geometry"] < 3.5


# The inverse of the reconstruction


def test_half_share():
    polynomial = (100.0, -50.0)  # 100 f - 50
    position = np.array([-80.0, -50.0, 0.0, 25.0, 50.0, 70.0])
    assert optics.half_share(position, polynomial) == pytest.approx([0, 0, 0.5, 0.75, 1, 1])


@PROPERTY
@given(
    st.lists(st.tuples(st.floats(-31, 31), st.floats(-31, 31)), min_size=1, max_size=20),
    st.floats(1, 1e5),
)
def test_positions_are_reconstructed_where_the_light_was(points, area_top):
    x, y = np.array(points).T
    shares = Inverse(XAMS).top_shares(x, y)
    assert shares.shape == (len(x), 4)
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    area_per_channel = np.zeros((len(x), 5), dtype=np.float32)
    area_per_channel[:, 0] = 10.0
    area_per_channel[:, 1:] = area_top * shares
    area = area_per_channel.sum(axis=1)
    aft = area_per_channel[:, 1:].sum(axis=1) / area
    found = reconstruct_positions(area, aft, area_per_channel, 1, XAMS.position_polynomials)
    np.testing.assert_allclose(found["x_corr"], x, rtol=0, atol=2e-3)
    np.testing.assert_allclose(found["y_corr"], y, rtol=0, atol=2e-3)


def test_each_half_gives_its_polynomial():
    f = np.array([0.2, 0.5, 0.9])
    x, y = (np.polyval(polynomial, f) for polynomial in XAMS.position_polynomials)
    a, b, c, d = Inverse(XAMS).top_shares(x, y[::-1]).T
    assert a + b == pytest.approx(f, abs=1e-6)
    assert a + c == pytest.approx(f[::-1], abs=1e-6)
    assert d == pytest.approx((1 - f) * (1 - f[::-1]), abs=1e-6)


def test_one_top_pmt_gets_all():
    assert Inverse(XAMSL).top_shares(np.array([0.0, 20.0]), np.zeros(2)).tolist() == [[1], [1]]


def test_s1_detection():
    detector = XAMS.with_values(
        gate_cathode_distance=100.0,
        g1=0.1,
        s1_light_at_gate=2.0,
        s1_light_slope=-0.02,  # twice as much light at the cathode as at the gate
        s1_area_fraction_top_gate=0.3,
        s1_area_fraction_top_cathode=0.1,
        s1_position_contrast=0.0,
    )
    z = np.array([0.0, -50.0, -100.0])
    found = Inverse(detector).s1(np.zeros(3), np.zeros(3), z)
    total = np.array([0.2 / 3, 0.1, 0.4 / 3])
    assert found.sum(axis=1) == pytest.approx(total)
    top = total * [0.3, 0.2, 0.1]
    for channel in range(1, 5):
        assert found[:, channel] == pytest.approx(top / 4)
    # the mean over the volume is what g1 says
    z = -rng().uniform(0, 100, 50_000)
    found = Inverse(detector).s1(np.zeros(50_000), np.zeros(50_000), z)
    assert found.sum(axis=1).mean() == pytest.approx(0.1, rel=0.005)


def test_contrast_of_s1_light():
    x, y, z = np.array([20.0]), np.array([-10.0]), np.array([-20.0])
    even, some, full = (
        Inverse(XAMS.with_values(s1_position_contrast=contrast)).s1(x, y, z)[0]
        for contrast in (0.0, 0.25, 1.0)
    )
    assert some == pytest.approx(0.75 * even + 0.25 * full)
    assert full[1:] / full[1:].sum() == pytest.approx(Inverse(XAMS).top_shares(x, y)[0])
    assert even[0] == full[0]


@PROPERTY
@given(
    st.sampled_from([XAMS, XAMSL]),
    st.floats(0, 1),
    st.lists(
        st.tuples(st.floats(-31, 31), st.floats(-31, 31), st.floats(0, 1)), min_size=1, max_size=10
    ),
)
def test_s1_light_goes_with_depth_as_it_is_corrected_for(detector, share, points):
    x, y, depth = np.array(points).T
    z = -depth * detector.gate_cathode_distance
    small = detector.with_values(g1=0.5 * share)
    found = Inverse(small).s1(x, y, z)
    line = (-small.gate_cathode_distance, 0.0, small.s1_light_at_gate, small.s1_light_slope)
    corrected = found.sum(axis=1) * events.s1_z_correction(z, line)
    # The smallest numbers that there are have fewer digits
    np.testing.assert_allclose(corrected, 0.5 * share, rtol=1e-12, atol=1e-300)
    certain = Inverse(detector.with_values(g1=1.0)).s1(x, y, z)
    assert ((certain >= 0) & (certain.sum(axis=1)[:, np.newaxis] <= 1 + 1e-12)).all()


def test_s2_shares():
    detector = XAMS.with_values(s2_area_fraction_top=0.6)
    x, y = np.array([0.0, 30.0]), np.array([5.0, -20.0])
    found = Inverse(detector).s2(x, y)
    np.testing.assert_allclose(found[:, 0], 0.4)
    np.testing.assert_allclose(found[:, 1:], 0.6 * Inverse(detector).top_shares(x, y))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_light_from_beyond_the_wall_is_that_from_the_wall(name):
    """Diffusion moves clouds there, where the polynomials of the map would be wrong."""
    light_map = optics.load_map(name)
    radius = light_map.geometry.radius
    x, y = radius * np.cos([0.0, 0.8]), radius * np.sin([0.0, 0.8])
    z = np.full(2, -10.0)
    np.testing.assert_allclose(light_map.s2_shares(1.2 * x, 1.2 * y), light_map.s2_shares(x, y))
    np.testing.assert_allclose(
        light_map.s1_shares(1.2 * x, 1.2 * y, z), light_map.s1_shares(x, y, z)
    )
