"""SiPMs on a plane or a cylinder: solid angles, expected counts, and fits of light positions.

Light is emitted isotropically from a point; nothing is scattered, reflected or absorbed. Lengths
are in mm, solid angles in sr.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amstrax.exceptions import InvalidOption

if TYPE_CHECKING:
    from iminuit import Minuit
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PositionFit",
    "SiPMArray",
    "centre_of_gravity",
    "emulate",
    "event_display",
    "expected_photons",
    "fit_chi_square",
    "fit_poisson",
    "on_cylinder",
    "on_plane",
    "solid_angle_disc",
    "solid_angle_rectangle",
]

# `amstrax._legacy` finds the modules of the former package amstrax.sipm
__path__: list[str] = []

#: Shapes of the sensitive area
RECTANGLE, DISC = "rectangle", "disc"


@dataclass(frozen=True)
class SiPMArray:
    """Positions, orientations, sizes and efficiencies of SiPMs; see `on_plane`, `on_cylinder`."""

    centre: np.ndarray  # of the sensitive areas [mm], shape (n, 3)
    normal: np.ndarray  # unit vectors towards the sensitive side, shape (n, 3)
    along: np.ndarray  # unit vectors in the area, along its width, shape (n, 3)
    size: tuple[float, float]  # width and height [mm]; twice the diameter for discs
    shape: str  # rectangle or disc
    efficiency: np.ndarray  # counts per arriving photon, shape (n,)
    flat: np.ndarray  # positions in displays [mm], shape (n, 2)
    flat_labels: tuple[str, str]
    up: np.ndarray = field(init=False)  # unit vectors in the area, along its height, shape (n, 3)

    def __post_init__(self) -> None:
        """Check the values, and derive ``up``."""
        n = len(self.centre)
        efficiency = np.broadcast_to(np.asarray(self.efficiency, dtype=np.float64), (n,)).copy()
        object.__setattr__(self, "efficiency", efficiency)
        object.__setattr__(self, "up", np.cross(self.normal, self.along))
        if n == 0:
            raise InvalidOption("an array of SiPMs needs at least one")
        if not (np.isfinite(efficiency).all() and (efficiency > 0).all() and efficiency.max() <= 1):
            raise InvalidOption(
                f"efficiencies of SiPMs cannot be {efficiency.min()} to {efficiency.max()}: they "
                "are above 0, and 1 at most"
            )
        if self.shape not in (RECTANGLE, DISC):
            raise InvalidOption(f"SiPMs cannot be a {self.shape!r}: take {RECTANGLE} or {DISC}")
        if not (min(self.size) > 0 and np.isfinite(self.size).all()):
            raise InvalidOption(f"SiPMs cannot be {self.size} mm large: take more than 0")
        if self.shape == DISC and self.size[0] != self.size[1]:
            raise InvalidOption(f"the size of a disc is its diameter, twice, and not {self.size}")

    def __len__(self) -> int:
        return len(self.centre)

    def solid_angles(self, points: np.ndarray) -> np.ndarray:
        """Return the solid angle of each SiPM [sr] seen from `points`, shape (m, n).

        `points` [mm] have shape (m, 3) or (3,). From behind a SiPM the solid angle is 0.
        """
        offset = np.atleast_2d(np.asarray(points, dtype=np.float64))[:, np.newaxis] - self.centre
        distance, x, y = (
            np.einsum("mnk,nk->mn", offset, axis) for axis in (self.normal, self.along, self.up)
        )
        if self.shape == DISC:
            return solid_angle_disc(np.hypot(x, y), distance, self.size[0] / 2)
        return solid_angle_rectangle(x, y, distance, *self.size)


def on_plane(
    n_x: int,
    n_y: int,
    pitch: float,
    size: float | tuple[float, float],
    efficiency: float | np.ndarray = 0.25,
    z: float = 0.0,
    down: bool = True,
    shape: str = RECTANGLE,
) -> SiPMArray:
    """Return SiPMs in rows on a plane, centred at x = y = 0.

    Parameters
    ----------
    n_x, n_y, pitch
        Number along x and along y, where the index counts along x first, and distance between
        neighbours [mm].
    size, shape
        Width and height of the sensitive area, or one number for both; for discs the diameter
        [mm]. The shape is ``rectangle`` or ``disc``.
    efficiency
        Counts per arriving photon, one value or one per SiPM.
    z, down
        Position of the plane [mm], and whether they face down.
    """
    _check_counts(n_x, n_y, pitch)
    y, x = np.meshgrid(_centred(n_y, pitch), _centred(n_x, pitch), indexing="ij")
    centre = np.stack([x.ravel(), y.ravel(), np.full(n_x * n_y, z)], axis=1)
    return SiPMArray(
        centre=centre,
        normal=np.tile([0.0, 0.0, -1.0 if down else 1.0], (len(centre), 1)),
        along=np.tile([1.0, 0.0, 0.0], (len(centre), 1)),
        size=_both(size),
        shape=shape,
        efficiency=np.asarray(efficiency),
        flat=centre[:, :2],
        flat_labels=("x [mm]", "y [mm]"),
    )


def on_cylinder(
    n_phi: int,
    n_z: int,
    radius: float,
    pitch: float,
    size: float | tuple[float, float],
    efficiency: float | np.ndarray = 0.25,
    z: float = 0.0,
    shape: str = RECTANGLE,
) -> SiPMArray:
    """Return SiPMs in rings on a cylinder around the z axis, facing the axis.

    Parameters
    ----------
    n_phi, n_z
        Number in a ring, the first of which is at x = `radius`, and number of rings; the index
        counts around the ring first.
    radius, pitch, z
        Distance from the axis to the centres of the sensitive areas, distance between rings, and
        centre of the cylinder [mm].
    size, efficiency, shape
        As in `on_plane`, with the width around the axis and the height along it.
    """
    _check_counts(n_phi, n_z, pitch)
    if not (radius > 0 and np.isfinite(radius)):
        raise InvalidOption(f"a cylinder cannot have a radius of {radius} mm: take more than 0")
    phi = np.tile(2 * np.pi * np.arange(n_phi) / n_phi, n_z)
    height = np.repeat(z + _centred(n_z, pitch), n_phi)
    zero = np.zeros_like(phi)
    outward = np.stack([np.cos(phi), np.sin(phi), zero], axis=1)
    around = np.remainder(phi + np.pi, 2 * np.pi) - np.pi
    return SiPMArray(
        centre=radius * outward + np.stack([zero, zero, height], axis=1),
        normal=-outward,
        along=np.stack([-np.sin(phi), np.cos(phi), zero], axis=1),
        size=_both(size),
        shape=shape,
        efficiency=np.asarray(efficiency),
        flat=np.stack([radius * around, height], axis=1),
        flat_labels=("Along the circumference [mm]", "z [mm]"),
    )


def solid_angle_rectangle(
    x: np.ndarray, y: np.ndarray, distance: np.ndarray, width: float, height: float
) -> np.ndarray:
    """Return the exact solid angle [sr] of a rectangle, seen from points.

    A sum over the corners; source: H. Gotoh and H. Yagi, NIM 96 (1971) 485. `x` and `y` are the
    offsets from the centre along width and height and `distance` that from the plane, 0 or less
    behind it, all in mm and of any shape.
    """
    x, y, distance = np.broadcast_arrays(*(np.asarray(a, float) for a in (x, y, distance)))
    total = np.zeros(distance.shape)
    in_front = distance > 0
    d = np.where(in_front, distance, 1.0)
    for sign_x in (-1, 1):
        for sign_y in (-1, 1):
            to_x, to_y = sign_x * width / 2 - x, sign_y * height / 2 - y
            root = np.sqrt(to_x**2 + to_y**2 + d**2)
            total += sign_x * sign_y * np.arctan(to_x * to_y / (d * root))
    # Rounding can make tiny solid angles negative
    return np.where(in_front, np.maximum(total, 0), 0.0)


def solid_angle_disc(r: np.ndarray, distance: np.ndarray, radius: float) -> np.ndarray:
    """Return the exact solid angle [sr] of a disc, seen from points.

    With elliptic integrals; source: F. Paxton, Rev. Sci. Instrum. 30 (1959) 254. `r` is the offset
    from the axis and `distance` that from the plane, 0 or less behind it, in mm and of any shape.
    """
    from scipy.special import ellipe, ellipeinc, ellipk, ellipkinc

    r, distance = np.broadcast_arrays(np.asarray(r, float), np.asarray(distance, float))
    in_front = distance > 0
    d = np.where(in_front, distance, 1.0)
    largest = np.sqrt(d**2 + (r + radius) ** 2)
    m = 4 * r * radius / largest**2
    xi = np.arctan2(d, np.abs(r - radius))
    k, e = ellipk(m), ellipe(m)
    # pi / 2 x Heuman's lambda function
    heuman = e * ellipkinc(xi, 1 - m) + k * (ellipeinc(xi, 1 - m) - ellipkinc(xi, 1 - m))
    common = -2 * d / largest * k
    total = np.where(r < radius, 2 * np.pi + common - 2 * heuman, common + 2 * heuman)
    total = np.where(r == radius, np.pi + common, total)
    return np.where(in_front, np.maximum(total, 0), 0.0)


def _centred(n: int, pitch: float) -> np.ndarray:
    return (np.arange(n) - (n - 1) / 2) * pitch


def _both(size: float | tuple[float, float]) -> tuple[float, float]:
    return (float(size), float(size)) if np.isscalar(size) else tuple(map(float, size))  # type: ignore


def _check_counts(n: int, m: int, pitch: float) -> None:
    if min(n, m) < 1:
        raise InvalidOption(f"there cannot be {n} times {m} SiPMs: take 1 or more")
    if not (pitch > 0 and np.isfinite(pitch)):
        raise InvalidOption(f"SiPMs cannot be {pitch} mm apart: take more than 0")


#: Number of chi-square fits, each with the variances that the previous one predicts
_CHI_SQUARE_STEPS = 3


class PositionFit(NamedTuple):
    """Fitted position of light."""

    position: np.ndarray  # x, y, z [mm], shape (3,)
    error: np.ndarray  # their standard errors [mm], shape (3,); 0 for a given one
    n_photons: float  # number of emitted photons
    n_photons_error: float
    covariance: np.ndarray  # of x, y, z, number of photons, shape (4, 4)
    chi2: float  # of the fit: chi-square, or -2 ln(likelihood) relative to a perfect fit
    n_free: int  # degrees of freedom
    valid: bool  # whether a minimum, with errors, lies within the limits


def expected_photons(
    sipms: SiPMArray, points: np.ndarray, n_photons: float | np.ndarray
) -> np.ndarray:
    """Return the mean counts of each SiPM, by solid angle and efficiency, shape (m, n).

    `points` of light [mm] have shape (m, 3) or (3,); each emits `n_photons`, one value or shape
    (m,).
    """
    share = sipms.solid_angles(points) / (4 * np.pi) * sipms.efficiency
    return share * np.asarray(n_photons, dtype=np.float64).reshape(-1, 1)


def emulate(
    sipms: SiPMArray,
    points: np.ndarray,
    n_photons: float | np.ndarray,
    rng: np.random.Generator,
    dark: float = 0.0,
    spread: float = 0.0,
) -> np.ndarray:
    """Return simulated counts of SiPMs in m events, shape (m, n).

    Parameters are as in `expected_photons`, where the number of photons is a mean. `dark` is the
    mean number of dark counts per SiPM and event, `spread` the relative standard deviation of the
    charge of a count; with 0 the counts are integers.
    """
    counts = rng.poisson(expected_photons(sipms, points, n_photons) + dark)
    if spread == 0:
        return counts
    return rng.normal(counts, spread * np.sqrt(counts))


def centre_of_gravity(sipms: SiPMArray, counts: np.ndarray) -> np.ndarray:
    """Return the mean position of SiPMs, weighted with their counts [mm], shape (m, 3).

    `counts` have shape (m, n), or (n,) for one event. Charges below 0 count as 0.
    """
    weights = np.maximum(np.atleast_2d(np.asarray(counts, dtype=np.float64)), 0)
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ sipms.centre / total


def fit_poisson(
    sipms: SiPMArray,
    counts: np.ndarray,
    limits: np.ndarray,
    z: float | None = None,
    dark: float = 0.0,
) -> PositionFit:
    """Return the position of the light of one event from a Poisson likelihood fit.

    Source: S. Baker and R. Cousins, NIM 221 (1984) 437. Raises InvalidOption (a ValueError) for
    counts below 0, none or of another shape, or limits in the wrong order.

    Parameters
    ----------
    sipms, counts
        Geometry of n SiPMs, and their counts, shape (n,), 0 or more.
    limits
        Lowest and highest x, y and z [mm], shape (3, 2).
    z
        Known position along z [mm], as from the drift time; None: fit it.
    dark
        Mean number of dark counts per SiPM and event.
    """
    from iminuit.cost import poisson_chi2

    counts = _check(sipms, counts, limits)
    if counts.min() < 0:
        raise InvalidOption(
            f"SiPM {np.argmin(counts)} has {counts.min()} counts: a Poisson likelihood takes 0 or "
            "more; take fit_chi_square for charges"
        )

    start = _start(sipms, counts, limits, z, dark)
    cost = functools.partial(poisson_chi2, counts)
    return _result(_minimise(sipms, cost, start, limits, z, dark), sipms, z)


def fit_chi_square(
    sipms: SiPMArray,
    counts: np.ndarray,
    limits: np.ndarray,
    z: float | None = None,
    dark: float = 0.0,
    spread: float = 0.0,
    noise: float = 0.0,
) -> PositionFit:
    """Return the position of the light of one event from a least-squares fit.

    The variance of a charge is its expectation times 1 + `spread`^2, plus that of the noise. It is
    taken from the previous of a few fits and fixed within each, which avoids a bias to large
    expectations. Suited for ten counts or more; for fewer use `fit_poisson`, whose parameters and
    errors these are; charges below 0 are allowed. `spread` is the relative standard deviation of
    the charge of a count, `noise` that of a charge without light [counts].
    """
    from iminuit.cost import chi2

    counts = _check(sipms, counts, limits)
    start = _start(sipms, counts, limits, z, dark)
    for _ in range(_CHI_SQUARE_STEPS):
        expected = _expected(sipms, start, dark)
        error = np.sqrt(expected * (1 + spread**2) + noise**2)
        cost = functools.partial(chi2, counts, error)
        minuit = _minimise(sipms, cost, start, limits, z, dark)
        start = np.array(minuit.values)
    return _result(minuit, sipms, z)


def _check(sipms: SiPMArray, counts: np.ndarray, limits: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape != (len(sipms),):
        raise InvalidOption(f"counts have shape {counts.shape}: {len(sipms)} SiPMs need one each")
    if not (np.isfinite(counts).all() and counts.sum() > 0):
        raise InvalidOption("there are no counts, or some that are not finite: nothing to fit")
    limits = np.asarray(limits)
    if limits.shape != (3, 2) or not (limits[:, 0] < limits[:, 1]).all():
        raise InvalidOption(f"limits {limits.tolist()}: give lowest and highest x, y and z")
    return counts


def _expected(sipms: SiPMArray, values: np.ndarray, dark: float) -> np.ndarray:
    # Above 0, since its logarithm is taken
    return np.maximum(expected_photons(sipms, values[:3], values[3])[0] + dark, 1e-9)


def _start(
    sipms: SiPMArray, counts: np.ndarray, limits: np.ndarray, z: float | None, dark: float
) -> np.ndarray:
    """Return the most likely x, y, z and number of photons on a coarse grid."""
    axes = [np.linspace(low, high, 9)[1:-1] for low, high in limits]
    if z is not None:
        axes[2] = np.array([z])
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)
    share = np.maximum(expected_photons(sipms, points, 1.0), 1e-12)
    n_photons = max(counts.sum() - dark * len(sipms), 1.0) / share.sum(axis=1)
    expected = share * n_photons[:, np.newaxis] + max(dark, 1e-9)
    likelihood = np.maximum(counts, 0) @ np.log(expected).T - expected.sum(axis=1)
    best = np.argmax(likelihood)
    return np.array([*points[best], n_photons[best]])


def _minimise(
    sipms: SiPMArray,
    cost: Callable[[np.ndarray], float],
    start: np.ndarray,
    limits: np.ndarray,
    z: float | None,
    dark: float,
) -> "Minuit":
    from iminuit import Minuit

    names = ("x", "y", "z", "n_photons")
    minuit = Minuit(lambda values: cost(_expected(sipms, values, dark)), start, name=names)
    minuit.errordef = Minuit.LEAST_SQUARES
    for name, limit in zip("xyz", limits, strict=True):
        minuit.limits[name] = tuple(limit)
        minuit.errors[name] = (limit[1] - limit[0]) / 50
    minuit.limits["n_photons"] = (0, None)
    minuit.errors["n_photons"] = start[3] / 10
    if z is not None:
        minuit.values["z"] = z
        minuit.fixed["z"] = True
    minuit.migrad()
    minuit.hesse()
    return minuit


def _result(minuit: "Minuit", sipms: SiPMArray, z: float | None) -> PositionFit:
    covariance = np.full((4, 4), np.nan)
    if minuit.covariance is not None:
        covariance = np.array(minuit.covariance)
    error = np.array(minuit.errors)
    if z is not None:
        error[2] = 0.0
    return PositionFit(
        np.array(minuit.values)[:3],
        error[:3],
        float(minuit.values["n_photons"]),
        float(error[3]),
        covariance,
        float(minuit.fval or 0.0),
        len(sipms) - minuit.nfit,
        bool(minuit.valid and minuit.accurate and not minuit.fmin.has_parameters_at_limit),
    )


def event_display(
    sipms: SiPMArray,
    counts: np.ndarray,
    positions: Mapping[str, np.ndarray] | None = None,
    axes: "Axes | None" = None,
) -> "Figure":
    """Draw the counts of SiPMs, shape (n,), of one event, and return the figure.

    A cylinder is unrolled. `positions` (name -> x, y, z [mm], as ``{"fit": fit.position}``) are
    marked. Without `axes` a new figure is made.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Ellipse, Patch, Rectangle

    from amstrax.analyses import style

    axes = style.new_axes() if axes is None else axes
    colors = style.VERMILLION, style.BLUE, style.GREEN, style.BLACK
    markers = tuple(zip("+xos", colors, strict=True))
    width, height = sipms.size
    patches: list[Patch] = []
    for x, y in sipms.flat:
        if sipms.shape == DISC:
            patches.append(Ellipse((x, y), width, height))
        else:
            patches.append(Rectangle((x - width / 2, y - height / 2), width, height))
    areas = PatchCollection(patches, cmap=style.COLOR_MAP, edgecolor="0.5")
    areas.set_array(np.asarray(counts))
    axes.add_collection(areas)
    style.figure_of(axes).colorbar(areas, ax=axes, label="Counts")
    for (name, position), (marker, color) in zip((positions or {}).items(), markers, strict=False):
        x, y = _flat(sipms, np.asarray(position))
        axes.plot(x, y, marker, color=color, ms=10, mew=2, mfc="none", ls="none", label=name)
    if positions:
        axes.legend()
    margin = max(sipms.size)
    low, high = sipms.flat.min(axis=0) - margin, sipms.flat.max(axis=0) + margin
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.set(xlabel=sipms.flat_labels[0], ylabel=sipms.flat_labels[1])
    axes.set_title(f"{np.sum(counts):.6g} counts")
    return style.figure_of(axes)


def _flat(sipms: SiPMArray, position: np.ndarray) -> tuple[float, float]:
    """Return a position in the display: its x and y, or its arc length and z on a cylinder."""
    if np.ptp(sipms.normal[:, 2]) == 0 and sipms.normal[0, 2] != 0:
        return position[0], position[1]
    radius = float(np.hypot(*sipms.centre[0, :2]))
    return radius * float(np.arctan2(position[1], position[0])), position[2]
