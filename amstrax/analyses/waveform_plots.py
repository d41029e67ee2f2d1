"""Plots of waveforms: of peaks, and of the records that they are made from."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from amstrax.analyses import style
from amstrax.analyses.quantities import (
    PE,
    light_unit,
    peak_waveforms,
    record_waveform,
    start_and_unit,
    time_unit,
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

    Raises ValueError when `types` has another length than `peaks`.

    Parameters
    ----------
    peaks
        As of the data type peaks, shape (n,): a few hundred at most can be told apart.
    types
        Types of the peaks, the column ``type`` of peak_basics; None: that of `peaks`.
    start
        Time that counts as 0 [ns since unix epoch]; None: that of the first peak.
    """
    axes = style.new_axes((9, 4)) if axes is None else axes
    types = peaks["type"] if types is None else np.asarray(types)
    if len(types) != len(peaks):
        raise ValueError(f"{len(types)} types for {len(peaks)} peaks: give one each")
    start, (time, name) = start_and_unit(peaks, start)
    axes.set(xlabel=f"Time [{name}]", ylabel=f"Light [{light_unit(unit)}]")
    if not len(peaks):
        return style.note(axes, empty)
    for kind in np.unique(types):
        waveforms = zip(*peak_waveforms(peaks[types == kind], start), strict=True)
        polygons = [np.column_stack([times / time, heights]) for times, heights in waveforms]
        color = style.TYPE_COLORS[kind]
        axes.add_collection(PolyCollection(polygons, facecolors=color, alpha=0.4, lw=0))
        axes.add_collection(LineCollection(polygons, colors=color, lw=1))
    axes.autoscale_view()
    axes.set_ylim(bottom=min(axes.get_ylim()[0], 0))
    handles = [
        Patch(color=style.TYPE_COLORS[kind], label=style.TYPE_NAMES[kind])
        for kind in np.unique(types)
    ]
    axes.legend(handles=handles)
    return style.figure_of(axes)


def plot_waveform(
    data: np.ndarray,
    length: int,
    dt: int,
    axes: Axes,
    color: str = style.TYPE_COLORS[0],
    unit: str = PE,
) -> None:
    """Draw one sum waveform, `length` samples of `dt` ns, against the time since its start."""
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
    start
        Time that counts as 0 [ns since unix epoch]; None: that of the first record.
    """
    axes = style.new_axes((9, 4)) if axes is None else axes
    start, (unit, name) = start_and_unit(records, start)
    axes.set(xlabel=f"Time [{name}]", ylabel="Height [ADC counts]")
    if not len(records):
        return style.note(axes, empty)
    for channel in np.unique(records["channel"]):
        lines = []
        for record in records[records["channel"] == channel]:
            times, heights = record_waveform(record, start)
            lines.append(np.column_stack([times / unit, heights]))
        axes.add_collection(
            LineCollection(
                lines, colors=style.channel_color(channel), lw=0.8, label=f"channel {channel}"
            )
        )
    axes.autoscale_view()
    axes.legend()
    return style.figure_of(axes)


def plot_matrix(
    matrix: np.ndarray,
    times: np.ndarray,
    channels: Sequence[int],
    axes: Axes | None = None,
    unit: str = "PE/ns",
    empty: str = "no records",
) -> Figure:
    """Draw a matrix of waveforms: time to the right, channels upward, light as colour.

    Parameters
    ----------
    matrix
        Shape (n_samples, n_channels), as of ``st.records_matrix``, in `unit`.
    times
        Edges of the samples [s since the start of the run], shape (n_samples + 1,).
    channels
        Channel of each column.
    """
    axes = style.new_axes((9, 3.5)) if axes is None else axes
    unit_ns, name = time_unit(int((times[-1] - times[0]) * 1e9))
    axes.set(xlabel=f"Time since {times[0]:.9g} s [{name}]", ylabel="Channel")
    axes.set_yticks(np.arange(len(channels)), [str(channel) for channel in channels])
    if not np.any(matrix):
        axes.set_ylim(-0.5, max(len(channels), 1) - 0.5)
        return style.note(axes, empty)
    largest = float(np.abs(matrix).max())
    image = axes.pcolormesh(
        (times - times[0]) * (1e9 / unit_ns),
        np.arange(len(channels) + 1) - 0.5,
        np.ma.masked_equal(matrix.T, 0),  # white where nothing was recorded
        norm=LogNorm(largest / 1000, largest, clip=True),
        cmap=style.COLOR_MAP,
        rasterized=True,
    )
    figure = style.figure_of(axes)
    figure.colorbar(image, ax=axes, label=f"Light [{unit}]")
    return figure
