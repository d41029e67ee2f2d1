"""No kernel reads or writes outside its arrays, whatever the data is.

Run with NUMBA_BOUNDSCHECK=1 (`make bounds`), an index out of bounds is an IndexError; without it,
memory beside the array would be read or written.
"""

import subprocess
import sys

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.analyses import quantities
from amstrax.exceptions import AmstraxError, IndexOutOfBounds, InvalidOption
from amstrax.plugins.peak_processing import peak_basics_dtype
from amstrax.processing import events, led, pulses, running_baseline, splitting, waveforms
from amstrax.processing import peaks as peak_kernels
from amstrax.processing.compiled import check_bounds, sort_by_time
from amstrax.processing.peaks import find_hits
from amstrax.simulation.detector import XAMS
from amstrax.simulation.digitizer import Pulses, fragments

PROPERTY = settings(max_examples=150, deadline=None, database=None)
SAMPLES, DT, N_CHANNELS = 10, 10, 5
DTYPE = np.dtype(strax.peak_dtype(n_channels=N_CHANNELS, n_sum_wv_samples=8))
HITS = dict(gap_threshold=50, left_extension=10, right_extension=20, min_area=0, min_channels=1)

#: Mostly what can be, and now and then what cannot
garbage = st.one_of(st.integers(0, 4), st.integers(-(2**15), 2**15 - 1), st.sampled_from([-1, 5]))


def some_records(n=3):
    """Return records that are fine, each with a hit, of one pulse of n fragments in channel 1."""
    records = np.zeros(n, dtype=strax.record_dtype(SAMPLES))
    records["time"], records["dt"], records["length"] = np.arange(n) * SAMPLES * DT, DT, SAMPLES
    records["record_i"], records["channel"], records["baseline"] = np.arange(n), 1, 100.25
    records["pulse_length"] = n * SAMPLES
    records["data"][:, 2:6] = 50
    return records


def some_peaks(hits):
    return peak_kernels.find_peaks(hits, np.ones(N_CHANNELS), DTYPE, **HITS)


def test_message_names_value_row_time_and_remedy():
    values, time = np.array([0, 3, 7, -1]), np.array([100, 200, 300, 400])
    with pytest.raises(IndexOutOfBounds) as error:
        check_bounds("channel", values, 0, 7, "raise n_tpc_pmts", time)
    assert str(error.value) == "channel 7 in row 2 at 300 ns is not in 0 to 6: raise n_tpc_pmts"
    assert isinstance(error.value, ValueError)
    check_bounds("channel", values, -1, 8, "")
    check_bounds("channel", values[:0], 0, 0, "")


def test_hit_in_a_channel_beyond_the_peaks():
    """16 gains, peaks of 5 channels, a hit in channel 7: that was written outside the array."""
    hits = find_hits(some_records(1))
    for channel in (5, 7, -1, -7):
        hits["channel"] = channel
        with pytest.raises(IndexOutOfBounds, match=f"channel {channel} in row 0 at 20 ns"):
            peak_kernels.find_peaks(hits, np.ones(16), DTYPE, **HITS)


CASES = [
    ("channel", 5, IndexOutOfBounds, "channel 5 in row 1"),
    ("channel", -1, IndexOutOfBounds, "channel -1 in row 1"),
    ("record_i", 3, IndexOutOfBounds, "record_i 3 in row 1 at 120 ns"),
    ("record_i", -1, IndexOutOfBounds, "record_i -1 in row 1"),
]


@pytest.mark.parametrize(("field", "value", "kind", "words"), CASES)
def test_sum_waveform_refuses_hits(field, value, kind, words):
    records = some_records()
    hits = find_hits(records)
    peaks, links = some_peaks(hits), waveforms.record_links(records)
    hits[field][1] = value
    with pytest.raises(kind, match=words):
        waveforms.sum_waveform(peaks, hits, records, links, np.ones(N_CHANNELS))


def test_sum_waveform_refuses_links_gains_lengths_and_sample_widths():
    records = some_records()
    hits = find_hits(records)
    peaks, links = some_peaks(hits), waveforms.record_links(records)
    gains = np.ones(N_CHANNELS)
    for bad in ([0, 1, 3], [-2, 0, 1]):
        with pytest.raises(IndexOutOfBounds, match=rf"link {3 if 3 in bad else -2} in row"):
            waveforms.sum_waveform(peaks, hits, records, (links[0], np.array(bad)), gains)
    with pytest.raises(IndexOutOfBounds, match="links of 2 records"):
        waveforms.sum_waveform(peaks, hits, records, (links[0][:2], links[1]), gains)
    with pytest.raises(InvalidOption, match="gains for 4 channels"):
        waveforms.sum_waveform(peaks, hits, records, links, gains[:4])
    negative = peaks.copy()
    negative["length"][0] = -3
    with pytest.raises(IndexOutOfBounds, match="length -3 in row 0 at 10 ns"):
        waveforms.sum_waveform(negative, hits, records, links, gains)
    for dt in (0, 2):
        records["dt"] = dt
        with pytest.raises(ValueError, match=f"{dt} ns"):
            waveforms.sum_waveform(peaks, hits, records, links, gains)


