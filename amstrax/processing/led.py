"""LED calibration: pulses joined from their fragments, amplitudes and areas in windows."""

import numpy as np

from amstrax.processing.compiled import check_bounds, latest_in_channel

_REMEDY = "the live data is not what redax writes; copy it again from the DAQ"
#: The area is a mean over this many windows, each this many samples longer than the previous one
N_WINDOWS, WINDOW_STEP = 6, 2


def join_fragments(raw_records: np.ndarray, n_fragments: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of records that begin a pulse, and each record's index among these.

    A pulse is identified by its channel and start time, so a missing fragment affects no other
    pulse. The second index is -1 for fragments of pulses without fragment 0, and for fragments from
    `n_fragments` on. `raw_records` are sorted by time, shape (n,). Raises IndexOutOfBounds (a
    ValueError) when a channel or the number of a fragment is negative.
    """
    for field in ("channel", "record_i"):
        check_bounds(field, raw_records[field], 0, 2**15, _REMEDY, raw_records["time"])
    time, record_i = raw_records["time"], raw_records["record_i"]
    record_length = raw_records.dtype["data"].shape[0]
    is_first = record_i == 0
    beginning = latest_in_channel(raw_records["channel"], is_first)
    start = time - np.int64(record_i) * record_length * raw_records["dt"]
    is_joined = (beginning >= 0) & (record_i < n_fragments) & (start == time[beginning])
    pulse = np.where(is_joined, (np.cumsum(is_first) - 1)[beginning], -1)
    return np.flatnonzero(is_first), pulse


def concatenate_fragments(
    raw_records: np.ndarray, n_samples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the fragments of each pulse concatenated, in the order of ``record_i``.

    Fragments of one channel are of one pulse when ``time - record_i x record_length x dt``, the
    start of the pulse, is the same. A missing fragment leaves no gap. Pulses are sorted by start
    and channel. Raw records, shape (n,), may be in any order; rows have `n_samples`, longer pulses
    are cut. Source: ../shared/spec/lab_2026.md, section 2.

    Returns indices of raw records by pulse and ``record_i``, shape (n,); the index among these of
    the first fragment of each pulse, shape (p,); and samples [ADC counts], float32, then zeros,
    shape (p, n_samples). Raises IndexOutOfBounds (a ValueError) when a fragment's length is
    negative or exceeds ``record_length``.
    """
    record_length = raw_records.dtype["data"].shape[0]
    lengths = raw_records["length"]
    check_bounds("length", lengths, 0, record_length + 1, _REMEDY, raw_records["time"])
    fragment = raw_records["record_i"].astype(np.int64)
    start = raw_records["time"] - fragment * record_length * raw_records["dt"]
    channel = raw_records["channel"]
    order = np.lexsort((raw_records["time"], fragment, channel, start))
    start, channel, lengths = start[order], channel[order], lengths[order].astype(np.int64)
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (start[1:] != start[:-1]) | (channel[1:] != channel[:-1])
    first = np.flatnonzero(begins)
    pulse = np.cumsum(begins) - 1
    before = np.cumsum(lengths) - lengths
    column = (before - before[first][pulse])[:, np.newaxis] + np.arange(record_length)
    taken = (np.arange(record_length) < lengths[:, np.newaxis]) & (column < n_samples)
    row = np.broadcast_to(pulse[:, np.newaxis], column.shape)
    data = np.zeros((len(first), n_samples), dtype=np.float32)
    data[row[taken], column[taken]] = raw_records["data"][order][taken]
    return order, first, data


def window_areas(data: np.ndarray, led_window: tuple[int, int]) -> np.ndarray:
    """Return the area of each pulse [ADC counts x samples]: a mean over six windows.

    The windows are [led_window[0], led_window[1] + 2 i) samples, i = 0 to 5, of `data`, baselined
    pulses of shape (p, samples).
    """
    start, stop = led_window
    windows = (data[:, start : stop + WINDOW_STEP * i] for i in range(N_WINDOWS))
    return np.mean([window.sum(axis=1) for window in windows], axis=0)


def baselined_pulses(
    raw_records: np.ndarray,
    pulse: np.ndarray,
    n_pulses: int,
    n_samples: int,
    baseline_window: tuple[int, int],
) -> np.ndarray:
    """Return pulses as -(data - baseline) [ADC counts], float32, shape (p, samples).

    They are zero where a fragment is missing and beyond the length of one; such samples do not
    count in the baseline. Pulses without samples in the window, from its first to its last
    (excluded) sample, are NaN. See `join_fragments` for `raw_records` and `pulse`.
    """
    record_length = raw_records.dtype["data"].shape[0]
    shape = (n_pulses, n_samples // record_length, record_length)
    raw = np.zeros(shape, dtype=np.float32)
    present = np.zeros(shape, dtype=bool)
    mine = pulse >= 0
    where = pulse[mine], raw_records["record_i"][mine]
    raw[where] = raw_records["data"][mine]
    present[where] = np.arange(record_length) < raw_records["length"][mine][:, np.newaxis]
    raw, present = raw.reshape(n_pulses, n_samples), present.reshape(n_pulses, n_samples)
    window = slice(*baseline_window)
    baseline = raw[:, window].mean(axis=1, keepdims=True)
    spoiled = ~present[:, window].all(axis=1)
    if spoiled.any():
        count = present[spoiled, window].sum(axis=1, keepdims=True)
        total = np.where(present[spoiled, window], raw[spoiled, window], 0)
        with np.errstate(invalid="ignore"):
            baseline[spoiled] = total.sum(axis=1, keepdims=True) / count
    return np.where(present, -(raw - baseline), 0)
