"""The running-mean baseline: by hand, by properties, and against its plain-Python twin."""

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.exceptions import InvalidOption, LiveDataCorrupted
from amstrax.processing import running_baseline
from amstrax.processing.running_baseline import keep_hits, subtract_running_mean

PROPERTY = settings(max_examples=40, deadline=None, database=None)
SAMPLES, DT = 10, 2
DTYPE = np.dtype(strax.raw_record_dtype(SAMPLES))


def make_raw(*pulses):
    """Return fragments of pulses: (time, channel, samples) each."""
    rows = []
    for time, channel, samples in pulses:
        for record_i in range(-(-len(samples) // SAMPLES)):
            part = samples[record_i * SAMPLES : (record_i + 1) * SAMPLES]
            row = np.zeros(1, dtype=DTYPE)
            row["time"] = time + record_i * SAMPLES * DT
            row["channel"], row["record_i"], row["dt"] = channel, record_i, DT
            row["length"], row["pulse_length"] = len(part), len(samples)
            row["data"][0, : len(part)] = part
            row["data"][0, len(part) :] = 77  # must not be looked at
            rows.append(row)
    return strax.sort_by_time(np.concatenate(rows)) if rows else np.zeros(0, dtype=DTYPE)


def samples_of(records, channel=0):
    """Return the data of a channel's records, one after the other."""
    own = records[records["channel"] == channel]
    return np.concatenate([r["data"][: r["length"]] for r in own]).tolist()


@pytest.mark.parametrize(
    ("samples", "data", "baselines"),
    [
        pytest.param([100] * 10, [0] * 10, [100], id="nothing there"),
        # 100 100 | 90 is signal, and the mean stays at 100
        pytest.param(
            [100, 100, 90, 60, 100, 100, 100, 100, 100, 100],
            [0, 0, 10, 40, 0, 0, 0, 0, 0, 0],
            [100],
            id="a signal",
        ),
        # Mean of two; rms of (100, 104) is 2, so from 10 on there is signal. By hand:
        # mean 102 | 104: -2; then 104 of (104, 104) | 98: 6; 101 of (104, 98) | 98: 3; 98 | 98: 0
        pytest.param(
            [100, 104, 104, 98, 98, 98, 98, 98, 98, 98],
            [2, -2, -2, 6, 3, 0, 0, 0, 0, 0],
            [100],
            id="a step that is followed",
        ),
        # The mean goes on from fragment to fragment: 100, and signal over the boundary
        pytest.param(
            [100] * 8 + [70] * 4 + [100] * 3,
            [0] * 8 + [30] * 4 + [0] * 3,
            [100, 100],
            id="signal in two fragments",
        ),
    ],
)
def test_by_hand(samples, data, baselines):
    records = subtract_running_mean(make_raw((1000, 0, samples)), 2, 5)
    assert samples_of(records) == data
    assert records["baseline"].tolist() == baselines
    assert records["area"].sum() == sum(data)
    assert (records["data"][:, :][np.arange(SAMPLES) >= records["length"][:, None]] == 0).all()


def test_noise_is_at_least_that_of_rounding():
    records = subtract_running_mean(make_raw((0, 0, [100] * 10)), 4, 5)
    assert records["baseline_rms"] == pytest.approx(12**-0.5)


def test_pulses_that_go_up():
    records = subtract_running_mean(make_raw((0, 0, [5, 5, 30, 5])), 2, 5, flip=False)
    assert samples_of(records) == [0, 0, 25, 0]


def test_channels_do_not_mix():
    one, other = [100] * 5 + [80] + [100] * 14, [300] * 13 + [250] * 2 + [300] * 5
    both = subtract_running_mean(make_raw((0, 0, one), (4, 3, other)), 3, 5)
    assert samples_of(both, 0) == [100 - x for x in one]
    assert samples_of(both, 3) == [300 - x for x in other]


def test_fragment_without_the_one_before_begins_anew():
    raw = make_raw((0, 0, [100] * 10 + [200] * 10))
    assert samples_of(subtract_running_mean(raw, 3, 5))[10:13] == [-100, -67, -33]
    assert samples_of(subtract_running_mean(raw[1:], 3, 5)) == [0] * 10
    # Neither does the next pulse of a channel know of the one before
    raw = make_raw((0, 0, [100] * 10), (1000, 0, [200] * 10))
    assert samples_of(subtract_running_mean(raw, 3, 5)) == [0] * 20


def test_no_records():
    assert len(subtract_running_mean(make_raw(), 3, 5)) == 0
    assert len(keep_hits(subtract_running_mean(make_raw(), 3, 5), 5, 1, 1)) == 0


@pytest.mark.parametrize(
    ("n_samples", "n_sigma", "message"),
    [(1, 5, "1 samples"), (11, 5, "2 to 10"), (5, 0, "0 standard"), (5, np.inf, "inf standard")],
)
def test_values_that_make_no_sense(n_samples, n_sigma, message):
    with pytest.raises(InvalidOption, match=message):
        subtract_running_mean(make_raw((0, 0, [1] * 10)), n_samples, n_sigma)


def test_negative_channel():
    with pytest.raises(LiveDataCorrupted, match="-1"):
        subtract_running_mean(make_raw((0, -1, [1] * 10)), 3, 5)


PULSES = st.lists(
    st.tuples(
        st.integers(0, 3), st.lists(st.integers(-2000, 16000), min_size=1, max_size=3 * SAMPLES)
    ),
    max_size=5,
)


def raw_of(drawn, shift=0):
    """Return raw records of pulses that follow each other."""
    return make_raw(
        *((1000 * i, c, [x + shift for x in samples]) for i, (c, samples) in enumerate(drawn))
    )


@PROPERTY
@given(PULSES, st.integers(2, SAMPLES), st.floats(0.5, 10))
def test_plain_python_twin(drawn, n_samples, n_sigma):
    raw = raw_of(drawn)
    records = subtract_running_mean(raw, n_samples, n_sigma)
    twin = np.zeros(len(raw), dtype=records.dtype)
    for field in ("time", "length", "dt", "channel", "pulse_length", "record_i"):
        twin[field] = raw[field]
    if len(raw):
        running_baseline._running_mean.py_func(twin, raw["data"], n_samples, n_sigma, -1)
    np.testing.assert_array_equal(records, twin)


@PROPERTY
@given(PULSES, st.integers(2, SAMPLES), st.integers(-1000, 1000))
def test_baseline_does_not_matter(drawn, n_samples, shift):
    """The same pulses on another baseline are the same, but for the rounding of halves."""
    one = subtract_running_mean(raw_of(drawn), n_samples, 5)
    other = subtract_running_mean(raw_of(drawn, shift), n_samples, 5)
    assert (abs(one["data"].astype(int) - other["data"]) <= 1).all()
    assert (abs(other["baseline"] - one["baseline"] - shift) <= 1).all()


@PROPERTY
@given(st.floats(-0.5, 0.5), st.integers(0, 2**32 - 1))
def test_slow_drift_is_followed(slope, seed):
    """A baseline that drifts stays within a few counts of zero, where a fixed one is far off."""
    rng = np.random.default_rng(seed)
    n = 40 * SAMPLES
    samples = np.round(8000 + slope * np.arange(n) + rng.normal(0, 3, n)).astype(int).tolist()
    records = subtract_running_mean(make_raw((0, 0, samples)), SAMPLES, 8)
    # The mean lags by half of its samples, besides its own noise
    assert abs(np.mean(samples_of(records))) < abs(slope) * SAMPLES / 2 + 3


def test_hits_are_kept_with_what_is_around():
    samples = [100, 101, 99, 100] * 2 + [100, 99] + [70, 60, 98, 100] + [100] * 6
    records = subtract_running_mean(make_raw((0, 0, samples)), 8, 5)
    hits = keep_hits(records, 5, left=1, right=2)
    assert hits["time"].tolist() == [10 * DT] and hits["length"].tolist() == [2]
    data = samples_of(records)
    assert data[:9] == [0] * 9 and data[14:] == [0] * 6
    assert data[10:12] == [30, 40] and data[9] in (0, 1) and data[12] == 2
    assert records["area"].sum() == sum(data)
    assert (records["reduction_level"] == strax.ReductionLevel.HITS_ONLY).all()
