"""Coincidences with external peaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.processing import coincidences

PROPERTY = settings(max_examples=50, deadline=None, database=None)


def match(times, external_times, max_delay=100):
    """Return which times match; the same as one after the other."""
    times, external_times = (np.array(x, dtype=np.int64) for x in (times, external_times))
    result = coincidences.match_external(times, external_times, max_delay)
    assert result.dtype == bool
    assert result.tolist() == one_after_the_other(times, external_times, max_delay)
    return [i for i, matched in enumerate(result) if matched]


def one_after_the_other(times, external_times, max_delay):
    unused = external_times.tolist()
    matched = []
    for time in times.tolist():
        while unused and unused[0] < time:
            unused.pop(0)
        matched.append(time >= 0 and bool(unused) and unused[0] - time <= max_delay)
        if matched[-1]:
            unused.pop(0)
    return matched


@pytest.mark.parametrize(
    ("times", "external_times", "matched"),
    [
        ([], [], []),
        ([], [100], []),
        ([100], [], []),
        ([1000], [1000], [0]),  # at once
        ([1000], [1100], [0]),  # max_delay after
        ([1000], [1101], []),
        ([1000], [999], []),  # before
        ([1000, 1050], [1080], [0]),  # one external peak, for the earlier
        ([1000, 1050], [1080, 1090], [0, 1]),
        ([1000, 1050], [1040, 1200], [0]),
        ([1000, 1000], [1000, 1000], [0, 1]),
        ([1000, 2000, 3000], [1000, 2050, 3100], [0, 1, 2]),  # the last two as well
        ([1000, 2000], [5, 500, 1101, 2000], [1]),
        ([-1, 50], [0, 60], [1]),  # -1: no main S1
        ([1000, -1, 2000], [1010, 2010], [0, 2]),
    ],
)
def test_match_external(times, external_times, matched):
    assert match(times, external_times) == matched


def test_max_delay_zero():
    assert match([10, 20], [10, 21], max_delay=0) == [0]


@PROPERTY
@given(
    st.lists(st.integers(0, 200), max_size=12),
    st.lists(st.integers(0, 250), max_size=12),
    st.integers(0, 40),
)
def test_each_external_peak_is_used_once_by_the_earliest(times, external_times, max_delay):
    times, external_times = sorted(times), sorted(external_times)
    unused = list(external_times)
    expected = []
    for i, time in enumerate(times):
        fitting = [t for t in unused if 0 <= t - time <= max_delay]
        if fitting:
            unused.remove(fitting[0])
            expected.append(i)
    matched = match(times, external_times, max_delay)
    assert matched == expected
    assert len(matched) <= len(external_times)


def test_absorption_peaks():
    area = np.array([445.9, 446, 511, 576, 576.1, -511, np.nan])
    found = coincidences.absorption_peaks(area, 65)
    assert found.tolist() == [False, True, True, True, False, False, False]
    assert coincidences.absorption_peaks(area, 0).tolist() == [False, False, True] + [False] * 4
    assert coincidences.absorption_peaks(area[:0], 65).shape == (0,)


@PROPERTY
@given(st.floats(0, 1000), st.floats(0, 500))
def test_absorption_peaks_are_within_delta(area, delta):
    found = bool(coincidences.absorption_peaks(np.array([area]), delta)[0])
    assert found == (511 - delta <= area <= 511 + delta)
