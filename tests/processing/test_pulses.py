"""Baselines, integrals, pulse counts and checks of records."""

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amstrax.exceptions import LiveDataCorrupted, PulsesOverlap
from amstrax.processing import pulses

PROPERTY = settings(max_examples=50, deadline=None, database=None)
SAMPLES, DT = 10, 10
DTYPE = np.dtype(strax.raw_record_dtype(SAMPLES))
RECORD_DTYPE = np.dtype(strax.record_dtype(SAMPLES))


def make_raw(data, length=SAMPLES, channel=0, record_i=0, time=None):
    raw = np.zeros(len(data), dtype=DTYPE)
    raw["time"] = np.arange(len(data)) * SAMPLES * DT if time is None else time
    raw["data"] = np.reshape(data, (-1, SAMPLES))
    raw["length"] = length
    raw["channel"] = channel
    raw["record_i"] = record_i
    raw["pulse_length"] = 20
    raw["dt"] = DT
    return raw


def assert_same(left, right):
    assert left.dtype == right.dtype
    for field in left.dtype.names:
        np.testing.assert_array_equal(left[field], right[field], err_msg=field)


def strax_records(raw, baseline_samples, flip, sloppy):
    records = strax.raw_to_records(raw)
    strax.zero_out_of_bounds(records)
    strax.baseline(
        records, baseline_samples=baseline_samples, flip=flip, allow_sloppy_chunking=sloppy
    )
    strax.integrate(records)
    return records


def test_whole_baseline():
    raw = make_raw([[100, 102, 101, 101, 90, 80, 101, 101, 7, 7]], length=8)
    record = pulses.raw_to_records(raw, baseline_samples=4)[0]
    # 7s are beyond the length; mean 101, deviations -1, 1, 0, 0
    assert record["data"].tolist() == [1, -1, 0, 0, 11, 21, 0, 0, 0, 0]
    assert record["baseline"] == 101
    assert record["baseline_rms"] == np.float32(np.sqrt(0.5))
    assert record["area"] == 32
    assert [record[f] for f in ("time", "length", "dt", "pulse_length")] == [0, 8, DT, 20]
    unflipped = pulses.raw_to_records(raw, baseline_samples=4, flip=False)[0]
    assert unflipped["data"].tolist() == [-1, 1, 0, 0, -11, -21, 0, 0, 0, 0]
    assert unflipped["area"] == -32


def test_part_of_baseline_behind_the_point_is_in_the_area():
    raw = make_raw([[100, 100, 100, 102, 90, 100, 100, 100, 0, 0]], length=8)
    record = pulses.raw_to_records(raw, baseline_samples=4)[0]
    assert record["baseline"] == 100.5
    assert record["data"].tolist() == [0, 0, 0, -2, 10, 0, 0, 0, 0, 0]
    assert record["area"] == 8 + 4  # the sum, and 0.5 x 8 samples


def test_blanked_samples_count_in_the_baseline_of_a_short_pulse():
    raw = make_raw([[100, 100, 55, 55, 0, 0, 0, 0, 0, 0]], length=2)
    record = pulses.raw_to_records(raw, baseline_samples=4)[0]
    assert record["baseline"] == 50
    assert record["data"].tolist() == [-50, -50] + [0] * 8


def test_later_fragments_take_the_baseline_of_their_channel():
    data = [[200] * SAMPLES, [300] * SAMPLES, [190] * SAMPLES, [310] * SAMPLES, [0] * SAMPLES]
    raw = make_raw(data, channel=[0, 3, 0, 3, 3], record_i=[0, 0, 1, 1, 0])
    records = pulses.raw_to_records(raw, baseline_samples=10)
    assert records["baseline"].tolist() == [200, 300, 200, 300, 0]
    assert records["data"][:, 0].tolist() == [0, 0, 10, -10, 0]
    assert records["area"].tolist() == [0, 0, 100, -100, 0]


