"""Events: grouping, choice of main and alternative S1 and S2, times, positions, corrections."""

import numpy as np
import plain_rules
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.exceptions import InvalidOption
from amstrax.processing import events as kernels

PROPERTY = settings(max_examples=50, deadline=None, database=None)

DTYPE = [
    *strax.time_fields,
    ("center_time", np.int64),
    ("area", np.float32),
    ("type", np.int16),
    ("tight_coincidence", np.int16),
]
S1, S2 = 1, 2
DEFAULT = kernels.Selection(
    allow_posts2_s1s=False,
    s1_min_coincidence=0,
    force_alt_s2_in_max_drift_time=True,
    force_main_before_alt=False,
    max_drift_time=1000,
)


def make_peaks(rows):
    """Rows of type, area, time and, where it is not 3, tight coincidence; centres 50 ns later."""
    peaks = np.zeros(len(rows), dtype=DTYPE)
    for peak, (kind, area, time, *coincidence) in zip(peaks, rows, strict=True):
        peak["type"], peak["area"], peak["time"] = kind, area, time
        peak["tight_coincidence"] = coincidence[0] if coincidence else 3
    peaks["endtime"] = peaks["time"] + 100
    peaks["center_time"] = peaks["time"] + 50
    return peaks


def make_events(*spans):
    events = np.zeros(len(spans), dtype=strax.time_fields)
    for event, span in zip(events, spans, strict=True):
        event["time"], event["endtime"] = span
    return events


def choose(rows, **options):
    """Return main S1, alternative S1, main S2 and alternative S2 of one event."""
    selection = DEFAULT._replace(**options)
    return kernels.choose_peaks(make_peaks(rows), np.array([0, len(rows)]), selection)[0].tolist()


# fmt: off
# In all: trigger area above 10, left 500, right 50, chunk [0, 100000)
@pytest.mark.parametrize(
    ("rows", "spans"),
    [
        pytest.param([], [], id="no peaks"),
        pytest.param([(S1, 99, 5000), (S2, 10, 6000), (0, 99, 7000)], [], id="no trigger"),
        pytest.param([(S2, 11, 5000)], [(4500, 5150)], id="one"),
        pytest.param([(S2, 11, 300), (S2, 11, 99_900)], [(0, 450), (99_400, 100_000)], id="clip"),
        # from 5100 to 5650 are 550 ns, left + right: they touch
        pytest.param([(S2, 11, 5000), (S2, 11, 5650)], [(4500, 5800)], id="touching"),
        pytest.param([(S2, 11, 5000), (S2, 11, 5651)], [(4500, 5150), (5151, 5801)], id="apart"),
        pytest.param([(S2, 11, 5000), (S2, 9, 5500), (S2, 11, 6000)], [(4500, 5150), (5500, 6150)],
                     id="a small S2 joins nothing"),
    ],
)
# fmt: on
def test_group_triggers(rows, spans):
    begin, end = kernels.group_triggers(make_peaks(rows), 10, 500, 50, 0, 100_000)
    assert list(zip(begin, end, strict=True)) == spans


@PROPERTY
@given(
    st.lists(
        st.tuples(st.sampled_from([0, S1, S2, S2]), st.integers(5, 20), st.integers(0, 60)),
        max_size=15,
    ),
    st.integers(0, 500),
    st.integers(0, 500),
)
def test_events_cover_their_triggers(rows, left, right):
    rows = [(kind, area, 150 * time) for kind, area, time in sorted(rows, key=lambda r: r[2])]
    peaks = make_peaks(rows)
    begin, end = kernels.group_triggers(peaks, 10, left, right, 0, 9100)
    windows = []  # joined where they would touch, then clipped
    for kind, area, time in rows:
        if kind == S2 and area > 10:
            if windows and time - left <= windows[-1][1]:
                windows[-1][1] = time + 100 + right
            else:
                windows.append([time - left, time + 100 + right])
    expected = [(max(a, 0), min(b, 9100)) for a, b in windows]
    assert list(zip(begin, end, strict=True)) == expected


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 200)), max_size=20),
    st.integers(0, 100),
    st.integers(0, 100),
    st.sampled_from([300, 1000, 10**9]),
)
def test_find_groups_equals_strax(rows, left, right, max_duration):
    intervals = make_events(*[(time, time + length) for time, length in sorted(rows)])
    start, end = intervals["time"].copy(), intervals["endtime"].copy()
    found = kernels.find_groups(start, end, left, right, max_duration)
    expected = strax.find_peak_groups(intervals, left + right + 1, left, right, max_duration)
    np.testing.assert_array_equal(found, expected)


