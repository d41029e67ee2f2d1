"""Interactive figures of waveforms: peaks, records of channels, and a whole event, with Bokeh."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import strax

from amstrax.analyses.interactive import _bokeh
from amstrax.analyses.quantities import (
    PE,
    light_unit,
    outline,
    peak_waveforms,
    record_waveform,
    short_unit,
    start_and_unit,
    time_unit,
)
from amstrax.analyses.style import QUADRANTS, TYPE_COLORS, TYPE_NAMES, VERMILLION, channel_color
from amstrax.common import XAMS_VOLUME

_TOOLS = "pan,xbox_zoom,box_zoom,xwheel_zoom,reset,save"


def waveforms(
    peaks: np.ndarray,
    types: np.ndarray | None = None,
    start: int | None = None,
    log: bool = False,
    title: str = "Peaks",
    unit: tuple[int, str] | None = None,
    area_unit: str = PE,
    **options: Any,
) -> Any:
    """Return sum waveforms of peaks against time; a click in the legend hides a type.

    Parameters
    ----------
    peaks
        As of the data type peaks, shape (n,): of more than a few hundred, show the largest.
    types
        Types of the peaks, the column ``type`` of peak_basics; None: that of `peaks`.
    start
        Time that counts as 0 [ns since unix epoch]; None: that of the first peak.
    log
        Light on a logarithmic scale.
    unit
        Unit of time [ns] and its name; None: a suitable one.
    """
    types = peaks["type"] if types is None else np.asarray(types)
    start, unit = start_and_unit(peaks, start, unit)
    figure = _bokeh.new_figure(
        title,
        f"Time [{unit[1]}]",
        f"Light [{light_unit(area_unit)}]",
        (False, log),
        tools=_TOOLS,
        **options,
    )
    if not len(peaks):
        return _bokeh.note(figure, "no peaks")
    models = _bokeh.bokeh().models
    for kind in np.unique(types):
        of_kind = peaks[types == kind]
        times, heights = peak_waveforms(of_kind, start)
        if log:
            heights = [np.maximum(height, 1e-4) for height in heights]
        source = models.ColumnDataSource(
            {
                "time": [time / unit[0] for time in times],
                "height": heights,
                "area": of_kind["area"].astype(np.float64),
                "begins": (of_kind["time"] - start) / unit[0],
            }
        )
        glyph = figure.patches(
            "time", "height", source=source, color=TYPE_COLORS[kind], fill_alpha=0.4,
            line_width=1, legend_label=TYPE_NAMES[kind],
        )  # fmt: skip
        _bokeh.add_hover(
            figure, glyph, (TYPE_NAMES[kind], f"@area{{0.0}} {area_unit}"),
            ("begins", f"@begins {unit[1]}"),
        )  # fmt: skip
    _bokeh.set_legend(figure)
    return figure


def channels(
    records: np.ndarray,
    start: int | None = None,
    names: Mapping[int, str] | None = None,
    title: str = "Records",
    unit: tuple[int, str] | None = None,
    **options: Any,
) -> Any:
    """Return records against time, a colour a channel; a click in the legend hides one.

    Parameters
    ----------
    records
        As of the data type records, shape (n,): of more than a few hundred, show the first.
    start, unit
        As of `waveforms`.
    names
        Of channels, in the legend; others have their numbers.
    """
    start, unit = start_and_unit(records, start, unit)
    figure = _bokeh.new_figure(
        title, f"Time [{unit[1]}]", "Height [ADC counts]", tools=_TOOLS, **options
    )
    if not len(records):
        return _bokeh.note(figure, "no records")
    for channel in np.unique(records["channel"]):
        lines_x, lines_y = [], []
        for record in records[records["channel"] == channel]:
            times, heights = record_waveform(record, start)
            lines_x.append(times / unit[0])
            lines_y.append(heights)
        figure.multi_line(
            lines_x,
            lines_y,
            color=channel_color(channel),
            legend_label=(names or {}).get(int(channel), f"channel {channel}"),
        )
    _bokeh.set_legend(figure)
    return figure


def waveform_display(
    records: np.ndarray,
    peaks: np.ndarray | None,
    start: int,
    title: str,
    show_most: int = 500,
    width: int = 900,
    area_unit: str = PE,
) -> Any:
    """Return peaks above the records of the same time, a Bokeh layout; both move together.

    Parameters
    ----------
    records, peaks
        As of these data types; peaks None for a detector without.
    start
        Time that counts as 0 [ns since unix epoch].
    show_most
        Show the largest so many peaks, and the first so many records.
    width
        Width of the layout [pixels].
    """
    both = [rows for rows in (records, peaks) if rows is not None and len(rows)]
    span = max((int(strax.endtime(rows).max()) - start for rows in both), default=0)
    unit = time_unit(span) if both else (1000, "µs")
    shown = records[:show_most]
    below_title = _counted("Records", len(shown), len(records), "the first")
    below = channels(shown, start, title=below_title, unit=unit, width=width, height=330)
    figures = [below]
    if peaks is not None:
        rows = np.sort(np.argsort(peaks["area"])[max(len(peaks) - show_most, 0) :])
        above = waveforms(
            peaks[rows], None, start, unit=unit, area_unit=area_unit, width=width, height=260,
            title=_counted(f"{title}: peaks", len(rows), len(peaks), "the largest"),
        )  # fmt: skip
        below.x_range = above.x_range
        figures.insert(0, above)
    else:
        below.title.text = f"{title}: {below.title.text}"
    return _bokeh.bokeh().layouts.column(*figures)


def event(
    event_row: np.void,
    peaks: np.ndarray | None = None,
    types: np.ndarray | None = None,
    top_channels: Sequence[int] = (1, 2, 3, 4),
    radius: float = XAMS_VOLUME.radius,
    width: int = 900,
    area_unit: str = PE,
) -> Any:
    """Return one event, a Bokeh layout: its peaks, main S1 and S2, channels, and hit pattern.

    `event_row` has the columns of event_info, event_waveform and event_area_per_channel. Of
    `peaks`, as of `waveforms`, those within the event are shown above. `top_channels` are those of
    the top PMTs a, b, c, d, or one; the hit pattern has this `radius` [mm], the layout this `width`
    [pixels].
    """
    layouts = _bokeh.bokeh().layouts
    rows = []
    if peaks is not None:
        types = peaks["type"] if types is None else np.asarray(types)
        start, end = int(event_row["time"]), int(event_row["endtime"])
        inside = (peaks["time"] >= start) & (peaks["time"] < end)
        title = f"Event {event_row['event_number']}"
        rows.append(
            waveforms(
                peaks[inside], types[inside], start, title=title, area_unit=area_unit, width=width,
                height=230,
            )
        )  # fmt: skip
    half = width // 2
    signals = [_signal(event_row, prefix, half, area_unit) for prefix in ("s1", "s2")]
    per_channel = _area_per_channel(event_row, half, area_unit)
    pattern = _hit_pattern(event_row, top_channels, radius, half, area_unit)
    return layouts.column(*rows, layouts.row(*signals), layouts.row(per_channel, pattern))


def _signal(row: np.void, prefix: str, width: int, area_unit: str) -> Any:
    kind = 1 if prefix == "s1" else 2
    area = float(row[f"{prefix}_area"])
    length, dt = int(row[f"{prefix}_length"]), int(row[f"{prefix}_dt"])
    unit = time_unit(length * dt)
    text = f"{area:.4g} {area_unit}" if np.isfinite(area) else "none"
    figure = _bokeh.new_figure(
        f"{prefix.upper()}: {text}",
        f"Time [{unit[1]}]",
        f"Light [{light_unit(area_unit)}]",
        tools=_TOOLS,
        width=width,
        height=230,
    )
    if not np.isfinite(area):
        return _bokeh.note(figure, "none")
    times, heights = outline(row[f"{prefix}_data"], length, dt)
    figure.patch(times / unit[0], heights, color=TYPE_COLORS[kind], fill_alpha=0.4)
    return figure


def _area_per_channel(row: np.void, width: int, area_unit: str) -> Any:
    figure = _bokeh.new_figure(
        "Area per channel", "Channel", f"Area [{area_unit}]", (False, True), tools="pan,reset,save",
        width=width, height=260,
    )  # fmt: skip
    floor = 1.0
    for prefix, shift in (("s1", -0.2), ("s2", 0.2)):
        area = np.asarray(row[f"{prefix}_area_per_channel"], dtype=np.float64)
        if not np.isfinite(row[f"{prefix}_area"]):
            continue
        kind = 1 if prefix == "s1" else 2
        bars = figure.vbar(
            x=np.arange(len(area)) + shift, top=np.maximum(area, floor), bottom=floor, width=0.36,
            color=TYPE_COLORS[kind], legend_label=prefix.upper(),
        )  # fmt: skip
        bars.data_source.data["area"] = area
        _bokeh.add_hover(figure, bars, ("area", f"@area{{0.0}} {area_unit}"))
    figure.xaxis.ticker = list(range(len(row["s1_area_per_channel"])))
    if figure.legend:
        _bokeh.set_legend(figure)
    else:
        _bokeh.note(figure, "none")
    return figure


def _hit_pattern(
    row: np.void, top_channels: Sequence[int], radius: float, width: int, area_unit: str
) -> Any:
    from bokeh.palettes import Viridis256

    reach = 1.1 * radius
    figure = _bokeh.new_figure(
        "S2 in the top PMTs", "x [mm]", "y [mm]", tools="pan,wheel_zoom,reset,save",
        width=width, height=260, match_aspect=True,
    )  # fmt: skip
    # Of all ranges, Bokeh keeps the aspect only of those that follow points
    figure.scatter([-reach, reach], [-reach, reach], alpha=0)
    if not np.isfinite(row["s2_area"]) or not len(top_channels):
        return _bokeh.note(figure, "no S2")
    area = np.array([float(row["s2_area_per_channel"][channel]) for channel in top_channels])
    share = np.clip(area / max(area.max(), 1.0), 0, 1)
    span = 90 if len(top_channels) > 1 else 360
    for channel, value, part, angle in zip(top_channels, area, share, QUADRANTS, strict=False):
        figure.wedge(
            x=0, y=0, radius=radius, start_angle=angle, end_angle=angle + span,
            start_angle_units="deg", end_angle_units="deg",
            fill_color=Viridis256[int(part * 255)], line_color="#999999",
        )  # fmt: skip
        middle = np.deg2rad(angle + span / 2)
        figure.text(
            x=[0.6 * radius * np.cos(middle)], y=[0.6 * radius * np.sin(middle)],
            text=[f"{channel}: {value:.0f}{short_unit(area_unit)}"],
            text_align="center", text_baseline="middle", text_font_size="9pt",
            text_color="black" if part > 0.6 else "white",
        )  # fmt: skip
    if np.isfinite(row["x"]) and np.isfinite(row["y"]):
        figure.scatter(
            [float(row["x"])], [float(row["y"])], marker="x", size=12, line_width=3,
            color=VERMILLION,
        )  # fmt: skip
    return figure


def _counted(title: str, shown: int, total: int, which: str) -> str:
    return title if shown == total else f"{title}: {shown:,} of {total:,}, {which}"
