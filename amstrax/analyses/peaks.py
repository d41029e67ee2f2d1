"""Plots of waveforms: of peaks, and of the records that they are made from."""

import numpy as np
import strax
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from amstrax.analyses.quantities import PE, light_unit, outline, record_waveform, time_unit
from amstrax.analyses.style import (
    TYPE_COLORS,
    TYPE_NAMES,
    channel_color,
    figure_of,
    new_axes,
    note,
)


def plot_peaks(
    peaks: np.ndarray,
    types: np.ndarray | None = None,
    axes: Axes | None = None,
    start: int | None = None,
    empty: str = "no peaks",
    unit: str = PE,
) -> Figure:
    """Draw sum waveforms of peaks against time, coloured by their type.

    Parameters
    ----------
    peaks
        As of the data type peaks, shape (n,): a few hundred at most can be told apart.
    types
        Types of the peaks, the column ``type`` of peak_basics; None: that of `peaks`.
    axes
        Draw into these; None: into those of a new figure.
    start
        Time that counts as 0 [ns since unix epoch]; None: that of the first peak.
    empty
        What to write where there are none.
    unit
        Of areas, as of `amstrax.analyses.loading.area_unit`.

    Returns
    -------
    The figure.

    Raises
    ------
    ValueError
        When `types` has another length than `peaks`.
    """
    axes = new_axes((9, 4)) if axes is None else axes
    types = peaks["type"] if types is None else np.asarray(types)
    if len(types) != len(peaks):
        raise ValueError(f"{len(types)} types for {len(peaks)} peaks: give one each")
    axes.set_ylabel(f"Light [{light_unit(unit)}]")
    if not len(peaks):
        axes.set_xlabel("Time [µs]")
        note(axes, empty)
        return figure_of(axes)
    start = int(peaks["time"].min()) if start is None else start
    time, name = time_unit(int(strax.endtime(peaks).max()) - start)
    for kind in np.unique(types):
        polygons = [_corners(peak, start, time) for peak in peaks[types == kind]]
        color = TYPE_COLORS[kind]
        axes.add_collection(PolyCollection(polygons, facecolors=color, alpha=0.4, lw=0))
        axes.add_collection(LineCollection(polygons, colors=color, lw=1))
    axes.autoscale_view()
    axes.set_ylim(bottom=min(axes.get_ylim()[0], 0))
    axes.set_xlabel(f"Time [{name}]")
    handles = [Patch(color=TYPE_COLORS[kind], label=TYPE_NAMES[kind]) for kind in np.unique(types)]
    axes.legend(handles=handles)
    return figure_of(axes)


def plot_waveform(
    data: np.ndarray,
    length: int,
    dt: int,
    axes: Axes,
    color: str = TYPE_COLORS[0],
    unit: str = PE,
) -> None:
    """Draw one sum waveform against the time since its start.

    Parameters
    ----------
    data
        Samples, those behind `length` are not used.
    length, dt
        Number of samples, and width of one [ns].
    axes
        Draw into these.
    color
        Of the line.
    unit
        Of areas, as of `amstrax.analyses.loading.area_unit`.
    """
    time, name = time_unit(length * dt)
    edges = np.arange(length + 1) * dt / time
    axes.stairs(data[:length] / dt, edges, fill=True, color=color, alpha=0.4)
    axes.stairs(data[:length] / dt, edges, color=color)
    ylabel = f"Light [{light_unit(unit)}]"
    axes.set(xlabel=f"Time [{name}]", ylabel=ylabel, xlim=(0, max(edges[-1], dt / time)))


def plot_records(
    records: np.ndarray,
    axes: Axes | None = None,
    start: int | None = None,
    empty: str = "no records",
) -> Figure:
    """Draw records against time, a colour a channel.

    Parameters
    ----------
    records
        As of the data type records, shape (n,): a few hundred at most can be told apart.
    axes
        Draw into these; None: into those of a new figure.
    start
        Time that counts as 0 [ns since unix epoch]; None: that of the first record.
    empty
        What to write where there are none.

    Returns
    -------
    The figure.
    """
    axes = new_axes((9, 4)) if axes is None else axes
    axes.set_ylabel("Height [ADC counts]")
    if not len(records):
        axes.set_xlabel("Time [µs]")
        note(axes, empty)
        return figure_of(axes)
    start = int(records["time"].min()) if start is None else start
    unit, name = time_unit(int(strax.endtime(records).max()) - start)
    for channel in np.unique(records["channel"]):
        lines = []
        for record in records[records["channel"] == channel]:
            times, heights = record_waveform(record, start)
            lines.append(np.column_stack([times / unit, heights]))
        axes.add_collection(
            LineCollection(lines, colors=channel_color(channel), lw=0.8, label=f"channel {channel}")
        )
    axes.autoscale_view()
    axes.set_xlabel(f"Time [{name}]")
    axes.legend()
    return figure_of(axes)


def _corners(peak: np.void, start: int, unit: int) -> np.ndarray:
    """Return the corners of a peak's waveform in steps, shape (2 length + 2, 2)."""
    length, dt = int(peak["length"]), int(peak["dt"])
    times, heights = outline(peak["data"], length, dt, int(peak["time"]) - start)
    return np.column_stack([times / unit, heights])
