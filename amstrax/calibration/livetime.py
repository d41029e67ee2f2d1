"""Live time of a run: its length without dead time and gaps."""

from collections.abc import Iterable, Sequence

import numpy as np

#: Causes of dead time
DIGITIZER, DROPPED, MISSING, SILENT = "digitizer", "dropped", "missing", "silent"
CAUSES = {
    DIGITIZER: "digitizers were busy, as redax says",
    DROPPED: "records were dropped, since no gap was long enough to cut chunks in",
    MISSING: "live data is missing",
    SILENT: "without records for longer than asked for",
}

LIVETIME_DTYPE = np.dtype(
    [
        (("Data type of the channels", "data_type"), "U24"),
        (("Start of the run since unix epoch [ns]", "start"), np.int64),
        (("Exclusive end of the run since unix epoch [ns]", "stop"), np.int64),
        (("Time without dead time [ns]", "live"), np.int64),
        (("Dead time of any cause [ns]", "dead"), np.int64),
        *(((f"Dead time: {text} [ns]", cause), np.int64) for cause, text in CAUSES.items()),
        (("Start of the first record since unix epoch, -1: none [ns]", "first"), np.int64),
        (("End of the last record since unix epoch, -1: none [ns]", "last"), np.int64),
        (("Whether the metadata says what was dead", "is_known"), np.bool_),
    ]
)


def merge(intervals: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """Return disjoint intervals, sorted, that cover the same time, shape (m, 2).

    `intervals` has starts and exclusive ends [ns], shape (n, 2), in any order; empty ones are left
    out.
    """
    intervals = np.asarray(intervals, dtype=np.int64).reshape(-1, 2)
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    if not len(intervals):
        return intervals
    latest = np.maximum.accumulate(intervals[:, 1])
    first = np.flatnonzero(np.append(True, intervals[1:, 0] > latest[:-1]))
    last = np.append(first[1:], len(intervals)) - 1
    return np.stack([intervals[first, 0], latest[last]], axis=1)


def covered(intervals: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the time that intervals cover in each bin [ns], shape (k,).

    Parameters
    ----------
    intervals
        Starts and ends [ns], as of `merge`, shape (n, 2).
    edges
        Edges of bins [ns], rising, shape (k + 1,).
    """
    edges = np.asarray(edges)
    if not len(intervals):
        return np.zeros(len(edges) - 1, dtype=np.int64)
    start, end = intervals.T
    before = np.append(0, np.cumsum(end - start))
    # Intervals that start before an edge count, without the part of the last that is after the edge
    begun = np.searchsorted(start, edges)
    left = np.where(begun > 0, np.maximum(end[begun - 1] - edges, 0), 0)
    return np.diff(before[begun] - left)


def silences(
    first: np.ndarray, last: np.ndarray, start: int, stop: int, longest: float
) -> np.ndarray:
    """Return the gaps between chunks of records that are longer than `longest` ns, shape (m, 2).

    `first` and `last` are the start of the first and the end of the last record of each chunk that
    has records [ns]; gaps before the first and after the last one, from `start` to `stop`, count.
    """
    begin, end = np.append(start, last), np.append(first, stop)
    is_long = end - begin > longest
    return np.stack([begin[is_long], end[is_long]], axis=1).astype(np.int64)


def row(
    data_type: str,
    start: int,
    stop: int,
    dead: Iterable[tuple[int, int, str]],
    first: int,
    last: int,
    is_known: bool,
) -> np.ndarray:
    """Return the row of `LIVETIME_DTYPE` for one group of channels, shape (1,).

    `dead` has start, end [ns] and cause of intervals, which may overlap; all else are columns.
    """
    result = np.zeros(1, dtype=LIVETIME_DTYPE)
    dead = list(dead)
    edges = np.array([start, stop])
    for cause in CAUSES:
        result[cause] = covered(merge([d[:2] for d in dead if d[2] == cause]), edges)
    result["dead"] = covered(merge([d[:2] for d in dead]), edges)
    result["data_type"], result["start"], result["stop"] = data_type, start, stop
    result["live"] = stop - start - result["dead"]
    result["first"], result["last"], result["is_known"] = first, last, is_known
    return result
