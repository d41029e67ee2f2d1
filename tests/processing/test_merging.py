"""Merging of groups of hits into S2s."""

import numpy as np
import pytest
import strax

from amstrax.exceptions import InvalidOption
from amstrax.processing import merging
from amstrax.processing.peaks import find_peaks

TO_PE = np.array([0.01, 0.01])
OPTIONS = dict(gap=1000, max_duration=4000, window=150, min_prompt_area=5)


def make_hits(rows):
    """Return hits of rows (time [ns], area [PE], width [ns]), channels in turn."""
    hits = np.zeros(len(rows), dtype=strax.hit_dtype)
    hits["dt"] = 10
    for i, (hit, (time, area, width)) in enumerate(zip(hits, rows, strict=True)):
        hit["time"], hit["length"], hit["channel"] = time, width // 10, i % 2
        hit["area"], hit["height"] = area * 100, area * 100 * 10 / width
    return hits


def merged(rows, **options):
    """Return groups before and after."""
    hits = make_hits(rows)
    dtype = merging.group_dtype(strax.peak_dtype(n_channels=2))
    groups = find_peaks(hits, TO_PE, dtype, 300, 10, 10, -np.inf, 1)
    return groups, merging.merge_groups(groups, hits, TO_PE, **(OPTIONS | options))


def intervals(rows, **options):
    """Return start and end of the first and last hit of each group."""
    _, found = merged(rows, **options)
    return [(t["time"] + 10, strax.endtime(t) - 10) for t in found]


@pytest.mark.parametrize(
    "rows, expected",
    [
        # Photoelectrons of an electron, 400 ns apart
        ([(0, 1, 20), (400, 2, 20), (900, 1, 20)], [(0, 920)]),
        ([(0, 1, 20), (1100, 1, 20)], [(0, 20), (1100, 1120)]),  # too far
        # An S1 before an electron, and one before S1s
        ([(0, 6, 50), (500, 1, 20), (1000, 1, 20)], [(0, 50), (500, 1020)]),
        ([(0, 1, 20), (500, 3, 20), (520, 3, 20)], [(0, 20), (500, 540)]),
        ([(0, 90, 50), (600, 30, 50)], [(0, 50), (600, 650)]),  # of Kr-83m
        ([(0, 4, 20), (500, 1, 20)], [(0, 520)]),  # 4 PE may be an electron
        ([(0, 5.5, 150), (500, 1, 20)], [(0, 150), (500, 520)]),  # 5.5 PE in the window
        ([(0, 5, 300), (700, 1, 20)], [(0, 720)]),  # 5 PE, half of them in the window
        ([(0, 900, 2000), (2400, 1, 20)], [(0, 2420)]),  # the last electron of an S2
        # Parts of a group: 8 PE within 150 ns, the rest is 11 in 470 ns, 3.5 in a window
        ([(0, 8, 20), (160, 11, 440), (1000, 1, 20)], [(0, 1020)]),
        # At most 4000 ns together
        ([(900 * i, 1, 20) for i in range(6)], [(0, 3620), (4500, 4520)]),
    ],
)
def test_merging(rows, expected):
    assert intervals(rows) == expected


def test_merged_groups_hold_what_their_parts_do():
    rows = [(0, 1, 20), (100, 1, 20), (500, 2, 20), (1400, 1, 20), (9000, 1, 20)]
    before, after = merged(rows)
    assert len(before) == 4 and len(after) == 2
    for name in ("n_hits", "area"):
        assert after[name].sum() == before[name].sum()
    np.testing.assert_allclose(after["area_per_channel"][0], [3, 2])
    assert after["n_hits"].tolist() == [4, 1]
    # Extensions of groups are not without hits: 880 ns between the hits, less both
    assert after["max_gap"].tolist() == [860, 0]
    assert after["dt"].tolist() == [10, 10] and after["channel"].tolist() == [-1, -1]


@pytest.mark.parametrize("n", [0, 1])
def test_few_groups(n):
    _, found = merged([(0, 1, 20)] * n)
    assert len(found) == n


@pytest.mark.parametrize("name", ["gap", "max_duration", "window", "min_prompt_area"])
@pytest.mark.parametrize("value", [0, -1, True])
def test_invalid_options(name, value):
    with pytest.raises(InvalidOption, match="give a number above 0"):
        merged([(0, 1, 20)], **{name: value})


def test_compiled_and_plain_python_agree():
    rng = np.random.default_rng(1)
    time = np.sort(rng.integers(0, 60_000, 200))
    rows = [(t, rng.exponential(2), 10 * rng.integers(1, 30)) for t in time]
    hits = make_hits(rows)
    dtype = merging.group_dtype(strax.peak_dtype(n_channels=2))
    groups = find_peaks(hits, TO_PE, dtype, 300, 10, 10, -np.inf, 1)
    end = strax.endtime(groups)
    arguments = (groups["time"], end, merging._Hits.of(hits), TO_PE, 150, 5.0)
    is_s1 = merging._has_prompt_light(*arguments)
    np.testing.assert_array_equal(is_s1, merging._has_prompt_light.py_func(*arguments))
    assert 0 < is_s1.sum() < len(is_s1)
    arguments = (groups["time"], end, is_s1, 1000, 4000)
    np.testing.assert_array_equal(
        merging._first_of_clusters(*arguments), merging._first_of_clusters.py_func(*arguments)
    )
