"""Gain of single electrons [PE/e], from the spectrum of small peaks after large ones.

The area of one electron has a Pearson type III distribution (a shifted gamma distribution) with
free mean and width. Its skewness is that of a Poisson number of photons, of charges as below, whose
mean differs from electron to electron like a gamma distribution: the width tells how much. Sums of
k electrons are of the same type. Peaks of k electrons are as frequent as q^k: overlaps at a
constant rate. What falls exponentially from the lower end on, dark counts, is no electron.
"""

from typing import NamedTuple

import numpy as np

from amstrax.calibration.result import Result, minuit, p_value
from amstrax.exceptions import NoResult

#: Fewest peaks in the range of the fit
_FEWEST = 200
#: Least width of the central 50 % of the area, which S1s and dark counts do not have [ns]
LEAST_WIDTH = 50.0
#: Most electrons in a peak that the fit knows, bins in the mean area of an electron
_MOST_ELECTRONS, _BINS = 5, 15
#: The fit ends at this many gains
_RANGE = 3.5
#: Means of charge squared and cubed of a detected photon / mean charge [PE, PE^2]: spread 0.35, and
#: 20 % double photoelectrons (C. Faham et al., JINST 10 (2015) P09010). The gain hardly depends on
#: them: 1.15 and 1.4, those without doubles, change it by 0.2 %
_SQUARE, _CUBE = 1.45, 2.5


class ElectronSpectrum(NamedTuple):
    """Parameters of the spectrum of areas of small peaks."""

    gain: float  # mean area of an electron [PE]
    spread: float  # standard deviation / mean of it [1]
    overlap: float  # peaks of k + 1 electrons / peaks of k [1]
    dark: float  # share of the peaks that are no electrons [1]
    dark_size: float  # mean area of these above the lower end of the range [PE]


class ElectronFit(NamedTuple):
    """Fit to a spectrum of single electrons."""

    gain: Result
    spectrum: ElectronSpectrum
    edges: np.ndarray  # of the bins [PE], shape (k + 1,)
    counts: np.ndarray  # peaks in the bins, shape (k,)
    expected: np.ndarray  # by the fit, shape (k,)
    p_value: float


def select(
    peaks: np.ndarray,
    min_delay: float = 10.0,
    max_delay: float = 2000.0,
    min_width: float = LEAST_WIDTH,
) -> np.ndarray:
    """Return the areas of small peaks that may be electrons [PE], shape (m,).

    Parameters
    ----------
    peaks
        With the columns ``area``, ``delay`` and ``range_50p_area`` of single_electrons, shape (n,).
    min_delay, max_delay
        Time after the end of a large peak, the latter excluded [us].
    min_width
        Least width of the central 50 % of the area [ns].
    """
    delay = peaks["delay"] / 1e3
    chosen = (delay >= min_delay) & (delay < max_delay) & (peaks["range_50p_area"] >= min_width)
    return peaks["area"][chosen]


def bin_shares(
    edges: np.ndarray, spectrum: ElectronSpectrum, n_electrons: int | None = None
) -> np.ndarray:
    """Return the expected share of peaks in each bin, of all between the first and last edge.

    With `n_electrons`, only that of peaks with so many; 0 for those that are none.
    """
    from scipy.special import gammainc

    gain, spread, overlap, dark, dark_size = spectrum
    skewness = _skewness(gain, spread)
    shape, scale = 4 / skewness**2, spread * gain * skewness / 2
    start = gain - shape * scale
    parts = []
    for k in range(1, _MOST_ELECTRONS + 1):
        reached = gammainc(k * shape, np.maximum((edges - k * start) / scale, 0))
        parts.append(np.diff(reached) * overlap ** (k - 1))
    electrons = np.array(parts) * (1 - dark) / max(np.sum(parts), 1e-300)
    exponential = np.diff(-np.exp(-(edges - edges[0]) / dark_size))
    others = exponential / max(exponential.sum(), 1e-300) * dark
    if n_electrons is None:
        return electrons.sum(axis=0) + others
    return others if n_electrons == 0 else electrons[n_electrons - 1]


