"""Breaks between chunks of live data, sorting, and splitting by subdetector."""

import numpy as np
import pytest
import strax
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amstrax.exceptions import UnknownChannel
from amstrax.plugins.daqreader import split_channel_ranges
from amstrax.processing import live_data
from amstrax.processing.compiled import sort_by_time

PROPERTY = settings(max_examples=50, deadline=None, database=None)
DTYPE = np.dtype(strax.raw_record_dtype(10))

# The overlap of the examples: [1000, 11000) ns; no break before 1000 + 1100 ns
START, END, SAFE, LONGEST = 1000, 11_000, 1000, 1100
EDGE = END - SAFE


def make_records(times, lengths=10, channels=0, dt=10):
    records = np.zeros(len(times), dtype=DTYPE)
    records["time"] = times
    records["length"] = lengths
    records["channel"] = channels
    records["dt"] = dt
    records["pulse_length"] = records["length"]
    records["data"] = np.arange(len(times))[:, np.newaxis] + 1
    return records


def both_sides(records):
    return [
        live_data.find_break(records, START, END, SAFE, LONGEST, is_post)
        for is_post in (True, False)
    ]


@pytest.mark.parametrize(
    ("times", "time", "kept_by_post"),
    [
        pytest.param([], EDGE, [], id="no records"),
        pytest.param([1000], EDGE, [1000], id="one record"),
        pytest.param([1000, 5000, 9567], EDGE, [1000, 5000, 9567], id="quiet end"),
        # ends at 9668, from which the cut keeps 333 ns; at 9990, and 9990 + 1000 < 11000
        pytest.param([1000, 9568], EDGE + 1, [1000, 9568], id="not so quiet end"),
        pytest.param([1000, 9890], EDGE + 323, [1000, 9890], id="end that is just quiet"),
        # ends at 10000, and 10000 + 1000 is not before 11000: the first gap ends at 5000
        pytest.param([1500, 5000, 9900], 4667, [1500], id="first of two gaps"),
        # gaps count from 2100 ns on: 3099 is too early, 3100 is not
        pytest.param([1100, 3099, 4200, 9950], 3867, [1100, 3099], id="gap begins too early"),
        pytest.param([1100, 3100, 4300, 9950], 2767, [1100], id="gap begins just late enough"),
        # 4900 + 100 + 1000 = 6000: a gap of exactly 1000 ns will do
        pytest.param([2900, 3900, 4900, 6000, 7100, 8100, 9100, 10_100], 5667, [2900, 3900, 4900],
                     id="gap of exactly the safe break"),
    ],
)  # fmt: skip
def test_break_in_a_gap(times, time, kept_by_post):
    records = make_records(times)
    post, pre = both_sides(records)
    assert (post.time, pre.time) == (time, time)
    assert post.kept["time"].tolist() == kept_by_post
    assert pre.kept["time"].tolist() == times[len(kept_by_post) :]
    assert not post.is_artificial
    assert not pre.is_artificial


@pytest.mark.parametrize("safe_break", [300, 1000, 3000, 4000])
@pytest.mark.parametrize("n", [0, 1, 3, 20])
def test_cut_keeps_its_distance_from_records(safe_break, n):
    distance = live_data.margin(safe_break)
    assert live_data.safe_break_for(distance) <= safe_break
    rng = np.random.default_rng(n)
    for _ in range(200):
        records = make_records(np.sort(rng.integers(START, END, n)))
        cut, _ = (
            live_data.find_break(records, START, END, safe_break, LONGEST, is_post)
            for is_post in (True, False)
        )
        if not cut.is_artificial:
            # What begins before the overlap, or behind it, may come as near as this
            ends = [START + LONGEST, *strax.endtime(records)[records["time"] < cut.time]]
            starts = [END, *records["time"][records["time"] >= cut.time]]
            assert cut.time - max(ends) >= distance
            assert min(starts) - cut.time >= distance
            assert min(starts) - max(ends) >= safe_break


def test_gap_of_one_ns_too_little_is_none():
    records = make_records(np.arange(START, END, 1099))  # 100 ns long: gaps of 999 ns
    assert all(side.is_artificial for side in both_sides(records))
    records = make_records(np.arange(START, END, 1100))
    assert not any(side.is_artificial for side in both_sides(records))


def test_a_long_record_hides_a_gap():
    # 4000 to 4100 is followed by 6000, but channel 1 goes on from 3000 to 5500
    records = make_records(
        [2900, 3000, 4000, 6000, 9950], [10, 250, 10, 10, 10], [0, 1, 0, 0, 0], dt=10
    )
    post, _ = both_sides(records)
    assert post.time == 9950 - 333


