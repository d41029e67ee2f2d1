"""Gains from LED runs: the true ones come out, with errors that cover them."""

import numpy as np
import pytest
from numpy.lib import recfunctions
from scipy.stats import kstest

from amstrax import analyses, simulation
from amstrax.calibration import gains
from amstrax.calibration import photoelectron_spectrum as spectrum
from amstrax.exceptions import NoGain
from amstrax.plugins.led_calibration import LEDCalibration
from amstrax.processing import led
from amstrax.simulation import blocks

GAIN = 140.0
DTYPE = np.dtype([field if len(field) == 2 else field[:2] for field in LEDCalibration.dtype])
#: All five PMTs are alike, so that their pulses can be taken together; short pulses are faster
PMT = simulation.DETECTORS["xams"].with_values(photoelectron_areas=(GAIN,) * 5, led_samples=130)


def simulated(occupancy, n_pulses, seed, detector=PMT):
    """Return led_calibration, of one channel, of simulated flashes; and their photoelectrons."""
    duration = (n_pulses / 5 + 1) / detector.led_rate
    made = blocks.blocks(
        blocks.Settings(detector, "led", duration=duration, seed=seed, occupancy=occupancy)
    )
    parts, n_pe = [], 0
    for block in made:
        begins, pulse = led.join_fragments(block.records, 2)
        data = led.baselined_pulses(block.records, pulse, len(begins), 220, (0, 50))
        part = np.zeros(len(begins), dtype=DTYPE)
        part["area"] = led.window_areas(data, (80, 110))
        part["amplitude_led"] = data[:, 80:110].max(axis=1)
        part["amplitude_noise"] = data[:, :10].max(axis=1)
        parts.append(part)
        n_pe += block.truth["s1_pe"].sum()
    return np.concatenate(parts), n_pe


def toy(rng, n, occupancy=0.3, gain=100.0, spread=0.4, noise=10.0):
    """Return pulses with gamma-shaped photoelectrons, which no fit of ours knows, and their noise.

    Amplitudes are a tenth of areas, with the largest of 30 or 10 samples of noise besides.
    """
    counts = rng.poisson(occupancy, n)
    charge = gain * rng.gamma(np.maximum(counts, 1) / spread**2, spread**2) * (counts > 0)
    pulses = np.zeros(n, dtype=DTYPE)
    pulses["area"] = charge + rng.normal(0, noise, n)
    pulses["amplitude_led"] = charge / 10 + rng.normal(0, 0.3, (n, 30)).max(axis=1)
    pulses["amplitude_noise"] = rng.normal(0, 0.3, (n, 10)).max(axis=1)
    return pulses


@pytest.mark.parametrize(
    ("occupancy", "n_pulses", "seed"),
    [(0.05, 250_000, 1), (0.15, 100_000, 2), (0.5, 50_000, 3)],
)
def test_true_gain_of_simulated_runs(occupancy, n_pulses, seed):
    """To 2 %, by both methods; the area of led_calibration holds all of the charge."""
    pulses, n_pe = simulated(occupancy, n_pulses, seed)
    assert pulses["area"].mean() / (n_pe / len(pulses)) == pytest.approx(GAIN, rel=0.02)
    mean = gains.mean_gain(pulses)
    fit = gains.fit_gain(pulses, mean)
    for gain in (mean, fit):
        assert gain.gain.value == pytest.approx(GAIN, rel=0.02)
        assert abs(gain.gain.value - GAIN) < 3 * gain.error
        assert gain.error < 0.02 * GAIN
        # Against what there was, not the mean that it was drawn from
        assert gain.occupancy.value == pytest.approx(n_pe / len(pulses), rel=0.03)
        assert gain.spread == pytest.approx(0.386, abs=0.03)
        assert gain.pedestal == pytest.approx(0, abs=0.5)
        assert gain.noise == pytest.approx(11.6, rel=0.02)
        assert gain.to_pe.value == pytest.approx(1 / GAIN, rel=0.02)
        assert gain.to_pe.error / gain.to_pe.value == pytest.approx(gain.error / gain.gain.value)
    assert fit.p_value > 1e-3
    assert np.isnan(mean.p_value)


