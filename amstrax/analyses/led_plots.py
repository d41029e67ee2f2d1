"""Plots of LED runs: pulses over each other, and spectra of their areas, a panel a channel."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from amstrax.analyses.quantities import bin_edges, histogram, thin
from amstrax.analyses.style import BLACK, BLUE, GREY, VERMILLION, new_figure, note


def plot_led_pulses(
    records: np.ndarray,
    channels: Sequence[int],
    figure: Figure | None = None,
    show_most: int = 100,
    windows: dict[str, tuple[int, int]] | None = None,
    empty: str = "no pulses",
) -> Figure:
    """Draw pulses of LED runs over each other, with the mean of all, a panel a channel.

    Parameters
    ----------
    records
        As of records_led, shape (n,).
    channels
        Those that get a panel.
    figure
        Draw into this; None: into a new one.
    show_most
        Draw at most so many of a channel, at random; the mean is of all.
    windows
        Names and first and last (excluded) samples of what is shaded, as of the light.
    empty
        What to write where there are none.

    Returns
    -------
    The figure.
    """
    figure, panels = panels_of(figure, len(channels))
    for axes, channel in zip(panels, channels, strict=False):
        of_channel = records[records["channel"] == channel]
        axes.set_title(f"Channel {channel}", loc="left")
        axes.set(xlabel="Time [ns]", ylabel="Height [ADC counts]")
        if not len(of_channel):
            note(axes, empty)
            continue
        dt = int(of_channel["dt"][0])
        length = int(of_channel["length"].max())
        times = np.arange(length) * dt
        shown = of_channel[thin(len(of_channel), show_most)]
        lines = [np.column_stack([times, pulse["data"][:length]]) for pulse in shown]
        axes.add_collection(LineCollection(lines, colors=GREY, lw=0.4, alpha=0.5, rasterized=True))
        mean = of_channel["data"][:, :length].mean(axis=0, dtype=np.float64)
        axes.plot(times, mean, color=BLUE, lw=1.5, label="mean")
        for (name, (first, last)), color in zip(
            (windows or {}).items(), (VERMILLION, BLACK), strict=False
        ):
            axes.axvspan(first * dt, last * dt, color=color, alpha=0.12, lw=0, label=name)
        axes.autoscale_view()
        axes.set_xlim(0, times[-1])
        axes.set_title(f"{len(shown):,} of {len(of_channel):,} pulses", loc="right", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        panels[0].legend(handles, labels, fontsize="small")
    return figure


def plot_led_spectra(
    pulses: np.ndarray,
    channels: Sequence[int],
    figure: Figure | None = None,
    n_bins: int = 150,
    log: bool = True,
    empty: str = "no pulses",
) -> Figure:
    """Draw the spectrum of areas of pulses in LED runs, a panel a channel.

    Parameters
    ----------
    pulses
        As of led_calibration, shape (n,).
    channels
        Those that get a panel.
    figure
        Draw into this; None: into a new one.
    n_bins
        Number of bins over the central 99.8 % of areas; the few beyond are in the outer bins.
    log
        Numbers of pulses on a logarithmic scale.
    empty
        What to write where there are none.

    Returns
    -------
    The figure.
    """
    figure, panels = panels_of(figure, len(channels))
    for axes, channel in zip(panels, channels, strict=False):
        area = pulses["area"][pulses["channel"] == channel]
        axes.set_title(f"Channel {channel}", loc="left")
        axes.set(xlabel="Area [ADC counts x samples]", ylabel="Pulses per bin")
        if not len(area):
            note(axes, empty)
            continue
        edges = bin_edges(area, n_bins, tuple(np.percentile(area, (0.1, 99.9))))
        counts = histogram(np.clip(area, edges[0], edges[-1]), n_bins, (edges[0], edges[-1]))
        axes.stairs(counts.counts, edges, color=BLUE, fill=True, alpha=0.3)
        axes.stairs(counts.counts, edges, color=BLUE)
        axes.axvline(0, color=BLACK, lw=0.6)
        if log:
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.6)
        axes.set_title(f"{len(area):,} pulses", loc="right", fontsize=9)
    return figure


def panels_of(figure: Figure | None, n: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with at least one and `n` panels, at most three in a row, and these."""
    n = max(n, 1)
    n_columns = min(n, 3)
    n_rows = -(-n // n_columns)
    if figure is None:
        figure = new_figure((4.6 * n_columns, 3.4 * n_rows))
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
    for axes in panels[n:]:
        axes.set_axis_off()
    return figure, panels[:n]
