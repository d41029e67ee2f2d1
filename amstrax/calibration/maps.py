"""Maps of light: S1s in r and z, S2s in x and y, from a line that fills the volume evenly.

The value of a bin is the mean area of its events, less outliers, relative to the mean over all
bins. Only ratios of bins matter, so what the outliers' cut takes from a skewed line cancels.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from amstrax.calibration.energy import find_line
from amstrax.common import XAMS_VOLUME
from amstrax.exceptions import NoResult

#: Events further from the median of their bin than this are outliers [half-widths of 68 %]
_CUT = 3.0
#: Events of the least bin that is measured, by default
MIN_EVENTS = 30


class LightMap(NamedTuple):
    """A measured map, with the statistics of each bin."""

    axes: str  #: names of the two axes: rz or xy
    edges: tuple[np.ndarray, ...]  #: of the bins along both [mm]
    ratio: np.ndarray  #: light / mean light, shape (n, m); 0 in bins without events of an s2_map
    error: np.ndarray  #: statistical error of it
    n_events: np.ndarray  #: events in each bin
    n_used: np.ndarray  #: events that its value is made from: more, where it was merged

    def option(self) -> dict[str, Any]:
        """Return the map as value of the option s1_map or s2_map."""
        names = (f"{axis}_edges" for axis in self.axes)
        edges = {name: values.tolist() for name, values in zip(names, self.edges, strict=True)}
        return {**edges, "hist_ratio": self.ratio.tolist()}


def s1_map(
    r: np.ndarray,
    z: np.ndarray,
    s1: np.ndarray,
    r_edges: np.ndarray,
    z_edges: np.ndarray,
    min_events: int = MIN_EVENTS,
) -> LightMap:
    """Return the map of S1 light in bins of r and z.

    A bin with fewer than `min_events` takes in its neighbours in r, which differ less than those in
    z, on both sides, until there are enough. Bins of equal width in r^2 are equally full.

    Raises NoResult (a ValueError) for too few events in a slice of z.

    Parameters
    ----------
    r, z, s1
        Position [mm] and uncorrected S1 area [PE] of the events of one line, shape (n,).
    r_edges, z_edges
        Edges of the bins, increasing [mm].
    min_events
        Least number of events that the value of a bin is made from.
    """
    events = _Binned("rz", (r, z), s1, (r_edges, z_edges))
    n_r, n_z = events.shape

    def merged(row: int, column: int) -> np.ndarray:
        for reach in range(n_r):
            rows = slice(max(row - reach, 0), row + reach + 1)
            found = events.areas(rows, slice(column, column + 1))
            if len(found) >= min_events:
                return found
        raise NoResult(
            f"{len(found)} events from z = {events.edges[1][column]:.4g} to "
            f"{events.edges[1][column + 1]:.4g} mm are too few: take more runs or fewer bins in z, "
            f"for {min_events} or more"
        )

    volume = np.outer(np.diff(events.edges[0] ** 2), np.diff(events.edges[1]))
    return events.light_map(merged, np.ones(events.shape, dtype=bool), volume)


def s2_map(
    x: np.ndarray,
    y: np.ndarray,
    cs2: np.ndarray,
    x_edges: np.ndarray,
    y_edges: np.ndarray,
    min_events: int = MIN_EVENTS,
) -> LightMap:
    """Return the map of S2 light in bins of x and y.

    A bin with fewer than `min_events` takes in its neighbours, a ring at a time, until there are
    enough. Bins without events are 0: corrected_areas takes the nearest other one there.

    Raises NoResult (a ValueError) for too few events in all bins together.

    Parameters
    ----------
    x, y, cs2
        Reconstructed position [mm] and S2 area [PE], corrected for lost electrons only, of the
        events of one line, shape (n,).
    x_edges, y_edges
        Edges of the bins, increasing [mm].
    min_events
        As of `s1_map`.
    """
    events = _Binned("xy", (x, y), cs2, (x_edges, y_edges))

    def merged(row: int, column: int) -> np.ndarray:
        for reach in range(max(events.shape)):
            rows, columns = (slice(max(i - reach, 0), i + reach + 1) for i in (row, column))
            found = events.areas(rows, columns)
            if len(found) >= min_events:
                return found
        raise NoResult(
            f"{len(found)} events in all bins of x and y are too few: take more runs, for "
            f"{min_events} or more"
        )

    if not len(events.area):
        merged(0, 0)
    area = np.outer(*(np.diff(edges) for edges in events.edges))
    return events.light_map(merged, events.n_events > 0, area)


def maps_of_events(
    events: np.ndarray,
    n_bins: tuple[int, int, int] = (4, 10, 8),
    names: Collection[str] = ("s1_map", "s2_map"),
    ranges: tuple[tuple[float, float], tuple[float, float]] = ((0.0, np.inf), (0.0, np.inf)),
    min_events: int = MIN_EVENTS,
    radius: float = XAMS_VOLUME.radius,
    depth: float = XAMS_VOLUME.depth,
) -> dict[str, LightMap]:
    """Return maps of the densest line in cS1 and cS2.

    Events count within three standard deviations of the line in the other signal, which does not
    select those of more or less light. Positions outside of the volume count in the outer bins.

    Raises NoResult (a ValueError) without a line, or for too few events.

    Parameters
    ----------
    events
        As of event_info without s2_map, shape (n,).
    n_bins
        Of s1_map in r, with equal areas, and in z; of s2_map in x, and as many in y.
    names
        Maps to make.
    ranges
        cS1 and cS2 of events that count [PE].
    min_events
        As of `s1_map`.
    radius, depth
        Of the volume [mm].
    """
    line = find_line(np.nan, events["cs1"], events["cs2"], *ranges)
    sigma = np.sqrt(np.diag(line.covariance))
    counts = np.ones(len(events), dtype=bool)
    for name, (low, high) in zip(("cs1", "cs2"), ranges, strict=True):
        counts &= (events[name] >= low) & (events[name] <= high)
    n_r, n_z, n_xy = n_bins
    below = radius * (1 - 1e-6)
    found = {}
    if "s1_map" in names:
        own = events[counts & (np.abs(events["cs2"] - line.mean[1]) < _CUT * sigma[1])]
        edges = radius * np.sqrt(np.linspace(0, 1, n_r + 1)), np.linspace(-depth, 0, n_z + 1)
        r, z = np.minimum(own["r"], below), np.clip(own["z"], -depth, -1e-6 * depth)
        found["s1_map"] = s1_map(r, z, own["s1_area"], *edges, min_events)
    if "s2_map" in names:
        own = events[counts & (np.abs(events["cs1"] - line.mean[0]) < _CUT * sigma[0])]
        edge = np.linspace(-radius, radius, n_xy + 1)
        x, y = (np.clip(own[axis], -radius, below) for axis in "xy")
        found["s2_map"] = s2_map(x, y, own["cs2"], edge, edge, min_events)
    return found


class _Binned:
    """Areas of events, sorted by bin."""

    def __init__(self, axes, position, area, edges):
        self.axes = axes
        self.edges = tuple(np.asarray(values, dtype=np.float64) for values in edges)
        self.shape = tuple(len(values) - 1 for values in self.edges)
        rows = [
            np.searchsorted(e, p, "right") - 1 for e, p in zip(self.edges, position, strict=False)
        ]
        usable = np.isfinite(area) & (np.asarray(area) > 0)
        for row, n in zip(rows, self.shape, strict=True):
            usable &= (row >= 0) & (row < n)
        index = np.ravel_multi_index([row[usable] for row in rows], self.shape)
        order = np.argsort(index, kind="stable")
        self.area = np.asarray(area, dtype=np.float64)[usable][order]
        self.n_events = np.bincount(index, minlength=np.prod(self.shape)).reshape(self.shape)
        self._bins = np.split(self.area, np.cumsum(self.n_events.ravel())[:-1])

    def areas(self, rows: slice, columns: slice) -> np.ndarray:
        """Return the areas of events in a range of bins."""
        index = np.arange(np.prod(self.shape)).reshape(self.shape)[rows, columns].ravel()
        return np.concatenate([self._bins[i] for i in index])

    def light_map(self, merged, wanted: np.ndarray, weight: np.ndarray) -> LightMap:
        """Return the map of the bins `wanted`, relative to their mean by `weight`."""
        value, error = np.zeros(self.shape), np.zeros(self.shape)
        n_used = np.zeros(self.shape, dtype=np.int64)
        for row, column in np.argwhere(wanted):
            found = merged(row, column)
            value[row, column], error[row, column] = _mean(found)
            n_used[row, column] = len(found)
        mean = np.average(value[wanted], weights=weight[wanted])
        return LightMap(self.axes, self.edges, value / mean, error / mean, self.n_events, n_used)


def _mean(area: np.ndarray) -> tuple[float, float]:
    """Return the mean without outliers, and its error."""
    low, median, high = np.quantile(area, (0.1587, 0.5, 0.8413))
    kept = area[np.abs(area - median) <= _CUT * max((high - low) / 2, 1e-9 * median)]
    return float(kept.mean()), float(kept.std(ddof=1) / np.sqrt(len(kept)))
