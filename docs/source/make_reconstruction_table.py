#!/usr/bin/env python
"""Compare the lab's and the improved reconstruction on truth, for the page of that name.

Writes reconstruction_table.inc beside this file, in some minutes: ``make reconstruction``. Each
run is simulated once, processed with both, and assessed as by ``amstrax validate``. Numbers that
are equal in both are left out.
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

SOURCE = Path(__file__).parent


class Run(NamedTuple):
    """A simulated run."""

    source: str
    rate: float  #: [Hz]
    events: int


RUNS = (
    *(Run("flat", rate, 600) for rate in (5, 50, 500, 2000)),
    Run("kr83m", 5, 800),
    Run("kr83m", 500, 800),
    Run("cs137", 20, 600),
    Run("cs137", 500, 600),
    Run("na22", 20, 500),
    Run("rn222", 5, 150),
)
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
        cells = [f"{run.source}, {run.rate:g} Hz", title, *values, verdict(*both, best)]
        yield "   " + ", ".join(f'"{cell}"' for cell in cells) + "\n"


def compare(run: Run, folder: Path) -> list[Mapping[str, Any]]:
    """Return ``numbers`` of the reports of both reconstructions."""
    run_dir = simulate(
        "100101", folder, source=run.source, rate=run.rate, duration=run.events / run.rate
    )
    reports = []
    for name in ("lab", "improved"):
        options = validate.ValidationOptions(folder, reconstruction=name)
        out = folder / name
        simulated = SimulatedRun.at(run_dir)
        report, _ = validate.assess(simulated, out, {}, options, Stop())
        wrong = misclassified(simulated, out, name)
        reports.append(report["numbers"] | {"peaks_misclassified": wrong})
    return reports


def misclassified(run: SimulatedRun, folder: Path, name: str) -> dict[str, Any]:
    """Return the fraction of peaks of 3 true PE or more with a wrong type, small ones included."""
    st = contexts.xams(
        output_folder=folder,
        config=to_dict_tuple(run.options() | {"peak_min_area": 2})
        | {"live_data_dir": str(run.run_dir.parent)},
        simulation_truth=run.run_dir,
        init_rundb=False,
        reconstruction=name,
    )
    st = contexts.context_for_daq_reader(st, run.run_id, run_doc=run.document(), check_exists=False)
    types, truth = (
        st.get_array(run.run_id, data_type, progress_bar=False)
        for data_type in ("peak_basics", "peak_truth")
    )
    large = truth["n_pe"] >= 3
    expected = np.array([TYPES.get(origin, 0) for origin in truth["origin"][large]])
    number = statistics.fraction(int((types["type"][large] != expected).sum()), len(expected))
    return {**number._asdict(), "unit": "1"}


def write(folder: Path = SOURCE, runs: tuple[Run, ...] = RUNS) -> None:
    """Write the table into `folder`."""
    text = HEADER
    for run in runs:
        with tempfile.TemporaryDirectory() as work:
            text += "".join(rows(run, *compare(run, Path(work))))
    (folder / "reconstruction_table.inc").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=SOURCE, metavar="FOLDER")
    write(parser.parse_args().output)
