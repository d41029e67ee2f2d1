"""Plots of events: one on a page, and of many S1 against S2, drift times and positions."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Wedge

from amstrax.analyses import style
from amstrax.analyses.quantities import ADC_COUNTS, PE, bin_edges, random_subset, short_unit
from amstrax.analyses.waveform_plots import plot_peaks, plot_waveform
from amstrax.calibration import kr83m
from amstrax.common import XAMS_VOLUME
from amstrax.exceptions import InvalidOption, NoResult, did_you_mean
from amstrax.plugins.event_processing import Quality

#: More points than these are drawn as a histogram
_MOST_POINTS = 3000
#: Labels of fields by which events are coloured, and factors to their units
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
_SIGNALS = (("s1", "S1"), ("alt_s1", "Alternative S1"), ("s2", "S2"), ("alt_s2", "Alternative S2"))


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

    More than 3,000 events are drawn as a histogram.

    Raises InvalidOption (a ValueError) when events have no such column.

    Parameters
    ----------
    events
        As of event_info, shape (n,). Those without S1 or S2 are counted, not drawn.
    s1, s2
        Columns to draw, as ``s1_area`` and ``s2_area``.
    color
        Column by which points are coloured, as ``drift_time``: a random subset of 3,000 events.
    """
    axes = style.new_axes() if axes is None else axes
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
        return style.note(axes, empty)
    if color is None:
        edges = [bin_edges(values, 100, log=True) for values in (x[shown], y[shown])]
        _draw_points(axes, x[shown], y[shown], edges)
        style.tidy_log_axes(axes)
        return style.figure_of(axes)
    rows = np.flatnonzero(shown)
    rows = rows[random_subset(len(rows), _MOST_POINTS)]
    label, factor = _COLOR_LABELS.get(color, (color, 1.0))
    values = events[color][rows] * factor
    points = axes.scatter(x[rows], y[rows], 6, c=values, cmap=style.COLOR_MAP, rasterized=True)
    style.tidy_log_axes(axes)
    style.figure_of(axes).colorbar(points, ax=axes, label=label)
    if len(rows) < shown.sum():
        axes.set_title(f"{axes.get_title()}, {len(rows)} of them are drawn")
    return style.figure_of(axes)


def plot_bands(
    events: np.ndarray,
    axes: Axes | None = None,
    split: float | None = None,
    n_slices: int = 12,
    empty: str = "no events with S1 and S2",
    unit: str = PE,
) -> Figure:
    """Draw cS2 / cS1 against cS1, with the median and the central 68 % of bands in slices of cS1.

    Parameters
    ----------
    events
        As of event_info, shape (n,).
    split
        cS2 / cS1 between two bands: that of alphas is below that of electrons; None: one band.
    n_slices
        Number of slices, each with as many events of the band.
    """
    axes = style.new_axes() if axes is None else axes
    axes.set(xlabel=f"cS1 [{unit}]", ylabel="cS2 / cS1", xscale="log", yscale="log")
    cs1, cs2 = events["cs1"], events["cs2"]
    good = (cs1 > 0) & (cs2 > 0) & np.isfinite(cs1) & np.isfinite(cs2)
    cs1, ratio = cs1[good], cs2[good] / cs1[good]
    if not len(cs1):
        axes.set(xscale="linear", yscale="linear")
        return style.note(axes, empty)
    shown = random_subset(len(cs1), 3000)
    axes.scatter(cs1[shown], ratio[shown], s=3, color=style.GREY, rasterized=True)
    bands = [("events", style.BLUE, np.ones(len(cs1), dtype=bool))]
    if split is not None:
        axes.axhline(split, color=style.BLACK, ls=":")
        bands = [
            ("electrons", style.BLUE, ratio >= split),
            ("alphas", style.VERMILLION, ratio < split),
        ]
    for name, color, chosen in bands:
        rows = np.flatnonzero(chosen)[np.argsort(cs1[chosen], kind="stable")]
        slices = [row for row in np.array_split(rows, n_slices) if len(row)]
        if not slices:
            continue
        x = [np.median(cs1[row]) for row in slices]
        low, middle, high = np.array(
            [np.quantile(ratio[row], (0.1587, 0.5, 0.8413)) for row in slices]
        ).T
        axes.plot(x, middle, "o-", ms=4, color=color, label=f"{name}: {len(rows)}")
        axes.fill_between(x, low, high, color=color, alpha=0.25, lw=0)
    axes.legend()
    style.tidy_log_axes(axes)
    return style.figure_of(axes)


