"""Plots of calibrations: data and fits of `amstrax.calibration`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amstrax.analyses import style
from amstrax.analyses.quantities import PE, random_subset

if TYPE_CHECKING:
    from amstrax.calibration.drift import Diffusion, Edge
    from amstrax.calibration.lifetime import Lifetime
    from amstrax.calibration.result import Result

_MOST_POINTS = 5000


def plot_lifetime(
    events: np.ndarray, found: "Lifetime", axes: Axes | None = None, unit: str = PE
) -> Figure:
    """Draw S2 against drift time of the events of a lifetime, medians in slices, and the fit.

    `events` are those that `amstrax.calibration.lifetime.find_lifetime` got, shape (n,).
    """
    axes = style.new_axes() if axes is None else axes
    line = found.line
    rows = random_subset(len(events), _MOST_POINTS)
    in_band = line.in_band[rows]
    for chosen, color, label in (
        (rows[~in_band], style.GREY, "not in the band"),
        (rows[in_band], style.SKY, "events"),
    ):
        x, y = events["drift_time"][chosen] / 1000, events["s2_area"][chosen]
        axes.scatter(x, y, 4, c=color, alpha=0.5, label=label, rasterized=True, linewidths=0)
    area = np.exp(line.median)
    axes.errorbar(
        line.time / 1000, area, area * line.median_error, fmt="o", c=style.BLACK, label="medians"
    )
    time = np.linspace(line.time.min(), line.time.max(), 100)
    axes.plot(time / 1000, line.area(time), c=style.VERMILLION, label="exponential")
    axes.set(xlabel="Drift time [µs]", ylabel=f"S2 area [{unit}]", yscale="log")
    axes.set_title(f"Lifetime {_in_us(found.likelihood)} µs, bootstrap {_in_us(found.bootstrap)}")
    axes.legend()
    style.tidy_log_axes(axes)
    return style.figure_of(axes)


def _in_us(result: "Result") -> str:
    value, low, high = (x / 1000 for x in (result.value, result.lower, result.upper))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def plot_trend(results: "Mapping[str, Result]", axes: Axes | None = None) -> Figure:
    """Draw results of runs, by run id; infinite ends of intervals are arrows."""
    axes = style.new_axes() if axes is None else axes
    for i, result in enumerate(results.values()):
        value = result.value if np.isfinite(result.value) else result.lower
        upper = result.upper - value if np.isfinite(result.upper) else 0.0
        errors = [[value - result.lower], [upper]]
        axes.errorbar(i, value, errors, fmt="o", c=style.BLUE)
        if not np.isfinite(result.upper):
            axes.errorbar(i, value, 0.1 * value, lolims=True, c=style.BLUE)
    axes.set_xticks(range(len(results)), list(results), rotation=90)
    names = {f"{result.name} [{result.unit}]" for result in results.values()}
    axes.set(xlabel="Run", ylabel=", ".join(sorted(names)))
    return style.figure_of(axes)


def plot_drift(
    events: np.ndarray,
    gate: "Edge",
    cathode: "Edge",
    diffusion: "Diffusion | None" = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw the spectrum of drift times with the fitted edges, and widths of S2s with diffusion.

    `events` have ``drift_time`` and ``s2_range_90p_area``, shape (n,).
    """
    figure, panels = style.panels_of(figure, 3)
    drift_time = events["drift_time"][np.isfinite(events["drift_time"])]
    for axes, edge, name in ((panels[0], gate, "Gate"), (panels[1], cathode, "Cathode")):
        _draw_edge(axes, drift_time, edge, name)
    axes = panels[2]
    axes.set(xlabel="Drift time [µs]", ylabel="Central 90 % of the S2 [ns]")
    if diffusion is None:
        style.note(axes, "no diffusion")
        return figure
    time = diffusion.time / 1000
    axes.errorbar(time, diffusion.width, diffusion.width_error, fmt="o", c=style.BLACK)
    axes.plot(time, diffusion.fitted, c=style.VERMILLION)
    result = diffusion.result
    axes.set_title(f"D = {result.value:.1f} ± {result.error:.1f} cm²/s")
    return figure


def _draw_edge(axes: Axes, drift_time: np.ndarray, edge: "Edge", name: str) -> None:
    from amstrax.calibration.drift import edge_density

    low, high = edge.window
    edges = np.linspace(low, high, 41)
    axes.hist(drift_time / 1000, (edges / 1000).tolist(), color=style.BLUE, alpha=0.5)
    time = np.linspace(low, high, 1000)
    parameters = (edge.edge, edge.width, edge.slope, edge.background, edge.window, edge.side)
    expected = edge.n_events * (edges[1] - edges[0]) * edge_density(time, *parameters)
    axes.plot(time / 1000, expected, c=style.VERMILLION)
    axes.set(xlabel="Drift time [µs]", ylabel=f"Events per {(edges[1] - edges[0]) / 1000:.2g} µs")
    axes.set_title(f"{name}: {edge.likelihood.value:.0f} ± {edge.likelihood.error:.0f} ns")
