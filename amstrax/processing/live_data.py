"""Live data: where to break it between chunks, sorting and splitting it, and its live time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import strax

from amstrax.exceptions import UnknownChannel
from amstrax.processing.compiled import I64, as_void, column, columns, kernel, time_order

_Headers = columns(
    __name__,
    "_Headers",
    strax.raw_record_dtype(),
    column,
    "time length dt channel pulse_length record_i",
)


class Break(NamedTuple):
    """Where an overlap between two chunks is cut: time [ns] and the records that this side keeps.

    Without a gap to cut in, the region [``dead_start``, ``dead_end``) has lost records.
    """

    time: int
    kept: np.ndarray
    dead_start: int = 0
    dead_end: int = 0

    @property
    def is_artificial(self) -> bool:
        """Whether records were dropped for the cut."""
        return self.dead_end > self.dead_start


#: An overlap is cut this long before its end, unless a gap says otherwise [ns]
FROM_END = 1000


def margin(safe_break: int) -> int:
    """Return the least time [ns] between a cut in a gap and the records at both sides of it."""
    return safe_break // 3


def safe_break_for(distance: int) -> int:
    """Return the least `safe_break` [ns] with a `margin` of `distance`."""
    return 3 * distance


def find_break(
    records: np.ndarray, start: int, end: int, safe_break: int, longest_record: int, is_post: bool
) -> Break:
    """Return where to cut the overlap between two chunks.

    If the last record ends more than `safe_break` before the end of the overlap, the cut is
    `FROM_END` before the end. Otherwise it is near the end of the first gap of at least
    `safe_break` between records that begins at `start` + `longest_record` or later, or else of such
    a gap before the first record. These cuts are at least ``margin(safe_break)`` away from records.
    Without a gap the cut is `FROM_END` before the end, and records across it are dropped on both
    sides. The chunk before the overlap (`is_post`) keeps records before the cut, that after it the
    others. `records` are all that start in the overlap [`start`, `end`), sorted by time, shape
    (n,); times are in ns.
    """
    distance = margin(safe_break)
    # Records that start before the overlap may end in it
    first_end = start + longest_record
    latest_end = np.maximum.accumulate(np.maximum(strax.endtime(records), first_end))
    last_end = int(latest_end[-1]) if len(records) else first_end
    edge = end - FROM_END
    if last_end < end - safe_break:
        time = min(max(edge, last_end + distance), end - distance)
        return Break(time, records if is_post else records[:0])
    is_gap = records["time"] >= np.concatenate([[first_end], latest_end[:-1]]) + safe_break
    if is_gap.any():
        # The gap before the first record comes last, as in the reference data
        i = (int(np.argmax(is_gap[1:])) + 1) if is_gap[1:].any() else 0
        return Break(int(records["time"][i]) - distance, records[:i] if is_post else records[i:])
    if is_post:
        return Break(edge, records[strax.endtime(records) <= edge], edge - longest_record, edge)
    return Break(edge, records[records["time"] >= edge], edge, end)


def first_damaged(records: np.ndarray, start: int, end: int, record_length: int) -> np.void | None:
    """Return the first record that starts outside [start, end) ns or is impossible, or None."""
    i = _first_damaged(_Headers.of(records), start, end, record_length)
    return None if i < 0 else records[i]


# numpy reads each column of the wide rows from memory: 24 instead of 5 ms for 347,000 records
@kernel(_Headers, I64, I64, I64)
def _first_damaged(records, start, end, record_length):
    for i in range(len(records.time)):
        left = records.pulse_length[i] - np.int64(records.record_i[i]) * record_length
        if not (
            start <= records.time[i] < end
            and 0 < records.length[i] == min(left, record_length)
            and records.dt[i] > 0
            and records.channel[i] >= 0
            and records.record_i[i] >= 0
        ):
            return i
    return -1


def impossible_field(record: np.void, record_length: int) -> str:
    """Return the impossible field of a record's header with its value, or "".

    Sample width and pulse length are positive, channel and fragment number at least 0. All
    fragments of a pulse have `record_length` samples, but the last has the rest.
    """
    pulse_length, record_i = int(record["pulse_length"]), int(record["record_i"])
    length = int(record["length"])
    left = pulse_length - record_i * record_length
    expected = min(left, record_length)
    problems = {
        f"dt {record['dt']} ns": record["dt"] <= 0,
        f"channel {record['channel']}": record["channel"] < 0,
        f"pulse_length {pulse_length}": pulse_length <= 0,
        f"record_i {record_i} in a pulse of {pulse_length} samples": record_i < 0 or left <= 0,
        f"length {length} instead of {expected}": length != expected,
    }
    return next((text for text, is_true in problems.items() if is_true), "")


def longest_gap(records: np.ndarray, start: int, end: int) -> int:
    """Return the longest time [ns] in [start, end) ns without the start of a record."""
    return int(np.diff(np.concatenate([[start], np.sort(records["time"]), [end]])).max())


def dead_time_record(start: int, end: int, dt: int, channel: int, dtype: np.dtype) -> np.ndarray:
    """Return one raw record, shape (1,), that marks [start, end) ns as artificial dead time."""
    record = np.zeros(1, dtype=dtype)
    record["time"] = start
    record["length"] = (end - start) // dt
    record["dt"] = dt
    record["channel"] = channel
    return record


def split_by_channel(
    records: np.ndarray, channel_ranges: Mapping[Any, Sequence[int]]
) -> dict[Any, np.ndarray]:
    """Return new arrays with the records of each range of channels.

    `channel_ranges` has the first and last channel of each part. Raises UnknownChannel (a
    ValueError) for channels in no range.
    """
    return _split([records], np.ascontiguousarray(records["channel"]), channel_ranges, None)


def _split(
    parts: Sequence[np.ndarray],
    channel: np.ndarray,
    channel_ranges: Mapping[Any, Sequence[int]],
    order: np.ndarray | None,
) -> dict[Any, np.ndarray]:
    """Return the records of each range of channels, each copied once.

    `channel` are the channels of all parts, `order` indices that sort them.
    """
    masks = {
        name: (channel >= first) & (channel <= last)
        for name, (first, last) in channel_ranges.items()
    }
    unknown = ~np.any(list(masks.values()), axis=0)
    if unknown.any():
        raise UnknownChannel(
            f"data of channel(s) {sorted(set(channel[unknown].tolist()))}, but the channels "
            f"of this detector are {dict(channel_ranges)}: is this run of another detector? "
            "Otherwise add them to channel_map"
        )
    ends = np.cumsum([len(part) for part in parts])
    result = {}
    for name, mask in masks.items():
        # Row of each record in the result
        place = np.cumsum(mask if order is None else mask[order]) - 1
        if order is not None:
            place[order] = place.copy()
        rows = np.empty(np.count_nonzero(mask), dtype=(np.void, parts[0].dtype.itemsize))
        for part, end in zip(parts, ends, strict=True):
            own = mask[end - len(part) : end]
            data = as_void(part)
            rows[place[end - len(part) : end][own]] = data if own.all() else data[own]
        result[name] = rows.view(parts[0].dtype)
    return result


def split_by_subdetector(
    parts: Sequence[np.ndarray],
    channel_ranges: Mapping[str, Sequence[int]],
    run_start: int,
    channels_polarity: Mapping[int, int],
) -> dict[str, np.ndarray]:
    """Return the records of each subdetector, sorted, with absolute times and negative pulses.

    Raises UnknownChannel (a ValueError) for channels in no subdetector.

    Parameters
    ----------
    parts
        Records in any order, times in ns since the start of the run: one or more arrays of one
        dtype, shapes (n,).
    channel_ranges
        First and last channel of each subdetector.
    run_start
        Start of the run [ns since unix epoch]. Times are shifted by it, rounded down to a multiple
        of the sample width of the subdetector's first record.
    channels_polarity
        +1 or -1 for channels of known polarity; data of positive ones is multiplied by -1.
    """
    time, channel = (np.concatenate([part[name] for part in parts]) for name in ("time", "channel"))
    result = _split(parts, channel, channel_ranges, time_order(time, channel))
    positive = [channel for channel, polarity in channels_polarity.items() if polarity > 0]
    for own in result.values():
        if len(own):
            sample_width = int(own["dt"][0])
            own["time"] += sample_width * (run_start // sample_width)
            if positive:
                own["data"][np.isin(own["channel"], positive)] *= -1
    return result


# Live time of a run: its length without dead time and gaps

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


def merge_intervals(intervals: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
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

    `intervals` are those of `merge_intervals`, shape (n, 2); `edges` of bins [ns] rise, shape (k +
    1,).
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


def livetime_row(
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
        result[cause] = covered(merge_intervals([d[:2] for d in dead if d[2] == cause]), edges)
    result["dead"] = covered(merge_intervals([d[:2] for d in dead]), edges)
    result["data_type"], result["start"], result["stop"] = data_type, start, stop
    result["live"] = stop - start - result["dead"]
    result["first"], result["last"], result["is_known"] = first, last, is_known
    return result
