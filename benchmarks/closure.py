#!/usr/bin/env python
"""Compare calibration results of simulated runs with the true values (closure).

For each set of runs of `SETS`, runs of different seeds and true values are simulated and processed.
The table has the bias, and mean and width of pulls, (found - true) / error, for each method.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from amstrax import contexts, simulation
from amstrax.calibration import alphas, drift, energy, kr83m, lifetime, maps, single_electrons
from amstrax.calibration.result import Result
from amstrax.commands import base
from amstrax.exceptions import NoResult
from amstrax.simulation import matching, optics, sources
from amstrax.simulation.sources import PO214_HALF_LIFE

RUN_ID = "000001"
#: Limits of a method that passes
MOST_PULL, PULL_WIDTHS = 0.3, (0.8, 1.2)


class Sample(NamedTuple):
    """A simulated run: its context, true numbers of the detector, and truth of events."""

    st: Any
    detector: simulation.Detector
    truth: np.ndarray
    model: Any  #: of the source

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
    methods: tuple[Callable[[Sample], Iterable[Estimate]], ...]
    #: True numbers of the detector
    values: Callable[[np.random.Generator], Mapping[str, Any]] = lambda rng: {}
    energy_range: tuple[float, float] | None = None  #: [keV]
    without: Sequence[str] = ()
    optics: str = "geometry"
    detector: str = "xams"
    #: Model of the source, instead of that of `sources.SOURCES`
    model: Callable[[np.random.Generator], sources.Model] | None = None


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
    drift_range = gate.edge + 500, cathode.edge - 500
    _, found = lifetime.lifetime_of_events(events, None, drift_range, allow_saturated=True)
    for result in (found.likelihood, found.bootstrap):
        yield Estimate(result, sample.detector.electron_lifetime, 0.01)


def _lifetime_of_truth(sample: Sample) -> Iterable[Estimate]:
    """Lifetime from photoelectrons for each true electron: a second way, without peaks."""
    truth = sample.truth
    true = sample.detector.drift_time_gate - truth["z"] / sample.detector.drift_velocity
    good = (truth["s2_pe"] > 0) & (truth["electrons"] > 0)
    x, y = (truth[axis][good].astype(np.float64) for axis in "xy")
    light = optics.model("geometry", sample.detector).s2(x, y).sum(axis=1)
    ratio = truth["s2_pe"][good] / truth["electrons"][good] / light
    found = lifetime.find_lifetime(ratio, true[good], n_samples=2).likelihood
    method = "truth: light for each electron"
    yield Estimate(replace(found, method=method), sample.detector.electron_lifetime, 0.01)


def _s1_delay(detector: simulation.Detector) -> float:
    """Return the mean time from a deposit to the light of its S1, which is not in drift_time [ns].

    Simulated S2 light comes without a decay time, so the two do not cancel.
    """
    share = detector.singlet_share_electrons
    return share * detector.singlet_time + (1 - share) * detector.triplet_time


def _drift(sample: Sample) -> Iterable[Estimate]:
    events, detector = sample.load("event_info"), sample.detector
    gate, cathode = drift.find_edges(events["drift_time"], n_samples=20)
    delay = _s1_delay(detector)
    for edge, since_deposit in (
        (gate, detector.drift_time_gate),
        (cathode, detector.drift_time_cathode),
    ):
        true = since_deposit - delay
        yield Estimate(edge.likelihood, true, 50.0, is_relative=False)
        if edge.bootstrap is not None:
            yield Estimate(edge.bootstrap, true, 50.0, is_relative=False)
    velocity = drift.velocity(gate.likelihood, cathode.likelihood, detector.gate_cathode_distance)
    yield Estimate(velocity, detector.drift_velocity, 0.01)
    inside = (events["drift_time"] > gate.edge) & (events["drift_time"] < cathode.edge)
    events = events[inside]
    columns = "s2_range_90p_area", "drift_time", "s2_area"
    width, time, area = (events[name] for name in columns)
    found = drift.find_diffusion(width, time, detector.drift_velocity, area, detector.se_gain)
    yield Estimate(found.result, detector.diffusion_longitudinal * 1e7, 0.05)


# Energy scale, single electrons, maps

#: Energies of two lines of electrons [keV]. With at most 6 PE for an electron, S2s of 120 keV do
#: not reach the end of the ADC; with the default 10 PE, 62 % of them do
_LOW, _HIGH = 20.0, 120.0
#: W of NEST at 2.86 g/cm^3 [eV], and its variance / mean of the number of quanta at 120 keV and 500
#: V/cm, of 1000 draws
_NEST_W, _NEST_FANO = 13.558, 2.4


def _corrected(sample: Sample) -> np.ndarray:
    """Return event_info, corrected with the true lifetime and drift times."""
    names = "drift_time_gate", "drift_time_cathode"
    config = {name: getattr(sample.detector, name) for name in names}
    sample.st.set_config({"elife": sample.detector.electron_lifetime, **config})
    return sample.load("event_info")


def _scale_values(rng: np.random.Generator) -> dict[str, float]:
    return {"g1": float(rng.uniform(0.07, 0.13)), "se_gain": float(rng.uniform(3.5, 6.0))}


def _scale(sample: Sample) -> Iterable[Estimate]:
    detector = sample.detector
    low = _corrected(sample)
    seed = int(low["time"].sum() % 2**31)
    with tempfile.TemporaryDirectory() as folder:
        range_, rest = (_HIGH, _HIGH), dict(without=("surface_charge_loss",), optics=_INVERSE)
        live = simulation.simulate(
            RUN_ID, folder, detector, "flat", 50.0, 8.0, seed, energy_range=range_, **rest
        )
        found = simulation.SimulatedRun.at(live)
        st = contexts.xams(storage=[], init_rundb=False, config=found.options())
        contexts.context_for_daq_reader(st, RUN_ID, run_doc=found.document())
        high = st.get_array(RUN_ID, "event_info", progress_bar=False)
    lines = [
        energy.find_line(keV, events["cs1"], events["cs2"])
        for keV, events in ((_LOW, low), (_HIGH, high))
    ]
    scales = [energy.doke_fit(lines, _NEST_W)]
    g2 = detector.se_gain * detector.extraction_efficiency
    noise = 0.5 * detector.se_gain
    own = lines[1], high["cs1"], high["cs2"], _NEST_W
    scales.append(energy.ellipse_fit(*own, _NEST_FANO, noise))
    for scale in scales:
        yield Estimate(scale.g1, detector.g1, 0.01)
        yield Estimate(scale.g2, g2, 0.01)
    # A second way, which needs no line. It comes last: it may find too few electrons
    electrons = single_electrons.g2_of_electrons(
        _gain(sample), (detector.extraction_efficiency, 0.0)
    )
    yield Estimate(electrons, g2, 0.01)
    ratio = electrons.value / scales[0].g2.value
    error = ratio * np.hypot(*(x.error / x.value for x in (electrons, scales[0].g2)))
    method = "se_gain x extraction / Doke plot"
    yield Estimate(Result("g2", ratio, ratio - error, ratio + error, "1", method), 1.0, 0.01)


def _gain(sample: Sample) -> Result:
    area = single_electrons.select(sample.load("single_electrons"))
    return single_electrons.fit_electrons(area).gain


def _se_gain(sample: Sample) -> Iterable[Estimate]:
    yield Estimate(_gain(sample), sample.detector.se_gain, 0.01)


def _maps(sample: Sample) -> Iterable[Estimate]:
    """Estimate each bin that has events enough; the true one is the mean light of its events."""
    detector, events = sample.detector, _corrected(sample)
    match = matching.match_truth(sample.truth, events)
    good = (match["n_truth"] == 1) & match["s1_is_main"] & match["s2_is_main"]
    truth, events = sample.truth[good], events[match["event"][good]]
    x, y, z = (truth[axis].astype(np.float64) for axis in "xyz")
    light = optics.model("geometry", detector)
    s2 = events["s2_area"] * np.exp(events["drift_time"] / detector.electron_lifetime)
    r_edges = detector.radius * np.sqrt(np.linspace(0, 1, 4))
    z_edges = np.linspace(-detector.gate_cathode_distance, 0, 5)
    edges = np.linspace(-detector.radius, detector.radius, 5)
    for name, found, axes, seen in (
        (
            "s1_map",
            maps.s1_map(events["r"], events["z"], events["s1_area"], r_edges, z_edges, 10),
            "rz",
            light.s1(x, y, z).sum(axis=1),
        ),
        (
            "s2_map",
            maps.s2_map(events["x"], events["y"], s2, edges, edges, 10),
            "xy",
            light.s2(x, y).sum(axis=1),
        ),
    ):
        bins = [
            np.searchsorted(e, events[axis], "right") - 1
            for e, axis in zip(found.edges, axes, strict=True)
        ]
        shape = found.ratio.shape
        inside = np.all([(b >= 0) & (b < n) for b, n in zip(bins, shape, strict=True)], axis=0)
        index = np.ravel_multi_index([b[inside] for b in bins], shape)
        total = np.bincount(index, seen[inside], found.ratio.size).reshape(shape)
        true = total / np.maximum(found.n_events, 1)
        kept = (found.n_used == found.n_events) & (found.n_events >= 10)
        weight = found.error[kept] ** -2.0
        true *= np.sum(weight * true[kept] * found.ratio[kept]) / np.sum(weight * true[kept] ** 2)
        for value, error, right in zip(
            found.ratio[kept], found.error[kept], true[kept], strict=True
        ):
            ends = float(value - error), float(value + error)
            yield Estimate(Result(name, float(value), *ends, "1", "mean of a bin"), right, 0.01)


def _alphas(sample: Sample) -> Iterable[Estimate]:
    """Estimate lines, scale, PE areas and half-life; the PMTs have photoelectrons of one area."""
    (own,) = set(sample.detector.photoelectron_areas)
    peaks = sample.load("radon_peaks", "radon_peak_basics")
    found, delays = alphas.alphas_of_peaks(peaks, "ADC")
    truth, energies = sample.truth, alphas.ENERGIES
    # Areas are relative to the mean light of the alphas that are found: one in 300 is not
    narrow = (peaks["n_channels"] == 2) & (peaks["range_50p_area"] < alphas.LONGEST_ALPHA)
    seen = np.sort(peaks["center_time"][narrow])
    first = np.minimum(np.searchsorted(seen, truth["s1_center_time"] - 150), len(seen) - 1)
    truth = truth[np.abs(seen[first] - truth["s1_center_time"]) < 150]
    of_line = {name: np.abs(truth["energy"] - keV) < 0.5 for name, keV in energies.items()}
    some = np.any(list(of_line.values()), axis=0)
    area = own * np.mean(truth["s1_pe"][some] / truth["photons"][some])  # for a photon
    true = {name: area * truth["photons"][which].mean() for name, which in of_line.items()}
    for name, line in found.lines.items():
        yield Estimate(line, true[name], 0.01)
    yield Estimate(found.scale, np.mean([energies[name] / true[name] for name in true]), 0.01)
    records = sample.load("radon_records")
    for channel in sample.detector.channels:
        pulses = records[records["channel"] == channel]
        noise = float(np.median(pulses["baseline_rms"]))
        yield Estimate(alphas.photoelectron_area(alphas.tails_of(pulses), noise), own, 0.05)
    yield Estimate(alphas.half_life(delays), PO214_HALF_LIFE / 1e3, 0.05)  # last: needs most alphas


def _kr83m_half_life(sample: Sample) -> Iterable[Estimate]:
    events = sample.load("event_kr83m")
    delay = events["s1_delay"][events["kr_quality"] >= 2]
    yield Estimate(kr83m.half_life(delay, 100, 750), sample.model.half_life, 0.01)


_INVERSE = "inverse_of_reconstruction"

SETS: Mapping[str, Set] = {
    # Electrons of one energy everywhere: photons would go some 0.5 mm, which blurs the edges
    "drift": Set(
        *("flat", 20.0, 100.0),
        (_lifetime, _lifetime_of_truth, _drift),
        _drift_values,
        energy_range=(10.0, 10.1),
    ),
    "energy": Set(
        *("flat", 16.0, 50.0),
        (_scale,),
        _scale_values,
        energy_range=(_LOW, _LOW),
        without=("surface_charge_loss",),
        optics=_INVERSE,
    ),
    # After S2s of 40 keV the PMT bases lack charge, and single electrons of 28 PE lose 2.7 %
    "single_electrons": Set(
        *("flat", 10.0, 100.0),
        (_se_gain,),
        lambda rng: {"se_gain": float(rng.uniform(7, 25))},
        energy_range=(10.0, 10.0),
    ),
    "maps": Set("flat", 5.0, 100.0, (_maps,), energy_range=(40.0, 40.0)),
    "alphas": Set(
        *("rn_chain", 15.0, 60.0),
        (_alphas,),
        lambda rng: {
            "g1": float(rng.uniform(0.08, 0.13)),
            "photoelectron_areas": (float(rng.uniform(0.8, 1.5)),) * 2,
        },
        detector="xamsl",
    ),
    "kr83m": Set(
        *("kr83m", 10.0, 100.0),
        (_kr83m_half_life,),
        without=("afterpulses", "delayed_electrons", "photoionisation"),
        model=lambda rng: sources.Kr83m(float(rng.uniform(120, 200))),
    ),
}


# The frame


def run(name: str, seed: int, keep: str | None = None) -> list[Estimate | str]:
    """Simulate and process a run of a set; return what is found, or why nothing is.

    Below the folder `keep`, runs stay, and are not simulated again.
    """
    chosen = SETS[name]
    rng = np.random.default_rng(seed)
    detector = simulation.DETECTORS[chosen.detector].with_values(**chosen.values(rng))
    usual = sources.SOURCES[chosen.source]
    source = usual if chosen.model is None else usual._replace(model=chosen.model(rng))
    # Only names of sources are accepted, so the row of this process is exchanged
    sources.SOURCES = MappingProxyType({**sources.SOURCES, chosen.source: source})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else Path(keep, name, str(seed))
        if not (folder / "done").exists():
            what = detector, chosen.source, chosen.rate, chosen.duration, seed
            names = "energy_range", "without", "optics"
            options = {option: getattr(chosen, option) for option in names}
            simulation.simulate(RUN_ID, folder, *what, **options, show_progress=False)
            (folder / "done").touch()
        # What is looked for must not be among the options
        config = simulation.load_options(folder / f"config_{RUN_ID}.json")
        for option in ("elife", "drift_time_gate", "drift_time_cathode"):
            config.pop(option, None)
        context = getattr(contexts, detector.context)
        st = context(output_folder=folder / "data", init_rundb=False, config=config)
        document = json.loads((folder / f"rundoc_{RUN_ID}.json").read_text(encoding="utf-8"))
        document.pop("strax_defaults", None)
        contexts.context_for_daq_reader(st, RUN_ID, run_doc=document, check_exists=False)
        truth = simulation.load_truth(folder / f"truth_{RUN_ID}.npy")
        found: list[Estimate | str] = []
        sample = Sample(st, detector, truth, source.model)
        for method in chosen.methods:
            try:
                found += method(sample)
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
        # The end of the interval on the side of the true value. For weights as well: short
        # lifetimes have short intervals, whose weights would make the mean too low
        error = np.where(off > 0, lower, upper)
        pulls = off / error
        weights = (scale / error) ** 2
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


def _cells(rows: Sequence[Closure]) -> list[list[str]]:
    cells = [["number", "method", "runs", "bias", "limit", "pull mean", "pull width", "passes"]]
    for row in rows:
        bias, limit = f"{row.bias:.1f} +- {row.bias_error:.1f}", f"{row.tolerance:g}"
        if row.is_relative:
            bias = f"{row.bias:.2%} +- {row.bias_error:.2%}"
            limit = f"{row.tolerance:.0%}"
        pulls = [f"{row.pull_mean:.2f}", f"{row.pull_width:.2f}"]
        verdict = "yes" if row.passes else "no"
        cells.append([row.name, row.method, str(row.n_runs), bias, limit, *pulls, verdict])
    return cells


def table(rows: Sequence[Closure]) -> str:
    """Return the table as text."""
    return base.format_table(_cells(rows))


def rst(rows: Sequence[Closure]) -> str:
    """Return the table for the documentation."""
    lines = [".. made by benchmarks/closure.py --rst\n", ".. list-table::", "   :header-rows: 1\n"]
    for first, *others in _cells(rows):
        lines += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
    return "\n".join(lines) + "\n"


def passes(rows: Sequence[Closure], n_problems: int, n_runs: int) -> bool:
    """Return whether all methods pass, and at most one run in ten has a method without result."""
    return bool(rows) and all(row.passes for row in rows) and n_problems <= 0.1 * n_runs


def main() -> int:
    """Print the table of all methods, and return 1 if one fails or finds nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "sets", nargs="*", default=list(SETS), metavar="SET", help="sets (default: all)"
    )
    parser.add_argument("--runs", type=int, default=50, help="runs of each set (default: 50)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--keep", metavar="FOLDER", help="keep runs, and use those that are there")
    parser.add_argument("--json", metavar="FILE", help="write the table")
    parser.add_argument(
        "--rst", metavar="FOLDER", help="write closure_SET.inc for each set, as in docs/source"
    )
    args = parser.parse_args()
    rows: list[Closure] = []
    all_pass = True
    with ProcessPoolExecutor(args.workers) as pool:
        for name in args.sets:
            found = [
                x
                for each in pool.map(run, repeat(name), range(args.runs), repeat(args.keep))
                for x in each
            ]
            of_set = summarise(x for x in found if isinstance(x, Estimate))
            rows += of_set
            if args.rst:
                Path(args.rst, f"closure_{name}.inc").write_text(rst(of_set), encoding="utf-8")
            problems = [x for x in found if isinstance(x, str)]
            all_pass &= passes(of_set, len(problems), args.runs)
            for problem in problems:
                print(f"{name}: {problem}", file=sys.stderr)
    print(table(rows))
    if args.json:
        every = [{**row._asdict(), "passes": row.passes} for row in rows]
        Path(args.json).write_text(json.dumps(every, indent=1), encoding="utf-8")
    return 0 if all_pass else 1


if __name__ == "__main__":
    sys.exit(main())