def plot_drift_time(
    events: np.ndarray,
    axes: Axes | None = None,
    gate: float | None = None,
    cathode: float | None = None,
    n_bins: int = 60,
    empty: str = "no drift times",
) -> Figure:
    """Draw a histogram of drift times, from 0 on.

    Parameters
    ----------
    events
        As of event_info, shape (n,). Those without drift time are left out.
    gate, cathode
        Drift times from there [ns], drawn as lines unless None.
    n_bins
        Number of bins.
    """
    axes = style.new_axes() if axes is None else axes
    drift_time = events["drift_time"][np.isfinite(events["drift_time"])] / 1000
    axes.set(xlabel="Drift time [µs]")
    given = {"gate": gate, "cathode": cathode}
    lines = {name: time / 1000 for name, time in given.items() if time is not None}
    if len(drift_time):
        low = min(0.0, float(drift_time.min()))
        high = max(float(drift_time.max()), *(1.05 * time for time in lines.values()), low + 1e-3)
        edges = np.linspace(low, high, n_bins + 1).tolist()
        _draw_histogram(axes, drift_time, edges)
        axes.set_ylabel(f"Events per {edges[1] - edges[0]:.2g} µs")
    else:
        axes.set_ylabel("Events")
        style.note(axes, empty)
    for name, time in lines.items():
        axes.axvline(time, color=style.BLACK, ls="--", lw=1)
        where = axes.get_xaxis_transform()
        axes.text(time, 1.01, name, transform=where, ha="center", va="bottom")
    return style.figure_of(axes)


def plot_kr83m_delays(
    events: np.ndarray,
    axes: Axes | None = None,
    shortest: float = 100.0,
    longest: float = 750.0,
    n_bins: int = 60,
    empty: str = "no events with two S1s",
) -> Figure:
    """Draw delays between the S1s of Kr-83m, with the fitted half-life of the 9.4-keV state.

    Raises InvalidOption (a ValueError) unless 0 <= `shortest` < `longest`.

    Parameters
    ----------
    events
        As of event_kr83m, shape (n,); those of quality 2 and 3 are drawn.
    shortest, longest
        Limits of the fit [ns]; see `amstrax.calibration.kr83m.half_life`.
    n_bins
        Number of bins.
    """
    axes = style.new_axes() if axes is None else axes
    delays = events["s1_delay"][events["kr_quality"] >= Quality.MERGED]
    axes.set(xlabel="Delay of the second S1 [ns]", ylabel="Events")
    if not len(delays):
        return style.note(axes, empty)
    edges = np.linspace(0, max(float(delays.max()), longest), n_bins + 1)
    width = edges[1] - edges[0]
    _draw_histogram(axes, delays, edges.tolist())
    axes.set_ylabel(f"Events per {width:.3g} ns")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    try:
        found = kr83m.half_life(delays, shortest, longest)
    except NoResult as error:
        axes.set_title(f"no half-life: {str(error).partition(':')[2]}", fontsize="x-small", pad=3)
        return style.figure_of(axes)
    n = np.count_nonzero((delays >= shortest) & (delays < longest))
    times = np.linspace(shortest, longest, 100)
    rate = np.log(2) / found.value
    shape = rate * np.exp(-rate * (times - shortest)) / -np.expm1(-rate * (longest - shortest))
    label = f"half-life {found.value:.1f} ± {found.error:.1f} ns, {n} events"
    axes.plot(times, n * width * shape, color=style.BLACK, lw=1.5, label=label)
    axes.legend(frameon=False)
    return style.figure_of(axes)


