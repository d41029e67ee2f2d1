"""The spectrum of areas in LED runs: a Poisson number of photoelectrons, and noise.

A photoelectron gives a full-size charge (Gaussian, truncated at zero) or, when it misses the first
dynode, a small one (exponential): R. Dossi et al., NIM A 451 (2000) 623. Fourier transforms sum
areas of any number of photoelectrons exactly: L. N. Kalousis et al., JINST 15 (2020) P03023
(arXiv:1911.06220). Areas are in ADC counts x samples.
"""

from typing import NamedTuple

import numpy as np

#: Points of the Fourier transform in a bin
_OVERSAMPLING = 2
#: Standard deviations of noise that are left free at both ends of the spectrum
_MARGIN = 8


class Shape(NamedTuple):
    """Parameters of the spectrum of areas."""

    occupancy: float  # mean number of photoelectrons in a flash
    gain: float  # mean area of a photoelectron
    spread: float  # standard deviation / peak of the full-size ones (before the cut at zero)
    small: float  # share of small photoelectrons
    small_size: float  # their mean / the peak of the full-size ones
    pedestal: float  # mean area without photoelectrons
    noise: float  # standard deviation of it


def full_size(shape: Shape) -> float:
    """Return the peak area of full-size photoelectrons, from the mean of all."""
    return shape.gain / _moments(shape)[0]


def relative_spread(shape: Shape) -> float:
    """Return standard deviation / mean of the area of a photoelectron, without noise."""
    mean, square = _moments(shape)
    return float(np.sqrt(square / mean**2 - 1))


def _moments(shape: Shape) -> tuple[float, float]:
    """Return means of area and area squared of a photoelectron, in peak areas of full-size ones."""
    from scipy.special import ndtr

    cut = 1 / shape.spread
    # Density / share above, at zero, of a Gaussian with mean `cut` and width 1
    mills = float(np.exp(-(cut**2) / 2) / np.sqrt(2 * np.pi) / ndtr(cut))
    full_mean = 1 + shape.spread * mills
    full_square = full_mean + shape.spread**2
    mean = (1 - shape.small) * full_mean + shape.small * shape.small_size
    square = (1 - shape.small) * full_square + shape.small * 2 * shape.small_size**2
    return mean, square


def bin_shares(edges: np.ndarray, shape: Shape, n_photoelectrons: int | None = None) -> np.ndarray:
    """Return the share of areas in each of k bins of one width, with edges of shape (k + 1,).

    With `n_photoelectrons` only those of so many photoelectrons count.
    """
    from scipy.fft import next_fast_len
    from scipy.stats import poisson

    width = (edges[-1] - edges[0]) / (len(edges) - 1)
    step = width / _OVERSAMPLING
    # The transform is periodic: areas beyond the range must not come in at its other end
    reach = edges[-1] - edges[0] + 2 * _MARGIN * shape.noise
    reach += 6 * shape.gain * (1 + np.sqrt(shape.occupancy))
    n = next_fast_len(int(np.ceil(reach / step)), real=True)
    omega = 2 * np.pi * np.fft.rfftfreq(n, step)
    one = _characteristic_function(omega, shape)
    if n_photoelectrons is None:
        light = np.exp(shape.occupancy * (one - 1))
    else:
        light = one**n_photoelectrons * poisson.pmf(n_photoelectrons, shape.occupancy)
    start = edges[0] - _MARGIN * shape.noise
    first_middle = edges[0] + width / 2
    skipped = int(np.ceil((first_middle - start) / step))
    start = first_middle - skipped * step
    # The sinc averages over a bin
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
