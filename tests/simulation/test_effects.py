"""Effects that can be switched off: each changes what it should, by as much as its formula says."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from amstrax.exceptions import InvalidOption
from amstrax.simulation import effects, light, sensors
from amstrax.simulation.blocks import BLOCK, Settings, blocks
from amstrax.simulation.detector import DETECTORS, XAMS
from amstrax.simulation.digitizer import Digitizer
from amstrax.simulation.light import Origin
from amstrax.simulation.optics import model
from amstrax.simulation.sensors import Signals


def run(without=(), detector=XAMS, **options):
    """Return fragments and truth of a short run."""
    options = {"source": "flat", "rate": 40.0, "duration": 0.5, "yields": "simple"} | options
    parts = list(blocks(Settings(detector, without=tuple(without), **options)))
    return tuple(np.concatenate([part[i] for part in parts]) for i in range(2))


@pytest.mark.parametrize("name", effects.EFFECTS)
@pytest.mark.parametrize("detector", DETECTORS.values())
def test_without_an_effect(name, detector):
    """Each has an own number or more, and all numbers without it are possible."""
    without = effects.switch_off(detector, [name])
    changed = {
        f.name for f in fields(detector) if getattr(detector, f.name) != getattr(without, f.name)
    }
    assert changed == set(effects._OFF[name])
    others = [other for other in effects._OFF if other != name]
    assert changed.isdisjoint(number for other in others for number in effects._OFF[other])


def test_without_all_effects():
    records, _ = run(effects.EFFECTS)
    assert len(records)


@pytest.mark.parametrize("name", ["nois", "", 3])
def test_unknown_effects_are_refused(name):
    with pytest.raises(InvalidOption, match="no effect"):
        Settings(XAMS, without=(name,))
    with pytest.raises(InvalidOption, match="did you mean noise?"):
        Settings(XAMS, without=("diffusion", "nois"))


def rng(seed=1):
    return np.random.default_rng(seed)


def off(name, detector=XAMS):
    return effects.switch_off(detector, [name])


def s2_light(detector, electrons, n=1, seed=1):
    """Return light of `n` S2s of so many electrons from the axis, 1 ms apart."""
    arrivals = np.repeat(np.arange(n) * 1e6, electrons)
    return light.s2_photoelectrons(
        rng(seed),
        (arrivals, np.ones(len(arrivals), dtype=np.int64), np.full(n, electrons)),
        np.arange(n),
        np.zeros(n),
        np.zeros(n),
        model("inverse_of_reconstruction", detector),
        detector,
    )


def in_pmts(found, detector=XAMS):
    return np.isin(found.channel, detector.tpc_channels)


def test_electron_gain_spread():
    n = 4_000
    detector = off("double_photoelectrons", XAMS.with_values(se_gain=20.0, se_gain_spread=0.3))
    for one, spread in ((detector, 0.3), (off("electron_gain_spread", detector), 0.0)):
        found = s2_light(one, 1, n)
        areas = np.bincount(found.deposit, found.n_pe * in_pmts(found), n)
        assert areas.mean() == pytest.approx(20, rel=0.02)
        # photon statistics, and the light itself
        assert areas.var() == pytest.approx(20 + (20 * spread) ** 2, rel=0.08)
        gains = light.electron_gains(rng(), np.ones(100_000, dtype=int), one)
        assert gains.mean() == pytest.approx(1, abs=0.005)
        assert gains.std() == pytest.approx(spread, abs=0.005)
        # of groups of electrons
        gains = light.electron_gains(rng(), np.full(100_000, 25), one)
        assert gains.mean() == pytest.approx(25, abs=0.05)
        assert gains.std() == pytest.approx(5 * spread, abs=0.03)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.1, 2.0])
def test_power_law(exponent):
    first, last = 1e3, 1e5
    found = light.power_law(rng(), 20_000, exponent, first, last)
    assert found.min() >= first and found.max() <= last

    def cdf(t):
        if exponent == 1:
            return np.log(t / first) / np.log(last / first)
        low, high = first ** (1 - exponent), last ** (1 - exponent)
        return (t ** (1 - exponent) - low) / (high - low)

    assert stats.kstest(found, cdf).pvalue > 1e-3


def test_causes():
    """Photoelectrons of PMTs cause something, each on its own, and those of the SiPM nothing."""

    def causes(counts, probability):
        channel = np.resize([0, 1, 2, 3, XAMS.sipm_channel], len(counts))
        entries = light.Light.of(Origin.S1, np.zeros(len(counts)), channel)
        entries = entries._replace(n_pe=np.array(counts))
        return light.causes(rng(), entries, XAMS, probability)

    counts = [0, 5, 0, 1, 7]
    assert len(causes(counts, 0.0)) == 0
    assert causes(counts, 1.0).tolist() == [1] * 5 + [3]
    n = np.bincount(causes(np.array(counts) * 10_000, 0.5), minlength=5)
    assert n[[0, 2, 4]].tolist() == [0, 0, 0]
    assert n[[1, 3]] == pytest.approx([25_000, 5_000], abs=800)
    assert len(causes([], 0.5)) == 0
    gaps = np.diff(causes(np.resize([1, 1, 1, 1, 0], 100_000), 0.1) // 5 * 4)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)


def test_photoionisation():
    detector = XAMS.with_values(
        photoionisation_probability=0.01, se_gain=30.0, extraction_efficiency=1.0
    )
    patterns = model("inverse_of_reconstruction", detector)
    cause = s2_light(detector, 1_000, 20)
    seen = in_pmts(cause)
    found = light.photoionisation(rng(), cause, patterns, detector)
    assert (found.origin == Origin.PHOTOIONISATION).all()
    drift = np.linspace(detector.drift_time_gate, detector.drift_time_cathode, 1_001)
    survive = np.exp(-drift / detector.electron_lifetime).mean()
    expected = 0.01 * cause.n_pe[seen].sum() * survive * 30
    assert found.n_pe[in_pmts(found)].sum() == pytest.approx(expected, rel=0.05)
    # each after its cause, from all depths
    delay = found.time - found.deposit * 1e6
    assert delay.min() > detector.drift_time_gate - detector.gas_transit_time - 1_000
    assert delay.max() < detector.drift_time_cathode + 2 * detector.gas_transit_time + 2_000
    centre = (drift[0] + drift[-1]) / 2 + detector.gas_transit_time / 2
    assert np.average(delay, weights=found.n_pe) == pytest.approx(centre, rel=0.05)
    without = off("photoionisation", detector)
    assert len(light.photoionisation(rng(), cause, patterns, without).time) == 0


def test_delayed_electrons():
    detector = XAMS.with_values(delayed_electron_probability=0.1, se_gain=30.0)
    patterns = model("inverse_of_reconstruction", detector)
    electrons = np.array([0, 20_000, 5_000])
    place = np.zeros(3), np.zeros(3)
    times = np.array([1e9, 2e9, 3e9])
    found = light.delayed_electrons(rng(), times, electrons, *place, patterns, detector)
    assert (found.origin == Origin.DELAYED_ELECTRON).all()
    areas = np.bincount(found.deposit, found.n_pe * in_pmts(found), 3)
    assert areas[0] == 0
    assert areas[1:] == pytest.approx(electrons[1:] * 0.1 * 30, rel=0.12)
    delay = found.time - times[found.deposit]
    assert delay.min() >= 5e4 - 1_000 and delay.max() <= 1e8 + 1_010
    without = off("delayed_electrons", detector)
    none = light.delayed_electrons(rng(), times, electrons, *place, patterns, without)
    assert len(none.time) == 0


def test_pmt_saturation():
    """The gain is 1 / (1 + Q / Q_half), and Q decays exponentially."""
    detector = XAMS.with_values(pmt_saturation_charge=1_000.0, pmt_recovery_time=1e6)
    times, charges = np.array([0.0, 0.0, 1e6, 1e9]), np.array([1_000.0, 500.0, 10.0, 1.0])
    gain, after = sensors.base_gain(times, charges, (0.0, -5e5), detector)
    lacking = 1_000 + 500 * 0.5
    assert gain == pytest.approx([1, 0.5, 1 / (1 + lacking / np.e / 1_000), 1])
    assert after[1] == pytest.approx(lacking)
    # in two parts, the second from where the first ended
    first, state = sensors.base_gain(times[:2], charges[:2], (0.0, -5e5), detector)
    rest, _ = sensors.base_gain(times[2:], charges[2:], (state[-1], times[1]), detector)
    assert [*first, *rest] == gain.tolist()
    gain, _ = sensors.base_gain(times, charges, (0.0, 0.0), off("pmt_saturation", detector))
    assert gain == pytest.approx(1, abs=1e-12)


def test_twin_of_the_base():
    arguments = rng().uniform(0, 1e6, 50), rng(2).exponential(50, 50), 3.0, -10.0, 1e3, 1e5
    arguments[0].sort()
    for one, other in zip(
        sensors._base_gain(*arguments), sensors._base_gain.py_func(*arguments), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def digitized(detector, signals, horizons=(np.inf,)):
    board = Digitizer(detector, rng())
    board.add(signals)
    found = []
    for horizon in horizons:
        pulses = board.digitize(horizon)
        for channel, start, length, offset in zip(*pulses[:4], strict=True):
            found.append((channel, start, pulses.samples[offset : offset + length].tolist()))
    return sorted(found)


def test_pmt_saturation_in_blocks():
    """Charge before a block counts in it; SiPM and NaI detector do not saturate."""
    n = 300
    signals = Signals(
        np.sort(rng().uniform(1e5, 1e7, n)),
        rng(2).integers(0, 7, n).astype(np.int16),
        rng(3).uniform(10, 100, n),
    )
    detector = XAMS.with_values(noise=0.0, pmt_saturation_charge=2_000.0)
    whole = digitized(detector, signals)
    assert digitized(detector, signals, (1e6, 2.2e6, 7e6, np.inf)) == whole
    never = digitized(off("pmt_saturation", detector), signals)
    assert [p for p in whole if p[0] > 4] == [p for p in never if p[0] > 4]
    depth = [sum(15_800 - min(p[2]) for p in found if p[0] == 0) for found in (whole, never)]
    assert 0.3 * depth[1] < depth[0] < 0.8 * depth[1]


def test_adc_saturation():
    """Without it, counts go on below 0 in proportion to the signal."""
    detector = off("noise")
    signals = Signals(np.array([1e5]), np.zeros(1, dtype=np.int16), np.array([700.0]))
    ((_, _, clipped),) = digitized(detector, signals)
    ((_, _, free),) = digitized(off("adc_saturation", detector), signals)
    assert min(clipped) == 0
    assert -(2**15) <= min(free) < -2_000
    assert [max(count, 0) for count in free] == clipped
    assert sum(15_800 - count for count in free) == pytest.approx(700 * 125.4, rel=0.01)


def test_diffusion():
    drift, electrons = np.array([30_000.0]), np.array([20_000])
    for detector, share in ((XAMS, 1.0), (off("diffusion"), 0.0)):
        times, sizes, _ = light.arrival_times(rng(), np.zeros(1), drift, electrons, detector)
        arrivals = np.repeat(times, sizes)
        spread = np.sqrt(2 * 2.6e-6 * 30_000) / XAMS.drift_velocity
        assert arrivals.std() == pytest.approx(share * spread, rel=0.03, abs=1e-9)
        x = light.mean_positions(
            rng(), np.zeros(20_000), np.full(20_000, 30_000.0), np.full(20_000, 4), detector
        )
        # of the mean of 4 electrons
        spread = np.sqrt(2 * 5.5e-6 * 30_000 / 4)
        assert x.std() == pytest.approx(share * spread, rel=0.03, abs=1e-12)


def test_electron_lifetime_and_extraction():
    electrons, times = np.full(1, 1_000_000), np.array([39_500.0])
    left = light.surviving(rng(), electrons, times, XAMS)
    assert left / 1e6 == pytest.approx(np.exp(-39.5 / 300), abs=0.002)
    assert light.surviving(rng(), electrons, times, off("electron_lifetime")) == 1_000_000
    assert light.extracted(rng(), electrons, XAMS) / 1e6 == pytest.approx(0.95, abs=0.002)
    assert light.extracted(rng(), electrons, off("extraction")) == 1_000_000


def test_double_photoelectrons():
    on = s2_light(XAMS.with_values(dpe_probability=0.3), 3_000)
    without = s2_light(off("double_photoelectrons"), 3_000)
    # areas stay
    areas = [found.n_pe[in_pmts(found)].sum() for found in (on, without)]
    assert areas[0] == pytest.approx(areas[1], rel=0.03)
    channel = np.zeros(10_000, dtype=np.int16)
    assert light.doubled(rng(), channel, off("double_photoelectrons")).sum() == 0


def pulses_of_light(detector, channel, n=20_000):
    found = light.Light.of(Origin.S1, np.zeros(n), np.full(n, channel))
    return sensors.charges(rng(), found, detector)


def test_sensors_without_spread():
    assert pulses_of_light(XAMS, 1).time.std() == pytest.approx(1.5, rel=0.03)
    assert (pulses_of_light(off("transit_time_spread"), 1).time == 0).all()
    _, spread = sensors.photoelectron_moments(XAMS)
    assert pulses_of_light(XAMS, 1).charge.std() == pytest.approx(spread, rel=0.04)
    assert pulses_of_light(off("photoelectron_spread"), 1).charge == pytest.approx(1)
    # a geometric series of avalanches, scaled to a mean of 1
    quiet = off("photoelectron_spread")
    crosstalk = pulses_of_light(quiet, 6).charge
    assert crosstalk.mean() == pytest.approx(1, rel=0.02)
    assert crosstalk.var() == pytest.approx(0.15, rel=0.06)
    assert pulses_of_light(off("sipm_crosstalk", quiet), 6).charge == pytest.approx(1)


def test_afterpulses_and_dark_counts():
    many = light.Light.of(Origin.S2, np.zeros(100_000), np.ones(100_000))
    assert len(sensors.afterpulses(rng(), many, XAMS).time) == pytest.approx(500, abs=110)
    assert len(sensors.afterpulses(rng(), many, off("afterpulses")).time) == 0
    expected = 5 * 30 + 100  # [Hz]
    assert len(sensors.dark_counts(rng(), XAMS, 0, 1e10).time) == pytest.approx(
        10 * expected, abs=5 * np.sqrt(10 * expected)
    )
    assert len(sensors.dark_counts(rng(), off("dark_counts"), 0, 1e10).time) == 0


def test_noise():
    signals = Signals(np.array([1e5]), np.zeros(1, dtype=np.int16), np.array([5.0]))
    ((_, _, noisy),) = digitized(XAMS, signals)
    ((_, _, quiet),) = digitized(off("noise"), signals)
    assert set(quiet[:20]) == {15_800}
    assert np.std(noisy[:20]) == pytest.approx(1.5, abs=0.8)


def test_the_documentation_has_all_effects():
    page = Path(__file__).parents[2] / "docs/source/simulation.rst"
    listed = re.findall(r"^   \* - ``(\w+)``$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(effects.EFFECTS) <= set(listed)


def test_runs_too_short_for_events_say_so(caplog):
    for duration, n in ((2e-4, 0), (5e-3, 1)):
        caplog.clear()
        settings = Settings(XAMS, source="tritium", rate=10_000, duration=duration, yields="simple")
        events = sum(len(block.truth) for block in blocks(settings))
        assert (events >= n) and (n > 0) == (events > 0)
        assert ("has no events" in caplog.text) == (n == 0)


def test_led_windows_at_the_edge_of_a_block_have_all_dark_counts():
    """The window starts 100 us before the second block: both of its halves have light."""
    interval = BLOCK // XAMS.dt - 10_000
    detector = XAMS.with_values(
        led_rate=1e9 / XAMS.dt / interval, led_samples=20_000, dark_rate=2e5, sipm_dark_rate=0.0
    )
    options = dict(source="led", duration=0.6, occupancy=0.0)
    found = list(blocks(Settings(detector, without=("noise", "afterpulses"), **options)))
    assert [len(block.truth) for block in found] == [1, 0]
    records = found[0].records
    assert records["time"].min() == BLOCK - 100_000
    below = np.array(XAMS.baselines)[records["channel"]][:, np.newaxis] - records["data"]
    below[np.arange(below.shape[1]) >= records["length"][:, np.newaxis]] = 0
    late = records["time"] >= BLOCK
    for half in (late, ~late):
        # 5 PMTs, 100 us, 0.2 MHz
        area = below[half].sum() / np.mean(detector.photoelectron_areas[:5])
        assert area == pytest.approx(100, abs=5 * 12)
