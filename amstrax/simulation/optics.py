"""Light patterns: which PMT sees how much of the light from where.

A `Geometry` is traced photon by photon: diffuse reflection by walls, absorption and Rayleigh
scattering in the liquid, refraction and total reflection at its surface, transparency of the
meshes. A `LightMap` is a fit of smooth functions to the traced photons, kept in a file with all
its parameters. Lengths are in mm; z is 0 at the gate and negative below. ::

    python -m amstrax.simulation.optics xams xamsl --output FOLDER

makes the maps of the package again, in under a minute.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from immutabledict import immutabledict

from amstrax import strict_json
from amstrax.common import XAMS_VOLUME, XAMSL_VOLUME
from amstrax.exceptions import InvalidOption, did_you_mean
from amstrax.simulation.detector import Detector, Rng

_MAPS = Path(__file__).with_name("light_maps")
_EDGE = 1e-3  # distance to walls and electrodes at which points of light begin [mm]
# Highest powers of the distance from the axis and of the depth in the fits
_S1_POWERS, _S2_POWERS = (10, 10), (12, 0)


class Window(NamedTuple):
    """The sensitive part of a PMT's window."""

    x: float  # of the centre [mm]
    y: float
    half_width: float  # of the square, or radius of the disc [mm]
    is_square: bool


