"""What a calibration finds: a number with its 68 % interval, and statistics of several methods."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from amstrax.exceptions import NoResult

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

    @property
    def error(self) -> float:
        """Half the length of the 68 % interval."""
        return (self.upper - self.lower) / 2


def bootstrap(
    estimate: Callable[[np.ndarray], np.ndarray], n_rows: int, n_samples: int = 100, seed: int = 0
) -> np.ndarray:
    """Return estimates for random samples of the data's rows, drawn with replacement.

    B. Efron, Ann. Statist. 7 (1979) 1. Samples for which `estimate` raises NoResult are left out.

    Parameters
    ----------
    estimate
        Returns k numbers for indices of rows, which have shape (n_rows,).
    n_rows
        Number of rows.
    n_samples, seed
        Number of samples, and seed of the random numbers.

    Returns
    -------
    Array of shape (at most n_samples, k).

    Raises
    ------
    NoResult
        If more than half of the samples have no estimate.
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