def test_fragment_without_a_beginning():
    raw = make_raw([[15_990] * SAMPLES, [100] * SAMPLES], channel=[2, 1], record_i=[3, 0])
    sloppy = pulses.raw_to_records(raw, 4, allow_sloppy_chunking=True)
    assert sloppy["baseline"].tolist() == [16_000, 100]
    assert np.isnan(sloppy["baseline_rms"]).tolist() == [True, False]
    assert sloppy["data"][0].tolist() == [10] * SAMPLES
    lower = pulses.raw_to_records(raw, 4, allow_sloppy_chunking=True, fallback_baseline=15_980)
    assert lower["data"][0].tolist() == [-10] * SAMPLES
    raw["time"][0] = 4321
    with pytest.raises(LiveDataCorrupted, match=r"fragment 3 .* channel 2 at 4321 ns") as error:
        pulses.raw_to_records(raw, 4)
    assert isinstance(error.value, ValueError)


def test_negative_channel_is_refused():
    raw = make_raw([[1] * SAMPLES] * 2, channel=[0, -3], time=[5, 77])
    with pytest.raises(LiveDataCorrupted, match=r"77 ns has the channel number -3"):
        pulses.raw_to_records(raw, 4)


def test_baseline_per_channel_leaves_what_is_beyond_the_length():
    records = np.zeros(1, dtype=RECORD_DTYPE)
    records["data"] = 50
    records["data"][0, 8:] = 7
    records["length"] = 8
    pulses.baseline_per_channel(records, baseline_samples=4)
    assert records["data"][0].tolist() == [0] * 8 + [7, 7]
    assert records["area"][0] == 0


@st.composite
def raw_records(draw, low=-(2**15), high=2**15 - 1):
    n = draw(st.integers(0, 8))
    column = lambda elements: draw(st.lists(elements, min_size=n, max_size=n))  # noqa: E731
    data = draw(arrays(np.int16, (n, SAMPLES), elements=st.integers(low, high)))
    return make_raw(
        data,
        length=column(st.integers(0, SAMPLES)),
        channel=column(st.integers(0, 3)),
        record_i=column(st.sampled_from([0, 0, 0, 1, 2])),
    )


@pytest.mark.parametrize("flip", [True, False])
@PROPERTY
@given(raw=raw_records(), baseline_samples=st.integers(1, 12))
def test_equals_strax_bit_for_bit(flip, raw, baseline_samples):
    ours = pulses.raw_to_records(raw, baseline_samples, flip=flip, allow_sloppy_chunking=True)
    assert_same(ours, strax_records(raw, baseline_samples, flip, sloppy=True))
    in_place = strax.raw_to_records(raw)
    pulses.baseline_per_channel(in_place, baseline_samples, flip, allow_sloppy_chunking=True)
    theirs = strax.raw_to_records(raw)
    strax.baseline(theirs, baseline_samples, flip=flip, allow_sloppy_chunking=True)
    assert_same(in_place, theirs)


@PROPERTY
@given(raw=raw_records(0, 2**14 - 1), baseline_samples=st.integers(1, 12))
def test_floor_makes_positive_pulses_the_mirror_image_of_negative_ones(raw, baseline_samples):
    """Waveforms are the same but for the side on which the part behind the point is."""
    turned = raw.copy()
    turned["data"] = -turned["data"]
    options = dict(baseline_samples=baseline_samples, allow_sloppy_chunking=True, floor=True)
    down = pulses.raw_to_records(raw, flip=False, **options)
    up = pulses.raw_to_records(turned, flip=True, fallback_baseline=16000 - 16383, **options)
    default = pulses.raw_to_records(raw, flip=False, **options | {"floor": False})
    assert_same(down, default)  # baselines of 0 and more are as they were
    for record, other in zip(down, up, strict=True):
        if not np.isnan(record["baseline_rms"]):
            assert other["baseline"] == -record["baseline"]
            n = record["length"]
            exact = [
                x["data"][:n] + s * (np.float64(x["baseline"]) % 1)
                for x, s in ((record, -1), (other, 1))
            ]
            np.testing.assert_allclose(*exact, atol=1e-3)
            assert abs(other["area"] - exact[1].sum()) <= 0.5 + 1e-3 * SAMPLES


