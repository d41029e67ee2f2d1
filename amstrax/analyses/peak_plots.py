"""Plots of many peaks, as histograms: a million peaks take as long as they take to count."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from amstrax.analyses import style
from amstrax.analyses.quantities import PE, Histogram2d, histogram, histogram_2d

#: Area fractions top: noise makes some negative, and some larger than 1
_AFT_LIMITS = (-0.05, 1.05)


def plot_area_per_channel(
    peaks: np.ndarray,
    axes: Axes | None = None,
    channels: Sequence[int] | None = None,
    empty: str = "no peaks",
    unit: str = PE,
) -> Figure:
    """Draw the mean area in each channel of peaks of each type, with its standard error.

    Parameters
    ----------
    peaks
        With the columns ``area_per_channel`` and ``type``, shape (n,).
    channels
        Numbers of the channels; None: from 0 on.
    """
    axes = style.new_axes() if axes is None else axes
    axes.set(xlabel="Channel", ylabel=f"Mean area per peak [{unit}]")
    if not len(peaks):
        return style.note(axes, empty)
    area = peaks["area_per_channel"].astype(np.float64)
    numbers = np.arange(area.shape[1]) if channels is None else np.asarray(channels)
    types = [kind for kind in (1, 2, 0) if (peaks["type"] == kind).any()]
    width = 0.8 / len(types)
    for i, kind in enumerate(types):
        of_type = area[peaks["type"] == kind][:, : len(numbers)]
        axes.bar(
            np.arange(len(numbers)) + (i - (len(types) - 1) / 2) * width,
            of_type.mean(axis=0),
            width,
            yerr=of_type.std(axis=0) / np.sqrt(len(of_type)),
            color=style.TYPE_COLORS[kind],
            label=f"{style.TYPE_NAMES[kind]} ({len(of_type):,})",
            error_kw={"lw": 1},
        )
    axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
    # Areas below one photoelectron are noise, and their means can be below 0
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(top=1.6 * axes.get_ylim()[1])
    axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return style.figure_of(axes)


def plot_aft_histogram(
    peaks: np.ndarray,
    axes: Axes | None = None,
    types: Sequence[int] = (0, 1, 2),
    n_bins: int = 50,
    empty: str = "no peaks",
) -> Figure:
    """Draw the distribution of the area fraction top (AFT) of peaks, a line a type.

    Parameters
    ----------
    peaks
        As of peak_basics, shape (n,).
    types
        Draw these: 0 unknown, 1 S1, 2 S2.
    n_bins
        Number of bins; fractions below -0.05 and above 1.05 are in the outer ones.
    """
    axes = style.new_axes() if axes is None else axes
    width = (_AFT_LIMITS[1] - _AFT_LIMITS[0]) / n_bins
    axes.set(xlabel="Area fraction top", ylabel=f"Peaks per {width:.3g}", xlim=_AFT_LIMITS)
    drawn = False
    for kind in types:
        fraction = peaks["area_fraction_top"][peaks["type"] == kind]
        fraction = fraction[np.isfinite(fraction)]
        if not len(fraction):
            continue
        drawn = True
        counts = histogram(np.clip(fraction, *_AFT_LIMITS), n_bins, _AFT_LIMITS)
        axes.stairs(
            counts.counts,
            counts.edges,
            color=style.TYPE_COLORS[kind],
            ls=style.TYPE_STYLES[kind],
            lw=1.8,
            label=f"{style.TYPE_NAMES[kind]} ({len(fraction):,})",
        )
    if not drawn:
        return style.note(axes, empty)
    axes.set_yscale("log")
    axes.legend()
    return style.figure_of(axes)


def plot_area_aft(
    peaks: np.ndarray,
    axes: Axes | None = None,
    n_bins: int = 100,
    empty: str = "no peaks",
    unit: str = PE,
) -> Figure:
    """Draw the area fraction top (AFT) against the area of peaks, as a histogram.

    Parameters
    ----------
    peaks
        As of peak_basics, shape (n,). Those without area above 0 are left out.
    n_bins
        Number of bins in each direction; fractions below -0.05 and above 1.05 are in the outer
        ones.
    """
    axes = style.new_axes() if axes is None else axes
    axes.set(xlabel=f"Area [{unit}]", ylabel="Area fraction top", xscale="log", ylim=_AFT_LIMITS)
    fraction = np.clip(peaks["area_fraction_top"], *_AFT_LIMITS)
    counts = histogram_2d(peaks["area"], fraction, n_bins, (None, _AFT_LIMITS), (True, False))
    return _draw_counts(counts, axes, empty)


def plot_area_width(
    peaks: np.ndarray,
    axes: Axes | None = None,
    n_bins: int = 100,
    empty: str = "no peaks",
    unit: str = PE,
) -> Figure:
    """Draw the width of the central 50 % of the area against the area of peaks, as a histogram.

    Parameters
    ----------
    peaks
        As of peak_basics, shape (n,). Those without area above 0 are left out.
    n_bins
        Number of bins in each direction.
    """
    axes = style.new_axes() if axes is None else axes
    axes.set(
        xlabel=f"Area [{unit}]", ylabel="Width of the central 50 % [ns]", xscale="log", yscale="log"
    )
    counts = histogram_2d(peaks["area"], peaks["range_50p_area"], n_bins, log=(True, True))
    return _draw_counts(counts, axes, empty)


def _draw_counts(counts: Histogram2d, axes: Axes, empty: str) -> Figure:
    """Draw a histogram of peaks in two dimensions with a colour bar, and return its figure."""
    if not counts.counts.any():
        return style.note(axes, empty)
    figure = style.figure_of(axes)
    image = axes.pcolormesh(
        counts.x_edges,
        counts.y_edges,
        np.ma.masked_equal(counts.counts.T, 0),
        norm=LogNorm(1, max(int(counts.counts.max()), 2)),
        cmap=style.COLOR_MAP,
        rasterized=True,
    )
    style.tidy_log_axes(axes)
    figure.colorbar(image, ax=axes, label="Peaks per bin")
    axes.set_title(f"{counts.counts.sum():,} peaks", loc="right")
    return figure
