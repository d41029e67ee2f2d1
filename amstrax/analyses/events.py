"""Plots of many events: S1 against S2, drift times, positions."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from amstrax.analyses.quantities import PE, bin_edges, thin
from amstrax.analyses.style import (
    BLACK,
    BLUE,
    COLOR_MAP,
    figure_of,
    new_axes,
    new_figure,
    note,
    tidy_log_axes,
)
from amstrax.exceptions import InvalidOption, did_you_mean

#: More points than these are drawn as a histogram
_MOST_POINTS = 3000
#: Of fields by which events are coloured, and factors to these units
_COLOR_LABELS = {
    "drift_time": ("Drift time [µs]", 1e-3),
    "x": ("x [mm]", 1.0),
    "y": ("y [mm]", 1.0),
    "z": ("z [mm]", 1.0),
    "r": ("r [mm]", 1.0),
    "n_peaks": ("Number of peaks", 1.0),
    "s2_range_50p_area": ("Width of the S2, central 50 % [ns]", 1.0),
    "s2_area_fraction_top": ("Area fraction top of the S2", 1.0),
}


def event_scatter(
    events: np.ndarray,
    axes: Axes | None = None,
    s1: str = "s1_area",
    s2: str = "s2_area",
    color: str | None = None,
    empty: str = "no events with S1 and S2",
    unit: str = PE,
) -> Figure:
    """Draw S2 against S1 of events, on logarithmic scales.

    Parameters
    ----------
    events
        As of event_info, shape (n,). Those without S1 or S2 are counted, not drawn.
    axes
        Draw into these; None: into those of a new figure.
    s1, s2
        Fields to draw, as ``cs1`` and ``cs2``.
    color
        Field by which points are coloured, of at most 3,000 events, at random; None for one colour,
        and a histogram of more events.
    empty
        What to write where there are none.
    unit
        Of areas, as of `amstrax.analyses.loading.area_unit`.

    Returns
    -------
    The figure.

    Raises
    ------
    InvalidOption
        (a ValueError) when events have no such field.
    """
    axes = new_axes() if axes is None else axes
    for field in (s1, s2, color):
        if field is not None and field not in (events.dtype.names or ()):
            raise InvalidOption(
                f"events have no column {field!r}" + did_you_mean(field, events.dtype.names or ())
            )
    x, y = events[s1], events[s2]
    shown = (x > 0) & (y > 0)
    xlabel, ylabel = (f"{_label(field)} [{unit}]" for field in (s1, s2))
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log")
    axes.set_title(f"{shown.sum()} of {len(events)} events have S1 and S2")
    if not shown.any():
        note(axes, empty)
        return figure_of(axes)
    if color is not None:
        rows = np.flatnonzero(shown)
        rows = rows[thin(len(rows), _MOST_POINTS)]
        label, factor = _COLOR_LABELS.get(color, (color, 1.0))
        values = events[color][rows] * factor
        points = axes.scatter(x[rows], y[rows], 6, c=values, cmap=COLOR_MAP, rasterized=True)
        tidy_log_axes(axes)
        figure_of(axes).colorbar(points, ax=axes, label=label)
        if len(rows) < shown.sum():
            axes.set_title(f"{axes.get_title()}, {len(rows)} of them are drawn")
        return figure_of(axes)
    edges = [bin_edges(values, 100, log=True) for values in (x[shown], y[shown])]
    _points(axes, x[shown], y[shown], edges)
    tidy_log_axes(axes)
    return figure_of(axes)


def plot_drift_time(
    events: np.ndarray,
    axes: Axes | None = None,
    gate: float | None = None,
    cathode: float | None = None,
    n_bins: int = 60,
    empty: str = "no drift times",
) -> Figure:
    """Draw a histogram of drift times.

    Parameters
    ----------
    events
        As of event_info, shape (n,). Those without drift time are left out.
    axes
        Draw into these; None: into those of a new figure.
    gate, cathode
        Drift times from there [ns], drawn as lines unless None.
    n_bins
        Number of bins from 0 on.
    empty
        What to write where there are none.

    Returns
    -------
    The figure.
    """
    axes = new_axes() if axes is None else axes
    drift_time = events["drift_time"][np.isfinite(events["drift_time"])] / 1000
    axes.set(xlabel="Drift time [µs]")
    lines = [
        (name, time / 1000)
        for name, time in (("gate", gate), ("cathode", cathode))
        if time is not None
    ]
    if len(drift_time):
        low = min(0.0, float(drift_time.min()))
        high = max(float(drift_time.max()), *(1.05 * time for _, time in lines), low + 1e-3)
        edges = np.linspace(low, high, n_bins + 1).tolist()
        axes.hist(drift_time, edges, histtype="stepfilled", color=BLUE, alpha=0.5)
        axes.hist(drift_time, edges, histtype="step", color=BLUE)
        axes.set_ylabel(f"Events per {edges[1] - edges[0]:.2g} µs")
    else:
        axes.set_ylabel("Events")
        note(axes, empty)
    for name, time in lines:
        axes.axvline(time, color=BLACK, ls="--", lw=1)
        axes.text(
            time,
            1.01,
            name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
        )
    return figure_of(axes)


def plot_positions(
    events: np.ndarray,
    figure: Figure | None = None,
    radius: float | None = None,
    depth: float | None = None,
    empty: str = "no positions",
) -> Figure:
    """Draw positions of events: x and y, and z against the distance from the axis.

    Parameters
    ----------
    events
        As of event_info, shape (n,). Those without position are left out.
    figure
        Draw into this; None: into a new one.
    radius, depth
        Size of the drift volume [mm], drawn as lines unless None.
    empty
        What to write where there are none.

    Returns
    -------
    The figure.
    """
    figure = new_figure((11, 5)) if figure is None else figure
    from_above, from_side = figure.subplots(1, 2)
    x, y, z = (events[field] for field in ("x", "y", "z"))
    r = np.sqrt(x.astype(np.float64) ** 2 + y.astype(np.float64) ** 2)
    has_xy = np.isfinite(r)
    from_above.set(xlabel="x [mm]", ylabel="y [mm]", aspect="equal")
    reach = 1.1 * (radius or _largest(r[has_xy], 1.0))
    if has_xy.any():
        across = np.linspace(-reach, reach, 81)
        _points(from_above, x[has_xy], y[has_xy], [across, across])
    else:
        note(from_above, empty)
    from_above.set(xlim=(-reach, reach), ylim=(-reach, reach))
    has_all = has_xy & np.isfinite(z)
    from_side.set(xlabel="r [mm]", ylabel="z [mm]")
    bottom = -1.1 * (depth or _largest(-z[has_all], 1.0))
    if has_all.any():
        edges = [np.linspace(0, reach, 81), np.linspace(bottom, -0.1 * bottom, 81)]
        _points(from_side, r[has_all], z[has_all], edges)
    else:
        note(from_side, empty)
    from_side.set(xlim=(0, reach), ylim=(bottom, -0.1 * bottom))
    outside = int((has_all & ((r > reach) | (z < bottom) | (z > -0.1 * bottom))).sum())
    if outside:
        from_side.set_title(f"{outside} of {has_all.sum()} events are out of range")
    if radius is not None:
        from_above.add_patch(Circle((0, 0), radius, fill=False, ls="--"))
        from_side.axvline(radius, color=BLACK, ls="--", lw=1)
    if depth is not None:
        for position, name in ((0.0, "gate"), (-depth, "cathode")):
            from_side.axhline(position, color=BLACK, ls="--", lw=1)
            from_side.text(0.02 * reach, position, name, va="bottom")
    return figure


def _largest(values: np.ndarray, default: float) -> float:
    largest = float(values.max(initial=0))
    return largest if largest > 0 else default


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, edges: list[np.ndarray]) -> None:
    """Draw points; many of them as a histogram."""
    if len(x) <= _MOST_POINTS:
        axes.plot(x, y, ".", ms=3, alpha=0.5, color=BLUE, rasterized=True)
        return
    *_, image = axes.hist2d(x, y, bins=edges, norm=LogNorm(), cmap=COLOR_MAP)
    figure_of(axes).colorbar(image, ax=axes, label="Events")


def _label(field: str) -> str:
    """Return how a field is called in plots: s1_area S1, cs1 cS1, alt_s1_area alternative S1."""
    name = field.removesuffix("_area")
    prefix = "alternative " if name.startswith("alt_") else ""
    return prefix + name.removeprefix("alt_").replace("s1", "S1").replace("s2", "S2")
