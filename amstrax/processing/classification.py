"""Types of peaks from the shape of their light in time, its pattern, and their size.

S1 light decays within `window`; the light of an electron is spread over its way through the gas.
``n`` is the number of peaks.
"""

from typing import NamedTuple

import numpy as np

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import F32, F64, I32, column, kernel, output, row
from amstrax.processing.peaks import S1, S2, UNKNOWN

#: S2s may always be this much of the expected width [1]
_LEAST_WIDTH = 0.75


class Shape(NamedTuple):
    """Largest fractions of the area within short windows, [1], each of shape (n,)."""

    one: np.ndarray  #: within one window
    two: np.ndarray  #: within two windows that do not overlap


class Limits(NamedTuple):
    """Limits between S1s and S2s; without gains, size and pattern do not count (fano None)."""

    window: float  #: S1s are shorter than this [ns]
    prompt_fraction: float  #: least fraction of an S1 within the window [1]
    gas_transit_time: float  #: light of an electron lasts so long [ns]
    min_area: float = -np.inf  #: smaller peaks have no type
    fano: float | None = None  #: variance of an area divided by its mean [PE]
    area_fractions_top: tuple[float, float] = (0.22, 0.71)  #: of S1s and S2s [1]
    s1_min_score: float = -np.inf  #: see `s1_score`
    width_sigmas: float = 3  #: S2s are at most so many standard deviations narrower [1]

    def check(self) -> None:
        """Raise InvalidOption for limits without meaning."""
        for name, value in (
            ("s1_window", self.window),
            ("gas_transit_time", self.gas_transit_time),
        ):
            if not value > 0:
                raise InvalidOption(f"{name}={value!r}: give a time above 0 [ns]")
        if self.fano is not None and not self.fano > 0:
            raise InvalidOption(f"area_fano={self.fano!r}: give an area above 0 [PE]")
        for name in ("s1_area_fraction_top", "s2_area_fraction_top"):
            value = self.area_fractions_top[name.startswith("s2")]
            if not 0 < value < 1:
                raise InvalidOption(f"{name}={value!r}: give a fraction between 0 and 1")
        if not 0.5 < self.prompt_fraction <= 1:
            raise InvalidOption(
                f"s1_prompt_fraction={self.prompt_fraction!r}: give a fraction above 0.5, at most 1"
            )


def shapes(peaks: np.ndarray, window: float) -> Shape:
    """Return the largest fractions of the area of peaks within one and two windows of time.

    The waveform within a sample is taken as even. Fractions are 0 for peaks without area, and for
    those that have less than half of it in any two windows of `window` ns.
    """
    one, two = (np.zeros(len(peaks)) for _ in range(2))
    _shapes(peaks["data"], peaks["length"], peaks["dt"], float(window), one, two)
    return Shape(one, two)


@kernel(column(F32, 2), column(I32), column(I32), F64, output(F64), output(F64))
def _shapes(data, length, dt, window, one, two):
    best_before = np.empty(data.shape[1] + 1, dtype=np.float64)
    for i in range(len(length)):
        n = min(np.int64(length[i]), data.shape[1])
        samples = row(data, i)
        total, highest = 0.0, np.float32(0)
        for j in range(n):
            total += samples[j]
            highest = max(highest, samples[j])
        if not total > 0:
            continue
        w = max(np.int64(np.round(window / dt[i])), np.int64(1))
        # Samples longer than the window hold less of the light in it
        part = min(1.0, window / dt[i])
        if 4 * w * highest < total:
            continue
        best_before[0] = best = best_pair = inside = 0.0
        for j in range(n):
            inside += samples[j]
            if j >= w:
                inside -= samples[j - w]
            best = max(best, inside)
            best_pair = max(best_pair, inside + best_before[max(j + 1 - w, 0)])
            best_before[j + 1] = best
        one[i], two[i] = best / total * part, best_pair / total * part


def s1_score(area: np.ndarray, area_fraction_top: np.ndarray, limits: Limits) -> np.ndarray:
    """Return the log-likelihood ratio of S1 and single electron for light within the window [1].

    Of n = area / fano photoelectrons, n - 1 come in the window after the first by chance, each
    with the probability window / gas_transit_time; those in the top array are binomial. From
    30 PE on time alone decides, since patterns vary with the position.
    """
    assert limits.fano is not None, "scores need areas in PE"
    n = np.maximum(area, 0) / limits.fano
    of_s1, of_s2 = limits.area_fractions_top
    top = np.where(np.isfinite(area_fraction_top), area_fraction_top, 0)
    pattern = top * np.log(of_s1 / of_s2) + (1 - top) * np.log((1 - of_s1) / (1 - of_s2))
    time = np.maximum(n - 1, 0) * np.log(limits.gas_transit_time / limits.window)
    return time + np.where(area < 30, n * pattern, 0)


def types(
    area: np.ndarray,
    area_fraction_top: np.ndarray,
    range_50p: np.ndarray,
    shape: Shape,
    limits: Limits,
) -> tuple[np.ndarray, np.ndarray]:
    """Return types of peaks (0 unknown, 1 S1, 2 S2), and which are two S1s, each (n,).

    S1s have `prompt_fraction` of their area within the window, or within two (double S1s), and at
    least `s1_min_score`. Of the others, S2s have a central 50 % of the area as wide as that of
    light that is even over the transit time T, which is T/2 with a standard deviation of
    T / (2 sqrt(n)) for n photoelectrons; three quarters of it always suffice. `range_50p` are
    widths of the central 50 % of the area [ns], `area` is in PE, all of shape (n,).
    """
    is_prompt = shape.one >= limits.prompt_fraction
    is_double = ~is_prompt & (shape.two >= (1 + limits.prompt_fraction) / 2)
    least_width = limits.gas_transit_time / 2
    if limits.fano is None:
        is_s1, least_width = is_prompt | is_double, least_width / 2
    else:
        is_s1 = s1_score(area, area_fraction_top, limits) >= limits.s1_min_score
        # Two windows are as likely by chance as the smaller of two numbers of photoelectrons
        rest = np.maximum(shape.two - shape.one, 0) * area
        is_double &= s1_score(rest, area_fraction_top, limits) >= limits.s1_min_score
        is_s1 &= is_prompt | is_double
        spread = np.sqrt(limits.fano / np.maximum(area, limits.fano))
        # Saturation, and gain that PMTs lose, narrow large S2s by more than chance
        least_width = least_width * np.minimum(1 - limits.width_sigmas * spread, _LEAST_WIDTH)
    large = area >= limits.min_area
    result = np.full(len(area), UNKNOWN, dtype=np.int16)
    result[large & is_s1] = S1
    result[large & ~is_s1 & ~(is_prompt & (area >= 30)) & (range_50p >= least_width)] = S2
    return result, is_double & (result == S1)
