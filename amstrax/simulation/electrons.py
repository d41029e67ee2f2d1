"""Electrons on their way from where they were freed to the gas.

Lengths are in mm, times in ns. z is 0 at the gate and negative below.
"""

import numpy as np

from amstrax.simulation.detector import Detector


def drift_times(z: np.ndarray, detector: Detector) -> np.ndarray:
    """Return times from the deposit to the middle of the S2's light.

    Linear in z with the times of gate and cathode: the inverse of the formula with which
    event_positions computes z.
    """
    return detector.drift_time_gate - z / detector.drift_velocity


def surviving(
    rng: np.random.Generator, electrons: np.ndarray, times: np.ndarray, detector: Detector
) -> np.ndarray:
    """Return how many of `electrons` are not caught by impurities: exp(-t / electron lifetime)."""
    return rng.binomial(electrons, np.exp(-times / detector.electron_lifetime))


def extracted(rng: np.random.Generator, electrons: np.ndarray, detector: Detector) -> np.ndarray:
    """Return how many of `electrons` get from the liquid into the gas."""
    return rng.binomial(electrons, detector.extraction_efficiency)


def arrival_spread(times: np.ndarray, detector: Detector) -> np.ndarray:
    """Return the standard deviation of arrival times: sqrt(2 D t) / v by longitudinal diffusion."""
    return np.sqrt(2 * detector.diffusion_longitudinal * times) / detector.drift_velocity


def arrival_times(
    rng: np.random.Generator,
    deposit_times: np.ndarray,
    drift: np.ndarray,
    electrons: np.ndarray,
    detector: Detector,
) -> np.ndarray:
    """Return when each electron begins to give light, shape (sum of `electrons`,).

    Parameters
    ----------
    rng
        Source of random numbers.
    deposit_times, drift, electrons
        Of each deposit: time, drift time, number of electrons that reach the gas; shape (n,).
    detector
        Its numbers.
    """
    # Light comes, evenly, from the start of the gas to its end: its middle is the drift time's end
    mean = deposit_times + drift - detector.gas_transit_time / 2
    spread = arrival_spread(drift, detector)
    return rng.normal(np.repeat(mean, electrons), np.repeat(spread, electrons))


def mean_positions(
    rng: np.random.Generator,
    position: np.ndarray,
    drift: np.ndarray,
    electrons: np.ndarray,
    detector: Detector,
) -> np.ndarray:
    """Return where, along x or y, the middle of each cloud arrives, after transverse diffusion."""
    spread = np.sqrt(2 * detector.diffusion_transverse * drift / np.maximum(electrons, 1))
    return rng.normal(position, spread)
