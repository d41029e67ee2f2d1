"""Sources: when and where energy is deposited, and how much, in xenon and NaI detector."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from amstrax.exceptions import InvalidOption
from amstrax.simulation import sources
from amstrax.simulation.detector import XAMS, XAMSL

PROPERTY = settings(max_examples=50, deadline=None, database=None)
MASS = 510.99895
XENON_SOURCES = [name for name in sources.SOURCES if name != "led"]


def rng(seed=1):
    return np.random.default_rng(seed)


def follows(values, cdf, *args):
    """Do values follow a distribution? Seeds are fixed, so that the answer is always the same."""
    return stats.kstest(values, cdf, args=args).pvalue > 1e-3


def deposits_of(name, n=1000, detector=XAMS, seed=1):
    return sources.deposits(rng(seed), sources.source(name), np.arange(n) * 1e6, detector)


def compton_edge(energy):
    return energy * 2 * energy / (MASS + 2 * energy)


def test_event_times():
    times = sources.event_times(rng(), 100.0, 2e9, 102e9)
    assert abs(len(times) - 10_000) < 4 * 100
    assert follows(times, "uniform", 2e9, 100e9)
    assert (np.diff(times) >= 0).all()
    # counts scatter as those of events that know nothing of each other
    counts = np.bincount(((times - 2e9) / 1e9).astype(int), minlength=100)
    assert counts.var() == pytest.approx(100, rel=0.5)


@pytest.mark.parametrize(
    ("rate", "start", "end"),
    [
        (0, 0, 1e12),
        (10, 5e9, 5e9),
        (10, 5e9, 1e9),
    ],
)
def test_no_time_no_events(rate, start, end):
    assert len(sources.event_times(rng(), rate, start, end)) == 0


def test_positions_are_uniform_in_the_cylinder():
    detector = XAMS.with_values(radius=20.0, gate_cathode_distance=80.0)
    x, y, z = sources.positions(rng(), 20_000, detector)
    assert follows((x**2 + y**2) / 400, "uniform")
    assert follows(np.arctan2(y, x), "uniform", -np.pi, 2 * np.pi)
    assert follows(z, "uniform", -80, 80)
    # a cube inside of it gets its share of the volume
    inside = (abs(x) < 10) & (abs(y) < 10) & (z < -60)
    share = 20 * 20 * 20 / (np.pi * 400 * 80)
    assert inside.mean() == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize(
    # the edges are those of textbooks
    ("energy", "edge"),
    [(100.0, 28.1), (MASS, 340.7), (661.66, 477.3), (1274.5, 1061.7)],
)
def test_compton_energies_follow_klein_and_nishina(energy, edge):
    left = sources.compton_energies(rng(), np.full(20_000, energy))
    assert compton_edge(energy) == pytest.approx(edge, abs=0.1)
    assert left.min() >= 0
    assert left.max() <= compton_edge(energy)
    assert left.max() == pytest.approx(edge, rel=0.01)

    # The cross-section as Leo and Evans have it for the energy of the electron
    k = energy / MASS

    def density(t):
        s = t / energy
        return 2 + s**2 / (k**2 * (1 - s) ** 2) + s / (1 - s) * (s - 2 / k)

    grid = np.linspace(0, compton_edge(energy), 400)
    cumulative = integrate.cumulative_simpson(density(grid), x=grid, initial=0)
    assert follows(left, lambda t: np.interp(t, grid, cumulative / cumulative[-1]))


@PROPERTY
@given(st.lists(st.floats(1, 5000), max_size=20), st.integers(0, 2**32))
def test_one_scattering_leaves_at_most_the_compton_edge(energies, seed):
    energies = np.array(energies, dtype=float)
    left = sources.compton_energies(rng(seed), energies)
    assert left.shape == energies.shape
    assert (left >= 0).all()
    assert (left <= compton_edge(energies) * (1 + 1e-9)).all()
    all_left = sources.photon_energies(rng(seed), energies)
    assert ((all_left == energies) | (all_left <= compton_edge(energies) * (1 + 1e-9))).all()


@pytest.mark.parametrize(
    ("energy", "share"), [(20.0, 1.0), (60.0, 0.95), (400.0, 0.28), (700.0, 0.11), (3000.0, 0.04)]
)
def test_share_of_photons_that_give_all_their_energy(energy, share):
    given_energies = np.full(20_000, energy)
    left = sources.photon_energies(rng(), given_energies)
    assert np.mean(left == energy) == pytest.approx(share, abs=0.012)
    assert (given_energies == energy).all()


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("am241", {59.54: 1.0}),
        ("co57", {122.06: 85.6, 136.47: 10.7}),
        ("rn222", {5489.5: 1.0, 6002.4: 1.0, 7686.8: 1.0}),
        ("cs137", {661.66: 1.0}),
    ],
)
def test_lines_and_their_proportions(name, lines):
    energy = deposits_of(name, 30_000)[0].energy
    found = {line: np.mean(energy == line) for line in lines}
    if name != "rn222":  # as many as are not scattered
        table = np.array(sources._PHOTOELECTRIC)
        found = {line: n / np.interp(line, *table) for line, n in found.items()}
        assert (np.isin(energy, list(lines)) | (energy <= compton_edge(max(lines)))).all()
    else:
        assert np.isin(energy, list(lines)).all()
    for line, weight in lines.items():
        assert found[line] == pytest.approx(weight / sum(lines.values()), abs=0.03)


def test_flat_energies():
    assert follows(deposits_of("flat", 5000)[0].energy, "uniform", 1, 99)
    narrow = sources.source("flat", (30.0, 40.0))
    found, _ = sources.deposits(rng(), narrow, np.zeros(5000), XAMS)
    assert follows(found.energy, "uniform", 30, 10)
    one, _ = sources.deposits(rng(), sources.source("flat", (5.0, 5.0)), np.zeros(3), XAMS)
    assert one.energy.tolist() == [5, 5, 5]
    assert sources.SOURCES["flat"].model == sources.Flat(1.0, 100.0)


def test_kr83m():
    n = 10_000
    times = np.arange(n) * 1e6
    found, external = sources.deposits(rng(), sources.source("kr83m"), times, XAMS)
    assert len(external.time) == 0
    first, second = slice(0, None, 2), slice(1, None, 2)
    assert (found.energy[first] == 32.1).all()
    assert (found.energy[second] == 9.4).all()
    assert (found.kind[first] == sources.GAMMA).all()
    assert (found.kind[second] == sources.KR83M_SECOND).all()
    assert found.event.tolist() == np.repeat(np.arange(n), 2).tolist()
    assert (found.time[first] == times).all()
    assert (found.delay[first] == 0).all()
    np.testing.assert_array_equal(found.time[second], times + found.delay[second])
    # half of the second steps come within the half-life
    assert np.mean(found.delay[second] < 154.4) == pytest.approx(0.5, abs=0.02)
    assert follows(found.delay[second], "expon", 0, 154.4 / np.log(2))
    for axis in (found.x, found.y, found.z):
        np.testing.assert_array_equal(axis[first], axis[second])


def test_pairs_of_na22():
    detector = XAMS.with_values(external_acceptance=0.25, external_photopeak=0.7)
    n = 40_000
    found, external = deposits_of("na22", n, detector)
    assert (external.event >= 0).all()
    assert (np.diff(external.event) > 0).all()
    # 1.80 photons of 511 keV for one of 1275 keV
    assert len(external.event) / n == pytest.approx(0.25 * 1.80 / 2.80, rel=0.05)
    assert np.mean(external.energy == MASS) == pytest.approx(0.7, abs=0.02)
    scattered = external.energy[external.energy != MASS]
    assert scattered.max() <= compton_edge(MASS)
    # at once with the xenon's, which got the other photon of the pair
    np.testing.assert_array_equal(external.time, found.time[external.event])
    assert found.energy[external.event].max() == MASS
    assert found.energy.max() == 1274.5


def test_all_pairs_and_none():
    all_seen = XAMS.with_values(external_acceptance=1.0, external_photopeak=1.0)
    found, external = deposits_of("na22", 5000, all_seen)
    assert (external.energy == MASS).all()
    others = np.setdiff1d(np.arange(5000), external.event)
    assert not (found.energy[others] == MASS).any()
    for detector in (XAMS.with_values(external_acceptance=0.0), XAMSL):
        found, external = deposits_of("na22", 500, detector)
        assert len(found.energy) == 500
        assert len(external.event) == len(external.time) == len(external.energy) == 0


@pytest.mark.parametrize(("largest", "lowest"), [(1500.0, 30.0), (20.0, 20.0)])
def test_background_of_the_nai_detector(largest, lowest):
    detector = XAMS.with_values(external_rate=500.0, external_max_energy=largest)
    found = sources.external_background(rng(), detector, 1e9, 11e9)
    assert len(found.time) == pytest.approx(5000, abs=300)
    assert (found.event == -1).all()
    assert found.time.min() >= 1e9
    assert found.time.max() < 11e9
    assert found.energy.min() >= lowest
    assert found.energy.max() <= largest
    assert lowest == largest or follows(found.energy, "uniform", lowest, largest - lowest)


@PROPERTY
@given(st.sampled_from(XENON_SOURCES), st.integers(0, 20), st.integers(0, 2**32))
def test_deposits_of_every_source(name, n, seed):
    times = np.arange(n) * 1e6
    for detector in (XAMS, XAMSL):
        found, external = sources.deposits(rng(seed), sources.source(name), times, detector)
        assert {len(column) for column in found} == {2 * n if name == "kr83m" else n}
        assert (np.diff(found.event) >= 0).all()
        assert np.unique(found.event).tolist() == list(range(n))
        np.testing.assert_allclose(found.time, times[found.event] + found.delay, rtol=0, atol=1e-6)
        assert (found.energy > 0).all()
        assert (found.x**2 + found.y**2 <= detector.radius**2).all()
        assert ((found.z <= 0) & (found.z >= -detector.gate_cathode_distance)).all()
        alphas = found.kind == sources.ALPHA
        assert alphas.all() if name == "rn222" else not alphas.any()
        assert (external.energy > 0).all()
        # the same seed gives the same
        again, external_again = sources.deposits(rng(seed), sources.source(name), times, detector)
        for one, other in zip((*found, *external), (*again, *external_again), strict=True):
            np.testing.assert_array_equal(one, other)


def test_unknown_source():
    with pytest.raises(InvalidOption, match=r"no source 'kr83'; did you mean kr83m\?"):
        sources.source("kr83")


@pytest.mark.parametrize(
    "energy_range", [(0.0, 10.0), (-1.0, 5.0), (20.0, 10.0), (1.0, 1e5), (np.nan, 10.0)]
)
def test_impossible_range_of_energies(energy_range):
    with pytest.raises(InvalidOption, match="take 0 < lowest <= highest <= 10000") as error:
        sources.source("flat", energy_range)
    assert f"{energy_range[0]} to {energy_range[1]} keV" in str(error.value)


@pytest.mark.parametrize("name", ["kr83m", "cs137", "na22", "rn222", "led"])
def test_energies_of_its_own(name):
    with pytest.raises(InvalidOption, match=f"source {name} has fixed energies"):
        sources.source(name, (1.0, 2.0))
