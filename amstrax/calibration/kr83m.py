"""Kr-83m: the half-life between its two S1s, which `event_kr83m` finds."""

import numpy as np
from scipy.optimize import brentq

from amstrax.calibration.result import Result
from amstrax.exceptions import InvalidOption, NoResult

#: Half-life of the 9.4-keV state [ns]: ENSDF, as in `amstrax.simulation.sources`
HALF_LIFE = 154.4


def half_life(delays: np.ndarray, shortest: float, longest: float) -> Result:
    """Return the half-life [ns] from delays, by likelihood of a truncated exponential.

    Delays are exponential between the limits, with the same efficiency at all. The interval is
    where the log-likelihood is within 0.5 of its maximum.

    Raises InvalidOption (a ValueError) unless 0 <= shortest < longest, and NoResult (a ValueError)
    with fewer than 20 delays, or delays that do not fall off.

    Parameters
    ----------
    delays
        Delays of the second S1 [ns]; those outside of [shortest, longest) are left out.
    shortest, longest
        Limits of the fit [ns].
    """
    if not 0 <= shortest < longest < np.inf:
        raise InvalidOption(
            f"delays from {shortest} to {longest} ns: give limits with 0 <= shortest < longest"
        )
    inside = delays[(delays >= shortest) & (delays < longest)].astype(np.float64) - shortest
    n, span = len(inside), float(longest - shortest)
    if n < 20:
        raise NoResult(
            f"half-life of Kr-83m: {n} delays from {shortest:g} to {longest:g} ns, at least 20 are "
            "needed: take a longer run, or wider limits"
        )
    mean = inside.mean()

    def log_likelihood(rate: float) -> float:
        """Of a rate of decay [1/ns]."""
        return n * float(np.log(rate) - rate * mean - np.log1p(-np.exp(-rate * span)))

    # d log_likelihood/d rate falls from infinity to below 0 if the mean is below half of the span
    def slope(rate: float) -> float:
        return float(1 / rate - mean - span / np.expm1(rate * span))

    low, high = 1e-6 / span, 700 / span
    if not slope(low) > 0 > slope(high):
        raise NoResult(
            f"half-life of Kr-83m: {n} delays with a mean of {mean + shortest:.0f} ns do not fall "
            f"off from {shortest:g} to {longest:g} ns: is this a Kr-83m run?"
        )
    best = brentq(slope, low, high, rtol=1e-12)
    top = log_likelihood(best)

    def beyond(rate: float) -> float:
        return log_likelihood(rate) - top + 0.5

    slowest = brentq(beyond, low, best) if beyond(low) < 0 else 0.0
    fastest = brentq(beyond, best, high) if beyond(high) < 0 else np.inf
    value, lower, upper = (
        np.log(2) / rate if rate else np.inf for rate in (best, fastest, slowest)
    )
    return Result(
        "kr83m_half_life", float(value), float(lower), float(upper), "ns",
        f"likelihood of {n} delays from {shortest:g} to {longest:g} ns",
    )  # fmt: skip
