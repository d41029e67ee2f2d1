"""Hits, and the order of things in time, against strax's own."""

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.exceptions import IndexOutOfBounds, InvalidOption
from amstrax.processing import peaks as kernels
from amstrax.processing.compiled import sort_by_time
from amstrax.processing.waveforms import record_links

PROPERTY = settings(max_examples=50, deadline=None, database=None)
SAMPLES = 12


def make_records(waveforms, **fields):
    records = np.zeros(len(waveforms), dtype=strax.record_dtype(SAMPLES))
    records["length"], records["dt"] = SAMPLES, 10
    records["time"] = 1000 * np.arange(len(waveforms))
    for record, waveform in zip(records, waveforms, strict=True):
        record["data"][: len(waveform)] = waveform
    for field, values in fields.items():
        records[field] = values
    return records


# waveform; left, right, area, height, sample of the maximum of each hit
HITS = [
    ([0, 14, 15, 20, 20, 3], [(2, 5, 55, 20, 3)]),  # of equal maxima the first
    ([15] * SAMPLES, [(0, SAMPLES, 15 * SAMPLES, 15, 0)]),
    ([20, 0, 30], [(0, 1, 20, 20, 0), (2, 3, 30, 30, 2)]),
    ([0] * (SAMPLES - 1) + [99], [(SAMPLES - 1, SAMPLES, 99, 99, SAMPLES - 1)]),
    ([-50, 14], []),
]


@pytest.mark.parametrize(("waveform", "expected"), HITS)
def test_find_hits(waveform, expected):
    records = make_records([waveform], channel=3, time=500)
    hits = kernels.find_hits(records)
    assert hits.dtype == strax.hit_dtype
    fields = ["left", "right", "area", "height"]
    assert hits[fields].tolist() == [row[:4] for row in expected]
    assert hits["time"].tolist() == [500 + 10 * row[0] for row in expected]
    assert hits["max_time"].tolist() == [500 + 10 * row[4] for row in expected]
    assert hits["length"].tolist() == [row[1] - row[0] for row in expected]
    for field, value in (("channel", 3), ("dt", 10), ("record_i", 0), ("threshold", 15)):
        assert (hits[field] == value).all()


def test_only_what_is_in_the_record_counts():
    records = make_records([[20] * SAMPLES] * 2, length=[3, 0])
    assert kernels.find_hits(records)[["record_i", "left", "right"]].tolist() == [(0, 0, 3)]


waveforms = st.lists(
    st.lists(st.integers(-30, 60), min_size=SAMPLES, max_size=SAMPLES), max_size=10
)


@PROPERTY
@given(waveforms, st.floats(0, 2, width=32), st.integers(1, 40), st.integers(0, 9), st.booleans())
def test_find_hits_equals_strax(waveforms, baseline, threshold, over_noise, per_channel):
    records = make_records(
        waveforms,
        channel=np.arange(len(waveforms)) % 3,
        length=SAMPLES - np.arange(len(waveforms)) % 2,
        baseline=baseline,
        baseline_rms=[np.nan if i % 4 == 3 else i for i in range(len(waveforms))],
    )
    if per_channel:
        threshold = np.array([threshold, threshold + 0.5, 1])
    np.testing.assert_array_equal(
        kernels.find_hits(records, threshold, over_noise),
        strax.find_hits(records, threshold, over_noise),
    )
    np.testing.assert_array_equal(
        kernels.find_hits(records, threshold, over_noise, by_time=True),
        strax.sort_by_time(strax.find_hits(records, threshold, over_noise)),
    )


