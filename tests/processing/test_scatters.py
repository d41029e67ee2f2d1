"""Scatters, signs of pile-up, errors of corrected areas, and the shadow of large S2s."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.processing import scatters, shadow
from amstrax.processing.scatters import PileUp

PROPERTY = settings(max_examples=50, deadline=None, database=None)
LIMITS = scatters.Limits(
    min_area=100, min_fraction=0.01, shortest=1000, longest=40_000, s1_min_area=20, s1_min_delay=500
)
NONE = -1
S1, S2 = 1, 2
DTYPE = [(name, np.int64) for name in ("time", "center_time", "area", "type")]


def make_peaks(rows):
    """Return peaks of rows of type, area and time; centres 50 ns later."""
    peaks = np.zeros(len(rows), dtype=DTYPE)
    for peak, row in zip(peaks, rows, strict=True):
        peak["type"], peak["area"], peak["time"] = row
    peaks["center_time"] = peaks["time"] + 50
    return peaks


def of_events(*events, limits=LIMITS):
    """Return times of scatters and signs of pile-up of events, rows as of make_peaks."""
    peaks = make_peaks([row for rows in events for row in rows])
    first = np.cumsum([0, *map(len, events)])
    main_s1 = np.full(len(events), NONE)
    for i, (begin, end) in enumerate(zip(first, first[1:], strict=False)):
        s1s = [j for j in range(begin, end) if peaks["type"][j] == S1]
        if s1s:
            main_s1[i] = max(s1s, key=lambda j: peaks["area"][j])
    rows, event, drift_time = scatters.find_scatters(peaks, first, main_s1, limits)
    found = [[] for _ in events]
    for row, i, drift in zip(rows, event, drift_time, strict=True):
        assert drift == peaks["time"][row] - peaks["time"][main_s1[i]]
        found[i].append(int(peaks["time"][row]))
    return found, scatters.pile_up(peaks, first, main_s1, limits).tolist()


# fmt: off
@pytest.mark.parametrize(
    ("rows", "times", "signs"),
    [
        pytest.param([(S1, 50, 0), (S2, 9000, 5000)], [5000], 0, id="one"),
        pytest.param([(S1, 50, 0), (S2, 900, 5000), (S2, 9000, 9000)], [5000, 9000], 0, id="two"),
        pytest.param([(S1, 50, 0), (S2, 99, 5000), (S2, 100, 9000)], [9000], 0, id="least area"),
        # 1 % of the largest before it, and not of the one after it
        pytest.param([(S1, 50, 0), (S2, 100, 1500), (S2, 20_000, 5000), (S2, 199, 6000),
                      (S2, 200, 7000)], [1500, 5000, 7000], 0, id="after-pulse"),
        pytest.param([(S2, 9000, 5000), (S2, 900, 6000)], [], 0, id="no S1"),
        pytest.param([(S1, 50, 0), (S1, 20, 400), (S2, 900, 5000)], [5000], 0, id="Kr-83m"),
        pytest.param([(S1, 50, 0), (S1, 19, 700), (S2, 900, 5000)], [5000], 0, id="small S1"),
        pytest.param([(S1, 50, 0), (S1, 20, 700), (S2, 900, 5000)], [5000], PileUp.SECOND_S1,
                     id="second S1"),
        pytest.param([(S1, 50, 0), (S2, 900, 999)], [], PileUp.S2_OUTSIDE, id="too early"),
        pytest.param([(S1, 50, 0), (S2, 900, 40_000)], [40_000], 0, id="at the cathode"),
        pytest.param([(S1, 50, 0), (S2, 900, 9000), (S2, 900, 40_001)], [9000],
                     PileUp.S2_OUTSIDE, id="too late"),
        pytest.param([(S2, 900, 0), (S2, 900, 39_001)], [], PileUp.S2S_APART, id="apart"),
        pytest.param([(S2, 900, 0), (S1, 50, 10), (S2, 900, 39_002)], [39_002],
                     PileUp.S2_OUTSIDE | PileUp.S2S_APART, id="S2 before the S1"),
        pytest.param([], [], 0, id="no peaks"),
    ],
)
# fmt: on
def test_scatters_and_pile_up(rows, times, signs):
    assert of_events(rows) == ([times], [signs])
    # Neighbours change nothing, however large they are
    large = [(S1, 50, 0), (S2, 1_000_000, 5000)]
    shifted = [(kind, area, time + 10**6) for kind, area, time in rows]
    last = [(kind, area, time + 2 * 10**6) for kind, area, time in large]
    found, both = of_events(large, shifted, last)
    assert found[1] == [time + 10**6 for time in times]
    assert both == [0, signs, 0]


def test_no_events():
    assert of_events() == ([], [])


@PROPERTY
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([S1, S2]), st.integers(0, 30_000)), max_size=6),
        max_size=4,
    )
)
def test_large_s2s_equal_a_plain_loop(events):
    rows = [row for event in events for row in event]
    peaks = make_peaks([(*row, 1000 * i) for i, row in enumerate(rows)])
    expected, i = [], 0
    for event in events:
        largest = 0
        for kind, area in event:
            if kind == S2 and area >= LIMITS.min_area:
                if area >= LIMITS.min_fraction * largest:
                    expected.append(i)
                largest = max(largest, area)
            i += 1
    first = np.cumsum([0, *map(len, events)])
    assert scatters.large_s2s(peaks, first, LIMITS).tolist() == expected


def test_errors_of_areas():
    found = scatters.area_error(np.array([100.0, 0.0, -1.0, np.nan]), 1.5)
    assert found[0] == pytest.approx(np.sqrt(1.5 / 100))
    assert np.isnan(found[1:]).all()
    fano = scatters.s2_fano(np.array([0.0, 1000.0, 1e9, -5.0]), 1000.0, 2.0, 10.0)
    np.testing.assert_allclose(fano, [2, 2 + 10 * (1 - np.exp(-1)), 12, 2])
    found = scatters.s2_correction_error(np.array([0.0, 30_000.0]), 300_000.0, 0.05, 600.0)
    np.testing.assert_allclose(found, [0.002, np.hypot(0.005, 0.002)])


def test_statistics_of_lost_electrons():
    """Variance / mean of S2s of 2000 electrons, some of which are lost on the way."""
    rng = np.random.default_rng(1)
    seen = rng.binomial(2000, np.exp(-0.5), 20_000)
    area = rng.poisson(10.0 * seen)
    expected = scatters.s2_fano(np.array([500.0]), 1000.0, 1.0, 10.0)
    assert area.var() / area.mean() == pytest.approx(expected[0], rel=0.03)


def plain_shadow(center, area, large, window):
    """Return the S2 that casts the largest shadow on each peak, and that shadow."""
    best, values = [], []
    for i in range(len(center)):
        earlier = [
            (area[j] / max(center[i] - center[j], 1), j)
            for j in range(len(center))
            if large[j]
            and (center[j], j) < (center[i], i)
            and center[i] - center[j] <= window
        ]
        value, j = max(earlier, default=(0, NONE))
        best.append(j)
        values.append(value)
    return best, values


def test_shadow():
    center = np.array([100, 200, 300, 1200, 1300])
    area = np.array([1000, 50, 400, 20, 30])
    found = shadow.cast_shadow(center, area, area >= 400, 1000)
    assert found.s2.tolist() == [NONE, 0, 0, 2, 2]
    assert found.delay.tolist() == [-1, 100, 200, 900, 1000]
    np.testing.assert_allclose(found.shadow, [0, 10, 5, 400 / 900, 0.4])
    none = shadow.cast_shadow(center[:0], area[:0], area[:0] >= 400, 1000)
    assert [len(column) for column in none] == [0, 0, 0]


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12), st.booleans()), max_size=25),
    st.integers(0, 80),
)
def test_shadow_equals_a_plain_loop(rows, window):
    center, area, large = (np.array([row[i] for row in rows], dtype=int) for i in range(3))
    found = shadow.cast_shadow(center, area, large.astype(bool), window)
    _, values = plain_shadow(center, area, large, window)
    np.testing.assert_allclose(found.shadow, values)
    has = found.s2 != shadow.NO_S2
    np.testing.assert_allclose(found.shadow[has], area[found.s2[has]] / found.delay[has])
