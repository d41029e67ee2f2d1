"""Drift of electrons to the gas, and photoelectrons of S1s and S2s.

Lengths are in mm, times in ns since the start of the run. z is 0 at the gate and negative below.
"""

import math
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

from amstrax.simulation.detector import Detector, Rng
from amstrax.simulation.optics import Patterns
from amstrax.simulation.sources import Deposits, Interaction, positions

S2_BIN = 10.0  # photoelectrons of an S2 within so many ns are one entry
S2_BRIGHT = 500  # so are the electrons of clouds of more than this
S1_BIN = 1.0  # so are those of an S1 within so many ns, if more photons than this are detected
S1_BRIGHT = 500


class Origin(IntEnum):
    """Origin of photoelectrons."""

    S1 = 0  #: scintillation of a deposit
    S2 = 1  #: electrons of a deposit
    AFTERPULSE = 2  #: ions in a PMT
    DARK_COUNT = 3  #: none
    PHOTOIONISATION = 4  #: electrons that the light of S1 or S2 sets free
    DELAYED_ELECTRON = 5  #: electrons that come long after the S2
    LED = 6  #: flash of the LED


NO_DEPOSIT = -1


class Light(NamedTuple):
    """Photoelectrons, arrays of shape (n,): those of an entry come at the same time."""

    time: np.ndarray
    channel: np.ndarray
    n_pe: np.ndarray  # [PE]
    #: Row of the deposit that caused them, also by after-pulses; NO_DEPOSIT: none. LED runs: flash
    deposit: np.ndarray
    origin: np.ndarray  #: an `Origin`

    @classmethod
    def of(
        cls,
        origin: Origin,
        time: np.ndarray,
        channel: np.ndarray,
        deposit: np.ndarray | int = NO_DEPOSIT,
        n_pe: np.ndarray | int = 1,
    ) -> "Light":
        """Return light of one `origin`, by default of single photoelectrons."""
        n = len(time)
        return cls(
            time,
            np.asarray(channel, dtype=np.int16),
            np.full(n, n_pe, dtype=np.int64),
            np.full(n, deposit, dtype=np.int64),
            np.full(n, origin, dtype=np.int8),
        )

    def event(self, deposits: Deposits) -> np.ndarray:
        """Return the event of each entry, -1 for those of no deposit; shape (n,)."""
        # The last row serves those without a deposit
        return np.append(deposits.event, -1)[self.deposit]


Columns = TypeVar("Columns", bound=tuple)


