"""Plots of calibrations: data and fits of `amstrax.calibration`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amstrax.analyses import style
from amstrax.analyses.quantities import PE, random_subset
from amstrax.calibration.alphas import ENERGIES, Alphas
from amstrax.calibration.drift import Diffusion, Edge, edge_density
from amstrax.calibration.energy import EnergyScale, Line, PeakFit
from amstrax.calibration.lifetime import Lifetime
from amstrax.calibration.maps import LightMap
from amstrax.calibration.result import Result
from amstrax.calibration.single_electrons import ElectronFit, bin_shares

#: More points, and events of a lifetime, are drawn as a random subset
_MOST_POINTS, _MOST_EVENTS = 3000, 5000


def plot_lifetime(
    events: np.ndarray, found: Lifetime, axes: Axes | None = None, unit: str = PE
) -> Figure:
    """Draw S2 against drift time of the events of a lifetime, medians in slices, and the fit.

    `events` are those that `amstrax.calibration.lifetime.find_lifetime` got, shape (n,).
    """
    axes = style.new_axes() if axes is None else axes
    line = found.line
    rows = random_subset(len(events), _MOST_EVENTS)
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


def _in_us(result: Result) -> str:
    value, low, high = (x / 1000 for x in (result.value, result.lower, result.upper))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def plot_trend(results: Mapping[str, Result], axes: Axes | None = None) -> Figure:
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
    gate: Edge,
    cathode: Edge,
    diffusion: Diffusion | None = None,
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


def _draw_edge(axes: Axes, drift_time: np.ndarray, edge: Edge, name: str) -> None:
    low, high = edge.window
    edges = np.linspace(low, high, 41)
    axes.hist(drift_time / 1000, (edges / 1000).tolist(), color=style.BLUE, alpha=0.5)
    time = np.linspace(low, high, 1000)
    parameters = (edge.edge, edge.width, edge.slope, edge.background, edge.window, edge.side)
    expected = edge.n_events * (edges[1] - edges[0]) * edge_density(time, *parameters)
    axes.plot(time / 1000, expected, c=style.VERMILLION)
    axes.set(xlabel="Drift time [µs]", ylabel=f"Events per {(edges[1] - edges[0]) / 1000:.2g} µs")
    axes.set_title(f"{name}: {edge.likelihood.value:.0f} ± {edge.likelihood.error:.0f} ns")


def plot_energy(
    cs1: np.ndarray,
    cs2: np.ndarray,
    lines: Sequence[Line],
    scale: EnergyScale | None = None,
    peaks: Mapping[float, PeakFit] | None = None,
    figure: Figure | None = None,
    empty: str = "no events with S1 and S2",
    unit: str = PE,
) -> Figure:
    """Draw cS2 against cS1 with lines, the Doke plot, and the spectrum with fitted peaks.

    Parameters
    ----------
    cs1, cs2
        Corrected areas of all events, in `unit`, shape (n,).
    lines
        Lines that were found: ellipses of one and two standard deviations.
    scale
        g1 and g2, for the straight line of the Doke plot and for energies; None: neither.
    peaks
        Energy of a line [keV] -> fitted peak.
    """
    figure, panels = style.panels_of(figure, 3, (4.8, 3.8))
    plane, doke, spectrum = panels
    good = np.flatnonzero(np.isfinite(cs1) & np.isfinite(cs2))
    plane.set(xlabel=f"cS1 [{unit}]", ylabel=f"cS2 [{unit}]")
    doke.set(xlabel=f"cS1 / E [{unit}/keV]", ylabel=f"cS2 / E [{unit}/keV]")
    spectrum.set(xlabel="Energy [keV]", ylabel="Events per bin")
    if not len(good):
        for axes in panels:
            style.note(axes, empty)
        return figure
    shown = good[random_subset(len(good), _MOST_POINTS)]
    plane.scatter(cs1[shown], cs2[shown], s=2, color=style.GREY, rasterized=True)
    for line, color in zip(lines, style.CHANNEL_COLORS[1:] * len(lines), strict=False):
        _ellipse(plane, line, color)
        error = np.sqrt(np.diag(line.covariance) / line.n_events)
        point, bar = line.mean / line.energy, error / line.energy
        label = f"{line.energy:g} keV"
        x, y = point
        doke.errorbar(x, y, bar[1], bar[0], fmt="o", ms=4, color=color, label=label)
    if scale is not None:
        _draw_scale(doke, lines, scale, unit)
        _draw_spectrum(spectrum, scale.energy(cs1[good], cs2[good]), lines, peaks or {})
    else:
        style.note(spectrum, "no g1 and g2")
    if lines:
        plane.set_xlim(0, 1.3 * max(line.mean[0] for line in lines))
        plane.set_ylim(0, 1.3 * max(line.mean[1] for line in lines))
        doke.legend(fontsize="x-small")
    return figure


def _ellipse(axes: Axes, line: Line, color: str) -> None:
    angle = np.linspace(0, 2 * np.pi, 100)
    values, vectors = np.linalg.eigh(line.covariance)
    circle = vectors @ (np.sqrt(values)[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)]))
    for sigma in (1, 2):
        axes.plot(*(line.mean[:, np.newaxis] + sigma * circle), color=color, lw=1)
    axes.annotate(
        f"{line.energy:g} keV", (line.mean[0], line.mean[1]), color=color, fontsize="small"
    )


def _draw_scale(axes: Axes, lines: Sequence[Line], scale: EnergyScale, unit: str) -> None:
    g1, g2 = scale.g1, scale.g2
    light = np.array([line.mean[0] / line.energy for line in lines])
    x = np.array([0.9 * light.min(), 1.1 * light.max()]) if len(light) else np.array([0.0, 1.0])
    y = 1e3 * g2.value / scale.w_value - g2.value / g1.value * x
    label = (
        f"g1 = {g1.value:.4f} ± {g1.error:.4f} {unit}/photon\n"
        f"g2 = {g2.value:.3f} ± {g2.error:.3f} {unit}/e"
    )
    axes.plot(x, y, color=style.BLACK, lw=1, label=label)


def _draw_spectrum(
    axes: Axes, energy: np.ndarray, lines: Sequence[Line], peaks: Mapping[float, PeakFit]
) -> None:
    highest = 1.3 * max((line.energy for line in lines), default=float(np.quantile(energy, 0.99)))
    edges = np.linspace(0, highest, 131)
    axes.stairs(np.histogram(energy, edges)[0], edges, color=style.BLACK)
    for number, (name, peak) in enumerate(peaks.items()):
        middle = (peak.edges[1:] + peak.edges[:-1]) / 2
        per_bin = (edges[1] - edges[0]) / (peak.edges[1] - peak.edges[0])
        label = f"{name:g} keV: {peak.resolution.value:.1%}"
        axes.plot(
            middle, peak.expected * per_bin, color=style.CHANNEL_COLORS[1 + number % 7], label=label
        )
    if peaks:
        axes.legend(fontsize="x-small", title="σ/E", title_fontsize="x-small")


def plot_light_map(
    maps: Mapping[str, LightMap], figure: Figure | None = None, empty: str = "no maps"
) -> Figure:
    """Draw maps of light, and the relative statistical error of each bin; a row a map.

    Parameters
    ----------
    maps
        Name -> map, as of `amstrax.calibration.maps`.
    """
    if figure is None:
        figure = style.new_figure((9, 3.8 * max(len(maps), 1)))
    rows = figure.subplots(max(len(maps), 1), 2, squeeze=False)
    if not maps:
        for axes in rows[0]:
            axes.set(xlabel="r [mm]", ylabel="z [mm]")
            style.note(axes, empty)
    for panels, (name, found) in zip(rows, maps.items(), strict=False):
        filled = found.ratio > 0
        ratio = np.where(filled, found.ratio, np.nan)
        error = np.where(filled, found.error / np.where(filled, found.ratio, 1), np.nan)
        for axes, values, label in zip(
            panels, (ratio, 100 * error), ("light / mean", "statistical error [%]"), strict=True
        ):
            mesh = axes.pcolormesh(*found.edges, values.T, cmap=style.COLOR_MAP, rasterized=True)
            axes.set(xlabel=f"{found.axes[0]} [mm]", ylabel=f"{found.axes[1]} [mm]")
            axes.set_title(f"{name}: {label}", fontsize=9)
            figure.colorbar(mesh, ax=axes)
    return figure


def plot_single_electrons(
    area: np.ndarray,
    fit: ElectronFit | None = None,
    axes: Axes | None = None,
    empty: str = "no small peaks",
    unit: str = PE,
) -> Figure:
    """Draw the spectrum of small peaks, the fit, and its parts of 1, 2, ... electrons.

    Parameters
    ----------
    area
        Areas of single_electrons, in `unit`, shape (n,).
    fit
        Fit to them; None: draw areas only.
    """
    axes = style.new_axes() if axes is None else axes
    axes.set(xlabel=f"Area [{unit}]", ylabel="Peaks per bin")
    if not len(area):
        return style.note(axes, empty)
    if fit is None:
        edges = np.linspace(0, np.quantile(area, 0.95) + 1, 80)
        axes.stairs(np.histogram(area, edges)[0], edges, color=style.BLACK)
        return style.figure_of(axes)
    width = fit.edges[1] - fit.edges[0]
    edges = np.concatenate([np.arange(fit.edges[0], 0, -width)[:0:-1], fit.edges])
    axes.stairs(np.histogram(area, edges)[0], edges, color=style.BLACK, label="peaks")
    middle = (fit.edges[1:] + fit.edges[:-1]) / 2
    label = f"fit: {fit.gain.value:.2f} ± {fit.gain.error:.2f} {unit}/e, p = {fit.p_value:.2g}"
    axes.plot(middle, fit.expected, color=style.BLUE, label=label)
    names = ("others", "1 electron", "2 electrons", "3 electrons")
    for k, (name, color) in enumerate(zip(names, style.CHANNEL_COLORS[2:6], strict=True)):
        part = bin_shares(fit.edges, fit.spectrum, k) * fit.counts.sum()
        axes.plot(middle, part, color=color, lw=1, ls="--", label=name)
    axes.legend(fontsize="small")
    return style.figure_of(axes)


def plot_alphas(
    found: Alphas | None, unit: str, figure: Figure | None = None, empty: str = "no alphas"
) -> Figure:
    """Draw the spectrum of alphas with fitted lines, and the light by which it is corrected.

    `unit` is that of areas. Without `found`, `empty` is written.
    """
    figure, (spectrum, light) = style.panels_of(figure, 2)
    spectrum.set(xlabel=f"Corrected S1 area [{unit}]", ylabel="S1s per bin")
    light.set(xlabel="Light / mean [1]", ylabel=f"Corrected S1 area [{unit}]")
    if found is None:
        for axes in (spectrum, light):
            style.note(axes, empty)
        return figure
    edges = found.edges
    spectrum.stairs(found.counts, edges, color=style.BLACK)
    label = f"{1e3 * found.scale.value:.4g} ± {1e3 * found.scale.error:.2g} eV/({unit})"
    spectrum.plot((edges[1:] + edges[:-1]) / 2, found.expected, color=style.BLUE, label=label)
    good = np.flatnonzero(np.isfinite(found.corrected) & (found.corrected < 1.2 * edges[-1]))
    shown = good[random_subset(len(good), _MOST_POINTS)]
    light.scatter(
        found.light[shown], found.corrected[shown], s=2, color=style.GREY, rasterized=True
    )
    for (name, line), color in zip(found.lines.items(), style.CHANNEL_COLORS[2:], strict=False):
        spectrum.axvline(line.value, color=color, ls="--", label=f"{name}, {ENERGIES[name]} keV")
        light.axhline(line.value, color=color, ls="--")
    spectrum.legend(fontsize="small")
    return figure
