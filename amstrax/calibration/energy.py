"""Energy scale: g1 [PE/photon] and g2 [PE/electron] from lines, and the resolution.

A deposit of energy E makes E / W = cS1 / g1 + cS2 / g2 photons and electrons, however many
electrons recombine: T. Shutt et al., NIM A 579 (2007) 451; C. Dahl, thesis, Princeton 2009. g1 and
g2 are proportional to W. Areas are in PE, energies in keV, W in eV.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from amstrax.calibration.result import Result, bootstrap, minuit
from amstrax.exceptions import NoResult

#: Fewest events of a line
_FEWEST = 100
#: Events count within this many standard deviations of the line (Mahalanobis distance)
_CUT = 3.0
#: Least share of these within one standard deviation, less a statistical error: it is 0.40 in a
#: Gaussian peak, and 0.27 in a rectangle that is evenly filled
_LEAST_PEAKED = 0.33
_ITERATIONS = 50
#: Bins of the search for a line, in the logarithm of each area, and in a standard deviation
_SEARCH_BINS, _PEAK_BINS = 40, 4


class Line(NamedTuple):
    """A mono-energetic population in cS1 and cS2."""

    energy: float  #: [keV]
    mean: np.ndarray  #: of cS1 and cS2 [PE], shape (2,)
    covariance: np.ndarray  #: of events [PE^2], shape (2, 2)
    is_inside: np.ndarray  #: whether each event belongs to it, shape (n,)

    @property
    def n_events(self) -> int:
        """Number of events."""
        return int(self.is_inside.sum())


class EnergyScale(NamedTuple):
    """g1 and g2, with their covariance."""

    g1: Result
    g2: Result
    covariance: np.ndarray  #: of g1 and g2, shape (2, 2)
    w_value: float  #: [eV]
    chi2: float  #: of the fit; NaN without one
    n_free: int  #: degrees of freedom

    @property
    def correlation(self) -> float:
        """Correlation of g1 and g2."""
        return float(self.covariance[0, 1] / np.sqrt(self.covariance[0, 0] * self.covariance[1, 1]))

    def energy(self, cs1: np.ndarray, cs2: np.ndarray) -> np.ndarray:
        """Return the energy of events [keV], shape (n,)."""
        return 1e-3 * self.w_value * (cs1 / self.g1.value + cs2 / self.g2.value)


class PeakFit(NamedTuple):
    """A Gaussian peak on a straight background in a spectrum of energies."""

    mean: Result  #: [keV]
    sigma: Result  #: [keV]
    resolution: Result  #: sigma / mean [1]
    edges: np.ndarray  #: [keV], shape (k + 1,)
    counts: np.ndarray  #: shape (k,)
    expected: np.ndarray  #: by the fit, shape (k,)


def find_line(
    energy: float,
    cs1: np.ndarray,
    cs2: np.ndarray,
    cs1_range: tuple[float, float] = (0.0, np.inf),
    cs2_range: tuple[float, float] = (0.0, np.inf),
) -> Line:
    """Return mean and covariance of a line, the densest population in the ranges.

    From the densest place in the logarithms of both areas, events within 3 standard deviations
    (Mahalanobis distance) of the mean are kept until nothing changes. The covariance is corrected
    for what a Gaussian distribution has beyond. `energy` is in keV, NaN where it is not known.

    Raises NoResult (a ValueError) for too few events, or where they do not form a peak.
    """
    x = np.stack([cs1, cs2], axis=1).astype(np.float64)
    usable = np.isfinite(x).all(axis=1) & (x > 0).all(axis=1)
    for i, (low, high) in enumerate((cs1_range, cs2_range)):
        usable &= (x[:, i] >= low) & (x[:, i] <= high)
    _check_number(energy, int(usable.sum()), "with cS1 and cS2 in the ranges")
    mean, covariance = _densest(x[usable])
    inside = np.zeros(len(x), dtype=bool)
    # Of a Gaussian distribution in two dimensions: variance within the cut / variance
    gone = np.exp(-(_CUT**2) / 2)
    kept_variance = 1 - _CUT**2 / 2 * gone / (1 - gone)
    for _ in range(_ITERATIONS):
        before, inside = inside, usable & (_distance(x, mean, covariance) < _CUT)
        if (inside == before).all():
            break
        _check_number(energy, int(inside.sum()), f"near cS1 {mean[0]:.0f}, cS2 {mean[1]:.0f} PE")
        mean = x[inside].mean(axis=0)
        covariance = np.cov(x[inside].T) / kept_variance
    peaked = float(np.mean(_distance(x[inside], mean, covariance) < 1))
    if peaked < _LEAST_PEAKED - 0.5 / np.sqrt(inside.sum()):
        raise NoResult(
            f"no peak found for {_named(energy)}: {peaked:.0%} of the events near cS1 "
            f"{mean[0]:.0f}, cS2 {mean[1]:.0f} PE are in its core, not 40 %; give ranges around it"
        )
    return Line(energy, mean, covariance, inside)


def _named(energy: float) -> str:
    return "the line" if np.isnan(energy) else f"{energy:g} keV"


def _check_number(energy: float, n: int, where: str) -> None:
    if n < _FEWEST:
        raise NoResult(
            f"{n} events of {_named(energy)} {where} are too few: take a longer run, or other "
            f"ranges, for {_FEWEST} or more"
        )


def _densest(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the densest place in the logarithms of areas, and a first covariance there."""
    from scipy.ndimage import gaussian_filter

    logs = np.log(x)
    low, high = np.quantile(logs, (0.01, 0.99), axis=0)
    edges = [
        np.linspace(a, max(b, a + 1e-3), _SEARCH_BINS + 1) for a, b in zip(low, high, strict=False)
    ]
    density = gaussian_filter(np.histogram2d(*logs.T, edges)[0], 1.5, mode="constant")
    place = np.unravel_index(density.argmax(), density.shape)
    start = np.array([(e[i] + e[i + 1]) / 2 for e, i in zip(edges, place, strict=False)])
    # A third of the events that are nearest, in units of the spread of all
    off = (logs - start) / np.maximum(logs.std(axis=0), 1e-6)
    near = np.argsort((off**2).sum(axis=1))[: max(len(x) // 3, _FEWEST // 2)]
    # Of a Gaussian distribution in two dimensions, the nearest third has 0.19 of the variance
    return np.median(x[near], axis=0), np.cov(x[near].T) / 0.19 + 1e-9 * np.eye(2)


def _distance(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    off = x - mean
    return np.sqrt(np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off))


def doke_fit(lines: Sequence[Line], w_value: float = 13.7) -> EnergyScale:
    """Return g1 and g2 from two or more lines: the straight line of the Doke plot.

    In cS2/E against cS1/E, lines are on a straight one with the slope -g2/g1 (T. Doke et al., Jpn.
    J. Appl. Phys. 41 (2002) 1538). The fit minimises the chi-square of E / W - cS1/g1 - cS2/g2,
    whose variance has the errors of both means and their covariance.

    Raises NoResult (a ValueError) for fewer than two lines, or where these do not determine both.
    """
    if len(lines) < 2:
        raise NoResult(
            f"{len(lines)} line does not determine g1 and g2 of a Doke plot: give two or more of "
            "different cS1/cS2, or take the ellipse of one line"
        )
    means = np.array([line.mean for line in lines])
    errors = np.array([line.covariance / line.n_events for line in lines])
    quanta = 1e3 * np.array([line.energy for line in lines]) / w_value

    def chi2(g1: float, g2: float) -> float:
        per_pe = np.array([1 / g1, 1 / g2])
        variance = np.einsum("i,nij,j->n", per_pe, errors, per_pe)
        return float(np.sum((quanta - means @ per_pe) ** 2 / variance))

    weights = 1 / np.sqrt(np.trace(errors / (means**2)[:, :, None], axis1=1, axis2=2)) / quanta
    start = np.linalg.lstsq(means * weights[:, None], quanta * weights, rcond=None)[0]
    names = ", ".join(f"{line.energy:g}" for line in lines)
    undetermined = (
        f"lines of {names} keV do not determine g1 and g2: cS1/cS2 of them must differ by more than"
        " their errors; give other lines, or check that each was found"
    )
    if not (start > 0).all():
        raise NoResult(undetermined)
    limits = {name: (1e-3 / x, 1e3 / x) for name, x in zip(("g1", "g2"), start, strict=True)}
    fit = minuit(chi2, dict(zip(limits, 1 / start, strict=True)), limits)
    fit.migrad()
    fit.hesse()
    if not fit.valid or fit.covariance is None:
        raise NoResult(undetermined)
    covariance = np.array(fit.covariance)
    value = np.array(fit.values)
    if (np.sqrt(np.diag(covariance)) > 0.5 * value).any():
        raise NoResult(undetermined)
    return _scale(value, covariance, w_value, "Doke plot", float(fit.fval), len(lines) - 2)


def ellipse_fit(
    line: Line,
    cs1: np.ndarray,
    cs2: np.ndarray,
    w_value: float = 13.7,
    fano: float = 0.0,
    s2_noise: float = 0.0,
    n_samples: int = 100,
) -> EnergyScale:
    """Return g1 and g2 from the ellipse of one line.

    With a mean number of quanta N = E / W, of which the share q are electrons,

        var(cS2) = g2^2 (R + q^2 F N) + s cS2,    cov(cS1, cS2) = g1 g2 (q (1 - q) F N - R),

    where R is the variance of the number of recombining electrons, F (`fano`) that of quanta / N,
    and s (`s2_noise`) that of an S2 of fixed electrons / its area [PE]. With F = s = 0 that is the
    slope of cS1 on cS2, -g1/g2. The variance of cS1, mostly photon statistics, is not used. What
    else moves cS2, as residuals of corrections, biases both. Errors are by bootstrap.

    Raises NoResult (a ValueError) where cS1 and cS2 are not anticorrelated enough.
    """
    rows = np.flatnonzero(line.is_inside)
    x = np.stack([cs1[rows], cs2[rows]], axis=1).astype(np.float64)
    quanta = 1e3 * line.energy / w_value
    scale = line.covariance / np.cov(x.T)  # for what is beyond the cut

    def estimate(index: np.ndarray) -> np.ndarray:
        sample = x[index]
        covariance = np.cov(sample.T) * scale
        return _solve_ellipse(sample.mean(axis=0), covariance, quanta, fano, s2_noise, line.energy)

    value = _solve_ellipse(line.mean, line.covariance, quanta, fano, s2_noise, line.energy)
    samples = bootstrap(estimate, len(x), n_samples)
    return _scale(value, np.cov(samples.T), w_value, "ellipse", np.nan, 0)


def _solve_ellipse(
    mean: np.ndarray,
    covariance: np.ndarray,
    quanta: float,
    fano: float,
    s2_noise: float,
    energy: float,
) -> np.ndarray:
    """Return g1 and g2 that give mean and covariance; see `ellipse_fit`."""
    from scipy.optimize import brentq

    def off(share: float) -> float:
        """Covariance less that expected for a share of electrons [quanta^2]."""
        g1, g2 = mean[0] / (quanta * (1 - share)), mean[1] / (quanta * share)
        recombined = (covariance[1, 1] - s2_noise * mean[1]) / g2**2 - share**2 * fano * quanta
        expected = share * (1 - share) * fano * quanta - recombined
        return covariance[0, 1] / (g1 * g2) - expected

    low, high = 0.02, 0.98
    if not off(low) * off(high) < 0:
        rho = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
        raise NoResult(
            f"the ellipse of {energy:g} keV does not determine g1 and g2: correlation of cS1 and "
            f"cS2 {rho:.2f}; take two lines, or more events of a line with better corrections"
        )
    share = brentq(off, low, high)
    return np.array([mean[0] / (quanta * (1 - share)), mean[1] / (quanta * share)])


def _scale(
    value: np.ndarray,
    covariance: np.ndarray,
    w_value: float,
    method: str,
    chi2: float,
    n_free: int,
) -> EnergyScale:
    errors = np.sqrt(np.diag(covariance))
    g1, g2 = (
        Result.with_error(name, v, e, unit, method)
        for name, v, e, unit in zip(
            ("g1", "g2"), value, errors, ("PE/photon", "PE/electron"), strict=True
        )
    )
    return EnergyScale(g1, g2, covariance, w_value, chi2, n_free)


def fit_peak(energies: np.ndarray, expected: float, width: float | None = None) -> PeakFit:
    """Return a Gaussian peak near an energy, on a straight background, by a binned likelihood.

    Raises NoResult (a ValueError) for too few events, or without a peak.

    Parameters
    ----------
    energies
        Of events [keV], shape (n,).
    expected
        Energy of the line [keV].
    width
        First guess of its standard deviation [keV]; None: 8 %.
    """
    from scipy.special import ndtr, xlogy

    no_peak = (
        f"no peak found at {expected:g} keV in {len(energies)} events: check g1 and g2, or leave "
        "the line out"
    )
    width = first = 0.08 * expected if width is None else width
    energies = energies[np.isfinite(energies)]
    middle = expected
    for _ in range(10):  # centre the range on the peak
        near = energies[np.abs(energies - middle) < 3 * width]
        _check_number(expected, len(near), f"within 3 x {width:.2g} keV of {middle:.4g} keV")
        low, middle, high = np.quantile(near, (0.1587, 0.5, 0.8413))
        width = (high - low) / 2 * 1.03
        if width > 3 * first:
            raise NoResult(no_peak)
    edges = np.linspace(middle - 4 * width, middle + 4 * width, 8 * _PEAK_BINS + 1)
    counts = np.histogram(energies, edges)[0]
    n_bins, n = len(counts), counts.sum()

    def model(mean: float, sigma: float, peak: float, flat: float, slope: float) -> np.ndarray:
        line = 1 + slope * np.linspace(-1, 1, n_bins)
        return peak * np.diff(ndtr((edges - mean) / sigma)) + flat / n_bins * line

    def minus_two_log_likelihood(*values: float) -> float:
        of_bins = np.maximum(model(*values), 1e-9)
        return 2 * float(np.sum(of_bins - counts + xlogy(counts, counts / of_bins)))

    fit = minuit(
        minus_two_log_likelihood,
        {"mean": middle, "sigma": width, "peak": 0.95 * n, "flat": 0.05 * n, "slope": 0.0},
        {
            "mean": (edges[0], edges[-1]),
            "sigma": (0.1 * width, 3 * width),
            "peak": (0, 1.5 * n),
            "flat": (0, 1.5 * n),
            "slope": (-1, 1),
        },
    )
    fit.migrad()
    fit.hesse()
    if not fit.valid or fit.values["peak"] < 3 * np.sqrt(n):
        raise NoResult(no_peak)
    mean, sigma = fit.values["mean"], fit.values["sigma"]
    at, by = fit.errors["mean"], fit.errors["sigma"]
    of_mean, of_sigma, resolution = (
        Result.with_error(f"{name} {expected:g} keV", value, error, unit, "Gaussian fit")
        for name, value, error, unit in (
            ("mean", mean, at, "keV"),
            ("sigma", sigma, by, "keV"),
            ("resolution", sigma / mean, by / mean, "1"),
        )
    )
    return PeakFit(of_mean, of_sigma, resolution, edges, counts, model(*fit.values))