def test_without_gap_what_crosses_the_break_is_dropped():
    times = list(range(1000, 11_000, 450))  # 9550 ends at 9650; 10000 starts at the break
    lengths = [10] * len(times)
    lengths[times.index(9550)] = 46  # ends at 10010, so it crosses the break at 10000
    post, pre = both_sides(make_records(times, lengths))
    assert (post.time, pre.time) == (EDGE, EDGE)
    assert post.is_artificial
    assert pre.is_artificial
    assert (post.dead_start, post.dead_end) == (EDGE - LONGEST, EDGE)
    assert (pre.dead_start, pre.dead_end) == (EDGE, END)
    assert post.kept["time"].tolist() == [t for t in times if t < 9550]
    assert pre.kept["time"].tolist() == [t for t in times if t >= EDGE]


record_lists = st.lists(
    st.tuples(st.integers(START, END - 1), st.integers(1, 110), st.integers(0, 2)), max_size=25
)


@PROPERTY
@given(record_lists)
@example([(END - 1500, 110, 0)])
def test_breaks_lose_nothing_and_double_nothing(rows):
    rows = sorted(rows)
    records = make_records(*(np.array(rows, dtype=int).reshape(-1, 3).T))
    starts, ends = records["time"], strax.endtime(records)
    post, pre = both_sides(records)

    # The contract, word for word
    quiet_end = not rows or ends.max() + SAFE < END
    gaps = [
        i
        for i in range(1, len(rows))
        if starts[i] - max(ends[:i].max(), START + LONGEST) >= SAFE
    ]  # fmt: skip
    if not gaps and rows and starts[0] - (START + LONGEST) >= SAFE:
        gaps = [0]
    if quiet_end:
        last_end = max([START + LONGEST, *ends])
        time = np.clip(EDGE, last_end + SAFE // 3, END - SAFE // 3)
    else:
        time = starts[gaps[0]] - SAFE // 3 if gaps else EDGE
    assert (post.time, pre.time) == (time, time)
    assert post.is_artificial == pre.is_artificial == (not quiet_end and not gaps)

    assert (strax.endtime(post.kept) <= time).all()
    assert (pre.kept["time"] >= time).all()
    kept = np.concatenate([post.kept, pre.kept])
    if post.is_artificial:
        np.testing.assert_array_equal(kept, records[(ends <= time) | (starts >= time)])
        lost = records[(ends > time) & (starts < time)]
        assert (lost["time"] > post.dead_start).all()
    else:
        np.testing.assert_array_equal(kept, records)


def test_dead_time_record():
    record = live_data.dead_time_record(8900, 10_000, 10, 40, DTYPE)
    assert record.dtype == DTYPE
    assert record.shape == (1,)
    assert record["time"][0] == 8900
    assert record["length"][0] == 110
    assert record["dt"][0] == 10
    assert record["channel"][0] == 40
    assert strax.endtime(record)[0] == 10_000
    assert not record["data"].any()


def test_split_by_channel():
    records = make_records([1, 2, 3, 4, 5], channels=[4, 0, 6, 2, 0])
    parts = live_data.split_by_channel(records, {"tpc": (0, 4), "ext": (5, 5), "sipm": (6, 6)})
    assert list(parts) == ["tpc", "ext", "sipm"]
    assert parts["tpc"]["time"].tolist() == [1, 2, 4, 5]
    assert parts["ext"].shape == (0,)
    assert parts["ext"].dtype == DTYPE
    assert parts["sipm"]["time"].tolist() == [3]
    parts["tpc"]["time"] = 0
    assert records["time"].tolist() == [1, 2, 3, 4, 5]


def test_unknown_channels_are_named():
    records = make_records([1, 2, 3, 4], channels=[9, 0, 7, 9])
    with pytest.raises(UnknownChannel, match=r"channel\(s\) \[7, 9\]") as error:
        live_data.split_by_channel(records, {"tpc": (0, 4)})
    assert isinstance(error.value, ValueError)
    with pytest.raises(UnknownChannel, match=r"\[7, 9\]"):
        live_data.split_by_subdetector([records], {"tpc": (0, 4)}, 0, {})
    negative = make_records([1], channels=[-1])
    with pytest.raises(UnknownChannel, match=r"\[-1\]"):
        live_data.split_by_channel(negative, {"tpc": (0, 4)})


def test_split_by_subdetector_shifts_and_turns():
    run_start = 1_700_000_000_000_000_007
    records = make_records([100, 200, 300, 400], channels=[0, 2, 1, 3], dt=[10, 4, 2, 4])
    parts = live_data.split_by_subdetector(
        [records], {"a": (0, 1), "b": (2, 3), "c": (4, 4)}, run_start, {0: 1, 1: -1, 3: 1, 4: 1}
    )
    # a begins with a record of dt 10, b with one of dt 4: the shift is a multiple of that
    assert parts["a"]["time"].tolist() == [
        1_700_000_000_000_000_100,
        1_700_000_000_000_000_300,
    ]
    assert parts["b"]["time"].tolist() == [
        1_700_000_000_000_000_204,
        1_700_000_000_000_000_404,
    ]
    assert parts["a"]["data"][:, 0].tolist() == [-1, 3]
    assert parts["b"]["data"][:, 0].tolist() == [2, -4]
    assert len(parts["c"]) == 0
    # what was given stays as it was
    np.testing.assert_array_equal(
        records, make_records([100, 200, 300, 400], channels=[0, 2, 1, 3], dt=[10, 4, 2, 4])
    )


def test_split_of_nothing():
    empty = make_records([])
    assert {k: len(v) for k, v in live_data.split_by_channel(empty, {"a": (0, 1)}).items()} == {
        "a": 0
    }
    parts = live_data.split_by_subdetector([empty], {"a": (0, 1)}, 5, {0: 1})
    assert len(parts["a"]) == 0
    assert [len(part) for part in split_channel_ranges(empty, [(0, 1), (2, 3)])] == [0, 0]


@PROPERTY
@given(st.lists(st.integers(0, 8), max_size=20))
def test_every_record_goes_to_one_subdetector(channels):
    records = make_records(np.arange(len(channels)), channels=channels)
    ranges = {"a": (0, 3), "b": (4, 4), "c": (5, 8)}
    parts = live_data.split_by_channel(records, ranges)
    times = np.concatenate([part["time"] for part in parts.values()])
    assert sorted(times) == list(range(len(channels)))
    for name, (first, last) in ranges.items():
        assert all(first <= c <= last for c in parts[name]["channel"])
        assert np.all(np.diff(parts[name]["time"]) > 0)


def test_split_channel_ranges():
    records = make_records([1, 2, 3], channels=[5, 0, 4])
    tpc, ext = split_channel_ranges(records, [(0, 4), (5, 5)])
    assert tpc["time"].tolist() == [2, 3]
    assert ext["time"].tolist() == [1]
    with pytest.raises(UnknownChannel, match=r"\[5\]"):
        split_channel_ranges(records, [(0, 4)])


times_and_channels = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 8)), max_size=20, unique=True
)


