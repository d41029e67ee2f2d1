"""Interactive scatter plots and histograms of sources, and rates.

Sources hold peaks, events or LED pulses.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amstrax.analyses import style
from amstrax.analyses.interactive import _bokeh
from amstrax.analyses.quantities import (
    ADC_COUNTS,
    PE,
    Compared,
    Rates,
    histogram,
    histogram_2d,
    random_subset,
)
from amstrax.exceptions import InvalidOption, did_you_mean

#: Default number of rows of a source: so many points move smoothly
MOST = 20_000
#: Columns of an event source, and their fields where these have another name
_EVENT_COLUMNS: Mapping[str, str | None] = {
    **dict.fromkeys(("event_number", "s1_area", "s2_area", "cs1", "cs2", "x", "y", "z", "r")),
    "n_peaks": None,
    "drift_us": "drift_time",
    "s1_width": "s1_range_50p_area",
    "s2_width": "s2_range_50p_area",
    "s1_aft": "s1_area_fraction_top",
    "s2_aft": "s2_area_fraction_top",
}
_PEAK_COLUMNS: Mapping[str, str | None] = {
    **dict.fromkeys(("area", "rise_time", "n_channels")),
    "width": "range_50p_area",
    "aft": "area_fraction_top",
}
#: Labels of axes by column; {unit} is that of areas
_LABELS = {
    "s1_area": "S1 [{unit}]",
    "s2_area": "S2 [{unit}]",
    "cs1": "cS1 [{unit}]",
    "cs2": "cS2 [{unit}]",
    "drift_us": "Drift time [µs]",
    "x": "x [mm]",
    "y": "y [mm]",
    "z": "z [mm]",
    "r": "r [mm]",
    "area": "Area [{unit}]",
    "width": "Width of the central 50 % [ns]",
    "aft": "Area fraction top",
    "time_s": "Time since the start of the run [s]",
    "event_number": "Event",
    "type_name": "Type",
    "amplitude_led": "Height of pulses [ADC counts]",
}
#: Counts the selected rows in the bins of a histogram
_COUNT_SELECTED = """
const values = source.data[column], left = bins.data["left"], right = bins.data["right"]
const counts = new Float64Array(left.length)
const last = left.length - 1
for (const row of source.selected.indices) {
    const value = values[row]
    if (!(value >= left[0] && value <= right[last]) || !filter(row)) continue
    let low = 0, high = last
    while (low < high) {
        const middle = (low + high) >> 1
        if (value < right[middle]) high = middle
        else low = middle + 1
    }
    counts[low] += 1
}
bins.data = {...bins.data, selected: counts}
"""
#: Selects the rows in a range of a histogram
_SELECT_RANGE = """
if (!cb_obj.final || cb_obj.geometry.type != "rect") return
const {x0, x1} = cb_obj.geometry, values = source.data[column], rows = []
for (let row = 0; row < values.length; row++)
    if (values[row] >= x0 && values[row] <= x1 && filter(row)) rows.push(row)
