"""What plots show, as numbers: rates, histograms, waveforms and their matrix; arrays in and out.

Neither matplotlib nor Bokeh is needed, so that both, and the dashboard, draw the same.
"""

from typing import NamedTuple

import numba
import numpy as np

from amstrax.exceptions import InvalidOption
from amstrax.processing.rows import check_bounds, check_records

#: Units of areas: with gains, and with gains of 1
PE, ADC_COUNTS = "PE", "ADC counts x samples"
#: Rows of a matrix of waveforms, unless more are asked for
MAX_SAMPLES = 20_000


class Rates(NamedTuple):
    """Rates in k bins of time."""

    edges: np.ndarray  #: shape (k + 1,), since the start [s]
    rate: np.ndarray  #: shape (k,) [Hz]
    error: np.ndarray  #: shape (k,), standard error, in empty bins that of one [Hz]
    counts: np.ndarray  #: shape (k,)


class Histogram(NamedTuple):
    """Numbers of values in k bins."""

    edges: np.ndarray  #: shape (k + 1,)
    counts: np.ndarray  #: shape (k,)


class Histogram2d(NamedTuple):
    """Numbers of pairs of values in k x m bins."""

    x_edges: np.ndarray  #: shape (k + 1,)
    y_edges: np.ndarray  #: shape (m + 1,)
    counts: np.ndarray  #: shape (k, m)


class Matrix(NamedTuple):
    """Waveforms of n channels in k samples."""

    data: np.ndarray  #: float32, shape (k, n) [PE/ns], or [ADC counts/ns] without gains
    edges: np.ndarray  #: of the samples, shape (k + 1,) [ns since unix epoch]
    channels: np.ndarray  #: of the columns, shape (n,)
    dt: int  #: width of a sample [ns]


def thin(n: int, most: int, seed: int = 0) -> np.ndarray:
    """Return which of `n` rows to show, sorted: all, or `most` of them at random.

    The choice is the same each time, and no row is likelier than another.
    """
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def light_unit(area_unit: str) -> str:
    """Return the unit of waveforms, whose integral over time [ns] has the unit `area_unit`."""
    return "ADC counts/ns" if area_unit == ADC_COUNTS else f"{area_unit}/ns"


def short_unit(area_unit: str) -> str:
    """Return what to write behind an area where there is little room: nothing for ADC counts."""
    return "" if area_unit == ADC_COUNTS else f" {area_unit}"


def time_unit(span: int) -> tuple[int, str]:
    """Return a unit [ns] and its name in which a span of time [ns] can be read."""
    for unit, name in ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")):
        if span >= 2 * unit:
            return unit, name
    return 1, "ns"


