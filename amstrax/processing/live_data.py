"""Live data: finding where to break it between chunks, sorting it, splitting it by subdetector."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import strax
from numba import types

from amstrax.exceptions import UnknownChannel
from amstrax.processing.compiled import BOOL, I64, column, kernel, output, row
from amstrax.processing.hits import time_order
from amstrax.processing.rows import as_bytes


class Break(NamedTuple):
    """Where an overlap between two chunks is cut.

    ``time`` [ns]; ``kept``, the records of the overlap that this side keeps; and, where there was
    no gap to cut in, the region [``dead_start``, ``dead_end``) that has lost records.
    """

    time: int
    kept: np.ndarray
    dead_start: int = 0
    dead_end: int = 0

    @property
    def is_artificial(self) -> bool:
        """Whether records had to be dropped for it."""
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
    `safe_break` between records that does not begin before `start` + `longest_record`, or of the
    one before the first record. In all cases it is at least ``margin(safe_break)`` away from
    records. Without a gap the cut is `FROM_END` before the end, and records that cross it are
    dropped on both sides.

    Parameters
    ----------
    records
        All records that start in the overlap, sorted by time, shape (n,).
    start, end
        Bounds of the overlap [ns].
    safe_break
        Least gap [ns].
    longest_record
        Longest duration of a record [ns].
    is_post
        Whether this is for the chunk before the overlap (which keeps what lies before the cut),
        or for that behind it.
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
        # The gap before the first record comes last: reference data has others cut
        i = (int(np.argmax(is_gap[1:])) + 1) if is_gap[1:].any() else 0
        return Break(int(records["time"][i]) - distance, records[:i] if is_post else records[i:])
    if is_post:
        return Break(edge, records[strax.endtime(records) <= edge], edge - longest_record, edge)
    return Break(edge, records[records["time"] >= edge], edge, end)


def first_damaged(records: np.ndarray, start: int, end: int, record_length: int) -> np.void | None:
    """Return the first record that starts outside [start, end) ns or is impossible, or None.

    `impossible_field` tells which headers are impossible.
    """
    fields = ("time", "length", "dt", "channel", "pulse_length", "record_i")
    i = _first_damaged(*(records[field] for field in fields), start, end, record_length)
    return None if i < 0 else records[i]


@kernel(
    column(I64),
    column(types.int32),
    column(types.int16),
    column(types.int16),
    column(types.int32),
    column(types.int16),
    I64,
    I64,
    I64,
)
def _first_damaged(time, length, dt, channel, pulse_length, record_i, start, end, record_length):
    for i in range(len(time)):
        left = pulse_length[i] - np.int64(record_i[i]) * record_length
        if not (
            start <= time[i] < end
            and 0 < length[i] == min(left, record_length)
            and dt[i] > 0
            and channel[i] >= 0
            and record_i[i] >= 0
        ):
            return i
    return -1


def impossible_field(record: np.void, record_length: int) -> str:
    """Return the field of a record's header that is impossible, with its value; "" for none.

    Sample width and pulse length are positive, channel and number of the fragment at least 0. All
    fragments of a pulse but the last have `record_length` samples, and the last has the rest.
    """
    pulse_length, record_i = int(record["pulse_length"]), int(record["record_i"])
    length = int(record["length"])
    left = pulse_length - record_i * record_length
    if record["dt"] <= 0:
        return f"dt {record['dt']} ns"
    if record["channel"] < 0:
        return f"channel {record['channel']}"
    if pulse_length <= 0:
        return f"pulse_length {pulse_length}"
    if record_i < 0 or left <= 0:
        return f"record_i {record_i} in a pulse of {pulse_length} samples"
    if length != min(left, record_length):
        return f"length {length} instead of {min(left, record_length)}"
    return ""


def longest_gap(records: np.ndarray, start: int, end: int) -> int:
    """Return the longest time [ns] in [start, end) ns at which no record begins."""
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

    Parameters
    ----------
    records
        Array with a field ``channel``, shape (n,).
    channel_ranges
        First and last channel of each part.

    Raises
    ------
    UnknownChannel
        (a ValueError) naming channels that are in no range.
    """
    channel = records["channel"]
    masks = {
        name: (channel >= first) & (channel <= last)
        for name, (first, last) in channel_ranges.items()
    }
    unknown = ~np.any(list(masks.values()), axis=0)
    if unknown.any():
        raise _unknown_channels(channel[unknown], channel_ranges)
    return {name: records[mask] for name, mask in masks.items()}