def test_contained_peaks():
    peaks = make_peaks([(0, 1, t) for t in (100, 250, 900, 1000, 1850, 2000, 2100)])
    events = make_events((100, 300), (500, 600), (1000, 2100))
    # 250 to 350 sticks out of the first event, 2100 begins behind the last
    inside, first = kernels.contained_peaks(peaks, events)
    assert inside.tolist() == [0, 3, 4, 5]
    assert first.tolist() == [0, 1, 1, 4]
    inside, first = kernels.contained_peaks(peaks[:0], events)
    assert (inside.tolist(), first.tolist()) == ([], [0, 0, 0, 0])
    inside, first = kernels.contained_peaks(peaks, events[:0])
    assert (inside.tolist(), first.tolist()) == ([], [0])


NORMAL = [(S1, 5, 100), (S1, 30, 300), (S1, 20, 500), (S2, 90, 800), (S2, 80, 990), (S1, 99, 1200)]
S2_FIRST = [(S2, 70, 0), (S1, 9, 200), (S2, 90, 400)]
ANYWHERE = {"force_alt_s2_in_max_drift_time": False}
ORDERED = {"force_main_before_alt": True}


# fmt: off
# An alternative S2 is within 1000 ns x 1.01 of the main S1
@pytest.mark.parametrize(
    ("rows", "options", "chosen"),
    [
        pytest.param(NORMAL, {}, [1, 2, 3, 4], id="normal"),
        pytest.param(NORMAL, ORDERED, [1, 2, 3, 4], id="in order already"),
        pytest.param(NORMAL, {"allow_posts2_s1s": True}, [5, 1, 3, -1], id="late S1 and no alt S2"),
        pytest.param(NORMAL, {"s1_min_coincidence": 4}, [-1, -1, 3, 4], id="no S1, so any alt S2"),
        pytest.param([(S1, 9, 0, 1), (S1, 5, 200, 2), (S2, 9, 400)], {"s1_min_coincidence": 2},
                     [1, -1, 2, -1], id="coincidence reached"),
        pytest.param([(0, 1, 0)], {}, [-1, -1, -1, -1], id="unknown only"),
        pytest.param([(S1, 1, 0), (S1, 3, 200)], {}, [1, 0, -1, -1], id="no S2"),
        pytest.param([(S1, 9, 0), (S2, 50, 850), (S2, 90, 950), (S2, 70, 1150)], {},
                     [0, -1, 2, 1], id="larger alt S2 too late"),
        pytest.param([(S1, 9, 0), (S2, 90, 850), (S2, 70, 1009)], {}, [0, -1, 1, 2], id="1009"),
        pytest.param([(S1, 9, 0), (S2, 90, 850), (S2, 70, 1011)], {}, [0, -1, 1, -1], id="1011"),
        # to the main S1, at 500, not to the one at 0
        pytest.param([(S1, 5, 0), (S1, 9, 500), (S2, 90, 700), (S2, 10, 1200)], {},
                     [1, 0, 2, 3], id="within of the main S1"),
        pytest.param(S2_FIRST, {}, [1, -1, 2, -1], id="alt S2 before S1"),
        pytest.param(S2_FIRST, ANYWHERE, [1, -1, 2, 0], id="alt S2 anywhere"),
        pytest.param(S2_FIRST, ANYWHERE | ORDERED, [1, -1, 0, 2], id="in order of time"),
        pytest.param(
            [(S1, 7, 0), (S1, 7, 200), (S1, 7, 400), (S2, 8, 600), (S2, 8, 800), (S2, 8, 1000)],
            {}, [2, 1, 5, 4], id="of equal areas the later",
        ),
    ],
)
# fmt: on
def test_choose_peaks(rows, options, chosen):
    assert choose(rows, **options) == chosen


rows_of_an_event = st.lists(
    st.tuples(
        st.sampled_from([0, S1, S1, S2, S2]),
        st.integers(1, 6),  # few areas, so that there are ties
        st.integers(0, 20),
        st.integers(0, 4),
    ),
    max_size=12,
    unique_by=lambda row: row[2],
)
selections = st.builds(
    kernels.Selection, st.booleans(), st.integers(0, 4), st.booleans(), st.booleans(),
    st.sampled_from([500, 1000]),
)  # fmt: skip