def test_more_hits_than_there_was_room_for():
    records = make_records([[20, 0] * (SAMPLES // 2)] * 500)
    assert len(kernels.find_hits(records)) == 500 * SAMPLES // 2
    np.testing.assert_array_equal(kernels.find_hits(records), strax.find_hits(records))


@PROPERTY
@given(waveforms, st.booleans(), st.sampled_from([(15, 0), (0, 2), (np.nan, 1), (-(10**6), 0)]))
def test_kernel_equals_plain_python(waveforms, per_channel, thresholds):
    n = len(waveforms)
    records = make_records(
        waveforms, channel=np.arange(n) % 3, length=SAMPLES - np.arange(n) % 2, baseline=0.25
    )
    thresholds = [np.full(3 if per_channel else 1, x, dtype=float) for x in thresholds]
    arguments = kernels._Records.of(records), *thresholds, per_channel
    results = []
    for find in (kernels._find_hits, kernels._find_hits.py_func):
        hits = np.zeros(6 * n, dtype=strax.hit_dtype)
        results.append((find(*arguments, kernels._NewHits.of(hits)), hits))
    (n_fast, fast), (n_slow, slow) = results
    assert n_fast == n_slow
    np.testing.assert_array_equal(fast, slow)
    # Without room they are only counted
    assert kernels._find_hits(*arguments, kernels._NewHits.of(fast[:0])) == n_fast


def test_no_hits():
    assert kernels.find_hits(make_records([])).dtype == strax.hit_dtype
    nothing = make_records([[50]], baseline_rms=np.nan)
    assert len(kernels.find_hits(nothing, 2**16)) == 0  # above all samples
    assert len(kernels.find_hits(nothing, np.nan)) == 0


def test_records_that_cannot_be():
    with pytest.raises(ValueError, match="channel 2, but thresholds for 2 channels"):
        kernels.find_hits(make_records([[1]], channel=2), np.array([15, 15]))
    with pytest.raises(ValueError, match="a record of 13 samples, but there is room for 12"):
        kernels.find_hits(make_records([[1]], length=13))


rows = st.lists(st.tuples(st.integers(-20, 20), st.integers(-1, 3)), max_size=20)


@PROPERTY
@given(rows, st.sampled_from([1, 2**62]))
def test_sort_by_time_equals_strax(rows, scale):
    hits = np.zeros(len(rows), dtype=strax.hit_dtype)
    for hit, (time, channel) in zip(hits, rows, strict=True):
        hit["time"], hit["channel"] = time % 2 * scale + time, channel
    hits["length"] = np.arange(len(rows))  # to tell equal ones apart
    ours = sort_by_time(hits)
    if scale == 1:
        np.testing.assert_array_equal(ours, strax.sort_by_time(hits))
    keys = [(h["time"], h["channel"], h["length"]) for h in hits]
    assert [(h["time"], h["channel"], h["length"]) for h in ours] == sorted(keys)
    if scale == 1:
        assert sort_by_time(ours) is ours


def test_sort_by_time_without_channels():
    things = np.array([(3, 4), (1, 5), (3, 1), (2, 2)], dtype=strax.time_fields)
    expected = [(1, 5), (2, 2), (3, 4), (3, 1)]
    assert sort_by_time(things).tolist() == expected
    assert sort_by_time(things[::-1][::-1]).tolist() == expected
    assert len(sort_by_time(things[:0])) == 0


# ---- Integration of the samples around hits ----

# waveforms of the fragments of a pulse; margins [samples]; bounds and areas of its hits at 15
INTEGRALS = [
    ([[1, 2, 3, 20, 4, 5, 6]], (0, 0), [(3, 4, 20)]),
    ([[1, 2, 3, 20, 4, 5, 6]], (2, 1), [(1, 5, 29)]),
    ([[1, 2, 3, 20, 4, 5, 6]], (9, 12), [(0, 12, 41)]),  # within the pulse
    ([[20, 1, 2, 3, 20, 5]], (2, 2), [(0, 3, 23), (3, 7, 28)]),  # the earlier hit has more
    ([[20, 1, 30, 5]], (3, 3), [(0, 2, 21), (2, 6, 35)]),  # not into the next hit
    ([[0] * 11 + [20], [1, 2, 3]], (1, 2), [(10, 14, 23)]),  # into the fragment behind
    ([[0] * 11 + [20], [30, 2, 3]], (1, 2), [(10, 12, 20), (0, 3, 35)]),
    ([[0] * 10 + [3, 4], [30, 2]], (2, 1), [(-2, 2, 39)]),  # into the one before
]


@pytest.mark.parametrize(("waveforms", "margins", "expected"), INTEGRALS)
def test_integrate_hits(waveforms, margins, expected):
    n = len(waveforms)
    records = make_records(waveforms, time=120 * np.arange(n), record_i=np.arange(n))
    hits = kernels.find_hits(records, by_time=True)
    before = hits.copy()
    left, right = (10 * margin for margin in margins)
    kernels.integrate_hits(hits, records, record_links(records), left, right)
    bounds = hits[["left_integration", "right_integration", "area"]]
    assert bounds.tolist() == expected
    for field in set(hits.dtype.names) - set(bounds.dtype.names):
        np.testing.assert_array_equal(hits[field], before[field])


def sums_of_samples(hits, records, left, right):
    """Return start, end [ns] and area of widened hits, sample by sample."""
    samples = {}
    for r in records:
        for j in range(r["length"]):
            value = r["data"][j] + r["baseline"] % 1
            samples[r["channel"], r["time"] + 10 * j] = value
    owner = {}
    for h, hit in enumerate(hits):
        for t in range(hit["time"], hit["time"] + 10 * hit["length"], 10):
            owner[hit["channel"], t] = h
    for h, hit in enumerate(hits):
        for step, start, n in (
            (-10, hit["time"] - 10, left),
            (10, hit["time"] + 10 * hit["length"], right),
        ):
            for i in range(n):
                place = hit["channel"], start + step * i
                if place not in samples or place in owner:
                    break
                owner[place] = h
    result = []
    for h in range(len(hits)):
        times = [t for (_, t), o in owner.items() if o == h]
        total = sum(samples[hits[h]["channel"], t] for t in times)
        result.append((min(times), max(times) + 10, total))
    return result


@PROPERTY
@given(waveforms, st.integers(0, SAMPLES), st.integers(0, SAMPLES), st.sampled_from([0, 0.25]))
def test_integrals_equal_sums_of_samples(waveforms, left, right, baseline):
    n = len(waveforms)
    # Two channels, each with pulses of two fragments, the second of them shorter
    fragment, channel = np.arange(n) // 2 % 2, np.arange(n) % 2
    records = make_records(
        waveforms,
        time=1000 * (np.arange(n) // 4) + 120 * fragment,
        channel=channel,
        record_i=fragment,
        length=SAMPLES - 3 * fragment,
        baseline=baseline,
    )
    records = sort_by_time(records)
    links = record_links(records)
    hits = kernels.find_hits(records, by_time=True)
    plain = hits.copy()
    kernels.integrate_hits(hits, records, links, 10 * left, 10 * right)
    wide = kernels.widen_hits(hits)
    assert [(h["time"], h["time"] + 10 * h["length"], h["area"]) for h in wide] == sums_of_samples(
        hits, records, left, right
    )
    again = plain.copy()
    kernels.integrate_hits(again, records, links, 10 * left, 10 * right, widen=True)
    np.testing.assert_array_equal(again, wide)
    if len(plain):
        arguments = *links, plain["channel"], int(plain["channel"].max()) + 1, left, right
        assert kernels._integrate_hits.py_func(
            kernels._NewHits.of(plain), kernels._Records.of(records), *arguments, False
        )
        np.testing.assert_array_equal(plain, hits)


def test_integrals_that_cannot_be():
    records = make_records([[20]])
    links, hits = record_links(records), kernels.find_hits(records)
    with pytest.raises(InvalidOption, match="hit_left_margin=-1: give a time between 0 and"):
        kernels.integrate_hits(hits, records, links, -1, 0)
    with pytest.raises(InvalidOption, match=r"hit_right_margin=130: .* of a record, 120 \[ns\]"):
        kernels.integrate_hits(hits, records, links, 0, 130)
    hits["record_i"] = 1
    with pytest.raises(IndexOutOfBounds, match="record_i"):
        kernels.integrate_hits(hits, records, links, 0, 0)
    hits["record_i"], hits["left"] = 0, 13
    with pytest.raises(IndexOutOfBounds, match="left 13"):
        kernels.integrate_hits(hits, records, links, 0, 0)
    hits["left"] = 0
    with pytest.raises(IndexOutOfBounds, match="links of 0 and 1 records"):
        kernels.integrate_hits(hits, records, (links[0][:0], links[1]), 0, 0)
    kernels.integrate_hits(hits[:0], records[:0], record_links(records[:0]), 0, 0)