@pytest.mark.parametrize(("floor", "mean"), [(False, 1), (True, 0)])
def test_quiet_samples_of_positive_pulses(floor, mean):
    """Counts of 400 and 401 in turn, turned over by the reader: the baseline is -400.5."""
    raw = make_raw([[-400, -401] * (SAMPLES // 2)])
    record = pulses.raw_to_records(raw, 10, floor=floor)[0]
    assert record["baseline"] == -400.5
    assert (record["data"] + record["baseline"] % 1).mean() == mean
    assert record["area"] == mean * SAMPLES
    records = np.array([record])
    counts = pulses.count_pulses(records, 1, 0, 1000, floor)
    assert counts["baseline_mean"][0, 0] == (-401 if floor else -400)


def test_fallback_baseline_of_positive_pulses():
    """16000 of 16383 counts for pulses that go down is 383 for those that go up."""
    raw = make_raw([[-390] * SAMPLES, [15_990] * SAMPLES], channel=[2, 1], record_i=[3, 3])
    records = pulses.raw_to_records(raw, 4, allow_sloppy_chunking=True, floor=True)
    assert records["baseline"].tolist() == [-383, 16_000]
    assert records["data"][:, 0].tolist() == [7, 10]


def subtract_baseline(kernel, raw, sign, sloppy, make_new, floor=False):
    """Return what a kernel returns, and the records that it makes of raw ones."""
    records = strax.raw_to_records(raw)
    columns = pulses._Raw.of(raw), pulses._Records.of(records)
    n_channels = int(raw["channel"].max()) + 1
    return kernel(*columns, make_new, n_channels, 4, sign, sloppy, 90, floor), records


# Small numbers: plain Python adds int16 up in int16
@PROPERTY
@given(
    raw_records(-100, 100).filter(len), st.sampled_from([1, -1]), st.tuples(*[st.booleans()] * 3)
)
def test_subtract_baseline_equals_plain_python(raw, sign, switches):
    kernel = pulses._subtract_baseline
    fast, fast_records = subtract_baseline(kernel, raw, sign, *switches)
    slow, slow_records = subtract_baseline(kernel.py_func, raw, sign, *switches)
    assert fast == slow
    assert_same(fast_records, slow_records)


# time, channel, record_i, pulse_length, area, baseline, baseline rms
PULSES = [
    (100, 0, 0, 10, 5, 10.5, 1.0),  # alone: 100 to 200
    (300, 1, 0, 15, 7, 20.0, 2.0),  # its second fragment starts before it ends at 450
    (400, 1, 1, 15, 2, 20.0, 2.0),
    (460, 2, 0, 10, 9, 30.0, 3.0),  # alone: the one before has ended at 450
    (600, 0, 0, 10, 11, 13.5, 2.0),  # ends at 700, when the next starts
    (700, 1, 0, 10, 13, 21.0, 4.0),  # starts at 700, when the one before ends
    (900, 0, 0, 10, 17, 12.0, 3.0),  # the last
]


def make_records(rows):
    records = np.zeros(len(rows), dtype=RECORD_DTYPE)
    fields = ("time", "channel", "record_i", "pulse_length", "area", "baseline", "baseline_rms")
    for field, values in zip(fields, zip(*rows, strict=True), strict=False):
        records[field] = values
    records["dt"] = DT
    records["length"] = np.clip(records["pulse_length"] - SAMPLES * records["record_i"], 0, SAMPLES)
    return records


def test_count_pulses():
    counts = pulses.count_pulses(make_records(PULSES), 4, 50, 1500)
    assert counts.shape == (1,)
    assert (counts["time"][0], counts["endtime"][0]) == (50, 1500)
    assert counts["pulse_count"][0].tolist() == [3, 2, 1, 0]
    assert counts["lone_pulse_count"][0].tolist() == [1, 0, 1, 0]
    assert counts["pulse_area"][0].tolist() == [33, 22, 9, 0]
    assert counts["lone_pulse_area"][0].tolist() == [5, 0, 9, 0]
    assert counts["baseline_mean"][0].tolist() == [12, 20, 30, -9999]  # 12.0, 20.5, 30
    np.testing.assert_array_equal(counts["baseline_rms_mean"][0], np.float32([2, 3, 3, np.nan]))


@st.composite
def pulse_rows(draw):
    rows = []
    for time, channel, pulse_length in draw(
        st.lists(st.tuples(st.integers(1, 150), st.integers(0, 3), st.integers(1, 25)), max_size=10)
    ):
        for i in range(-(-pulse_length // SAMPLES)):
            numbers = [draw(st.integers(-50, 50)), draw(st.integers(0, 99)), 1.5]
            rows.append((time * 10 + i * SAMPLES * DT, channel, i, pulse_length, *numbers))
    return sorted(rows)


@PROPERTY
@given(pulse_rows())
def test_counts_follow_the_contract(rows):
    ends = [t + (length - SAMPLES * i) * DT for t, _, i, length, *_ in rows]
    counts = pulses.count_pulses(make_records(rows), 4, 0, 5000)[0]
    for channel in range(4):
        mine = [k for k, row in enumerate(rows) if row[1] == channel and row[2] == 0]
        lone = [
            k
            for k in mine
            if rows[k][0] > max([0, *ends[:k]]) and k + 1 < len(rows) and ends[k] < rows[k + 1][0]
        ]
        baseline = np.mean([rows[k][5] for k in mine]) if mine else -9999
        assert counts["pulse_count"][channel] == len(mine)
        assert counts["lone_pulse_count"][channel] == len(lone)
        assert counts["pulse_area"][channel] == sum(row[4] for row in rows if row[1] == channel)
        assert counts["lone_pulse_area"][channel] == sum(rows[k][4] for k in lone)
        assert counts["baseline_mean"][channel] == int(baseline)
        assert counts["baseline_rms_mean"][channel] == 1.5 or not mine


@PROPERTY
@given(pulse_rows().filter(len))
def test_count_pulses_equals_plain_python(rows):
    results = []
    records = make_records(rows)
    for kernel in (pulses._count_pulses, pulses._count_pulses.py_func):
        counts = pulses._Counts(*(np.zeros((1, 4), dtype=np.int64) for _ in range(4)))
        sums = np.zeros((4, 2))
        kernel(pulses._Counted.of(records), SAMPLES, counts, sums)
        results.append((*counts, sums))
    for fast, slow in zip(*results, strict=True):
        np.testing.assert_array_equal(fast, slow)


def test_channel_beyond_the_detector():
    records = make_records([(1, 5, 0, 10, 0, 0, 0)])
    for call in (
        lambda: pulses.count_pulses(records, 5, 0, 10),
        lambda: pulses.check_overlaps(records, 5),
    ):
        with pytest.raises(LiveDataCorrupted, match="channel 5, but n_tpc_pmts is 5"):
            call()
    assert pulses.count_pulses(records, 6, 0, 10)["pulse_count"][0, 5] == 1
    records["channel"] = -2
    with pytest.raises(LiveDataCorrupted, match="channel -2, but n_tpc_pmts is 5"):
        pulses.check_overlaps(records, 5)


def test_check_overlaps():
    touching = make_records([(100, 1, 0, 10), (150, 2, 0, 10), (200, 1, 0, 10)])
    pulses.check_overlaps(touching, 3)
    touching["time"][2] = 199
    with pytest.raises(PulsesOverlap, match="overlap in channel 1 at 199 ns") as error:
        pulses.check_overlaps(touching, 3)
    assert isinstance(error.value, ValueError)
    touching["time"][2] = 149
    with pytest.raises(PulsesOverlap, match=r"not sorted: channel 1 at 149 ns .* 150 ns"):
        pulses.check_overlaps(touching, 3)


@PROPERTY
@given(
    st.lists(
        st.tuples(st.integers(0, 90).map(lambda t: t * 10), st.integers(0, 3), st.just(0)),
        max_size=8,
    ),
    st.data(),
)
def test_overlaps_are_found_wherever_they_are(rows, data):
    rows = [(*row, data.draw(st.integers(1, SAMPLES))) for row in sorted(rows)]
    spans = [(t, t + length * DT, channel) for t, channel, _, length in rows]
    overlaps = any(
        a[2] == b[2] and a[0] < b[1] and b[0] < a[1]
        for i, a in enumerate(spans)
        for b in spans[i + 1 :]
    )
    records = make_records(rows)
    try:
        pulses.check_overlaps(records, 4)
    except PulsesOverlap:
        assert overlaps
    else:
        assert not overlaps
    columns = (*(records[field] for field in ("time", "length", "dt", "channel")), 4)
    assert pulses._first_overlap(*columns) == pulses._first_overlap.py_func(*columns)


def test_no_records():
    nothing = np.zeros(0, dtype=DTYPE)
    records = pulses.raw_to_records(nothing, 20)
    assert records.shape == (0,)
    assert records.dtype == RECORD_DTYPE
    pulses.baseline_per_channel(records)
    pulses.check_overlaps(records, 2)
    counts = pulses.count_pulses(records, 2, 3, 4)[0]
    assert counts["baseline_mean"].tolist() == [-9999, -9999]
    assert np.isnan(counts["baseline_rms_mean"]).all()
    for field in ("pulse_count", "lone_pulse_count", "pulse_area", "lone_pulse_area"):
        assert counts[field].tolist() == [0, 0]
    assert [len(part) for part in pulses.channel_split(nothing, 3)] == [0, 0]


def test_splits():
    records = make_records([(1, 2, 0, 10), (2, 5, 0, 10), (3, 4, 0, 10)])
    low, high = pulses.channel_split(records, 4)
    assert (low["time"].tolist(), high["time"].tolist()) == ([1], [2, 3])
    picked, other = pulses.mask_and_not(np.arange(4), np.array([True, False, False, True]))
    assert (picked.tolist(), other.tolist()) == ([0, 3], [1, 2])


def test_plain_python_twin_holds_real_numbers():
    """The sum of int16 in plain Python stays int16 (numpy 2): 3 x 16000 and 5 x 14000 overflow."""
    raw = np.zeros(2, dtype=strax.raw_record_dtype(10))
    raw["length"] = 10
    raw["data"][0] = 16_000
    raw["data"][1, 5:] = -14_000
    for kernel in (pulses._subtract_baseline, pulses._subtract_baseline.py_func):
        _, records = subtract_baseline(kernel, raw, -1, False, True)
        assert records["baseline"].tolist() == [16_000, 0]
        assert records["area"].tolist() == [0, 70_000]


def test_steady_baselines():
    """A pulse that begins with signal gets the baseline of its neighbours, in all fragments."""
    records = np.zeros(26, dtype=strax.record_dtype(10))
    records["time"] = np.arange(26) * 1000
    records["channel"] = np.arange(26) % 2
    records["baseline"] = np.where(records["channel"] == 0, 15800.25, 15900.5)
    records["length"], records["dt"] = 8, 10
    records["data"][:, :8] = 1
    # The pulse of rows 10 and 12 has two fragments; its baseline is 7 counts low
    records["record_i"][12] = 1
    records["baseline"][[10, 12]] -= 7
    records["data"][[10, 12], :8] -= 7
    records["area"] = records["data"].sum(axis=1)
    found = pulses.steady_baselines(records)
    expected = records.copy()
    expected["baseline"][[10, 12]] += 7
    expected["data"][[10, 12], :8] += 7
    expected["area"][[10, 12]] += 56
    np.testing.assert_array_equal(found, expected)
    assert (records["baseline"][10], records["data"][10, 0]) == (15793.25, -6)
    for some in (records[:0], expected, records[12:13]):
        np.testing.assert_array_equal(pulses.steady_baselines(some), some)
