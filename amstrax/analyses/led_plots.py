"""Plots of LED runs, a panel a channel: pulses over each other, spectra of areas, and gains."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from amstrax.analyses import style
from amstrax.analyses.quantities import bin_edges, histogram, random_subset
from amstrax.calibration.gains import Gain, area_bins
from amstrax.calibration.photoelectron_spectrum import bin_shares
from amstrax.exceptions import NoGain


def plot_led_pulses(
    records: np.ndarray,
    channels: Sequence[int],
    figure: Figure | None = None,
    show_most: int = 100,
    windows: Mapping[str, tuple[int, int]] | None = None,
    empty: str = "no pulses",
) -> Figure:
    """Draw pulses of LED runs over each other, with the mean of all, a panel a channel.

    Parameters
    ----------
    records
        As of records_led, shape (n,).
    channels
        Those that get a panel.
    show_most
        Draw a random subset of so many of a channel; the mean is of all.
    windows
        Names and first and last (excluded) samples of shaded ranges, as of the light.
    """
    figure, panels = style.panels_of(figure, len(channels))
    for axes, channel in zip(panels, channels, strict=False):
        of_channel = records[records["channel"] == channel]
        axes.set_title(f"Channel {channel}", loc="left")
        axes.set(xlabel="Time [ns]", ylabel="Height [ADC counts]")
        if not len(of_channel):
            style.note(axes, empty)
            continue
        dt = int(of_channel["dt"][0])
        length = int(of_channel["length"].max())
        times = np.arange(length) * dt
        shown = of_channel[random_subset(len(of_channel), show_most)]
        lines = [np.column_stack([times, pulse["data"][:length]]) for pulse in shown]
        axes.add_collection(
            LineCollection(lines, colors=style.GREY, lw=0.4, alpha=0.5, rasterized=True)
        )
        mean = of_channel["data"][:, :length].mean(axis=0, dtype=np.float64)
        axes.plot(times, mean, color=style.BLUE, lw=1.5, label="mean")
        for (name, (first, last)), color in zip(
            (windows or {}).items(), (style.VERMILLION, style.BLACK), strict=False
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
    n_bins
        Number of bins over the central 99.8 % of areas; the few beyond are in the outer bins.
    log
        Numbers of pulses on a logarithmic scale.
    """
    figure, panels = style.panels_of(figure, len(channels))
    for axes, channel in zip(panels, channels, strict=False):
        area = pulses["area"][pulses["channel"] == channel]
        axes.set_title(f"Channel {channel}", loc="left")
        axes.set(xlabel="Area [ADC counts x samples]", ylabel="Pulses per bin")
        if not len(area):
            style.note(axes, empty)
            continue
        edges = bin_edges(area, n_bins, tuple(np.percentile(area, (0.1, 99.9))))
        counts = histogram(np.clip(area, edges[0], edges[-1]), n_bins, (edges[0], edges[-1]))
        axes.stairs(counts.counts, edges, color=style.BLUE, fill=True, alpha=0.3)
        axes.stairs(counts.counts, edges, color=style.BLUE)
        axes.axvline(0, color=style.BLACK, lw=0.6)
        if log:
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.6)
        axes.set_title(f"{len(area):,} pulses", loc="right", fontsize=9)
    return figure


def plot_gains(
    pulses: np.ndarray,
    gains: Mapping[int, Mapping[str, Gain | NoGain]],
    figure: Figure | None = None,
) -> Figure:
    """Draw the spectrum of areas of each channel, the fit, and its part of 0 to 3 photoelectrons.

    Parameters
    ----------
    pulses
        As of led_calibration, shape (n,).
    gains
        As of `amstrax.calibration.gains.channel_gains`, of these pulses.
    """
    figure, panels = style.panels_of(figure, len(gains), (5, 3.8))
    if not gains:
        style.note(panels[0], "no channels")
    for axes, (channel, methods) in zip(panels, gains.items(), strict=False):
        _draw_gain(axes, pulses["area"][pulses["channel"] == channel], methods)
        axes.set_title(f"Channel {channel}")
    return figure


def _draw_gain(axes: Axes, area: np.ndarray, methods: Mapping[str, Gain | NoGain]) -> None:
    axes.set(xlabel="Area [ADC counts x samples]", ylabel="Pulses per bin", yscale="log")
    first, fitted = methods["mean"], methods["fit"]
    if isinstance(first, NoGain):
        style.note(axes, "no gain")
        return
    edges = area_bins(area, first)
    counts = np.histogram(area, edges)[0]
    axes.stairs(counts, edges, color=style.BLACK, label="pulses")
    label = f"mean: {first.gain.value:.1f} ± {first.error:.1f}"
    axes.axvline(first.pedestal + first.gain.value, color=style.BLACK, ls=":", label=label)
    if not isinstance(fitted, NoGain) and fitted.shape is not None:
        middles = (edges[1:] + edges[:-1]) / 2
        shares = bin_shares(edges, fitted.shape)
        norm = counts.sum() / shares.sum()
        label = f"fit: {fitted.gain.value:.1f} ± {fitted.error:.1f}, p = {fitted.p_value:.2g}"
        axes.plot(middles, norm * shares, color=style.BLUE, label=label)
        for n, color in enumerate(style.CHANNEL_COLORS[2:6]):
            part = norm * bin_shares(edges, fitted.shape, n)
            axes.plot(middles, part, color=color, lw=1, ls="--", label=f"{n} PE")
    axes.set_ylim(0.5, 2 * counts.max())
    axes.legend(fontsize="x-small")