source.selected.indices = rows
"""


def peak_source(peaks: np.ndarray, start: int = 0, most: int = MOST, unit: str = PE) -> Any:
    """Return a source of peaks for the figures below, a ColumnDataSource.

    Its columns are ``index`` (the row in `peaks`), ``time_s``, ``area``, ``width`` [ns], ``aft``,
    ``rise_time`` [ns], ``n_channels``, ``type``, ``type_name`` and ``color`` (RGBA, a byte each),
    its ``tags`` ``[{"shown": rows, "of": n, "unit": unit}]``.

    Parameters
    ----------
    peaks
        As of peak_basics, shape (n,).
    start
        Start of the run [ns since unix epoch].
    most
        Most rows; of more peaks a random subset, the same each time.
    """
    rows = random_subset(len(peaks), most)
    peaks_shown = peaks[rows]
    types = np.clip(peaks_shown["type"], 0, len(style.TYPE_NAMES) - 1)
    data = _columns(peaks_shown, _PEAK_COLUMNS, start)
    data["type"] = types.astype(np.int32)
    data["type_name"] = np.array(style.TYPE_NAMES)[types]
    data["color"] = _rgba(style.TYPE_COLORS)[types]
    return _source(data, rows, len(peaks), unit)


def event_source(events: np.ndarray, start: int = 0, most: int = MOST, unit: str = PE) -> Any:
    """Return a source of events as of event_info; see `peak_source`.

    Its columns are ``index``, ``event_number``, ``time_s``, ``s1_area``, ``s2_area``, ``cs1``,
    ``cs2``, ``drift_us`` [µs], ``x``, ``y``, ``z``, ``r`` [mm], ``s1_width``, ``s2_width`` [ns],
    ``s1_aft``, ``s2_aft``, ``n_peaks`` and ``color``.
    """
    rows = random_subset(len(events), most)
    data = _columns(events[rows], _EVENT_COLUMNS, start)
    data["color"] = np.full(len(rows), _rgba((style.BLUE,)))
    return _source(data, rows, len(events), unit)


def led_source(pulses: np.ndarray, most: int = 50_000) -> Any:
    """Return a source of pulses as of led_calibration; see `peak_source`.

    Its columns are ``index``, ``channel``, ``area`` [ADC counts x samples], ``amplitude_led``
    [ADC counts] and ``color``.
    """
    rows = random_subset(len(pulses), most)
    shown = pulses[rows]
    data = {name: np.asarray(shown[name]) for name in ("channel", "area", "amplitude_led")}
    colors = _rgba(style.CHANNEL_COLORS)
    data["color"] = colors[shown["channel"] % len(colors)]
    return _source(data, rows, len(pulses), ADC_COUNTS)


def _columns(
    rows: np.ndarray, columns: Mapping[str, str | None], start: int
) -> dict[str, np.ndarray]:
    data = {"time_s": (rows["time"] - start) / 1e9}
    for name in columns:
        field = columns[name] or name
        if field not in (rows.dtype.names or ()):
            data[name] = np.full(len(rows), np.nan)
        elif name == "drift_us":
            data[name] = rows[field] * 1e-3
        else:
            # JavaScript has no 64-bit integers
            whole = rows.dtype[field].kind in "iub"
            data[name] = rows[field].astype(np.int32 if whole else np.float64)
    return data


def _rgba(colors: Sequence[str]) -> np.ndarray:
    """Return opaque colours as RGBA numbers, which Bokeh sends ten times faster than texts."""
    return np.array([int(f"{color[1:]}ff", 16) for color in colors], dtype=np.uint32)


def _source(data: dict[str, np.ndarray], rows: np.ndarray, of: int, unit: str) -> Any:
    data["index"] = rows.astype(np.int32)
    tags = [{"shown": len(rows), "of": of, "unit": unit}]
    return _bokeh.bokeh().models.ColumnDataSource(data, tags=tags)


def _tags(source: Any) -> dict[str, Any]:
    return next((tag for tag in source.tags if isinstance(tag, dict) and "shown" in tag), {})


def _label(column: str, source: Any) -> str:
    """Return the label of an axis with a column of a source."""
    return _LABELS.get(column, column).replace("{unit}", _tags(source).get("unit", PE))


def _counted_title(title: str, source: Any) -> str:
    """Return a title with the number of shown rows, unless all are."""
    tags = _tags(source)
    if not tags or tags["shown"] == tags["of"]:
        return title
    return f"{title}: {tags['shown']:,} of {tags['of']:,}, at random"


def scatter(
    source: Any,
    x: str,
    y: str,
    title: str,
    log: tuple[bool, bool] = (False, False),
    hover: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Return a scatter plot of two columns of a source.

    Parameters
    ----------
    source
        As of `event_source` or `peak_source`.
    x, y
        Columns.
    title
        The figure adds the number of rows of a random subset.
    log
        Logarithmic scales, of x and y, which show only values above 0.
    hover
        Columns that are shown under the mouse, besides x and y.
    """
    figure = _bokeh.new_figure(
        _counted_title(title, source), _label(x, source), _label(y, source), log, **options
    )
    points = figure.scatter(
        x, y, source=source, size=4, color="color", alpha=0.6, nonselection_alpha=0.08,
        selection_alpha=0.9,
    )  # fmt: skip
    columns = dict.fromkeys((*hover, x, y))
    _bokeh.add_hover(figure, points, *((_label(name, source), f"@{{{name}}}") for name in columns))
    if not len(source.data["index"]):
        _bokeh.note(figure, "nothing to show")
    return figure


