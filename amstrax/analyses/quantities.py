"""Numbers that plots show: rates, histograms, waveforms and their matrix, peaks within events.

Arrays in and out, without matplotlib and Bokeh, which both draw them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numba
import numpy as np
import strax

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import check_bounds, check_records
from amstrax.processing.live_data import covered

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
    live: np.ndarray  #: shape (k,), live time [s]


class Compared(NamedTuple):
    """Histogram of a run that is compared with others: scaled numbers in k bins, and their errors.

    Errors are those of Poisson, scaled.
    """

    edges: np.ndarray  #: shape (k + 1,)
    counts: np.ndarray  #: shape (k,)
    error: np.ndarray  #: shape (k,)


class Histogram(NamedTuple):
    """Numbers of values in k bins."""

    edges: np.ndarray  #: shape (k + 1,)
    counts: np.ndarray  #: shape (k,)

    def over(self, scale: float) -> Compared:
        """Return the histogram with all numbers divided by `scale`."""
        return Compared(self.edges, self.counts / scale, np.sqrt(self.counts) / scale)


class Histogram2d(NamedTuple):
    """Numbers of pairs of values in k x m bins."""

    x_edges: np.ndarray  #: shape (k + 1,)
    y_edges: np.ndarray  #: shape (m + 1,)
    counts: np.ndarray  #: shape (k, m)


def random_subset(n: int, most: int) -> np.ndarray:
    """Return sorted indices of a random subset of at most `most` of `n` rows, always the same."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def light_unit(area_unit: str) -> str:
    """Return the unit of waveforms, whose integral over time [ns] has the unit `area_unit`."""
    return "ADC counts/ns" if area_unit == ADC_COUNTS else f"{area_unit}/ns"


def short_unit(area_unit: str) -> str:
    """Return the short suffix of an area: its unit, but nothing for ADC counts."""
    return "" if area_unit == ADC_COUNTS else f" {area_unit}"


def time_unit(span: int) -> tuple[int, str]:
    """Return a suitable unit [ns] for a span of time [ns], and its name."""
    for unit, name in ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")):
        if span >= 2 * unit:
            return unit, name
    return 1, "ns"


def start_and_unit(
    rows: np.ndarray, start: int | None = None, unit: tuple[int, str] | None = None
) -> tuple[int, tuple[int, str]]:
    """Return the time that counts as 0 [ns] and the unit of time of rows, where they are None."""
    if not len(rows):
        return start or 0, unit or (1000, "µs")
    start = int(rows["time"].min()) if start is None else start
    return start, unit or time_unit(int(strax.endtime(rows).max()) - start)


def bin_edges(
    values: np.ndarray, n: int, limits: tuple[float, float] | None = None, log: bool = False
) -> np.ndarray:
    """Return edges of `n` bins, shape (n + 1,), of equal width, with `log` on a logarithmic scale.

    The first and last edge are `limits`; None: the least and the largest finite value (with `log`
    of those above 0), or 1 and 10 without values.
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
    """Count finite values within `limits` in bins; parameters are those of `bin_edges`."""
    values = np.asarray(values, dtype=np.float64).ravel()
    edges = bin_edges(values, n_bins, limits, log)
    return Histogram(edges, np.histogram(values, edges)[0])


def histogram_2d(
    x: np.ndarray,
    y: np.ndarray,
    n_bins: int | tuple[int, int] = 100,
    limits: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
    log: tuple[bool, bool] = (False, False),
) -> Histogram2d:
    """Count pairs of finite values (above 0 on a logarithmic scale) in bins.

    `x` and `y` have shape (n,); `limits` and `log` are those of `bin_edges`, for x and y.
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
    bin_of, inside = [], np.ones(len(x), dtype=np.bool_)
    # The logarithm of a bound can be rounded to the wrong side of itself
    slack = 1e-9
    for values, edges, n, is_log in ((x, x_edges, n_x, log[0]), (y, y_edges, n_y, log[1])):
        # Bins of the logarithms have equal width
        values, (low, high) = (np.log(v) if is_log else v for v in (values, edges[[0, -1]]))
        place = (values - low) * (n / (high - low))
        inside &= (place >= -slack) & (place <= n + slack)
        bin_of.append(np.clip(place, 0, n - 1).astype(np.int64))
    index = (bin_of[0] * n_y + bin_of[1])[inside]
    counts = np.bincount(index, minlength=n_x * n_y).reshape(n_x, n_y)
    return Histogram2d(x_edges, y_edges, counts)


