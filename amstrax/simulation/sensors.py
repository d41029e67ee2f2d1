"""Signals of PMTs, SiPM and NaI detector: charges, after-pulses, dark counts, pulse shapes.

Charges are in photoelectrons (keV for the NaI detector), times in ns since the start of the run.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np

from amstrax.simulation.detector import Detector, Rng
from amstrax.simulation.light import Light, Origin, causes, is_pmt
from amstrax.simulation.sources import ELECTRON_MASS, External, event_times

PHASES = 20  # pulse shapes are tabulated at so many times within a sample
_AREA_LEFT_OUT = 1e-3  # of a pulse's tail; the rest is scaled to the whole area


class Signals(NamedTuple):
    """Charges of the sensors, arrays of shape (n,)."""

    time: np.ndarray
    channel: np.ndarray
    charge: np.ndarray

    @classmethod
    def none(cls) -> "Signals":
        return cls(np.zeros(0), np.zeros(0, dtype=np.int16), np.zeros(0))


def dark_counts(rng: Rng, detector: Detector, start: float, end: float) -> Light:
    """Return photoelectrons without light, from `start` to `end`."""
    rates = dict.fromkeys(detector.tpc_channels, detector.dark_rate)
    if detector.sipm_channel is not None:
        rates[detector.sipm_channel] = detector.sipm_dark_rate
    times = [event_times(rng, rate, start, end) for rate in rates.values()]
    channels = np.repeat(list(rates), [len(part) for part in times])
    return Light.of(Origin.DARK_COUNT, np.concatenate(times), channels)


def afterpulses(rng: Rng, light: Light, detector: Detector) -> Light:
    """Return later single photoelectrons of ions in the PMTs that saw `light`.

    They belong to the deposit of that light.
    """
    parent = causes(rng, light, detector, detector.afterpulse_probability)
    mean, spread, share = np.array(detector.afterpulse_delays).T
    kind = rng.choice(len(share), size=len(parent), p=share / share.sum())
    delay = np.maximum(rng.normal(mean[kind], spread[kind]), 0)
    time, channel = light.time[parent] + delay, light.channel[parent]
    return Light.of(Origin.AFTERPULSE, time, channel, light.deposit[parent])


def charges(rng: Rng, light: Light, detector: Detector) -> Signals:
    """Return the signals of photoelectrons, with the spread of sensors in time and charge."""
    mean, spread = photoelectron_moments(detector)
    delay, charge = _delays_and_charges(
        rng,
        light.n_pe,
        is_pmt(detector)[light.channel],
        detector.transit_time_spread,
        (
            *(detector.photoelectron_small, detector.photoelectron_small_size / mean),
            *(1 / mean, detector.photoelectron_spread / mean, spread),
        ),
        detector.sipm_crosstalk,
        detector.sipm_spread,
    )
    return Signals(light.time + delay, light.channel, charge)


@numba.njit(cache=True, nogil=True)
def _delays_and_charges(rng, counts, in_pmt, transit_spread, of_pmt, crosstalk, cell_spread):
    """Return mean delays and summed charges of `counts` photoelectrons each.

    `of_pmt` are the parameters of `_sum_of_charges`.
    """
    delay, charge = np.empty(len(counts)), np.empty(len(counts))
    for i in range(len(counts)):
        if counts[i] == 0:
            delay[i] = charge[i] = 0.0
            continue
        delay[i] = transit_spread * rng.standard_normal() / math.sqrt(counts[i])
        if in_pmt[i]:
            charge[i] = _sum_of_charges(rng, counts[i], *of_pmt)
            continue
        cells, new = counts[i], counts[i]
        # Avalanches start others, which may start others again: a geometric series
        while new > 0:
            new = rng.binomial(new, crosstalk) if crosstalk > 0 else 0
            cells += new
        # Scaled such that crosstalk does not change the mean
        drawn = cells + cell_spread * math.sqrt(cells) * rng.standard_normal()
        charge[i] = (1 - crosstalk) * max(drawn, 0.0)
    return delay, charge


def base_gain(
    time: np.ndarray, charge: np.ndarray, before: tuple[float, float], detector: Detector
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gain of a PMT for each of its sorted signals, 1 at rest, and the charge after it.

    The charge Q that the capacitors of the base lack after earlier signals [PE] reduces the gain to
    1 / (1 + Q / pmt_saturation_charge). It decays within pmt_recovery_time. `before` is that charge
    at an earlier time, and the time.
    """
    return _base_gain(
        time, charge, *before, detector.pmt_saturation_charge, detector.pmt_recovery_time
    )


