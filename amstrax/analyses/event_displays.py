"""All that is known of one event on a page."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from amstrax.analyses.geometry import QUADRANTS
from amstrax.analyses.peaks import plot_peaks, plot_waveform
from amstrax.analyses.quantities import ADC_COUNTS, PE, short_unit
from amstrax.analyses.style import COLOR_MAP, GREY, TYPE_COLORS, VERMILLION, new_figure, note
from amstrax.common import XAMS_VOLUME

_KINDS = (("s1", "S1"), ("alt_s1", "Alternative S1"), ("s2", "S2"), ("alt_s2", "Alternative S2"))


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
    figure
        Draw into this; None: into a new one.
    unit
        Of areas, as of `amstrax.analyses.loading.area_unit`.

    Returns
    -------
    The figure.
    """
    figure = new_figure((13, 10)) if figure is None else figure
    rows: list[Any] = [["overview"] * 12] if peaks is not None else []
    rows.append([prefix for prefix, _ in _KINDS for _ in range(3)])
    rows.append(["channels"] * 5 + ["pattern"] * 4 + ["text"] * 3)
    axes = figure.subplot_mosaic(rows)
    if peaks is not None:
        types = peaks["type"] if types is None else np.asarray(types)
        inside = (peaks["time"] >= event["time"]) & (peaks["time"] < event["endtime"])
        plot_peaks(
            peaks[inside], types[inside], axes["overview"], start=int(event["time"]), unit=unit
        )
        axes["overview"].set_title(f"Event {event['event_number']}, whole", loc="left")
    for prefix, name in _KINDS:
        _draw_waveform(event, prefix, name, axes[prefix], unit)
    _draw_channels(event, axes["channels"], unit)
    draw_hit_pattern(event, top_channels, radius, axes["pattern"], unit)
    axes["text"].axis("off")
    axes["text"].text(
        0, 1, summary(event, unit), transform=axes["text"].transAxes, va="top", family="monospace"
    )
    return figure


def _has(event: np.void, prefix: str) -> bool:
    return bool(event[f"{prefix}_area"] == event[f"{prefix}_area"])  # NaN where there is none


def _draw_waveform(event: np.void, prefix: str, name: str, axes: Axes, unit: str) -> None:
    axes.set_title(name, loc="left")
    if not _has(event, prefix):
        axes.set(xticks=[], yticks=[])
        note(axes, "none")
        return
    color = TYPE_COLORS[1 if prefix.endswith("s1") else 2]
    length, dt = int(event[f"{prefix}_length"]), int(event[f"{prefix}_dt"])
    plot_waveform(event[f"{prefix}_data"], length, dt, axes, color, unit)
    axes.set_title(f"{event[f'{prefix}_area']:.4g}{short_unit(unit)}", loc="right")


def _draw_channels(event: np.void, axes: Axes, unit: str) -> None:
    """Draw each channel's area, in the main and alternative S1 and S2."""
    n = len(event["s1_area_per_channel"])
    shown = [(prefix, name) for prefix, name in _KINDS if _has(event, prefix)]
    axes.set(xlabel="Channel", ylabel=f"Area [{unit}]", xticks=range(n))
    axes.set_title("Area per channel", loc="left")
    if not shown:
        return note(axes, "none")
    width = 0.8 / len(shown)
    for i, (prefix, name) in enumerate(shown):
        is_alternative = prefix.startswith("alt_")
        color = TYPE_COLORS[1 if prefix.endswith("s1") else 2]
        axes.bar(
            np.arange(n) + (i - (len(shown) - 1) / 2) * width,
            np.maximum(event[f"{prefix}_area_per_channel"], 0),
            width,
            label=name,
            color="white" if is_alternative else color,
            edgecolor=color,
            hatch="///" if is_alternative else None,
        )
    axes.set_yscale("log")
    # Below one photoelectron there is nothing to see
    axes.set_ylim(bottom=min(1.0, axes.get_ylim()[1] / 10))
    axes.legend(loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=4, frameon=False, fontsize=8)
    return None


def draw_hit_pattern(
    event: np.void, top_channels: tuple[int, ...], radius: float, axes: Axes, unit: str = PE
) -> None:
    """Draw the main S2's area in each top PMT, and where it was reconstructed.

    Parameters are those of `event_display`.
    """
    axes.set(xlabel="x [mm]", ylabel="y [mm]", aspect="equal")
    axes.set_title("S2 in the top PMTs", loc="left")
    reach = 1.15 * radius
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    if not _has(event, "s2"):
        return note(axes, "no S2")
    area = np.array([event["s2_area_per_channel"][channel] for channel in top_channels])
    norm = Normalize(0, max(float(area.max()), 1.0))
    colors = _color_map()
    for channel, value, angle in zip(top_channels, area, QUADRANTS, strict=False):
        span = 90 if len(top_channels) > 1 else 360
        axes.add_patch(Wedge((0, 0), radius, angle, angle + span, fc=colors(norm(value)), ec=GREY))
        middle = np.deg2rad(angle + span / 2)
        axes.text(
            0.62 * radius * np.cos(middle) if span < 360 else 0,
            0.62 * radius * np.sin(middle) if span < 360 else 0,
            f"{channel}\n{value:.0f}{short_unit(unit)}",
            ha="center",
            va="center",
            fontsize="small",
            color="black" if norm(value) > 0.6 else "white",
        )
    x, y = float(event["x"]), float(event["y"])
    if np.isfinite(x) and np.isfinite(y):
        axes.plot(x, y, "X", color=VERMILLION, mec="white", ms=11, clip_on=False)
    return None


def _color_map():
    from matplotlib import colormaps

    return colormaps[COLOR_MAP]


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