def test_find_peaks_refuses_mixed_sample_widths():
    hits = find_hits(some_records())
    hits["dt"][2] = 2
    with pytest.raises(ValueError, match="hit in row 2 at 220 ns has samples of 2 ns"):
        some_peaks(hits)


def test_records_of_negative_channels():
    records = some_records()
    records["channel"][2] = -3
    with pytest.raises(IndexOutOfBounds, match="channel -3 in row 2 at 200 ns"):
        waveforms.record_links(records)
    with pytest.raises(AmstraxError, match=r"channel -3, .*\(row 2, at 200 ns\)"):
        pulses.count_pulses(records, N_CHANNELS, 0, 1000)
    with pytest.raises(IndexOutOfBounds, match="channel -3 in row 2"):
        running_baseline.keep_hits(records, 5, 1, 1)
    raw = np.zeros(3, dtype=strax.raw_record_dtype(SAMPLES))
    for field in ("channel", "record_i"):
        for name in raw.dtype.names:
            raw[name] = some_records()[name]
        raw[field][1] = -2
        with pytest.raises(IndexOutOfBounds, match=f"{field} -2 in row 1 at 100 ns"):
            led.join_fragments(raw, 3)
    with pytest.raises(IndexOutOfBounds, match="channel -3 in row 2"):
        quantities.records_to_matrix(records, 0, 300, [1])


def test_lengths_beyond_the_samples():
    records = some_records()
    records["length"][1] = SAMPLES + 1
    for call in (
        lambda: running_baseline.keep_hits(records, 5, 1, 1),
        lambda: running_baseline.subtract_running_mean(records, 5, 5),
        lambda: quantities.records_to_matrix(records, 0, 300, [1]),
    ):
        with pytest.raises(IndexOutOfBounds, match="length 11 in row 1 at 100 ns"):
            call()
    peaks = np.zeros(2, dtype=DTYPE)
    peaks["length"], peaks["dt"], peaks["area"] = [8, 9], DT, 100
    natural = splitting.natural_breaks_splits(lambda p: np.ones(len(p)), 0, 0)
    for find_splits in (splitting.local_minimum_splits(25, 4), natural):
        with pytest.raises(IndexOutOfBounds, match="length 9 in row 1"):
            find_splits(peaks)


def test_baseline_of_no_samples():
    raw = np.zeros(1, dtype=strax.raw_record_dtype(SAMPLES))
    for n in (0, -1):
        with pytest.raises(InvalidOption, match=f"baseline_samples={n}"):
            pulses.raw_to_records(raw, n)


def test_peaks_that_events_do_not_have():
    peaks = np.zeros(3, dtype=peak_basics_dtype())
    selection = events.Selection(False, 0, True, False, 1000)
    for first, words in (([0, 4], "first peak 4 in row 1"), ([-1, 3], "-1"), ([2, 1], "event 0")):
        first = np.array(first)
        with pytest.raises(IndexOutOfBounds, match=words):
            events.choose_peaks(peaks, first, selection)
        with pytest.raises(IndexOutOfBounds, match=words):
            events.areas_before_main_s2(peaks, first, np.array([0]))
    for bad in (3, -2):
        with pytest.raises(IndexOutOfBounds, match=f"peak {bad} in row 0"):
            events.areas_before_main_s2(peaks, np.array([0, 3]), np.array([bad]))
        chosen = np.array([[0, -1, bad, -1]])
        with pytest.raises(IndexOutOfBounds, match=f"peak {bad} in row 0"):
            events.copy_properties(peaks, chosen, np.zeros(1, dtype=[("s2_area", "f4")]), ["area"])
        with pytest.raises(IndexOutOfBounds, match=f"peak {bad} in row 0"):
            events.drift_times(peaks["center_time"], chosen, {})
    with pytest.raises(IndexOutOfBounds, match="2 main S2s of 1 events"):
        events.areas_before_main_s2(peaks, np.array([0, 3]), np.array([0, 1]))
    table = np.zeros(2, dtype=[("time", np.int64)] + [(f"{p}index", "i4") for p in events.PREFIXES])
    # The second event has one peak; its index 1 would be a peak of no event, or another's
    table["s2_index"] = [1, 1]
    with pytest.raises(IndexOutOfBounds, match="s2_index 1 of the event in row 1 .* 1 peaks"):
        events.peaks_of_events(table, np.arange(3), np.array([0, 2, 3]))


def test_pulses_without_their_samples():
    column = np.array([0])
    good = Pulses(np.array([1], dtype=np.int16), column, np.array([5]), column, np.zeros(5, "i2"))
    assert len(fragments(good, XAMS)) == 1
    for change in ({"channel": np.array([7])}, {"length": np.array([6])}, {"offset": column - 1}):
        with pytest.raises(IndexOutOfBounds, match="in row 0"):
            fragments(good._replace(**change), XAMS)


