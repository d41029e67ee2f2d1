"""Photons: where they enter the xenon, and where they are scattered and absorbed."""

import numpy as np
import pytest
from scipy import integrate, stats

from amstrax.simulation import photons
from amstrax.simulation.detector import XAMS, XAMSL

MASS = 510.99895
#: So large that nothing leaves
HUGE = XAMS.with_values(radius=1e6, gate_cathode_distance=2e6)


def rng(seed=1):
    return np.random.default_rng(seed)


def beam(n, start, direction):
    direction = np.array(direction, dtype=float) / np.linalg.norm(direction)
    return np.tile(np.array(start, dtype=float), (n, 1)), np.tile(direction, (n, 1))


def attenuation(energy, detector):
    """Inverse of the mean free path, without coherent scattering [1/mm]."""
    return sum(photons.cross_sections(energy)) * (
        detector.xenon_density * photons.ATOMS_AT_UNIT_DENSITY
    )


def tracks(energy, n, detector=XAMS, seed=1):
    generator = rng(seed)
    start, direction = photons.enter(generator, n, detector, photons.OUTSIDE)
    return photons.track(generator, np.full(n, float(energy)), start, direction, detector)


@pytest.mark.parametrize(
    # XCOM, without coherent scattering [cm2/g]
    ("energy", "coefficient"),
    [
        (30.0, 8.17),
        (59.54, 7.69),
        (122.06, 1.12),
        (MASS, 0.0897),
        (661.66, 0.0738),
        (1274.5, 0.0490),
    ],
)
def test_attenuation(energy, coefficient):
    found = attenuation(energy, XAMS)
    # 1 % for the interpolation, and what these numbers are rounded to
    assert found == pytest.approx(coefficient * 2.86 / 10, rel=0.02)


@pytest.mark.parametrize("energy", [59.54, 122.06, 661.66])
def test_first_deposits_are_as_deep_as_the_mean_free_path(energy):
    n = 5000
    start, direction = beam(n, (0, 0, -1e6), (1, 2, -1))
    found = photons.track(rng(), np.full(n, energy), start, direction, HUGE)
    first = np.flatnonzero(np.diff(found.photon, prepend=-1))
    assert found.photon[first].tolist() == list(range(n))
    path = np.stack([found.x, found.y, found.z], axis=1)[first] - start
    depth = np.linalg.norm(path, axis=1)
    mean_free_path = 1 / attenuation(energy, HUGE)
    assert stats.kstest(depth, "expon", args=(0, mean_free_path)).pvalue > 1e-3
    np.testing.assert_allclose(path / depth[:, np.newaxis], direction, atol=1e-5)
    # scattered or absorbed by their cross-sections
    compton, absorbed = photons.cross_sections(energy)
    share = compton / (compton + absorbed)
    assert found.is_compton[first].mean() == pytest.approx(share, abs=4 * np.sqrt(0.25 / n))


@pytest.mark.parametrize("detector", [XAMS, XAMSL], ids=lambda detector: detector.name)
@pytest.mark.parametrize("energy", [59.54, 661.66, 1274.5])
def test_share_of_photons_that_pass(energy, detector):
    """An isotropic flux has a known distribution of chords, of which the mean is 4 V / S."""
    n = 20_000
    generator = rng()
    start, direction = photons.enter(generator, n, detector, photons.OUTSIDE)
    r, h = detector.radius, detector.gate_cathode_distance
    assert (np.hypot(start[:, 0], start[:, 1]) <= r * (1 + 1e-9)).all()
    assert ((start[:, 2] <= 0) & (start[:, 2] >= -h)).all()
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1)
    chord = chords(start, direction, r, h)
    mean = 4 * (np.pi * r**2 * h) / (2 * np.pi * r**2 + 2 * np.pi * r * h)
    assert chord.mean() == pytest.approx(mean, rel=0.02)
    # the directions inside have no preference: each component has a third of the square
    np.testing.assert_allclose(np.average(direction**2, axis=0, weights=chord), 1 / 3, atol=0.01)
    found = photons.track(generator, np.full(n, energy), start, direction, detector)
    passed = 1 - len(np.unique(found.photon)) / n
    expected = np.exp(-chord * attenuation(energy, detector))
    assert passed == pytest.approx(expected.mean(), abs=4 * np.sqrt(0.25 / n))


def chords(start, direction, r, h):
    """Lengths in the cylinder from a point on its surface, by bisection."""
    near, far = np.zeros(len(start)), np.full(len(start), 2 * r + h)
    near += 1e-6
    for _ in range(60):
        middle = (near + far) / 2
        at = start + middle[:, np.newaxis] * direction
        inside = (np.hypot(at[:, 0], at[:, 1]) <= r) & (at[:, 2] <= 0) & (at[:, 2] >= -h)
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    return near


@pytest.mark.parametrize("energy", [20.0, 122.06, 661.66, 1274.5])
def test_all_energy_is_left_where_nothing_leaves(energy):
    n = 500
    start, direction = beam(n, (0, 0, -1e6), (0, 0, 1))
    found = photons.track(rng(), np.full(n, energy), start, direction, HUGE)
    np.testing.assert_allclose(np.bincount(found.photon, found.energy, n), energy)
    # the last deposit of each is the absorption, and only that
    last = np.diff(found.photon, append=n) > 0
    assert (found.is_compton == ~last).all()