def s1_s2(source: Any, s1: str = "cs1", s2: str = "cs2", log: bool = True, **options: Any) -> Any:
    """Return S2 against S1 of an event source."""
    return scatter(source, s1, s2, "S1 and S2", (log, log), ("event_number",), **options)


def positions(source: Any, radius: float | None = None, **options: Any) -> Any:
    """Return x and y of an event source, with a circle of `radius` [mm] unless None."""
    figure = scatter(
        source, "x", "y", "Position", hover=("event_number",), match_aspect=True, **options
    )
    if radius is not None:
        angle = np.linspace(0, 2 * np.pi, 100)
        figure.line(
            radius * np.cos(angle), radius * np.sin(angle), color=style.BLACK, line_dash="dashed"
        )
    return figure


def depth(
    source: Any, radius: float | None = None, depth: float | None = None, **options: Any
) -> Any:
    """Return z against r of an event source, with lines at `radius`, 0 and -`depth` [mm]."""
    figure = scatter(source, "r", "z", "Depth", (False, False), ("event_number",), **options)
    lines = [(radius, "height")] if radius is not None else []
    lines += [(0.0, "width"), (-depth, "width")] if depth is not None else []
    for location, dimension in lines:
        _bokeh.add_line(figure, location, dimension)
    return figure


def area_width(source: Any, log: bool = True, **options: Any) -> Any:
    """Return width against area of a peak source."""
    return scatter(
        source, "area", "width", "Area and width", (log, log), ("type_name", "time_s"), **options
    )


def area_aft(source: Any, log: bool = True, **options: Any) -> Any:
    """Return the area fraction top against area of a peak source; `log` is of the area."""
    return scatter(
        source, "area", "aft", "Area and fraction in the top PMTs", (log, False),
        ("type_name", "time_s"), **options,
    )  # fmt: skip


def density(
    x: np.ndarray,
    y: np.ndarray,
    n_bins: int = 150,
    log: tuple[bool, bool] = (True, True),
    labels: tuple[str, str] = ("Area [PE]", "Width of the central 50 % [ns]"),
    title: str = "",
    **options: Any,
) -> Any:
    """Return a histogram in two dimensions as an image, of any number of rows.

    Points of a random subset can be put above it, as ``figure.scatter(..., source=source)``.

    Parameters
    ----------
    x, y
        Shape (n,). Values that are not finite, or not above 0 on a logarithmic scale, are left out.
    n_bins
        Number of bins in each direction.
    log
        Logarithmic scales, of x and y.
    labels
        Of the axes.
    """
    models = _bokeh.bokeh().models
    counts = histogram_2d(x, y, n_bins, log=log)
    (left, right), (bottom, top) = counts.x_edges[[0, -1]], counts.y_edges[[0, -1]]
    figure = _bokeh.new_figure(
        title or f"{counts.counts.sum():,} in {n_bins} x {n_bins} bins",
        *labels,
        log,
        x_range=_bokeh.range_over(left, right, log[0]),
        y_range=_bokeh.range_over(bottom, top, log[1]),
        **options,
    )
    if not counts.counts.any():
        return _bokeh.note(figure, "nothing to show")
    mapper = models.LogColorMapper(
        "Viridis256", low=1, high=max(int(counts.counts.max()), 2), low_color="rgba(0, 0, 0, 0)"
    )
    # Bokeh stretches an image between its corners on the screen, on logarithmic scales, too
    figure.image(
        image=[counts.counts.T.astype(np.int32)], x=left, y=bottom, dw=right - left,
        dh=top - bottom, color_mapper=mapper,
    )  # fmt: skip
    figure.add_layout(models.ColorBar(color_mapper=mapper, width=8, title="n"), "right")
    return figure