@PROPERTY
@given(
    st.lists(st.tuples(garbage, garbage, st.integers(-3, 14), st.booleans()), max_size=5),
    st.tuples(*[st.sampled_from([1, -1, 4, 5, 9])] * 2),
)
def test_garbage_in_records_is_refused_or_harmless(rows, thresholds):
    """From raw records to split peaks: a typed error, or every array stays within its bounds."""
    raw = np.zeros(len(rows), dtype=strax.raw_record_dtype(SAMPLES))
    raw["time"] = np.arange(len(rows)) * SAMPLES * DT
    raw["dt"] = DT
    for record, (channel, record_i, length, has_pulse) in zip(raw, rows, strict=True):
        record["channel"], record["record_i"], record["length"] = channel, record_i, length
        record["data"] = 100
        record["data"][3:5] -= 60 * has_pulse
    try:
        records = pulses.raw_to_records(raw, 3, allow_sloppy_chunking=True)
        pulses.count_pulses(records, N_CHANNELS, 0, 1000)
        peaks = peaks_of(records)
    except AmstraxError:
        assert min(channel for channel, *_ in rows) < 0 or max(c for c, *_ in rows) >= N_CHANNELS
        return
    except ValueError as error:
        assert "there is room for" in str(error)
        assert max(length for *_, length, _ in rows) > SAMPLES
        return
    np.testing.assert_allclose(peaks["area_per_channel"].sum(axis=1), peaks["area"], rtol=1e-5)


def peaks_of(records):
    hits = sort_by_time(find_hits(records, 15))
    peaks, links, gains = some_peaks(hits), waveforms.record_links(records), np.ones(N_CHANNELS)
    waveforms.sum_waveform(peaks, hits, records, links, gains)
    waveforms.set_widths(peaks)
    find_splits = splitting.local_minimum_splits(5, 2)
    return splitting.split_peaks(peaks, hits, records, links, gains, find_splits)


@PROPERTY
@given(st.lists(st.tuples(garbage, garbage, garbage, garbage), min_size=3, max_size=3))
def test_garbage_in_hits_is_refused_or_harmless(rows):
    """Hits that were changed: their channel, record, and bounds."""
    records = some_records()
    hits = find_hits(records)
    peaks, links, gains = some_peaks(hits), waveforms.record_links(records), np.ones(N_CHANNELS)
    for hit, row in zip(hits, rows, strict=True):
        for field, value in zip(
            ("channel", "record_i", "left_integration", "right_integration"), row, strict=True
        ):
            hit[field] = value
    before = [array.copy() for array in (hits, records)]
    try:
        waveforms.sum_waveform(peaks, hits, records, links, gains)
    except IndexOutOfBounds:
        assert any(not 0 <= row[0] < N_CHANNELS or not 0 <= row[1] < 3 for row in rows)
        return
    assert all(0 <= row[0] < N_CHANNELS and 0 <= row[1] < 3 for row in rows)
    np.testing.assert_allclose(peaks["area_per_channel"].sum(axis=1), peaks["area"], rtol=1e-5)
    for old, new in zip(before, (hits, records), strict=True):
        np.testing.assert_array_equal(old, new)


@PROPERTY
@given(st.lists(st.integers(-2, 5), min_size=1, max_size=4), st.lists(garbage, max_size=4))
def test_garbage_in_events_is_refused_or_harmless(first, main):
    peaks = np.zeros(3, dtype=peak_basics_dtype())
    peaks["type"], peaks["area"], peaks["time"] = 2, [5, 7, 6], [0, 100, 200]
    first, main = np.array(first), np.array(main, dtype=np.int64)
    selection = events.Selection(False, 0, False, False, 1000)
    bounds_fit = first.min() >= 0 and first.max() <= 3 and (np.diff(first) >= 0).all()
    if bounds_fit:
        chosen = events.choose_peaks(peaks, first, selection)
        for i, main_s2 in enumerate(chosen[:, events.MAIN_S2]):
            inside = range(first[i], first[i + 1])
            assert main_s2 == max(inside, key=lambda j: peaks["area"][j], default=events.NO_PEAK)
    else:
        with pytest.raises(IndexOutOfBounds):
            events.choose_peaks(peaks, first, selection)
    if bounds_fit and len(main) == len(first) - 1 and all(-1 <= m < 3 for m in main):
        events.areas_before_main_s2(peaks, first, main)
    else:
        with pytest.raises(IndexOutOfBounds):
            events.areas_before_main_s2(peaks, first, main)


OUT_OF_BOUNDS = """
import numba, numpy as np
from amstrax.processing.compiled import column, kernel, row

@kernel(column(numba.int16, 2), numba.int64)
def read(data, i):
    return row(data, i)[0]

try:
    read(np.zeros((2, 3), dtype=np.int16), 2)
except IndexError:
    print("refused")
"""


@pytest.mark.slow
def test_rows_are_checked_with_boundscheck(tmp_path, monkeypatch):
    """Otherwise `make bounds` would find nothing in kernels that take whole rows."""
    script = tmp_path / "out_of_bounds.py"
    script.write_text(OUT_OF_BOUNDS)
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
