"""Chunks and rechunker give what those of strax give."""

import json

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.strax_ext import plugin, storage
from amstrax.strax_ext.context import Context
from amstrax.strax_ext.storage import Chunk, Rechunker

PROPERTY = settings(max_examples=50, deadline=None, database=None)
intervals = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 8)), max_size=12)


def as_intervals(rows):
    data = np.zeros(len(rows), dtype=strax.time_fields)
    data["time"] = [time for time, _ in sorted(rows)]
    data["endtime"] = data["time"] + [length for _, length in sorted(rows)]
    return data


def chunk(data, start, end, target_size_mb=1.0, data_type="things", cls=strax.Chunk, run_id="0"):
    return cls(
        data_type=data_type,
        data_kind="things",
        dtype=data.dtype,
        run_id=run_id,
        start=start,
        end=end,
        data=data,
        target_size_mb=target_size_mb,
    )


@PROPERTY
@given(intervals, st.integers(0, 60), st.booleans())
def test_split_array_equals_strax(rows, t, early):
    data = as_intervals(rows)
    results = []
    # strax's as plain Python: compiled, it takes seconds
    for split in (storage.split_array, strax.chunk.split_array.py_func):
        try:
            results.append(split(data, t, early))
        except strax.CannotSplit:
            results.append(None)
    ours, theirs = results
    assert (ours is None) == (theirs is None)
    if ours is not None:
        for mine, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, expected)
    starts, ends = data["time"], data["endtime"]
    compiled, plain = storage._split_index, storage._split_index.py_func
    assert compiled(starts, ends, t) == plain(starts, ends, t)


@PROPERTY
@given(intervals, st.integers(0, 70), st.booleans())
def test_chunks_are_split_as_by_strax(rows, t, early):
    data = as_intervals(rows)
    results = []
    for cls in (Chunk, strax.Chunk):
        whole = chunk(data, 0, 60, cls=cls)
        try:
            results.append([vars(part) for part in whole.split(t, early)])
        except strax.CannotSplit:
            results.append(None)
    ours, theirs = results
    assert (ours is None) == (theirs is None)
    for mine, expected in zip(ours or (), theirs or (), strict=True):
        np.testing.assert_array_equal(mine.pop("data"), expected.pop("data"))
        assert mine == expected
        # In the metadata of what is stored
        json.dumps([mine["start"], mine["end"], mine["_superrun"]])


def test_chunks_of_superruns_are_split_as_by_strax():
    data = as_intervals([(3, 2), (17, 1)])
    runs = {"1": {"start": 0, "end": 10}, "2": {"start": 10, "end": 20}}
    kwargs = {"data_type": "things", "data_kind": "things", "dtype": data.dtype}
    kwargs |= {"run_id": "_super", "start": 0, "end": 20, "data": data, "subruns": runs}
    for ours, theirs in zip(
        Chunk(**kwargs).split(12), strax.Chunk(**kwargs).split(12), strict=True
    ):
        assert (ours.subruns, ours.superrun) == (theirs.subruns, theirs.superrun)
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_chunk_after_an_empty_rest_is_that_chunk():
    data = as_intervals([(3, 2), (7, 1)])
    rest, whole = chunk(data[:0], 2, 2), chunk(data, 2, 10, cls=Chunk)
    assert Chunk.concatenate([rest, whole]) is whole
    # A rest with a time of its own counts
    assert Chunk.concatenate([chunk(data[:0], 1, 2), whole]).start == 1
    for other in (chunk(data[:0], 3, 3), chunk(data[:0], 2, 2, run_id="2")):
        with pytest.raises(ValueError, match="overlapping|different run ids"):
            Chunk.concatenate([other, whole])