def value_histogram(
    source: Any,
    column: str,
    label: str | None = None,
    n_bins: int = 60,
    log_x: bool = False,
    log_y: bool = False,
    linked: bool = True,
    limits: tuple[float, float] | None = None,
    title: str = "",
    **options: Any,
) -> Any:
    """Return a histogram of a column of a source.

    Raises InvalidOption (a ValueError) when the source has no such column.

    Parameters
    ----------
    source
        As of `event_source`, `peak_source` or `led_source`.
    column
        Column to count.
    label
        Of the axis; None: that of the column.
    n_bins
        Number of bins.
    log_x, log_y
        Logarithmic scales.
    linked
        Show the selected rows as a second histogram, and select a range with the tool x-box
        select. The browser compiles JavaScript for this: its content security policy has to allow
        ``unsafe-eval``.
    limits
        First and last edge; None: all finite values.
    """
    label = _label(column, source) if label is None else label
    if column not in source.data:
        raise InvalidOption(
            f"the source has no column {column!r}" + did_you_mean(column, source.data)
        )
    figure = _histogram_figure(title, label, log_x, log_y, source, options)
    _add_histogram(figure, source, column, n_bins, limits, log_x, log_y, style.BLUE, linked)
    if not np.isfinite(np.asarray(source.data[column], dtype=float)).any():
        _bokeh.note(figure, "nothing to show")
    return figure


def drift_time(
    source: Any,
    gate: float | None = None,
    cathode: float | None = None,
    n_bins: int = 60,
    log: bool = False,
    linked: bool = True,
    **options: Any,
) -> Any:
    """Return a histogram of drift times of an event source; see `value_histogram`.

    Drift times from `gate` and `cathode` [ns] are drawn as lines unless None; `log` is the scale of
    the counts.
    """
    figure = value_histogram(
        source, "drift_us", n_bins=n_bins, log_y=log, linked=linked, title="Drift time", **options
    )
    for name, time in (("gate", gate), ("cathode", cathode)):
        if time is not None:
            _bokeh.add_line(figure, time / 1e3, "height", name)
    return figure


def led_spectrum(
    source: Any,
    channels: Sequence[int] | None = None,
    n_bins: int = 150,
    log: bool = True,
    linked: bool = True,
    column: str = "area",
    **options: Any,
) -> Any:
    """Return the spectrum of an LED source, an outline a channel; see `value_histogram`.

    A click in the legend hides a channel. Bins span the central 99.8 % of values, `channels` None
    are all with pulses, `log` is the scale of the counts, and `column` is ``area`` or
    ``amplitude_led``.
    """
    values, numbers = np.asarray(source.data[column]), np.unique(source.data["channel"]).tolist()
    title = {"area": "LED spectrum"}.get(column, "Heights of pulses")
    figure = _histogram_figure(title, _label(column, source), False, log, source, options)
    if not len(values):
        return _bokeh.note(figure, "nothing to show")
    limits = tuple(np.percentile(values, (0.1, 99.9)))
    for number in numbers if channels is None else channels:
        color, only = style.channel_color(number), ("channel", int(number))
        _add_histogram(figure, source, column, n_bins, limits, False, log, color, linked, only)
    if figure.legend:
        _bokeh.set_legend(figure)
    return figure


def _histogram_figure(
    title: str, label: str, log_x: bool, log_y: bool, source: Any, options: dict[str, Any]
) -> Any:
    return _bokeh.new_figure(
        _counted_title(title or label, source),
        label,
        "Number per bin",
        (log_x, log_y),
        tools="pan,box_zoom,wheel_zoom,xbox_select,reset,save",
        **options,
    )


