"""Interactive scatter plots, and histograms in two dimensions that stand in for them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from amstrax.analyses.interactive import _bokeh
from amstrax.analyses.interactive.sources import counted_title, label_of
from amstrax.analyses.quantities import histogram_2d
from amstrax.analyses.style import BLACK


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
        Of the figure; where the source is thinned, it says so.
    log
        Logarithmic scales, of x and y. Values that are not above 0 are not shown then.
    hover
        Columns that are shown under the mouse, besides x and y.
    options
        Of `bokeh.plotting.figure`, as width and height.
    """
    figure = _bokeh.new_figure(
        counted_title(title, source), label_of(x, source), label_of(y, source), log, **options
    )
    points = figure.scatter(
        x,
        y,
        source=source,
        size=4,
        color="color",
        alpha=0.6,
        nonselection_alpha=0.08,
        selection_alpha=0.9,
    )
    columns = dict.fromkeys((*hover, x, y))
    figure.add_tools(
        _bokeh.bokeh().models.HoverTool(
            renderers=[points], tooltips=[(name, f"@{{{name}}}") for name in columns]
        )
    )
    if not len(source.data["index"]):
        _bokeh.note(figure, "nothing to show")
    return figure


def s1_s2(source: Any, s1: str = "cs1", s2: str = "cs2", log: bool = True, **options: Any) -> Any:
    """Return S2 against S1 of an event source; parameters are those of `scatter`."""
    return scatter(source, s1, s2, "S1 and S2", (log, log), ("event_number",), **options)


def positions(source: Any, radius: float | None = None, **options: Any) -> Any:
    """Return x and y of an event source, with a circle of `radius` [mm] unless None."""
    figure = scatter(
        source, "x", "y", "Position", (False, False), ("event_number",), match_aspect=True,
        **options,
    )  # fmt: skip
    if radius is not None:
        angle = np.linspace(0, 2 * np.pi, 100)
        figure.line(radius * np.cos(angle), radius * np.sin(angle), color=BLACK, line_dash="dashed")
    return figure


def depth(
    source: Any, radius: float | None = None, depth: float | None = None, **options: Any
) -> Any:
    """Return z against r of an event source, with lines at `radius`, 0 and -`depth` [mm]."""
    figure = scatter(source, "r", "z", "Depth", (False, False), ("event_number",), **options)
    span = _bokeh.bokeh().models.Span
    lines = [(radius, "height")] if radius is not None else []
    lines += [(0.0, "width"), (-depth, "width")] if depth is not None else []
    for location, dimension in lines:
        figure.add_layout(
            span(location=location, dimension=dimension, line_dash="dashed", line_color=BLACK)
        )
    return figure


def area_width(source: Any, log: bool = True, **options: Any) -> Any:
    """Return width against area of a peak source."""
    return scatter(
        source, "area", "width", "Area and width", (log, log), ("type_name", "time_s"), **options
    )


def area_aft(source: Any, log: bool = True, **options: Any) -> Any:
    """Return the area fraction top against area of a peak source; `log` is of the area."""
    return scatter(
        source,
        "area",
        "aft",
        "Area and fraction in the top PMTs",
        (log, False),
        ("type_name", "time_s"),
        **options,
    )


def density(
    x: np.ndarray,
    y: np.ndarray,
    n_bins: int = 150,
    log: tuple[bool, bool] = (True, True),
    labels: tuple[str, str] = ("Area [PE]", "Width of the central 50 % [ns]"),
    title: str = "",
    **options: Any,
) -> Any:
    """Return a histogram in two dimensions as an image: of all rows, however many there are.

    Points of a thinned source can be put above it, as ``figure.scatter(..., source=source)``.

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
    title
        Of the figure.
    options
        Of `bokeh.plotting.figure`.
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
        _bokeh.note(figure, "nothing to show")
        return figure
    mapper = models.LogColorMapper(
        "Viridis256",
        low=1,
        high=max(int(counts.counts.max()), 2),
        low_color="rgba(0, 0, 0, 0)",
    )
    # A picture is stretched between its corners on the screen: bins that are equal on the scale,
    # logarithmic or not, are equal there
    figure.image(
        image=[counts.counts.T.astype(np.int32)],
        x=left,
        y=bottom,
        dw=right - left,
        dh=top - bottom,
        color_mapper=mapper,
    )
    figure.add_layout(models.ColorBar(color_mapper=mapper, width=8, title="n"), "right")
    return figure
