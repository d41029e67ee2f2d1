"""Interactive histograms that follow selections, and rates."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amstrax.analyses.interactive import _bokeh
from amstrax.analyses.interactive.sources import counted_title, label_of
from amstrax.analyses.quantities import Rates, histogram
from amstrax.analyses.style import (
    BLACK,
    BLUE,
    CHANNEL_COLORS,
    TYPE_COLORS,
    TYPE_NAMES,
    VERMILLION,
    channel_color,
)
from amstrax.exceptions import InvalidOption, did_you_mean

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

    Parameters
    ----------
    source
        As of `event_source`, `peak_source` or `led_source`.
    column
        Of it.
    label
        Of the axis; None: that of the column.
    n_bins
        Number of bins.
    log_x, log_y
        Logarithmic scales.
    linked
        Show the selected rows as a second histogram, and select a range with the tool x-box
        select. This is JavaScript that the browser compiles, for which a content security policy
        has to allow ``unsafe-eval``.
    limits
        First and last edge; None: all finite values.
    title
        Of the figure.
    options
        Of `bokeh.plotting.figure`.

    Raises
    ------
    InvalidOption
        (a ValueError) when the source has no such column.
    """
    label = label_of(column, source) if label is None else label
    if column not in source.data:
        raise InvalidOption(
            f"the source has no column {column!r}" + did_you_mean(column, source.data)
        )
    figure = _histogram_figure(title, label, log_x, log_y, source, options)
    values = np.asarray(source.data[column])
    _add_histogram(
        figure, source, column, values, n_bins, limits, log_x, log_y, BLUE, linked=linked
    )
    if not np.isfinite(values.astype(float)).any():
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
    """Return a histogram of drift times of an event source.

    Parameters
    ----------
    source
        As of `event_source`.
    gate, cathode
        Drift times from there [ns], drawn as lines unless None.
    n_bins, log, linked, options
        As of `value_histogram`; `log` is of the counts.
    """
    figure = value_histogram(
        source, "drift_us", n_bins=n_bins, log_y=log, linked=linked, title="Drift time", **options
    )
    models = _bokeh.bokeh().models
    for name, time in (("gate", gate), ("cathode", cathode)):
        if time is not None:
            figure.add_layout(
                models.Span(
                    location=time / 1e3, dimension="height", line_dash="dashed", name=name,
                    line_color=BLACK,
                )
            )  # fmt: skip
    return figure


def led_spectrum(
    source: Any,
    channels: Sequence[int] | None = None,
    n_bins: int = 150,
    log: bool = True,
    linked: bool = True,
    **options: Any,
) -> Any:
    """Return the spectrum of areas of an LED source, a line a channel.

    A click in the legend hides a channel. Bins span the central 99.8 % of areas.

    Parameters
    ----------
    source
        As of `led_source`.
    channels
        Show these; None: all that have pulses.
    n_bins, log, linked, options
        As of `value_histogram`; `log` is of the counts.
    """
    area, channel = np.asarray(source.data["area"]), np.asarray(source.data["channel"])
    numbers = np.unique(channel).tolist() if channels is None else list(channels)
    figure = _histogram_figure(
        "LED spectrum", "Area [ADC counts x samples]", False, log, source, options
    )
    if not len(area):
        _bokeh.note(figure, "nothing to show")
        return figure
    low, high = np.percentile(area, (0.1, 99.9))
    for number in numbers:
        _add_histogram(
            figure, source, "area", area[channel == number], n_bins, (low, high), False, log,
            channel_color(number), linked=linked, name=f"channel {number}",
            only=("channel", number),
        )  # fmt: skip
    if figure.legend:
        figure.legend.click_policy = "hide"
        figure.legend.label_text_font_size = "8pt"
    return figure


def _histogram_figure(
    title: str, label: str, log_x: bool, log_y: bool, source: Any, options: dict[str, Any]
) -> Any:
    return _bokeh.new_figure(
        counted_title(title or label, source),
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
    values: np.ndarray,
    n_bins: int,
    limits: tuple[float, float] | None,
    log_x: bool,
    log_y: bool,
    color: str,
    linked: bool,
    name: str | None = None,
    only: tuple[str, int] | None = None,
) -> None:
    """Add a histogram, and that of the selected rows, to a figure."""
    models = _bokeh.bokeh().models
    counts = histogram(values, n_bins, limits, log_x)
    # On a logarithmic scale, what is zero has to begin somewhere
    floor = 0.5 if log_y else 0.0
    bins = models.ColumnDataSource(
        {
            "left": counts.edges[:-1],
            "right": counts.edges[1:],
            "n": counts.counts.astype(np.float64),
            "selected": np.zeros(n_bins),
        }
    )
    label = {"legend_label": name} if name else {}
    edges = np.repeat(counts.edges, 2)
    heights = np.concatenate([[floor], np.repeat(np.maximum(counts.counts, floor), 2), [floor]])
    figure.line(edges, heights, color=color, line_width=1.5, **label)
    all_bins = figure.quad(
        left="left", right="right", bottom=floor, top="n", source=bins, fill_color=color,
        fill_alpha=0.15, line_color=None, nonselection_fill_alpha=0.15, **label,
    )  # fmt: skip
    figure.add_tools(
        models.HoverTool(
            renderers=[all_bins],
            tooltips=[("bin", "@left to @right"), ("number", "@n"), ("selected", "@selected")],
        )
    )
    if not linked:
        return
    figure.quad(
        left="left", right="right", bottom=floor, top="selected", source=bins,
        fill_color=VERMILLION,
        fill_alpha=0.6, line_color=None, nonselection_fill_alpha=0.6,
    )  # fmt: skip
    # Only rows of one kind, as a channel, are in this histogram
    of_kind = f"source.data[{only[0]!r}][row] == {int(only[1])}" if only else "true"
    filter_ = f"const filter = (row) => {of_kind}\n"
    arguments = {"source": source, "bins": bins, "column": column}
    source.selected.js_on_change(
        "indices", models.CustomJS(args=arguments, code=filter_ + _COUNT_SELECTED)
    )
    if only is None:
        figure.js_on_event(
            "selectiongeometry",
            models.CustomJS(
                args={"source": source, "column": column}, code=filter_ + _SELECT_RANGE
            ),
        )


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
        Rates on a logarithmic scale; bins without anything are not shown then.
    colors
        Of lines, by name; None: S1, S2 and unknown as everywhere, others one each.
    title
        Of the figure.
    options
        Of `bokeh.plotting.figure`.
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
        _bokeh.note(figure, "nothing to show")
        return figure
    by_type = dict(zip(TYPE_NAMES, TYPE_COLORS, strict=True))
    spare = itertools.cycle(color for color in CHANNEL_COLORS if color not in TYPE_COLORS)
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
        figure.add_tools(
            _bokeh.bokeh().models.HoverTool(
                renderers=[bars],
                tooltips=[(name, "@rate ± @error Hz"), ("from", "@left s"), ("to", "@right s")],
            )
        )
    figure.legend.click_policy = "hide"
    figure.legend.label_text_font_size = "8pt"
    figure.legend.background_fill_alpha = 0.7
    if not log:
        figure.y_range.start = 0
    return figure
