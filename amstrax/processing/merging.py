"""Merging of groups of hits that are pieces of one S2.

An electron gives light on all of its way through the gas. Of few photoelectrons, some are further
apart than the gap that ends a peak. ``n`` is the number of groups, ``m`` that of hits.
"""

import numpy as np
import strax

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import BOOL, F64, I64, as_void, column, columns, kernel
from amstrax.processing.peaks import over_ranges

#: Fields of groups of hits, as `peaks.find_peaks` fills them
_FIELDS = ("time", "length", "dt", "channel", "n_hits", "max_gap", "area", "area_per_channel")

_Hits = columns(__name__, "_Hits", strax.hit_dtype, column, "time length dt channel area height")


def group_dtype(dtype: np.dtype) -> np.dtype:
    """Return the fields of peaks of `dtype` that groups of hits have."""
    dtype = np.dtype(dtype)
    return np.dtype([(name, dtype[name].base, dtype[name].shape) for name in _FIELDS])


def merge_groups(
    groups: np.ndarray,
    hits: np.ndarray,
    to_pe: np.ndarray,
    gap: int,
    max_duration: int,
    window: int,
    min_prompt_area: float,
) -> np.ndarray:
    """Return groups of hits, those merged that are pieces of one S2.

    From the first on, groups are merged that are at most `gap` apart, up to a duration of
    `max_duration`. Groups with much light within `window` are left as they are, since they are S1s:
    at least `min_prompt_area`, and more than twice the light that the rest of the group would have
    in a window if it were even. `groups` of `group_dtype`, shape (n,), and `hits`, shape (m,), are
    sorted by time; `to_pe` is PE per ADC count x sample of each channel, times are in ns, areas in
    PE. Raises InvalidOption for times or areas that are not above 0.
    """
    for name, value in (
        ("s2_merge_gap", gap),
        ("s2_max_duration", max_duration),
        ("s1_window", window),
        ("s1_min_prompt_area", min_prompt_area),
    ):
        if isinstance(value, bool) or not value > 0:
            raise InvalidOption(f"{name}={value!r}: give a number above 0")
    if len(groups) < 2:
        return groups
    end = strax.endtime(groups)
    is_near = groups["time"][1:] - end[:-1] <= gap
    if not is_near.any():
        return groups
    # Only groups with a near neighbour may be merged
    to_test = np.append(is_near, False) | np.append(False, is_near)
    is_s1 = np.zeros(len(groups), dtype=bool)
    is_s1[to_test] = _has_prompt_light(
        groups["time"][to_test],
        end[to_test],
        _Hits.of(hits),
        np.asarray(to_pe, dtype=np.float64),
        int(window),
        float(min_prompt_area),
    )
    first = _first_of_clusters(groups["time"], end, is_s1, int(gap), int(max_duration))
    if len(first) == len(groups):
        return groups
    return _joined(groups, end, first)


@kernel(column(I64), column(I64), _Hits, column(F64), I64, F64)
def _has_prompt_light(start, end, hits, to_pe, window, min_area):
    """Return which groups have the light of an S1 within the window."""
    result = np.zeros(len(start), dtype=np.bool_)
    low = np.searchsorted(hits.time, start)
    for i in range(len(start)):
        total = best = inside = 0.0
        first = last = low[i]
        # Light of a hit within a window that starts with another; long hits are S2s
        while last < len(hits.time) and hits.time[last] < end[i]:
            area = hits.area[last] * to_pe[hits.channel[last]]
            width = 1.0 * hits.dt[last]
            if hits.height[last] > 0:
                width *= hits.area[last] / hits.height[last]
            total += area
            inside += area * min(1.0, window / max(width, 1.0))
            while hits.time[last] - hits.time[first] > window:
                width = 1.0 * hits.dt[first]
                if hits.height[first] > 0:
                    width *= hits.area[first] / hits.height[first]
                inside -= (
                    hits.area[first]
                    * to_pe[hits.channel[first]]
                    * min(1.0, window / max(width, 1.0))
                )
                first += 1
            best = max(best, inside)
            last += 1
        rest = max(total - best, 0.0) * window / max(end[i] - start[i] - window, window)
        result[i] = best >= min_area + 2 * rest
    return result


@kernel(column(I64), column(I64), column(BOOL), I64, I64)
def _first_of_clusters(start, end, is_s1, gap, max_duration):
    """Return the first group of each cluster to merge."""
    result = np.empty(len(start), dtype=np.int64)
    n = 0
    for i in range(len(start)):
        if (
            n == 0
            or is_s1[i]
            or is_s1[i - 1]
            or start[i] - end[i - 1] > gap
            or end[i] - start[result[n - 1]] > max_duration
        ):
            result[n] = i
            n += 1
    return result[:n]


def _joined(groups: np.ndarray, end: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return one group for each cluster, `first` the index of its first group."""
    result = as_void(groups)[first].view(groups.dtype)
    last = np.append(first[1:], len(groups)) - 1
    result["length"] = (end[last] - result["time"]) // result["dt"]
    # Most clusters are one group
    merged = np.flatnonzero(last > first)
    # The longest time without a hit; gaps between groups are without their extensions
    gap = np.append(0, groups["time"][1:] - end[:-1])
    gap[first] = 0
    for field, function, values in (
        *((name, np.add, groups[name]) for name in ("n_hits", "area", "area_per_channel")),
        ("max_gap", np.maximum, np.maximum(gap, groups["max_gap"])),
    ):
        result[field][merged] = over_ranges(function, values, first[merged], last[merged] + 1)
    return result