def bin_edges(
    values: np.ndarray,
    n: int,
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> np.ndarray:
    """Return edges of `n` bins over finite `values` (with `log`, those above 0), or `limits`.

    Parameters
    ----------
    values
        Of any shape; without a value that counts, the bins are from 1 to 10.
    n
        Number of bins.
    limits
        First and last edge; None: the least and the largest value.
    log
        Bins of equal width on a logarithmic scale.
    """
    good = values[np.isfinite(values)]
    if log:
        good = good[good > 0]
    if limits is None:
        limits = (good.min(), good.max()) if len(good) else (1, 10)
    low, high = (float(limit) for limit in limits)
    if not low < high:
        low, high = (low / 2, low * 2) if log else (low - 0.5, low + 0.5)
    return np.geomspace(low, high, n + 1) if log else np.linspace(low, high, n + 1)


def histogram(
    values: np.ndarray,
    n_bins: int = 60,
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> Histogram:
    """Count finite values in bins; parameters are those of `bin_edges`.

    The last bin has its upper edge, too, as with numpy. Values beyond `limits` are left out.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    edges = bin_edges(values, n_bins, limits, log)
    return Histogram(edges, np.histogram(_kept(values, edges, log), edges)[0])


def histogram_2d(
    x: np.ndarray,
    y: np.ndarray,
    n_bins: int | tuple[int, int] = 100,
    limits: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
    log: tuple[bool, bool] = (False, False),
) -> Histogram2d:
    """Count pairs of finite values in bins.

    Parameters
    ----------
    x, y
        Shape (n,). Pairs in which one is not finite, or not above 0 on a logarithmic scale, are
        left out.
    n_bins
        Number of bins in x and y.
    limits, log
        As of `bin_edges`, for x and y.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    for values, is_log in zip((x, y), log, strict=True):
        if is_log:
            good &= values > 0
    x, y = x[good], y[good]
    n_x, n_y = (n_bins, n_bins) if isinstance(n_bins, int) else n_bins
    x_edges = bin_edges(x, n_x, limits[0], log[0])
    y_edges = bin_edges(y, n_y, limits[1], log[1])
    # Counted with the logarithms, in bins of equal width, numpy is several times as fast
    x, y = (np.log(v) if is_log else v for v, is_log in zip((x, y), log, strict=True))
    ranges = [
        np.log(e[[0, -1]]) if is_log else e[[0, -1]]
        for e, is_log in zip((x_edges, y_edges), log, strict=True)
    ]
    (x_low, x_high), (y_low, y_high) = ranges
    counts = _count_pairs(x, y, x_low, x_high, y_low, y_high, n_x, n_y)
    return Histogram2d(x_edges, y_edges, counts)


def _kept(values: np.ndarray, edges: np.ndarray, log: bool) -> np.ndarray:
    good = values[np.isfinite(values)]
    return good[good > 0] if log else good


@numba.njit(cache=True)
def _count_pairs(x, y, x_low, x_high, y_low, y_high, n_x, n_y):
    """Return how many pairs are in each bin; the bounds are in the first and the last one."""
    counts = np.zeros((n_x, n_y), dtype=np.int64)
    x_scale, y_scale = n_x / (x_high - x_low), n_y / (y_high - y_low)
    # The logarithm of a bound can be rounded to the wrong side of itself
    slack = 1e-9
    for i in range(len(x)):
        column, row = (x[i] - x_low) * x_scale, (y[i] - y_low) * y_scale
        if -slack <= column <= n_x + slack and -slack <= row <= n_y + slack:
            counts[min(max(int(column), 0), n_x - 1), min(max(int(row), 0), n_y - 1)] += 1
    return counts


def rates(
    time: np.ndarray,
    start: int,
    end: int,
    n_bins: int | None = None,
    width: float | None = None,
) -> Rates:
    """Return the rate of things in bins of time.

    Parameters
    ----------
    time
        When they happened [ns since unix epoch], shape (n,). Those outside are left out.
    start, end
        Of what was looked at [ns since unix epoch].
    n_bins
        Number of bins; None: such that `width` fits, or with neither a number between 10 and 120
        that leaves about 20 things in a bin.
    width
        Of a bin [s]. The last one is up to half of that shorter or longer where it does not fit.

    Raises
    ------
    InvalidOption
        (a ValueError) when `end` is not after `start`, or the number or the width of bins is not
        above 0.
    """
    if not start < end:
        raise InvalidOption(f"rates from {start} to {end} ns: the end has to be after the start")
    if n_bins is not None and n_bins < 1 or width is not None and not width > 0:
        raise InvalidOption(f"{n_bins} bins of {width} s: give a number above 0")
    span = (end - start) / 1e9
    inside = np.asarray(time)[(time >= start) & (time < end)]
    if width is not None and n_bins is None:
        n_whole = max(int(span / width + 0.5), 1)
        edges = np.append(np.arange(n_whole) * width, span)
    else:
        wanted = n_bins or min(max(len(inside) // 20, 10), 120)
        edges = np.linspace(0, span, wanted + 1)
    counts = np.histogram((inside - start) / 1e9, edges)[0]
    return Rates(
        edges,
        counts / np.diff(edges),
        np.sqrt(np.maximum(counts, 1)) / np.diff(edges),
        counts,
    )


def outline(data: np.ndarray, length: int, dt: int, start: int = 0) -> tuple[np.ndarray, ...]:
    """Return the corners of a waveform in steps, from 0 up and down to 0 again.

    Parameters
    ----------
    data
        Samples [PE/sample]; those behind `length` are not used.
    length, dt
        Number of samples, and width of one [ns].
    start
        Of the waveform [ns].

    Returns
    -------
    Times [ns] and heights [PE/ns], each of shape (2 length + 2,).
    """
    edges = start + np.arange(length + 1) * dt
    height = np.concatenate([[0], np.repeat(data[:length] / dt, 2), [0]])
    return np.repeat(edges, 2), height


def record_waveform(record: np.void, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return times [ns since start] and heights [ADC counts] of the samples of a record."""
    n = int(record["length"])
    times = record["time"] - start + np.arange(n) * int(record["dt"])
    return times, record["data"][:n].astype(np.float64)


def peak_waveforms(
    peaks: np.ndarray, start: int | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the `outline` of each peak: lists of times [ns since start] and of heights [PE/ns].

    Parameters
    ----------
    peaks
        As of the data type peaks, shape (n,).
    start
        Time that counts as 0 [ns since unix epoch]; None: that of the first peak.
    """
    if start is None:
        start = int(peaks["time"].min()) if len(peaks) else 0
    corners = [
        outline(peak["data"], int(peak["length"]), int(peak["dt"]), int(peak["time"]) - start)
        for peak in peaks
    ]
    return [times for times, _ in corners], [heights for _, heights in corners]


def records_to_matrix(
    records: np.ndarray,
    start: int,
    end: int,
    channels: np.ndarray,
    to_pe: np.ndarray | None = None,
    max_samples: int = MAX_SAMPLES,
) -> Matrix:
    """Return the waveforms of records as a matrix, with a row a sample and a column a channel.

    Samples that would be more than `max_samples` are added up in groups, so that areas stay as
    they are: the sum of a column times dt is the area of the channel in this time.

    Parameters
    ----------
    records
        Records (baseline subtracted, pulses up), shape (n,), in any order. Those of other channels
        and samples out of range are left out.
    start, end
        Range [ns since unix epoch].
    channels
        Of the columns, shape (m,).
    to_pe
        Photoelectrons per ADC count x sample by channel number, from 0 on; None for ones.
    max_samples
        Most rows.

    Raises
    ------
    InvalidOption
        (a ValueError) when the range is empty, `max_samples` is not above 0, or `to_pe` lacks a
        channel.
    """
    channels = np.asarray(channels, dtype=np.int64)
    if not start < end:
        raise InvalidOption(f"a matrix from {start} to {end} ns: the end has to be after the start")
    if max_samples < 1:
        raise InvalidOption(f"max_samples is {max_samples}: give a number above 0")
    gains = np.ones(channels.max(initial=-1) + 1) if to_pe is None else np.asarray(to_pe)
    if channels.max(initial=-1) >= len(gains):
        raise InvalidOption(
            f"there are gains of {len(gains)} channels, and none for channel {channels.max()}"
        )
    # Digitizers may sample differently: every sample is to lie in one row
    dt = int(np.lcm.reduce(np.unique(records["dt"]).astype(np.int64))) if len(records) else 10
    n_samples = -(-(end - start) // dt)
    dt *= -(-n_samples // max_samples)
    n_rows = -(-(end - start) // dt)
    check_records(records)
    check_bounds("channel", channels, 0, 2**15, "channels count from 0")
    column = np.full(max(channels.max(initial=0), records["channel"].max(initial=0)) + 1, -1)
    column[channels] = np.arange(len(channels))
    data = np.zeros((n_rows, len(channels)))
    _add_samples(
        records["time"],
        records["dt"].astype(np.int64),
        records["length"].astype(np.int64),
        records["data"],
        column[records["channel"]],
        start,
        end,
        dt,
        data,
    )
    data *= gains[channels] / dt
    edges = start + np.arange(n_rows + 1) * dt
    return Matrix(data.astype(np.float32), edges, channels, dt)


# Plain arrays: what numba keeps on disk of functions of structured ones can be mixed up
@numba.njit(cache=True)
def _add_samples(times, dts, lengths, samples, columns, start, end, dt, result):
    """Add each sample that begins in the range to the row of its time."""
    for i in range(len(times)):
        if columns[i] < 0:
            continue
        for j in range(lengths[i]):
            time = times[i] + j * dts[i]
            if start <= time < end:
                result[(time - start) // dt, columns[i]] += samples[i, j]
