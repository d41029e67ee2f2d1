"""Gains, clipping, widths, centre times, classification and positions of peaks."""

import numpy as np
import pytest
import strax
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amstrax.exceptions import InvalidOption
from amstrax.processing import peaks as kernels
from amstrax.processing import waveforms

PROPERTY = settings(max_examples=50, deadline=None, database=None)
DTYPE = np.dtype(strax.peak_dtype(n_channels=5, n_sum_wv_samples=20))


def make_peaks(n=1, **fields):
    peaks = np.zeros(n, dtype=DTYPE)
    peaks["dt"] = 10
    for field, values in fields.items():
        peaks[field] = values
    return peaks


def test_gains():
    ones = kernels.gains(None, 3)
    assert ones.tolist() == [1, 1, 1]
    given_gains = kernels.gains([1, 0.5, 2, 7], 3)
    assert given_gains.dtype == np.float64
    assert given_gains.tolist() == [1, 0.5, 2, 7]
    assert kernels.gains(None, 0).shape == (0,)


@pytest.mark.parametrize(
    "value",
    [
        *([0.25, 0.5], 0.75, [[0.125, 1.0, 1.0]], [1, 2, float("nan")], [1, float("inf"), 2]),
        *([1, None, 2], ["1", "2", "3"], [True, True, True], [[1], [2, 3], [4]]),
    ],
)
def test_gains_that_are_not_a_number_for_each_channel(value):
    with pytest.raises(InvalidOption, match="at least 3 finite numbers") as error:
        kernels.gains(value, 3)
    assert repr(value)[:50] in str(error.value)
    assert isinstance(error.value, ValueError)


hit_rows = st.lists(
    st.tuples(
        st.integers(0, 300), st.integers(1, 40), st.integers(0, 4), st.floats(-20, 200, width=32)
    ),
    max_size=15,
)


@PROPERTY
@given(hit_rows, st.integers(0, 30), st.sampled_from([1, 2]), st.sampled_from([500, 10**7]))
def test_find_peaks_equals_strax(rows, min_area, min_channels, max_duration):
    hits = np.zeros(len(rows), dtype=strax.hit_dtype)
    for hit, row in zip(hits, sorted(rows), strict=True):
        hit["time"], hit["length"], hit["channel"], hit["area"] = row[0] * 10, *row[1:]
    hits["dt"] = 10
    to_pe = np.array([1, 0.5, 2, 1, 1])
    options = {
        "gap_threshold": 100,
        "left_extension": 20,
        "right_extension": 30,
        "min_area": min_area,
        "min_channels": min_channels,
        "max_duration": max_duration,
    }
    found = kernels.find_peaks(hits, to_pe, DTYPE, **options)
    assert found.dtype == DTYPE
    np.testing.assert_array_equal(
        found, strax.find_peaks(hits, to_pe, result_dtype=DTYPE, **options)
    )
    columns = kernels._Hits.of(hits)
    numbers = 5, 100, 20, 30, float(min_area), min_channels, max_duration
    for fast, slow in zip(
        kernels._find_peaks(columns, to_pe, *numbers),
        kernels._find_peaks.py_func(columns, to_pe, *numbers),
        strict=True,
    ):
        np.testing.assert_array_equal(fast, slow)


def test_peaks_that_cannot_be():
    hits = np.zeros(1, dtype=strax.hit_dtype)
    hits["length"], hits["dt"], hits["channel"] = 1, 10, 4
    options = dict(gap_threshold=100, left_extension=20, right_extension=30, min_area=0)
    with pytest.raises(InvalidOption, match="peak_gap_threshold=50 must be above"):
        kernels.find_peaks(
            hits, np.ones(5), DTYPE, **options | {"gap_threshold": 50}, min_channels=1
        )
    with pytest.raises(InvalidOption, match="peak_min_pmts=0"):
        kernels.find_peaks(hits, np.ones(5), DTYPE, **options, min_channels=0)
    with pytest.raises(InvalidOption, match="channel 4, but gains for 4 channels"):
        kernels.find_peaks(hits, np.ones(4), DTYPE, **options, min_channels=1)
    hits["dt"] = 0
    with pytest.raises(ValueError, match="samples of 0 ns"):
        kernels.find_peaks(hits, np.ones(5), DTYPE, **options, min_channels=1)
    hits["dt"], hits["length"], hits["area"] = 10, -20, 1
    with pytest.raises(ValueError, match="the peak at -20 ns has -15 samples"):
        kernels.find_peaks(hits, np.ones(5), DTYPE, **options, min_channels=1)


