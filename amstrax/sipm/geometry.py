"""Where SiPMs are and how they face, and the solid angle that they cover seen from a point.

Lengths are in mm, solid angles in sr.
"""

from dataclasses import dataclass, field

import numpy as np

from amstrax.exceptions import InvalidOption

#: Shapes of the sensitive area
RECTANGLE, DISC = "rectangle", "disc"


@dataclass(frozen=True)
class SiPMArray:
    """SiPMs of one kind: where they are, how they face, how large and how efficient they are.

    Make one with `on_plane` or `on_cylinder`, or give all of it.
    """

    centre: np.ndarray  # of the sensitive areas [mm], shape (n, 3)
    normal: np.ndarray  # unit vectors to the side that sees light, shape (n, 3)
    along: np.ndarray  # unit vectors in the area, along its width, shape (n, 3)
    size: tuple[float, float]  # width and height [mm]; twice the diameter for discs
    shape: str  # rectangle or disc
    efficiency: np.ndarray  # counts per photon that arrives, shape (n,)
    flat: np.ndarray  # where displays show them [mm], shape (n, 2)
    flat_labels: tuple[str, str]
    up: np.ndarray = field(init=False)  # unit vectors in the area, along its height, shape (n, 3)

    def __post_init__(self) -> None:
        """Check that the parts go together."""
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

        Parameters
        ----------
        points
            Where it is seen from [mm], shape (m, 3) or (3,). What is behind a SiPM sees nothing.
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
    """Return SiPMs in rows on a plane, in the middle of which is x = y = 0.

    Parameters
    ----------
    n_x, n_y
        Number along x and along y; the index counts along x first.
    pitch
        From one to the next [mm].
    size
        Width and height of the sensitive area, or both in one; for discs the diameter [mm].
    efficiency
        Counts per photon that arrives, of all or of each: quantum efficiency and all else.
    z
        Of the plane [mm].
    down
        Do they see what is below?
    shape
        ``rectangle`` or ``disc``.
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
    """Return SiPMs in rings on a cylinder around the z axis, that face the axis.

    Parameters
    ----------
    n_phi, n_z
        Number in a ring, the first of which is at x = `radius`, and number of rings; the index
        counts around the ring first.
    radius
        From the axis to the sensitive areas' middles [mm].
    pitch
        From one ring to the next [mm].
    size
        Width (around the axis) and height (along it) of the sensitive area, or both in one; for
        discs the diameter [mm].
    efficiency, shape
        As in `on_plane`.
    z
        Of the middle [mm].
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
    """Return the solid angle [sr] of a rectangle, seen from points.

    It is exact: H. Gotoh and H. Yagi, NIM 96 (1971) 485, a sum over the corners.

    Parameters
    ----------
    x, y
        Where the points are from the middle, along width and height [mm]; any shape.
    distance
        Of the points from its plane [mm]; 0 or less is behind it, and sees nothing.
    width, height
        Of the rectangle [mm].
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
    # Rounding must not make it negative where it is next to nothing
    return np.where(in_front, np.maximum(total, 0), 0.0)


def solid_angle_disc(r: np.ndarray, distance: np.ndarray, radius: float) -> np.ndarray:
    """Return the solid angle [sr] of a disc, seen from points.

    It is exact: F. Paxton, Rev. Sci. Instrum. 30 (1959) 254, with elliptic integrals.

    Parameters
    ----------
    r
        Of the points from the disc's axis [mm]; any shape.
    distance
        Of the points from its plane [mm]; 0 or less is behind it, and sees nothing.
    radius
        Of the disc [mm].
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
