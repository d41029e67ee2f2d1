"""What SiPMs see of a point of light, and where the light was: centre of gravity, and fits.

Light goes out evenly in all directions, and straight: nothing is scattered, reflected or absorbed.
Lengths are in mm.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amstrax.exceptions import InvalidOption
from amstrax.sipm.geometry import SiPMArray

if TYPE_CHECKING:
    from iminuit import Minuit

#: How often the errors of a chi-square are told from what is expected, and the fit is made again
_CHI_SQUARE_STEPS = 3


class PositionFit(NamedTuple):
    """Where light was, by a fit."""

    position: np.ndarray  # x, y, z [mm], shape (3,)
    error: np.ndarray  # their standard errors [mm], shape (3,); 0 for one that was given
    n_photons: float  # that went out
    n_photons_error: float
    covariance: np.ndarray  # of x, y, z, number of photons, shape (4, 4)
    chi2: float  # of the fit: chi-square, or -2 ln(likelihood) relative to a perfect fit
    n_free: int  # degrees of freedom
    valid: bool  # whether there is a minimum, with errors, within the limits


def expected_photons(
    sipms: SiPMArray, points: np.ndarray, n_photons: float | np.ndarray
) -> np.ndarray:
    """Return the mean counts of each SiPM, by solid angle and efficiency, shape (m, n).

    Parameters
    ----------
    sipms
        Geometry, n SiPMs.
    points
        Where the light comes from [mm], shape (m, 3) or (3,).
    n_photons
        Number of photons that go out in all directions, of all or of each, shape (m,).
    """
    share = sipms.solid_angles(points) / (4 * np.pi) * sipms.efficiency
    return share * np.asarray(n_photons, dtype=np.float64).reshape(-1, 1)


def emulate(
    sipms: SiPMArray,
    points: np.ndarray,
    n_photons: float | np.ndarray,
    rng: np.random.Generator,
    dark: float = 0.0,
    spread: float = 0.0,
) -> np.ndarray:
    """Return what the SiPMs see of events, all at once, shape (m, n).

    Parameters
    ----------
    sipms, points, n_photons
        As in `expected_photons`; the number of photons is a mean.
    rng
        Source of random numbers.
    dark
        Mean number of dark counts of a SiPM in an event.
    spread
        Standard deviation / mean of the charge of a count. With 0 the counts are integers.
    """
    counts = rng.poisson(expected_photons(sipms, points, n_photons) + dark)
    if spread == 0:
        return counts
    return rng.normal(counts, spread * np.sqrt(counts))


def centre_of_gravity(sipms: SiPMArray, counts: np.ndarray) -> np.ndarray:
    """Return the mean position of SiPMs, weighted with their counts [mm], shape (m, 3).

    It is drawn to the middle of the SiPMs, and lies in their plane; NaN without counts.

    Parameters
    ----------
    sipms
        Geometry, n SiPMs.
    counts
        Shape (m, n), or (n,) for one event. Charges below 0 count as 0.
    """
    weights = np.maximum(np.atleast_2d(np.asarray(counts, dtype=np.float64)), 0)
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ sipms.centre / total


def fit_poisson(
    sipms: SiPMArray,
    counts: np.ndarray,
    limits: np.ndarray,
    z: float | None = None,
    dark: float = 0.0,
) -> PositionFit:
    """Return where the light of one event was, by a fit of the Poisson likelihood.

    Parameters
    ----------
    sipms
        Geometry, n SiPMs.
    counts
        Shape (n,), 0 or more.
    limits
        Between which x, y and z are looked for [mm], shape (3, 2).
    z
        Position along z where that is known, as from the drift time [mm]; None: fit it.
    dark
        Mean number of dark counts of a SiPM in an event.

    Raises
    ------
    InvalidOption
        (a ValueError) for counts below 0, of another shape, or none; or limits in the wrong order.
    """
    from scipy.special import xlogy

    counts = _check(sipms, counts, limits)
    if counts.min() < 0:
        raise InvalidOption(
            f"SiPM {np.argmin(counts)} has {counts.min()} counts: a Poisson likelihood takes 0 or "
            "more; take fit_chi_square for charges"
        )

    def cost(expected: np.ndarray) -> float:
        # S. Baker and R. Cousins, NIM 221 (1984) 437
        return 2 * float(np.sum(expected - counts + xlogy(counts, counts / expected)))

    start = _start(sipms, counts, limits, z, dark)
    return _result(_minimise(sipms, cost, start, limits, z, dark), sipms, z)


def fit_chi_square(
    sipms: SiPMArray,
    counts: np.ndarray,
    limits: np.ndarray,
    z: float | None = None,
    dark: float = 0.0,
    spread: float = 0.0,
    noise: float = 0.0,
) -> PositionFit:
    """Return where the light of one event was, by a least-squares fit.

    The variance of a charge is what is expected there, times 1 + `spread` squared, and that of the
    noise. It is taken from the last of a few fits, and fixed within each, so large expectations
    get no advantage. Good from some ten counts on; for fewer take `fit_poisson`.

    Parameters
    ----------
    sipms, counts, limits, z, dark
        As in `fit_poisson`; charges below 0 are allowed.
    spread
        Standard deviation / mean of the charge of a count.
    noise
        Standard deviation of a charge without light, in counts.

    Raises
    ------
    InvalidOption
        (a ValueError) for counts of another shape, or none; or limits in the wrong order.
    """
    counts = _check(sipms, counts, limits)
    start = _start(sipms, counts, limits, z, dark)
    for _ in range(_CHI_SQUARE_STEPS):
        expected = _expected(sipms, start, dark)
        variance = expected * (1 + spread**2) + noise**2

        def cost(expected: np.ndarray, variance: np.ndarray = variance) -> float:
            return float(np.sum((counts - expected) ** 2 / variance))

        minuit = _minimise(sipms, cost, start, limits, z, dark)
        start = np.array(minuit.values)
    return _result(minuit, sipms, z)


def _check(sipms: SiPMArray, counts: np.ndarray, limits: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape != (len(sipms),):
        raise InvalidOption(f"counts have shape {counts.shape}: {len(sipms)} SiPMs need one each")
    if not (np.isfinite(counts).all() and counts.sum() > 0):
        raise InvalidOption("there are no counts, or some that are not finite: nothing to fit")
    limits = np.asarray(limits)
    if limits.shape != (3, 2) or not (limits[:, 0] < limits[:, 1]).all():
        raise InvalidOption(f"limits {limits.tolist()}: give lowest and highest x, y and z")
    return counts


def _expected(sipms: SiPMArray, values: np.ndarray, dark: float) -> np.ndarray:
    # Where nothing can be seen, something tiny: its logarithm is taken
    return np.maximum(expected_photons(sipms, values[:3], values[3])[0] + dark, 1e-9)


def _start(
    sipms: SiPMArray, counts: np.ndarray, limits: np.ndarray, z: float | None, dark: float
) -> np.ndarray:
    """Return x, y, z and number of photons to start from: the best of a coarse grid."""
    axes = [np.linspace(low, high, 9)[1:-1] for low, high in limits]
    if z is not None:
        axes[2] = np.array([z])
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)
    share = np.maximum(expected_photons(sipms, points, 1.0), 1e-12)
    n_photons = max(counts.sum() - dark * len(sipms), 1.0) / share.sum(axis=1)
    expected = share * n_photons[:, np.newaxis] + max(dark, 1e-9)
    likelihood = np.maximum(counts, 0) @ np.log(expected).T - expected.sum(axis=1)
    best = np.argmax(likelihood)
    return np.array([*points[best], n_photons[best]])


def _minimise(
    sipms: SiPMArray,
    cost: Callable[[np.ndarray], float],
    start: np.ndarray,
    limits: np.ndarray,
    z: float | None,
    dark: float,
) -> "Minuit":
    from iminuit import Minuit

    def of_values(values: np.ndarray) -> float:
        return cost(_expected(sipms, values, dark))

    minuit = Minuit(of_values, start, name=("x", "y", "z", "n_photons"))
    minuit.errordef = Minuit.LEAST_SQUARES
    for name, limit in zip("xyz", limits, strict=True):
        minuit.limits[name] = tuple(limit)
        minuit.errors[name] = (limit[1] - limit[0]) / 50
    minuit.limits["n_photons"] = (0, None)
    minuit.errors["n_photons"] = start[3] / 10
    if z is not None:
        minuit.values["z"] = z
        minuit.fixed["z"] = True
    minuit.migrad()
    minuit.hesse()
    return minuit


def _result(minuit: "Minuit", sipms: SiPMArray, z: float | None) -> PositionFit:
    covariance = np.full((4, 4), np.nan)
    if minuit.covariance is not None:
        covariance = np.array(minuit.covariance)
    error = np.array(minuit.errors)
    if z is not None:
        error[2] = 0.0
    return PositionFit(
        np.array(minuit.values)[:3],
        error[:3],
        float(minuit.values["n_photons"]),
        float(error[3]),
        covariance,
        float(minuit.fval or 0.0),
        len(sipms) - minuit.nfit,
        bool(minuit.valid and minuit.accurate and not minuit.fmin.has_parameters_at_limit),
    )
