"""Pulse shape of S1s: prompt fraction, and decay time of the tail.

Excited pairs of xenon atoms decay from a singlet state within some ns and from a triplet state
within some tens of ns, in shares that depend on the particle: A. Hitachi et al., PRB 27 (1983)
5279. ``n`` is the number of peaks.
"""

from typing import NamedTuple

import numpy as np

#: Values of pulse_shape_flag
DONE, NO_S1, TOO_LITTLE_LIGHT, SATURATED, TOO_COARSE, NO_DECAY = range(6)

_STEPS = 30  # of Newton's method; 4 suffice for most


class PulseShape(NamedTuple):
    """Pulse shapes, arrays of shape (n,); NaN where there is none."""

    prompt_fraction: np.ndarray  #: [1]
    decay_time: np.ndarray  #: [ns]
    decay_time_error: np.ndarray  #: standard deviation [ns]


def pulse_shapes(
    data: np.ndarray,
    dt: np.ndarray,
    prompt_time: float,
    tail_start: float,
    tail_length: float,
    fano: float,
) -> PulseShape:
    """Return pulse shapes of waveforms.

    With t the time at which half of the maximum is reached, A the area and f the prompt fraction::

        f = A(up to t + prompt_time) / A

    The tail is that of whole samples from t + `tail_start` on. Waveforms `data` [PE/sample] have
    the shape (n, samples), widths of samples `dt` (n,); times are in ns. `fano` is the variance of
    an area over its mean [PE].
    """
    rise = rise_times(data, dt)
    # Waveforms without a positive sample have no pulse shape
    ok = np.flatnonzero(np.isfinite(rise))
    result = PulseShape(*np.full((3, len(data)), np.nan))
    rise, data, dt = rise[ok], data[ok], dt[ok].astype(np.float64)
    area = data.sum(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        result.prompt_fraction[ok] = areas_before(data, rise + prompt_time, dt) / area
    first = np.ceil((rise + tail_start) / dt).astype(np.int64)
    n_samples = np.floor(tail_length / dt).astype(np.int64)
    result.decay_time[ok], result.decay_time_error[ok] = decay_times(
        data, dt, first, n_samples, fano
    )
    return result


def rise_times(data: np.ndarray, dt: np.ndarray) -> np.ndarray:
    """Return when waveforms first reach half of their maximum [ns after their start], shape (n,).

    Samples, at their middles, are connected by lines. `data` has the shape (n, samples), `dt` is in
    ns; waveforms without a positive sample give NaN.
    """
    half = data.max(axis=1) / 2
    j = (data >= half[:, np.newaxis]).argmax(axis=1)
    rows = np.arange(len(data))
    above, below = data[rows, j], np.where(j > 0, data[rows, j - 1], 0)
    step = np.where(above > below, above - below, np.nan)
    return np.where(half > 0, (j + 0.5 - (above - half) / step) * dt, np.nan)


def areas_before(data: np.ndarray, time: np.ndarray, dt: np.ndarray) -> np.ndarray:
    """Return the area of waveforms up to `time` [ns after their start], shape (n,).

    The sample in which `time` is counts in part.
    """
    position = np.clip(time / dt, 0, data.shape[1])[:, np.newaxis]
    n = min(int(position.max(initial=0)) + 1, data.shape[1])
    part = np.clip(position - np.arange(n), 0, 1)
    return _sums(part * data[:, :n])


def _sums(rows: np.ndarray) -> np.ndarray:
    """Return the sum of each row, which zeros at the end of the rows leave the same to the bit."""
    return np.cumsum(rows, axis=1)[:, -1] if rows.shape[1] else np.zeros(len(rows))


def decay_times(
    data: np.ndarray, dt: np.ndarray, first: np.ndarray, n_samples: np.ndarray, fano: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return decay time and its standard deviation [ns], by maximum likelihood, shape (n,).

    Light of an exponential decay falls by r = exp(-dt / decay time) a sample. The likelihood of the
    samples j = 0 to N - 1 from `first` on is largest where their mean <j>, weighted with area, is
    that of the truncated geometric distribution, with x = dt / decay time::

        <j> = 1 / (exp(x) - 1) - N / (exp(N x) - 1)

    The variance of x is fano / (area x variance of j). Both are NaN where the area is not positive,
    or does not fall. `n_samples`, which is N, and `first` have the shape (n,), other parameters are
    as in `pulse_shapes`; samples beyond waveforms count as 0.
    """
    j = np.arange(min(n_samples.max(initial=0), data.shape[1]))
    sample = first[:, np.newaxis] + j
    tail = np.take_along_axis(data, np.clip(sample, 0, data.shape[1] - 1), axis=1)
    is_tail = (j < n_samples[:, np.newaxis]) & (sample >= 0) & (sample < data.shape[1])
    tail = np.where(is_tail, tail, 0).astype(np.float64)
    area = _sums(tail)

    def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        of_all, of_rest = np.exp(-x), np.exp(-n_samples * x)
        value = of_all / (1 - of_all) - n_samples * of_rest / (1 - of_rest)
        variance = of_all / (1 - of_all) ** 2
        return value, variance - n_samples**2 * of_rest / (1 - of_rest) ** 2

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean = _sums(tail * j) / area
        mean[~((area > 0) & (mean > 0) & (mean < (n_samples - 1) / 2))] = np.nan
        x = np.log1p(1 / mean)
        # Each stops by itself, so that it does not matter what else is in the batch
        is_open = np.isfinite(x)
        for _ in range(_STEPS):
            value, variance = moments(x)
            step = (value - mean) / variance
            # Without truncation x is larger than with it: approach from above, above 0
            x = np.where(is_open, np.maximum(x + step, x / 4), x)
            is_open &= np.abs(step) > 1e-9 * x
            if not is_open.any():
                break
        time = dt / x
        return time, time / x * np.sqrt(fano / (area * moments(x)[1]))