def plot_positions(
    events: np.ndarray,
    figure: Figure | None = None,
    radius: float | None = None,
    depth: float | None = None,
    empty: str = "no positions",
) -> Figure:
    """Draw positions of events: x and y, and z against the distance from the axis.

    More than 3,000 events are drawn as a histogram.

    Parameters
    ----------
    events
        As of event_info, shape (n,). Those without position are left out.
    radius, depth
        Size of the drift volume [mm], drawn as lines unless None.
    """
    figure = style.new_figure((11, 5)) if figure is None else figure
    from_above, from_side = figure.subplots(1, 2)
    x, y, z = (events[field] for field in ("x", "y", "z"))
    r = np.sqrt(x.astype(np.float64) ** 2 + y.astype(np.float64) ** 2)
    has_xy = np.isfinite(r)
    has_all = has_xy & np.isfinite(z)
    reach = 1.1 * (radius or float(r[has_xy].max(initial=0)) or 1.0)
    bottom = -1.1 * (depth or float(-z[has_all].min(initial=0)) or 1.0)
    top = -0.1 * bottom
    from_above.set(xlabel="x [mm]", ylabel="y [mm]", aspect="equal")
    from_side.set(xlabel="r [mm]", ylabel="z [mm]")
    across = np.linspace(-reach, reach, 81)
    from_axis, along = np.linspace(0, reach, 81), np.linspace(bottom, top, 81)
    for axes, horizontal, vertical, shown, edges in (
        (from_above, x, y, has_xy, [across, across]),
        (from_side, r, z, has_all, [from_axis, along]),
    ):
        if shown.any():
            _draw_points(axes, horizontal[shown], vertical[shown], edges)
        else:
            style.note(axes, empty)
    from_above.set(xlim=(-reach, reach), ylim=(-reach, reach))
    from_side.set(xlim=(0, reach), ylim=(bottom, top))
    outside = int((has_all & ((r > reach) | (z < bottom) | (z > top))).sum())
    if outside:
        from_side.set_title(f"{outside} of {has_all.sum()} events are out of range")
    if radius is not None:
        from_above.add_patch(Circle((0, 0), radius, fill=False, ls="--"))
        from_side.axvline(radius, color=style.BLACK, ls="--", lw=1)
    if depth is not None:
        for position, name in ((0.0, "gate"), (-depth, "cathode")):
            from_side.axhline(position, color=style.BLACK, ls="--", lw=1)
            from_side.text(0.02 * reach, position, name, va="bottom")
    return figure


def _draw_histogram(axes: Axes, values: np.ndarray, edges: list[float]) -> None:
    axes.hist(values, edges, histtype="stepfilled", color=style.BLUE, alpha=0.5)
    axes.hist(values, edges, histtype="step", color=style.BLUE)


def _draw_points(axes: Axes, x: np.ndarray, y: np.ndarray, edges: list[np.ndarray]) -> None:
    """Draw points; many of them as a histogram."""
    if len(x) <= _MOST_POINTS:
        axes.plot(x, y, ".", ms=3, alpha=0.5, color=style.BLUE, rasterized=True)
        return
    *_, image = axes.hist2d(x, y, bins=edges, norm=LogNorm(), cmap=style.COLOR_MAP)
    style.figure_of(axes).colorbar(image, ax=axes, label="Events")


def _label(field: str) -> str:
    """Return the label of a field: S1 for s1_area, cS1 for cs1, alternative S1 for alt_s1_area."""
    name = field.removesuffix("_area")
    prefix = "alternative " if name.startswith("alt_") else ""
    return prefix + name.removeprefix("alt_").replace("s1", "S1").replace("s2", "S2")


def event_display(
    event: np.void,
    peaks: np.ndarray | None = None,
    types: np.ndarray | None = None,
    top_channels: tuple[int, ...] = (1, 2, 3, 4),
    radius: float = XAMS_VOLUME.radius,
    figure: Figure | None = None,
    unit: str = PE,
) -> Figure:
    """Draw one event: waveforms of its main and alternative S1 and S2, channels, hit pattern.

    Parameters
    ----------
    event
        A row with the columns of event_info, event_waveform and event_area_per_channel, as
        ``st.get_array(run_id, ("event_info", "event_waveform", "event_area_per_channel"))[0]``.
    peaks
        As of the data type peaks: those within the event are drawn in an overview. None: without.
    types
        Their types, the column ``type`` of peak_basics; None: those in `peaks`.
    top_channels
        Channels of the top PMTs a, b, c, d, or one.
    radius
        Of the hit pattern [mm].
    """
    figure = style.new_figure((13, 10)) if figure is None else figure
    rows: list[Any] = [["overview"] * 12] if peaks is not None else []
    rows.append([prefix for prefix, _ in _SIGNALS for _ in range(3)])
    rows.append(["channels"] * 5 + ["pattern"] * 4 + ["text"] * 3)
    axes = figure.subplot_mosaic(rows)
    if peaks is not None:
        types = peaks["type"] if types is None else np.asarray(types)
        inside = (peaks["time"] >= event["time"]) & (peaks["time"] < event["endtime"])
        plot_peaks(
            peaks[inside], types[inside], axes["overview"], start=int(event["time"]), unit=unit
        )
        axes["overview"].set_title(f"Event {event['event_number']}, whole", loc="left")
    for prefix, name in _SIGNALS:
        axes[prefix].set_title(name, loc="left")
        if not _has(event, prefix):
            axes[prefix].set(xticks=[], yticks=[])
            style.note(axes[prefix], "none")
            continue
        data, length, dt = (event[f"{prefix}_{field}"] for field in ("data", "length", "dt"))
        plot_waveform(data, int(length), int(dt), axes[prefix], _color(prefix), unit)
        area = f"{event[f'{prefix}_area']:.4g}{short_unit(unit)}"
        axes[prefix].set_title(area, loc="right")
    _draw_channels(event, axes["channels"], unit)
    draw_hit_pattern(event, top_channels, radius, axes["pattern"], unit)
    axes["text"].axis("off")
    axes["text"].text(
        0, 1, summary(event, unit), transform=axes["text"].transAxes, va="top", family="monospace"
    )
    return figure


