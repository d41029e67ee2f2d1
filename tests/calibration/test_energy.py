"""g1, g2 and resolution of toy lines with known values; no line, one line, too few events."""

import numpy as np
import pytest

from amstrax.calibration import energy
from amstrax.exceptions import NoResult

W, G1, G2, FANO = 13.7, 0.1, 8.0, 2.0


def line(rng, e, n, share, recombination=0.04, g1=G1, g2=G2):
    """Return cS1 and cS2 of n events of `e` keV, of whose quanta `share` are electrons."""
    quanta = 1e3 * e / W
    total = rng.normal(quanta, np.sqrt(FANO * quanta), n)
    electrons = total * share + rng.normal(0, recombination, n) * quanta
    photons = total - electrons
    cs1 = rng.normal(g1 * photons, np.sqrt(1.5 * g1 * photons))
    cs2 = rng.normal(g2 * electrons, g2 * np.sqrt(0.3 * electrons))
    return cs1, cs2


LINES = {20.0: 0.38, 60.0: 0.47, 120.0: 0.56}


def found_lines(rng, n=1500, energies=tuple(LINES)):
    return [energy.find_line(e, *line(rng, e, n, LINES[e])) for e in energies]


def test_line_in_background():
    rng = np.random.default_rng(0)
    cs1, cs2 = line(rng, 60.0, 2000, 0.47)
    others = np.exp(rng.uniform(np.log([20, 2000]), np.log([2000, 80000]), (1500, 2)))
    both = np.concatenate([np.stack([cs1, cs2], axis=1), others, [[np.nan, 1e4], [-3, 1e4]]])
    alone, mixed = energy.find_line(60, cs1, cs2), energy.find_line(60, *both.T)
    np.testing.assert_allclose(alone.mean, [cs1.mean(), cs2.mean()], rtol=3e-3)
    np.testing.assert_allclose(alone.covariance, np.cov(cs1, cs2), rtol=0.08)
    np.testing.assert_allclose(mixed.mean, alone.mean, rtol=0.01)
    assert not mixed.is_inside[-2:].any() and mixed.is_inside.shape == (3502,)


def test_ranges_choose_the_line():
    rng = np.random.default_rng(1)
    both = np.concatenate([line(rng, 20, 3000, 0.38), line(rng, 60, 500, 0.47)], axis=1)
    assert energy.find_line(20, *both).mean[1] < 6000
    chosen = energy.find_line(60, *both, cs2_range=(9000, 30000))
    assert chosen.mean[1] == pytest.approx(60e3 / W * 0.47 * G2, rel=0.01)


def test_doke_fit_covers_the_truth():
    """Bias and pulls of 60 sets of three lines, and of two: these determine both exactly."""
    rng = np.random.default_rng(2)
    for energies, n_free in (((20.0, 60.0, 120.0), 1), ((20.0, 120.0), 0)):
        fits = [energy.doke_fit(found_lines(rng, 400, energies), W) for _ in range(40)]
        for name, true in (("g1", G1), ("g2", G2)):
            values = np.array([[getattr(f, name).value, getattr(f, name).error] for f in fits])
            pulls = (values[:, 0] - true) / values[:, 1]
            assert abs(values[:, 0].mean() / true - 1) < 0.01
            assert abs(pulls.mean()) < 0.5 and 0.7 < pulls.std() < 1.3
        assert all(f.n_free == n_free and f.correlation < -0.8 for f in fits)
        if not n_free:
            assert max(f.chi2 for f in fits) < 1e-3


def test_scale_follows_w():
    lines = found_lines(np.random.default_rng(3))
    one, other = energy.doke_fit(lines, 13.7), energy.doke_fit(lines, 11.5)
    assert other.g1.value / one.g1.value == pytest.approx(11.5 / 13.7, rel=1e-3)
    events = np.array([100.0]), np.array([9000.0])
    np.testing.assert_allclose(one.energy(*events), other.energy(*events), rtol=1e-3)


def test_ellipse_covers_the_truth():
    """With the Fano factor of the data and S2 noise; without the factor, g1 is 5 % low."""
    rng = np.random.default_rng(4)
    found, plain = [], []
    for _ in range(20):
        cs1, cs2 = line(rng, 60.0, 1500, 0.47)
        one = energy.find_line(60.0, cs1, cs2)
        found.append(energy.ellipse_fit(one, cs1, cs2, W, FANO, 0.3 * G2, n_samples=40))
        plain.append(energy.ellipse_fit(one, cs1, cs2, W, n_samples=2).g1.value)
    for name, true in (("g1", G1), ("g2", G2)):
        values = np.array([[getattr(f, name).value, getattr(f, name).error] for f in found])
        pulls = (values[:, 0] - true) / values[:, 1]
        assert abs(values[:, 0].mean() / true - 1) < 0.015
        assert abs(pulls.mean()) < 0.7 and 0.6 < pulls.std() < 1.4
    assert np.mean(plain) < 0.97 * G1


def test_resolution_of_a_peak_on_background():
    rng = np.random.default_rng(5)
    pulls = []
    for _ in range(25):
        energies = np.append(rng.normal(60, 3, 1200), rng.uniform(20, 100, 800))
        fit = energy.fit_peak(energies, 61.0)
        pulls.append(
            [(fit.mean.value - 60) / fit.mean.error, (fit.sigma.value - 3) / fit.sigma.error]
        )
        assert fit.resolution.value == fit.sigma.value / fit.mean.value
        assert fit.expected.sum() == pytest.approx(fit.counts.sum(), rel=0.01)
    assert (abs(np.mean(pulls, axis=0)) < 0.5).all()
    assert ((np.std(pulls, axis=0) > 0.6) & (np.std(pulls, axis=0) < 1.4)).all()


def test_no_line():
    rng = np.random.default_rng(6)
    with pytest.raises(NoResult, match="0 events of 60 keV with .* are too few: take a longer run"):
        energy.find_line(60, np.zeros(0), np.zeros(0))
    few = line(rng, 60, 60, 0.47)
    with pytest.raises(NoResult, match="60 events of 60 keV .* are too few"):
        energy.find_line(60, *few)
    flat = rng.uniform(50, 500, 3000), rng.uniform(1e3, 4e4, 3000)
    with pytest.raises(NoResult, match="no peak found for 60 keV"):
        energy.find_line(60, *flat)
    with pytest.raises(NoResult, match="no peak found at 60 keV|are too few"):
        energy.fit_peak(rng.uniform(20, 100, 3000), 60)
    with pytest.raises(NoResult, match="0 events of 60 keV within"):
        energy.fit_peak(np.zeros(0), 60)


def test_lines_that_do_not_determine_the_scale():
    rng = np.random.default_rng(7)
    one, two = found_lines(rng, 300, (20.0, 60.0))
    with pytest.raises(NoResult, match="1 line does not determine .* ellipse of one line"):
        energy.doke_fit([one])
    same = energy.find_line(60.0, *line(rng, 60, 300, 0.38))
    with pytest.raises(NoResult, match="20, 60 keV do not determine g1 and g2"):
        energy.doke_fit([one, same])
    cs1, cs2 = rng.normal(200, 15, 900), rng.normal(2e4, 900, 900)
    round_ = energy.find_line(60.0, cs1, cs2)
    with pytest.raises(NoResult, match="ellipse of 60 keV does not determine .* correlation"):
        energy.ellipse_fit(round_, cs1, np.abs(cs2), fano=30.0, s2_noise=500.0)
    assert two.n_events > 250
