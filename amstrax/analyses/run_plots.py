"""Plots of whole runs: rates over time, and comparisons of runs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amstrax.analyses import style
from amstrax.analyses.quantities import Compared, Histogram, Rates
from amstrax.calibration.trends import CHANNEL_QUANTITIES, QUANTITIES, quantity_of, unit_of

if TYPE_CHECKING:
    import pandas as pd

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
        return style.note(axes, empty)
    for i, (name, rates) in enumerate(shown.items()):
        color = (colors or {}).get(name, style.channel_color(i))
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
    panels: Sequence[tuple[str, Mapping[str, Histogram | Compared], bool]],
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
                color=style.channel_color(i),
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


def plot_trends(
    table: "pd.DataFrame",
    quantities: Sequence[str] | None = None,
    limits: Mapping[str, Sequence[float | None]] | None = None,
    figure: Figure | None = None,
    empty: str = "no rows",
) -> Figure:
    """Draw rows of trends against the start of the runs: a panel a quantity.

    The newest row of each run is drawn; flagged ones have a circle.

    Parameters
    ----------
    table
        As of `amstrax.analyses.tables.trends_table`.
    quantities
        Names as ``"s1_rate"``, ``"baseline"`` (all channels) or ``"baseline_0"``; None: all that
        the table has.
    limits
        Lowest and highest value (None: none) of quantities, drawn as dashed lines.
    """
    table = table[table["start"].notna()].sort_values("time")
    table = table.drop_duplicates("run_id", keep="last").sort_values("start")
    known = {*QUANTITIES, *(n for n in table.columns if quantity_of(n)[0] in CHANNEL_QUANTITIES)}
    columns = [n for n in table.columns if n in known and table[n].notna().any()]
    if quantities is None:
        names = (quantity_of(n)[0] for n in columns if not n.endswith("_error"))
        quantities = list(dict.fromkeys(names))
    figure, panels = style.panels_of(figure, len(quantities))
    if not quantities:
        style.note(panels[0], empty)
    for axes, quantity in zip(panels, quantities, strict=False):
        own = [n for n in columns if quantity in (n, quantity_of(n)[0])]
        _draw_trend(axes, table, own)
        axes.set_ylabel(f"{quantity} [{unit_of(quantity)}]")
        if not own:
            style.note(axes, f"no {quantity}")
        for name, pair in (limits or {}).items():
            for end in pair if quantity in (name, quantity_of(name)[0]) else ():
                if end is not None:
                    axes.axhline(end, color=style.GREY, ls="--", lw=1)
    return figure


def _draw_trend(axes: Axes, table: "pd.DataFrame", columns: Sequence[str]) -> None:
    """Draw columns with their errors against the start of the runs."""
    start = table["start"].dt.tz_localize(None).to_numpy()
    flagged = (table["flags"] != "").to_numpy() | (table["error"] != "").to_numpy()
    for column in columns:
        channel = quantity_of(column)[1]
        color = style.BLUE if channel is None else style.channel_color(channel)
        value = table[column].to_numpy()
        value = np.where(np.isfinite(value), value, np.nan)
        error = table.get(f"{column}_error")
        error = None if error is None else np.where(np.isfinite(error), error, 0.0)
        label = None if channel is None else f"ch {channel}"
        axes.errorbar(start, value, error, fmt="o-", ms=3, lw=0.8, color=color, label=label)
        axes.plot(start[flagged], value[flagged], "o", ms=9, mfc="none", color=style.VERMILLION)
    if len(columns) > 1:
        axes.legend(fontsize="small", ncols=4)
    axes.tick_params(axis="x", rotation=30)
    axes.set_xlabel("Start of the run [UTC]")
