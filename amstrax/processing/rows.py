"""Rows of structured arrays: as plain bytes, and checks of the indices that they hold."""

import numpy as np

from amstrax.exceptions import IndexOutOfBounds


def plain(data: np.ndarray) -> np.ndarray:
    """Return a view of rows, or a copy of it if they do not lie side by side, as numpy's ``void``.

    numpy copies structured rows field by field, which takes up to seven times as long.
    """
    return np.ascontiguousarray(data).view(np.dtype((np.void, data.dtype.itemsize)))


def as_bytes(data: np.ndarray) -> np.ndarray:
    """Return rows that lie side by side, shape (n,), as an array of their bytes, shape (n, bytes).

    It is a view, for kernels to read and to write to.
    """
    return data.view(np.uint8).reshape(len(data), data.dtype.itemsize)


def check_bounds(
    name: str, values: np.ndarray, low: int, high: int, remedy: str, time: np.ndarray | None = None
) -> None:
    """Check that all values are in [low, high), before a kernel takes them for indices.

    Parameters
    ----------
    name
        What a value is, for the message.
    values
        Integers, shape (n,).
    low, high
        Lowest value, and the first above the highest.
    remedy
        What to do about others.
    time
        When each row is [ns], shape (n,); None for rows without a time.

    Raises
    ------
    IndexOutOfBounds
        (a ValueError) with the first value out of bounds, its row and time.
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

    `records` are of `strax.raw_record_dtype` or `strax.record_dtype`, shape (n,). Raises
    IndexOutOfBounds (a ValueError).
    """
    remedy = "not what redax writes; copy the run again from the DAQ"
    n_samples = records["data"].shape[1]
    check_bounds("channel", records["channel"], 0, 2**15, remedy, records["time"])
    check_bounds("length", records["length"], 0, n_samples + 1, remedy, records["time"])