def rates(
    time: np.ndarray,
    start: int,
    end: int,
    n_bins: int | None = None,
    width: float | None = None,
    dead: np.ndarray | None = None,
) -> Rates:
    """Return rates in bins of time, per live time; NaN in bins without any.

    Raises InvalidOption (a ValueError) when `end` is not after `start`, or the number or the width
    of bins is not above 0.

    Parameters
    ----------
    time
        Times [ns since unix epoch], shape (n,). Those outside are left out.
    start, end
        Measured range [ns since unix epoch].
    n_bins
        Number of bins; None: such that `width` fits, or with neither a number between 10 and 120
        with about 20 entries a bin.
    width
        Of a bin [s]. The last one is up to half of that shorter or longer where it does not fit.
    dead
        Dead time: disjoint and sorted intervals [ns since unix epoch], shape (m, 2); None: none.
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
    live = np.diff(edges)
    if dead is not None and len(dead):
        live = live - covered(dead, start + np.round(edges * 1e9).astype(np.int64)) / 1e9
        live[live <= 0] = np.nan
    error = np.sqrt(np.maximum(counts, 1)) / live
    return Rates(edges, counts / live, error, counts, np.nan_to_num(live))


#: A row of a cut flow
CUT_FLOW_DTYPE = np.dtype(
    [
        (("Name of the cut", "cut"), "U40"),
        (("Events that it keeps, without others", "alone"), np.int64),
        (("Share of all events that it keeps [1]", "acceptance_alone"), np.float64),
        (("Events that it and all before it keep", "left"), np.int64),
        (("Share of all events that these keep [1]", "acceptance"), np.float64),
        (("Share of the events that those before it keep [1]", "acceptance_of_left"), np.float64),
    ]
)


def cut_flow(cuts: Mapping[str, np.ndarray], chosen: np.ndarray | None = None) -> np.ndarray:
    """Return rows of `CUT_FLOW_DTYPE`: all events, and each cut. Shares of no events are NaN.

    Parameters
    ----------
    cuts
        Name -> True for the events that the cut keeps, shape (n,), in the order of the flow.
    chosen
        True for the events that count, as those that are good by truth, shape (n,); None: all.
    """
    n = len(next(iter(cuts.values()), ()))
    left = np.ones(n, dtype=np.bool_) if chosen is None else np.asarray(chosen, dtype=np.bool_)
    all_events = left
    result = np.zeros(len(cuts) + 1, dtype=CUT_FLOW_DTYPE)
    before = total = int(left.sum())
    for row, (name, keeps) in zip(result, {"all events": left, **cuts}.items(), strict=True):
        left = left & keeps
        row["cut"], row["alone"], row["left"] = name, (all_events & keeps).sum(), left.sum()
        for share, part, whole in (
            ("acceptance_alone", row["alone"], total),
            ("acceptance", row["left"], total),
            ("acceptance_of_left", row["left"], before),
        ):
            row[share] = part / whole if whole else np.nan
        before = int(row["left"])
    return result


def outline(data: np.ndarray, length: int, dt: int, start: int = 0) -> tuple[np.ndarray, ...]:
    """Return times [ns] and heights [PE/ns] of a waveform in steps, shape (2 length + 2,) each.

    They go from 0 up and down to 0 again. The waveform begins at `start` [ns] and has `length`
    samples [PE/sample] of `dt` ns.
    """
    edges = start + np.arange(length + 1) * dt
    height = np.concatenate([[0], np.repeat(data[:length] / dt, 2), [0]])
    return np.repeat(edges, 2), height


def record_waveform(record: np.void, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return times [ns since start] and heights [ADC counts] of the samples of a record."""
    n = int(record["length"])
    times = record["time"] - start + np.arange(n) * int(record["dt"])
    return times, record["data"][:n].astype(np.float64)


def peak_waveforms(peaks: np.ndarray, start: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the `outline` of each peak: lists of times [ns since start] and of heights [PE/ns]."""
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
) -> tuple[np.ndarray, np.ndarray]:
    """Return the waveforms of records as a matrix, and the edges of its samples [ns].

    It has a row a sample and a column a channel, float32, shape (k, m) [PE/ns], or [ADC counts/ns]
    without gains. The sum of a column times the width of a sample is the area of the channel.

    Raises InvalidOption (a ValueError) when the range is empty, `max_samples` is not above 0, or
    `to_pe` lacks a channel.

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
        Most rows. Where this is less than the number of samples, they are added up in groups.
    """
    channels = np.asarray(channels, dtype=np.int64)
    if not start < end:
        raise InvalidOption(f"a matrix from {start} to {end} ns: the end has to be after the start")
    if max_samples < 1:
        raise InvalidOption(f"max_samples is {max_samples}: give a number above 0")
    gains = np.ones(channels.max(initial=-1) + 1) if to_pe is None else np.asarray(to_pe)
    if channels.max(initial=-1) >= len(gains):
        raise InvalidOption(
            f"to_pe has {len(gains)} gains, none for channel {channels.max()}: give one for each"
        )
    # Digitizers may sample differently: no sample may lie in two rows
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
    return data.astype(np.float32), start + np.arange(n_rows + 1) * dt


# Plain arrays, since numba can mix up its cached functions of structured arrays
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


class Links(NamedTuple):
    """Which rows of a table, as peaks, are within which rows of another, as events."""

    first: np.ndarray  #: first inner row of each outer row, shape (n_outer,)
    last: np.ndarray  #: inner row after the last, shape (n_outer,)
    n_inner: int  #: number of inner rows

    def inside(self, outer: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return the inner rows in any of these outer rows, sorted."""
        outer = np.asarray(outer, dtype=np.int64)
        begins = np.bincount(self.first[outer], minlength=self.n_inner + 1)
        ends = np.bincount(self.last[outer], minlength=self.n_inner + 1)
        return np.flatnonzero(np.cumsum(begins - ends)[: self.n_inner])

    def around(self, inner: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return the outer rows that contain any of these inner rows, sorted."""
        before = np.zeros(self.n_inner + 1, dtype=np.int64)
        before[np.asarray(inner, dtype=np.int64) + 1] = 1
        before = np.cumsum(before)
        return np.flatnonzero(before[self.last] > before[self.first])


def within(time: np.ndarray, start: np.ndarray, end: np.ndarray) -> Links:
    """Return which times are within which intervals, which may overlap.

    `time` [ns] is sorted, of shape (n_inner,); `start` and `end` (excluded) have shape (n_outer,).
    """
    first = np.searchsorted(time, start)
    return Links(first, np.maximum(np.searchsorted(time, end), first), len(time))
