"""Coincidences of signals in the TPC with those of an external detector."""

import numpy as np

from amstrax.processing.compiled import BOOL, I64, column, kernel, output

#: Energy of the photons of a positron's annihilation, in the units of the external areas [keV]
ANNIHILATION = 511


def absorption_peaks(area: np.ndarray, delta: float) -> np.ndarray:
    """Return which external peaks have an area within 511 +- `delta` (bounds included)."""
    return (area >= ANNIHILATION - delta) & (area <= ANNIHILATION + delta)


def match_external(time: np.ndarray, external_time: np.ndarray, max_delay: int) -> np.ndarray:
    """Return which times are followed by an external one within 0 to `max_delay` ns.

    Each external time is used once, for the earliest that it fits.

    Parameters
    ----------
    time, external_time
        Sorted times [ns], shapes (n,) and (m,). Negative times match nothing.
    max_delay
        ns, included.

    Returns
    -------
    Shape (n,), bool.
    """
    result = np.zeros(len(time), dtype=np.bool_)
    _match_external(time, external_time, max_delay, result)
    return result


@kernel(column(I64), column(I64), I64, output(BOOL))
def _match_external(time, external_time, max_delay, result):
    j = 0
    for i in range(len(time)):
        if time[i] < 0:
            continue
        while j < len(external_time) and external_time[j] < time[i]:
            j += 1
        if j < len(external_time) and external_time[j] - time[i] <= max_delay:
            result[i] = True
            j += 1