def make_run(events_of_rows):
    """Return the peaks of many events, one after the other, and the first of each."""
    rows = [
        (kind, area, 10_000 * e + 150 * time, coincidence)
        for e, event in enumerate(events_of_rows)
        for kind, area, time, coincidence in sorted(event, key=lambda row: row[2])
    ]
    first = np.cumsum([0] + [len(event) for event in events_of_rows])
    return make_peaks(rows), first


@PROPERTY
@given(st.lists(rows_of_an_event, max_size=4), selections)
def test_choice_follows_the_contract(events_of_rows, selection):
    peaks, first = make_run(events_of_rows)
    chosen = kernels.choose_peaks(peaks, first, selection)
    assert chosen.shape == (len(events_of_rows), 4)
    for e, (start, stop) in enumerate(zip(first, first[1:], strict=False)):
        expected = plain_rules.choose(peaks[start:stop], selection)
        assert chosen[e].tolist() == [i if i < 0 else i + start for i in expected]


@PROPERTY
@given(st.lists(rows_of_an_event, max_size=4), selections)
def test_areas_before_are_summed_one_by_one(events_of_rows, selection):
    peaks, first = make_run(events_of_rows)
    peaks["area"] += np.float32(0.1)
    main_s2 = kernels.choose_peaks(peaks, first, selection)[:, kernels.MAIN_S2]
    total, largest = kernels.areas_before_main_s2(peaks, first, main_s2)
    assert total.dtype == largest.dtype == np.float32
    for e, s2 in enumerate(main_s2):
        if s2 == kernels.NO_PEAK:
            assert np.isnan(total[e]) and np.isnan(largest[e])
            continue
        expected = of_s2s = np.float32(0)
        for i in range(first[e], s2):
            expected += peaks["area"][i]
            of_s2s = max(of_s2s, peaks["area"][i] if peaks["type"][i] == S2 else of_s2s)
        assert (total[e], largest[e]) == (expected, of_s2s)


intervals = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=12)


def as_intervals(rows):
    result = np.zeros(len(rows), dtype=strax.time_fields)
    result["time"] = [time for time, _ in sorted(rows)]
    result["endtime"] = result["time"] + [length for _, length in sorted(rows)]
    return result


@pytest.mark.filterwarnings("ignore:Overlapping of containers")
@PROPERTY
@given(intervals, intervals)
def test_container_of_equals_strax(things, containers):
    """Also of containers that overlap, as events of a second do."""
    things, containers = as_intervals(things), as_intervals(containers)
    found = kernels.index_of_container(things, containers)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, strax.fully_contained_in(things, containers))
    by_container = plain_rules.peaks_by_event(things, containers)
    assert by_container == [np.flatnonzero(found == i).tolist() for i in range(len(containers))]


def test_containers_must_be_sorted():
    unsorted = np.array([(5, 6), (1, 2)], dtype=strax.time_fields)
    with pytest.raises(ValueError, match="intervals must be sorted"):
        kernels.index_of_container(unsorted, unsorted[:1])
    with pytest.raises(ValueError, match="containers must be sorted"):
        kernels.index_of_container(unsorted[:1], unsorted)


def test_copy_properties():
    peaks = make_peaks([(S1, 5, 100), (S2, 7, 300)])
    names = [prefix + field for prefix in kernels.PREFIXES for field in ("area", "time")]
    result = np.full(2, -1, dtype=[(name, "i8") for name in names[:-1]])  # without alt_s2_time
    assert result.dtype.names[:3] == ("s1_area", "s1_time", "alt_s1_area")
    chosen = np.array([[0, -1, 1, -1], [-1, 0, -1, 1]])
    kernels.copy_properties(peaks, chosen, result, ("area", "time"))
    assert result.tolist() == [(5, 100, -1, -1, 7, 300, -1), (-1, -1, 5, 100, -1, -1, 7)]
    kernels.copy_properties(peaks[:0], chosen[:0], result[:0], ("area", "time"))


@PROPERTY
@given(st.lists(rows_of_an_event, max_size=4), st.integers(0, 3))
def test_indices_lead_back_to_the_peaks(events_of_rows, n_outside):
    peaks, first = make_run(events_of_rows)
    # peaks of no event lie before those of the events
    inside = np.arange(len(peaks)) + n_outside
    chosen = kernels.choose_peaks(peaks, first, DEFAULT)
    events = np.zeros(len(chosen), dtype=[(f"{p}index", np.int32) for p in kernels.PREFIXES])
    for column, prefix in enumerate(kernels.PREFIXES):
        events[f"{prefix}index"] = kernels.index_in_event(chosen[:, column], first)
        assert (events[f"{prefix}index"] < np.diff(first)).all() or not len(events)
    expected = np.where(chosen == -1, -1, chosen + n_outside)
    np.testing.assert_array_equal(kernels.peaks_of_events(events, inside, first), expected)


