"""Tracks of photons through the liquid xenon of the drift volume.

A photon is scattered (Compton) until it is absorbed or leaves. Left out, as small for what a TPC
of this size resolves: coherent scattering (no energy is deposited), pair production (0.5 % of the
cross-section at 1275 keV), the range of electrons and of fluorescence photons (up to about 1 mm),
binding and motion of electrons (Doppler broadening), and all material but the xenon.

Energies are in keV, lengths in mm. z is 0 at the gate and negative below.
"""

from typing import NamedTuple

import numba
import numpy as np

from amstrax.simulation.detector import Detector, Rng

ELECTRON_MASS = 510.99895  # [keV], CODATA 2018

#: Energy [keV] and cross-sections of xenon for incoherent scattering and photoabsorption [barn per
#: atom]: NIST XCOM 3.1 (M. Berger et al., NBSIR 87-3597), to three digits, on both sides of the K
#: edge. They are interpolated in the logarithms of both, which is within 2 % of XCOM's splines.
CROSS_SECTIONS = np.array(
    [
        (6.0, 8.88, 138_000),
        (8.0, 11.0, 65_400),
        (10.0, 12.8, 36_200),
        (15.0, 16.2, 12_100),
        (20.0, 18.5, 5_470),
        (30.0, 21.2, 1_760),
        (34.5613, 22.0, 1_180),
        (34.5614, 22.0, 7_070),
        (40.0, 22.6, 4_820),
        (50.0, 23.4, 2_680),
        (60.0, 23.8, 1_630),
        (80.0, 23.9, 733),
        (100.0, 23.6, 391),
        (150.0, 22.2, 123),
        (200.0, 20.8, 54.3),
        (300.0, 18.5, 17.5),
        (400.0, 16.8, 8.06),
        (500.0, 15.4, 4.55),
        (600.0, 14.3, 2.92),
        (800.0, 12.6, 1.51),
        (1000.0, 11.4, 0.945),
        (1250.0, 10.2, 0.607),
        (1500.0, 9.25, 0.434),
        (2000.0, 7.90, 0.264),
        (3000.0, 6.22, 0.140),
    ]
)
#: Atoms per volume, in 1/(barn mm), at a density of 1 g/cm^3: Avogadro's number / 131.29 g/mol
ATOMS_AT_UNIT_DENSITY = 0.602214 / 131.29 / 10

_LOG_ENERGY, _LOG_COMPTON, _LOG_ABSORBED = np.log(CROSS_SECTIONS).T.copy()

#: Where photons come from, if not from a point: see `enter`
OUTSIDE, INSIDE = "outside", "inside"


class Tracks(NamedTuple):
    """Deposits of photons, arrays of shape (m,); those of a photon follow each other in order."""

    photon: np.ndarray  # row of the photon
    energy: np.ndarray
    is_compton: np.ndarray  # scattered; else absorbed
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


@numba.njit(cache=True, nogil=True)
def cross_sections(energy):
    """Return cross-sections for incoherent scattering and photoabsorption [barn per atom].

    Photons below 6 keV have those at 6 keV, where they go 5 um on average.
    """
    at = np.log(energy)
    compton = np.exp(np.interp(at, _LOG_ENERGY, _LOG_COMPTON))
    return compton, np.exp(np.interp(at, _LOG_ENERGY, _LOG_ABSORBED))


def enter(
    rng: Rng, n: int, detector: Detector, position: tuple[float, float, float] | str
) -> tuple[np.ndarray, np.ndarray]:
    """Return where `n` photons enter the drift volume, and their directions; both shape (n, 3).

    With a `position`, they come from that point in straight lines. `OUTSIDE`: from everywhere
    outside, equally from all directions (an isotropic flux through wall, top and bottom). `INSIDE`:
    they start in the liquid, uniformly and to all directions.
    """
    if position == OUTSIDE:
        return _enter_from_everywhere(rng, n, detector)
    if position == INSIDE:
        r = detector.radius * np.sqrt(rng.random(n))
        phi, z = rng.uniform(0, 2 * np.pi, n), -detector.gate_cathode_distance * rng.random(n)
        up = np.tile([0.0, 0.0, 1.0], (n, 1))
        direction = _turned(up, rng.uniform(-1, 1, n), rng.uniform(0, 2 * np.pi, n))
        return np.stack([r * np.cos(phi), r * np.sin(phi), z], axis=1), direction
    return _enter_from_point(rng, n, detector, np.array(position))