def _add_histogram(
    figure: Any,
    source: Any,
    column: str,
    n_bins: int,
    limits: tuple[float, float] | None,
    log_x: bool,
    log_y: bool,
    color: str,
    linked: bool,
    only: tuple[str, int] | None = None,
) -> None:
    """Add a histogram, and that of the selected rows, with this value of a column, to a figure."""
    models = _bokeh.bokeh().models
    values = np.asarray(source.data[column])
    label, of_kind = {}, "true"
    if only is not None:
        values = values[np.asarray(source.data[only[0]]) == only[1]]
        label = {"legend_label": f"{only[0]} {only[1]}"}
        of_kind = f"source.data[{only[0]!r}][row] == {only[1]}"
    # Areas of several channels over each other would blend into one shape: outlines alone
    alpha = 0.15 if only is None else 0.0
    counts = histogram(values, n_bins, limits, log_x)
    # A logarithmic scale has no zero
    floor = 0.5 if log_y else 0.0
    bins = models.ColumnDataSource(
        {
            "left": counts.edges[:-1],
            "right": counts.edges[1:],
            "n": counts.counts.astype(np.float64),
            "selected": np.zeros(n_bins),
        }
    )
    edges = np.repeat(counts.edges, 2)
    heights = np.concatenate([[floor], np.repeat(np.maximum(counts.counts, floor), 2), [floor]])
    figure.line(edges, heights, color=color, line_width=1.5, **label)
    all_bins = figure.quad(
        left="left", right="right", bottom=floor, top="n", source=bins, fill_color=color,
        fill_alpha=alpha, line_color=None, nonselection_fill_alpha=alpha, **label,
    )  # fmt: skip
    _bokeh.add_hover(
        figure, all_bins, (_label(column, source), "@left to @right"), ("number", "@n"),
        ("selected", "@selected"), *([] if only is None else [(only[0], str(only[1]))]),
    )  # fmt: skip
    if not linked:
        return
    figure.quad(
        left="left", right="right", bottom=floor, top="selected", source=bins,
        fill_color=style.VERMILLION, fill_alpha=0.6, line_color=None, nonselection_fill_alpha=0.6,
    )  # fmt: skip
    filter_ = f"const filter = (row) => {of_kind}\n"
    arguments = {"source": source, "column": column}
    count = models.CustomJS(args=arguments | {"bins": bins}, code=filter_ + _COUNT_SELECTED)
    source.selected.js_on_change("indices", count)
    if only is None:
        select = models.CustomJS(args=arguments, code=filter_ + _SELECT_RANGE)
        figure.js_on_event("selectiongeometry", select)


def rates(
    series: Mapping[str, Rates],
    log: bool = False,
    colors: Mapping[str, str] | None = None,
    title: str = "Rates",
    **options: Any,
) -> Any:
    """Return rates against time, with standard errors as bands; a click in the legend hides one.

    Parameters
    ----------
    series
        Name -> rates, as of `amstrax.analyses.quantities.rates`.
    log
        Rates on a logarithmic scale, without empty bins.
    colors
        Of lines, by name; others have the color of their type of peak, or one each.
    """
    figure = _bokeh.new_figure(
        title,
        "Time since the start [s]",
        "Rate [Hz]",
        (False, log),
        tools="pan,xbox_zoom,box_zoom,wheel_zoom,reset,save",
        **options,
    )
    shown = {name: rate for name, rate in series.items() if rate.counts.any()}
    if not shown:
        return _bokeh.note(figure, "nothing to show")
    by_type = dict(zip(style.TYPE_NAMES, style.TYPE_COLORS, strict=True))
    spare = itertools.cycle(
        color for color in style.CHANNEL_COLORS if color not in style.TYPE_COLORS
    )
    for name, rate in shown.items():
        color = (colors or {}).get(name) or by_type.get(name) or next(spare)
        middle = (rate.edges[1:] + rate.edges[:-1]) / 2
        height = np.where(rate.counts > 0, rate.rate, np.nan) if log else rate.rate
        low = np.maximum(rate.rate - rate.error, 0)
        if log:
            low = np.where(rate.counts > 1, low, rate.rate / 2)
        band = {
            "left": rate.edges[:-1], "right": rate.edges[1:], "bottom": low,
            "top": rate.rate + rate.error, "rate": rate.rate, "error": rate.error,
        }  # fmt: skip
        if log:
            band = {column: values[rate.counts > 0] for column, values in band.items()}
        bars = figure.quad(
            left="left", right="right", bottom="bottom", top="top", fill_color=color,
            fill_alpha=0.15, line_color=None, legend_label=name,
            source=_bokeh.bokeh().models.ColumnDataSource(band),
        )  # fmt: skip
        figure.step(middle, height, mode="center", color=color, line_width=1.5, legend_label=name)
        _bokeh.add_hover(
            figure, bars, (name, "@rate ± @error Hz"), ("from", "@left s"), ("to", "@right s")
        )
    _bokeh.set_legend(figure)
    if not log:
        figure.y_range.start = 0
    return figure


