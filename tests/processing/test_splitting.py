"""Splitting of peaks at local minima and natural breaks, against strax's own."""

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st
from strax.processing.peak_splitting import natural_breaks_gof

from amstrax.processing import splitting

PROPERTY = settings(max_examples=50, deadline=None, database=None)
N_CHANNELS, SAMPLES, DT = 2, 110, 10
TO_PE = np.array([1.0, 0.5])
CURVES = (None, ((0.5, 1.0), (6.0, 0.4)), ((2.5, 1.0), (5.625, 0.4)))
LOW_CURVES = (None, ((0.0, 0.2), (6.0, 0.1)), ((0.0, 0.3), (6.0, 0.2)))


def local_minima(waveform, min_height=25, min_ratio=4, area=None, length=None):
    """Return where the kernel ends the parts of one waveform; the same of plain Python."""
    data = np.array([waveform], dtype=np.float32)
    arguments = (
        data,
        np.array([data.size if length is None else length], dtype=np.int32),
        np.array([data.sum() if area is None else area], dtype=np.float32),
        float(min_height),
        float(min_ratio),
    )
    index, ends = splitting._local_minima(*arguments)
    slow_index, slow_ends = splitting._local_minima.py_func(*arguments)
    assert ends.tolist() == slow_ends.tolist()
    assert index.tolist() == slow_index.tolist() == [0] * len(ends)
    return ends.tolist()


@pytest.mark.parametrize(
    ("waveform", "ends"),
    [
        ([0, 10, 50, 10, 0], []),
        # minimum 5 at sample 4: 50 and 60 are above 5 + 25 and 5 x 4
        ([0, 10, 50, 10, 5, 10, 60, 0], [4, 8]),
        ([50, 25, 60], []),  # 50 is not above 25 + 25
        ([50, 24, 60], []),  # it is above 24 + 25, but not above 24 x 4
        ([500, 125, 500], []),  # 500 is not above 125 x 4
        ([500, 124, 500], [1, 3]),
        ([500, 124, 496], []),  # both sides must be above
        ([100, 0, 20, 0, 100], [1, 5]),  # the first of equal minima; 20 is no maximum of its own
        ([100, 0, 90, 0, 100], [1, 3, 5]),
        ([0, 0, 0], []),
        ([-5, 40, -5, 40, -5], [2, 5]),
        ([], []),
    ],
)
def test_local_minima(waveform, ends):
    assert local_minima(waveform) == ends


def test_local_minima_look_at_length_and_area():
    assert local_minima([100, 0, 100, 0, 100], length=3) == [1, 3]
    assert local_minima([100, 0, 100], area=-1) == []
    assert local_minima([100, 0, 100], area=0) == [1, 3]


@PROPERTY
@given(st.lists(st.integers(-20, 200), max_size=30), st.integers(0, 60), st.integers(0, 6))
def test_local_minima_are_deep_enough(waveform, height, ratio):
    # part of the criterion: the parts' maxima are that much above the minima between them
    ends = local_minima(waveform, height, ratio, area=1)
    assert ends == sorted(set(ends))
    if not ends:
        return
    assert ends[-1] == len(waveform)
    edges = [0, *ends]
    for left, minimum, right in zip(edges, ends, ends[1:], strict=False):
        lower = min(max(waveform[left:minimum]), max(waveform[minimum:right]))
        assert lower > max(waveform[minimum] + height, waveform[minimum] * ratio)


def natural_breaks(waveforms, threshold, min_area=0.0, wing_width=0):
    data = np.array(waveforms, dtype=np.float32)
    n = len(data)
    length = np.full(n, data.shape[1], dtype=np.int32)
    dt = np.full(n, DT, dtype=np.int32)
    results = []
    for kernel in (splitting._natural_breaks, splitting._natural_breaks.py_func):
        best = np.full(n, -1, dtype=np.float32)
        threshold_of_each = np.full(n, float(threshold))
        found = kernel(
            data, length, dt, data.sum(axis=1), threshold_of_each, wing_width, min_area, best
        )
        results.append([column.tolist() for column in (*found, best)])
    assert results[0] == results[1]
    return results[0]


