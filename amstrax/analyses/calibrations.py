"""Calibrations as methods of the context, ``st.NAME(run_id, ...)``: they load, fit and draw data.

Fits are those of `amstrax.calibration`. A picture without result says why.
"""

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amstrax.analyses import calibration_plots, style
from amstrax.analyses.loading import Part
from amstrax.analyses.mini_analysis import on_context
from amstrax.calibration import alphas, drift, energy, lifetime, maps, single_electrons
from amstrax.exceptions import NoResult


@on_context("event_info")
def plot_lifetime(
    part: Part,
    s2_range: tuple[float, float] | None = None,
    drift_range: tuple[float, float] | None = None,
    allow_saturated: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Draw S2 against drift time of events of one energy, and fit the electron lifetime.

    Parameters
    ----------
    s2_range
        Lowest and highest S2 area [PE]; None: all, of which the densest line is found.
    drift_range
        First and last drift time [ns]; None: from gate to cathode as found in the events.
    allow_saturated
        Use S2s with saturated channels, as where they have been corrected.
    """
    ax = style.new_axes() if ax is None else ax
    columns = ("time", "s2_area", "drift_time", "r", "s2_n_saturated_channels")
    data = part.load("event_info", columns=columns)
    unit = part.area_unit("event_info")
    try:
        used, found = lifetime.lifetime_of_events(data, s2_range, drift_range, allow_saturated)
    except NoResult as error:
        ax.set(xlabel="Drift time [µs]", ylabel=f"S2 area [{unit}]")
        style.note(ax, textwrap.fill(f"no lifetime: {error}", 50))
    else:
        calibration_plots.plot_lifetime(used, found, ax, unit)
    ax.set_title(f"Run {part.run_id}: {ax.get_title()}")
    return style.figure_of(ax)


@on_context("event_info")
def plot_drift_edges(
    part: Part, guess: tuple[float, float] | None = None, figure: Figure | None = None
) -> Figure:
    """Draw drift times around gate and cathode with fitted edges, and diffusion of S2s.

    Parameters
    ----------
    guess
        Rough drift times from gate and cathode [ns]; None: the ends of the dense part.
    """
    data = part.load("event_info", columns=("time", "drift_time", "s2_area", "s2_range_90p_area"))
    try:
        gate, cathode = drift.find_edges(data["drift_time"], guess)
    except NoResult as error:
        figure, (axes,) = style.panels_of(figure, 1)
        axes.set(xlabel="Drift time [µs]", ylabel="Events")
        style.note(axes, textwrap.fill(f"no edges: {error}", 40))
        return part.with_title(figure)
    inside = data[(data["drift_time"] > gate.edge) & (data["drift_time"] < cathode.edge)]
    positions = part.context.get_single_plugin(part.run_id, "event_positions")
    velocity = positions.gate_cathode_distance / (cathode.edge - gate.edge)
    try:
        widths, times = inside["s2_range_90p_area"], inside["drift_time"]
        diffusion = drift.find_diffusion(widths, times, velocity, inside["s2_area"])
    except NoResult:
        diffusion = None
    return part.with_title(calibration_plots.plot_drift(data, gate, cathode, diffusion, figure))


@on_context("event_info")
def plot_energy(
    part: Part,
    line: float = 41.5,
    w_value: float = 13.7,
    fano: float = 0.03,
    figure: Figure | None = None,
) -> Figure:
    """Draw cS2 against cS1 with a line, g1 and g2 of its ellipse, and the spectrum of energies.

    `amstrax energy` draws several lines.

    Parameters
    ----------
    line
        Energy of the line, which is the densest population [keV]: by default that of Kr-83m.
    w_value
        Mean energy for a photon or an electron [eV].
    fano
        Variance / mean of the number of quanta; see `amstrax.calibration.energy.ellipse_fit`.
    """
    data = part.load("event_info", columns=("time", "cs1", "cs2"))
    cs1, cs2 = data["cs1"], data["cs2"]
    lines, scale, peaks = [], None, {}
    try:
        lines = [energy.find_line(line, cs1, cs2)]
        scale = energy.ellipse_fit(lines[0], cs1, cs2, w_value, fano)
        peaks = {line: energy.fit_peak(scale.energy(cs1, cs2), line)}
    except NoResult as error:
        note = textwrap.fill(str(error), 40)
    unit, empty = part.area_unit("event_info"), part.nothing("events with S1 and S2")
    figure = calibration_plots.plot_energy(cs1, cs2, lines, scale, peaks, figure, empty, unit)
    if not peaks and np.isfinite(cs1 + cs2).any():
        style.note(figure.axes[1], note)
    return part.with_title(figure)


@on_context("single_electrons")
def plot_single_electrons(
    part: Part, delays: tuple[float, float] = (1e4, 2e6), ax: Axes | None = None
) -> Figure:
    """Draw the spectrum of small peaks after large ones, and fit the gain of single electrons.

    Parameters
    ----------
    delays
        Shortest and longest time after the end of a large peak [ns].
    """
    ax = style.new_axes() if ax is None else ax
    data = part.load("single_electrons", columns=("time", "area", "delay", "range_50p_area"))
    area = single_electrons.select(data, *(delay / 1e3 for delay in delays))
    fit = None
    try:
        fit = single_electrons.fit_electrons(area)
    except NoResult as error:
        if len(area):
            style.note(ax, textwrap.fill(f"no gain: {error}", 50))
    empty, unit = part.nothing("small peaks"), part.area_unit("single_electrons")
    figure = calibration_plots.plot_single_electrons(area, fit, ax, empty, unit)
    ax.set_title(f"Run {part.run_id}", loc="left")
    return figure


@on_context("radon_peak_basics")
def plot_alphas(
    part: Part, longest: float = alphas.LONGEST_ALPHA, figure: Figure | None = None
) -> Figure:
    """Draw the alpha lines of radon in S1s of XAMSL with fit, and the light that corrects areas.

    `amstrax alphas` prints the results.

    Parameters
    ----------
    longest
        S1s of alphas have a shorter central half of the area [ns].
    """
    columns = ("time", "center_time", "area", "range_50p_area", "area_fraction_top", "n_channels")
    data = part.load("radon_peak_basics", columns=columns)
    unit, found, note = part.area_unit("radon_peak_basics"), None, ""
    try:
        found = alphas.alphas_of_peaks(data, unit, longest)[0]
    except NoResult as error:
        note = textwrap.fill(f"no lines: {error}", 40)
    return part.with_title(calibration_plots.plot_alphas(found, unit, figure, note))


@on_context("event_info")
def plot_light_map(
    part: Part, r_bins: int = 4, z_bins: int = 8, xy_bins: int = 8, figure: Figure | None = None
) -> Figure:
    """Draw the light of S1s in r and z, and of S2s in x and y, of the densest line.

    `amstrax maps` writes such maps, and explains them.

    Parameters
    ----------
    r_bins, z_bins
        Bins of the map of S1s.
    xy_bins
        Bins of the map of S2s, in each of x and y.
    """
    columns = ("time", "x", "y", "r", "z", "s1_area", "cs1", "cs2")
    data = part.load("event_info", columns=columns)
    found, note = {}, "no maps"
    try:
        found = maps.maps_of_events(data, (r_bins, z_bins, xy_bins))
    except NoResult as error:
        note = textwrap.fill(f"no maps: {error}", 40)
    return part.with_title(calibration_plots.plot_light_map(found, figure, note))