def _unknown_channels(
    channels: np.ndarray, channel_ranges: Mapping[Any, Sequence[int]]
) -> UnknownChannel:
    return UnknownChannel(
        f"data of channel(s) {sorted({int(c) for c in channels})}, but the channels "
        f"of this detector are {dict(channel_ranges)}: is this run of another detector? "
        "Otherwise add them to channel_map"
    )


def split_by_subdetector(
    parts: Sequence[np.ndarray],
    channel_ranges: Mapping[str, Sequence[int]],
    run_start: int,
    channels_polarity: Mapping[int, int],
) -> dict[str, np.ndarray]:
    """Return the records of each subdetector, sorted, with absolute times, and pulses that go down.

    Each record is copied once, from where it is to where it belongs.

    Parameters
    ----------
    parts
        Records in any order, times in ns since the start of the run: one or more arrays of one
        type, shapes (n,).
    channel_ranges
        First and last channel of each subdetector.
    run_start
        Start of the run [ns since unix epoch]. Times are shifted by the last multiple of the
        subdetector's sample width (that of its first record) that is not after it.
    channels_polarity
        +1 or -1 for channels whose polarity is known; data of positive ones is multiplied by -1.

    Raises
    ------
    UnknownChannel
        (a ValueError) naming channels that are in no subdetector.
    """
    dtype = parts[0].dtype
    channel, time, dt = (
        np.concatenate([part[field] for part in parts]) for field in ("channel", "time", "dt")
    )
    starts = np.cumsum([0, *map(len, parts)])
    order = time_order(time, channel)
    positive = [channel for channel, polarity in channels_polarity.items() if polarity > 0]
    is_positive = np.isin(channel, positive)
    new_row = np.empty(len(channel), dtype=np.int64)
    is_known = np.zeros(len(channel), dtype=bool)
    result = {}
    for name, (first, last) in channel_ranges.items():
        mine = (channel >= first) & (channel <= last)
        is_known |= mine
        rows = np.flatnonzero(mine) if order is None else order[mine[order]]
        new_row[rows] = np.arange(len(rows))
        result[name] = records = np.empty(len(rows), dtype=dtype)
        if not len(rows):
            continue
        sample_width = int(dt[rows[0]])
        for part, start in zip(parts, starts, strict=False):
            here = slice(start, start + len(part))
            _put(
                as_bytes(part),
                mine[here],
                new_row[here],
                is_positive[here],
                time[here],
                sample_width * (run_start // sample_width),
                as_bytes(records),
                records["time"],
                records["data"],
            )
    if not is_known.all():
        raise _unknown_channels(channel[~is_known], channel_ranges)
    return result


@kernel(
    column(types.uint8, 2),
    column(BOOL),
    column(I64),
    column(BOOL),
    column(I64),
    I64,
    output(types.uint8, 2),
    output(I64),
    output(types.int16, 2),
)
def _put(part, mine, new_row, is_positive, time, shift, result, new_time, new_data):
    """Copy rows of `part` that are `mine` to where they belong, with new times and polarity."""
    for i in range(len(part)):
        if not mine[i]:
            continue
        r = new_row[i]
        old, new = row(part, i), row(result, r)
        for j in range(np.uint64(len(old))):
            new[j] = old[j]
        new_time[r] = time[i] + shift
        if is_positive[i]:
            samples = row(new_data, r)
            for j in range(np.uint64(len(samples))):
                samples[j] = -samples[j]
