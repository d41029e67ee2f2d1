"""Analyses on a context of waveforms: records, peaks with their records, and matrices of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import strax

from amstrax.analyses import quantities
from amstrax.analyses.loading import Part
from amstrax.analyses.mini_analysis import on_context
from amstrax.exceptions import InvalidOption
from amstrax.processing import pulses as kernels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Pulses that have begun so long before a range [ns] are loaded for the baselines in it
_LONGEST_PULSE = 100_000
#: As of the plugins that make records, where none of the context says it
_BASELINE_SAMPLES = 20


@on_context("records", warn_beyond_sec=1)
def plot_records(
    part: Part,
    channels: Sequence[int] | None = None,
    show_most: int = 200,
    ax: "Axes | None" = None,
) -> "Figure":
    """Draw records against time, a colour a channel.

    Parameters
    ----------
    channels
        Draw these alone; None: all.
    show_most
        Draw at most so many, the first ones; the title says of how many.
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    from amstrax.analyses import peaks as plots
    from amstrax.analyses.style import new_axes

    ax = new_axes((9, 4)) if ax is None else ax
    records = _of_channels(part.load("records"), channels)
    shown = records[:show_most]
    start = _first(part, shown)
    figure = plots.plot_records(shown, ax, start, part.nothing("records"))
    _title(ax, part, start, shown, records, "records, the first")
    if part.has_data_type and "raw" in part.names("records")[0]:
        ax.set_ylabel("ADC counts")
    return figure


@on_context("peaks", "peak_basics", warn_beyond_sec=10)
def plot_peaks(part: Part, show_most: int = 200, ax: "Axes | None" = None) -> "Figure":
    """Draw sum waveforms of peaks against time, coloured by their type.

    Parameters
    ----------
    show_most
        Draw at most so many, the largest ones; the title says of how many.
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    from amstrax.analyses import peaks as plots
    from amstrax.analyses.style import new_axes

    ax = new_axes((9, 4)) if ax is None else ax
    peaks = part.load("peaks", "peak_basics")
    shown = peaks
    if len(peaks) > show_most:
        shown = peaks[np.sort(np.argsort(peaks["area"])[len(peaks) - show_most :])]
    start = _first(part, shown)
    figure = plots.plot_peaks(
        shown, None, ax, start, part.nothing("peaks"), part.area_unit("peaks")
    )
    _title(ax, part, start, shown, peaks, "peaks, the largest")
    return figure


@on_context("peaks", "peak_basics", "records", warn_beyond_sec=1)
def plot_peak_records(
    part: Part, peak: np.void | None = None, figure: "Figure | None" = None
) -> "Figure":
    """Draw a peak: its sum waveform, and the records of each channel that it is made from.

    Parameters
    ----------
    peak
        A row of peaks; None: the largest one in the part of the run.
    figure
        Draw into this; None: into a new one.

    Returns
    -------
    The figure.

    Raises
    ------
    InvalidOption
        (a ValueError) when `peak` has no waveform.
    """
    from amstrax.analyses import peaks as plots
    from amstrax.analyses.style import TYPE_NAMES, channel_color, new_figure, note

    if peak is not None:
        if "data" not in (peak.dtype.names or ()):
            raise InvalidOption(
                "peak has no waveform: give a row of the data type peaks, or of peaks and "
                "peak_basics together"
            )
        part.time_range = (int(peak["time"]), int(strax.endtime(peak)))
        part.start, part.end = part.time_range
    else:
        peaks = part.load("peaks", "peak_basics")
        if len(peaks):
            peak = peaks[np.argmax(peaks["area"])]
            part.time_range = (int(peak["time"]), int(strax.endtime(peak)))
            part.start, part.end = part.time_range
    numbers = _channels(part, "records")
    area = part.area_unit("peaks")
    if peak is None:
        figure = new_figure((9, 3)) if figure is None else figure
        axes = figure.subplots()
        axes.set(xlabel="Time [ns]", ylabel=f"Light [{quantities.light_unit(area)}]")
        note(axes, part.nothing("peaks"))
        return figure
    records = part.load("records")
    # Hits of other detectors, and channels that are not read out, have no panel
    numbers = [channel for channel in numbers if (records["channel"] == channel).any()]
    n_rows = 1 + max(len(numbers), 1)
    if figure is None:
        figure = new_figure((9, 2.6 + 1.3 * (n_rows - 1)))
    above, *below = figure.subplots(
        n_rows, 1, sharex=True, gridspec_kw={"height_ratios": [2, *[1] * (n_rows - 1)]}
    )
    start = int(peak["time"])
    plots.plot_peaks(np.array([peak]), axes=above, start=start, unit=area)
    above.legend_.remove()
    above.set_xlabel("")
    unit, name = quantities.time_unit(int(strax.endtime(peak)) - start)
    for channel, axes in zip(numbers, below, strict=False):
        of_channel = records[records["channel"] == channel]
        for record in of_channel:
            times, heights = quantities.record_waveform(record, start)
            axes.plot(times / unit, heights, color=channel_color(channel), lw=0.9)
        axes.set_ylabel(f"ch {channel}")
        axes.margins(y=0.1)
    if not numbers:
        note(below[0], "no records")
    figure.supylabel("ADC counts", fontsize="medium", y=0.3)
    below[-1].set_xlabel(f"Time [{name}]")
    width = (int(strax.endtime(peak)) - start) / unit
    above.set_xlim(-0.1 * width, 1.1 * width)
    kind = f"{TYPE_NAMES[peak['type']]} of " if peak["type"] in (1, 2) else "Peak of "
    since = (start - part.run_start) / 1e9
    above.set_title(
        f"{kind}{peak['area']:.4g} {area}, at {since:.6f} s of run {part.run_id}", loc="left"
    )
    return figure


@on_context("records", "peaks", warn_beyond_sec=10)
def records_matrix(
    part: Part, max_samples: int = quantities.MAX_SAMPLES, channels: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the waveforms of records as a matrix, with a row a sample and a column a channel.

    Parameters
    ----------
    max_samples
        Most rows: where there were more, samples are added up in groups, so that areas stay as
        they are.
    channels
        Of the columns; None: those of the TPC in this context.

    Returns
    -------
    matrix
        Shape (n_samples, n_channels), float32 [PE/ns]; without gains [ADC counts/ns].
    times
        Edges of the samples, shape (n_samples + 1,) [s since the start of the run].
    channels
        Of the columns, shape (n_channels,).
    """
    return _as_matrix(part, part.load("records"), max_samples, channels)


