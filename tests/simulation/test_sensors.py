"""Sensors: charges of photoelectrons, after-pulses, dark counts, the NaI detector, pulse shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from amstrax.simulation import sensors
from amstrax.simulation.detector import XAMS, XAMSL
from amstrax.simulation.light import Light, Origin, join
from amstrax.simulation.sources import External

PROPERTY = settings(max_examples=50, deadline=None, database=None)


def rng(seed=1):
    return np.random.default_rng(seed)


def make_light(n_pe, channel=0, time=1e9, deposit=0):
    n_pe = np.asarray(n_pe, dtype=np.int64)
    n = len(n_pe)
    channel = np.broadcast_to(np.asarray(channel, dtype=np.int16), n)
    origin = np.full(n, Origin.S2, dtype=np.int8)
    return Light(np.full(n, time), channel, n_pe, np.full(n, deposit, dtype=np.int64), origin)


def test_dark_counts():
    detector = XAMS.with_values(dark_rate=50.0, sipm_dark_rate=400.0)
    found = sensors.dark_counts(rng(), detector, 1e9, 21e9)
    for channel in range(8):
        rate = {5: 0, 6: 400, 7: 0}.get(
            channel, 50
        )  # the NaI detector, channel 5, has a background
        times = found.time[found.channel == channel]
        assert len(times) == pytest.approx(20 * rate, abs=5 * np.sqrt(20 * rate))
        assert not rate or stats.kstest(times, "uniform", (1e9, 20e9)).pvalue > 1e-3
    assert (found.n_pe == 1).all()
    assert (found.deposit == -1).all() and (found.origin == Origin.DARK_COUNT).all()
    dark = XAMSL.with_values(dark_rate=0.0)
    assert len(sensors.dark_counts(rng(), dark, 0, 1e12).time) == 0


def test_afterpulses():
    delays = ((400.0, 30.0, 3.0), (2_000.0, 100.0, 1.0))
    detector = XAMS.with_values(afterpulse_probability=0.1, afterpulse_delays=delays)
    # 3000 photoelectrons each: an entry of many has as many after-pulses as many entries
    light = Light(
        *(
            np.concatenate(columns)
            for columns in zip(
                make_light([1] * 30_000, channel=2, time=1e9, deposit=7),
                make_light([30_000], channel=3, time=2e9, deposit=-1),
                make_light([30_000], channel=6, time=3e9),  # the SiPM has none
                strict=True,
            )
        )
    )
    found = sensors.afterpulses(rng(), light, detector)
    assert set(found.channel) == {2, 3}
    assert (found.n_pe == 1).all()
    assert (found.origin == Origin.AFTERPULSE).all()
    np.testing.assert_array_equal(found.deposit, np.where(found.channel == 2, 7, -1))
    for channel, start in ((2, 1e9), (3, 2e9)):
        delay = found.time[found.channel == channel] - start
        assert len(delay) == pytest.approx(3_000, abs=5 * 55)
        early = delay < 1_000
        assert early.mean() == pytest.approx(0.75, abs=0.04)
        assert delay[early].mean() == pytest.approx(400, abs=4)
        assert delay[early].std() == pytest.approx(30, rel=0.1)
        assert delay[~early].mean() == pytest.approx(2_000, abs=20)
        assert delay[~early].std() == pytest.approx(100, rel=0.15)


def test_afterpulses_come_after():
    detector = XAMS.with_values(afterpulse_probability=1.0, afterpulse_delays=((10.0, 500.0, 1.0),))
    found = sensors.afterpulses(rng(), make_light([500]), detector)
    assert len(found.time) == 500
    assert found.time.min() == 1e9


def test_no_afterpulses():
    never = XAMS.with_values(afterpulse_probability=0.0)
    always = XAMS.with_values(afterpulse_probability=1.0)
    assert len(sensors.afterpulses(rng(), make_light([1000]), never).time) == 0
    assert len(sensors.afterpulses(rng(), Light.of(Origin.S1, *np.zeros((2, 0))), always).time) == 0
    assert len(sensors.afterpulses(rng(), make_light([1000], channel=6), always).time) == 0


SPECTRA = [
    {},
    {"photoelectron_small": 0.0, "photoelectron_spread": 0.3},
    {"photoelectron_small": 1.0, "photoelectron_small_size": 0.5},
    {"photoelectron_small": 0.3, "photoelectron_spread": 0.9},
    {"photoelectron_spread": 0.0},
]


@pytest.mark.parametrize("values", SPECTRA)
def test_photoelectron_moments(values):
    detector = XAMS.with_values(**values)
    small, size = detector.photoelectron_small, detector.photoelectron_small_size
    spread = detector.photoelectron_spread
    share = 1 - small

    def moment(power):
        exponential = integrate.quad(
            lambda q: q**power * stats.expon.pdf(q, scale=size), 0, 50 * size
        )[0]
        if spread == 0:
            return small * exponential + share
        full = integrate.quad(
            lambda q: q**power * stats.norm.pdf(q, 1, spread), 0, 1 + 12 * spread
        )[0]
        full /= stats.norm.cdf(1 / spread)
        return small * exponential + share * full

    mean, relative = sensors.photoelectron_moments(detector)
    assert mean == pytest.approx(moment(1))
    assert relative == pytest.approx(np.sqrt(moment(2) - moment(1) ** 2) / moment(1))


def test_moments_of_simple_spectra():
    gauss = XAMS.with_values(photoelectron_small=0.0, photoelectron_spread=0.2)
    assert sensors.photoelectron_moments(gauss) == pytest.approx((1, 0.2), abs=1e-5)
    exponential = XAMS.with_values(photoelectron_small=1.0, photoelectron_small_size=0.4)
    assert sensors.photoelectron_moments(exponential) == pytest.approx((0.4, 1))
    # half at 1, half exponential of mean 1: variance 1/2
    both = XAMS.with_values(
        photoelectron_small=0.5, photoelectron_small_size=1.0, photoelectron_spread=0.0
    )
    assert sensors.photoelectron_moments(both) == pytest.approx((1, np.sqrt(0.5)))


@pytest.mark.parametrize("values", SPECTRA)
@pytest.mark.parametrize("n_pe", [1, 5, 20, 21, 100])
def test_charges_have_mean_1_and_the_spread_of_the_spectrum(n_pe, values):
    detector = XAMS.with_values(**values)
    n = 20_000
    found = sensors.charges(rng(), make_light([n_pe] * n, channel=1), detector)
    _, spread = sensors.photoelectron_moments(detector)
    expected = spread * np.sqrt(n_pe)
    assert found.charge.mean() == pytest.approx(n_pe, abs=4.5 * expected / np.sqrt(n) + 1e-9)
    assert found.charge.std() == pytest.approx(expected, rel=0.05)
    assert found.charge.min() >= 0


def test_time_and_channel_of_charges():
    detector = XAMS.with_values(transit_time_spread=3.0)
    light = make_light([1] * 20_000, channel=[0, 6] * 10_000)
    found = sensors.charges(rng(), light, detector)
    np.testing.assert_array_equal(found.channel, light.channel)
    for channel in (0, 6):
        shift = found.time[found.channel == channel] - 1e9
        assert shift.mean() == pytest.approx(0, abs=0.15)
        assert shift.std() == pytest.approx(3, rel=0.05)
    exact = sensors.charges(rng(), light, XAMS.with_values(transit_time_spread=0.0))
    assert (exact.time == 1e9).all()
    assert (light.n_pe == 1).all()  # as it was handed over


@pytest.mark.parametrize("crosstalk", [0.0, 0.15, 0.5])
@pytest.mark.parametrize("n_pe", [1, 10])
def test_crosstalk_leaves_the_mean(n_pe, crosstalk):
    detector = XAMS.with_values(sipm_crosstalk=crosstalk, sipm_spread=0.0)
    n = 40_000
    found = sensors.charges(rng(), make_light([n_pe] * n, channel=6), detector)
    # n + geometric series: the variance of the number of cells is n p / (1 - p)^2
    variance = n_pe * crosstalk
    assert found.charge.mean() == pytest.approx(n_pe, abs=4.5 * np.sqrt(variance / n) + 1e-9)
    assert found.charge.var() == pytest.approx(variance, rel=0.1, abs=1e-9)
    cells = found.charge / (1 - crosstalk)
    np.testing.assert_allclose(cells, np.rint(cells), atol=1e-9)
    assert cells.min() >= n_pe - 1e-9
    # no other avalanche has been started
    assert np.mean(np.rint(cells) == n_pe) == pytest.approx((1 - crosstalk) ** n_pe, abs=0.015)


def test_spread_of_cells():
    detector = XAMS.with_values(sipm_crosstalk=0.0, sipm_spread=0.1)
    found = sensors.charges(rng(), make_light([4] * 20_000, channel=6), detector)
    assert found.charge.std() == pytest.approx(0.2, rel=0.05)


def test_no_light_no_charges():
    for detector in (XAMS, XAMSL):
        found = sensors.charges(rng(), Light.of(Origin.S1, *np.zeros((2, 0))), detector)
        assert [len(column) for column in found] == [0, 0, 0]


@PROPERTY
@given(
    st.lists(st.integers(0, 60), max_size=15),
    st.floats(0, 1),
    st.floats(0.1, 2),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_sum_of_charges_and_its_twin(counts, small, small_size, spread, seed):
    one, other = rng(seed), rng(seed)
    for count in counts:
        arguments = count, small, small_size, 1.0, spread, 0.5
        compiled = sensors._sum_of_charges(one, *arguments)
        assert compiled == sensors._sum_of_charges.py_func(other, *arguments)
        assert compiled == 0 if count == 0 else compiled >= 0


def external(energies, time=1e9):
    energies = np.asarray(energies, dtype=float)
    n = len(energies)
    return External(np.arange(n), np.full(n, time), energies)


def test_nai_detector():
    detector = XAMS.with_values(external_resolution=0.04, external_delay=55.0)
    n = 20_000
    for energy, spread in ((511.0, 0.04 * 511), (127.75, 0.02 * 511)):
        signals, measured = sensors.external_signals(rng(), external([energy] * n), detector)
        assert measured.mean() == pytest.approx(energy, abs=4.5 * spread / np.sqrt(n))
        assert measured.std() == pytest.approx(spread, rel=0.05)
        np.testing.assert_array_equal(signals.charge, measured)
        assert (signals.time == 1e9 + 55).all()
        assert (signals.channel == 5).all()
    poor = detector.with_values(external_resolution=5.0)
    assert sensors.external_signals(rng(), external([30.0] * 100), poor)[1].min() == 0


def test_no_nai_detector():
    signals, measured = sensors.external_signals(rng(), external([]), XAMSL)
    assert [len(column) for column in (*signals, measured)] == [0, 0, 0, 0]


CHANNELS = [(XAMS, 0), (XAMS, 5), (XAMS, 6), (XAMSL, 1)]


def mean_after(detector, channel):
    """Mean time of a pulse after its signal for each phase [ns], as a continuous wave has it."""
    shapes, first = sensors.pulse_shapes(detector, channel)
    middles = (first + np.arange(shapes.shape[1]) + 0.5) * detector.dt
    phases = (np.arange(sensors.PHASES) + 0.5) / sensors.PHASES * detector.dt
    return shapes @ middles - phases


@pytest.mark.parametrize(("detector", "channel"), CHANNELS)
def test_pulse_shapes(detector, channel):
    shapes, first = sensors.pulse_shapes(detector, channel)
    assert shapes.shape[0] == sensors.PHASES
    np.testing.assert_allclose(shapes.sum(axis=1), 1)
    assert (shapes >= 0).all()
    rise, fall = {
        5: (detector.external_rise, detector.external_fall),
        6: (detector.sipm_rise, detector.sipm_fall),
    }.get(channel, (detector.pmt_rise, detector.pmt_fall))
    # cutting the last 0.1 % off moves the mean by a little
    mean = 2 * rise + fall if channel == 5 else 0
    assert mean_after(detector, channel) == pytest.approx(mean, abs=0.008 * fall + 0.01 * rise)
    middles = (first + np.arange(shapes.shape[1]) + 0.5) * detector.dt
    spread = np.sqrt(shapes @ middles**2 - (shapes @ middles) ** 2)
    assert spread == pytest.approx(np.sqrt(rise**2 + fall**2), rel=0.04)
    # one peak each
    for shape in shapes:
        top = int(np.argmax(shape))
        assert (np.diff(shape[: top + 1]) > 0).all()
        assert (np.diff(shape[top:]) < 0).all()


def test_a_pulse_of_the_nai_detector_starts_at_its_time():
    shapes, first = sensors.pulse_shapes(XAMS, 5)
    starts = (first + np.arange(shapes.shape[1]) + 1) * XAMS.dt  # ends of samples, phase 0
    before = shapes[0][starts <= 0].sum()
    assert before < 0.01
    assert shapes[0][starts <= 3 * XAMS.external_rise + XAMS.dt].sum() > 0.05


def test_a_later_signal_has_a_later_pulse():
    shapes, _ = sensors.pulse_shapes(XAMS, 0)
    # a sample of 10 ns later after all phases: the same shape, a sample on
    numbers = np.arange(shapes.shape[1])
    assert np.diff(shapes @ numbers) == pytest.approx(1 / sensors.PHASES, abs=2e-3)


@PROPERTY
@given(st.floats(0.6, 20), st.floats(0.05, 50), st.sampled_from([1, 2, 5, 10]))
def test_any_pulse_shape_has_unit_area_and_its_mean_at_the_signal(rise, fall, dt):
    # rise in samples: much less than a sample cannot be digitized faithfully
    detector = XAMS.with_values(pmt_rise=rise * dt, pmt_fall=fall * dt, dt=dt)
    shapes, _ = sensors.pulse_shapes(detector, 0)
    np.testing.assert_allclose(shapes.sum(axis=1), 1)
    assert abs(mean_after(detector, 0)).max() < 0.012 * dt * (rise + fall)


def test_join_signals():
    one = sensors.Signals(np.array([1.0, 2.0]), np.array([0, 6], np.int16), np.array([0.5, 3.0]))
    both = join(sensors.Signals.none(), one, one)
    assert both.time.tolist() == [1, 2, 1, 2]
    assert both.channel.tolist() == [0, 6, 0, 6]
    assert both.charge.tolist() == [0.5, 3, 0.5, 3]
    assert both.channel.dtype == np.int16
