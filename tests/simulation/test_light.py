"""Light: photoelectrons of S1s and S2s, where and when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from amstrax.simulation import light
from amstrax.simulation.detector import XAMS, XAMSL
from amstrax.simulation.optics import InverseOfReconstruction as Inverse
from amstrax.simulation.sources import Deposits, Interaction

PROPERTY = settings(max_examples=50, deadline=None, database=None)


def rng(seed=1):
    return np.random.default_rng(seed)


def make_deposits(n=1, x=0.0, y=0.0, z=0.0, time=1e9, kind=Interaction.BETA):
    columns = (np.full(n, value, dtype=float) for value in (x, y, z))
    energy, zero, one = np.full(n, 10.0), np.zeros(n), np.ones(n)
    kinds = np.full(n, kind, dtype=np.int8)
    return Deposits(np.arange(n), np.full(n, time), energy, kinds, zero, *columns, one)


def per_channel(found, detector):
    return np.array([found.n_pe[found.channel == c].sum() for c in detector.channels])


@pytest.mark.parametrize("double", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("detector", [XAMS, XAMSL])
def test_photoelectrons_of_s1s(detector, double):
    # g1 counts photoelectrons, both of a photon that gives two
    detector = detector.with_values(dpe_probability=double)
    n, photons = 400, 1000
    deposits = make_deposits(n, x=10.0, y=-5.0, z=-30.0)
    found = light.s1_photoelectrons(
        rng(), deposits, np.full(n, photons), Inverse(detector), detector
    )
    where = (np.array([value]) for value in (10.0, -5.0, -30.0))
    expected = n * photons * Inverse(detector).s1(*where)[0]
    counts = per_channel(found, detector)[: len(detector.tpc_channels)]
    assert (abs(counts - expected) < 5 * np.sqrt((1 + double) * expected)).all()
    in_pmts = found.n_pe[np.isin(found.channel, detector.tpc_channels)]
    assert np.mean(in_pmts == 2) == pytest.approx(double, abs=0.02)
    assert set(in_pmts) <= {1, 2}
    assert np.unique(found.deposit).tolist() == list(range(n))
    assert (found.origin == light.Origin.S1).all()
    assert found.time.min() >= 1e9


def test_sipm_sees_a_share_of_the_photons():
    detector = XAMS.with_values(sipm_share=0.05, dpe_probability=0.5, g1=0.12)
    n, photons = 200, 5000
    found = light.s1_photoelectrons(
        rng(), make_deposits(n, z=-25.25), np.full(n, photons), Inverse(detector), detector
    )
    in_sipm = found.n_pe[found.channel == detector.sipm_channel]
    assert (in_sipm == 1).all()  # no double photoelectrons there
    assert len(in_sipm) == pytest.approx(n * photons * 0.12 / 1.5 * 0.05, abs=5 * 63)
    assert (
        light.doubled(rng(), np.array([0, 6, 4, 6]), XAMS.with_values(dpe_probability=1.0))
        == [1, 0, 1, 0]
    ).all()


def test_no_photons_no_s1():
    none = light.s1_photoelectrons(rng(), make_deposits(2), np.zeros(2, int), Inverse(XAMS), XAMS)
    assert [len(column) for column in none] == [0] * 5
    no_deposits = light.s1_photoelectrons(
        rng(), make_deposits(0), np.zeros(0, int), Inverse(XAMS), XAMS
    )
    assert [len(column) for column in no_deposits] == [0] * 5


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        (Interaction.BETA, 0.05 / 1.05),
        (Interaction.PHOTOABSORPTION, 0.05 / 1.05),
        (Interaction.ALPHA, 0.45 / 1.45),
        (Interaction.NUCLEAR_RECOIL, 0.26 / 1.26),
    ],
)
def test_scintillation_times(kind, share):
    times = light.scintillation_times(rng(), np.full(40_000, kind), XAMS)
    cdf = stats.expon.cdf
    assert (
        stats.kstest(
            times, lambda t: share * cdf(t, scale=2.2) + (1 - share) * cdf(t, scale=27.0)
        ).pvalue
        > 1e-3
    )
    assert times.mean() == pytest.approx(share * 2.2 + (1 - share) * 27, rel=0.02)


def s2(arrivals, electrons, detector, seed=1, x=None, y=None):
    n = len(electrons)
    zero = np.zeros(n)
    return light.s2_photoelectrons(
        rng(seed),
        (
            np.asarray(arrivals, dtype=float),
            np.ones(len(arrivals), dtype=np.int64),
            np.asarray(electrons, dtype=np.int64),
        ),
        np.arange(n),
        zero if x is None else x,
        zero if y is None else y,
        Inverse(detector),
        detector,
    )


@pytest.mark.parametrize("double", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("detector", [XAMS, XAMSL])
def test_photoelectrons_of_s2s(detector, double):
    detector = detector.with_values(dpe_probability=double, se_gain=12.0, se_gain_spread=0.0)
    n, electrons = 400, 50
    arrivals = 1e9 + np.sort(rng().normal(0, 500, n * electrons))
    x, y = np.full(n, 12.0), np.full(n, 3.0)
    found = s2(arrivals, [electrons] * n, detector, x=x, y=y)
    expected = 12.0 * n * electrons * Inverse(detector).s2(x[:1], y[:1])[0]
    counts = per_channel(found, detector)
    pmts = counts[: len(detector.tpc_channels)]
    assert (abs(pmts - expected) < 5 * np.sqrt((1 + double) * expected)).all()
    # doubles scatter more: the variance is (1 + 3 p) / (1 + p) times a Poisson's
    in_pmts = np.isin(found.channel, detector.tpc_channels)
    per_event = np.bincount(found.deposit, found.n_pe * in_pmts)
    factor = (1 + 3 * double) / (1 + double)
    assert per_event.var() == pytest.approx(12 * electrons * factor, rel=0.3)
    if detector.sipm_channel is not None:
        photons = 12.0 / (1 + double) * n * electrons * detector.sipm_share
        sipm = counts[detector.channels.index(detector.sipm_channel)]
        assert abs(sipm - photons) < 5 * np.sqrt(photons)


def test_light_of_an_s2_is_even_while_electrons_cross_the_gas():
    detector = XAMS.with_values(se_gain=20_000.0, se_gain_spread=0.0)
    found = s2([1e6 + 3.3], [1], detector)
    times = np.repeat(found.time, found.n_pe)
    assert times.min() >= 1e6 + 3.3
    assert times.max() <= 1e6 + 3.3 + 2_000 + light.S2_BIN
    assert times.mean() == pytest.approx(1e6 + 1003.3, abs=5 * 2000 / np.sqrt(12 * len(times)) + 1)
    # photons of a bin come together, so bins are what can be compared
    counts = np.histogram(times, bins=np.arange(200) * 10.0 + 1e6 + 3.3)[0]
    assert counts.std() / counts.mean() < 2 / np.sqrt(counts.mean())


@PROPERTY
@given(
    st.lists(st.lists(st.floats(0, 5000), min_size=0, max_size=5), min_size=0, max_size=4),
    st.floats(10, 5000),
    st.integers(0, 2**32),
)
def test_light_of_s2s_lies_within_the_gas(arrivals, transit, seed):
    detector = XAMS.with_values(gas_transit_time=transit, se_gain=50.0)
    electrons = np.array([len(own) for own in arrivals], dtype=np.int64)
    flat = np.array([t for own in arrivals for t in own], dtype=float) + 1e6
    found = s2(flat, electrons, detector, seed)
    first = np.cumsum(electrons) - electrons
    for i, own in enumerate(arrivals):
        times = found.time[found.deposit == i]
        if not own:
            assert len(times) == 0
            continue
        starts = flat[first[i] : first[i] + len(own)]
        # in some electron's crossing, as far as bins tell
        during = (times[:, np.newaxis] >= starts - light.S2_BIN) & (
            times[:, np.newaxis] <= starts + transit + light.S2_BIN
        )
        assert during.any(axis=1).all()
        assert (times >= starts.min()).all()
    assert set(found.channel) <= {*XAMS.tpc_channels, XAMS.sipm_channel}
    assert (found.n_pe >= 1).all()


def test_mean_time_of_s2s():
    n = 300
    arrivals = rng(3).normal(5e4, 700.0, n)
    found = s2(arrivals, [n], XAMS.with_values(se_gain=300.0))
    mean = np.average(found.time, weights=found.n_pe)
    assert mean == pytest.approx(arrivals.mean() + 1_000, abs=5 * 910 / np.sqrt(300 * n))


@PROPERTY
@given(
    st.lists(st.lists(st.floats(0, 1000), max_size=4), max_size=3),
    st.floats(5, 1000),
    st.floats(0, 40),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_electroluminescence_and_its_twin(arrivals, transit, photons, n_channels, seed):
    ends = np.cumsum([len(own) for own in arrivals], dtype=np.int64)
    starts = ends - np.array([len(own) for own in arrivals], dtype=np.int64)
    flat = np.array([t for own in arrivals for t in own], dtype=float)
    per = np.full((len(arrivals), n_channels), photons)
    gains = rng(seed).gamma(5.0, 0.2, len(flat))
    arguments = flat, gains, starts, ends, per, transit, np.array([0.2, 0.0, 1.0])
    compiled = light._electroluminescence(rng(seed), *arguments)
    plain = light._electroluminescence.py_func(rng(seed), *arguments)
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_comes_without_electrons():
    for electrons in ([], [0, 0]):
        assert [len(column) for column in s2([], electrons, XAMS)] == [0] * 5


def test_events_of_light_are_those_of_the_deposits():
    deposits = make_deposits(3)._replace(event=np.array([4, 4, 5]))
    some = light.Light.of(light.Origin.AFTERPULSE, np.zeros(4), np.zeros(4), [2, -1, 1, 0])
    assert some.event(deposits).tolist() == [5, -1, 4, 4]
    none = make_deposits(0)
    assert light.Light.of(light.Origin.S1, *np.zeros((2, 0))).event(none).tolist() == []


def test_join():
    one = s2([1e6], [1], XAMS)
    nothing = light.Light.of(light.Origin.S1, *np.zeros((2, 0)))
    both = light.join(nothing, one, nothing, one)
    for column, part in zip(both, one, strict=True):
        assert column.tolist() == 2 * part.tolist()
        assert column.dtype == part.dtype


def test_bright_s1s_in_bins_are_the_same_light(monkeypatch):
    deposits = make_deposits(3, kind=Interaction.ALPHA)
    photons = np.array([200_000, 50, 300_000])
    binned, single = [], []
    for least, parts in ((light.S1_BRIGHT, binned), (10**9, single)):
        monkeypatch.setattr(light, "S1_BRIGHT", least)
        parts.append(light.s1_photoelectrons(rng(), deposits, photons, Inverse(XAMS), XAMS))
    (one,), (other,) = binned, single
    assert len(one.time) < len(other.time) / 10
    # What is not bright is drawn in the same way
    assert (one.deposit == 1).sum() == (other.deposit == 1).sum()
    for deposit in (0, 2):
        a, b = (
            part._replace(
                **{name: c[part.deposit == deposit] for name, c in part._asdict().items()}
            )
            for part in (one, other)
        )
        counts = np.array([per_channel(part, XAMS) for part in (a, b)])
        # The same photons, but for second photoelectrons
        assert (abs(counts[0] - counts[1]) < 5 * np.sqrt(0.3 * counts.mean(axis=0)) + 1).all()
        for q in (0.1, 0.5, 0.9):
            times = [np.quantile(np.repeat(p.time, p.n_pe), q) for p in (a, b)]
            assert abs(times[0] - times[1]) <= light.S1_BIN + 1
    assert (one.n_pe > 0).all()


@pytest.mark.parametrize("kind", [Interaction.ALPHA, Interaction.BETA])
def test_bright_s1s_have_the_statistics_of_single_photons(kind):
    """Photoelectrons and mean times of many S1s, and their variances."""
    n, photons = 600, 30_000
    detector = XAMS.with_values(dpe_probability=0.3)
    patterns = Inverse(detector)
    found = light.s1_photoelectrons(
        rng(), make_deposits(n, kind=kind), np.full(n, photons), patterns, detector
    )
    assert len(found.time) < n * photons * detector.g1 / 4
    pmt = np.isin(found.channel, detector.tpc_channels)
    area = np.bincount(found.deposit, found.n_pe * pmt, n)
    deposits = make_deposits(n, kind=kind)
    share = patterns.s1(deposits.x, deposits.y, deposits.z)[0].sum() / 1.3
    mean = photons * share * 1.3
    variance = photons * (share * (1 + 3 * 0.3) - (share * 1.3) ** 2)
    assert area.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / n))
    assert area.var() == pytest.approx(variance, rel=0.25)
    delay = found.time - deposits.time[found.deposit]
    delays = np.bincount(found.deposit, found.n_pe * delay) / np.bincount(found.deposit, found.n_pe)
    singlets = light.singlet_shares(np.array([kind]), detector)[0]
    mean = singlets * 2.2 + (1 - singlets) * 27
    variance = singlets * 2 * 2.2**2 + (1 - singlets) * 2 * 27**2 - mean**2
    # of photons, which are doubled with the probability 0.3
    variance *= 1.9 / 1.3 / (photons * share * 1.3)
    assert delays.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / n) + 0.02)
    assert delays.var() == pytest.approx(variance, rel=0.25)


@PROPERTY
@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=4),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.integers(0, 2**32),
)
def test_scintillation_bins_and_their_twin(photons, share, doubling, seed):
    counts = np.array([photons, photons])
    doubled = np.full(len(photons), doubling)
    arguments = np.array([1]), counts, np.full(2, share), 2.2, 27.0, doubled
    compiled = light._scintillation_bins(rng(seed), *arguments)
    plain = light._scintillation_bins.py_func(rng(seed), *arguments)
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    _, column, n_pe, deposit = compiled
    if doubling in (0, 1):
        per = np.bincount(column, n_pe, len(photons))
        assert (per == (1 + doubling) * np.array(photons)).all()
    assert (deposit == 1).all()