def test_natural_breaks():
    # Ones at samples 0 and 4: mean 2, so 2^2 + 2^2 = 8 unsplit. Split between them, both sides
    # have no spread: goodness 1, and where the waveform is 0 split_low takes nothing off.
    two, one, small = [1, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0.1, 0, 0, 0, 0.1]
    index, ends, best = natural_breaks([two, one, small], threshold=0.9, min_area=1.0)
    assert index == [0, 0]
    assert ends == [1, 4]  # the first of the best samples, and the last sample
    assert best[0] == 1
    assert best[1] == 0  # as high everywhere as its maximum: nowhere to split
    assert best[2] == -1  # below the least area: not looked at
    assert natural_breaks([two], threshold=1)[1] == []  # above the threshold, not at it
    assert natural_breaks([two], threshold=0.9, min_area=2.0)[1] == [1, 4]  # of the least area


@PROPERTY
@given(st.lists(st.integers(0, 100), min_size=30, max_size=30), st.floats(0.05, 1))
def test_natural_breaks_take_the_best_goodness(waveform, threshold):
    waveform[3], waveform[20] = 50, 40
    index, ends, best = natural_breaks([waveform], threshold, wing_width=30)
    goodness = natural_breaks_gof(np.float32(waveform), DT, split_low=True, filter_wing_width=30)
    assert best == [np.float32(goodness.max())]
    assert ends == ([goodness.argmax(), 29] if goodness.max() > threshold else [])
    assert len(index) == len(ends)


def test_natural_breaks_threshold():
    peaks = np.zeros(6, dtype=strax.peak_dtype(n_channels=2))
    rise_times = [100, 1, 1e5, 0.01, 1e9, -5]
    peaks["area_decile_from_midpoint"][:, 1] = np.negative(rise_times)
    peaks["area"] = [10**4.0625, 10**4.0625, 10**4.0625, 0.001, 1e20, 0.001]
    s2 = 0.7  # half way between (2.5, 1.0) and (5.625, 0.4)
    s1 = 1 - 0.6 * (4.0625 - 0.5) / 5.5
    few = 1 / (1 + np.exp(16))  # share of the S2 curve at the limits of 1 ns and 0.1 ms
    many = 1 / (1 + np.exp(-24))
    expected = [
        (s1 + s2) / 2,  # at 100 ns half and half
        few * s2 + (1 - few) * s1,
        many * s2 + (1 - many) * s1,
        1,  # below 1 ns and 1 PE
        0.4,  # above 0.1 ms and 1e7 PE
        1,
    ]
    result = splitting.natural_breaks_threshold(CURVES)(peaks)
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert len(splitting.natural_breaks_threshold(CURVES)(peaks[:0])) == 0


def make_input(bumps, n_fragments):
    """Return peaks with waveforms, and what strax builds them from: one pulse in each channel."""
    n_samples = n_fragments * SAMPLES
    waveforms = np.zeros((N_CHANNELS, n_samples))
    sample = np.arange(n_samples)
    for channel, center, width, height in bumps:
        at = center * n_samples
        waveforms[channel] += height * np.exp(-0.5 * ((sample - at) / width) ** 2)
    records = np.zeros(N_CHANNELS * n_fragments, dtype=strax.record_dtype(SAMPLES))
    for channel in range(N_CHANNELS):
        mine = records[channel::N_CHANNELS]
        mine["channel"] = channel
        mine["record_i"] = np.arange(n_fragments)
        mine["time"] = 1000 + mine["record_i"] * SAMPLES * DT
        mine["data"] = waveforms[channel].reshape(n_fragments, SAMPLES)
    records["length"] = SAMPLES
    records["pulse_length"] = n_samples
    records["dt"] = DT
    records["baseline"] = 0.25
    strax.integrate(records)
    hits = strax.sort_by_time(strax.find_hits(records))
    peaks = strax.find_peaks(
        hits,
        TO_PE,
        gap_threshold=300,
        left_extension=10,
        right_extension=10,
        min_channels=1,
        result_dtype=strax.peak_dtype(n_channels=N_CHANNELS),
    )
    links = strax.record_links(records)
    strax.sum_waveform(peaks, hits, records, links, TO_PE)
    strax.compute_properties(peaks)
    return peaks, hits, records, links, TO_PE


