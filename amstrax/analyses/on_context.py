"""Analyses as methods of the context, ``st.NAME(run_id, ...)``: they load data and draw it.

Each calls a function of arrays of the other modules, with the same name where it draws the same.
`amstrax.analyses.mini_analysis` makes methods of them, and `amstrax.strax_ext.context` binds these.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import strax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amstrax.analyses import (
    event_plots,
    interactive,
    led_plots,
    peak_plots,
    quantities,
    run_plots,
    style,
    waveform_plots,
)
from amstrax.analyses.loading import Part, dead_intervals
from amstrax.analyses.mini_analysis import on_context
from amstrax.common import XAMS_VOLUME
from amstrax.exceptions import InvalidOption, NoSuchDataType, did_you_mean
from amstrax.processing import pulses as kernels
from amstrax.processing.compiled import sort_by_time

# A package before: `amstrax._legacy` finds its modules
__path__: list[str] = []

#: Pulses that begin so long before a range [ns] are loaded for the baselines in it
_LONGEST_PULSE = 100_000
#: Samples of the baseline where no plugin of the context that makes records has an option for it
_BASELINE_SAMPLES = 20


def _drawn(
    draws: Callable[..., Figure],
    sorts: str | tuple[str, ...],
    *columns: str,
    name: str = "",
    pad: float | None = None,
    **known: Callable[[Part], Any],
) -> Callable[..., Figure]:
    """Return a method that loads columns of data, and draws them by a function of arrays.

    It has name (unless another is given) and arguments of that function, but for those `known` from
    the part of the run. `pad` is the distance of the title from the axes [points].
    """
    sorts = strax.to_str_tuple(sorts)
    parameters = inspect.signature(draws).parameters
    if "unit" in parameters:
        known["unit"] = lambda part: part.area_unit(sorts[0])
    known["empty"] = lambda part: part.nothing(parameters["empty"].default.removeprefix("no "))

    def analysis(part: Part, ax: Axes | None = None, **arguments: Any) -> Figure:
        if "axes" in parameters:
            ax = arguments["axes"] = style.new_axes() if ax is None else ax
        data = part.load(*sorts, columns=("time", *columns))
        arguments |= {key: find(part) for key, find in known.items()}
        figure = draws(data, **arguments)
        if ax is None:
            return part.with_title(figure)
        ax.set_title(f"Run {part.run_id}", loc="left", pad=pad)
        return figure

    data, target, *others = parameters.values()
    own = [parameter for parameter in others if parameter.name not in known]
    last = target.replace(name={"axes": "ax"}.get(target.name, target.name))
    signature = inspect.Signature([data, *own, last])
    analysis.__signature__ = signature  # type: ignore[attr-defined]
    analysis.__name__ = analysis.__qualname__ = name or draws.__name__
    analysis.__doc__ = inspect.cleandoc(draws.__doc__ or "").partition("\n\nParameters\n")[0]
    return on_context(*sorts, draws=draws)(analysis)


# Events


@on_context("event_info", draws=event_plots.event_scatter)
def event_scatter(
    part: Part, s1: str = "cs1", s2: str = "cs2", color: str | None = None, ax: Axes | None = None
) -> Figure:
    """Draw S2 against S1 of events, on logarithmic scales.

    More than 3,000 events are drawn as a histogram.

    Raises InvalidOption (a ValueError) when events have no such column.
    """
    ax = style.new_axes() if ax is None else ax
    data = part.load("event_info")
    figure = event_plots.event_scatter(
        data, ax, s1, s2, color, part.nothing("events with S1 and S2"), part.area_unit("event_info")
    )
    ax.set_title(f"Run {part.run_id}: {ax.get_title()}")
    return figure


plot_bands = _drawn(event_plots.plot_bands, "event_info", "cs1", "cs2")
# Names of the lines are above the axes
plot_drift_time = _drawn(event_plots.plot_drift_time, "event_info", "drift_time", pad=16)
plot_kr83m_delays = _drawn(event_plots.plot_kr83m_delays, "event_kr83m", "kr_quality", "s1_delay")
plot_positions = _drawn(event_plots.plot_positions, "event_info", "x", "y", "z")


@on_context("event_info", draws=event_plots.event_display)
def event_display(
    part: Part,
    event_number: int | None = None,
    radius: float = XAMS_VOLUME.radius,
    figure: Figure | None = None,
) -> Figure:
    """Draw one event: main and alternative S1 and S2, channels, hit pattern, time and position.

    Raises InvalidOption (a ValueError) when the part of the run has no event of that number.

    Parameters
    ----------
    event_number
        Column ``event_number`` of the event; None: the one with the median S2 area of those with
        S1 and S2, or the first one without any.
    """
    columns = ("time", "endtime", "event_number", "s1_area", "s2_area", "drift_time")
    data = part.load("event_info", columns=columns)
    if event_number is not None:
        chosen = data[data["event_number"] == event_number]
        if not len(chosen):
            numbers = data["event_number"]
            known = (
                f"numbers go from {numbers.min()} to {numbers.max()}"
                if len(data)
                else "it is empty"
            )
            raise InvalidOption(
                f"run {part.run_id} has no event {event_number} in this part: {known}"
            )
        event = chosen[0]
    elif not len(data):
        figure = style.new_figure((13, 10)) if figure is None else figure
        axes = figure.subplots()
        axes.set_axis_off()
        style.note(axes, part.nothing("events"))
        return figure
    else:
        good = np.flatnonzero(np.isfinite(data["drift_time"]))
        good = good[np.argsort(data["s2_area"][good], kind="stable")]
        event = data[good[len(good) // 2]] if len(good) else data[0]
    whole = Part(
        part.context,
        part.run_id,
        ("event_info",),
        time_within=event,
        time_selection="fully_contained",
        progress_bar=False,
    )
    wide = whole.load("event_info", "event_waveform", "event_area_per_channel")
    wide = wide[wide["event_number"] == event["event_number"]]
    peaks = whole.load("peaks", "peak_basics")
    top, unit = tuple(part.top_channels()), part.area_unit("event_info")
    figure = event_plots.event_display(wide[0], peaks, peaks["type"], top, radius, figure, unit)
    return part.with_title(figure)


# Peaks


plot_area_per_channel = _drawn(
    peak_plots.plot_area_per_channel,
    ("peaks", "peak_basics"),
    *("area_per_channel", "type"),
    # Arrays begin with the first channel of their part of the detector
    channels=lambda part: part.channels(part.names("peaks")[0]),
)
plot_peaks_aft_histogram = _drawn(
    peak_plots.plot_aft_histogram,
    *("peak_basics", "area_fraction_top", "type"),
    name="plot_peaks_aft_histogram",
)
plot_peaks_area_aft_histogram = _drawn(
    peak_plots.plot_area_aft,
    *("peak_basics", "area", "area_fraction_top"),
    name="plot_peaks_area_aft_histogram",
)
plot_peaks_area_width_histogram = _drawn(
    peak_plots.plot_area_width,
    *("peak_basics", "area", "range_50p_area"),
    name="plot_peaks_area_width_histogram",
)


# LED runs


@on_context("records_led", draws=led_plots.plot_led_pulses, warn_beyond_sec=60)
def plot_led_records(
    part: Part,
    channels: Sequence[int] | None = None,
    show_most: int = 100,
    figure: Figure | None = None,
) -> Figure:
    """Draw pulses of an LED run over each other, with the mean of all, a panel a channel.

    Parameters
    ----------
    channels
        Those that get a panel; None: those of the TPC.
    """
    pulses = part.load("records_led")
    channels = part.channels("raw_records") if channels is None else list(channels)
    windows = {}
    if part.has("led_calibration"):
        plugin = part.context.get_single_plugin(part.run_id, part.names("led_calibration")[0])
        windows = {"light": plugin.config["led_window"], "noise": plugin.config["noise_window"]}
    empty = part.nothing("pulses")
    return part.with_title(
        led_plots.plot_led_pulses(pulses, channels, figure, show_most, windows, empty)
    )


@on_context("led_calibration", draws=led_plots.plot_led_spectra)
def plot_led_areas(
    part: Part,
    channels: Sequence[int] | None = None,
    n_bins: int = 150,
    log: bool = True,
    figure: Figure | None = None,
) -> Figure:
    """Draw the spectrum of areas of pulses in an LED run, a panel a channel.

    Parameters
    ----------
    channels
        Those that get a panel; None: those of the TPC.
    """
    pulses = part.load("led_calibration", columns=("time", "channel", "area"))
    channels = part.channels("raw_records") if channels is None else list(channels)
    empty = part.nothing("pulses")
    return part.with_title(led_plots.plot_led_spectra(pulses, channels, figure, n_bins, log, empty))


# Whole runs


class _Shown(NamedTuple):
    """How a column is drawn; {unit} in the label is that of areas."""

    label: str
    log: bool
    factor: float = 1.0
    limits: tuple[float, float] | None = None


_COLUMNS = {
    "area": _Shown("Area of peaks [{unit}]", True),
    "range_50p_area": _Shown("Width of peaks, central 50 % [ns]", True),
    "area_fraction_top": _Shown("Area fraction top of peaks", False, limits=(-0.05, 1.05)),
    "cs1": _Shown("cS1 [{unit}]", True),
    "cs2": _Shown("cS2 [{unit}]", True),
    "s1_area": _Shown("S1 [{unit}]", True),
    "s2_area": _Shown("S2 [{unit}]", True),
    "drift_time": _Shown("Drift time [µs]", False, 1e-3),
    "x": _Shown("x [mm]", False),
    "y": _Shown("y [mm]", False),
    "z": _Shown("z [mm]", False),
}
_LED_COLUMNS = {
    "area": _Shown("Area of pulses [ADC counts x samples]", False),
    "amplitude_led": _Shown("Height of pulses [ADC counts]", False),
}
#: Sorts of data in the order in which columns are looked for, and the columns drawn by default
_DEFAULTS = {
    "peak_basics": ("area", "range_50p_area", "area_fraction_top"),
    "event_info": ("cs1", "cs2", "drift_time"),
    "led_calibration": ("area", "amplitude_led"),
}
_NORMALIZE = {"rate": "Hz per bin", "counts": "Number per bin", "shape": "Share per bin"}


@on_context("peak_basics", "led_calibration", "event_info", any_of=True)
def plot_rates(part: Part, bin_seconds: float | None = None, ax: Axes | None = None) -> Figure:
    """Draw rates over a run: of S1s, S2s, other peaks and events, or of pulses in each LED channel.

    Rates are per live time, see ``st.livetime``. Events are drawn where event_info is stored. The
    end of the run is that of its run document or, without one, that of its last stored data.

    Parameters
    ----------
    bin_seconds
        Width of a bin [s]; None: such that the run has between 10 and 120 bins.
    """
    ax = style.new_axes((9, 4)) if ax is None else ax
    times: dict[str, np.ndarray] = {}
    if part.has("peak_basics"):
        peaks = part.load("peak_basics", columns=("time", "type"))
        start, end = part.start, part.taken_until(peaks)
        for kind in (1, 2, 0):
            times[style.TYPE_NAMES[kind]] = peaks["time"][peaks["type"] == kind]
        if part.has_given("events") or (
            part.has("event_info") and part.context.is_stored(part.run_id, "event_info")
        ):
            times["events"] = part.load("event_info", columns=("time",))["time"]
    else:
        pulses = part.load("led_calibration", columns=("time", "channel"))
        start, end = part.start, part.taken_until(pulses)
        for channel in np.unique(pulses["channel"]):
            times[f"channel {channel}"] = pulses["time"][pulses["channel"] == channel]
    series = {}
    if end > start:
        longest = max((len(time) for time in times.values()), default=0)
        n_bins = min(max(longest // 20, 10), 120) if bin_seconds is None else None
        since = (start - part.run_start) / 1e9
        dead = dead_intervals(part.context, part.run_id)
        for name, time in times.items():
            rates = quantities.rates(time, start, end, n_bins, bin_seconds, dead)
            series[name] = rates._replace(edges=rates.edges + since)
    names = (*style.TYPE_NAMES, "events")
    colors = dict(zip(names, (*style.TYPE_COLORS, style.BLACK), strict=True))
    styles = dict(zip(names, (*style.TYPE_STYLES, "-"), strict=True))
    figure = run_plots.plot_rates(series, ax, colors, styles, part.nothing("data"))
    ax.set_title(part.title, loc="left", fontsize="medium")
    return figure


@on_context("peak_basics", "event_info", "led_calibration", several=True, any_of=True)
def compare_runs(
    parts: list[Part],
    fields: Sequence[str] | None = None,
    normalize: str = "rate",
    n_bins: int = 60,
    figure: Figure | None = None,
    interactive: bool = False,
) -> Any:
    """Draw distributions of several runs over each other, a panel a column, a line a run.

    Raises InvalidOption (a ValueError) for no runs, an unknown column, or another `normalize`.

    Parameters
    ----------
    fields
        Columns of event_info, peak_basics or led_calibration; None: areas, widths, and those of
        events where event_info of all runs is stored.
    normalize
        ``rate`` for rates per bin, ``counts`` for numbers, ``shape`` for shares of each run's.
    n_bins
        Number of bins in each panel.
    interactive
        Return a Bokeh layout, with ratios to the first run, instead of a matplotlib figure.
    """
    if not parts:
        raise InvalidOption("no runs to compare: give their names, as ['999999']")
    if normalize not in _NORMALIZE:
        hint = did_you_mean(str(normalize), _NORMALIZE)
        raise InvalidOption(f"normalize is {normalize!r}{hint}")
    by_sort = _sorts_of(parts, fields)
    panels = []
    for sort, names in by_sort.items():
        tables = {}
        for part in parts:
            part.main = next(iter(by_sort))
            tables[part.run_id] = part.load(sort, columns=("time", *names))
        spans = {part.run_id: part.live_seconds(tables[part.run_id]) for part in parts}
        unit = " or ".join(dict.fromkeys(part.area_unit(sort) for part in parts))
        table_of_labels = _LED_COLUMNS if sort == "led_calibration" else _COLUMNS
        for name in names:
            shown = table_of_labels.get(name, _Shown(name, False))
            values = {run: table[name] * shown.factor for run, table in tables.items()}
            histograms = _histograms(values, spans, shown, n_bins, normalize)
            panels.append((shown.label.format(unit=unit), histograms, shown.log))
    if interactive:
        from amstrax.analyses.interactive import _bokeh, comparison

        columns = comparison(panels, _NORMALIZE[normalize])
        return _bokeh.bokeh().layouts.row(*columns, styles={"flex-wrap": "wrap"})
    return run_plots.plot_comparison(panels, _NORMALIZE[normalize], figure)


def _sorts_of(parts: list[Part], fields: Sequence[str] | None) -> dict[str, list[str]]:
    """Return sort of data -> its columns to draw.

    Raises InvalidOption for an unknown column, and NoSuchDataType without any such data.
    """
    context, run_id = parts[0].context, parts[0].run_id
    sorts = [sort for sort in _DEFAULTS if parts[0].has(sort)]
    if not sorts:
        raise NoSuchDataType(
            f"this context has none of {', '.join(_DEFAULTS)}: take one with data to compare"
        )
    columns = {sort: parts[0].dtype(parts[0].names(sort)[0]).names or () for sort in sorts}
    found: dict[str, list[str]] = {}
    if fields is None:
        for sort in sorts:
            if sort != "event_info" or all(
                context.is_stored(part.run_id, "event_info") for part in parts
            ):
                found[sort] = [name for name in _DEFAULTS[sort] if name in columns[sort]]
        return found
    for field in (fields,) if isinstance(fields, str) else fields:
        having = [sort for sort in sorts if field in columns[sort]]
        if not having:
            known = [name for names in columns.values() for name in names]
            raise InvalidOption(
                f"run {run_id} has no column {field!r} in {', '.join(sorts)}"
                + did_you_mean(field, known)
            )
        found.setdefault(having[0], []).append(field)
    return found


def _histograms(
    values: dict[str, np.ndarray],
    spans: dict[str, float],
    shown: _Shown,
    n_bins: int,
    normalize: str,
) -> dict[str, quantities.Compared]:
    """Return run -> histogram, all in the same bins."""
    together = np.concatenate(list(values.values())).astype(np.float64)
    together = together[np.isfinite(together)]
    if shown.log:
        together = together[together > 0]
    limits = shown.limits
    if limits is None and len(together):
        limits = tuple(np.percentile(together, (0.05, 99.95)))
    result = {}
    for run_id, of_run in values.items():
        found = quantities.histogram(of_run, n_bins, limits, shown.log)
        total = float(found.counts.sum())
        scale = {"rate": spans[run_id], "counts": 1.0, "shape": total}[normalize]
        result[run_id] = found.over(scale or 1.0)
    return result


# Waveforms


@on_context("records", warn_beyond_sec=1)
def plot_records(
    part: Part, channels: Sequence[int] | None = None, show_most: int = 200, ax: Axes | None = None
) -> Figure:
    """Draw records against time, a colour a channel.

    Parameters
    ----------
    channels
        Draw only these; None: all.
    show_most
        Draw at most so many, the first ones; the title says of how many.
    """
    ax = style.new_axes((9, 4)) if ax is None else ax
    records = part.load("records")
    if channels is not None:
        records = records[np.isin(records["channel"], list(channels))]
    shown = records[:show_most]
    start = _start(part, shown)
    figure = waveform_plots.plot_records(shown, ax, start, part.nothing("records"))
    _label(ax, part, start, len(shown), len(records), "records, the first")
    if part.has_data_type and "raw" in part.names("records")[0]:
        ax.set_ylabel("ADC counts")
    return figure


@on_context("peaks", "peak_basics", warn_beyond_sec=10)
def plot_peaks(part: Part, show_most: int = 200, ax: Axes | None = None) -> Figure:
    """Draw sum waveforms of peaks against time, coloured by their type.

    Parameters
    ----------
    show_most
        Draw at most so many, the largest ones; the title says of how many.
    """
    ax = style.new_axes((9, 4)) if ax is None else ax
    peaks = part.load("peaks", "peak_basics")
    shown = peaks
    if len(peaks) > show_most:
        shown = peaks[np.sort(np.argsort(peaks["area"])[len(peaks) - show_most :])]
    start = _start(part, shown)
    empty, unit = part.nothing("peaks"), part.area_unit("peaks")
    figure = waveform_plots.plot_peaks(shown, None, ax, start, empty, unit)
    _label(ax, part, start, len(shown), len(peaks), "peaks, the largest")
    return figure


@on_context("peaks", "peak_basics", "records", warn_beyond_sec=1)
def plot_peak_records(
    part: Part, peak: np.void | None = None, figure: Figure | None = None
) -> Figure:
    """Draw a peak: its sum waveform, and the records of each channel that it is made from.

    Raises InvalidOption (a ValueError) when `peak` has no waveform.

    Parameters
    ----------
    peak
        A row of peaks; None: the largest one in the part of the run.
    """
    if peak is None:
        peaks = part.load("peaks", "peak_basics")
        peak = peaks[np.argmax(peaks["area"])] if len(peaks) else None
    elif "data" not in (peak.dtype.names or ()):
        raise InvalidOption(
            "peak has no waveform: give a row of the data type peaks, or of peaks and "
            "peak_basics together"
        )
    numbers = part.channels(part.names("records")[0])
    area = part.area_unit("peaks")
    if peak is None:
        figure = style.new_figure((9, 3)) if figure is None else figure
        axes = figure.subplots()
        axes.set(xlabel="Time [ns]", ylabel=f"Light [{quantities.light_unit(area)}]")
        style.note(axes, part.nothing("peaks"))
        return figure
    start, end = part.time_range = int(peak["time"]), int(strax.endtime(peak))
    records = part.load("records")
    # Other sensors, and channels that are not read out, have no panel
    numbers = [channel for channel in numbers if (records["channel"] == channel).any()]
    n_rows = 1 + max(len(numbers), 1)
    if figure is None:
        figure = style.new_figure((9, 2.6 + 1.3 * (n_rows - 1)))
    above, *below = figure.subplots(
        n_rows, 1, sharex=True, gridspec_kw={"height_ratios": [2, *[1] * (n_rows - 1)]}
    )
    waveform_plots.plot_peaks(np.array([peak]), axes=above, start=start, unit=area)
    above.legend_.remove()
    above.set_xlabel("")
    unit, name = quantities.time_unit(end - start)
    for channel, axes in zip(numbers, below, strict=False):
        for record in records[records["channel"] == channel]:
            times, heights = quantities.record_waveform(record, start)
            axes.plot(times / unit, heights, color=style.channel_color(channel), lw=0.9)
        axes.set_ylabel(f"ch {channel}")
        axes.margins(y=0.1)
    if not numbers:
        style.note(below[0], "no records")
    figure.supylabel("ADC counts", fontsize="medium", y=0.3)
    below[-1].set_xlabel(f"Time [{name}]")
    width = (end - start) / unit
    above.set_xlim(-0.1 * width, 1.1 * width)
    kind = f"{style.TYPE_NAMES[peak['type']]} of " if peak["type"] in (1, 2) else "Peak of "
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
        Most rows; more samples are added up in groups, which keeps areas.
    channels
        Channels of the columns; None: those of the TPC in this context.

    Returns
    -------
    matrix
        Shape (n_samples, n_channels), float32 [PE/ns]; without gains [ADC counts/ns].
    times
        Edges of the samples, shape (n_samples + 1,) [s since the start of the run].
    channels
        Channels of the columns, shape (n_channels,).
    """
    return _as_matrix(part, part.load("records"), max_samples, channels)


