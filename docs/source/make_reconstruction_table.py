#!/usr/bin/env python
"""Compare the lab's and the improved reconstruction on truth, for the page of that name.

Writes three files beside this one, in some minutes: ``make reconstruction``.

- reconstruction_table.inc: each run is simulated once, processed with both, and assessed as by
  ``amstrax validate``. Numbers that are equal in both are left out.
- classification_table.inc: fractions of peaks with a wrong type.
- saturation_table.inc: areas of S1s and S2s of 662 keV.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amstrax import contexts
from amstrax.analyses import statistics
from amstrax.analyses.validation_text import format_number
from amstrax.auto_processing.amstraxer import to_dict_tuple
from amstrax.commands import validate
from amstrax.rundb.leases import Stop
from amstrax.simulation import SimulatedRun, simulate
from amstrax.simulation.light import Origin
from amstrax.simulation.matching import Outcome, match_peaks

SOURCE = Path(__file__).parent


class Run(NamedTuple):
    """A simulated run."""

    source: str
    rate: float  #: [Hz]
    events: int
    energy_range: tuple[float, float] | None = None  #: [keV]

    @property
    def title(self) -> str:
        """Name in the tables."""
        energies = "" if self.energy_range is None else "{} to {} keV, ".format(*self.energy_range)
        return f"{self.source}, {energies}{self.rate:g} Hz"

    def simulate(self, folder: Path) -> SimulatedRun:
        """Simulate the run into a folder; the seed is that of `amstrax.simulation.simulate`."""
        duration = self.events / self.rate
        kwargs = dict(source=self.source, rate=self.rate, energy_range=self.energy_range)
        return SimulatedRun.at(simulate("100101", folder, duration=duration, **kwargs))


RUNS = (
    *(Run("flat", rate, 600) for rate in (5, 50, 500, 2000)),
    Run("kr83m", 5, 800),
    Run("kr83m", 500, 800),
    Run("cs137", 20, 600),
    Run("cs137", 500, 600),
    Run("na22", 20, 500),
    Run("rn222", 5, 150),
)
#: Runs of which types are compared
TYPE_RUNS = (
    Run("flat", 100, 2000),
    Run("flat", 100, 4000, (0.2, 4)),
    Run("kr83m", 100, 2000),
    Run("cs137", 50, 1000),
    Run("na22", 50, 1000),
    Run("rn222", 20, 400),
)
#: Least area of a peak [PE], reconstruction, for the table of types
TYPE_COLUMNS = (
    (2, "lab"),
    (2, ("peaks", "classification")),
    (2, "improved"),
    (10, "lab"),
    (10, "improved"),
)
SATURATED_RUN = Run("cs137", 20, 1200)
GAMMA = 661.7  # [keV]
#: Charge that halves the gain of simulated PMTs [PE]
BASE_CHARGE = 1e6
#: Number of the report -> name in the table, and best value
NUMBERS = {
    "s1_efficiency": ("S1 efficiency", 1),
    "s2_efficiency": ("S2 efficiency", 1),
    "event_efficiency": ("Event efficiency", 1),
    "s1_misclassified": ("S1s misclassified", 0),
    "s2_misclassified": ("S2s misclassified", 0),
    "peaks_misclassified": ("Peaks misclassified, from 3 PE on", 0),
    "s1_area_bias": ("S1 area bias", 0),
    "s1_area_resolution": ("S1 area resolution", 0),
    "s2_area_bias": ("S2 area bias", 0),
    "s2_area_resolution": ("S2 area resolution", 0),
    "cs1_resolution": ("cs1 resolution", 0),
    "cs2_resolution": ("cs2 resolution", 0),
    "ring_1_error": ("Position error, inner ring", 0),
    "ring_4_error": ("Position error, outer ring", 0),
    "ring_4_bias": ("Bias of r, outer ring", 0),
    "drift_time_error": ("Drift time error", 0),
    "elife_per_electron_bias": ("Lifetime bias", 0),
    "kr_two": ("Kr-83m pairs found", 1),
    "scatters_single_kept": ("Single scatters kept", 1),
    "scatters_multiple_kept": ("Multiple scatters kept", 0),
}
#: Light of which most of a peak is -> its type; 0 for other light
TYPES = {Origin.S1: 1, Origin.S2: 2, Origin.PHOTOIONISATION: 2, Origin.DELAYED_ELECTRON: 2}
HEADER = (
    '.. csv-table::\n   :header: "Run", "Number", "lab", "improved", "Improved is"\n'
    "   :widths: 20, 30, 20, 20, 10\n\n"
)


def verdict(lab: Mapping[str, Any], improved: Mapping[str, Any], best: float) -> str:
    """Return whether a number is better, the same, or worse, by two errors.

    Errors are those of independent runs. Both have the same true events, so they are upper limits.
    """
    before, after = (abs(entry["value"] - best) for entry in (lab, improved))
    if math.isnan(before) or math.isnan(after):
        return "better" if math.isnan(before) else "worse"
    error = math.hypot(*(0 if math.isnan(x["error"]) else x["error"] for x in (lab, improved)))
    if abs(after - before) <= 2 * error:
        return "the same"
    return "better" if after < before else "worse"


def rows(run: Run, lab: Mapping[str, Any], improved: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rows of the table for a run, from ``numbers`` of both reports."""
    for name, (title, best) in NUMBERS.items():
        both = [numbers.get(name) for numbers in (lab, improved)]
        if None in both or all(math.isnan(entry["value"]) for entry in both):
            continue
        values = [format_number(entry) for entry in both]
        if values[0] == values[1]:
            continue
        yield line(run.title, title, *values, verdict(*both, best))


