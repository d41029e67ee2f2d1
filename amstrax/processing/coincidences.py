"""Coincidences of signals in the TPC with signals in an external detector."""

import numpy as np

#: Energy of annihilation photons, in the units of the external areas [keV]
ANNIHILATION = 511


def absorption_peaks(area: np.ndarray, delta: float) -> np.ndarray:
    """Return which external peaks have an area within 511 +- `delta` (bounds included)."""
    return (area >= ANNIHILATION - delta) & (area <= ANNIHILATION + delta)


def match_external(time: np.ndarray, external_time: np.ndarray, max_delay: int) -> np.ndarray:
    """Return which times an external one follows within 0 to `max_delay` ns, shape (n,), bool.

    Both are sorted [ns]; negative times match nothing. Each external time is used once, for the
    earliest time that it fits.
    """
    usable = np.flatnonzero(time >= 0)
    first = np.searchsorted(time[usable], external_time - max_delay)
    beyond = np.searchsorted(time[usable], external_time, side="right")
    result = np.zeros(len(time), dtype=np.bool_)
    unmatched = 0
    for start, stop in zip(first.tolist(), beyond.tolist(), strict=True):
        i = max(start, unmatched)
        if i < stop:
            result[usable[i]] = True
            unmatched = i + 1
    return result