def test_chunks_are_joined_without_a_copy():
    data = as_intervals([(3, 2), (7, 1)])
    parts = [chunk(data[:0], 0, 2), None, chunk(data, 2, 10), chunk(data[:0], 10, 12)]
    joined = Chunk.concatenate(parts)
    assert joined.data is data
    expected = strax.Chunk.concatenate(parts)
    assert (joined.start, joined.end) == (expected.start, expected.end) == (0, 12)
    np.testing.assert_array_equal(joined.data, expected.data)
    assert (joined.superrun, joined.dtype) == (expected.superrun, expected.dtype)
    with pytest.raises(ValueError, match="overlapping or out-of-order"):
        Chunk.concatenate(parts[::-1])


def chunks_of(lengths, target_size_mb):
    """Return chunks of such numbers of rows; behind every fourth row is a gap."""
    start = row = 0
    for n in lengths:
        index = np.arange(row, row + n)
        data = np.zeros(n, dtype=strax.time_fields)
        data["time"] = index * 100 + index // 4 * 2000
        data["endtime"] = data["time"] + 100
        row += n
        end = row * 100 + (row - 1) // 4 * 2000 if row else 0
        yield chunk(data, start, end, target_size_mb)
        start = end


@PROPERTY
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.sampled_from([5, 12, 40, 1000]))
def test_rechunker_equals_strax(lengths, n_rows):
    """The same chunks come out, though not always as soon."""
    results = []
    for rechunker in (Rechunker(True, "0"), strax.Rechunker(True, "0")):
        sent = []
        for part in chunks_of(lengths, n_rows * 16 / 1e6):
            sent += rechunker.receive(part)
        results.append(sent + rechunker.flush())
    for ours, theirs in zip(*results, strict=True):
        assert (ours.start, ours.end) == (theirs.start, theirs.end)
        np.testing.assert_array_equal(ours.data, theirs.data)
    whole = next(chunks_of([3], 1.0))
    assert Rechunker(False, "0").receive(whole) == [whole]
    assert Rechunker(True, "0").flush() == []


def test_chunks_with_rows_are_joined_as_by_strax():
    dtype = np.dtype([*strax.time_fields, (("Area [PE]", "area"), np.float32), ("data", "<i2", 3)])
    data = np.zeros(9, dtype)
    data["time"] = np.arange(9)
    data["endtime"] = data["time"] + 1
    data["area"], data["data"] = np.arange(9) / 7, np.arange(27).reshape(9, 3)
    every_second = np.repeat(data[5:], 2)[::2]
    parts = [chunk(data[:5], 0, 5), chunk(data[:0], 5, 5), chunk(every_second, 5, 10)]
    joined, expected = (cls.concatenate(parts) for cls in (Chunk, strax.Chunk))
    np.testing.assert_array_equal(joined.data, data)
    np.testing.assert_array_equal(joined.data, expected.data)
    assert joined.dtype == expected.dtype
    assert (joined.start, joined.end) == (expected.start, expected.end) == (0, 10)


def test_with_fields():
    dtype = [(("Time [ns]", "time"), np.int64), ("length", np.int32), ("dt", np.int32)]
    dtype += [(("Area [PE]", "area"), np.float32), ("data", np.float32, 5)]
    data = np.zeros(3, dtype=dtype)
    data["time"], data["length"], data["dt"], data["area"] = [1, 2, 3], 1, 1, [5, 6, 7]
    whole = chunk(data, 0, 10)
    narrow = plugin.with_fields(whole, ("area",))
    assert narrow.dtype == np.dtype(dtype[:4])
    assert narrow.dtype.fields["area"][2] == "Area [PE]"
    np.testing.assert_array_equal(narrow.data["area"], data["area"])
    assert (narrow.start, narrow.end, narrow.data_type) == (0, 10, "things")


def test_the_dtype_of_a_users_plugin_may_depend_on_the_run():
    class Things(plugin.Plugin):
        depends_on = ()
        provides = "things"

        def infer_dtype(self):
            return [*strax.time_fields, (("Of one run", f"of_{self.run_id}"), np.int8)]

    st_ = Context(storage=[], register=Things)
    names = [st_.get_single_plugin(run, "things").dtype.names[-1] for run in ("1", "3", "2")]
    assert names == ["of_1", "of_3", "of_2"]