@st.composite
def peaks_and_hits(draw):
    """Return peaks of 10 ns samples that do not overlap, some of them parts, and hits."""
    lengths = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    gaps = draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    peaks = make_peaks(len(lengths), length=lengths)
    begin = np.cumsum(gaps) + np.cumsum([0, *lengths[:-1]])
    peaks["time"] = 10 * begin
    peaks["n_hits"] = draw(
        st.lists(st.sampled_from([0, 7]), min_size=len(peaks), max_size=len(peaks))
    )
    peaks["max_gap"] = np.where(peaks["n_hits"] == 0, -1, 33)
    for peak in peaks:
        peak["data"][draw(st.integers(0, peak["length"] - 1))] = 5
    rows = draw(
        st.lists(st.tuples(st.integers(-3, 70), st.integers(1, 30), st.integers(0, 4)), max_size=12)
    )
    hits = np.zeros(len(rows), dtype=strax.hit_dtype)
    hits["dt"] = 10
    for hit, (start, length, channel) in zip(hits, sorted(rows), strict=True):
        hit["time"], hit["length"], hit["channel"] = 10 * start, length, channel
        hit["max_time"] = 10 * (start + draw(st.integers(0, length - 1)))
    return peaks, hits


@PROPERTY
@given(peaks_and_hits(), st.integers(0, 120))
def test_hit_features_equal_plain_python(both, window):
    peaks, hits = both
    before = peaks.copy()
    kernels.set_hit_features(peaks, hits, window)
    for old, peak in zip(before, peaks, strict=True):
        start, end = peak["time"], peak["time"] + 10 * peak["length"]
        summit = start + 10 * int(np.argmax(peak["data"]))
        near = {h["channel"] for h in hits if abs(h["max_time"] - summit) <= window}
        assert peak["tight_coincidence"] == len(near)
        inside = [h for h in hits if start <= h["max_time"] < end]
        inside.sort(key=lambda h: h["max_time"])
        assert peak["first_channel"] == (inside[0]["channel"] if inside else -1)
        assert peak["last_channel"] == (inside[-1]["channel"] if inside else -1)
        waits = [b["max_time"] - a["max_time"] for a, b in zip(inside, inside[1:], strict=False)]
        assert peak["min_diff"] == min(waits, default=-1)
        assert peak["max_diff"] == max(waits, default=-1)
        touching = [
            (h["time"], h["time"] + 10 * h["length"])
            for h in hits
            if h["time"] < end and h["time"] + 10 * h["length"] > start
        ]
        if old["n_hits"]:
            assert (peak["n_hits"], peak["max_gap"]) == (7, 33)
            continue
        assert peak["n_hits"] == len(touching)
        gaps = [left - max(e for _, e in touching[:i]) for i, (left, _) in enumerate(touching) if i]
        expected = max([0, *gaps]) if touching else -1
        assert peak["max_gap"] == expected
    untouched = [f for f in DTYPE.names if f not in (*HIT_FEATURES, "n_hits", "max_gap")]
    for field in untouched:
        np.testing.assert_array_equal(before[field], peaks[field])


HIT_FEATURES = ("tight_coincidence", "first_channel", "last_channel", "min_diff", "max_diff")


@pytest.mark.slow
@PROPERTY
@given(hit_rows.filter(len), st.integers(0, 100))
def test_hit_features_of_whole_peaks_are_those_of_straxen(rows, window):
    peaklets = pytest.importorskip("straxen.plugins.peaklets.peaklets")
    hits = np.zeros(len(rows), dtype=strax.hit_dtype)
    for hit, row in zip(hits, sorted(rows), strict=True):
        hit["time"], hit["length"], hit["channel"], hit["area"] = row[0] * 10, *row[1:]
    hits["dt"] = 10
    hits["max_time"] = hits["time"] + hits["length"] // 2 * 10
    # Windows do not reach into the next peak, which straxen does not look at twice
    options = dict(gap_threshold=200, left_extension=0, right_extension=0, min_channels=1)
    peaks = kernels.find_peaks(hits, np.ones(5), DTYPE, min_area=-np.inf, **options)
    peaks["data"][:, 0] = 1
    ours, theirs = peaks.copy(), peaks.copy()
    kernels.set_hit_features(ours, hits, min(window, 99))
    in_order = hits[strax.stable_argsort(hits["max_time"])]
    theirs["tight_coincidence"] = peaklets.get_tight_coin(
        in_order["max_time"], in_order["channel"], peaks["time"], *[min(window, 99)] * 2, (0, 4)
    )
    peaklets.Peaklets.add_hit_features(hits, theirs)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rise", [0, 820])
