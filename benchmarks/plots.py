#!/usr/bin/env python
"""How long plots of many peaks take: plots.py [NUMBER_OF_PEAKS]."""

import io
import sys
import time

import numpy as np

from amstrax import analyses
from amstrax.analyses import interactive, quantities

FIELDS = [
    ("time", "<i8"), ("endtime", "<i8"), ("area", "<f4"), ("range_50p_area", "<f4"),
    ("area_fraction_top", "<f4"), ("type", "<i1"), ("area_per_channel", "<f4", 5),
]  # fmt: skip


def make_peaks(n: int) -> np.ndarray:
    """Return peaks of a run of an hour."""
    rng = np.random.default_rng(0)
    peaks = np.zeros(n, dtype=FIELDS)
    peaks["time"] = np.sort(rng.integers(0, 3600 * 10**9, n))
    peaks["area"] = rng.lognormal(5, 2, n)
    peaks["range_50p_area"] = rng.lognormal(5, 1, n)
    peaks["area_fraction_top"] = rng.normal(0.5, 0.2, n)
    peaks["type"] = rng.integers(0, 3, n)
    peaks["area_per_channel"] = peaks["area"][:, np.newaxis] / 5
    return peaks


def main(n: int) -> None:
    """Print times, the compilation of what counts left out."""
    peaks = make_peaks(n)
    end = 3600 * 10**9
    work = {
        "plot_aft_histogram": lambda p: analyses.plot_aft_histogram(p),
        "plot_area_aft": lambda p: analyses.plot_area_aft(p),
        "plot_area_width": lambda p: analyses.plot_area_width(p),
        "plot_area_per_channel": lambda p: analyses.plot_area_per_channel(p),
        "plot_rates": lambda p: analyses.plot_rates({"all": quantities.rates(p["time"], 0, end)}),
        "interactive.area_width": lambda p: interactive.area_width(interactive.peak_source(p)),
        "interactive.density": lambda p: interactive.density(p["area"], p["range_50p_area"]),
    }
    for name, function in work.items():
        function(peaks[:100])
        start = time.perf_counter()
        figure = function(peaks)
        drawn = time.perf_counter()
        size = ""
        if hasattr(figure, "savefig"):
            file = io.BytesIO()
            figure.savefig(file, dpi=100)
            size = f"{len(file.getvalue()) / 1e3:7.0f} kB"
        saved = time.perf_counter() - drawn
        print(f"{name:26s} {drawn - start:7.2f} s, saved in {saved:5.2f} s {size}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
