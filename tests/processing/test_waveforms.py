"""Sum waveforms and widths of peaks, against strax's own."""

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.processing import waveforms
from amstrax.processing.compiled import sort_by_time
from amstrax.processing.peaks import find_hits

PROPERTY = settings(max_examples=50, deadline=None, database=None)
SAMPLES, DT = 10, 10
TO_PE = np.array([0.1, 0.25, 3.0])
DTYPE = np.dtype(strax.peak_dtype(n_channels=3, n_sum_wv_samples=8))


@st.composite
def records_of_pulses(draw):
    """Return baselined records of pulses of up to 3 fragments, that do not overlap in a channel."""
    rows = []
    for channel in range(3):
        time = 0
        for gap, n_samples in draw(
            st.lists(st.tuples(st.integers(0, 15), st.integers(1, 30)), max_size=4)
        ):
            time += gap * DT
            for i in range(-(-n_samples // SAMPLES)):
                length = min(SAMPLES, n_samples - i * SAMPLES)
                samples = draw(st.lists(st.integers(-20, 200), min_size=10, max_size=10))
                baseline = draw(st.sampled_from([100.5, 15_000.25, 16_000.9]))
                rows.append((time, length, DT, channel, n_samples, i, baseline, samples))
                time += SAMPLES * DT
    records = np.zeros(len(rows), dtype=strax.record_dtype(SAMPLES))
    fields = ("time", "length", "dt", "channel", "pulse_length", "record_i", "baseline", "data")
    for i, field in enumerate(fields):
        if rows:
            records[field] = [row[i] for row in rows]
    records["data"][np.arange(SAMPLES) >= records["length"][:, np.newaxis]] = 0
    return sort_by_time(records)


def some_peaks(hits):
    peaks = strax.find_peaks(
        hits,
        TO_PE,
        gap_threshold=50,
        left_extension=10,
        right_extension=20,
        min_channels=1,
        result_dtype=DTYPE,
    )
    return peaks


@pytest.mark.slow
@PROPERTY
@given(records_of_pulses(), st.integers(0, 6), st.integers(0, 1))
def test_sum_waveform_equals_strax(records, wing, bit_shift):
    records["amplitude_bit_shift"] = bit_shift
    hits = sort_by_time(find_hits(records))
    peaks = some_peaks(hits)
    if wing and len(hits):
        # Hits that are integrated beyond themselves, into the records before and behind
        outside = np.zeros(0, dtype=strax.time_fields)
        strax.find_hit_integration_bounds(
            hits, outside, records, (wing * DT, wing * DT), 3, allow_bounds_beyond_records=True
        )
        hits["time"] -= (hits["left"] - hits["left_integration"]) * DT
        hits["length"] = hits["right_integration"] - hits["left_integration"]
        hits = sort_by_time(hits)
    links = waveforms.record_links(records)
    for ours, theirs in zip(links, strax.record_links(records), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    ours, theirs = peaks.copy(), peaks.copy()
    waveforms.sum_waveform(ours, hits, records, links, TO_PE)
    strax.sum_waveform(theirs, hits, records, links, TO_PE)
    np.testing.assert_array_equal(ours, theirs)
    if not len(peaks):
        return
    waveforms.set_widths(ours)
    median_time, width, decile = strax.compute_widths(theirs)
    np.testing.assert_array_equal(ours["median_time"], median_time)
    np.testing.assert_array_equal(ours["width"], width)
    np.testing.assert_array_equal(ours["area_decile_from_midpoint"], decile)


@PROPERTY
@given(records_of_pulses().filter(len))
def test_kernels_equal_plain_python(records):
    hits = sort_by_time(find_hits(records))
    columns = [records[field] for field in ("time", "dt", "channel", "record_i")]
    links = waveforms._record_links(*columns, 3, SAMPLES)
    for fast, slow in zip(
        links, waveforms._record_links.py_func(*columns, 3, SAMPLES), strict=True
    ):
        np.testing.assert_array_equal(fast, slow)
    peaks = some_peaks(hits)
    if not len(peaks):
        return
    fast, slow = peaks.copy(), peaks.copy()
    waveforms.sum_waveform(fast, hits, records, links, TO_PE)
    columns = (
        waveforms._Peaks.of(slow),
        waveforms._Hits.of(hits),
        waveforms._Records.of(records),
    )
    assert waveforms._sum_waveform.py_func(*columns, *links, TO_PE, DT, 0) == -1
    np.testing.assert_array_equal(fast, slow)
    fractions = np.array([0.1, 0.5, 1.0])
    columns = [fast[field] for field in ("area", "length", "data")]
    results = np.zeros((2, len(fast), 3), dtype=np.float32)
    waveforms._fraction_indices(*columns, fractions, results[0])
    waveforms._fraction_indices.py_func(*columns, fractions, results[1])
    np.testing.assert_array_equal(*results)


def test_sum_waveform():
    """Two channels with 4 and 2 samples in a peak of 6; the second reaches its baseline."""
    records = np.zeros(2, dtype=strax.record_dtype(SAMPLES))
    records["time"], records["channel"], records["baseline"] = [100, 120], [0, 2], [90.5, 40]
    records["length"], records["dt"] = SAMPLES, DT
    records["data"][0, 3:7] = [20, 40, 60, 80]
    records["data"][1, 2:4] = [50, 16]
    hits = find_hits(records)
    peaks = np.zeros(1, dtype=DTYPE)
    peaks["time"], peaks["length"], peaks["dt"] = 120, 6, DT
    waveforms.sum_waveform(peaks, hits, records, waveforms.record_links(records), TO_PE)
    # channel 0 from sample 1 on: 20.5, 40.5, 60.5, 80.5 times 0.1; channel 2 from sample 2: times 3
    np.testing.assert_allclose(peaks["data"][0], [0, 2.05, 154.05, 54.05, 8.05, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(peaks["area_per_channel"][0], [20.2, 0, 198], rtol=1e-6)
    np.testing.assert_allclose(peaks["area"], 218.2, rtol=1e-6)
    assert peaks["saturated_channel"][0].tolist() == [0, 0, 1]
    assert peaks["n_saturated_channels"].tolist() == [1]


@pytest.mark.parametrize(
    ("baseline", "highest", "adc_max", "saturated"),
    [
        # Pulses that go down are saturated at count 0, whatever the largest count is
        (90.5, 89, 0, False),
        (90.5, 90, 0, True),
        (90.5, 89, 16383, False),
        (90.5, 90, 16383, True),
        # Those that go up, and were turned over, have baselines of -400.75 and samples to -16383
        (-400.75, 50, 0, True),
        (-400.75, 50, 16383, False),
        (-400.75, 16383 - 401 - 1, 16383, False),
        (-400.75, 16383 - 401, 16383, True),
    ],
)
def test_saturation(baseline, highest, adc_max, saturated):
    records = np.zeros(1, dtype=strax.record_dtype(SAMPLES))
    records["length"], records["dt"], records["baseline"] = SAMPLES, DT, baseline
    records["data"][0, 3:6] = [20, highest, 20]
    hits = find_hits(records)
    peaks = some_peaks(hits)
    links = waveforms.record_links(records)
    waveforms.sum_waveform(peaks, hits, records, links, TO_PE, adc_max)
    assert peaks["n_saturated_channels"].tolist() == [int(saturated)]
    assert peaks["saturated_channel"][0].tolist() == [int(saturated), 0, 0]


def test_a_long_peak_is_downsampled():
    records = np.zeros(2, dtype=strax.record_dtype(SAMPLES))
    records["time"], records["length"], records["dt"] = [0, 100], SAMPLES, DT
    records["data"], records["baseline"] = 20, 100
    peaks = np.zeros(1, dtype=DTYPE)
    peaks["length"], peaks["dt"] = 19, DT  # in 8 samples: groups of 3, one sample is left over
    waveforms.sum_waveform(peaks, find_hits(records), records, ([-1, -1], [-1, -1]), [1.0] * 3)
    assert (peaks["length"][0], peaks["dt"][0]) == (6, 30)
    assert peaks["data"][0].tolist() == [60] * 6 + [0, 0]
    assert peaks["area"][0] == 19 * 20  # the area has it all


def test_peaks_have_the_samples_of_their_hits():
    records = np.zeros(1, dtype=strax.record_dtype(SAMPLES))
    records["length"], records["dt"], records["data"] = SAMPLES, DT, 20
    peaks = np.zeros(1, dtype=DTYPE)
    peaks["length"], peaks["dt"] = 5, 2
    links = waveforms.record_links(records)
    with pytest.raises(ValueError, match="the peak at 0 ns has samples of 2 ns"):
        waveforms.sum_waveform(peaks, find_hits(records), records, links, TO_PE)


def test_of_nothing():
    records, peaks = np.zeros(0, dtype=strax.record_dtype(SAMPLES)), np.zeros(0, dtype=DTYPE)
    links = waveforms.record_links(records)
    assert [len(link) for link in links] == [0, 0]
    waveforms.sum_waveform(peaks, find_hits(records), records, links, TO_PE)
    waveforms.set_widths(peaks)