def _enter_from_everywhere(rng: Rng, n: int, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    radius, depth = detector.radius, detector.gate_cathode_distance
    phi = rng.uniform(0, 2 * np.pi, n)
    outwards = np.stack([np.cos(phi), np.sin(phi), np.zeros(n)], axis=1)
    start = outwards * radius
    start[:, 2] = -depth * rng.random(n)
    # Gate and cathode have radius / (radius + depth) of the surface
    on_end = rng.random(n) < radius / (radius + depth)
    is_top = rng.random(n) < 0.5
    start[on_end, :2] *= np.sqrt(rng.random((n, 1)))[on_end]
    start[on_end, 2] = np.where(is_top, 0.0, -depth)[on_end]
    outwards[on_end] = np.stack([np.zeros(n), np.zeros(n), 2.0 * is_top - 1], axis=1)[on_end]
    # An isotropic flux enters a surface with a density that goes with the cosine
    cosine = np.sqrt(rng.random(n))
    return start, _turned(-outwards, cosine, rng.uniform(0, 2 * np.pi, n))


def _enter_from_point(
    rng: Rng, n: int, detector: Detector, point: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    depth = detector.gate_cathode_distance
    to_center = np.array([0.0, 0.0, -depth / 2]) - point
    distance = np.linalg.norm(to_center)
    around = np.hypot(detector.radius, depth / 2)
    # Only directions in the cone around a sphere that holds the cylinder can enter
    lowest = np.sqrt(1 - (around / distance) ** 2) if distance > around else -1.0
    start, direction = np.empty((n, 3)), np.empty((n, 3))
    left = np.arange(n)
    while len(left):
        cosine = rng.uniform(lowest, 1, len(left))
        axis = np.broadcast_to(to_center / max(distance, 1e-9), (len(left), 3))
        tried = _turned(axis, cosine, rng.uniform(0, 2 * np.pi, len(left)))
        entry = _entry(point, tried, detector.radius, depth)
        hits = np.isfinite(entry)
        start[left[hits]] = point + entry[hits, np.newaxis] * tried[hits]
        direction[left[hits]] = tried[hits]
        left = left[~hits]
    return start, direction


def _entry(point: np.ndarray, direction: np.ndarray, radius: float, depth: float) -> np.ndarray:
    """Return the distance to the cylinder; infinite where the line misses it, 0 from inside."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a = direction[:, 0] ** 2 + direction[:, 1] ** 2
        b = direction[:, :2] @ point[:2]
        root = np.sqrt(b**2 - a * (point[:2] @ point[:2] - radius**2))
        wall = np.stack([(-b - root) / a, (-b + root) / a])
        ends = np.sort(np.stack([-point[2], -depth - point[2]])[:, np.newaxis] / direction[:, 2], 0)
    first, last = np.maximum(wall[0], ends[0]), np.minimum(wall[1], ends[1])
    # NaN: the line misses the wall, and compares as false
    return np.where((last > 0) & (first < last), np.maximum(first, 0), np.inf)


def _turned(axis: np.ndarray, cosine: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Return unit vectors at an angle to `axis`, shape (n, 3), turned by `phi` around it."""
    helper = np.where(np.abs(axis[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(axis, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(axis, first)
    sine = np.sqrt(1 - cosine**2)
    across = first * np.cos(phi)[:, np.newaxis] + second * np.sin(phi)[:, np.newaxis]
    return axis * cosine[:, np.newaxis] + across * sine[:, np.newaxis]


def track(
    rng: Rng, energy: np.ndarray, start: np.ndarray, direction: np.ndarray, detector: Detector
) -> Tracks:
    """Return the deposits of photons that enter with `energy` at `start`, in `direction`.

    Shapes are (n,), (n, 3) and (n, 3). A photon may have no deposit: it has passed. With
    `Detector.multiple_scatters` off, only the first deposit of a photon counts.
    """
    photon, deposited, is_compton, x, y, z = _track(
        rng,
        energy,
        start,
        direction,
        detector.radius,
        detector.gate_cathode_distance,
        detector.xenon_density * ATOMS_AT_UNIT_DENSITY,
        detector.multiple_scatters,
    ).T.copy()
    return Tracks(photon.astype(np.int64), deposited, is_compton > 0, x, y, z)


@numba.njit(cache=True, nogil=True)
def _track(rng, energy, start, direction, radius, depth, atoms, many):
    # Photon, energy, 1 or 0 for scattered or absorbed, x, y, z
    rows = np.empty((4 * len(energy) + 16, 6))
    n = 0
    for i in range(len(energy)):
        left = energy[i]
        x, y, z = start[i, 0], start[i, 1], start[i, 2]
        u, v, w = direction[i, 0], direction[i, 1], direction[i, 2]
        while left > 0:
            compton, absorbed = cross_sections(left)
            both = compton + absorbed
            step = rng.exponential(1.0) / (both * atoms)
            x, y, z = x + step * u, y + step * v, z + step * w
            if x * x + y * y > radius * radius or z > 0 or z < -depth:
                break
            if n == len(rows):
                longer = np.empty((2 * n, 6))
                longer[:n] = rows
                rows = longer
            scattered = rng.random() * both < compton
            deposit = left
            if scattered:
                cosine = _compton_cosine(rng, left / ELECTRON_MASS)
                deposit = left - left / (1 + left / ELECTRON_MASS * (1 - cosine))
                phi = 2 * np.pi * rng.random()
                u, v, w = _scattered(u, v, w, cosine, phi)
            rows[n, 0], rows[n, 1], rows[n, 2] = i, deposit, scattered
            rows[n, 3], rows[n, 4], rows[n, 5] = x, y, z
            n += 1
            left -= deposit
            if not (scattered and many):
                break
    return rows[:n]


@numba.njit(cache=True, nogil=True)
def compton_energies(rng, energy):
    """Return energies that photons of `energy` leave in one Compton scattering; shape (n,)."""
    result = np.empty(len(energy))
    for i in range(len(energy)):
        k = energy[i] / ELECTRON_MASS
        result[i] = energy[i] - energy[i] / (1 + k * (1 - _compton_cosine(rng, k)))
    return result


@numba.njit(cache=True, nogil=True)
def _compton_cosine(rng, k):
    """Draw the cosine of a Compton angle (Klein and Nishina, Z. Phys. 52 (1929) 853), by rejection.

    `k` is the photon's energy over the mass of the electron.
    """
    while True:
        cosine = 2 * rng.random() - 1
        ratio = 1 / (1 + k * (1 - cosine))
        density = ratio * ratio * (ratio + 1 / ratio - 1 + cosine * cosine) / 2  # at most 1
        if rng.random() < density:
            return cosine


@numba.njit(cache=True, nogil=True)
def _scattered(u, v, w, cosine, phi):
    """Return a unit vector at an angle of `cosine` to (u, v, w), turned by `phi` around it."""
    sine = np.sqrt(1 - cosine * cosine)
    a, b = sine * np.cos(phi), sine * np.sin(phi)
    across = np.sqrt(u * u + v * v)
    if across < 1e-9:
        return a, b, cosine * np.sign(w)
    return (
        u * cosine + (a * u * w - b * v) / across,
        v * cosine + (a * v * w + b * u) / across,
        w * cosine - a * across,
    )
