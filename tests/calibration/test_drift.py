"""Edges of drift times, velocity and diffusion, from made-up events."""

import numpy as np
import pytest

from amstrax.calibration import drift
from amstrax.calibration.result import Result
from amstrax.exceptions import NoResult

GATE, CATHODE = 5_000.0, 39_500.0


def drift_times(n=2000, seed=0, width=30.0, background=0.03):
    rng = np.random.default_rng(seed)
    t = rng.uniform(GATE, CATHODE, n) + rng.normal(0, width, n)
    wrong = rng.random(n) < background
    t[wrong] = rng.uniform(0, 140_000, wrong.sum())
    return t


def test_density_is_normalised_and_falls_at_the_edge():
    from scipy.integrate import trapezoid

    t = np.linspace(3_000, 9_000, 20_001)
    for side in (1, -1):
        density = drift.edge_density(t, 5_500, 40.0, 0.4, 0.1, (3_000, 9_000), side)
        assert trapezoid(density, t) == pytest.approx(1, abs=1e-4)
        middle = density[np.argmin(np.abs(t - 5_500))]
        plateau = density[np.argmin(np.abs(t - 5_500 - side * 200))]
        assert 0.5 < middle / plateau < 0.62
        assert density[0 if side == 1 else -1] == pytest.approx(0.1 / 6_000)


def test_edges():
    gate, cathode = drift.find_edges(drift_times(), n_samples=20)
    for edge, true in ((gate, GATE), (cathode, CATHODE)):
        assert 0.5 < edge.bootstrap.error / edge.likelihood.error < 5
        assert abs(edge.likelihood.value - true) < 4 * edge.likelihood.error < 250
        assert edge.window[0] < true < edge.window[1]
    assert gate.likelihood.name == "drift_time_gate" and gate.side == 1
    assert cathode.likelihood.name == "drift_time_cathode" and cathode.side == -1


def test_pulls_of_edges():
    off, errors = [], []
    for seed in range(12):
        gate, cathode = (edge.likelihood for edge in drift.find_edges(drift_times(1200, seed)))
        off += [gate.value - GATE, CATHODE - cathode.value]
        errors += [gate.error, cathode.error]
    pulls = np.divide(off, errors)
    assert abs(np.mean(off)) < 50 and abs(np.mean(pulls)) < 0.8 and 0.7 < np.std(pulls) < 1.4


def test_sharp_and_wide_edges():
    for width in (0.0, 300.0):
        gate, cathode = drift.find_edges(drift_times(width=width))
        assert abs(gate.likelihood.value - GATE) < 4 * gate.likelihood.error
        assert abs(cathode.likelihood.value - CATHODE) < 4 * cathode.likelihood.error
    assert 150 < gate.width < 600


def test_too_few_and_no_edges():
    with pytest.raises(NoResult, match="20 drift times are too few"):
        drift.find_edges(drift_times(20))
    with pytest.raises(NoResult, match="0 drift times"):
        drift.find_edges(np.full(500, np.nan))
    with pytest.raises(NoResult, match="of the gate at about .* too few"):
        drift.find_edges(drift_times(200), (200_000.0, 300_000.0))
    with pytest.raises(NoResult, match="no edge of the drift times between"):
        drift.find_edges(drift_times(), (15_000.0, 30_000.0))


def test_velocity():
    gate = Result("drift_time_gate", 5_000.0, 4_990.0, 5_030.0, "ns", "")
    cathode = Result("drift_time_cathode", 39_500.0, 39_460.0, 39_540.0, "ns", "")
    found = drift.velocity(gate, cathode, 50.5)
    assert found.value == pytest.approx(50.5 / 34_500) and found.unit == "mm/ns"
    assert found.lower == pytest.approx(50.5 / (34_500 + np.hypot(40, 10)))
    assert found.upper == pytest.approx(50.5 / (34_500 - np.hypot(40, 30)))


def test_central_range():
    """Of a box, of a normal distribution, and of both, against random numbers."""
    assert drift.central_range(2000.0, 0.0) == pytest.approx(1800)
    assert drift.central_range(1.0, 100.0) == pytest.approx(2 * 164.485, rel=1e-3)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1000, 1000, 400_000) + rng.normal(0, 300, 400_000)
    assert drift.central_range(2000.0, 300.0) == pytest.approx(
        np.diff(np.quantile(x, (0.05, 0.95)))[0], rel=5e-3
    )


def test_diffusion():
    rng = np.random.default_rng(0)
    t = rng.uniform(GATE, CATHODE, 1000).astype(np.float32)
    spread = np.sqrt(2 * 26e-7 * t) / 1.46e-3
    width = np.array([drift.central_range(2000, s) for s in spread]) + rng.normal(0, 30, 1000)
    found = drift.find_diffusion(width.astype(np.float32), t, 1.46e-3)
    assert abs(found.result.value - 26) < 4 * found.result.error < 6
    assert found.transit_time == pytest.approx(2000, rel=0.01)
    with pytest.raises(NoResult, match="10 S2s are too few"):
        drift.find_diffusion(width[:10], t[:10], 1.46e-3)


def test_diffusion_of_few_electrons():
    """S2s of few electrons are narrower: their number mends it, and too few are refused."""
    rng = np.random.default_rng(1)
    t = rng.uniform(GATE, CATHODE, 1500)
    electrons = 250 * np.exp(-t / 40_000)
    spread = np.sqrt(2 * 26e-7 * t * (1 - 2.5 / electrons)) / 1.46e-3
    width = np.array([drift.central_range(2000, s) for s in spread]) + rng.normal(0, 20, 1500)
    low = drift.find_diffusion(width, t, 1.46e-3).result
    right = drift.find_diffusion(width, t, 1.46e-3, 20 * electrons, 20.0).result
    assert abs(right.value - 26) < 3 * right.error < 0.1 * 26
    assert low.value < right.value - 0.4
    with pytest.raises(NoResult, match="100 electrons or more in 0 of 10 slices"):
        drift.find_diffusion(width, t, 1.46e-3, 3 * electrons)
