"""Rows of structured arrays: views as raw bytes, order, and checks of the indices they hold."""

import numpy as np

from amstrax.exceptions import IndexOutOfBounds


def as_void(data: np.ndarray) -> np.ndarray:
    """Return a view of contiguous rows, or a copy of other rows, as numpy's ``void``.

    numpy copies structured rows field by field, which takes up to seven times as long.
    """
    return np.ascontiguousarray(data).view(np.dtype((np.void, data.dtype.itemsize)))


def sort_by_time(intervals: np.ndarray) -> np.ndarray:
    """Return rows sorted by time, then by channel if they have one; the same array if they are.

    The order is that of `strax.sort_by_time`: equal rows keep their order.
    """
    channel = intervals["channel"] if "channel" in (intervals.dtype.names or ()) else None
    order = time_order(intervals["time"], channel)
    if order is None:
        return intervals
    return as_void(intervals)[order].view(intervals.dtype)


def time_order(time: np.ndarray, channel: np.ndarray | None = None) -> np.ndarray | None:
    """Return indices that sort by time [ns], then by channel; None for sorted rows.

    Equal rows keep their order. Shapes (n,).
    """
    if len(time) < 2:
        return None
    if channel is None:
        key = time
    else:
        channel = channel.astype(np.int64)
        channel -= min(channel.min(), 0)
        n_channels = int(channel.max()) + 1
        first, last = time.min(), time.max()
        if int(last) - int(first) >= np.iinfo(np.int64).max // n_channels:
            return np.lexsort((channel, time))  # years apart: the key exceeds 64 bits
        key = (time - first) * n_channels + channel
    if (key[1:] >= key[:-1]).all():
        return None
    return np.argsort(key, kind="stable")


def latest_in_channel(channel: np.ndarray, is_wanted: np.ndarray) -> np.ndarray:
    """Return the index of the latest wanted row of the same channel, up to each row, or -1."""
    order = np.argsort(channel, kind="stable")
    place = np.maximum.accumulate(np.where(is_wanted[order], np.arange(len(order)), -1))
    found = order[place]
    is_same = (place >= 0) & (channel[found] == channel[order])
    latest = np.full(len(channel), -1)
    latest[order[is_same]] = found[is_same]
    return latest


def check_bounds(
    name: str, values: np.ndarray, low: int, high: int, remedy: str, time: np.ndarray | None = None
) -> None:
    """Check that all integers in `values` are in [low, high), before a kernel uses them as indices.

    Raises IndexOutOfBounds (a ValueError) with `name`, the first value out of bounds, its row, its
    time [ns] where `time` is given, and `remedy`.
    """
    # Rows are wide: each is fetched from memory once
    values = np.ascontiguousarray(values)
    if not len(values) or (values.min() >= low and values.max() < high):
        return
    i = int(np.argmax((values < low) | (values >= high)))
    at = "" if time is None else f" at {time[i]} ns"
    raise IndexOutOfBounds(
        f"{name} {values[i]} in row {i}{at} is not in {low} to {high - 1}: {remedy}"
    )


def check_records(records: np.ndarray) -> None:
    """Check that channels are not negative, and that lengths are those of a fragment.

    Raises IndexOutOfBounds (a ValueError).
    """
    remedy = "not what redax writes; copy the run again from the DAQ"
    n_samples = records["data"].shape[1]
    check_bounds("channel", records["channel"], 0, 2**15, remedy, records["time"])
    check_bounds("length", records["length"], 0, n_samples + 1, remedy, records["time"])