bump = st.tuples(
    st.integers(0, N_CHANNELS - 1),
    st.floats(0.05, 0.95),
    st.floats(0.5, 30),
    st.floats(20, 3000),
)
inputs = st.tuples(st.lists(bump, min_size=1, max_size=6), st.integers(1, 4))


def assert_same_parts(ours, theirs):
    assert len(ours) == len(theirs)
    for field in ours.dtype.names:
        # strax fills these; here they come later, from set_center_times
        if field not in ("center_time", "area_fraction_top"):
            np.testing.assert_array_equal(ours[field], theirs[field], err_msg=field)


@pytest.mark.slow
@PROPERTY
@given(inputs, st.integers(0, 100), st.integers(0, 5), st.integers(1, 3))
def test_local_minimum_equals_strax(given_input, min_height, min_ratio, iterations):
    peaks, *rest = make_input(*given_input)
    expected = strax.split_peaks(
        peaks.copy(),
        *rest,
        algorithm="local_minimum",
        min_height=min_height,
        min_ratio=min_ratio,
        do_iterations=iterations,
    )
    find_splits = splitting.local_minimum_splits(min_height, min_ratio)
    assert_same_parts(splitting.split_peaks(peaks, *rest, find_splits, iterations), expected)


@pytest.mark.slow
@PROPERTY
@given(inputs, st.sampled_from([CURVES, LOW_CURVES]), st.integers(0, 9), st.integers(0, 20))
def test_natural_breaks_equals_strax(given_input, curves, wing, iterations):
    peaks, *rest = make_input(*given_input)
    threshold = splitting.natural_breaks_threshold(curves)
    expected = strax.split_peaks(
        peaks.copy(),
        *rest,
        algorithm="natural_breaks",
        threshold=threshold,
        split_low=True,
        filter_wing_width=10 * wing,
        min_area=40,
        do_iterations=iterations,
    )
    find_splits = splitting.natural_breaks_splits(threshold, 10 * wing, 40)
    assert_same_parts(splitting.split_peaks(peaks, *rest, find_splits, iterations), expected)


TWO_BUMPS = [(0, 0.3, 3, 1000), (1, 0.3, 3, 500), (1, 0.7, 3, 800)]


def test_two_bumps_are_split_once():
    peaks, *rest = make_input(TWO_BUMPS, 1)
    assert len(peaks) == 1
    for find_splits in (
        splitting.local_minimum_splits(25, 4),
        splitting.natural_breaks_splits(splitting.natural_breaks_threshold(LOW_CURVES), 70, 40),
    ):
        parts = splitting.split_peaks(peaks.copy(), *rest, find_splits, 20)
        assert len(parts) == 2
        # areas of the bumps: height x width x sqrt(2 pi), half of it for channel 1
        unit = 3 * np.sqrt(2 * np.pi)
        np.testing.assert_allclose(parts["area"], [1250 * unit, 400 * unit], rtol=0.02)
        np.testing.assert_allclose(parts["area_per_channel"][1], [0, 400 * unit], rtol=0.02)
        assert (parts["width"][:, 10] > 0).all()
        assert parts["max_gap"].tolist() == [-1, -1]


@PROPERTY
@given(st.lists(bump, min_size=2, max_size=6), st.integers(1, 5))
def test_parts_cover_the_peak(bumps, iterations):
    # of one fragment, so that no waveform is too long to be kept sample by sample
    peaks, *rest = make_input(bumps, 1)
    for find_splits, missing in (
        (splitting.local_minimum_splits(5, 1.5), 0),
        # natural breaks leave out the last sample, once for every time a peak is split
        (splitting.natural_breaks_splits(lambda p: np.full(len(p), 0.1), 0, 1), 1),
    ):
        parts = splitting.split_peaks(peaks.copy(), *rest, find_splits, iterations)
        assert (parts["length"] > 0).all()
        part_ends = strax.endtime(parts)
        owner = strax.fully_contained_in(parts, peaks)
        assert (owner >= 0).all()
        for i, peak in enumerate(peaks):
            mine = np.flatnonzero(owner == i)
            end = strax.endtime(peak)
            assert parts["time"][mine[0]] == peak["time"]
            gaps = np.append(parts["time"][mine][1:], end) - part_ends[mine]
            assert (gaps >= 0).all()
            assert (gaps <= missing * iterations * DT).all()
            if not missing:
                total = parts["area"][mine].sum()
                assert total == pytest.approx(peak["area"], rel=1e-5, abs=1e-3)


