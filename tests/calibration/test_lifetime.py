"""Electron lifetimes from made-up S2s."""

import numpy as np
import pytest

from amstrax.calibration import lifetime
from amstrax.exceptions import NoResult


def made_up(tau, n=1500, seed=0, background=0.0, spread=0.07):
    """Return S2 areas, drift times and radii of events, some of a continuum of lower energies."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(6_000, 38_500, n)
    r = 31 * np.sqrt(rng.random(n))
    log_area = np.log(8000) + rng.normal(0, spread, n)
    other = rng.random(n) < background
    log_area[other] = np.log(rng.uniform(300, 8000, other.sum()))
    return np.exp(log_area - t / tau + np.log(1 - 0.3 * (r / 31) ** 2)), t, r


@pytest.mark.parametrize("background", [0.0, 0.5], ids=["line", "continuum"])
@pytest.mark.parametrize("tau", [8e3, 30e3, 300e3])
def test_lifetimes(tau, background):
    found = lifetime.find_lifetime(*made_up(tau, background=background), 20)
    line = found.line
    assert abs(line.rate - 1 / tau) < 4 * line.rate_error < 0.25 / tau + 1e-6
    assert found.likelihood.lower < found.likelihood.value < found.likelihood.upper
    by_bootstrap = 1 / found.bootstrap.lower - 1 / found.bootstrap.upper
    assert by_bootstrap == pytest.approx(2 * line.rate_error, rel=0.7)
    assert line.area(0.0) == pytest.approx(8000 * 0.85, rel=0.06)
    assert found.limit < found.likelihood.lower


def test_spread_grows_with_drift_time():
    """Fewer electrons arrive from below: medians there have larger errors."""
    area, t, r = made_up(40e3, 3000, spread=0.0)
    area *= np.exp(np.random.default_rng(0).normal(0, 0.04 * np.exp(t / 30e3)))
    line = lifetime.fit_line(np.log(area), t, lifetime._rings(r, len(r)))
    expected = np.exp((line.time[-1] - line.time[0]) / 30e3)
    # The band cuts off some of the wider end
    assert 0.7 < line.median_error[-1] / line.median_error[0] / expected < 1.1


def test_pulls():
    """Errors by likelihood are right, of a line on a continuum too."""
    pulls = []
    for seed in range(40):
        t_y_ring = made_up(40e3, 600, seed, background=0.4)
        y, t, r = np.log(t_y_ring[0]), t_y_ring[1], t_y_ring[2]
        line = lifetime.fit_line(y, t, lifetime._rings(r, len(r)))
        pulls.append((line.rate - 1 / 40e3) / line.rate_error)
    assert abs(np.mean(pulls)) < 0.45 and 0.75 < np.std(pulls) < 1.3


def test_infinite_lifetime():
    found = lifetime.find_lifetime(*made_up(np.inf, seed=1), 20)
    assert found.likelihood.upper == np.inf
    assert 0 < found.limit < found.likelihood.lower < np.inf


def test_rings_remove_the_spread_of_light():
    areas, t, r = made_up(300e3)
    without = lifetime.find_lifetime(areas, t, None, 10).line
    assert lifetime.find_lifetime(areas, t, r, 10).line.rate_error < 0.8 * without.rate_error
    # Unknown radii count as a ring
    r[::3] = np.nan
    some = lifetime.find_lifetime(areas, t, r, 10).line
    assert abs(some.rate - 1 / 300e3) < 4 * some.rate_error


def test_no_lifetime():
    areas, t, r = made_up(30e3, 90)
    with pytest.raises(NoResult, match="90 events .* are too few: take 100"):
        lifetime.find_lifetime(areas, t, r)
    with pytest.raises(NoResult, match="0 events"):
        lifetime.find_lifetime(areas[:0], t[:0], r[:0])
    areas, t, r = made_up(-30e3)
    with pytest.raises(NoResult, match="S2s rise with drift time"):
        lifetime.find_lifetime(areas, t, r)


def events_of(areas, t, r, saturated=0.0):
    dtype = [
        ("s2_area", "f4"),
        ("drift_time", "f4"),
        ("r", "f4"),
        ("s2_n_saturated_channels", "i2"),
    ]
    events = np.zeros(len(t), dtype)
    events["s2_area"], events["drift_time"], events["r"] = areas, t, r
    events["s2_n_saturated_channels"][: int(saturated * len(t))] = 2
    return events


def test_events():
    """Events without S2, drift time or position are left out, and those outside of ranges."""
    events = events_of(*made_up(30e3))
    events["drift_time"][:50] = np.nan
    events["s2_area"][50:100] = np.nan
    events["drift_time"][100:110] = 130_000
    used, found = lifetime.lifetime_of_events(events, n_samples=10)
    assert 1300 < len(used) < 1400 and used["drift_time"].max() < 38_500
    assert abs(found.line.rate - 1 / 30e3) < 4 * found.line.rate_error
    used, _ = lifetime.lifetime_of_events(events, (1000, 3000), (10_000, 30_000), n_samples=10)
    assert used["s2_area"].max() < 3000 and used["drift_time"].min() >= 10_000
    with pytest.raises(NoResult):
        lifetime.lifetime_of_events(events[:0])


def test_saturated_s2s():
    events = events_of(*made_up(30e3), saturated=0.3)
    with pytest.raises(NoResult, match="% of the S2s have saturated channels.*--allow_saturated"):
        lifetime.lifetime_of_events(events)
    assert len(lifetime.lifetime_of_events(events, allow_saturated=True, n_samples=10)[0]) > 1400