def _skewness(gain: float, spread: float) -> float:
    """Return the skewness of the area of an electron of a mean [PE] and relative width."""
    variance = (spread * gain) ** 2
    between = max(variance - _SQUARE * gain, 0.0)  # variance of the means of electrons
    third = _CUBE * gain + 3 * _SQUARE * between + 2 * between**2 / gain
    return third / variance**1.5


def fit_electrons(area: np.ndarray, lowest: float = 2.5) -> ElectronFit:
    """Return the gain of single electrons from areas of small peaks, by a binned likelihood.

    Raises NoResult (a ValueError) for too few peaks, or without a peak in the spectrum above
    `lowest`.

    Parameters
    ----------
    area
        Areas of single_electrons at a time after large peaks when electrons are alone [PE].
    lowest
        The fit starts here [PE]: above the area of a dark count.
    """
    from scipy.special import xlogy

    area = np.asarray(area, dtype=np.float64)
    area = area[np.isfinite(area) & (area >= lowest)]
    if len(area) < _FEWEST:
        raise NoResult(
            f"{len(area)} peaks above {lowest:g} PE are too few for single electrons: take a "
            f"longer run, or more time after large peaks, for {_FEWEST} or more"
        )
    gain = float(np.median(area))
    edges = np.linspace(lowest, max(_RANGE * gain, 2 * lowest), int(_RANGE * _BINS) + 1)
    counts = np.histogram(area, edges)[0]
    n = counts.sum()

    def minus_two_log_likelihood(*values: float) -> float:
        shares = np.maximum(bin_shares(edges, ElectronSpectrum(*values)), 1e-12)
        return 2 * float(np.sum(xlogy(counts, counts / (n * shares))))

    first = ElectronSpectrum(0.95 * gain, 0.42, 0.1, 0.02, 0.5)
    limits = {
        "gain": (0.3 * gain, 2 * gain),
        "spread": (0.1, 1.0),
        "overlap": (0, 0.6),
        "dark": (0, 0.9),
        "dark_size": (0.2, 1.0),
    }
    fit = minuit(minus_two_log_likelihood, first._asdict(), limits, fixed="dark_size")
    for _ in range(3):  # where the width allows no difference of electrons, the slope changes
        fit.migrad()
        fit.hesse()
        if fit.valid:
            break
    spectrum = ElectronSpectrum(*fit.values)
    is_peak = spectrum.gain * (1 - 1.2 * spectrum.spread) > 0 and spectrum.dark < 0.8
    at_limit = not 0.31 * gain < spectrum.gain < 1.99 * gain
    if not fit.valid or at_limit or not is_peak or spectrum.gain < 1.2 * lowest:
        raise NoResult(
            f"no peak of single electrons found above {lowest:g} PE in {n} peaks, median "
            f"{gain:.1f} PE: look at the plot, and give another range of time or areas"
        )
    expected = n * bin_shares(edges, spectrum)
    return ElectronFit(
        Result.with_error("se_gain", spectrum.gain, fit.errors["gain"], "PE/e", "fit"),
        spectrum,
        edges,
        counts,
        expected,
        p_value(counts, expected, fit.nfit + 1),
    )


def g2_of_electrons(gain: Result, extraction: tuple[float, float]) -> Result:
    """Return g2 = gain x extraction efficiency [PE/electron], independent of lines and of W.

    Parameters
    ----------
    gain
        Of `fit_electrons` [PE/electron].
    extraction
        Extraction efficiency of the field at the liquid's surface, and its error.
    """
    share, error = extraction
    value = gain.value * share
    lower, upper = (
        value * float(np.hypot(end / gain.value, error / share))
        for end in (gain.value - gain.lower, gain.upper - gain.value)
    )
    return Result("g2", value, value - lower, value + upper, gain.unit, "se_gain x extraction")
