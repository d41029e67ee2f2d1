"""Gain of single electrons: toy spectra with known gains, without a peak, with too few peaks."""

import numpy as np
import pytest
from make_runs import context, load, pulses, write_run

from amstrax.calibration import single_electrons as electrons
from amstrax.calibration.result import Result
from amstrax.exceptions import NoResult


def areas(rng, gain, n, overlap=0.1, dark=0.03, doubles=0.2, spread=0.16):
    """Return areas of peaks of 1, 2, ... electrons, photon by photon, and of dark counts [PE]."""
    k = rng.geometric(1 - overlap, n)
    owner = np.repeat(np.arange(n), k)
    light = np.bincount(owner, rng.gamma(1 / spread**2, spread**2, len(owner)), n)
    photons = rng.poisson(gain / (1 + doubles) * light)
    charges = photons + rng.binomial(photons, doubles)
    area = rng.normal(charges, 0.35 * np.sqrt(charges))
    return np.append(area, 1.5 + rng.exponential(0.5, int(dark * n)))


def test_shares_are_those_of_drawn_areas():
    rng = np.random.default_rng(0)
    shape = electrons.ElectronSpectrum(10.0, 0.41, 0.1, 0.05, 0.5)
    edges = np.linspace(2.5, 35, 40)
    shares = electrons.bin_shares(edges, shape)
    assert shares.sum() == pytest.approx(1)
    parts = sum(electrons.bin_shares(edges, shape, k) for k in range(6))
    np.testing.assert_allclose(parts, shares)
    skewness = electrons._skewness(10, 0.41)
    alpha, scale = 4 / skewness**2, 0.41 * 10 * skewness / 2
    k = rng.geometric(0.9, 400_000)
    drawn = rng.gamma(k * alpha, scale) + k * (10 - alpha * scale)
    drawn = drawn[(k <= 5) & (drawn > 2.5) & (drawn < 35)]
    n_dark = int(len(drawn) * 0.05 / 0.95)
    drawn = np.append(drawn, 2.5 + rng.exponential(0.5, n_dark))
    np.testing.assert_allclose(np.histogram(drawn, edges)[0] / len(drawn), shares, atol=2e-3)


@pytest.mark.parametrize(("gain", "doubles"), [(8.0, 0.2), (20.0, 0.0)])
def test_fit_covers_the_truth(gain, doubles):
    rng = np.random.default_rng(1)
    fits = [electrons.fit_electrons(areas(rng, gain, 800, doubles=doubles)) for _ in range(20)]
    value, error = np.array([[f.gain.value, f.gain.error] for f in fits]).T
    pulls = (value - gain) / error
    assert abs(value.mean() / gain - 1) < 0.015
    assert abs(pulls.mean()) < 0.7 and 0.6 < pulls.std() < 1.3
    assert np.mean([f.p_value for f in fits]) > 0.25


def test_no_gain():
    rng = np.random.default_rng(2)
    for n in (0, 150):
        with pytest.raises(NoResult, match=f"{n} peaks above 2.5 PE are too few .* longer run"):
            electrons.fit_electrons(np.full(n, 9.0))
    with pytest.raises(NoResult, match="no peak of single electrons found above 2.5 PE"):
        electrons.fit_electrons(2.5 + rng.exponential(0.5, 3000))


def test_missing_areas_do_not_count():
    area = areas(np.random.default_rng(3), 10.0, 600)
    more = np.append(area, [np.nan, -1.0, 0.1])
    assert electrons.fit_electrons(more).gain == electrons.fit_electrons(area).gain


def test_g2():
    gain = Result("se_gain", 10.0, 9.8, 10.3, "PE/e", "fit")
    g2 = electrons.g2_of_electrons(gain, (0.5, 0.02))
    assert g2.name == "g2" and g2.value == 5.0
    assert g2.value - g2.lower == pytest.approx(5 * np.hypot(0.02, 0.04))
    assert g2.upper - g2.value == pytest.approx(5 * np.hypot(0.03, 0.04))


def test_small_peaks_without_a_large_one(tmp_path):
    """As in a run without source: they have no delay, and are not selected."""
    write_run(tmp_path, pulses([1_000_000, 1_200_000], range(2), height=100))
    peaks = load(context(tmp_path, gain_to_pe_array=(0.01,) * 7), "single_electrons")
    assert len(peaks) >= 2 and (peaks["delay"] == -1).all() and (peaks["large_area"] == 0).all()
    assert len(electrons.select(peaks, 0.0, 1e6)) == 0