def line(*cells: str) -> str:
    """Return a row of a table."""
    return "   " + ", ".join(f'"{cell}"' for cell in cells) + "\n"


def header(*cells: str) -> str:
    """Return the head of a table."""
    return ".. csv-table::\n   :header: " + line(*cells).strip() + "\n\n"


def compare(run: Run, folder: Path) -> list[Mapping[str, Any]]:
    """Return ``numbers`` of the reports of both reconstructions."""
    simulated = run.simulate(folder)
    reports = []
    for name in ("lab", "improved"):
        options = validate.ValidationOptions(folder, reconstruction=name)
        out = folder / name
        report, _ = validate.assess(simulated, out, {}, options, Stop())
        wrong = misclassified(simulated, out, name)._asdict() | {"unit": "1"}
        reports.append(report["numbers"] | {"peaks_misclassified": wrong})
    return reports


def arrays(
    run: SimulatedRun,
    folder: Path,
    reconstruction: str | tuple[str, ...],
    names: tuple[str, ...],
    **config: float,
) -> list[np.ndarray]:
    """Return data types of a simulated run."""
    st = contexts.xams(
        output_folder=folder,
        config=to_dict_tuple(run.options() | config) | {"live_data_dir": str(run.run_dir.parent)},
        simulation_truth=run.run_dir,
        init_rundb=False,
        reconstruction=reconstruction,
    )
    st = contexts.context_for_daq_reader(st, run.run_id, run_doc=run.document(), check_exists=False)
    return [st.get_array(run.run_id, name, progress_bar=False) for name in names]


def misclassified(
    run: SimulatedRun,
    folder: Path,
    reconstruction: str | tuple[str, ...],
    min_area: float = 2,
) -> statistics.Number:
    """Return the fraction of peaks of 3 true PE or more with a wrong type.

    `min_area` is the least area of a peak [PE].
    """
    types, truth = arrays(
        run, folder, reconstruction, ("peak_basics", "peak_truth"), peak_min_area=min_area
    )
    large = truth["n_pe"] >= 3
    expected = np.array([TYPES.get(origin, 0) for origin in truth["origin"][large]])
    return statistics.fraction(int((types["type"][large] != expected).sum()), len(expected))


def type_rows(run: Run) -> str:
    """Return the row of a run in the table of types."""
    with tempfile.TemporaryDirectory() as work:
        simulated = run.simulate(Path(work))
        wrong = (
            misclassified(simulated, Path(work) / "out", name, min_area)
            for min_area, name in TYPE_COLUMNS
        )
        cells = [f"{value.value:.4f} +- {value.error:.4f}" for value in wrong]
    return line(run.title, *cells)


def saturation_rows(run: Run) -> str:
    """Return bias and spread of areas of S1s and S2s of 662 keV, by saturation_flag."""
    text = ""
    with tempfile.TemporaryDirectory() as work:
        simulated = run.simulate(Path(work))
        truth = np.load(simulated.truth)
        found = {}
        for title, name, config in (
            ("lab", "lab", {}),
            ("part", "saturation", {}),
            ("base", "saturation", {"pmt_saturation_charge": BASE_CHARGE}),
        ):
            (peaks,) = arrays(simulated, Path(work) / "out", name, ("peaks",), **config)
            (basics,) = arrays(simulated, Path(work) / "out", name, ("peak_basics",), **config)
            found[title] = peaks, match_peaks(truth, basics)
    for kind in ("s1", "s2"):
        ratio = {}
        is_whole = np.abs(truth["energy"] - GAMMA) < 1
        for title, (peaks, matched) in found.items():
            is_whole &= matched[f"{kind}_outcome"] == Outcome.FOUND
            ratio[title] = peaks["area"][matched[f"{kind}_peak"]] / truth[f"{kind}_pe"]
        peaks, matched = found["part"]
        flag = peaks["saturation_flag"][matched[f"{kind}_peak"]]
        for title, chosen in (
            ("all", is_whole),
            *((f"flag {i}", is_whole & (flag == i)) for i in range(4)),
        ):
            if chosen.sum() < 10:
                continue
            cells = [f"{chosen.sum()} of {is_whole.sum()}"]
            for values in ratio.values():
                low, middle, high = np.percentile(values[chosen] - 1, (16, 50, 84))
                cells.append(f"{middle:.1%}, {(high - low) / 2:.1%}")
            text += line(f"{kind.upper()}, {title}", *cells)
    return text


def write_types(folder: Path = SOURCE, runs: tuple[Run, ...] = TYPE_RUNS) -> None:
    """Write the table of types into `folder`."""
    columns = (f"{'+'.join(np.atleast_1d(name))}, {least} PE" for least, name in TYPE_COLUMNS)
    text = header("Run", *columns) + "".join(map(type_rows, runs))
    (folder / "classification_table.inc").write_text(text, encoding="utf-8")


def write_saturation(folder: Path = SOURCE, run: Run = SATURATED_RUN) -> None:
    """Write the table of saturated signals into `folder`."""
    columns = ("lab: bias, spread", "part: bias, spread", "with base: bias, spread")
    text = header("662 keV", "Signals", *columns) + saturation_rows(run)
    (folder / "saturation_table.inc").write_text(text, encoding="utf-8")


def write(folder: Path = SOURCE, runs: tuple[Run, ...] = RUNS) -> None:
    """Write the table of lab and improved into `folder`."""
    text = HEADER
    for run in runs:
        with tempfile.TemporaryDirectory() as work:
            text += "".join(rows(run, *compare(run, Path(work))))
    (folder / "reconstruction_table.inc").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=SOURCE, metavar="FOLDER")
    output = parser.parse_args().output
    write_types(output)
    write_saturation(output)
    write(output)