@numba.njit(cache=True, nogil=True)
def _base_gain(time, charge, lacking, since, half, recovery):
    gain, after = np.empty(len(time)), np.empty(len(time))
    for i in range(len(time)):
        lacking *= np.exp(-(time[i] - since) / recovery)
        gain[i] = 1 / (1 + lacking / half)
        lacking += charge[i] * gain[i]
        after[i], since = lacking, time[i]
    return gain, after


def photoelectron_moments(detector: Detector) -> tuple[float, float]:
    """Return mean of the charge of a photoelectron, and standard deviation / mean.

    The unit is the peak of full-size ones, which are Gaussian, truncated at zero. Small ones are
    exponential.
    """
    from scipy.stats import truncnorm

    full_mean, full_spread = 1.0, 0.0
    if detector.photoelectron_spread > 0:
        below_zero = -1 / detector.photoelectron_spread
        full = truncnorm(below_zero, np.inf, loc=1, scale=detector.photoelectron_spread)
        full_mean, full_spread = full.mean(), full.std()
    small, size = detector.photoelectron_small, detector.photoelectron_small_size
    mean = (1 - small) * full_mean + small * size
    square = (1 - small) * (full_mean**2 + full_spread**2) + small * 2 * size**2
    return mean, np.sqrt(square - mean**2) / mean


@numba.njit(cache=True, nogil=True)
def _sum_of_charges(rng, count, small, small_size, full_size, full_spread, spread_of_any):
    """Return the summed charge of `count` photoelectrons; Gaussian for more than 20."""
    if count > 20:
        return max(count + spread_of_any * math.sqrt(count) * rng.standard_normal(), 0.0)
    result = 0.0
    for _ in range(count):
        if rng.random() < small:
            result += rng.exponential(small_size)
            continue
        drawn = -1.0
        while drawn < 0:
            drawn = full_size + full_spread * rng.standard_normal()
        result += drawn
    return result


def external_signals(
    rng: Rng, external: External, detector: Detector
) -> tuple[Signals, np.ndarray]:
    """Return the signals of the NaI detector, and measured energies [keV].

    The resolution scales with the root of the energy.
    """
    if detector.external_channel is None:
        return Signals.none(), np.zeros(0)
    spread = detector.external_resolution * np.sqrt(external.energy * ELECTRON_MASS)
    measured = np.maximum(rng.normal(external.energy, spread), 0)
    channel = np.full(len(measured), detector.external_channel, dtype=np.int16)
    return Signals(external.time + detector.external_delay, channel, measured), measured


def pulse_shapes(detector: Detector, channel: int) -> tuple[np.ndarray, int]:
    """Return the shape of a pulse of unit area in `channel`.

    It is a Gaussian convolved with an exponential decay. Its mean is at the time of the signal,
    without common delays; the pulse of the NaI detector starts at that time.

    Returns
    -------
    shapes
        For signals at the start of a sample, and 1/PHASES of a sample later each; shape
        (PHASES, samples); the sum of each is 1.
    first
        Number of its first sample, from the sample of the signal's time on.
    """
    rise, fall, mean = detector.pmt_rise, detector.pmt_fall, 0.0
    if channel == detector.external_channel:
        rise, fall = detector.external_rise, detector.external_fall
        mean = 2 * rise + fall
    elif channel == detector.sipm_channel:
        rise, fall = detector.sipm_rise, detector.sipm_fall
    return _pulse_shapes(rise, fall, mean, detector.dt)


@lru_cache(maxsize=32)
def _pulse_shapes(rise: float, fall: float, mean: float, dt: int) -> tuple[np.ndarray, int]:
    from scipy.stats import exponnorm

    shape = exponnorm(fall / rise, loc=mean - fall, scale=rise)
    first = int(np.floor(shape.ppf(_AREA_LEFT_OUT / 10) / dt))
    last = int(np.ceil(shape.ppf(1 - _AREA_LEFT_OUT) / dt)) + 1
    phases = (np.arange(PHASES) + 0.5) / PHASES
    # The ADC samples in the middle
    middles = np.arange(first, last) + 0.5
    shapes = shape.pdf((middles[np.newaxis, :] - phases[:, np.newaxis]) * dt)
    return shapes / shapes.sum(axis=1, keepdims=True), first