def test_energy_and_angle_of_scatterings():
    """The way to the second deposit tells the angle, which the energy of the first has to fit."""
    n, energy = 5000, 661.66
    start, direction = beam(n, (0, 0, -1e6), (0.3, -0.2, 0.9))
    found = photons.track(rng(), np.full(n, energy), start, direction, HUGE)
    points = np.stack([found.x, found.y, found.z], axis=1)
    first = np.flatnonzero((np.diff(found.photon, prepend=-1) > 0) & found.is_compton)
    ways = points[first + 1] - points[first]
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    cosine = ways @ direction[0]
    left = energy / (1 + energy / MASS * (1 - cosine))
    np.testing.assert_allclose(found.energy[first], energy - left, atol=0.01)
    # no preferred side
    across = np.cross(direction[0], [0, 0, 1.0])
    across /= np.linalg.norm(across)
    other = np.cross(direction[0], across)
    phi = np.arctan2(ways @ other, ways @ across)
    assert stats.kstest(phi, "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 1e-3


@pytest.mark.parametrize("detector", [XAMS, XAMSL], ids=lambda detector: detector.name)
def test_tracks_stay_inside(detector):
    n = 3000
    found = tracks(661.66, n, detector)
    assert (np.diff(found.photon) >= 0).all()
    assert (np.hypot(found.x, found.y) <= detector.radius).all()
    assert ((found.z <= 0) & (found.z >= -detector.gate_cathode_distance)).all()
    total = np.bincount(found.photon, found.energy, n)
    assert (total <= 661.66 * (1 + 1e-9)).all()
    assert (found.energy > 0).all()
    # absorbed photons leave all of it
    absorbed = found.photon[~found.is_compton]
    np.testing.assert_allclose(total[absorbed], 661.66)
    assert len(np.unique(absorbed)) == len(absorbed)


def test_single_scatters_only():
    single = XAMS.with_values(multiple_scatters=False)
    found = tracks(661.66, 2000, single)
    assert (np.diff(found.photon) > 0).all()
    scattered = found.energy[found.is_compton]
    assert scattered.max() <= 477.4
    assert (found.energy[~found.is_compton] == 661.66).all()
    # as many photons have a deposit, but more of them have several with all scatterings
    assert np.bincount(tracks(661.66, 2000).photon).max() >= 4


def test_source_at_a_point():
    position = (80.0, 0.0, -25.0)
    start, direction = photons.enter(rng(), 5000, XAMS, position)
    # all lines go from the point into the cylinder, and start where they enter
    way = start - position
    np.testing.assert_allclose(np.cross(way, direction), 0, atol=1e-9)
    assert np.isclose(np.hypot(start[:, 0], start[:, 1]), XAMS.radius).mean() > 0.9
    assert (chords(start, direction, XAMS.radius, XAMS.gate_cathode_distance) > 0).all()
    assert (start[:, 0] > 0).mean() > 0.99
    # even over the solid angle: as many in equal steps of the cosine around the axis
    axis = np.array([-1.0, 0.0, 0.0])
    cosine = direction @ axis
    within = cosine > np.cos(np.arctan(20 / 49))
    assert (
        stats.kstest(
            cosine[within], "uniform", args=(cosine[within].min(), 1 - cosine[within].min())
        ).pvalue
        > 1e-3
    )
    # from inside they start at the point, to all sides
    start, direction = photons.enter(rng(), 4000, XAMS, (0.0, 0.0, -25.0))
    np.testing.assert_allclose(start, np.tile((0.0, 0.0, -25.0), (4000, 1)))
    np.testing.assert_allclose(direction.mean(axis=0), 0, atol=0.03)


def test_source_in_the_liquid():
    start, direction = photons.enter(rng(), 20_000, XAMS, photons.INSIDE)
    assert (
        stats.kstest(start[:, 0] ** 2 + start[:, 1] ** 2, "uniform", args=(0, 31**2)).pvalue > 0.001
    )
    assert stats.kstest(start[:, 2], "uniform", args=(-50.5, 50.5)).pvalue > 1e-3
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1)
    np.testing.assert_allclose(direction.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose((direction**2).mean(axis=0), 1 / 3, atol=0.02)


@pytest.mark.parametrize("place", [photons.OUTSIDE, photons.INSIDE, (80.0, 0.0, 0.0)])
def test_no_photons(place):
    start, direction = photons.enter(rng(), 0, XAMS, place)
    found = photons.track(rng(), np.zeros(0), start, direction, XAMS)
    assert {len(column) for column in found} == {0}


@pytest.mark.parametrize(
    # the edges are those of textbooks
    ("energy", "edge"),
    [(100.0, 28.1), (MASS, 340.7), (661.66, 477.3), (1274.5, 1061.7)],
)
def test_compton_energies_follow_klein_and_nishina(energy, edge):
    left = photons.compton_energies(rng(), np.full(20_000, energy))
    top = energy * 2 * energy / (MASS + 2 * energy)
    assert top == pytest.approx(edge, abs=0.1)
    assert left.min() >= 0
    assert left.max() <= top
    assert left.max() == pytest.approx(edge, rel=0.01)

    # The cross-section as Leo and Evans have it for the energy of the electron
    k = energy / MASS

    def density(t):
        s = t / energy
        return 2 + s**2 / (k**2 * (1 - s) ** 2) + s / (1 - s) * (s - 2 / k)

    grid = np.linspace(0, top, 400)
    cumulative = integrate.cumulative_simpson(density(grid), x=grid, initial=0)
    cdf = lambda t: np.interp(t, grid, cumulative / cumulative[-1])  # noqa: E731
    assert stats.kstest(left, cdf).pvalue > 1e-3
