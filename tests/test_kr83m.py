"""The two S1s of Kr-83m in each event: the fit, the data type on truth, and the half-life."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from make_runs import RUN_ID, context, pulses, write_run

from amstrax.calibration import kr83m
from amstrax.exceptions import InvalidOption, NoResult
from amstrax.plugins.event_processing import Quality
from amstrax.processing import splitting

PROPERTY = settings(max_examples=50, deadline=None, database=None)
DECAY, SPREAD = 27.0, 9.0


def waveform(start, delay, first, second, n=250):
    """Return the expected waveform of two S1s [PE/sample]."""
    return first * splitting.pulse_shape(n, DECAY, SPREAD, start) + second * splitting.pulse_shape(
        n, DECAY, SPREAD, start + delay
    )


def test_pulse_shape():
    shape = splitting.pulse_shape(100, DECAY, SPREAD, 203.0)
    assert shape.sum() == pytest.approx(1, abs=1e-6) and (shape >= 0).all()
    mean = (shape * (np.arange(100) + 0.5) * splitting.SAMPLE).sum()
    assert mean == pytest.approx(203 + DECAY, abs=0.5)


@PROPERTY
@given(
    start=some.floats(180, 220), delay=some.floats(60, 1900),
    first=some.floats(50, 400), ratio=some.floats(0.2, 1.2),
)  # fmt: skip
def test_fit_without_noise(start, delay, first, ratio):
    pairs = splitting.fit_pairs(waveform(start, delay, first, ratio * first)[None], DECAY, SPREAD)
    assert pairs.start[0] == pytest.approx(start, abs=2.5)
    assert pairs.delay[0] == pytest.approx(delay, abs=2.5)
    assert pairs.first[0] == pytest.approx(first, rel=0.1)
    assert pairs.second[0] == pytest.approx(ratio * first, rel=0.1)
    assert pairs.gain[0] > 1


def test_one_s1_gains_nothing_by_a_second():
    rng = np.random.default_rng(2)
    waveforms = rng.poisson(150 * splitting.pulse_shape(250, DECAY, SPREAD, 203.0), (500, 250))
    gain = splitting.fit_pairs(waveforms, DECAY, SPREAD).gain
    # 2 x gain follows about chi2, with the choice among many delays
    assert (gain > 10).mean() < 0.01 and np.nanmedian(gain) < 3


def test_fit_of_nothing():
    for n in (0, 3):
        pairs = splitting.fit_pairs(np.zeros((n, 50)), DECAY, SPREAD)
        assert all(column.shape == (n,) and np.isnan(column).all() for column in pairs)


def test_join_waveforms():
    dtype = [("time", np.int64), ("length", np.int32), ("dt", np.int32), ("data", "f4", (4,))]
    peaks = np.array(
        [
            (1_000, 3, 10, [1, 2, 3, 9]),
            (1_040, 2, 20, [4, 6, 9, 9]),
            (1_080, 4, 10, [1, 1, 1, 1]),
            (5_000, 1, 10, [7, 9, 9, 9]),
        ],
        dtype=dtype,
    )
    found = splitting.join_waveforms(peaks, np.array([0, 0, 0, 1]), np.array([990, 5_000]), 10)
    expected = [[0, 1, 2, 3, 0, 2, 2, 3, 3, 1], [7] + 9 * [0]]
    np.testing.assert_array_equal(found, expected)
    nothing = np.zeros(0, dtype=np.int64)
    assert splitting.join_waveforms(peaks[:0], nothing, nothing, 5).shape == (0, 5)


def test_half_life_of_drawn_delays():
    """Pulls over 200 samples, and the truncation of the exponential."""
    rng = np.random.default_rng(1)
    pulls = []
    for _ in range(200):
        delays = rng.exponential(154.4 / np.log(2), 500)
        found = kr83m.half_life(delays, 100, 750)
        side = found.upper - found.value if found.value < 154.4 else found.value - found.lower
        pulls.append((found.value - 154.4) / side)
    assert abs(np.mean(pulls)) < 0.2 and 0.85 < np.std(pulls) < 1.15
    assert (found.name, found.unit) == ("kr83m_half_life", "ns") and "500" not in found.method


@pytest.mark.parametrize("delays", [np.zeros(0), np.full(19, 200.0), np.full(1000, 700.0)])
def test_no_half_life(delays):
    with pytest.raises(NoResult, match="half-life of Kr-83m"):
        kr83m.half_life(delays, 100, 750)


@pytest.mark.parametrize("limits", [(-1, 5), (5, 5), (0, np.inf), (np.nan, 3)])
def test_impossible_limits(limits):
    with pytest.raises(InvalidOption, match="shortest < longest"):
        kr83m.half_life(np.arange(100.0), *limits)


def load(st, run_id, *targets):
    return st.get_array(run_id, targets, progress_bar=False)


def test_on_truth(kr83m_run):
    """Of pairs at least 60 ns apart, at least 98 % are found, with the true delay and areas."""
    found = load(kr83m_run, "100001", "event_kr83m")
    deposits = load(kr83m_run, "100001", "truth_deposits")
    first, second = deposits[::2], deposits[1::2]
    true = second["time"] - first["time"]
    row = np.searchsorted(first["time"], found["s1_a_time"] + 60) - 1
    has_pair = (true[row] > 60) & (found["s1_a_time"] - first["time"][row] > -60)
    assert has_pair.sum() > 400
    good = found["kr_quality"] >= Quality.MERGED
    assert (good & has_pair).sum() >= 0.98 * has_pair.sum()
    both = good & has_pair
    off = found["s1_delay"][both] - true[row][both]
    assert np.abs(off).max() < 40 and off.std() < 6 and abs(off.mean()) < 1
    for area, truth in (("s1_a_area", first["s1_pe"]), ("s1_b_area", second["s1_pe"])):
        assert np.median(found[area][both] / truth[row][both]) == pytest.approx(0.98, abs=0.04)
    # Far apart they are two peaks, near each other one
    separate = found["kr_quality"] == Quality.SEPARATE
    assert separate[both & (true[row] > 700)].all() and separate[true[row] < 100].mean() < 0.02
    assert (found["s1_n_peaks"][separate] > 1).all()
    result = kr83m.half_life(found["s1_delay"][good], 100, 750)
    assert abs(result.value - 154.4) < 3 * result.error


def test_single_scatters_are_no_pairs(flat_run):
    found = load(flat_run, "100002", "event_kr83m")
    assert len(found) > 150
    assert (found["kr_quality"] >= Quality.MERGED).mean() < 0.01


def test_options_are_checked(tmp_path):
    write_run(tmp_path, pulses([1_000_000]))
    for option in ({"kr83m_min_delay": 3000}, {"kr83m_decay_time": 0}, {"kr83m_spread": np.nan}):
        with pytest.raises(InvalidOption, match=next(iter(option))):
            context(tmp_path, **option).get_single_plugin(RUN_ID, "event_kr83m")
