"""Plots of LED runs: the spectrum of areas of each channel, and what was found in it."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amstrax.analyses import photoelectron_spectrum as spectrum
from amstrax.analyses.gains import Gain, area_bins
from amstrax.analyses.style import BLACK, BLUE, CHANNEL_COLORS, new_figure, note
from amstrax.exceptions import NoGain

#: Numbers of photoelectrons that get a line of their own
_SHOWN = range(4)


def plot_gains(
    pulses: np.ndarray,
    gains: Mapping[int, Mapping[str, Gain | NoGain]],
    figure: Figure | None = None,
) -> Figure:
    """Draw the spectrum of areas of each channel, the fit, and its part of each photoelectron.

    Parameters
    ----------
    pulses
        As of led_calibration, shape (n,).
    gains
        As from `amstrax.analyses.gains.channel_gains`, of these pulses.
    figure
        Draw into this; None: into a new one.

    Returns
    -------
    The figure.
    """
    n_columns = min(max(len(gains), 1), 3)
    n_rows = -(-max(len(gains), 1) // n_columns)
    if figure is None:
        figure = new_figure((5 * n_columns, 3.8 * n_rows))
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes in panels[len(gains) :]:
        axes.set_axis_off()
    if not gains:
        note(panels[0], "no channels")
    for axes, (channel, methods) in zip(panels, gains.items(), strict=False):
        _spectrum(axes, pulses["area"][pulses["channel"] == channel], methods)
        axes.set_title(f"Channel {channel}")
    return figure


def _spectrum(axes: Axes, area: np.ndarray, methods: Mapping[str, Gain | NoGain]) -> None:
    axes.set(xlabel="Area [ADC counts x samples]", ylabel="Pulses per bin", yscale="log")
    first = methods["mean"]
    if isinstance(first, NoGain):
        note(axes, "no gain")
        return
    edges = area_bins(area, first)
    counts = np.histogram(area, edges)[0]
    axes.stairs(counts, edges, color=BLACK, label="pulses")
    axes.axvline(first.pedestal + first.gain.value, color=BLACK, ls=":", label=_label(first))
    fitted = methods["fit"]
    if not isinstance(fitted, NoGain) and fitted.shape is not None:
        middles = (edges[1:] + edges[:-1]) / 2
        norm = counts.sum() / spectrum.bin_shares(edges, fitted.shape).sum()
        axes.plot(
            middles,
            norm * spectrum.bin_shares(edges, fitted.shape),
            color=BLUE,
            label=f"{_label(fitted)}, p = {fitted.p_value:.2g}",
        )
        for n, color in zip(_SHOWN, CHANNEL_COLORS[2:], strict=False):
            part = norm * spectrum.bin_shares(edges, fitted.shape, n)
            axes.plot(middles, part, color=color, lw=1, ls="--", label=f"{n} PE")
    axes.set_ylim(0.5, 2 * counts.max())
    axes.legend(fontsize="x-small")


def _label(gain: Gain) -> str:
    name = "mean" if gain.shape is None else "fit"
    return f"{name}: {gain.gain.value:.1f} \N{PLUS-MINUS SIGN} {gain.error:.1f}"
