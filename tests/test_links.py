"""Which peaks are in which events."""

import numpy as np
import pytest

from amstrax.analyses.quantities import within


def test_by_hand():
    """Events 0 to 2 have two peaks, none, and one; the last peak is in none."""
    links = within(np.array([10, 20, 30, 90]), np.array([10, 22, 30]), np.array([30, 29, 31]))
    assert links.inside([0]).tolist() == [0, 1]
    assert links.inside([1]).tolist() == []
    assert links.inside([0, 1, 2]).tolist() == [0, 1, 2]
    assert links.inside([]).tolist() == []
    assert links.around([1]).tolist() == [0]
    assert links.around([1, 2, 3]).tolist() == [0, 2]
    assert links.around([3]).tolist() == links.around([]).tolist() == []


@pytest.mark.parametrize("seed", range(20))
def test_as_by_looking_at_each(seed):
    """Also with events that overlap, as of an S2 after the other, or none at all."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(0, 300, rng.integers(0, 60)))
    start = rng.integers(0, 300, rng.integers(0, 15))
    end = start + rng.integers(0, 60, len(start))
    is_in = (time >= start[:, None]) & (time < end[:, None])
    links = within(time, start, end)
    events = np.flatnonzero(rng.random(len(start)) < 0.4)
    peaks = np.flatnonzero(rng.random(len(time)) < 0.1)
    np.testing.assert_array_equal(links.inside(events), np.flatnonzero(is_in[events].any(axis=0)))
    np.testing.assert_array_equal(links.around(peaks), np.flatnonzero(is_in[:, peaks].any(axis=1)))