@PROPERTY
@given(st.lists(times_and_channels, min_size=1, max_size=4), st.sets(st.integers(0, 8)))
def test_parts_are_sorted_and_split_at_once(parts, positive):
    """The same as to join, sort, split, shift and turn over, one after the other."""
    arrays = [make_records([t for t, _ in p], channels=[c for _, c in p]) for p in parts]
    ranges = {"a": (0, 3), "b": (4, 4), "c": (5, 8)}
    polarity = {channel: 1 if channel in positive else -1 for channel in range(8)}
    split = live_data.split_by_subdetector(arrays, ranges, 1007, polarity)
    expected = live_data.split_by_channel(sort_by_time(np.concatenate(arrays)), ranges)
    for name, records in expected.items():
        if len(records):
            records["time"] += 1007 // records["dt"][0] * records["dt"][0]
        turned = [polarity.get(int(c), -1) > 0 for c in records["channel"]]
        records["data"][turned] *= -1
        assert split[name].dtype == DTYPE
        np.testing.assert_array_equal(split[name], records)


@PROPERTY
@given(times_and_channels)
def test_kernel_equals_plain_python(rows):
    records = make_records([t for t, _ in rows], channels=[c for _, c in rows])
    arguments = live_data._Headers.of(records), 5, 15, 9
    kernel = live_data._first_damaged
    assert kernel(*arguments) == kernel.py_func(*arguments)


def test_records_of_a_pulse_are_possible():
    records = make_records([100, 200, 300], lengths=[10, 10, 5])
    records["record_i"], records["pulse_length"] = range(3), 25
    assert live_data.first_damaged(records, 100, 400, 10) is None
    assert live_data.first_damaged(records[:0], 100, 400, 10) is None
    assert [live_data.impossible_field(record, 10) for record in records] == ["", "", ""]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("time", 99, ""),
        ("time", 400, ""),
        ("length", -1, "length -1"),
        ("length", 0, "length 0"),
        ("length", 11, "length 11 instead of 10"),
        ("length", 9, "length 9 instead of 10"),
        ("dt", 0, "dt 0 ns"),
        ("dt", -10, "dt -10 ns"),
        ("channel", -1, "channel -1"),
        ("pulse_length", 0, "pulse_length 0"),
        ("pulse_length", -5, "pulse_length -5"),
        ("pulse_length", 10, "record_i 1 in a pulse of 10 samples"),
        ("pulse_length", 19, "length 10 instead of 9"),
        ("record_i", -1, "record_i -1"),
        ("record_i", 2, "length 10 instead of 5"),
        ("record_i", 3, "record_i 3 in a pulse of 25 samples"),
        ("record_i", 2**15 - 1, "record_i 32767"),
    ],
)
def test_impossible_records(field, value, says):
    records = make_records([100, 200, 300], lengths=[10, 10, 5])
    records["record_i"], records["pulse_length"] = range(3), 25
    records[field][1] = value
    assert live_data.first_damaged(records, 100, 400, 10) == records[1]
    assert says in live_data.impossible_field(records[1], 10)


def test_longest_gap():
    assert live_data.longest_gap(make_records([150, 120, 130]), 100, 160) == 20
    assert live_data.longest_gap(make_records([101]), 100, 160) == 59
    assert live_data.longest_gap(make_records([]), 100, 160) == 60
