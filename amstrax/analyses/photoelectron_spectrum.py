"""The spectrum of areas in LED runs: photoelectrons, by Poisson's law, with the noise around them.

A photoelectron gives a full-size charge (Gaussian, without the part below zero) or, where it
misses the first dynode, a small one (exponential): R. Dossi et al., NIM A 451 (2000) 623. Areas of
any number of photoelectrons are summed exactly, with Fourier transforms: L. N. Kalousis et al.,
JINST 15 (2020) P03023 (arXiv:1911.06220). Areas are in ADC counts x samples.
"""

from typing import NamedTuple

import numpy as np

#: Points of the Fourier transform in a bin
_OVERSAMPLING = 2
#: So many standard deviations of noise are left free at both ends of the spectrum
_MARGIN = 8


class Shape(NamedTuple):
    """What describes the spectrum of areas."""

    occupancy: float  # mean number of photoelectrons in a flash
    gain: float  # mean area of a photoelectron
    spread: float  # standard deviation / peak of the full-size ones (before the cut at zero)
    small: float  # share of small photoelectrons
    small_size: float  # their mean / the peak of the full-size ones
    pedestal: float  # mean area without photoelectrons
    noise: float  # standard deviation of it


def full_size(shape: Shape) -> float:
    """Return the peak area of full-size photoelectrons, from the mean of all."""
    mean = 1 + shape.spread * _mills(shape.spread)
    return shape.gain / ((1 - shape.small) * mean + shape.small * shape.small_size)


def relative_spread(shape: Shape) -> float:
    """Return standard deviation / mean of the area of a photoelectron, noise left out."""
    size, spread = full_size(shape), shape.spread
    mean = 1 + spread * _mills(spread)
    square = 1 + spread**2 + spread * _mills(spread)  # of a Gaussian without the part below zero
    squares = (1 - shape.small) * square + shape.small * 2 * shape.small_size**2
    means = (1 - shape.small) * mean + shape.small * shape.small_size
    return float(np.sqrt(squares / means**2 - 1)) if size > 0 else np.nan


def bin_shares(edges: np.ndarray, shape: Shape, n_photoelectrons: int | None = None) -> np.ndarray:
    """Return the share of areas in each bin, shape (k,).

    Parameters
    ----------
    edges
        Edges of k bins of one width, shape (k + 1,).
    shape
        Describes the spectrum.
    n_photoelectrons
        Only those with so many photoelectrons; None for all.
    """
    from scipy.fft import next_fast_len

    width = (edges[-1] - edges[0]) / (len(edges) - 1)
    step = width / _OVERSAMPLING
    # What is beyond the range comes in at its other end, which has to be far off
    reach = edges[-1] - edges[0] + 2 * _MARGIN * shape.noise
    reach += 6 * shape.gain * (1 + np.sqrt(shape.occupancy))
    n = next_fast_len(int(np.ceil(reach / step)), real=True)
    omega = 2 * np.pi * np.fft.rfftfreq(n, step)
    one = _characteristic_function(omega, shape)
    if n_photoelectrons is None:
        light = np.exp(shape.occupancy * (one - 1))
    else:
        light = one**n_photoelectrons * _poisson(n_photoelectrons, shape.occupancy)
    start = edges[0] - _MARGIN * shape.noise
    first_middle = edges[0] + width / 2
    skipped = int(np.ceil((first_middle - start) / step))
    start = first_middle - skipped * step
    # Mean over a bin, in place of the density in its middle: sinc
    noise = np.exp(
        1j * omega * (shape.pedestal - start) - (omega * shape.noise) ** 2 / 2
    ) * np.sinc(omega * width / (2 * np.pi))
    density = np.fft.irfft(np.conj(light * noise), n) / step
    shares = density[skipped::_OVERSAMPLING][: len(edges) - 1] * width
    return np.maximum(shares, 0)


def _characteristic_function(omega: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the mean of exp(i omega area) of a photoelectron."""
    from scipy.special import erfc, wofz

    size = full_size(shape)
    sigma = shape.spread * size
    cut = 1 / shape.spread
    # Integral of the Gaussian from zero on; wofz is Faddeeva's function exp(-z^2) erfc(-i z)
    full = np.exp(-(cut**2) / 2) * wofz((sigma * omega - 1j * cut) / np.sqrt(2))
    full /= erfc(-cut / np.sqrt(2))
    small = 1 / (1 - 1j * omega * shape.small_size * size)
    return (1 - shape.small) * full + shape.small * small


def _mills(spread: float) -> float:
    """Return density / share above, at zero, of a Gaussian with mean 1 / spread and width 1."""
    from scipy.special import ndtr

    return float(np.exp(-1 / (2 * spread**2)) / np.sqrt(2 * np.pi) / ndtr(1 / spread))


def _poisson(n: int, mean: float) -> float:
    from scipy.special import gammaln

    return float(np.exp(n * np.log(mean) - mean - gammaln(n + 1)))