def _has(event: np.void, prefix: str) -> bool:
    return not np.isnan(event[f"{prefix}_area"])


def _color(prefix: str) -> str:
    return style.TYPE_COLORS[1 if prefix.endswith("s1") else 2]


def _draw_channels(event: np.void, axes: Axes, unit: str) -> None:
    """Draw the area in each channel, of the main and alternative S1 and S2."""
    n = len(event["s1_area_per_channel"])
    shown = [(prefix, name) for prefix, name in _SIGNALS if _has(event, prefix)]
    axes.set(xlabel="Channel", ylabel=f"Area [{unit}]", xticks=range(n))
    axes.set_title("Area per channel", loc="left")
    if not shown:
        style.note(axes, "none")
        return
    width = 0.8 / len(shown)
    for i, (prefix, name) in enumerate(shown):
        is_alternative = prefix.startswith("alt_")
        axes.bar(
            np.arange(n) + (i - (len(shown) - 1) / 2) * width,
            np.maximum(event[f"{prefix}_area_per_channel"], 0),
            width,
            label=name,
            color="white" if is_alternative else _color(prefix),
            edgecolor=_color(prefix),
            hatch="///" if is_alternative else None,
        )
    axes.set_yscale("log")
    # Areas below one photoelectron are noise
    axes.set_ylim(bottom=min(1.0, axes.get_ylim()[1] / 10))
    axes.legend(loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=4, frameon=False, fontsize=8)


def draw_hit_pattern(
    event: np.void, top_channels: tuple[int, ...], radius: float, axes: Axes, unit: str = PE
) -> None:
    """Draw the area of the main S2 in each top PMT, and its reconstructed position.

    Parameters are those of `event_display`.
    """
    axes.set(xlabel="x [mm]", ylabel="y [mm]", aspect="equal")
    axes.set_title("S2 in the top PMTs", loc="left")
    reach = 1.15 * radius
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    if not _has(event, "s2"):
        style.note(axes, "no S2")
        return
    area = np.array([event["s2_area_per_channel"][channel] for channel in top_channels])
    norm = Normalize(0, max(float(area.max()), 1.0))
    span = 90 if len(top_channels) > 1 else 360
    distance = 0.62 * radius if len(top_channels) > 1 else 0
    for channel, value, angle in zip(top_channels, area, style.QUADRANTS, strict=False):
        color = colormaps[style.COLOR_MAP](norm(value))
        axes.add_patch(Wedge((0, 0), radius, angle, angle + span, fc=color, ec=style.GREY))
        middle = np.deg2rad(angle + span / 2)
        axes.text(
            distance * np.cos(middle),
            distance * np.sin(middle),
            f"{channel}\n{value:.0f}{short_unit(unit)}",
            ha="center",
            va="center",
            fontsize="small",
            color="black" if norm(value) > 0.6 else "white",
        )
    x, y = float(event["x"]), float(event["y"])
    if np.isfinite(x) and np.isfinite(y):
        axes.plot(x, y, "X", color=style.VERMILLION, mec="white", ms=11, clip_on=False)


def summary(event: np.void, unit: str = PE) -> str:
    """Return time, areas, drift time and position of an event as lines of text."""
    time = np.datetime64(int(event["time"]), "ns")
    lines = [
        f"{np.datetime_as_string(time, 'D')}",
        f"{np.datetime_as_string(time, 'us')[11:]} UTC",
        "",
        f"peaks       {event['n_peaks']:>9d}",
    ]
    area = "ADC x samples" if unit == ADC_COUNTS else unit
    for label, value, unit in (
        ("S1", event["s1_area"], area),
        ("cS1", event["cs1"], area),
        ("S2", event["s2_area"], area),
        ("cS2", event["cs2"], area),
        ("S1 top", 100 * event["s1_area_fraction_top"], "%"),
        ("S2 top", 100 * event["s2_area_fraction_top"], "%"),
        ("S2 width", event["s2_range_50p_area"], "ns"),
        ("drift time", event["drift_time"] / 1000, "µs"),
        ("x", event["x"], "mm"),
        ("y", event["y"], "mm"),
        ("z", event["z"], "mm"),
    ):
        text = f"{value:9.1f}" if np.isfinite(value) else f"{'-':>9s}"
        lines.append(f"{label:12s}{text} {unit}")
    return "\n".join(lines)