@on_context("raw_records", "records", "peaks", draws=records_matrix, warn_beyond_sec=10)
def raw_records_matrix(
    part: Part, max_samples: int = quantities.MAX_SAMPLES, channels: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the waveforms of raw records as a matrix, with a row a sample and a column a channel.

    The baseline of each pulse is subtracted.

    Returns
    -------
    matrix, times, channels
        As of ``records_matrix``.
    """
    return _as_matrix(part, _baselined(part), max_samples, channels)


@on_context("records", "raw_records", "peaks", draws=records_matrix, warn_beyond_sec=10)
def plot_records_matrix(
    part: Part,
    raw: bool = False,
    max_samples: int = 600,
    channels: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the matrix of waveforms: time to the right, channels upward, light as colour.

    Parameters
    ----------
    raw
        Draw ``raw_records_matrix`` instead of ``records_matrix``.
    """
    ax = style.new_axes((9, 3.5)) if ax is None else ax
    records = _baselined(part) if raw else part.load("records")
    matrix, times, numbers = _as_matrix(part, records, max_samples, channels)
    unit, empty = quantities.light_unit(part.area_unit("peaks")), part.nothing("records")
    figure = waveform_plots.plot_matrix(matrix, times, numbers.tolist(), ax, unit, empty)
    ax.set_title(f"Run {part.run_id}", loc="left")
    return figure


@on_context("records", "raw_records", "peaks", "peak_basics", warn_beyond_sec=10)
def waveform_display(part: Part, raw: bool = False, show_most: int = 500, width: int = 900) -> Any:
    """Return an interactive display of waveforms: peaks above, records of each channel below.

    Both move together in time; a click in the legend hides a type or a channel. It works without
    a network: ``bokeh.plotting.output_notebook()`` and ``show(layout)``, or ``save(layout, file)``.

    Raises NotAvailable when Bokeh is not installed.

    Parameters
    ----------
    raw
        Show raw records, with the baseline subtracted, instead of records.
    show_most
        Show at most so many peaks (the largest) and records (the first); the titles say of how
        many.
    width
        Width of the display [pixels].

    Returns
    -------
    A Bokeh layout.
    """
    records = _baselined(part) if raw else part.load("records")
    peaks = part.load("peaks", "peak_basics") if part.has("peaks") else None
    start = part.time_range[0] if part.time_range else part.start
    unit = part.area_unit("peaks")
    return interactive.waveform_display(records, peaks, start, part.title, show_most, width, unit)


def _start(part: Part, shown: np.ndarray) -> int:
    """Return the time that counts as 0: the start of the range, or of the shown data."""
    if part.time_range is not None:
        return part.time_range[0]
    return int(shown["time"].min()) if len(shown) else part.start


def _label(ax: Axes, part: Part, start: int, n: int, total: int, which: str) -> None:
    """Name run, start and, unless all rows are drawn, their number."""
    since = (start - part.run_start) / 1e9
    ax.set_xlabel(ax.get_xlabel().replace("Time", f"Time since {since:.9g} s of the run"))
    ax.set_title(part.title, loc="left", fontsize="medium")
    if n < total:
        ax.set_title(f"{n:,} of {total:,} {which}", loc="right", fontsize="small")


def _as_matrix(
    part: Part, records: np.ndarray, max_samples: int, channels: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if channels is None:
        channels = part.channels(part.names("records")[0])
    numbers = np.array(channels, dtype=np.int64)
    if part.time_range is not None:
        start, end = part.time_range
    elif len(records):
        start, end = int(records["time"].min()), int(strax.endtime(records).max())
    else:
        start, end = part.start, max(part.end, part.start + 1)
    matrix, edges = quantities.records_to_matrix(
        records, start, end, numbers, part.gains(numbers), max_samples
    )
    return matrix, (edges - part.run_start) / 1e9, numbers


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
        sort_by_time(raw), n_samples, flip=True, allow_sloppy_chunking=True, floor=floor
    )
    if part.time_range is None:
        return records
    first, last = part.time_range
    return records[(strax.endtime(records) > first) & (records["time"] < last)]