DRIFT_FIELDS = [
    ("drift_time", np.float32),
    ("alt_s1_interaction_drift_time", np.float32),
    ("alt_s2_interaction_drift_time", np.float32),
    ("alt_s1_delay", np.int32),
    ("alt_s2_delay", np.int32),
]


def test_drift_times():
    center = 1_700_000_000_000_000_000 + np.array([100, 130, 1000, 1800])
    chosen = np.array(
        [
            [0, 1, 2, 3],
            [1, 0, 3, 2],
            [-1, -1, 2, -1],
            [0, -1, -1, -1],
            [-1, -1, 2, 3],  # alternatives without a main peak of the other kind
            [0, 1, -1, -1],
        ]
    )
    result = np.zeros(6, dtype=DRIFT_FIELDS)
    kernels.drift_times(center, chosen, result)
    nan = np.nan
    expected = [
        (900, 870, 1700, 30, 800),
        (1670, 1700, 870, -30, -800),
        *[(nan, nan, nan, -1, -1)] * 4,
    ]
    for (field, _), values in zip(DRIFT_FIELDS, zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(result[field], values, err_msg=field)
    kernels.drift_times(center[:0], chosen[:0], result[:0])


def test_areas_before_main_s2():
    rows = [(S1, 3, 0), (S2, 40, 200), (S2, 5, 400), (S2, 50, 600), (S1, 90, 800), (S1, 1, 9000)]
    peaks, first = make_peaks(rows), np.array([0, 5, 6, 6])
    total, largest = kernels.areas_before_main_s2(peaks, first, np.array([3, -1, -1]))
    np.testing.assert_array_equal(total, [48, np.nan, np.nan])
    np.testing.assert_array_equal(largest, [40, np.nan, np.nan])
    total, largest = kernels.areas_before_main_s2(peaks, first[:2], np.array([1]))
    assert (total.tolist(), largest.tolist()) == ([3], [0])
    total, largest = kernels.areas_before_main_s2(peaks[:0], np.array([0]), np.array([], dtype=int))
    assert (len(total), len(largest)) == (0, 0)


def test_depth():
    # 100 mm between 2000 and 52000 ns: 2 mm per 1000 ns
    z = kernels.depth(np.array([2000.0, 27_000, 52_000, 0, np.nan]), 100, 2000, 52_000)
    np.testing.assert_allclose(z, [0, -50, -100, 4, np.nan])


def test_corrections():
    # f(z) = 2 - 0.01 z: 2.5 in the middle of -100 to 0; 2, 2.5 and 3 at 0, -50 and -100
    factor = kernels.s1_z_correction(np.array([0.0, -50, -100, np.nan]), (-100, 0, 2, -0.01))
    np.testing.assert_allclose(factor, [1.25, 1, 2.5 / 3, np.nan])
    factor = kernels.s2_lifetime_correction(np.array([0.0, 1e4, 2e4, np.nan]), 1e4)
    np.testing.assert_allclose(factor, [1, np.e, np.e**2, np.nan])


MAP = {
    "r_edges": [0, 10, 20],
    "z_edges": [-50, -20, 0],
    "hist_ratio": [[0.4, 0.2], [0.2, 0.1]],
}
# Volumes of the bins: 100 or 300 times 30 or 20, in units of pi mm^3
MEAN_LIGHT = (0.4 * 3000 + 0.2 * 2000 + 0.2 * 9000 + 0.1 * 6000) / 20_000


def test_s1_map():
    """Bins have their lower edges; outside is as in the nearest bin; NaN stays NaN."""
    r = np.array([5, 10, 5, 19, 25, 5, 25, np.nan, 5], dtype=np.float32)
    z = np.array([-30, -30, -20, -1, 7, -90, -90, -30, np.nan], dtype=np.float32)
    light = [0.4, 0.2, 0.2, 0.1, 0.1, 0.4, 0.2, np.nan, np.nan]
    np.testing.assert_allclose(kernels.s1_map_correction(r, z, MAP), MEAN_LIGHT / np.array(light))


@pytest.mark.parametrize("empty", [0, np.nan, -1, np.inf])
def test_s1_map_with_an_empty_bin(empty):
    s1_map = MAP | {"hist_ratio": [[0.4, 0.2], [0.2, empty]]}
    factor = kernels.s1_map_correction(np.array([5.0, 15]), np.array([-10.0, -10]), s1_map)
    np.testing.assert_allclose(factor, [(1200 + 400 + 1800) / 14_000 / 0.2, np.nan])


@given(st.floats(-100, -1), st.floats(1, 1e4))
@PROPERTY
def test_s1_map_of_a_line_is_the_line(slope, unit):
    """Of light that falls linearly with z, in any unit, at the middle of many bins."""
    y0, (z_min, z_max) = 200.0, (-50, 0)
    z_edges = np.linspace(z_min, z_max, 51)
    z = (z_edges[1:] + z_edges[:-1]) / 2
    s1_map = {
        "r_edges": (0, 3, 7),
        "z_edges": tuple(z_edges),
        "hist_ratio": tuple([tuple((y0 + slope * z) * unit)] * 2),
    }
    factor = kernels.s1_map_correction(np.full(50, 4.0), z, s1_map)
    np.testing.assert_allclose(factor, kernels.s1_z_correction(z, (z_min, z_max, y0, slope)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r_edges": [0, 20, 10]}, "r_edges of s1_map must"),
        ({"z_edges": [0]}, "z_edges of s1_map must"),
        ({"z_edges": [[0, 1]]}, "z_edges of s1_map must"),
        ({"z_edges": [-1, np.nan, 0]}, "z_edges of s1_map must"),
        ({"r_edges": [-1, 0, 1]}, "below 0"),
        ({"hist_ratio": [[1, 2]]}, r"shape \(1, 2\): it must be \(2, 2\)"),
        ({"hist_ratio": [[1, 2], [3]]}, "numbers"),
        ({"hist_ratio": "many"}, "numbers"),
        ({"hist_ratio": [[0, 0], [0, np.nan]]}, "no bin above 0"),
    ],
)
def test_what_is_no_s1_map(change, words):
    with pytest.raises(InvalidOption, match=words):
        kernels.s1_map_correction(np.zeros(1), np.zeros(1), MAP | change)
    for not_a_map in ({}, 3, [1], "map"):
        with pytest.raises(InvalidOption, match="s1_map"):
            kernels.s1_map_correction(np.zeros(1), np.zeros(1), not_a_map)


def test_no_events():
    assert kernels.choose_peaks(make_peaks([]), np.array([0]), DEFAULT).shape == (0, 4)
    empty = np.array([])
    for factor in (
        kernels.depth(empty, 1, 0, 1),
        kernels.s1_z_correction(empty, (-1, 0, 1, 0)),
        kernels.s2_lifetime_correction(empty, 1),
        kernels.s1_map_correction(empty, empty, MAP),
    ):
        assert len(factor) == 0


S2_MAP = {"x_edges": [-20, 0, 20], "y_edges": [-10, 10], "hist_ratio": [[2.0], [1.0]]}


def test_s2_map():
    """Bins have their lower edges; outside is as in the nearest bin; NaN stays NaN."""
    x = np.array([-30, -1, 0, 25, np.nan, 5], dtype=np.float32)
    y = np.array([0, -99, 10, 99, 0, np.nan], dtype=np.float32)
    factor = kernels.s2_map_correction(x, y, S2_MAP)
    np.testing.assert_allclose(factor, [0.75, 0.75, 1.5, 1.5, np.nan, np.nan])
    assert len(kernels.s2_map_correction(np.array([]), np.array([]), S2_MAP)) == 0


@pytest.mark.parametrize("empty", [0, np.nan, -1, np.inf])
def test_s2_map_with_an_empty_bin(empty):
    """It counts not in the mean, and is as the nearest bin with a number."""
    s2_map = S2_MAP | {"hist_ratio": [[2.0], [empty]]}
    np.testing.assert_array_equal(kernels.s2_map_correction(np.array([15]), [0.0], s2_map), [1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_edges": [0, 20, 10]}, "x_edges of s2_map must"),
        ({"y_edges": [0]}, "y_edges of s2_map must"),
        ({"hist_ratio": [[1, 2]]}, r"shape \(1, 2\): it must be \(2, 1\), a row for each bin of x"),
        ({"hist_ratio": [[0], [np.nan]]}, "no bin above 0"),
    ],
)
def test_what_is_no_s2_map(change, words):
    with pytest.raises(InvalidOption, match=words):
        kernels.s2_map_correction(np.zeros(1), np.zeros(1), S2_MAP | change)
    with pytest.raises(InvalidOption, match="s2_map has no 'x_edges': it needs x_edges, y_edges"):
        kernels.s2_map_correction(np.zeros(1), np.zeros(1), MAP)