def test_mean_covers_the_truth():
    """For photoelectrons of a shape that no fit knows: pulls are normal; the true spread comes."""
    rng = np.random.default_rng(1)
    found = [gains.mean_gain(toy(rng, 10_000)) for _ in range(60)]
    # None of these photoelectrons is as small as the noise
    assert max(g.systematic for g in found) < 0.5
    for name, truth in (("gain", 100), ("occupancy", 0.3)):
        values = [getattr(g, name) for g in found]
        pulls = [(v.value - truth) / v.error for v in values]
        assert abs(np.mean(pulls)) < 4 / np.sqrt(60) + 0.3
        assert abs(np.std(pulls) - 1) < 4 / np.sqrt(120)
    assert np.mean([g.spread for g in found]) == pytest.approx(0.4, abs=0.01)


def test_led_off_run_in_place_of_the_noise_window():
    rng = np.random.default_rng(2)
    # Some light comes whether the LED is on or off; the noise window is of no use
    found = []
    for _ in range(40):
        pulses, off = toy(rng, 10_000, occupancy=0.33), toy(rng, 10_000, occupancy=0.03)
        pulses["amplitude_noise"] = 20 * rng.random(len(pulses))
        found.append(gains.mean_gain(pulses, off=off))
    for name, true in (("gain", 100), ("occupancy", 0.3)):
        values = [getattr(g, name) for g in found]
        pulls = [(v.value - true) / v.error for v in values]
        assert abs(np.mean(pulls)) < 4 / np.sqrt(40) + 0.2
        assert abs(np.std(pulls) - 1) < 4 / np.sqrt(80)
    assert np.mean([g.spread for g in found]) == pytest.approx(0.4, abs=0.02)
    # Fewer pulses without the LED, larger error
    fewer = gains.mean_gain(pulses, off=off[:1000])
    assert fewer.occupancy.error > 1.2 * found[-1].occupancy.error


def test_lengths_of_windows_count():
    """A noise window as long as the LED's: its share of noise is the same, without a power."""
    rng = np.random.default_rng(3)
    pulses = toy(rng, 20_000)
    pulses["amplitude_noise"] = rng.normal(0, 0.3, (len(pulses), 30)).max(axis=1)
    found = gains.mean_gain(pulses, led_window=(80, 110), noise_window=(0, 30))
    assert abs(found.gain.value - 100) < 4 * found.error


def test_fit_covers_the_truth():
    """Of spectra of its own shape: pulls are normal, and so are chi-squares."""
    rng = np.random.default_rng(4)
    truth = spectrum.Shape(0.4, 100.0, 0.35, 0.05, 0.3, 2.0, 10.0)
    start = gains.Gain(gains.Number(90, 1), 0, gains.Number(0.5, 0.01), 0.4, 0.0, 11.0, 10_000)
    edges = np.linspace(-60, 1400, 1461)
    shares = spectrum.bin_shares(edges, truth)
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    middles = (edges[1:] + edges[:-1]) / 2
    found = []
    for _ in range(24):
        pulses = np.zeros(10_000, dtype=DTYPE)
        pulses["area"] = rng.choice(middles, len(pulses), p=shares / shares.sum())
        pulses["area"] += rng.uniform(-0.5, 0.5, len(pulses))
        found.append(gains.fit_gain(pulses, start))
    for name, true in (("gain", 100), ("occupancy", 0.4)):
        values = [getattr(g, name) for g in found]
        pulls = [(v.value - true) / v.error for v in values]
        assert abs(np.mean(pulls)) < 4 / np.sqrt(24)
        assert abs(np.std(pulls) - 1) < 4 / np.sqrt(48)
    assert kstest([g.p_value for g in found], "uniform").pvalue > 1e-3


def test_spectrum_is_that_of_drawn_areas():
    """All numbers of photoelectrons, the Gaussian's cut at zero, and both kinds of charges."""
    rng = np.random.default_rng(5)
    shape = spectrum.Shape(0.8, 50.0, 0.6, 0.2, 0.3, -3.0, 6.0)
    size, n = spectrum.full_size(shape), 200_000
    counts = rng.poisson(shape.occupancy, n)
    small = rng.random(counts.sum()) < shape.small
    charges = rng.normal(size, shape.spread * size, len(small))
    while (below := charges < 0).any():
        charges[below] = rng.normal(size, shape.spread * size, below.sum())
    charges[small] = rng.exponential(shape.small_size * size, small.sum())
    assert charges.mean() == pytest.approx(shape.gain, rel=0.01)
    assert charges.std() / charges.mean() == pytest.approx(
        spectrum.relative_spread(shape), rel=0.01
    )
    owner = np.repeat(np.arange(n), counts)
    area = np.bincount(owner, charges, n) + rng.normal(shape.pedestal, shape.noise, n)
    edges = np.linspace(-30, 400, 108)
    expected = spectrum.bin_shares(edges, shape) * n
    many = expected > 20
    found = np.histogram(area, edges)[0]
    chi2 = np.sum((found - expected)[many] ** 2 / expected[many])
    assert chi2 < many.sum() + 5 * np.sqrt(2 * many.sum())
    parts = sum(spectrum.bin_shares(edges, shape, n) for n in range(12))
    np.testing.assert_allclose(parts * n, expected, atol=1e-3)


