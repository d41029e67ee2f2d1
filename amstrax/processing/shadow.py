"""Shadow: how much a large S2 before a peak disturbs it, by electrons that come late."""

from typing import NamedTuple

import numpy as np

from amstrax.processing.compiled import BOOL, F32, I64, column, kernel, output

NO_S2 = -1


class Shadow(NamedTuple):
    """Shadow on each peak, and the S2 that casts it; shape (n,)."""

    s2: np.ndarray  #: its index, or NO_S2
    shadow: np.ndarray  #: its area / time since [PE/ns]; 0 without
    delay: np.ndarray  #: time between the centres [ns], at least 1; -1 without


def cast_shadow(
    center_time: np.ndarray, area: np.ndarray, is_large: np.ndarray, window: int
) -> Shadow:
    """Return the shadow on each peak.

    It is the largest of A / t for large S2s of area A, whose centres are a time t of up to `window`
    before that of the peak. Electrons after S2s come with a rate that falls about like 1/t (LUX,
    PRD 102 (2020) 092004; XENON1T, PRD 106 (2022) 022001), in proportion to the electrons of the
    S2. So A / t is a measure of the rate of those that disturb a peak. straxen 4.1 (peak_shadow)
    has the same exponent and window, for S2s above 10,000 PE. `center_time` [ns] and `area` [PE] of
    peaks in order of time, and `is_large`, whether they are S2s that cast a shadow, have the shape
    (n,).
    """
    center_time = np.ascontiguousarray(center_time, dtype=np.int64)
    area = np.ascontiguousarray(area, dtype=np.float32)
    s2 = np.full(len(center_time), NO_S2, dtype=np.int64)
    # Centres of peaks that follow each other need not be in order
    order = np.argsort(center_time, kind="stable")
    _find_dominating(center_time, area, np.asarray(is_large, dtype=bool), order, window, s2)
    has = s2 != NO_S2
    delay = np.full(len(s2), -1, dtype=np.int64)
    delay[has] = np.maximum(center_time[has] - center_time[s2[has]], 1)
    shadow = np.zeros(len(s2))
    shadow[has] = area[s2[has]] / delay[has]
    return Shadow(s2, shadow, delay)


# In Python 20 us a peak. A later and larger S2 dominates an earlier one for ever, so that the
# stack holds areas that decrease with time
@kernel(column(I64), column(F32), column(BOOL), column(I64), I64, output(I64))
def _find_dominating(center_time, area, is_large, order, window, s2):
    stack = np.empty(len(order), dtype=np.int64)
    begin, end = 0, 0
    for i in order:
        while begin < end and center_time[i] - center_time[stack[begin]] > window:
            begin += 1
        largest = 0.0
        for j in range(begin, end):
            delay = max(center_time[i] - center_time[stack[j]], 1)
            shadow = area[stack[j]] / delay
            if shadow > largest:
                largest = shadow
                s2[i] = stack[j]
        if is_large[i]:
            while end > begin and area[stack[end - 1]] <= area[i]:
                end -= 1
            stack[end] = i
            end += 1