def test_coincidences_do_not_depend_on_the_precision_of_times_as_floats(rise):
    """Of today's times since unix epoch that is 256 ns."""
    peaks = make_peaks(60, time=1_700_000_000_000_000_000 + 10_010 * np.arange(60), length=20)
    peaks["data"][:, 15] = 1
    hits = np.zeros(60, dtype=strax.hit_dtype)
    hits["max_time"] = peaks["time"] + 140
    hits["time"] = hits["max_time"] - rise
    kernels.set_tight_coincidence(peaks, hits, 50)
    assert (peaks["tight_coincidence"] == 1).all()


def test_hit_features_of_nothing():
    hits = np.zeros(1, dtype=strax.hit_dtype)
    kernels.set_hit_features(make_peaks(0), hits, 50)
    peaks = make_peaks(1, length=3, max_gap=-1)
    kernels.set_hit_features(peaks, hits[:0], 50)
    assert [peaks[field][0] for field in HIT_FEATURES] == [0, -1, -1, -1, -1]
    assert (peaks["n_hits"][0], peaks["max_gap"][0]) == (0, -1)


# time, length, dt before and after clipping to [1000, 2000)
CLIPPED = [
    ((1000, 100, 10), (1000, 100, 10)),
    ((1200, 10, 10), (1200, 10, 10)),
    ((990, 10, 10), (1000, 9, 10)),
    ((985, 10, 10), (1005, 8, 10)),  # whole samples: 995 is still before the start
    ((999, 10, 1), (1000, 9, 1)),
    ((1950, 10, 10), (1950, 5, 10)),
    ((1955, 10, 10), (1955, 4, 10)),  # 1995 to 2005 sticks out
    ((975, 210, 5), (1000, 200, 5)),
    ((970, 52, 20), (1010, 49, 20)),  # both ends: 1010 to 1990
]


def test_clip_peaks():
    before, after = zip(*CLIPPED, strict=True)
    peaks = make_peaks(len(CLIPPED))
    for field, values in zip(("time", "length", "dt"), zip(*before, strict=True), strict=True):
        peaks[field] = values
    kernels.clip_peaks(peaks, 1000, 2000)
    rows = list(zip(peaks["time"], peaks["length"], peaks["dt"], strict=True))
    assert rows == list(after)


