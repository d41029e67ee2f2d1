"""Electrons: drift, lifetime, extraction and diffusion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from amstrax.processing import events
from amstrax.simulation import light as electrons
from amstrax.simulation.detector import XAMS, XAMSL

PROPERTY = settings(max_examples=50, deadline=None, database=None)


def rng(seed=1):
    return np.random.default_rng(seed)


def test_drift_times():
    z = np.array([0.0, -25.25, -50.5])
    assert electrons.drift_times(z, XAMS) == pytest.approx([5_000, 22_250, 39_500])
    assert electrons.drift_times(np.array([0.0, -100.0]), XAMSL) == pytest.approx([3_000, 66_000])
    assert electrons.drift_times(z[:0], XAMS).shape == (0,)


@PROPERTY
@given(
    st.lists(st.floats(0, 1), max_size=10),
    st.floats(1, 1000),
    st.floats(1_000, 10_000),
    st.floats(1_000, 1e6),
)
def test_drift_times_are_the_inverse_of_the_depth_of_events(depths, distance, gate, drift):
    detector = XAMS.with_values(
        gate_cathode_distance=distance, drift_time_gate=gate, drift_time_cathode=gate + drift
    )
    z = -distance * np.array(depths)
    times = electrons.drift_times(z, detector)
    found = events.depth(
        times, detector.gate_cathode_distance, detector.drift_time_gate, detector.drift_time_cathode
    )
    np.testing.assert_allclose(found, z, rtol=0, atol=1e-9 * distance)


def test_survival():
    detector = XAMS.with_values(electron_lifetime=20_000.0)
    times = np.array([0.0, 10_000.0, 20_000.0, 60_000.0])
    n = 1_000_000
    left = electrons.surviving(rng(), np.full(4, n), times, detector)
    assert left[0] == n
    assert left / n == pytest.approx(np.exp(-times / 20_000), abs=4 * 0.5 / np.sqrt(n))
    # each electron for itself: binomial
    many = electrons.surviving(rng(), np.full(20_000, 100), np.full(20_000, 20_000.0), detector)
    p = np.exp(-1)
    assert many.var() == pytest.approx(100 * p * (1 - p), rel=0.05)
    assert electrons.surviving(rng(), np.zeros(1, int), times[:1], detector).tolist() == [0]


def test_extraction():
    detector = XAMS.with_values(extraction_efficiency=0.7)
    out = electrons.extracted(rng(), np.full(20_000, 100), detector)
    assert out.mean() == pytest.approx(70, abs=0.15)
    assert out.var() == pytest.approx(21, rel=0.05)
    everything = XAMS.with_values(extraction_efficiency=1.0)
    assert electrons.extracted(rng(), np.array([5, 0]), everything).tolist() == [5, 0]


def test_arrival_spread():
    # D = 2.6e-6 mm2/ns: sqrt(2 D t) = 0.322 mm after 20 us, at 50.5 mm in 34.5 us
    spread = electrons.arrival_spread(np.array([0.0, 20_000.0, 80_000.0]), XAMS)
    assert spread[0] == 0
    assert spread[1] == pytest.approx(0.32249 / 50.5 * 34_500, rel=1e-4)
    assert spread[2] == pytest.approx(2 * spread[1])


def test_arrival_times(monkeypatch):
    n = 20_000
    drift = np.array([3_000.0, 30_000.0, 39_500.0])
    deposit = np.array([1e9, 2e9, 3e9])
    monkeypatch.setattr(electrons, "S2_BRIGHT", n)
    times, sizes, counts = electrons.arrival_times(rng(), deposit, drift, np.array([n, 0, n]), XAMS)
    assert times.shape == (2 * n,)
    assert (sizes == 1).all() and counts.tolist() == [n, 0, n]
    for own, i in ((times[:n], 0), (times[n:], 2)):
        spread = electrons.arrival_spread(drift[[i]], XAMS)[0]
        # the light, even over the gas, has its middle at the end of the drift time
        expected = deposit[i] + drift[i] - XAMS.gas_transit_time / 2
        assert own.mean() == pytest.approx(expected, abs=4 * spread / np.sqrt(n))
        assert own.std() == pytest.approx(spread, rel=0.03)
    # deeper is wider
    assert times[n:].std() > 3 * times[:n].std()
    none = XAMS.with_values(diffusion_longitudinal=0.0)
    exact, *_ = electrons.arrival_times(rng(), deposit, drift, np.array([1, 2, 0]), none)
    assert exact.tolist() == [1e9 + 2_000, 2e9 + 29_000, 2e9 + 29_000]


@pytest.mark.parametrize("drift", [5_000.0, 40_000.0])
def test_electrons_of_bright_clouds_in_bins_arrive_like_single_ones(drift, monkeypatch):
    """Moments of many clouds, and the numbers in a bin: binomial."""
    clouds, n = 400, 5_000
    arguments = np.zeros(clouds), np.full(clouds, drift), np.full(clouds, n), XAMS
    times, sizes, counts = electrons.arrival_times(rng(), *arguments)
    assert counts.sum() == len(times) < clouds * n / 5
    cloud = np.repeat(np.arange(clouds), counts)
    assert (np.bincount(cloud, sizes) == n).all()
    spread = electrons.arrival_spread(np.array([drift]), XAMS)[0]
    middle = drift - XAMS.gas_transit_time / 2
    mean = np.bincount(cloud, sizes * (times - middle)) / n
    assert mean.mean() == pytest.approx(0, abs=5 * spread / np.sqrt(clouds * n))
    assert mean.std() == pytest.approx(spread / np.sqrt(n), rel=0.15)
    within = np.average((times - middle) ** 2, weights=sizes)
    assert np.sqrt(within) == pytest.approx(spread, rel=0.003)
    first = -(int(12 * spread / electrons.S2_BIN) + 1) / 2 * electrons.S2_BIN
    for low, high in ((-6, -2), (-0.5, 0.5), (1, 6)):
        # Between bins
        low, high = (
            first + round((edge * spread - first) / electrons.S2_BIN) * electrons.S2_BIN
            for edge in (low, high)
        )
        inside = (times > middle + low) & (times <= middle + high)
        number = np.bincount(cloud[inside], sizes[inside], clouds)
        share = stats.norm.cdf(high / spread) - stats.norm.cdf(low / spread)
        assert number.mean() == pytest.approx(n * share, rel=0.05)
        assert number.var() == pytest.approx(n * share * (1 - share), rel=0.35)


def test_bright_clouds_without_diffusion_arrive_at_once():
    none = XAMS.with_values(diffusion_longitudinal=0.0)
    times, sizes, counts = electrons.arrival_times(
        rng(), np.zeros(2), np.full(2, 20_000.0), np.array([100_000, 0]), none
    )
    assert (times.tolist(), sizes.tolist(), counts.tolist()) == ([19_000], [100_000], [1, 0])


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0, 500)), max_size=3),
    st.integers(0, 60),
    st.integers(0, 2**32),
)
def test_arrivals_and_their_twin(rows, most, seed):
    numbers = np.array([row[0] for row in rows], dtype=np.int64)
    spread = np.array([row[1] for row in rows], dtype=float)
    arguments = np.zeros(len(rows)), spread, numbers, most
    compiled = electrons._arrivals(rng(seed), *arguments)
    plain = electrons._arrivals.py_func(rng(seed), *arguments)
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-9)
    times, sizes, counts = compiled
    assert len(times) == counts.sum()
    assert sizes.sum() == numbers.sum() and (sizes > 0).all()


def test_mean_positions():
    n = 20_000
    drift = np.full(n, 20_000.0)
    one = electrons.mean_positions(rng(), np.full(n, 7.0), drift, np.ones(n, int), XAMS)
    # sqrt(2 D t) with D = 5.5e-6 mm2/ns is 0.469 mm
    assert one.mean() == pytest.approx(7, abs=4 * 0.469 / np.sqrt(n))
    assert one.std() == pytest.approx(0.469, rel=0.03)
    hundred = electrons.mean_positions(rng(), np.full(n, 7.0), drift, np.full(n, 100), XAMS)
    assert hundred.std() == pytest.approx(0.0469, rel=0.03)
    # no electrons, no light: any finite place will do
    nothing = electrons.mean_positions(rng(), np.zeros(1), drift[:1], np.zeros(1, int), XAMS)
    assert np.isfinite(nothing).all()


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1e5)), max_size=10),
    st.floats(1, 1e9),
    st.integers(0, 2**32),
)
def test_electrons_only_get_fewer(rows, lifetime, seed):
    freed = np.array([row[0] for row in rows], dtype=np.int64)
    times = np.array([row[1] for row in rows], dtype=float)
    detector = XAMS.with_values(electron_lifetime=lifetime)
    left = electrons.surviving(rng(seed), freed, times, detector)
    out = electrons.extracted(rng(seed), left, detector)
    assert ((out >= 0) & (out <= left) & (left <= freed)).all()
    arrivals = electrons.arrival_times(rng(seed), np.zeros(len(rows)), times, out, detector)
    assert arrivals[1].sum() == out.sum()
    np.testing.assert_array_equal(left, electrons.surviving(rng(seed), freed, times, detector))