@dataclass(frozen=True)
class Geometry:
    """Surfaces that light meets, and what they do with it.

    "Assumed" numbers are without a measurement in the project's data. QE and collection efficiency
    are not part of it: `Detector.g1` and `Detector.se_gain` fix the mean.
    """

    radius: float  #: of the cylinder
    depth: float  #: of the cathode below the gate
    liquid_level: float  #: above the gate
    anode: float  #: above the gate; S2 light comes from between liquid and anode
    top_plane: float  #: of the windows of the top PMTs, above the gate
    bottom_plane: float  #: of the window of the bottom PMT, negative
    bottom: Window
    top: tuple[Window, ...]  #: in the order of `Detector.top_channels`
    #: Share of photons that the walls between the windows reflect, diffusely
    reflectivity_liquid: float
    reflectivity_gas: float
    # Share that cathode, gate and anode let pass, and a screen before each plane of windows: etched
    # hexagonal meshes, E. Hogenbirk et al., NIM A 840 (2016) 87; the number is assumed
    transparency: float = 0.93
    # At 178 nm, usual values, attributed to V. Solovov et al., NIM A 516 (2004) 462, not read
    refractive_index: float = 1.69
    absorption_length: float = 500.0  # assumed: some ppb of water
    rayleigh_length: float = 364.0  # likewise

    @property
    def planes(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Return z of all planes from the bottom up, transparencies, and which is the liquid's."""
        screen = 1.0  # distance from the windows; assumed
        z = (
            *(self.bottom_plane, self.bottom_plane + screen, -self.depth, 0.0, self.liquid_level),
            *(self.anode, self.top_plane - screen, self.top_plane),
        )
        return np.array(z), np.full(len(z), self.transparency), 4

    @property
    def s1_range(self) -> tuple[float, float]:
        """Return z between which S1 light is traced: from below the cathode to the surface."""
        return (self.bottom_plane - self.depth) / 2, self.liquid_level

    @property
    def windows(self) -> tuple[Window, ...]:
        """Windows of all PMTs, bottom first."""
        return (self.bottom, *self.top)


#: Geometries by the name of their light map
GEOMETRIES: Mapping[str, Geometry] = immutabledict(
    {
        "xams": Geometry(
            radius=XAMS_VOLUME.radius,
            depth=XAMS_VOLUME.depth,
            liquid_level=2.5,  # assumed
            anode=7.5,  # 5 mm of gas; assumed
            # Assumed: errors of the polynomials for positions have a flat minimum at 12 to 14 mm
            top_plane=19.5,
            # Fitted to the published s1_map_v0.json, as reflectivity_liquid: 5 % rms
            bottom_plane=-XAMS_VOLUME.depth - 10.0,
            # 2 inch: the 3 inch of an R11410 fits s1_map_v0.json worse, 12 % rms. 45 mm in
            # Hamamatsu's data sheet of R6041
            bottom=Window(0.0, 0.0, 22.5, False),
            # 1 inch, R8520: 20.5 mm of 25.7 mm are sensitive, Hamamatsu's data sheet. Four of them
            # in a square, at a pitch of 26 mm: assumed from the lab's name "quadrants"
            top=tuple(Window(x, y, 10.25, True) for x in (13.0, -13.0) for y in (13.0, -13.0)),
            reflectivity_liquid=0.3,
            reflectivity_gas=0.15,  # assumed: half of that in liquid
        ),
        "xamsl": Geometry(
            # E. Hogenbirk et al., NIM A 840 (2016) 87 and arXiv:1807.07121: a PTFE cylinder with a
            # 2-inch PMT, R6041-406, at each end
            radius=XAMSL_VOLUME.radius,
            depth=XAMSL_VOLUME.depth,
            liquid_level=2.5,  # assumed
            anode=7.5,  # 5 mm of gas; assumed
            top_plane=17.5,  # assumed
            bottom_plane=-XAMSL_VOLUME.depth - 10.0,  # assumed
            bottom=Window(0.0, 0.0, 22.5, False),
            top=(Window(0.0, 0.0, 22.5, False),),
            # 0.97 and more in liquid: F. Neves et al., arXiv:1612.07965; lower for gaps, assumed
            reflectivity_liquid=0.95,
            reflectivity_gas=0.6,  # assumed; C. Silva et al., J. Appl. Phys. 107 064902, not read
        ),
    }
)


#: What `model` knows -> what it is
MODELS: Mapping[str, str] = immutabledict(
    {
        "geometry": "a map of traced photons",
        "inverse_of_reconstruction": "the inverse of the formulas with which amstrax reconstructs "
        "positions and corrects S1s: it cannot show their errors",
    }
)


def check(name: str) -> None:
    """Raise InvalidOption for a name that is not in `MODELS`."""
    if name not in MODELS:
        raise InvalidOption(f"no optics {name!r}{did_you_mean(str(name), MODELS)}")


# --- the inverse of the reconstruction


@lru_cache(maxsize=8)
def _inverse(polynomial: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    share = np.linspace(0, 1, 2001)
    position = np.polyval(polynomial, share)
    return np.maximum.accumulate(position), share


def half_share(position: np.ndarray, polynomial: tuple[float, ...]) -> np.ndarray:
    """Return the share of top S2 light in the two PMTs on one side, clipped to [0, 1].

    This is the inverse of the lab's polynomial from share to position.
    """
    return np.interp(position, *_inverse(polynomial))


class InverseOfReconstruction:
    """Light from which the lab's formulas reconstruct the true position and depth."""

    def __init__(self, detector: Detector):
        self._detector = detector

    def top_shares(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the share of each top PMT in the S2 light of all, shape (n, top PMTs).

        The halves in x and in y are independent and have the shares of `half_share`, from which
        positions are reconstructed: PMTs a and b of a, b, c, d make the half in x, a and c that in
        y.
        """
        if len(self._detector.top_channels) == 1:
            return np.ones((len(x), 1))
        polynomials = self._detector.position_polynomials
        f, g = (half_share(v, p) for v, p in zip((x, y), polynomials, strict=True))
        return np.stack([f * g, f * (1 - g), (1 - f) * g, (1 - f) * (1 - g)], axis=1)

    def s1(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return photoelectrons of each PMT per photon, shape (n, PMTs), bottom first.

        The total depends on depth as in the lab's correction (option s1_naive_z_correction); the
        area fraction top rises linearly towards the gate.
        """
        detector = self._detector
        mean = detector.s1_light(-detector.gate_cathode_distance / 2)
        total = detector.g1 * detector.s1_light(z) / mean
        depth = -z / detector.gate_cathode_distance
        gate, cathode = detector.s1_area_fraction_top_gate, detector.s1_area_fraction_top_cathode
        top = gate + (cathode - gate) * depth
        n_top = len(detector.top_channels)
        contrast = detector.s1_position_contrast
        shares = contrast * self.top_shares(x, y) + (1 - contrast) / n_top
        result = np.concatenate([1 - top[:, np.newaxis], top[:, np.newaxis] * shares], axis=1)
        return np.minimum(total, 1.0)[:, np.newaxis] * result

    def s2(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the share of S2 light of each PMT, shape (n, PMTs), bottom first."""
        top = self._detector.s2_area_fraction_top
        bottom = np.full((len(x), 1), 1 - top)
        return np.concatenate([bottom, top * self.top_shares(x, y)], axis=1)


# --- light maps


@dataclass(frozen=True)
class LightMap:
    """Share of photons that reach each window, as sums of smooth functions.

    A window on the axis sees sums of r^n T_j(depth), another sums of r^n cos(m phi) T_j(depth),
    with the Chebyshev polynomials T_j and with phi from the direction of the window on. `s1` and
    `s2` are coefficients of the bottom window and of one of the top windows, each of shape (terms
    in r and phi, terms in depth). Light from beyond the wall is seen like that from the wall.
    """

    geometry: Geometry
    seed: int
    points: int  # from which photons started, for S1 and for S2
    photons: int  # from each point
    s1: tuple[np.ndarray, np.ndarray]
    s2: tuple[np.ndarray, np.ndarray]

    def s1_shares(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the share of S1 photons that reaches each window, shape (n, windows).

        Light from the gas is seen like that of S2s.
        """
        result = self._shares(self.s1, _S1_POWERS, x, y, _scaled(z, self.geometry))
        above = z > self.geometry.liquid_level
        result[above] = self.s2_shares(x[above], y[above])
        return result

    def s2_shares(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the share of S2 photons that reaches each window, shape (n, windows)."""
        return self._shares(self.s2, _S2_POWERS, x, y, np.zeros(len(x)))

    def _shares(self, coefficients, powers, x, y, depth):
        columns = []
        for i, window in enumerate(self.geometry.windows):
            flat, deep = _functions(self.geometry.radius, window, powers, x, y, depth)
            columns.append(((flat @ coefficients[i > 0]) * deep).sum(axis=1))
        return np.clip(np.stack(columns, axis=1), 0.0, 1.0)

    def mean_shares(self) -> tuple[float, float]:
        """Return the share of photons that reaches any window, mean over the volume: S1, S2."""
        x, y, z = _grid(self.geometry)
        return float(self.s1_shares(x, y, z).sum(1).mean()), float(
            self.s2_shares(x, y).sum(1).mean()
        )


def _grid(geometry: Geometry) -> tuple[np.ndarray, ...]:
    """Return x, y, z of points that fill the volume evenly."""
    r = geometry.radius * np.sqrt((np.arange(20) + 0.5) / 20)
    phi = 2 * np.pi * (np.arange(13) + 0.5) / 13
    z = -geometry.depth * (np.arange(20) + 0.5) / 20
    r, phi, z = (part.ravel() for part in np.meshgrid(r, phi, z))
    return r * np.cos(phi), r * np.sin(phi), z


def _scaled(z: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return z as numbers from -1 to 1 in the range of the map, and its ends outside of it."""
    lowest, highest = geometry.s1_range
    return np.clip(2 * (z - lowest) / (highest - lowest) - 1, -1, 1)


def _functions(radius, window, powers, x, y, depth):
    """Return functions of r and phi, and of depth, at n points: shapes (n, terms)."""
    in_r, in_depth = powers
    # Beyond the wall, where diffusion moves clouds of few electrons, polynomials run away
    rho = np.minimum(np.hypot(x, y) / radius, 1.0)
    phi = np.arctan2(y, x) - math.atan2(window.y, window.x)
    on_axis = window.x == window.y == 0
    highest = 0 if on_axis else in_r
    m, n = np.array(
        [(m, n) for m in range(highest + 1) for n in range(m, in_r + 1, 2)], dtype=np.int64
    ).T
    of_r = np.vander(rho, in_r + 1, increasing=True)
    of_phi = np.cos(phi[:, np.newaxis] * np.arange(highest + 1))
    return of_r[:, n] * of_phi[:, m], np.polynomial.chebyshev.chebvander(depth, in_depth)


def make_map(
    geometry: Geometry, seed: int = 1, points: int = 2_500, photons: int = 4_000
) -> LightMap:
    """Trace `photons` from each of `points` for S1 and for S2, and fit the light map to them.

    Points are evenly distributed in the liquid (`Geometry.s1_range`), and between liquid and anode.
    Top windows that are not on the axis must be the same, turned around it.
    """
    rng = np.random.default_rng(seed)
    fits = []
    for bottom, top, powers in (
        (*geometry.s1_range, _S1_POWERS),
        (geometry.liquid_level, geometry.anode, _S2_POWERS),
    ):
        r = (geometry.radius - _EDGE) * np.sqrt(rng.random(points))
        phi = rng.uniform(0, 2 * np.pi, points)
        x, y = r * np.cos(phi), r * np.sin(phi)
        z = rng.uniform(bottom + _EDGE, top - _EDGE, points)
        shares = trace(rng, np.stack([x, y, z], axis=1), photons, geometry) / photons
        depth = _scaled(z, geometry) if powers[1] else np.zeros(points)
        own = []
        for first, windows in ((0, (geometry.bottom,)), (1, geometry.top)):
            terms = [
                (flat[:, :, np.newaxis] * deep[:, np.newaxis, :]).reshape(points, -1)
                for flat, deep in (
                    _functions(geometry.radius, w, powers, x, y, depth) for w in windows
                )
            ]
            seen = shares[:, first : first + len(windows)].T.ravel()
            # The variance of a count is its mean
            weight = 1 / np.sqrt(np.maximum(seen, np.quantile(seen, 0.05)) + 1 / photons)
            matrix = np.concatenate(terms) * weight[:, np.newaxis]
            found = np.linalg.lstsq(matrix, seen * weight, rcond=None)[0]
            own.append(found.reshape(-1, powers[1] + 1))
        fits.append((own[0], own[1]))
    return LightMap(geometry, seed, points, photons, *fits)


def save_map(light_map: LightMap, path: Path) -> None:
    """Write a light map and all its parameters to a JSON file."""
    content: dict[str, Any] = {
        name: getattr(light_map, name) for name in ("seed", "points", "photons")
    }
    content["geometry"] = asdict(light_map.geometry)
    for name in ("s1", "s2"):
        content[name] = [
            [[float(f"{value:.6g}") for value in row] for row in part]
            for part in getattr(light_map, name)
        ]
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


@lru_cache(maxsize=8)
def load_map(name: str) -> LightMap:
    """Return a light map of the package, or that of a file of `save_map`.

    Raises InvalidOption (a ValueError) when it cannot be read.
    """
    path = _MAPS / f"{name}.json" if name in GEOMETRIES else Path(name)
    try:
        content = strict_json.load_object(path, InvalidOption)
        geometry = dict(content["geometry"])
        geometry["bottom"] = Window(*geometry["bottom"])
        geometry["top"] = tuple(Window(*window) for window in geometry["top"])
        fits: dict[str, Any] = {}
        for key in ("s1", "s2"):
            bottom, top = (np.array(part, dtype=np.float64) for part in content[key])
            fits[key] = bottom, top
        return LightMap(**content | fits | {"geometry": Geometry(**geometry)})
    except (InvalidOption, KeyError, TypeError, ValueError) as error:
        raise InvalidOption(
            f"no light map can be read from {name} ({error}): take one of {', '.join(GEOMETRIES)}, "
            "or a file of amstrax.simulation.optics.save_map"
        ) from None


class GeometricPatterns:
    """Light of a map, for the numbers of a detector."""

    def __init__(self, detector: Detector, light_map: LightMap):
        geometry = light_map.geometry
        for name, own, found in (
            ("radius", detector.radius, geometry.radius),
            ("gate_cathode_distance", detector.gate_cathode_distance, geometry.depth),
            ("number of top PMTs", len(detector.top_channels), len(geometry.top)),
        ):
            if own != found:
                raise InvalidOption(
                    f"{name} of detector {detector.name} is {own}, that of its light map "
                    f"{found}: set light_map to a map of amstrax.simulation.optics, or take optics "
                    "inverse_of_reconstruction"
                )
        self._map, self._g1 = light_map, detector.g1
        self._mean_s1, self._mean_s2 = light_map.mean_shares()

    def s1(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return photoelectrons of each PMT per photon, shape (n, PMTs), bottom first."""
        result = self._g1 / self._mean_s1 * self._map.s1_shares(x, y, z)
        return result / np.maximum(result.sum(axis=1, keepdims=True), 1.0)

    def s2(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return light of each PMT in units of the mean of all, shape (n, PMTs), bottom first."""
        return self._map.s2_shares(x, y) / self._mean_s2


#: Light that PMTs see, bottom PMT first: s1 per photon, s2 per electron
Patterns = InverseOfReconstruction | GeometricPatterns


def model(name: str, detector: Detector) -> Patterns:
    """Return the light patterns of a detector; `name` is one of `MODELS`.

    Raises InvalidOption for another name, and when the light map is that of another detector.
    """
    check(name)
    if name == "inverse_of_reconstruction":
        return InverseOfReconstruction(detector)
    return GeometricPatterns(detector, load_map(detector.light_map))


# --- tracing


def trace(rng: Rng, points: np.ndarray, photons: int, geometry: Geometry) -> np.ndarray:
    """Return how many of `photons` from each of `points` reach each window, bottom first.

    Photons start in all directions evenly; `points` are x, y, z, of shape (n, 3), between the
    planes of the windows. The result has the shape (n, windows).
    """
    planes, transparency, surface = geometry.planes
    windows = np.array([(*w, i > 0) for i, w in enumerate(geometry.windows)], dtype=np.float64)
    return _trace(
        rng,
        np.asarray(points, dtype=np.float64),
        photons,
        geometry.radius,
        planes,
        transparency,
        surface,
        windows,
        np.array([geometry.reflectivity_liquid, geometry.reflectivity_gas]),
        geometry.refractive_index,
        geometry.absorption_length,
        geometry.rayleigh_length,
    )


@numba.njit(cache=True, nogil=True)
def _lambertian(rng):
    """Return a direction around the z axis with the density cos(theta) / pi."""
    phi = 2 * np.pi * rng.random()
    square = rng.random()
    sine = np.sqrt(square)
    return sine * np.cos(phi), sine * np.sin(phi), np.sqrt(1 - square)


@numba.njit(cache=True, nogil=True)
def _turned(rng, dx, dy, dz):
    """Return a direction at an angle to another with the density 1 + cos^2, as Rayleigh's."""
    cosine = 2 * rng.random() - 1
    while 2 * rng.random() >= 1 + cosine * cosine:
        cosine = 2 * rng.random() - 1
    sine, phi = np.sqrt(1 - cosine * cosine), 2 * np.pi * rng.random()
    # Two directions across: u is horizontal, v completes the right angles
    across = np.sqrt(dx * dx + dy * dy)
    ux, uy = (-dy / across, dx / across) if across > 1e-9 else (1.0, 0.0)
    vx, vy, vz = -dz * uy, dz * ux, dx * uy - dy * ux
    a, b = sine * np.cos(phi), sine * np.sin(phi)
    return cosine * dx + a * ux + b * vx, cosine * dy + a * uy + b * vy, cosine * dz + b * vz


@numba.njit(cache=True, nogil=True)
def _fresnel(cosine, n_from, n_to):
    """Return the share of unpolarised light that a surface reflects, and the cosine behind it."""
    square = 1 - (n_from / n_to) ** 2 * (1 - cosine * cosine)
    if square <= 0:
        return 1.0, 0.0
    behind = np.sqrt(square)
    s = (n_from * cosine - n_to * behind) / (n_from * cosine + n_to * behind)
    p = (n_from * behind - n_to * cosine) / (n_from * behind + n_to * cosine)
    return (s * s + p * p) / 2, behind


@numba.njit(cache=True, nogil=True)
def _window_at(x, y, is_top, windows):
    """Return the window at a point of a plane of windows, or -1."""
    for k in range(len(windows)):
        dx, dy = x - windows[k, 0], y - windows[k, 1]
        far = max(abs(dx), abs(dy)) if windows[k, 3] else np.sqrt(dx * dx + dy * dy)
        if windows[k, 4] == is_top and far < windows[k, 2]:
            return k
    return -1


@numba.njit(cache=True, nogil=True)
def _trace(
    rng, points, n, radius, planes, passing, surface, windows, reflectivity, index, absorbed, turned
):
    hits = np.zeros((len(points), len(windows)))
    last = len(planes) - 1
    rate = 1 / absorbed + 1 / turned
    for p in range(len(points) * n):
        x, y, z = points[p // n]
        layer = 0  # between planes[layer] and the next
        while layer < last - 1 and z >= planes[layer + 1]:
            layer += 1
        dz, phi = 2 * rng.random() - 1, 2 * np.pi * rng.random()
        across = np.sqrt(1 - dz * dz)
        dx, dy = across * np.cos(phi), across * np.sin(phi)
        while True:
            in_gas = layer >= surface
            plane = layer + 1 if dz > 0 else layer
            to_plane = (planes[plane] - z) / dz if dz != 0 else np.inf
            a, b = dx * dx + dy * dy, x * dx + y * dy
            inside = max(radius * radius - x * x - y * y, 0.0)
            to_wall = (np.sqrt(b * b + a * inside) - b) / a if a > 0 else np.inf
            free = np.inf if in_gas else -np.log(1 - rng.random()) / rate
            step = min(to_plane, to_wall, free)
            x, y, z = x + step * dx, y + step * dy, z + step * dz
            reflected = reflectivity[int(in_gas)]
            if step == free:
                if rng.random() * rate < 1 / absorbed:
                    break
                dx, dy, dz = _turned(rng, dx, dy, dz)
            elif step == to_wall:
                if rng.random() >= reflected:
                    break
                u, v, w = _lambertian(rng)
                r = np.sqrt(x * x + y * y)
                dx, dy, dz = -(w * x + u * y) / r, (u * x - w * y) / r, v
                # Rounding must not leave it outside
                x, y = x * (1 - 1e-9) * radius / r, y * (1 - 1e-9) * radius / r
            elif plane in (0, last):
                k = _window_at(x, y, plane > 0, windows)
                if k >= 0:
                    hits[p // n, k] += 1
                if k >= 0 or rng.random() >= reflected:
                    break
                dx, dy, w = _lambertian(rng)
                z, dz = planes[plane], w if plane == 0 else -w
            elif plane == surface:
                n_from, n_to = (1.0, index) if in_gas else (index, 1.0)
                share, behind = _fresnel(abs(dz), n_from, n_to)
                z = planes[plane]
                if rng.random() < share:
                    dz = -dz
                else:
                    layer += 1 if dz > 0 else -1
                    dx, dy, dz = (
                        dx * n_from / n_to,
                        dy * n_from / n_to,
                        behind if dz > 0 else -behind,
                    )
            else:
                if rng.random() >= passing[plane]:
                    break
                z = planes[plane]
                layer += 1 if dz > 0 else -1
    return hits


def main(argv: Sequence[str] | None = None) -> int:
    """Make light maps of `GEOMETRIES` and write them as ``NAME.json``; return the exit status."""
    parser = argparse.ArgumentParser(description="Make the light maps of simulated detectors.")
    parser.add_argument("names", nargs="+", choices=list(GEOMETRIES), help="light maps")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--points", type=int, default=2_500, help="points (%(default)s)")
    parser.add_argument("--photons", type=int, default=4_000, help="from each (%(default)s)")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        made = make_map(GEOMETRIES[name], points=args.points, photons=args.photons)
        save_map(made, args.output / f"{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
