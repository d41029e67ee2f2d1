#!/usr/bin/env python
"""Measure positions by likelihood on truth, for the page "Improved reconstruction".

Writes position_resolution.inc beside this file. Light of S2s is drawn from the light map of XAMS,
with the charges of the simulation, and reconstructed by the lab's polynomials and by likelihood.
The Cramer-Rao limit comes from the map itself, not from the table that the likelihood uses.
"""

from pathlib import Path

import numpy as np

from amstrax.processing import likelihood_positions as likelihood
from amstrax.processing.peaks import reconstruct_positions
from amstrax.simulation import optics, sensors
from amstrax.simulation.detector import XAMS
from amstrax.simulation.light import NO_DEPOSIT, Light, Origin

SOURCE = Path(__file__).parent
RINGS = (0, 10, 20, 25, 28, 31)  # [mm]
SIZES = (100, 300, 1000, 3000, 10000)  # area of all PMTs [PE]
N_EVENTS = 2000  # in each ring
FANO = 1.5  # default of position_area_fano

COLUMNS = (
    *("Area [PE]", "Ring [mm]", "Bias of r, lab [mm]", "Bias of r [mm]"),
    *("RMS of x, lab [mm]", "RMS of x [mm]", "Limit [mm]"),
)
HEADER = ".. csv-table::\n   :header: " + ", ".join(f'"{name}"' for name in COLUMNS) + "\n\n"


def shares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the share of each PMT in the light seen from x, y [mm], shape (n, PMTs)."""
    light = optics.load_map(XAMS.light_map).s2_shares(x, y)
    return light / light.sum(axis=1, keepdims=True)


def draw(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    """Return areas of PMTs of S2s of a mean area `size` [PE], shape (n, PMTs)."""
    photons = rng.poisson(shares(x, y) * size / (1 + XAMS.dpe_probability))
    n_pe = (photons + rng.binomial(photons, XAMS.dpe_probability)).ravel()
    n = len(n_pe)
    channel = np.tile(np.array(XAMS.bottom_channels + XAMS.top_channels), len(x))
    kind = np.full(n, NO_DEPOSIT), np.full(n, Origin.S2, dtype=np.int8)
    light = Light(np.zeros(n), channel, n_pe, *kind)
    return sensors.charges(rng, light, XAMS).charge.reshape(photons.shape)


def limit(x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    """Return the least variance of x, mean of that of x and y [mm^2], at each place."""
    step = 1e-3
    p = shares(x, y)
    px = (shares(x + step, y) - shares(x - step, y)) / (2 * step)
    py = (shares(x, y + step) - shares(x, y - step)) / (2 * step)
    xx, xy, yy = (size / FANO * (a * b / p).sum(axis=1) for a, b in ((px, px), (px, py), (py, py)))
    return (xx + yy) / (xx * yy - xy**2) / 2


def measure(size: float, ring: tuple[float, float], n: int = N_EVENTS) -> dict[str, float]:
    """Return bias of r and rms error of x [mm], of both methods, and the limit of the latter."""
    rng = np.random.default_rng(1)
    r = np.sqrt(rng.uniform(ring[0] ** 2, ring[1] ** 2, n))
    phi = rng.uniform(0, 2 * np.pi, n)
    x, y = r * np.cos(phi), r * np.sin(phi)
    areas = draw(rng, x, y, size)
    light_map = optics.load_map(XAMS.light_map)
    table = likelihood.table_from(light_map.s2_shares, light_map.geometry.radius)
    fits = likelihood.fit_positions(areas, np.ones(areas.shape, dtype=bool), table, FANO, 5)
    aft = 1 - areas[:, 0] / areas.sum(axis=1)
    lab = reconstruct_positions(areas.sum(axis=1), aft, areas, 1, XAMS.position_polynomials)
    result = {"limit": float(np.sqrt(limit(x, y, size).mean()))}
    for name, fx, fy in (("lab", lab["x_corr"], lab["y_corr"]), ("mle", fits.x, fits.y)):
        result[f"bias_{name}"] = float(np.mean(np.hypot(fx, fy) - r))
        result[f"rms_{name}"] = float(np.sqrt(np.mean((fx - x) ** 2 + (fy - y) ** 2) / 2))
    return result


def write(folder: Path = SOURCE) -> None:
    """Write the table into `folder`."""
    rows = []
    for size in SIZES:
        for ring in zip(RINGS, RINGS[1:], strict=False):
            m = measure(size, ring)
            columns = ("bias_lab", "bias_mle", "rms_lab", "rms_mle", "limit")
            values = ", ".join(f"{m[name]:.2f}" for name in columns)
            rows.append(f"   {size}, {ring[0]} to {ring[1]}, {values}\n")
    text = HEADER + "".join(rows)
    (folder / "position_resolution.inc").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