def comparison(
    panels: Sequence[tuple[str, Mapping[str, Compared], bool]], y_label: str, **options: Any
) -> list[Any]:
    """Return columns of two figures each: histograms of several runs, and ratios to the first run.

    Parameters
    ----------
    panels
        Of each its label, name of the run -> histogram, and whether the scale is logarithmic.
    y_label
        Unit of the histograms.
    """
    layouts, models = _bokeh.bokeh().layouts, _bokeh.bokeh().models
    result = []
    for label, runs, log in panels:
        above = _bokeh.new_figure(
            label, "", y_label, (log, False), "pan,xbox_zoom,box_zoom,wheel_zoom,reset,save",
            **options,
        )  # fmt: skip
        below = _bokeh.new_figure(
            "", label, "Ratio", (log, False), "pan,xbox_zoom,box_zoom,wheel_zoom,reset,save",
            **options | {"x_range": above.x_range, "y_range": (0, 2)},
        )  # fmt: skip
        below.toolbar_location = None
        _bokeh.add_line(below, 1.0, "width")
        first = next(iter(runs.values()))
        for i, (name, of_run) in enumerate(runs.items()):
            color = style.channel_color(i)
            edges = np.repeat(of_run.edges, 2)
            heights = np.concatenate([[0], np.repeat(of_run.counts, 2), [0]])
            above.line(edges, heights, color=color, line_width=1.5, legend_label=name)
            source = models.ColumnDataSource(_ratio(of_run, first))
            bars = above.quad(
                left="left", right="right", bottom=0, top="height", source=source, fill_alpha=0,
                line_color=None,
            )  # fmt: skip
            _bokeh.add_hover(
                above,
                bars,
                ("run", name),
                (label, "@left to @right"),
                (y_label, "@height ± @error"),
            )
            if of_run is first:
                continue
            below.segment(
                "middle", "low", "middle", "high", source=source, color=color, line_width=1
            )
            points = below.scatter("middle", "ratio", source=source, size=4, color=color)
            _bokeh.add_hover(
                below, points, ("run", f"{name} / {next(iter(runs))}"), ("ratio", "@ratio"),
                (label, "@left to @right"),
            )  # fmt: skip
        above.y_range.start = 0
        _bokeh.set_legend(above)
        result.append(layouts.column(above, below))
    return result


def _ratio(of_run: Compared, first: Compared) -> dict[str, np.ndarray]:
    """Return a histogram, and its ratio to that of the first run, with standard errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = of_run.counts / first.counts
        error = ratio * np.hypot(of_run.error / of_run.counts, first.error / first.counts)
    # Where either run is empty, a ratio tells nothing
    ratio[(of_run.counts == 0) | (first.counts == 0)] = np.nan
    left, right = of_run.edges[:-1], of_run.edges[1:]
    return {
        "left": left, "right": right, "middle": (left + right) / 2, "height": of_run.counts,
        "error": of_run.error, "ratio": ratio, "low": ratio - error, "high": ratio + error,
    }  # fmt: skip