def test_another_spectrum_is_noticed():
    """Gamma-shaped charges with a second peak: the fit says that it does not describe them."""
    rng = np.random.default_rng(6)
    pulses = toy(rng, 30_000, spread=0.1)
    other = toy(rng, 30_000, gain=160, spread=0.1)
    assert gains.fit_gain(np.concatenate([pulses, other])).p_value < 1e-3


def test_pulses_that_have_lost_something_do_not_count():
    rng = np.random.default_rng(7)
    pulses = toy(rng, 5000)
    broken = toy(rng, 500)
    broken["area"][::2], broken["amplitude_led"][1::2] = np.nan, np.inf
    assert gains.mean_gain(np.concatenate([pulses, broken])) == gains.mean_gain(pulses)


@pytest.mark.parametrize(
    ("occupancy", "n", "message"),
    [
        pytest.param(0.3, 100, "100 pulses are too few", id="pulses"),
        pytest.param(0.0, 5000, "no light|photoelectrons in 5000 pulses", id="dark"),
        pytest.param(0.01, 5000, "photoelectrons in 5000 pulses are too few", id="little light"),
        pytest.param(4.0, 5000, "nearly every pulse has light", id="bright"),
        pytest.param(40.0, 5000, "nearly every pulse has light", id="always light"),
    ],
)
def test_no_gain(occupancy, n, message):
    pulses = toy(np.random.default_rng(8), n, occupancy)
    with pytest.raises(NoGain, match=message):
        gains.mean_gain(pulses)
    with pytest.raises(NoGain, match=message):
        gains.fit_gain(pulses)


def test_pulses_without_noise_or_of_the_wrong_sign():
    pulses = toy(np.random.default_rng(8), 5000)
    silent = pulses.copy()
    silent["amplitude_noise"] = 0
    with pytest.raises(NoGain, match="amplitude_noise is not above 0"):
        gains.mean_gain(silent)
    pulses["area"] *= -1
    with pytest.raises(NoGain, match="areas are smaller with light"):
        gains.mean_gain(pulses)


def test_channels_are_apart_and_drawn(tmp_path):
    rng = np.random.default_rng(9)
    parts = [toy(rng, 8000, gain=80.0), toy(rng, 8000, gain=120.0), toy(rng, 50)]
    for channel, part in zip((0, 3, 4), parts, strict=True):
        part["channel"] = channel
    pulses = rng.permutation(np.concatenate(parts))
    found = gains.channel_gains(pulses)
    assert list(found) == [0, 3, 4]
    for channel, true in ((0, 80), (3, 120)):
        assert found[channel]["mean"].gain.value == pytest.approx(true, rel=0.05)
        # The fit's photoelectrons are not quite of this shape
        assert found[channel]["fit"].gain.value == pytest.approx(true, rel=0.1)
    assert [type(g) for g in found[4].values()] == [NoGain, NoGain]
    figure = analyses.plot_gains(pulses, found)
    first, second, third, *_ = figure.axes
    assert first.get_title() == "Channel 0"
    assert [len(axes.lines) for axes in (first, second, third)] == [6, 6, 0]
    labels = [text.get_text() for text in second.get_legend().get_texts()]
    assert labels[1].startswith("mean: 1") and labels[2].startswith("fit: ")
    assert labels[3:] == ["0 PE", "1 PE", "2 PE", "3 PE"]
    assert third.texts[0].get_text() == "no gain"
    figure.savefig(tmp_path / "gains.png")
    assert analyses.plot_gains(pulses[:0], {}).axes


def test_only_the_fields_that_are_said_are_used():
    """A table of a user's own will do."""
    pulses = toy(np.random.default_rng(10), 5000)
    fields = ["area", "amplitude_led", "amplitude_noise"]
    fewer = recfunctions.repack_fields(pulses[fields])
    assert gains.mean_gain(fewer) == gains.mean_gain(pulses)
