"""Analyses on a context of many peaks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amstrax.analyses import peak_histograms as plots
from amstrax.analyses.loading import Part
from amstrax.analyses.mini_analysis import on_context
from amstrax.analyses.on_context.channels import channels_of
from amstrax.analyses.style import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@on_context("peaks", "peak_basics")
def plot_area_per_channel(part: Part, ax: "Axes | None" = None) -> "Figure":
    """Draw the mean area in each channel of S1s, S2s and other peaks, with its standard error.

    Parameters
    ----------
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    ax = new_axes() if ax is None else ax
    peaks = part.load("peaks", "peak_basics", columns=("time", "area_per_channel", "type"))
    # Arrays begin with the first channel of their part of the detector
    channels = channels_of(part, part.names("peaks")[0])
    figure = plots.plot_area_per_channel(
        peaks, ax, channels, part.nothing("peaks"), part.area_unit("peaks")
    )
    ax.set_title(f"Run {part.run_id}", loc="left")
    return figure


@on_context("peak_basics")
def plot_peaks_aft_histogram(
    part: Part,
    types: Sequence[int] = (0, 1, 2),
    n_bins: int = 50,
    ax: "Axes | None" = None,
) -> "Figure":
    """Draw how much of the light of peaks is in the top PMTs (AFT), a line a type.

    Parameters
    ----------
    types
        Draw these: 0 unknown, 1 S1, 2 S2.
    n_bins
        Number of bins; shares below -0.05 and above 1.05 are in the outer ones.
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    ax = new_axes() if ax is None else ax
    peaks = part.load("peak_basics", columns=("time", "area_fraction_top", "type"))
    figure = plots.plot_aft_histogram(peaks, ax, types, n_bins, part.nothing("peaks"))
    ax.set_title(f"Run {part.run_id}", loc="left")
    return figure


@on_context("peak_basics")
def plot_peaks_area_aft_histogram(
    part: Part, n_bins: int = 100, ax: "Axes | None" = None
) -> "Figure":
    """Draw the share of light in the top PMTs (AFT) against the area of peaks, as a histogram.

    Parameters
    ----------
    n_bins
        Number of bins in each direction; shares below -0.05 and above 1.05 are in the outer ones.
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    ax = new_axes() if ax is None else ax
    peaks = part.load("peak_basics", columns=("time", "area", "area_fraction_top"))
    figure = plots.plot_area_aft(
        peaks, ax, n_bins, part.nothing("peaks"), part.area_unit("peak_basics")
    )
    ax.set_title(f"Run {part.run_id}", loc="left")
    return figure


@on_context("peak_basics")
def plot_peaks_area_width_histogram(
    part: Part, n_bins: int = 100, ax: "Axes | None" = None
) -> "Figure":
    """Draw the width in which half of the light is against the area of peaks, as a histogram.

    Parameters
    ----------
    n_bins
        Number of bins in each direction.
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    ax = new_axes() if ax is None else ax
    peaks = part.load("peak_basics", columns=("time", "area", "range_50p_area"))
    figure = plots.plot_area_width(
        peaks, ax, n_bins, part.nothing("peaks"), part.area_unit("peak_basics")
    )
    ax.set_title(f"Run {part.run_id}", loc="left")
    return figure