def join(*parts: Columns) -> Columns:
    """Concatenate named tuples of arrays, such as `Light`."""
    kind: Any = type(parts[0])
    return kind(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def is_pmt(detector: Detector) -> np.ndarray:
    """Return whether each channel has a PMT of the TPC, by channel from 0."""
    result = np.zeros(max(detector.channels) + 1, dtype=np.bool_)
    result[list(detector.tpc_channels)] = True
    return result


class OfDeposits(NamedTuple):
    """Light of deposits in the PMTs of the TPC, arrays of shape (n,)."""

    n_pe: np.ndarray  # [PE]
    moment: np.ndarray  # sum of times after the deposit, photoelectron by photoelectron [ns]
    last: np.ndarray  # time of the last light, that of the deposit without light [ns]


def of_deposits(light: Light, deposits: Deposits, detector: Detector) -> OfDeposits:
    """Return sums over the light of each deposit, all of which have one."""
    n_pe = np.where(is_pmt(detector)[light.channel], light.n_pe, 0)
    # Relative to the deposit, since sums of times are too large for exact floats
    delay = light.time - deposits.time[light.deposit]
    last = deposits.time.copy()
    np.maximum.at(last, light.deposit, light.time)
    total = np.bincount(light.deposit, n_pe, len(last)).astype(np.int64)
    return OfDeposits(total, np.bincount(light.deposit, n_pe * delay, len(last)), last)


def drift_times(z: np.ndarray, detector: Detector) -> np.ndarray:
    """Return times from the deposit to the middle of the S2's light.

    They are linear in z, the inverse of the formula for z of event_positions.
    """
    return detector.drift_time_gate - z / detector.drift_velocity


def surviving(rng: Rng, electrons: np.ndarray, times: np.ndarray, detector: Detector) -> np.ndarray:
    """Return how many of `electrons` impurities do not catch: exp(-t / electron lifetime)."""
    return rng.binomial(electrons, np.exp(-times / detector.electron_lifetime))


def extracted(rng: Rng, electrons: np.ndarray, detector: Detector) -> np.ndarray:
    """Return how many of `electrons` are extracted from the liquid into the gas."""
    return rng.binomial(electrons, detector.extraction_efficiency)


def arrival_spread(times: np.ndarray, detector: Detector) -> np.ndarray:
    """Return the standard deviation of arrival times: sqrt(2 D t) / v by longitudinal diffusion."""
    return np.sqrt(2 * detector.diffusion_longitudinal * times) / detector.drift_velocity


def arrival_times(
    rng: Rng,
    deposit_times: np.ndarray,
    drift: np.ndarray,
    electrons: np.ndarray,
    detector: Detector,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times at which electrons begin to give light.

    Deposits have a time, a drift time and a number of `electrons` in the gas, of shape (n,).

    Returns
    -------
    times
        Cloud by cloud, shape (m,). Those of up to `S2_BRIGHT` electrons have one for each. Those of
        larger clouds have one for all electrons within `S2_BIN`, of which the numbers are
        multinomial.
    sizes
        Number of electrons of each time, shape (m,).
    counts
        Number of times of each cloud, shape (n,).
    """
    # Electrons give light evenly in the gas: the drift time is that to the middle of it
    mean = deposit_times + drift - detector.gas_transit_time / 2
    return _arrivals(rng, mean, arrival_spread(drift, detector), electrons, S2_BRIGHT)


@numba.njit(cache=True, nogil=True)
def _arrivals(rng, mean, spread, electrons, most):
    reach = 6.0  # standard deviations, beyond which 2e-9 of the electrons are
    capacity = 0
    for i in range(len(mean)):
        n_bins = int(2 * reach * spread[i] / S2_BIN) + 1
        capacity += electrons[i] if electrons[i] <= most else min(n_bins, electrons[i])
    times = np.empty(capacity)
    sizes = np.empty(capacity, dtype=np.int64)
    counts = np.zeros(len(mean), dtype=np.int64)
    n = 0
    for i in range(len(mean)):
        first = n
        if electrons[i] <= most:
            for _ in range(electrons[i]):
                times[n], sizes[n] = rng.normal(mean[i], spread[i]), 1
                n += 1
            counts[i] = n - first
            continue
        n_bins = int(2 * reach * spread[i] / S2_BIN) + 1
        left, above = electrons[i], 1.0  # electrons, and their share, from this bin on
        edge = -n_bins / 2 * S2_BIN
        for b in range(n_bins):
            beyond = 0.0
            if b < n_bins - 1:
                beyond = math.erfc((edge + S2_BIN) / spread[i] / math.sqrt(2.0)) / 2
            k = left if beyond <= 0 else rng.binomial(left, max(1 - beyond / above, 0.0))
            if k > 0:
                # The mean of k times that are uniform in the bin
                within = 0.5 + (rng.random() - 0.5) / math.sqrt(k) if spread[i] > 0 else 0.5
                times[n], sizes[n] = mean[i] + edge + within * S2_BIN, k
                n += 1
            edge, above, left = edge + S2_BIN, beyond, left - k
            if left == 0:
                break
        counts[i] = n - first
    return times[:n], sizes[:n], counts


def mean_positions(
    rng: Rng, position: np.ndarray, drift: np.ndarray, electrons: np.ndarray, detector: Detector
) -> np.ndarray:
    """Return x or y of the middle of each cloud of electrons, after transverse diffusion."""
    spread = np.sqrt(2 * detector.diffusion_transverse * drift / np.maximum(electrons, 1))
    return rng.normal(position, spread)


def _with_sipm(
    pmts: np.ndarray, sipm: np.ndarray, detector: Detector
) -> tuple[np.ndarray, np.ndarray]:
    """Return light of PMTs and, in a detector with one, SiPM; and their channels."""
    channels = np.array(detector.tpc_channels, dtype=np.int16)
    if detector.sipm_channel is None:
        return pmts, channels
    return np.concatenate([pmts, sipm], axis=1), np.append(
        channels, np.int16(detector.sipm_channel)
    )


def s1_photoelectrons(
    rng: Rng, deposits: Deposits, photons: np.ndarray, patterns: Patterns, detector: Detector
) -> Light:
    """Return the photoelectrons of scintillation light.

    A detected photon gives two with the probability `Detector.dpe_probability`; g1 counts both.
    """
    probability = patterns.s1(deposits.x, deposits.y, deposits.z) / (1 + detector.dpe_probability)
    sipm = detector.sipm_share * probability.sum(axis=1, keepdims=True)
    probability, channels = _with_sipm(probability, sipm, detector)
    total = np.maximum(probability.sum(axis=1, keepdims=True), 1.0)
    lost = 1 - np.minimum(probability.sum(axis=1, keepdims=True), 1.0)
    shares = np.concatenate([probability / total, lost], axis=1)
    counts = rng.multinomial(photons, shares)[:, :-1]
    bright = counts.sum(axis=1) > S1_BRIGHT
    faint = np.where(bright[:, np.newaxis], 0, counts).ravel()
    deposit, column = np.divmod(np.arange(faint.size), counts.shape[1])
    which = np.repeat(deposit, faint)
    channel = channels[np.repeat(column, faint)]
    times = scintillation_times(rng, deposits.kind[which], detector)
    light = Light.of(Origin.S1, times, channel, which, 1 + doubled(rng, channel, detector))
    # One entry for each channel and bin of `S1_BIN`
    times, column, n_pe, which = _scintillation_bins(
        rng,
        np.flatnonzero(bright),
        counts,
        singlet_shares(deposits.kind, detector),
        detector.singlet_time,
        detector.triplet_time,
        _doubling(channels, detector),
    )
    light = join(light, Light.of(Origin.S1, times, channels[column], which, n_pe))
    return light._replace(time=deposits.time[light.deposit] + light.time)


@numba.njit(cache=True, nogil=True)
def _scintillation_bins(rng, rows, counts, singlet_share, singlet_time, triplet_time, doubling):
    """Photons in bins of S1_BIN ns: the decay in each bin is binomial for those that are left."""
    few = 10  # photons, from which on each is drawn
    n_bins = int(40 * max(singlet_time, triplet_time) / S1_BIN) + 1
    capacity = 0
    for i in rows:
        for c in range(counts.shape[1]):
            capacity += min(n_bins, counts[i, c])
    time = np.empty(capacity)
    column = np.empty(capacity, dtype=np.int64)
    n_pe = np.empty(capacity, dtype=np.int64)
    deposit = np.empty(capacity, dtype=np.int64)
    in_bin = np.zeros(n_bins, dtype=np.int64)
    n = 0
    for i in rows:
        for c in range(counts.shape[1]):
            if counts[i, c] == 0:
                continue
            in_bin[:] = 0
            singlets = rng.binomial(counts[i, c], singlet_share[i])
            for total, decay in ((singlets, singlet_time), (counts[i, c] - singlets, triplet_time)):
                left, b, share = total, 0, -math.expm1(-S1_BIN / decay)
                while left > few and b < n_bins:
                    k = rng.binomial(left, share)
                    in_bin[b] += k
                    left -= k
                    b += 1
                for _ in range(left):
                    later = b + int(rng.exponential(decay) / S1_BIN)
                    in_bin[min(later, n_bins - 1)] += 1
            for b in range(n_bins):
                k = in_bin[b]
                if k > 0:
                    # The mean of k times that are uniform in the bin
                    time[n] = (b + 0.5 + (rng.random() - 0.5) / math.sqrt(k)) * S1_BIN
                    column[n], deposit[n] = c, i
                    n_pe[n] = k + _doubled(rng, k, doubling[c])
                    n += 1
    return time[:n], column[:n], n_pe[:n], deposit[:n]


@numba.njit(cache=True, nogil=True)
def _doubled(rng, photons, probability):
    """Return the number of second photoelectrons of detected photons."""
    if photons > 3:
        return rng.binomial(photons, probability) if probability > 0 else 0
    seconds = 0
    for _ in range(photons):
        seconds += rng.random() < probability
    return seconds


def scintillation_times(rng: Rng, kind: np.ndarray, detector: Detector) -> np.ndarray:
    """Return decay times of singlets and triplets."""
    singlet = rng.random(len(kind)) < singlet_shares(kind, detector)
    return rng.exponential(np.where(singlet, detector.singlet_time, detector.triplet_time))


def singlet_shares(kind: np.ndarray, detector: Detector) -> np.ndarray:
    """Return the share of light from singlets for each `Interaction` in `kind`."""
    share = np.full(len(kind), detector.singlet_share_electrons)
    share[kind == Interaction.ALPHA] = detector.singlet_share_alphas
    share[kind == Interaction.NUCLEAR_RECOIL] = detector.singlet_share_recoils
    return share


def doubled(rng: Rng, channel: np.ndarray, detector: Detector) -> np.ndarray:
    """Return the number of second photoelectrons of each detected photon: 0 or 1."""
    return (rng.random(len(channel)) < _doubling(channel, detector)).astype(np.int64)


def _doubling(channel: np.ndarray, detector: Detector) -> np.ndarray:
    """Return the probability of a second photoelectron in each channel: 0 in the SiPM."""
    return np.where(channel == detector.sipm_channel, 0.0, detector.dpe_probability)


def electron_gains(rng: Rng, sizes: np.ndarray, detector: Detector) -> np.ndarray:
    """Return the light of groups of electrons, in units of the mean of one.

    That of an electron has a gamma distribution, and so has a sum of them.
    """
    spread = detector.se_gain_spread
    return rng.gamma(sizes / spread**2, spread**2) if spread else sizes.astype(np.float64)


def s2_photoelectrons(
    rng: Rng,
    arrivals: tuple[np.ndarray, np.ndarray, np.ndarray],
    deposit: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    patterns: Patterns,
    detector: Detector,
    origin: Origin = Origin.S2,
) -> Light:
    """Return the photoelectrons of electrons, which give light evenly while they cross the gas.

    `arrivals` are those of `arrival_times`, cloud by cloud. Clouds have the row of their `deposit`
    and a position in the gas, of shape (n,).
    """
    photons_per_electron = detector.se_gain / (1 + detector.dpe_probability)
    per_channel = photons_per_electron * patterns.s2(x, y)
    sipm = np.full((len(x), 1), photons_per_electron * detector.sipm_share)
    per_channel, channels = _with_sipm(per_channel, sipm, detector)
    times, sizes, counts = arrivals
    gains = electron_gains(rng, sizes, detector)
    ends, transit = np.cumsum(counts), detector.gas_transit_time
    doubling = _doubling(channels, detector)
    if np.all(counts <= 1) and np.all(sizes == 1):
        # Photon by photon: most bins would be empty
        photons = rng.poisson(gains[:, np.newaxis] * per_channel[counts > 0])
        entry = np.repeat(np.arange(photons.size), photons.ravel())
        electron, column = np.divmod(entry, photons.shape[1])
        time = times[electron] + transit * rng.random(len(entry))
        n_pe = 1 + doubled(rng, channels[column], detector)
        cloud = np.flatnonzero(counts)[electron]
    else:
        time, column, n_pe, cloud = _electroluminescence(
            rng, times, gains, ends - counts, ends, per_channel, transit, doubling
        )
    return Light.of(origin, time, channels[column], deposit[cloud], n_pe)


def causes(rng: Rng, light: Light, detector: Detector, probability: float) -> np.ndarray:
    """Return rows of `light`, one for each photoelectron in a PMT of the TPC that causes something.

    Each does with `probability`.
    """
    if not probability:
        return np.zeros(0, dtype=np.int64)
    return _causes(rng, light.n_pe, light.channel, is_pmt(detector), probability)


@numba.njit(cache=True, nogil=True)
def _causes(rng, n_pe, channel, able, probability):
    # An array that grows in this loop takes six times as long
    rows = [0 for _ in range(0)]
    wait = rng.geometric(probability)  # photoelectrons until the next that causes something
    for i in range(len(n_pe)):
        if not able[channel[i]]:
            continue
        wait -= n_pe[i]
        while wait <= 0:
            rows.append(i)
            wait += rng.geometric(probability)
    return np.array(rows) if len(rows) else np.zeros(0, dtype=np.int64)


def photoionisation(rng: Rng, cause: Light, patterns: Patterns, detector: Detector) -> Light:
    """Return the light of electrons that the light `cause` sets free anywhere in the liquid.

    They belong to the deposit of that light. The chance of each photoelectron that a PMT sees is
    `Detector.photoionisation_probability`.
    """
    parent = causes(rng, cause, detector, detector.photoionisation_probability)
    x, y, z = positions(rng, len(parent), detector)
    drift = drift_times(z, detector)
    one = np.ones(len(parent), dtype=np.int64)
    in_gas = extracted(rng, surviving(rng, one, drift, detector), detector)
    arrivals = arrival_times(rng, cause.time[parent], drift, in_gas, detector)
    deposit = cause.deposit[parent]
    return s2_photoelectrons(
        rng, arrivals, deposit, x, y, patterns, detector, Origin.PHOTOIONISATION
    )


def delayed_electrons(
    rng: Rng,
    s2_times: np.ndarray,
    electrons: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    patterns: Patterns,
    detector: Detector,
) -> Light:
    """Return the light of single electrons long after S2s, where the S2s were.

    Deposits have the mean time of their S2, a number of `electrons` in the gas and a position
    there, of shape (n,). The rate of later electrons falls like a power of time.
    """
    n = rng.binomial(electrons, detector.delayed_electron_probability)
    which = np.repeat(np.arange(len(n)), n)
    delay = power_law(
        rng,
        len(which),
        detector.delayed_electron_exponent,
        detector.delayed_electron_first,
        detector.delayed_electron_last,
    )
    one = np.ones(len(which), dtype=np.int64)
    arrivals = s2_times[which] + delay - detector.gas_transit_time / 2, one, one
    place = x[which], y[which]
    return s2_photoelectrons(
        rng, arrivals, which, *place, patterns, detector, Origin.DELAYED_ELECTRON
    )


def power_law(rng: Rng, n: int, exponent: float, first: float, last: float) -> np.ndarray:
    """Return `n` numbers from `first` to `last` with the density t^-exponent."""
    u, power = rng.random(n), 1 - exponent
    if abs(power) < 1e-9:
        return first * (last / first) ** u
    return (first**power + u * (last**power - first**power)) ** (1 / power)


@numba.njit(cache=True, nogil=True)
def _electroluminescence(rng, arrivals, gains, starts, ends, per_channel, transit, doubling):
    """Light in bins of S2_BIN ns, Poisson around that of the electrons in the gas."""
    n_channels = per_channel.shape[1]
    capacity = 0
    for i in range(len(starts)):
        if ends[i] > starts[i]:
            own = arrivals[starts[i] : ends[i]]
            capacity += (int((own.max() - own.min() + transit) / S2_BIN) + 3) * n_channels
    time = np.empty(capacity)
    column = np.empty(capacity, dtype=np.int64)
    n_pe = np.empty(capacity, dtype=np.int64)
    deposit = np.empty(capacity, dtype=np.int64)
    n = 0
    for i in range(len(starts)):
        if ends[i] == starts[i]:
            continue
        own = arrivals[starts[i] : ends[i]]
        first = own.min()
        n_bins = int((own.max() - first + transit) / S2_BIN) + 3
        # Light in each bin, in units of a mean electron's: the running sum of starts minus ends
        slope = np.zeros(n_bins + 1)
        for e in range(starts[i], ends[i]):
            enters = arrivals[e] - first
            for position, sign in ((enters, gains[e]), (enters + transit, -gains[e])):
                b = int(position / S2_BIN)
                inside = 1 - (position / S2_BIN - b)  # share of the bin after that moment
                slope[b] += sign * inside
                slope[b + 1] += sign * (1 - inside)
        light = 0.0
        for b in range(n_bins):
            light += slope[b]
            if light <= 1e-9:
                continue
            for c in range(n_channels):
                mean = light * S2_BIN / transit * per_channel[i, c]
                # Photons with one photoelectron and with two are independent
                singles, doubles = rng.poisson(mean * (1 - doubling[c])), 0
                if doubling[c] > 0:
                    doubles = rng.poisson(mean * doubling[c])
                k = singles + doubles
                if k > 0:
                    # The mean of k times that are uniform in the bin
                    within = 0.5 + (rng.random() - 0.5) / math.sqrt(k)
                    time[n] = first + (b + within) * S2_BIN
                    column[n] = c
                    n_pe[n] = singles + 2 * doubles
                    deposit[n] = i
                    n += 1
    return time[:n], column[:n], n_pe[:n], deposit[:n]
