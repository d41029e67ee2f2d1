"""What a calibration finds: a number with its 68 % interval, and statistics of several methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amstrax.exceptions import NoResult

if TYPE_CHECKING:
    from iminuit import Minuit

#: Probability of the interval within one standard deviation of a normal distribution
ONE_SIGMA = 0.6826894921370859


class Number(NamedTuple):
    """A number with its standard error; both NaN without data."""

    value: float
    error: float


@dataclass(frozen=True)
class Result:
    """A number with its 68 % interval; an infinite value or end means that data set a limit."""

    name: str  #: that of the option, for a number that a correction file may have
    value: float
    lower: float  #: lower end of the 68 % interval
    upper: float  #: its upper end
    unit: str
    method: str  #: how value and interval were found, in a few words

    @classmethod
    def with_error(cls, name: str, value: float, error: float, unit: str, method: str) -> "Result":
        """Return a result with the symmetric interval of a standard error."""
        return cls(name, float(value), float(value - error), float(value + error), unit, method)

    @property
    def error(self) -> float:
        """Half the length of the 68 % interval."""
        return (self.upper - self.lower) / 2


def bootstrap(
    estimate: Callable[[np.ndarray], np.ndarray], n_rows: int, n_samples: int = 100, seed: int = 0
) -> np.ndarray:
    """Return estimates for random samples of rows with replacement, shape (<= n_samples, k).

    B. Efron, Ann. Statist. 7 (1979) 1. Samples for which `estimate` raises NoResult are left out.

    Raises NoResult if more than half of the samples have no estimate.

    Parameters
    ----------
    estimate
        Returns k numbers for indices of rows, which have shape (n_rows,).
    n_rows
        Number of rows.
    n_samples, seed
        Number of samples, and seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_samples):
        try:
            found.append(np.atleast_1d(estimate(rng.integers(n_rows, size=n_rows))))
        except NoResult as error:
            last = error
    if len(found) <= n_samples / 2:
        raise NoResult(
            f"bootstrap: {n_samples - len(found)} of {n_samples} samples have no result, one since "
            f"{last}"
        )
    return np.array(found)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Return the ends of the central 68 % of numbers, shape (n,)."""
    low, high = np.quantile(samples, (0.5 - ONE_SIGMA / 2, 0.5 + ONE_SIGMA / 2))
    return float(low), float(high)


def minuit(
    cost: Callable[..., float],
    start: Mapping[str, float],
    limits: Mapping[str, tuple[float, float]],
    fixed: str = "",
) -> "Minuit":
    """Return iminuit's object, not yet minimised, for a cost that is a chi-square or -2 ln L.

    Parameters
    ----------
    cost
        Function of the parameters, by position.
    start
        Parameter -> start value, in the order of `cost`.
    limits
        Parameter -> lowest and highest value.
    fixed
        Parameter that keeps its start value.
    """
    from iminuit import Minuit

    fit = Minuit(cost, *start.values(), name=tuple(start))
    fit.errordef = Minuit.LEAST_SQUARES
    for name, limit in limits.items():
        fit.limits[name] = limit
    if fixed:
        fit.fixed[fixed] = True
    return fit


def p_value(counts: np.ndarray, expected: np.ndarray, n_parameters: int) -> float:
    """Return the p-value of Pearson's chi-square in bins of more than 5; NaN without freedom."""
    from scipy.stats import chi2

    many = expected > 5
    free = int(many.sum()) - n_parameters
    statistic = float(np.sum((counts - expected)[many] ** 2 / expected[many]))
    return float(chi2.sf(statistic, free)) if free > 0 else np.nan
