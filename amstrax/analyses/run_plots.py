"""Plots of whole runs: rates over time, and comparisons of runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amstrax.analyses import style
from amstrax.analyses.quantities import Histogram, Rates

#: Styles of lines, for those who do not see colours
_LINE_STYLES = ("-", "--", "-.", ":")


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
    colors, styles
        Of lines, by name; other names get one each.
    """
    axes = style.new_axes((9, 4)) if axes is None else axes
    axes.set(xlabel="Time since the start of the run [s]", ylabel="Rate [Hz]")
    shown = {
        name: rates for name, rates in series.items() if rates.counts.any() and rates.live.any()
    }
    if not shown:
        style.note(axes, empty)
        return style.figure_of(axes)
    for i, (name, rates) in enumerate(shown.items()):
        color = (colors or {}).get(name, style.CHANNEL_COLORS[i % len(style.CHANNEL_COLORS)])
        line = (styles or {}).get(name, _LINE_STYLES[i // len(style.CHANNEL_COLORS) % 4])
        total = rates.counts.sum() / rates.live.sum()
        axes.stairs(
            rates.rate, rates.edges, baseline=None, color=color, ls=line, lw=1.5,
            label=f"{name}: {total:.3g} Hz",
        )  # fmt: skip
        low, high = np.maximum(rates.rate - rates.error, 0), rates.rate + rates.error
        axes.stairs(high, rates.edges, baseline=low, fill=True, color=color, alpha=0.15, lw=0)
    axes.set_xlim(min(r.edges[0] for r in shown.values()), max(r.edges[-1] for r in shown.values()))
    # Room for the legend above the lines
    highest = max(float(np.nanmax(rates.rate + rates.error)) for rates in shown.values())
    axes.set_ylim(0, highest * (1.15 + 0.08 * -(-len(shown) // 4)))
    axes.legend(loc="upper right", ncols=4, frameon=False, fontsize="small")
    return style.figure_of(axes)


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
        Unit of the histograms.
    """
    figure, all_axes = style.panels_of(figure, len(panels))
    handles: list = []
    for axes, (label, runs, log) in zip(all_axes, panels, strict=True):
        axes.set(xlabel=label, ylabel=ylabel)
        if log:
            axes.set_xscale("log")
        if not any(histogram.counts.any() for histogram in runs.values()):
            style.note(axes, "none in any run")
            continue
        for i, (name, counts) in enumerate(runs.items()):
            axes.stairs(
                counts.counts,
                counts.edges,
                color=style.CHANNEL_COLORS[i % len(style.CHANNEL_COLORS)],
                ls=_LINE_STYLES[i % len(_LINE_STYLES)],
                lw=1.5,
                label=name,
            )
        handles, labels = axes.get_legend_handles_labels()
    for axes in all_axes:
        style.tidy_log_axes(axes)
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=6, frameon=False)
    return figure