@on_context("raw_records", "records", "peaks", warn_beyond_sec=10)
def raw_records_matrix(
    part: Part, max_samples: int = quantities.MAX_SAMPLES, channels: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the waveforms of raw records as a matrix, with a row a sample and a column a channel.

    The baseline of each pulse is subtracted, and nothing else done.

    Parameters
    ----------
    max_samples, channels
        As of ``records_matrix``.

    Returns
    -------
    matrix, times, channels
        As of ``records_matrix``.
    """
    return _as_matrix(part, _baselined(part), max_samples, channels)


@on_context("records", "raw_records", "peaks", warn_beyond_sec=10)
def plot_records_matrix(
    part: Part,
    raw: bool = False,
    max_samples: int = 600,
    channels: Sequence[int] | None = None,
    ax: "Axes | None" = None,
) -> "Figure":
    """Draw the matrix of waveforms: time to the right, channels upward, light as colour.

    Parameters
    ----------
    raw
        That of ``raw_records_matrix``, in place of ``records_matrix``.
    max_samples, channels
        As there.
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    from amstrax.analyses import run_plots
    from amstrax.analyses.style import new_axes

    ax = new_axes((9, 3.5)) if ax is None else ax
    records = _baselined(part) if raw else part.load("records")
    matrix, times, numbers = _as_matrix(part, records, max_samples, channels)
    unit = quantities.light_unit(part.area_unit("peaks"))
    figure = run_plots.plot_matrix(
        matrix, times, numbers.tolist(), ax, unit, part.nothing("records")
    )
    ax.set_title(f"Run {part.run_id}", loc="left")
    return figure


@on_context("records", "raw_records", "peaks", "peak_basics", warn_beyond_sec=10)
def waveform_display(
    part: Part,
    raw: bool = False,
    show_most: int = 500,
    width: int = 900,
) -> Any:
    """Return an interactive display of waveforms: peaks above, records of each channel below.

    Both move together in time; a click in the legend hides a type or a channel. It works without
    a network: ``bokeh.plotting.output_notebook()`` and ``show(layout)``, or ``save(layout, file)``.

    Parameters
    ----------
    raw
        Show raw records, with the baseline subtracted, in place of records.
    show_most
        Show at most so many peaks (the largest) and records (the first); the titles say of how
        many.
    width
        Of the display [pixels].

    Returns
    -------
    A Bokeh layout.

    Raises
    ------
    NotAvailable
        When Bokeh is not installed.
    """
    from amstrax.analyses.interactive import signals

    records = _baselined(part) if raw else part.load("records")
    peaks = part.load("peaks", "peak_basics") if part.has("peaks") else None
    start = part.time_range[0] if part.time_range else part.start
    return signals.waveform_display(
        records,
        peaks,
        start,
        part.title,
        show_most=show_most,
        width=width,
        area_unit=part.area_unit("peaks"),
    )


def _of_channels(records: np.ndarray, channels: Sequence[int] | None) -> np.ndarray:
    return records if channels is None else records[np.isin(records["channel"], list(channels))]


def _first(part: Part, shown: np.ndarray) -> int:
    """Return the time that counts as 0: the start of the range, or of what is shown."""
    if part.time_range is not None:
        return part.time_range[0]
    return int(shown["time"].min()) if len(shown) else part.start


def _title(
    ax: "Axes", part: Part, start: int, shown: np.ndarray, there: np.ndarray, what: str
) -> None:
    since = (start - part.run_start) / 1e9
    ax.set_xlabel(ax.get_xlabel().replace("Time", f"Time since {since:.9g} s of the run"))
    ax.set_title(part.title, loc="left", fontsize="medium")
    if len(shown) < len(there):
        ax.set_title(f"{len(shown):,} of {len(there):,} {what}", loc="right", fontsize="small")


def _channels(part: Part, sort: str) -> list[int]:
    """Return the channels of data, by the config of the context."""
    from amstrax.analyses.on_context.channels import channels_of

    return channels_of(part, part.names(sort)[0])


def _as_matrix(
    part: Part, records: np.ndarray, max_samples: int, channels: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    numbers = np.array(_channels(part, "records") if channels is None else list(channels))
    if part.time_range is not None:
        start, end = part.time_range
    elif len(records):
        start, end = int(records["time"].min()), int(strax.endtime(records).max())
    else:
        start, end = part.start, max(part.end, part.start + 1)
    matrix = quantities.records_to_matrix(
        records, start, end, numbers, _gains(part, numbers), max_samples
    )
    return matrix.data, (matrix.edges - part.run_start) / 1e9, matrix.channels


def _gains(part: Part, channels: np.ndarray) -> np.ndarray | None:
    """Return photoelectrons per ADC count x sample by channel; None where there are no gains."""
    if not part.has("peaks"):
        return None
    name = part.names("peaks")[0]
    plugin = part.context._get_plugins((name,), part.run_id)[name]
    gains = np.asarray(getattr(plugin, "gain_to_pe_array", None) or 1.0, dtype=np.float64)
    n = int(np.max(channels, initial=0)) + 1
    return np.full(n, float(gains)) if gains.ndim == 0 else gains


def _baselined(part: Part) -> np.ndarray:
    """Return raw records as records, the baseline of each pulse subtracted, pulses up."""
    margin = _LONGEST_PULSE if part.time_range is not None else 0
    raw = part.load("raw_records", margin=margin)
    n_samples, floor = _BASELINE_SAMPLES, False
    if part.has("records"):
        plugin = part.context.get_single_plugin(part.run_id, part.names("records")[0])
        if "baseline_window" in plugin.takes_config:
            n_samples = plugin.config["baseline_window"][1]
        else:
            n_samples = getattr(plugin, "baseline_samples", n_samples)
            floor = getattr(plugin, "correct_positive_polarity", floor)
    records = kernels.raw_to_records(
        strax.sort_by_time(raw), n_samples, flip=True, allow_sloppy_chunking=True, floor=floor
    )
    if part.time_range is None:
        return records
    first, last = part.time_range
    return records[(strax.endtime(records) > first) & (records["time"] < last)]
