"""Sources: when and where energy is deposited, and how much, in xenon and NaI detector."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from amstrax.exceptions import InvalidOption
from amstrax.simulation import photons, sources
from amstrax.simulation.detector import XAMS, XAMSL
from amstrax.simulation.sources import Interaction

PROPERTY = settings(max_examples=50, deadline=None, database=None)
MASS = 510.99895
#: 4 V / S, the mean way of an isotropic flux through XAMS [mm]
MEAN_CHORD = (
    2 * XAMS.radius * XAMS.gate_cathode_distance / (XAMS.radius + XAMS.gate_cathode_distance)
)
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
    ("name", "lines"),
    [
        ("am241", {59.54: 1.0}),
        ("co57", {122.06: 85.6, 136.47: 10.7}),
        ("rn222", {5489.5: 1.0, 6002.4: 1.0, 7686.8: 1.0}),
        ("cathode", {6002.4: 1.0, 7686.8: 1.0}),
        ("wall", {5304.3: 1.0}),
        ("cs137", {661.66: 1.0}),
    ],
)
def test_lines_and_their_proportions(name, lines):
    found = deposits_of(name, 10_000)[0]
    total = np.bincount(found.event, found.energy).round(6)
    whole = total[np.isin(total, list(lines))]
    # others are those of photons that left
    assert total.max() == max(lines)
    if name not in ("co57", "cs137", "am241"):
        assert len(whole) == len(total)
    for line, weight in lines.items():
        assert np.mean(whole == line) == pytest.approx(weight / sum(lines.values()), abs=0.02)


def test_flat_energies():
    assert follows(deposits_of("flat", 5000)[0].energy, "uniform", 1, 99)
    narrow = sources.source("flat", (30.0, 40.0))
    found, _ = sources.deposits(rng(), narrow, np.zeros(5000), XAMS)
    assert follows(found.energy, "uniform", 30, 10)
    one, _ = sources.deposits(rng(), sources.source("flat", (5.0, 5.0)), np.zeros(3), XAMS)
    assert one.energy.tolist() == [5, 5, 5]
    assert sources.SOURCES["flat"].model.spectrum == sources.Flat(1.0, 100.0)
    recoils, _ = sources.deposits(rng(), sources.source("nr", (5.0, 9.0)), np.zeros(500), XAMS)
    assert follows(recoils.energy, "uniform", 5, 4)
    assert (recoils.kind == Interaction.NUCLEAR_RECOIL).all()


def test_kr83m():
    n = 10_000
    times = np.arange(n) * 1e6
    found, external = sources.deposits(rng(), sources.source("kr83m"), times, XAMS)
    assert len(external.time) == 0
    first, second = slice(0, None, 2), slice(1, None, 2)
    assert (found.energy[first] == 32.1).all()
    assert (found.energy[second] == 9.4).all()
    assert (found.kind[first] == Interaction.KR83M_FIRST).all()
    assert (found.kind[second] == Interaction.KR83M_SECOND).all()
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
    n = 20_000
    found, external = deposits_of("na22", n, detector)
    assert (external.event >= 0).all()
    assert (np.diff(external.event) > 0).all()
    # 1.80 photons of 511 keV for one of 1275 keV, which passes more often
    atoms = XAMS.xenon_density * photons.ATOMS_AT_UNIT_DENSITY
    at_511, at_1275 = (
        1 - np.exp(-sum(photons.cross_sections(line)) * atoms * MEAN_CHORD)
        for line in (MASS, 1274.5)
    )
    share = 1.80 * at_511 / (1.80 * at_511 + at_1275)
    assert len(external.event) / n == pytest.approx(0.25 * share, rel=0.05)
    assert np.mean(external.energy == MASS) == pytest.approx(0.7, abs=0.02)
    scattered = external.energy[external.energy != MASS]
    assert scattered.max() <= compton_edge(MASS)
    # at once with the xenon's, which got the other photon of the pair
    total = np.bincount(found.event, found.energy)
    first = np.flatnonzero(np.diff(found.event, prepend=-1))
    np.testing.assert_array_equal(external.time, found.time[first][external.event])
    assert total[external.event].max() == pytest.approx(MASS)
    assert total.max() == pytest.approx(1274.5)


def test_all_pairs_and_none():
    all_seen = XAMS.with_values(external_acceptance=1.0, external_photopeak=1.0)
    found, external = deposits_of("na22", 5000, all_seen)
    assert (external.energy == MASS).all()
    total = np.bincount(found.event, found.energy)
    others = np.setdiff1d(np.arange(5000), external.event)
    assert not np.isclose(total[others], MASS).any()
    for detector in (XAMS.with_values(external_acceptance=0.0), XAMSL):
        found, external = deposits_of("na22", 500, detector)
        assert np.unique(found.event).tolist() == list(range(500))
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
    end = n * 1e6
    for detector in (XAMS, XAMSL):
        found, external = sources.deposits(rng(seed), sources.source(name), times, detector, end)
        assert len({len(column) for column in found}) == 1
        assert (np.diff(found.event) >= 0).all()
        events = np.unique(found.event)
        assert events.tolist() == list(range(len(events)))
        first = found.time[np.searchsorted(found.event, events)]
        assert (np.diff(first) >= 0).all()
        assert (found.time <= end).all() or name == "kr83m"
        if name == "bipo":
            assert len(events) == 2 * n
        elif name != "rn_chain":
            assert first.tolist() == times.tolist()
        np.testing.assert_allclose(found.time, first[found.event] + found.delay, rtol=0, atol=1e-6)
        assert (found.energy > 0).all()
        assert (found.x**2 + found.y**2 <= detector.radius**2).all()
        depth = detector.gate_cathode_distance
        assert (found.z >= -depth - (name == "below_cathode") * detector.below_cathode).all()
        assert (found.z <= (detector.surface if name == "gas" else 0)).all()
        assert ((found.charge >= 0) & (found.charge <= 1)).all()
        assert (external.energy > 0).all()
        # the same seed gives the same
        again = sources.deposits(rng(seed), sources.source(name), times, detector, end)
        for one, other in zip((*found, *external), (*again[0], *again[1]), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "z", "charge", "kind"),
    [
        ("wall", (-50.5, 0.0), 0.3, Interaction.ALPHA),
        ("cathode", (-50.5, -50.5), 0.5, Interaction.ALPHA),
        ("below_cathode", (-55.5, -50.5), 0.0, Interaction.BETA),
        ("gas", (5.855, 5.856), 1.0, Interaction.GAS),
        ("rn222", (-50.5, 0.0), 1.0, Interaction.ALPHA),
    ],
)
def test_places(name, z, charge, kind):
    found = deposits_of(name)[0]
    assert ((found.z >= z[0]) & (found.z <= z[1])).all()
    assert np.ptp(found.z) >= 0.9 * (z[1] - z[0]) - 0.01
    assert (found.charge == charge).all()
    assert (found.kind == kind).all()
    if name == "wall":
        np.testing.assert_allclose(np.hypot(found.x, found.y), XAMS.radius)
    else:
        assert follows((found.x**2 + found.y**2) / XAMS.radius**2, "uniform")


def test_light_of_gas_events_starts_at_once():
    # half of the time in the gas is the middle of the S2's light
    to_middle = XAMS.drift_time_gate - XAMS.surface / XAMS.drift_velocity
    assert to_middle == pytest.approx(XAMS.gas_transit_time / 2)


def test_photons_from_outside():
    soft = sources.source("cs137").model._replace(lines=sources.Lines((59.54,)))
    found = soft.deposits(rng(), np.arange(3000) * 1e6, XAMS, np.inf)[0]
    depth_in_wall = np.minimum(
        XAMS.radius - np.hypot(found.x, found.y),
        np.minimum(-found.z, XAMS.gate_cathode_distance + found.z),
    )
    # 59.5 keV goes 0.45 mm, and less deep as lines are tilted
    assert np.median(depth_in_wall) < 0.3
    position = sources.source("am241", position=(60.0, 0.0, -25.0))
    there, _ = sources.deposits(rng(), position, np.arange(1000) * 1e6, XAMS)
    assert (there.x > 0).mean() > 0.99


def test_multiplicities_of_photons():
    # am241 is in the liquid: no place is preferred, but for what leaves near the wall
    inside = deposits_of("am241", 3000)[0]
    assert follows(inside.z, "uniform", -50.5, 50.5)
    # Of 662 keV, about 60 % are first scattered; a small TPC lets most of them go
    found = deposits_of("cs137", 5000)[0]
    n = np.bincount(found.event)
    assert n.min() == 1
    assert 1.5 < n.mean() < 1.9
    total = np.bincount(found.event, found.energy)
    peak = np.isclose(total, 661.66)
    assert (n[peak] > 1).mean() > 0.6
    # with one scattering only, nothing is between edge and peak
    single, _ = sources.deposits(
        rng(), sources.source("cs137"), np.zeros(5000), XAMS.with_values(multiple_scatters=False)
    )
    between = (single.energy > 480) & (single.energy < 660)
    assert not between.any()
    assert ((total > 480) & (total < 660)).any()


def test_beta_decays():
    energy = deposits_of("tritium", 20_000)[0].energy
    assert energy.max() < 18.59
    # the mean energy of tritium is 5.7 keV (ENSDF: 5.68)
    assert energy.mean() == pytest.approx(5.7, abs=0.1)
    grid = np.linspace(0, 18.59, 2000)[1:-1]
    density = sources.beta_density(grid, 18.59, 2)
    cumulative = integrate.cumulative_trapezoid(density, grid, initial=0)
    assert follows(energy, lambda e: np.interp(e, grid, cumulative / cumulative[-1]))
    # branches: none above the endpoint, and the intensities add up
    lead = sources.Betas((100.0, 1000.0), 83, (3.0, 1.0)).draw(rng(), 20_000)
    assert lead.max() < 1000
    above = sources.Betas((1000.0,), 83).draw(rng(2), 20_000) > 100
    assert np.mean(lead > 100) == pytest.approx(0.25 * above.mean(), abs=0.01)


def test_bipo():
    n = 5000
    found, _ = sources.deposits(rng(), sources.source("bipo"), np.arange(n) * 1e7, XAMS, n * 1e7)
    alpha = found.kind == Interaction.ALPHA
    assert alpha.sum() == n
    assert (found.energy[alpha] == 7686.8).all()
    assert found.energy[~alpha].max() < 3272
    # pairs by their place, since the next pair may begin before the alpha
    pair = {x: i for i, x in enumerate(found.x[~alpha])}
    of_alpha = np.array([pair[x] for x in found.x[alpha]])
    delay = found.time[alpha] - found.time[~alpha][of_alpha]
    assert follows(delay, "expon", 0, 164_300 / np.log(2))
    assert np.mean(delay < 164_300) == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(found.z[alpha], found.z[~alpha][of_alpha])


def test_pairs_at_the_end_stay_before_it():
    found, _ = sources.deposits(rng(), sources.source("bipo"), np.full(200, 1e9), XAMS, 1e9)
    assert found.time.max() <= 1e9
    assert len(found.time) == 400


def test_pairs_do_not_begin_before_the_run():
    """A run of 0.5 ms is not much longer than the half-life of 164 us."""
    times = np.sort(rng().uniform(1e5, 3e5, 500))
    found, _ = sources.deposits(rng(2), sources.source("bipo"), times, XAMS, 3e5)
    assert found.time.min() == times[0]
    assert found.time.max() <= 3e5
    assert len(found.time) == 1000
    assert (found.kind[:1] == Interaction.BETA).all()
    empty, _ = sources.deposits(rng(), sources.source("bipo"), times[:0], XAMS, 3e5)
    assert not len(empty.time)


def test_rn_chain_is_in_equilibrium():
    n = 20_000
    found, _ = deposits_of("rn_chain", n)
    counts = [np.sum(found.energy == line) for line in (5489.5, 6002.4, 7686.8)]
    np.testing.assert_allclose(counts, n / 4, rtol=0.06)
    # a beta of lead, and one of bismuth
    assert np.sum(found.kind == Interaction.BETA) == pytest.approx(n / 2, rel=0.04)


def test_merged_sources():
    one, pairs = deposits_of("na22", 300)
    other, _ = deposits_of("kr83m", 300, seed=2)
    other = other._replace(time=other.time + 500)
    found, external = sources.merge((one, pairs), (other, sources.External.none()))
    assert np.unique(found.event).tolist() == list(range(600))
    first = found.time[np.searchsorted(found.event, np.arange(600))]
    assert (np.diff(first) > 0).all()
    assert found.energy.sum() == pytest.approx(one.energy.sum() + other.energy.sum())
    # every second event is of krypton, with its two deposits
    assert (np.bincount(found.event)[1::2] == 2).all()
    np.testing.assert_array_equal(first[external.event], pairs.time)


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


@pytest.mark.parametrize("position", [(1.0, 2.0), (np.nan, 0.0, 0.0), (1e9, 0.0, 0.0)])
def test_impossible_position(position):
    with pytest.raises(InvalidOption, match="give x, y, z in mm"):
        sources.source("cs137", position=position)


@pytest.mark.parametrize("name", ["kr83m", "flat", "rn222", "led"])
def test_sources_within_the_xenon_have_no_position(name):
    with pytest.raises(InvalidOption, match=f"source {name} is not outside of the xenon"):
        sources.source(name, position=(60.0, 0.0, 0.0))


@pytest.mark.parametrize("name", ["kr83m", "cs137", "na22", "rn222", "tritium", "led"])
def test_energies_of_its_own(name):
    with pytest.raises(InvalidOption, match=f"source {name} has fixed energies"):
        sources.source(name, (1.0, 2.0))
