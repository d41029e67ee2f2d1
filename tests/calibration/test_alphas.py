"""Alpha lines of XAMSL: toy spectra of known lines, BiPo delays, tails of photoelectrons."""

import numpy as np
import pytest

from amstrax.calibration import alphas
from amstrax.exceptions import NoResult

LINES = np.array(list(alphas.ENERGIES.values()))


def toy(rng, n, per_kev=7.5, resolution=0.03):
    """Return areas and fractions at the top of n alphas, whose light depends on the place."""
    depth = rng.uniform(-1, 1, n)
    energy = LINES[rng.choice(3, n, p=(0.45, 0.35, 0.2))]
    light = 1 + 0.3 * depth
    area = per_kev * energy * rng.normal(1, resolution, n) * light / light.mean()
    return area, np.clip(0.45 - 0.25 * depth + rng.normal(0, 0.005, n), 0.05, 0.95)


def test_lines_and_scale():
    rng = np.random.default_rng(0)
    found = [alphas.find_alphas(*toy(rng, 1500)) for _ in range(40)]
    for name, energy in alphas.ENERGIES.items():
        value, error = np.array([[f.lines[name].value, f.lines[name].error] for f in found]).T
        assert value.mean() == pytest.approx(7.5 * energy, rel=0.004)
        assert 0.7 < np.std((value - 7.5 * energy) / error) < 1.5
        resolution = np.mean([f.resolutions[name].value for f in found])
        assert resolution == pytest.approx(0.03, rel=0.12)
    scale = np.array([f.scale.value for f in found])
    assert scale.mean() == pytest.approx(1 / 7.5, rel=0.003)
    assert np.mean([alphas.linearity(f).value for f in found]) == pytest.approx(1, abs=0.003)
    assert np.median([f.p_value for f in found]) > 0.02
    assert found[0].scale.unit == "keV/(PE)"


def test_rows_without_light_in_a_pmt_are_left_out():
    area, top = toy(np.random.default_rng(1), 1000)
    found = alphas.find_alphas(area, top)
    more = alphas.find_alphas(np.append(area, [np.nan, 4e4, 5e4]), np.append(top, [0.5, 0, 1]))
    assert more.scale == found.scale
    assert np.isnan(more.corrected[-3:]).all() and np.isfinite(more.corrected[:-3]).all()


def test_no_lines():
    rng = np.random.default_rng(2)
    for n in (0, 199):
        with pytest.raises(NoResult, match=f"{n} S1s of alphas .* too few: take a longer run"):
            alphas.find_alphas(np.full(n, 4e4), np.full(n, 0.4))
    with pytest.raises(NoResult, match="no three alpha lines|too few"):
        alphas.find_alphas(rng.normal(4e4, 500, 2000), rng.uniform(0.3, 0.6, 2000))


def test_delays_are_those_of_all_pairs():
    beta, alpha = np.array([0, 50_000, 9_000_000]), np.array([0, 60_000, 400_000, 8_000_000])
    assert sorted(alphas.delays_before(beta, alpha)) == [10, 60, 350, 400]
    assert not len(alphas.delays_before(beta[:0], alpha))
    assert not len(alphas.delays_before(beta, alpha[:0]))


def test_half_life():
    rng = np.random.default_rng(3)
    fits = []
    for _ in range(30):
        pairs = rng.exponential(alphas.HALF_LIFE / np.log(2), 400)
        fits.append(alphas.half_life(np.append(pairs, rng.uniform(0, 2000, 150))))
    pulls = [(fit.value - alphas.HALF_LIFE) / fit.error for fit in fits]
    assert abs(np.mean(pulls)) < 0.7 and 0.6 < np.std(pulls) < 1.4
    with pytest.raises(NoResult, match="12 pairs .* too few"):
        alphas.half_life(np.full(12, 100.0))


def tails(rng, area, n, noise=1.9, shape=(2.0, 6.5)):
    """Return tails of n pulses, photoelectron by photoelectron; light falls with 27 ns."""
    time = np.arange(0, 200, 2.0)
    kernel = np.exp(-time / shape[1]) - np.exp(-time / shape[0])
    kernel /= kernel.sum()
    rate = np.exp(-time / 27.0)
    counts = rng.poisson(20_000 * rng.uniform(0.7, 1.3, (n, 1)) * rate / rate.sum())
    photons = rng.binomial(counts, 0.2) + counts  # 20 % are double
    charge = rng.normal(photons, 0.35 * np.sqrt(photons)) * area
    waves = np.apply_along_axis(np.convolve, 1, charge, kernel)[:, : len(time)]
    return (waves + rng.normal(0, noise, waves.shape))[:, 20:54]


@pytest.mark.parametrize("area", [0.7, 2.0])
def test_photoelectrons(area):
    rng = np.random.default_rng(4)
    found = alphas.photoelectron_area(tails(rng, area, 1500), 1.9)
    assert found.value == pytest.approx(area, abs=4 * found.error)
    assert 0.02 < found.error / area < 0.06
    double = alphas.photoelectron_area(tails(rng, area, 1500), 1.9, excess=2.9)
    assert double.value == pytest.approx(area / 2, rel=0.15)


def test_no_photoelectrons():
    rng = np.random.default_rng(5)
    with pytest.raises(NoResult, match="0 pulses of alphas .* too few"):
        alphas.photoelectron_area(np.empty((0, 30)), 1.9)
    with pytest.raises(NoResult, match="do not fall in the tail"):
        alphas.photoelectron_area(np.ones((200, 30)), 1.9)
    shape = np.exp(-np.arange(34) / 13)
    with pytest.raises(NoResult, match="those of the noise, 1.9 ADC counts"):
        alphas.photoelectron_area(50 * shape + rng.normal(0, 1.9, (500, 34)), 1.9)
