"""Plots of whole runs: rates over time, matrices of waveforms, and comparisons of runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from amstrax.analyses.led_plots import panels_of
from amstrax.analyses.quantities import Histogram, Rates, time_unit
from amstrax.analyses.style import (
    CHANNEL_COLORS,
    COLOR_MAP,
    figure_of,
    new_axes,
    note,
    tidy_log_axes,
)

#: Lines of what has no style of its own, for those who do not see colours
LINE_STYLES = ("-", "--", "-.", ":")


def plot_rates(
    series: Mapping[str, Rates],
    axes: Axes | None = None,
    colors: Mapping[str, str] | None = None,
    styles: Mapping[str, str] | None = None,
    empty: str = "no data",
) -> Figure:
    """Draw rates against time, with standard errors as bands.

    Parameters
    ----------
    series
        Name -> rates, as of `amstrax.analyses.quantities.rates`.
    axes
        Draw into these; None: into those of a new figure.
    colors, styles
        Of lines, by name; those that are not there get one each.
    empty
        What to write where there is nothing.

    Returns
    -------
    The figure.
    """
    axes = new_axes((9, 4)) if axes is None else axes
    axes.set(xlabel="Time since the start of the run [s]", ylabel="Rate [Hz]")
    shown = {name: rates for name, rates in series.items() if rates.counts.any()}
    if not shown:
        note(axes, empty)
        return figure_of(axes)
    for i, (name, rates) in enumerate(shown.items()):
        color = (colors or {}).get(name, CHANNEL_COLORS[i % len(CHANNEL_COLORS)])
        style = (styles or {}).get(name, LINE_STYLES[i // len(CHANNEL_COLORS) % len(LINE_STYLES)])
        total = rates.counts.sum() / (rates.edges[-1] - rates.edges[0])
        axes.stairs(
            rates.rate, rates.edges, baseline=None, color=color, ls=style, lw=1.5,
            label=f"{name}: {total:.3g} Hz",
        )  # fmt: skip
        low, high = np.maximum(rates.rate - rates.error, 0), rates.rate + rates.error
        axes.stairs(high, rates.edges, baseline=low, fill=True, color=color, alpha=0.15, lw=0)
    axes.set_xlim(min(r.edges[0] for r in shown.values()), max(r.edges[-1] for r in shown.values()))
    # Room for the legend above the lines
    highest = max(float((rates.rate + rates.error).max()) for rates in shown.values())
    axes.set_ylim(0, highest * (1.15 + 0.08 * -(-len(shown) // 4)))
    axes.legend(loc="upper right", ncols=4, frameon=False, fontsize="small")
    return figure_of(axes)


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
        Shape (n_samples, n_channels), as of ``st.records_matrix``.
    times
        Edges of the samples [s since the start of the run], shape (n_samples + 1,).
    channels
        Of the columns.
    axes
        Draw into these; None: into those of a new figure.
    unit
        Of the matrix.
    empty
        What to write where it is all zero.

    Returns
    -------
    The figure.
    """
    axes = new_axes((9, 3.5)) if axes is None else axes
    axes.set(ylabel="Channel")
    unit_ns, name = time_unit(int((times[-1] - times[0]) * 1e9))
    axes.set_xlabel(f"Time since {times[0]:.9g} s [{name}]")
    axes.set_yticks(np.arange(len(channels)), [str(channel) for channel in channels])
    if not np.any(matrix):
        axes.set_ylim(-0.5, max(len(channels), 1) - 0.5)
        note(axes, empty)
        return figure_of(axes)
    largest = float(np.abs(matrix).max())
    # White is where nothing was recorded
    shown = np.ma.masked_equal(matrix.T, 0)
    image = axes.pcolormesh(
        (times - times[0]) * (1e9 / unit_ns),
        np.arange(len(channels) + 1) - 0.5,
        shown,
        norm=LogNorm(largest / 1000, largest, clip=True),
        cmap=COLOR_MAP,
        rasterized=True,
    )
    figure = figure_of(axes)
    figure.colorbar(image, ax=axes, label=f"Light [{unit}]")
    return figure


def plot_comparison(
    panels: Sequence[tuple[str, Mapping[str, Histogram], bool]],
    ylabel: str,
    figure: Figure | None = None,
) -> Figure:
    """Draw histograms of several runs over each other, a panel a quantity.

    Parameters
    ----------
    panels
        Of each panel its label, name of the run -> histogram, and whether the scale is logarithmic.
    ylabel
        What the histograms count.
    figure
        Draw into this; None: into a new one.

    Returns
    -------
    The figure.
    """
    figure, all_axes = panels_of(figure, len(panels))
    for axes, (label, runs, log) in zip(all_axes, panels, strict=True):
        axes.set(xlabel=label, ylabel=ylabel)
        if log:
            axes.set_xscale("log")
        if not any(histogram.counts.any() for histogram in runs.values()):
            note(axes, "none in any run")
            continue
        for i, (name, counts) in enumerate(runs.items()):
            axes.stairs(
                counts.counts,
                counts.edges,
                color=CHANNEL_COLORS[i % len(CHANNEL_COLORS)],
                ls=LINE_STYLES[i % len(LINE_STYLES)],
                lw=1.5,
                label=name,
            )
    for axes in all_axes:
        tidy_log_axes(axes)
    handles, labels = all_axes[0].get_legend_handles_labels()
    for axes in all_axes[1:]:
        if not handles:
            handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=6, frameon=False)
    return figure