@PROPERTY
@given(
    st.lists(
        st.tuples(st.integers(-300, 900), st.integers(1, 700), st.sampled_from([1, 2, 10, 40])),
        max_size=6,
    )
)
def test_clipped_peaks_are_as_long_as_the_chunk_allows(rows):
    start, end = 0, 1000
    assume(all(t <= end - 2 * dt and t + n * dt >= start + 2 * dt for t, n, dt in rows))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    peaks = make_peaks(len(rows))
    peaks["time"], peaks["length"], peaks["dt"] = columns
    old_end = strax.endtime(peaks)
    kernels.clip_peaks(peaks, start, end)
    new_end = strax.endtime(peaks)
    for i, (time, _, dt) in enumerate(rows):
        assert start <= peaks["time"][i] < new_end[i] <= end
        assert (peaks["time"][i] - time) % dt == 0
        assert peaks["time"][i] == max(time, time + -(-(start - time) // dt) * dt)
        assert new_end[i] == old_end[i] or new_end[i] + dt > end


def test_between_peaks():
    peaks = make_peaks(2, time=[1200, 1500], length=[10, 20])
    gaps = kernels.between_peaks(peaks, 1000, 2000)
    assert list(zip(gaps["time"], gaps["endtime"], strict=True)) == [
        (1000, 1200),
        (1300, 1500),
        (1700, 2000),
    ]
    nothing = kernels.between_peaks(peaks[:0], 1000, 2000)
    assert list(zip(nothing["time"], nothing["endtime"], strict=True)) == [(1000, 2000)]


def test_widen_hits():
    hits = np.zeros(2, dtype=strax.hit_dtype)
    hits["dt"] = 10
    hits["time"], hits["length"] = [1000, 2000], [5, 3]
    hits["left"], hits["right"] = [10, 0], [15, 3]
    hits["left_integration"], hits["right_integration"] = [5, -4], [20, 3]
    wide = kernels.widen_hits(hits)
    assert wide["time"].tolist() == [950, 1960]
    assert wide["length"].tolist() == [15, 7]
    assert hits["time"].tolist() == [1000, 2000]
    assert len(kernels.widen_hits(hits[:0])) == 0


def test_check_disjoint():
    peaks = make_peaks(3, time=[1000, 1100, 1300], length=10)
    kernels.check_disjoint(peaks)
    kernels.check_disjoint(peaks[:0])
    peaks["time"][2] = 1199
    with pytest.raises(ValueError, match="1199 ns"):
        kernels.check_disjoint(peaks)


def test_set_widths():
    # 10 equal samples of 10 ns: the area grows evenly over 100 ns
    peaks = make_peaks(1, length=10, area=10)
    peaks["data"][0, :10] = 1
    waveforms.set_widths(peaks)
    np.testing.assert_allclose(peaks["width"][0], np.arange(11) * 10, atol=1e-3)
    np.testing.assert_allclose(
        peaks["area_decile_from_midpoint"][0], np.arange(11) * 10 - 50, atol=1e-3
    )
    np.testing.assert_allclose(peaks["median_time"], 50, atol=1e-3)
    assert peaks["width"][0, kernels.RANGE_50P] == pytest.approx(50, abs=1e-3)
    assert peaks["width"][0, kernels.RANGE_90P] == pytest.approx(90, abs=1e-3)
    assert peaks["area_decile_from_midpoint"][0, kernels.DECILE_10P] == pytest.approx(-40, abs=1e-3)
    waveforms.set_widths(peaks[:0])


def test_center_times():
    data = np.zeros((4, 20), dtype=np.float32)
    data[0, [2, 4]] = 1, 3  # (20 + 120) / 4 = 35
    data[1, [0, 1, 2]] = 1, 1, 1  # 10
    data[2, [1, 2]] = 2, 1  # (2 x 10 + 1 x 20) / 3 = 13.3, cut to 13
    data[3, 5] = -2
    peaks = make_peaks(4, time=[1000, 2000, 3000, 4000], data=data, area=[4, 3, 3, -2])
    kernels.set_center_times(peaks)
    assert peaks["center_time"].tolist() == [1035, 2010, 3013, 4000]
    assert np.isnan(peaks["area_fraction_top"]).all()
    peaks["area"] = 0
    kernels.set_center_times(peaks)
    assert peaks["center_time"].tolist() == [1000, 2000, 3000, 4000]
    kernels.set_center_times(peaks[:0])


@PROPERTY
@given(arrays(np.int32, (5, 20), elements=st.integers(0, 1000)), st.integers(1, 50))
def test_center_times_are_weighted_means(counts, dt):
    data = counts.astype(np.float32)
    time = 1_700_000_000_000_000_000 + np.arange(5) * 10_000
    peaks = make_peaks(5, time=time, dt=dt, data=data, area=data.sum(axis=1))
    result = kernels.center_times(peaks)
    for i in range(5):
        total = sum(counts[i].tolist())
        weighted = sum(j * dt * c for j, c in enumerate(counts[i].tolist()))
        assert result[i] == time[i] + (weighted // total if total else 0)
    arguments = (peaks[name] for name in ("time", "dt", "area", "data"))
    np.testing.assert_array_equal(result, kernels._center_times.py_func(*arguments))


def test_area_fraction_top():
    areas = np.array(
        [
            [5, 1, 1, 2, 1],
            [0, 1, 1, 1, 1],
            [8, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
            [-5, 1, 1, 1, 1],
            [20, -1, -1, -1, -1],
        ],
        dtype=np.float32,
    )
    fractions = kernels.area_fraction_top(areas, (1, 4))
    assert fractions.dtype == np.float32
    np.testing.assert_array_equal(fractions, [0.5, 1, 0, np.nan, np.nan, -0.25])
    # the last channel of the top array counts, those above it are not of it
    np.testing.assert_array_equal(kernels.area_fraction_top(areas[:1], (1, 3)), np.float32([0.4]))
    assert kernels.area_fraction_top(areas[:0], (1, 4)).shape == (0,)


@PROPERTY
@given(arrays(np.float32, (4, 5), elements=st.floats(0.125, 1e6, width=32)))
def test_fractions_of_top_and_bottom_add_up(areas):
    top = kernels.area_fraction_top(areas, (1, 4))
    bottom = kernels.area_fraction_top(areas, (0, 0))
    assert ((top > 0) & (top < 1 + 1e-6)).all()
    np.testing.assert_allclose(top + bottom, 1, rtol=1e-6)


def test_classify():
    is_s1 = np.array([False, True, False, True])
    is_s2 = np.array([False, False, True, True])
    types = kernels.classify(is_s1, is_s2)
    assert types.tolist() == [0, 1, 2, 0]
    assert kernels.classify(is_s1[:0], is_s2[:0]).shape == (0,)


def test_check_sum_area():
    time = np.array([111, 222, 333])
    per_channel = np.array([[3, 2], [60, 40.5], [1, 1]], dtype=np.float32)
    area = np.array([5, 100, -7], dtype=np.float32)
    kernels.check_sum_area(time, area, per_channel, 0.01)  # 0.5 % off; negative areas pass
    kernels.check_sum_area(time[:0], area[:0], per_channel[:0], 0)
    with pytest.raises(ValueError, match=r"222 ns .* 100\.5 PE.* 100\.0 PE.*=0\.001"):
        kernels.check_sum_area(time, area, per_channel, 0.001)


def test_radius():
    assert kernels.radius(np.array([3.0, -8.0]), np.array([-4.0, 6.0])).tolist() == [5, 10]


# x = 2 f + 1, y = f^2 - 3, highest power first
POLYNOMIALS = ((2, 1), (1, 0, -3))


def test_reconstruct_positions():
    per_channel = np.array(
        [[100, 1, 2, 3, 4], [10, 5, 0, 0, 0], [7, 0, 0, 0, 0], [-9, 1, 1, 1, 1]], dtype=np.float32
    )
    aft = np.array([10 / 110, 5 / 15, 0, np.nan], dtype=np.float32)
    area = np.array([110, 15, 7, -5], dtype=np.float32)
    result = kernels.reconstruct_positions(area, aft, per_channel, 1, POLYNOMIALS)
    # channels a, b, c, d = 1, 2, 3, 4: (1 + 2) / 10 and (1 + 3) / 10
    np.testing.assert_allclose(result["x_cgr"], [0.3, 1, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(result["y_cgr"], [0.4, 1, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(result["r_cgr"], [0.5, 2**0.5, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(result["x_corr"], [1.6, 3, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(result["y_corr"], [-2.84, -2, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(
        result["r_corr"], [np.hypot(1.6, -2.84), 13**0.5, np.nan, np.nan], rtol=1e-6
    )
    shifted = kernels.reconstruct_positions(area, aft, per_channel, 2, POLYNOMIALS)
    np.testing.assert_allclose(shifted["x_cgr"][0], (2 + 3) / 10, rtol=1e-6)


@PROPERTY
@given(arrays(np.float32, (6, 5), elements=st.floats(0.125, 1e4, width=32)))
def test_positions_do_not_depend_on_the_amount_of_light(per_channel):
    def positions(areas):
        aft = kernels.area_fraction_top(areas, (1, 4))
        return kernels.reconstruct_positions(areas.sum(axis=1), aft, areas, 1, POLYNOMIALS)

    once, eight_times = positions(per_channel), positions(8 * per_channel)
    assert (once["x_cgr"] > 0).all()
    assert (once["x_cgr"] < 1 + 1e-5).all()
    for name in ("x", "y", "r"):
        np.testing.assert_allclose(once[f"{name}_corr"], eight_times[f"{name}_corr"], rtol=1e-5)


def test_positions_of_nothing():
    nothing = np.zeros(0, dtype=np.float32)
    empty = kernels.reconstruct_positions(
        nothing, nothing, np.zeros((0, 5), dtype=np.float32), 1, POLYNOMIALS
    )
    assert set(empty) == {f"{axis}_{kind}" for axis in "xyr" for kind in ("cgr", "corr")}
    assert all(len(values) == 0 for values in empty.values())
    peaks = make_peaks(0)
    kernels.clip_peaks(peaks, 0, 1)


def test_hits_in_no_peak():
    """Peaks [100, 200) and [200, 300), as after a split, and [400, 500)."""
    peaks = np.zeros(3, dtype=strax.time_fields)
    peaks["time"], peaks["endtime"] = [100, 200, 400], [200, 300, 500]
    hits = np.zeros(8, dtype=strax.time_fields)
    hits["time"] = [0, 50, 90, 120, 190, 300, 399, 500]
    hits["endtime"] = [90, 100, 101, 130, 210, 400, 401, 600]
    expected = [True, True, False, False, False, True, False, True]
    assert kernels.in_no_peak(hits, peaks).tolist() == expected
    assert kernels.in_no_peak(hits, peaks[:0]).all()
    assert len(kernels.in_no_peak(hits[:0], peaks)) == 0
