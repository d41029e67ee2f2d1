"""Analyses on a context of events."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from amstrax.analyses import event_displays, events
from amstrax.analyses.loading import Part
from amstrax.analyses.mini_analysis import on_context
from amstrax.analyses.on_context.channels import top_channels
from amstrax.analyses.style import new_axes, new_figure, note
from amstrax.common import XAMS_VOLUME
from amstrax.exceptions import InvalidOption

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@on_context("event_info")
def event_scatter(
    part: Part,
    s1: str = "cs1",
    s2: str = "cs2",
    color: str | None = None,
    ax: "Axes | None" = None,
) -> Figure:
    """Draw S2 against S1 of events, on logarithmic scales.

    More than 3,000 events are drawn as a histogram.

    Parameters
    ----------
    s1, s2
        Columns to draw, as ``s1_area`` and ``s2_area``.
    color
        Column by which points are coloured, as ``drift_time``: of at most 3,000 events, at
        random.
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.

    Raises
    ------
    InvalidOption
        (a ValueError) when events have no such column.
    """
    ax = new_axes() if ax is None else ax
    data = part.load("event_info")
    figure = events.event_scatter(
        data, ax, s1, s2, color, part.nothing("events with S1 and S2"), part.area_unit("event_info")
    )
    ax.set_title(f"Run {part.run_id}: {ax.get_title()}")
    return figure


@on_context("event_info")
def plot_drift_time(
    part: Part,
    gate: float | None = None,
    cathode: float | None = None,
    n_bins: int = 60,
    ax: "Axes | None" = None,
) -> Figure:
    """Draw a histogram of drift times.

    Parameters
    ----------
    gate, cathode
        Drift times from there [ns], drawn as lines unless None.
    n_bins
        Number of bins.
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    ax = new_axes() if ax is None else ax
    data = part.load("event_info", columns=("time", "drift_time"))
    figure = events.plot_drift_time(data, ax, gate, cathode, n_bins, part.nothing("drift times"))
    ax.set_title(f"Run {part.run_id}", loc="left", pad=16)
    return figure


@on_context("event_info")
def plot_positions(
    part: Part,
    radius: float | None = None,
    depth: float | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw positions of events: x and y, and z against the distance from the axis.

    More than 3,000 events are drawn as a histogram.

    Parameters
    ----------
    radius, depth
        Size of the drift volume [mm], drawn as lines unless None.
    figure
        Draw into this; None: into a new one.

    Returns
    -------
    The figure.
    """
    data = part.load("event_info", columns=("time", "x", "y", "z"))
    figure = events.plot_positions(data, figure, radius, depth, part.nothing("positions"))
    figure.suptitle(f"Run {part.run_id}", x=0.01, ha="left", fontsize="large")
    return figure


@on_context("event_info")
def event_display(
    part: Part,
    event_number: int | None = None,
    radius: float = XAMS_VOLUME.radius,
    figure: Figure | None = None,
) -> Figure:
    """Draw one event: main and alternative S1 and S2, channels, hit pattern, time and position.

    Parameters
    ----------
    event_number
        Column ``event_number`` of the event; None: of those with S1 and S2 the one in the middle
        by area of the S2, or the first where there is none.
    radius
        Of the hit pattern [mm].
    figure
        Draw into this; None: into a new one.

    Returns
    -------
    The figure.

    Raises
    ------
    InvalidOption
        (a ValueError) when there is no event of that number.
    """
    columns = ("time", "endtime", "event_number", "s1_area", "s2_area", "drift_time")
    data = part.load("event_info", columns=columns)
    if event_number is not None:
        chosen = data[data["event_number"] == event_number]
        if not len(chosen):
            there = "there are none"
            if len(data):
                numbers = data["event_number"]
                there = f"numbers go from {numbers.min()} to {numbers.max()}"
            raise InvalidOption(
                f"run {part.run_id} has no event {event_number} in the part that is asked for: "
                f"{there}"
            )
        event = chosen[0]
    elif not len(data):
        figure = new_figure((13, 10)) if figure is None else figure
        axes = figure.subplots()
        axes.set_axis_off()
        note(axes, part.nothing("events"))
        return figure
    else:
        good = np.flatnonzero(np.isfinite(data["drift_time"]))
        if len(good):
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
    figure = event_displays.event_display(
        wide[0],
        peaks,
        peaks["type"],
        tuple(top_channels(part)),
        radius,
        figure,
        part.area_unit("event_info"),
    )
    figure.suptitle(f"Run {part.run_id}", x=0.01, ha="left", fontsize="large")
    return figure
