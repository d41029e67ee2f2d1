"""Pulse shapes: hand-made waveforms, likelihood by scipy, and pulls on drawn decays."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from amstrax.processing.pulse_shape import areas_before, decay_times, pulse_shapes, rise_times

DT = np.array([10.0])


def exponentials(tau, n=60, first=3, size=1000.0):
    """Return waveforms that start at sample `first` and fall with decay times `tau` [ns]."""
    j = np.arange(n) - first
    x = np.exp(-j * 10 / np.asarray(tau, dtype=float)[:, np.newaxis])
    return np.where(j >= 0, size * x, 0)


def test_hand_made():
    data = np.array([[0, 2, 6, 8, 4, 0, 0.0], [8, 4, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, -1]])
    # Half is 4: midway between the middles of samples 1 and 2; in the first sample: its middle less
    np.testing.assert_allclose(rise_times(data, np.repeat(DT, 3)), [20, 0, np.nan])
    np.testing.assert_allclose(
        areas_before(data, np.array([25.0, 5, 1000]), np.repeat(DT, 3)), [5, 4, -1]
    )
    shape = pulse_shapes(data, np.repeat(DT, 3), 15, 30, 200, 1.5)
    np.testing.assert_allclose(shape.prompt_fraction, [12 / 20, 10 / 14, np.nan])


def test_exact_decays_give_their_time():
    tau = np.array([15.0, 27, 45, 100])
    data, dt = exponentials(tau), np.full(4, 10.0)
    for first, n in ((3, 20), (6, 20), (6, 5)):
        found, error = decay_times(data, dt, np.full(4, first), np.full(4, n), 1.5)
        np.testing.assert_allclose(found, tau, rtol=1e-6)
        assert (error > 0).all()
    # Of long tails the error is that of an exponential: tau / sqrt(area / fano)
    area = exponentials([100.0], n=200)[:, 3:].sum()
    found, error = decay_times(
        exponentials([100.0], n=200), DT, np.array([3]), np.array([190]), 1.5
    )
    assert error[0] == pytest.approx(100 * np.sqrt(1.5 / area), rel=0.01)


def test_against_scipy():
    rng = np.random.default_rng(1)
    data = rng.poisson(exponentials(np.full(20, 27.0), size=30)).astype(np.float32)
    found, _ = decay_times(data, np.full(20, 10.0), np.full(20, 5), np.full(20, 12), 1.5)
    j = np.arange(12)
    for row, tau in zip(data[:, 5:17], found, strict=True):

        def loss(log_tau, row=row):
            p = np.exp(-j * 10 / np.exp(log_tau))
            return -(row * np.log(p / p.sum())).sum()

        best = minimize_scalar(loss, bounds=(np.log(3), np.log(1000)), method="bounded")
        assert tau == pytest.approx(np.exp(best.x), rel=1e-3)


def test_errors_on_truth():
    """Poisson light: fano is 1."""
    rng = np.random.default_rng(2)
    data = rng.poisson(exponentials(np.full(2000, 27.0), size=40))
    dt, first, n = np.full(2000, 10.0), np.full(2000, 5), np.full(2000, 20)
    found, error = decay_times(data, dt, first, n, 1)
    pull = (found - 27) / error
    assert abs(pull.mean()) < 0.15 and 0.9 < pull.std() < 1.15


@pytest.mark.parametrize(
    "wave", [np.ones(30), np.arange(30.0), np.zeros(30), -np.ones(30), np.eye(30)[5] * 100]
)
def test_no_decay(wave):
    """Light that does not fall, none, negative, or in one sample."""
    found, error = decay_times(wave[np.newaxis], DT, np.array([5]), np.array([20]), 1.5)
    assert np.isnan(found).all() and np.isnan(error).all()


def test_beyond_the_waveform_and_empty():
    for first in (-3, 30, 500):
        found, _ = decay_times(np.ones((1, 30)), DT, np.array([first]), np.array([20]), 1.5)
        assert np.isnan(found).all() or first == -3
    shape = pulse_shapes(np.zeros((0, 200), np.float32), np.zeros(0, np.int32), 15, 30, 200, 1.5)
    assert all(len(values) == 0 for values in shape)


def test_other_waveforms_of_a_batch_do_not_matter():
    """Chunks decide what is computed together."""
    rng = np.random.default_rng(1)
    data = rng.poisson(exponentials(rng.uniform(10, 2000, 50), size=20)) * 1.0
    dt, n = np.full(50, 10.0), rng.integers(2, 57, 50)
    first = rng.integers(0, 5, 50)
    found = decay_times(data, dt, first, n, 1.5)
    times = rng.uniform(0, 600, 50)
    areas = areas_before(data, times, dt)
    for i in range(50):
        one = slice(i, i + 1)
        alone = decay_times(data[one], dt[one], first[one], n[one], 1.5)
        np.testing.assert_array_equal([x[0] for x in alone], [x[i] for x in found])
        assert areas_before(data[one], times[one], dt[one])[0] == areas[i]