def test_nothing_to_split():
    peaks, hits, records, links, to_pe = make_input(TWO_BUMPS, 1)
    for find_splits in (
        splitting.local_minimum_splits(25, 4),
        splitting.natural_breaks_splits(splitting.natural_breaks_threshold(LOW_CURVES), 70, 40),
    ):
        assert len(splitting.split_peaks(peaks[:0], hits, records, links, to_pe, find_splits)) == 0
        same = splitting.split_peaks(peaks, hits, records[:0], links, to_pe, find_splits)
        assert same is peaks
        assert splitting.split_peaks(peaks, hits, records, links, to_pe, find_splits, 0) is peaks
        index, ends = find_splits(peaks[:0])
        assert (len(index), len(ends)) == (0, 0)
    never = splitting.local_minimum_splits(1e9, 4)
    assert splitting.split_peaks(peaks, hits, records, links, to_pe, never) is peaks


# ---- Pairs of S1s ----


def pairs(waveform, significance=2.5, min_fraction=0.05, dt=10):
    """Return where a pair of S1s is split; compiled and in plain Python."""
    data = np.array([waveform], dtype=np.float32)
    arguments = (data, np.array([data.size], dtype=np.int32), np.array([dt], dtype=np.int32))
    arguments += (data.sum(axis=1), 150.0, 40.0, float(significance), float(min_fraction), 1.5)
    index, ends = splitting._s1_pairs(*arguments)
    slow = splitting._s1_pairs.py_func(*arguments)
    assert [index.tolist(), ends.tolist()] == [x.tolist() for x in slow]
    return ends.tolist()


def s1s(*rows, length=60):
    """Return a waveform of rows (first sample, area [PE]), decaying with 27 ns."""
    result = np.zeros(length)
    for start, area in rows:
        t = np.arange(length - start)
        result[start:] += area * np.exp(-t / 2.7) * (1 - np.exp(-1 / 2.7))
    return result


@pytest.mark.parametrize(
    ("waveform", "is_split"),
    [
        (s1s((2, 150)), False),
        (s1s((2, 150), (22, 45)), True),
        (s1s((2, 150), (17, 45)), True),
        (s1s((2, 150), (6, 45)), False),  # too near
        (s1s((2, 150), (22, 10)), False),  # not significant
        (s1s((2, 10_000), (40, 300)), False),  # less than 0.05
        (s1s((2, 45), (22, 150)), True),
        (np.full(60, 50.0), False),
        (50 + 40 * np.sin(np.arange(60)), False),  # an S2
        (np.zeros(60), False),
        (s1s((1, 150), length=5), False),
    ],
)
def test_pairs_of_s1s(waveform, is_split):
    ends = pairs(waveform)
    assert len(ends) == 2 * is_split
    if is_split:
        second = int(np.argmax(np.diff(waveform[5:]))) + 5
        assert second - 3 <= ends[0] <= second + 1 and ends[1] == len(waveform)


def test_single_s1s_are_rarely_split():
    """One of 1000, of all sizes."""
    rng = np.random.default_rng(1)
    shape = s1s((3, 1))
    n_split = sum(len(pairs(rng.poisson(shape * area))) > 0 for area in rng.uniform(20, 300, 300))
    assert n_split <= 3


def test_first_finder_decides():
    peaks = np.zeros(3, dtype=strax.peak_dtype(n_channels=2))

    def finder(*found):
        return lambda peaks: tuple(np.array(x, dtype=np.int64) for x in found)

    both = splitting.first_of(finder([1, 1], [5, 9]), finder([0, 0, 1, 1], [2, 7, 3, 9]))
    index, ends = both(peaks)
    assert index.tolist() == [0, 0, 1, 1] and ends.tolist() == [2, 7, 5, 9]
