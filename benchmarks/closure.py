#!/usr/bin/env python
"""Close calibrations on truth: what each method finds in simulated runs, beside the true values.

For each set of runs of `SETS`, runs of different seeds and true values are simulated and processed.
The table has the bias, and mean and width of pulls, (found - true) / error, for each method.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amstrax import contexts, simulation
from amstrax.calibration import drift, lifetime
from amstrax.calibration.result import Result
from amstrax.commands import base
from amstrax.exceptions import NoResult

RUN_ID = "000001"
#: Limits of a method that passes
MOST_PULL, PULL_WIDTHS = 0.3, (0.8, 1.2)


class Sample(NamedTuple):
    """A simulated run: its context, true numbers of the detector, and truth of events."""

    st: Any
    detector: simulation.Detector
    truth: np.ndarray

    def load(self, *targets: str) -> np.ndarray:
        """Return data types of the run."""
        return self.st.get_array(RUN_ID, targets, progress_bar=False)


class Estimate(NamedTuple):
    """What a method finds in a run, and the true value."""

    result: Result
    true: float
    tolerance: float  #: of the bias: share of the true value if `is_relative`, else in its unit
    is_relative: bool = True


class Set(NamedTuple):
    """Runs that methods are tried on."""

    source: str
    duration: float  #: [s]
    rate: float  #: [Hz]
    values: Callable[[np.random.Generator], Mapping[str, Any]]  #: true numbers of the detector
    estimates: Callable[[Sample], Iterable[Callable[[], Iterable[Estimate]]]]  #: the methods
    energy_range: tuple[float, float] | None = None  #: [keV]
    without: Sequence[str] = ()


# Lifetime and drift


def _drift_values(rng: np.random.Generator) -> dict[str, float]:
    return {
        "electron_lifetime": float(np.exp(rng.uniform(*np.log((10_000, 300_000))))),
        "drift_time_gate": float(rng.uniform(3_000, 7_000)),
        "drift_time_cathode": float(rng.uniform(36_000, 42_000)),
    }


def _lifetime(sample: Sample) -> Iterable[Estimate]:
    events = sample.load("event_info")
    gate, cathode = drift.find_edges(events["drift_time"])
    good = lifetime.usable(
        events["s2_area"], events["drift_time"], (gate.edge + 500, cathode.edge - 500)
    )
    columns = (events[name][good] for name in ("s2_area", "drift_time", "r"))
    found = lifetime.find_lifetime(*columns)
    for result in (found.likelihood, found.bootstrap):
        yield Estimate(result, sample.detector.electron_lifetime, 0.01)


def _lifetime_of_truth(sample: Sample) -> Iterable[Estimate]:
    """Lifetime from photoelectrons for each true electron: a second way, without peaks."""
    truth = sample.truth
    true = sample.detector.drift_time_gate - truth["z"] / sample.detector.drift_velocity
    good = (truth["s2_pe"] > 0) & (truth["electrons"] > 0)
    ratio = truth["s2_pe"][good] / truth["electrons"][good]
    radius = np.hypot(truth["x"], truth["y"])[good]
    found = lifetime.find_lifetime(ratio, true[good], radius, 20)
    result = Result("elife", *_ends(found.likelihood), "ns", "truth: light for each electron")
    yield Estimate(result, sample.detector.electron_lifetime, 0.01)


def _ends(result: Result) -> tuple[float, float, float]:
    return result.value, result.lower, result.upper


def _drift(sample: Sample) -> Iterable[Estimate]:
    events, detector = sample.load("event_info"), sample.detector
    gate, cathode = drift.find_edges(events["drift_time"], n_samples=20)
    for edge, true in ((gate, detector.drift_time_gate), (cathode, detector.drift_time_cathode)):
        yield Estimate(edge.likelihood, true, 50.0, is_relative=False)
        if edge.bootstrap is not None:
            yield Estimate(edge.bootstrap, true, 50.0, is_relative=False)
    velocity = drift.velocity(gate.likelihood, cathode.likelihood, detector.gate_cathode_distance)
    yield Estimate(velocity, detector.drift_velocity, 0.01)
    inside = (events["drift_time"] > gate.edge) & (events["drift_time"] < cathode.edge)
    events = events[inside]
    found = drift.find_diffusion(
        events["s2_range_90p_area"], events["drift_time"], detector.drift_velocity
    )
    yield Estimate(found.result, detector.diffusion_longitudinal * 1e7, 0.05)


SETS: Mapping[str, Set] = {
    # Electrons of one energy everywhere: photons would go some 0.5 mm, which blurs the edges
    "drift": Set(
        "flat",
        20.0,
        100.0,
        _drift_values,
        lambda sample: [
            lambda: _lifetime(sample),
            lambda: _lifetime_of_truth(sample),
            lambda: _drift(sample),
        ],
        energy_range=(10.0, 10.1),
    ),
}


# The frame


def run(name: str, seed: int) -> list[Estimate | str]:
    """Simulate and process a run of a set; return what is found, or why nothing is."""
    chosen = SETS[name]
    rng = np.random.default_rng(seed)
    detector = simulation.DETECTORS["xams"].with_values(**chosen.values(rng))
    with tempfile.TemporaryDirectory() as folder:
        simulation.simulate(
            RUN_ID,
            Path(folder),
            detector,
            chosen.source,
            chosen.rate,
            chosen.duration,
            seed,
            energy_range=chosen.energy_range,
            without=chosen.without,
            show_progress=False,
        )
        # What is looked for must not be among the options
        config = simulation.load_options(Path(folder, f"config_{RUN_ID}.json"))
        for option in ("elife", "drift_time_gate", "drift_time_cathode"):
            config.pop(option, None)
        st = contexts.xams(output_folder=Path(folder, "data"), init_rundb=False, config=config)
        document = json.loads(Path(folder, f"rundoc_{RUN_ID}.json").read_text(encoding="utf-8"))
        document.pop("strax_defaults", None)
        contexts.context_for_daq_reader(st, RUN_ID, run_doc=document, check_exists=False)
        truth = simulation.load_truth(Path(folder, f"truth_{RUN_ID}.npy"))
        found: list[Estimate | str] = []
        for estimate in chosen.estimates(Sample(st, detector, truth)):
            try:
                found += estimate()
            except NoResult as error:
                found.append(str(error))
    return found


class Closure(NamedTuple):
    """How a method did in all runs."""

    name: str
    method: str
    n_runs: int
    bias: float
    bias_error: float
    pull_mean: float
    pull_width: float
    tolerance: float
    is_relative: bool

    @property
    def passes(self) -> bool:
        """Return whether bias and pulls are within the limits."""
        low, high = PULL_WIDTHS
        fine_pulls = abs(self.pull_mean) < MOST_PULL and low < self.pull_width < high
        return abs(self.bias) < self.tolerance and fine_pulls


def summarise(estimates: Iterable[Estimate]) -> list[Closure]:
    """Return bias (weighted with the errors) and pulls for each number and method."""
    by_method: dict[tuple[str, str], list[Estimate]] = {}
    for estimate in estimates:
        by_method.setdefault((estimate.result.name, estimate.result.method), []).append(estimate)
    rows = []
    for (name, method), found in by_method.items():
        off = np.array([e.result.value - e.true for e in found])
        lower = np.array([e.result.value - e.result.lower for e in found])
        upper = np.array([e.result.upper - e.result.value for e in found])
        scale = np.array([e.true if e.is_relative else 1.0 for e in found])
        # The end of the interval on the side of the true value
        pulls = off / np.where(off > 0, lower, upper)
        weights = (scale / ((lower + upper) / 2)) ** 2
        kept = np.isfinite(weights) & np.isfinite(off)
        rows.append(
            Closure(
                name,
                method,
                len(found),
                float(np.average((off / scale)[kept], weights=weights[kept])),
                float(weights[kept].sum() ** -0.5),
                float(pulls.mean()),
                float(pulls.std(ddof=1)),
                found[0].tolerance,
                found[0].is_relative,
            )
        )
    return rows


def table(rows: Sequence[Closure]) -> str:
    """Return the table as text."""
    cells = [["number", "method", "runs", "bias", "limit", "pull mean", "pull width", "passes"]]
    for row in rows:
        bias, limit = f"{row.bias:.1f} +- {row.bias_error:.1f}", f"{row.tolerance:g}"
        if row.is_relative:
            bias = f"{row.bias:.2%} +- {row.bias_error:.2%}"
            limit = f"{row.tolerance:.0%}"
        pulls = [f"{row.pull_mean:.2f}", f"{row.pull_width:.2f}"]
        verdict = "yes" if row.passes else "no"
        cells.append([row.name, row.method, str(row.n_runs), bias, limit, *pulls, verdict])
    return base.format_table(cells)


def main() -> int:
    """Print the table of all methods, and return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "sets", nargs="*", default=list(SETS), metavar="SET", help="sets (default: all)"
    )
    parser.add_argument("--runs", type=int, default=50, help="runs of each set (default: 50)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    args = parser.parse_args()
    rows: list[Closure] = []
    with ProcessPoolExecutor(args.workers) as pool:
        for name in args.sets:
            found = [x for each in pool.map(run, repeat(name), range(args.runs)) for x in each]
            rows += summarise(x for x in found if isinstance(x, Estimate))
            for problem in (x for x in found if isinstance(x, str)):
                print(f"{name}: {problem}", file=sys.stderr)
    print(table(rows))
    return 0 if all(row.passes for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
