"""Numbers of a run for trends, of arrays with known numbers, and limits on them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from amstrax.calibration import trends
from amstrax.exceptions import InvalidOption

EVENTS = np.dtype([(name, np.float64) for name in trends.EVENT_COLUMNS])


def line(n, lifetime=40_000.0, gate=5_000.0, cathode=39_000.0, seed=0):
    """Events of 10 keV at all depths, with 50 PE in S1 and 2000 PE in S2 per event."""
    rng = np.random.default_rng(seed)
    events = np.zeros(n, EVENTS)
    events["drift_time"] = rng.uniform(gate, cathode, n)
    size = rng.normal(1, 0.05, n)
    events["s2_area"] = 2000 * size * np.exp(-events["drift_time"] / lifetime)
    events["cs1"], events["cs2"] = 50 * rng.normal(1, 0.1, n), 2000 * size
    events["r"] = rng.uniform(0, 25, n)
    return events


def test_events():
    values, reasons = trends.of_events(line(3000), 60.0, 10.0)
    assert not reasons and values["event_rate"] == 50
    assert abs(values["elife"] - 40_000) < 4 * values["elife_error"] < 8_000
    assert values["drift_time_gate"] == pytest.approx(5_000, abs=200)
    assert values["drift_time_cathode"] == pytest.approx(39_000, abs=200)
    assert values["light_yield"] == pytest.approx(5, rel=0.02)
    assert values["charge_yield"] == pytest.approx(200, rel=0.02)


@pytest.mark.parametrize("n", [0, 10])
def test_too_few_events(n):
    values, reasons = trends.of_events(line(n), 10.0, 10.0)
    assert values == {"event_rate": n / 10}
    assert {"elife", "drift_time_gate", "drift_time_cathode", "light_yield"} <= reasons.keys()
    assert trends.of_events(line(n), 0.0)[1]["event_rate"] == "no live time"


def test_peaks_and_electrons():
    types = np.array([0, 1, 1, 2])
    assert trends.of_peaks(types, 2.0) == ({"s1_rate": 1, "s2_rate": 0.5}, {})
    assert trends.of_peaks(types, 0.0).values == {}
    peaks = np.zeros(3, [(name, np.float64) for name in trends.ELECTRON_COLUMNS])
    assert "se_gain" in trends.of_electrons(peaks).reasons


def test_channels():
    numbers = {0: {"baseline": 100.0, "noise": np.nan}, 2: {"baseline": 90.0}}
    part = trends.of_channels(numbers, {0: 500.0, 2: 30.0}, np.array([0.01, 1.0, 0.0]))
    assert part.values == {"baseline_0": 100, "baseline_2": 90, "gain_0": 0.01, "pe_rate_0": 5}
    assert part.reasons.keys() == {"gain_2", "pe_rate_2"}
    assert "gain_0" in trends.of_channels(numbers, {0: 1.0}, None).reasons


@settings(max_examples=50, deadline=None, database=None)
@given(value=some.floats(-100, 100), low=some.floats(-50, 0), high=some.floats(0, 50))
def test_broken(value, low, high):
    limits = trends.check_limits({"baseline": [low, high], "s1_rate": [None, high]})
    is_bad = not low <= value <= high
    assert len(trends.broken({"baseline_3": value}, limits)) == is_bad
    assert len(trends.broken({"s1_rate": value}, limits)) == (value > high)
    assert trends.broken({"noise_3": value}, limits) == []


@pytest.mark.parametrize(
    "limits",
    [
        {"s1_rat": [1, 2]},
        {"drift_7": [1, 2]},
        {"s1_rate": [2, 1]},
        {"s1_rate": [1]},
        {"s1_rate": "12"},
        {"s1_rate": [True, 2]},
        {"s1_rate": [float("nan"), 2]},
    ],
)
def test_wrong_limits(limits):
    with pytest.raises(InvalidOption):
        trends.check_limits(limits)


def test_names():
    assert trends.quantity_of("pulse_rate_12") == ("pulse_rate", 12)
    assert trends.quantity_of("s1_rate") == ("s1_rate", None)
    assert trends.unit_of("gain_3") == "PE per ADC count x sample"
