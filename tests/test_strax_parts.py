"""What takes the place of parts of strax does what strax does."""

import copy
import pickle

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st
from make_runs import context, pulses, write_run

from amstrax import _strax, contexts
from amstrax.strax_ext import plugin as _plugin

PROPERTY = settings(max_examples=50, deadline=None, database=None)
intervals = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 8)), max_size=12)


def as_intervals(rows):
    data = np.zeros(len(rows), dtype=strax.time_fields)
    data["time"] = [time for time, _ in sorted(rows)]
    data["endtime"] = data["time"] + [length for _, length in sorted(rows)]
    return data


def chunk(data, start, end, target_size_mb=1.0, data_type="things"):
    return strax.Chunk(
        data_type=data_type,
        data_kind="things",
        dtype=data.dtype,
        run_id="0",
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
    for split in (_strax.split_array, _strax._split_array.py_func):
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
    assert _strax._split_index(starts, ends, t) == _strax._split_index.py_func(starts, ends, t)


def test_chunks_are_joined_without_a_copy():
    data = as_intervals([(3, 2), (7, 1)])
    parts = [chunk(data[:0], 0, 2), None, chunk(data, 2, 10), chunk(data[:0], 10, 12)]
    joined = _strax.concatenate(strax.Chunk, parts)
    assert joined.data is data
    expected = _strax._concatenate(strax.Chunk, parts)
    assert (joined.start, joined.end) == (expected.start, expected.end) == (0, 12)
    np.testing.assert_array_equal(joined.data, expected.data)
    assert (joined.superrun, joined.dtype) == (expected.superrun, expected.dtype)
    with pytest.raises(ValueError, match="overlapping or out-of-order"):
        _strax.concatenate(strax.Chunk, parts[::-1])


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
    for rechunker in (_strax.Rechunker(True, "0"), _strax._Rechunker(True, "0")):
        sent = []
        for part in chunks_of(lengths, n_rows * 16 / 1e6):
            sent += rechunker.receive(part)
        results.append(sent + rechunker.flush())
    for ours, theirs in zip(*results, strict=True):
        assert (ours.start, ours.end) == (theirs.start, theirs.end)
        np.testing.assert_array_equal(ours.data, theirs.data)
    whole = next(chunks_of([3], 1.0))
    assert _strax.Rechunker(False, "0").receive(whole) == [whole]
    assert _strax.Rechunker(True, "0").flush() == []


def test_chunks_with_rows_are_joined_as_by_strax():
    dtype = np.dtype([*strax.time_fields, (("Area [PE]", "area"), np.float32), ("data", "<i2", 3)])
    data = np.zeros(9, dtype)
    data["time"] = np.arange(9)
    data["endtime"] = data["time"] + 1
    data["area"], data["data"] = np.arange(9) / 7, np.arange(27).reshape(9, 3)
    every_second = np.repeat(data[5:], 2)[::2]
    parts = [chunk(data[:5], 0, 5), chunk(data[:0], 5, 5), chunk(every_second, 5, 10)]
    joined, expected = (f(strax.Chunk, parts) for f in (_strax.concatenate, _strax._concatenate))
    np.testing.assert_array_equal(joined.data, data)
    np.testing.assert_array_equal(joined.data, expected.data)
    assert joined.dtype == expected.dtype
    assert (joined.start, joined.end) == (expected.start, expected.end) == (0, 10)


def test_titles_are_removed():
    dtype = [(("Time [ns]", "time"), np.int64), ("area", np.float32, 3)]
    expected = np.dtype([("time", np.int64), ("area", np.float32, 3)])
    for given_dtype in (dtype, np.dtype(dtype)):
        assert _strax.remove_titles_from_dtype(given_dtype) == expected


def test_contexts_use_it(tmp_path):
    contexts.xams(output_folder=tmp_path, init_rundb=False)
    assert strax.Rechunker is _strax.Rechunker
    assert strax.chunk.split_array is _strax.split_array
    assert strax.Chunk.concatenate.__func__ is _strax.concatenate


def test_with_fields():
    dtype = [(("Time [ns]", "time"), np.int64), ("length", np.int32), ("dt", np.int32)]
    dtype += [(("Area [PE]", "area"), np.float32), ("data", np.float32, 5)]
    data = np.zeros(3, dtype=dtype)
    data["time"], data["length"], data["dt"], data["area"] = [1, 2, 3], 1, 1, [5, 6, 7]
    whole = chunk(data, 0, 10)
    narrow = _plugin.with_fields(whole, ("area",))
    assert narrow.dtype == np.dtype(dtype[:4])
    assert narrow.dtype.fields["area"][2] == "Area [PE]"
    np.testing.assert_array_equal(narrow.data["area"], data["area"])
    assert (narrow.start, narrow.end, narrow.data_type) == (0, 10, "things")


def test_keys_follow_the_options(tmp_path):
    """Of 1 and 1.0 strax makes two hashes, though they are equal; what is kept knows that."""
    st_ = contexts.xams(output_folder=tmp_path, init_rundb=False)
    hashes = []
    for value in (30000, 30000.0, 20000, 30000):
        st_.set_config({"elife": value})
        fresh = contexts.xams(output_folder=tmp_path, init_rundb=False, config={"elife": value})
        key = st_.key_for("0", "event_info")
        assert str(key) == str(fresh.key_for("0", "event_info"))
        assert key.lineage == fresh.lineage("0", "event_info")
        hashes.append(key.lineage_hash)
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3
    key.lineage.clear()
    assert st_.key_for("1", "event_info").lineage_hash == hashes[0]
    st_.config["elife"] = 1  # in place, too
    assert st_.key_for("1", "event_info").lineage_hash not in hashes
    st_.set_config({"elife": {"not": lambda: "pickled"}})
    assert st_._fingerprint() is None
    for again in (copy.deepcopy, lambda st: pickle.loads(pickle.dumps(st))):
        st_.set_config({"elife": 30000})
        assert again(st_).key_for("0", "event_info").lineage_hash == hashes[0]


def test_a_plugin_with_several_outputs_is_one(tmp_path):
    write_run(tmp_path, pulses([1_000_000], range(5)))
    st_ = context(tmp_path)
    for _ in range(2):
        plugins = st_._get_plugins(("pulse_counts", "records"), "000123")
        assert plugins["records"] is plugins["pulse_counts"]
        assert plugins["records"].run_id == "000123"
