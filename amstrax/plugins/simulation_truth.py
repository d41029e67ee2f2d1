"""Truth of simulated runs as data types; contexts have them if asked for (``simulation_truth``)."""

import functools
from pathlib import Path

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import sort_by_time
from amstrax.simulation import load_truth, parts
from amstrax.simulation.run import SimulatedRun
from amstrax.simulation.writer import TRUTH_DTYPE
from amstrax.strax_ext.plugin import Plugin

__all__ = [
    "PeakTruth",
    "PeakTruthEXT",
    "PeakTruthSiPM",
    "RadonPeakTruth",
    "RadonSimulationTruth",
    "SimulationTruth",
]

_END = [(("Exclusive end time since unix epoch: 1 ns after time", "endtime"), np.int64)]


def _with_end(dtype: np.dtype) -> np.dtype:
    return np.dtype([dtype.descr[0], *_END, *dtype.descr[1:]])


def _events_dtype() -> np.dtype:
    """Return the columns of ``truth_events``: the end of the light has another name."""
    time, end, *others = TRUTH_DTYPE.descr
    return np.dtype([time, *_END, ((end[0][0], "light_endtime"), *end[1:]), *others])


@strax.takes_config(
    strax.Option(
        "simulation",
        type=dict,
        help="Release of amstrax and settings of the simulation, as in the run document; set by "
        "the argument simulation_truth of the context",
    ),
    strax.Option(
        "simulated_run",
        type=str,
        track=False,
        help="Folder of the simulated live data, with the files of the truth next to it; set by "
        "the argument simulation_truth of the context",
    ),
)
class SimulationTruth(Plugin):
    """Truth of a simulated run, from its files; raw records only say how the run is cut.

    - truth_events: simulated events, as of `amstrax.simulation.load_truth`
    - truth_deposits: their energy deposits, with photons, electrons and photoelectrons
    - truth_light: photoelectrons by deposit, origin and sensor, within 50 ns a row; of the NaI
      detector, energies

    A row is at the time of its first light, 1 ns long, so that events do not overlap.
    """

    __version__ = "1.0.0-amstrax3"
    depends_on: tuple[str, ...] = ("raw_records",)
    provides = ("truth_events", "truth_deposits", "truth_light")
    data_kind = immutabledict(zip(provides, provides, strict=True))
    save_when = immutabledict.fromkeys(provides, strax.SaveWhen.TARGET)

    def infer_dtype(self):
        return {
            "truth_events": _events_dtype(),
            "truth_deposits": _with_end(parts.DEPOSIT_DTYPE),
            "truth_light": _with_end(parts.LIGHT_DTYPE),
        }

    @functools.cached_property
    def tables(self) -> dict[str, parts.Between]:
        """The tables by data type, of the files that are opened at their first use."""
        run = SimulatedRun.at(Path(self.config["simulated_run"]))
        if run.run_id != self.run_id or run.simulation() != self.config["simulation"]:
            raise InvalidOption(
                f"{run.run_dir} is not the simulation of run {self.run_id} that this context was "
                "made for: make a context for this run, with simulation_truth its folder"
            )
        return {
            "truth_events": parts.Between(iter([load_truth(run.truth)]), TRUTH_DTYPE),
            "truth_deposits": parts.Between(
                parts.load_parts(run.parts, "deposits"), parts.DEPOSIT_DTYPE
            ),
            "truth_light": parts.Between(parts.load_parts(run.parts, "light"), parts.LIGHT_DTYPE),
        }

    def compute(self, start, end, **raw_records):
        result = {}
        for data_type, table in self.tables.items():
            rows = table(start, end)
            made = result[data_type] = np.zeros(len(rows), self.dtype_for(data_type))
            for field in rows.dtype.names or ():
                made["light_endtime" if field == "endtime" else field] = rows[field]
            made["endtime"] = made["time"] + 1
        return result


class RadonSimulationTruth(SimulationTruth):
    """Truth of a simulated run of XAMSL, see `SimulationTruth`."""

    depends_on = ("raw_records_v1730",)


class PeakTruth(Plugin):
    """What each peak is made of: photoelectrons by origin, deposit and event (XAMS)."""

    __version__ = "1.0.0-amstrax3"
    depends_on: tuple[str, ...] = ("peak_basics", "truth_light")
    provides: tuple[str, ...] | str = "peak_truth"
    data_kind = "peaks"
    sensor = parts.Sensor.TPC

    def infer_dtype(self):
        return strax.time_fields + parts.PEAK_TRUTH_DTYPE.descr

    def compute(self, truth_light, **inputs):
        (peaks,) = inputs.values()
        made = np.zeros(len(peaks), dtype=self.dtype)
        made["time"], made["endtime"] = peaks["time"], strax.endtime(peaks)
        found = parts.peak_composition(peaks, sort_by_time(truth_light), self.sensor)
        for field in found.dtype.names or ():
            made[field] = found[field]
        return made


class PeakTruthSiPM(PeakTruth):
    """What each peak of the SiPM is made of, see `PeakTruth`."""

    depends_on = ("peak_basics_sipm", "truth_light")
    provides = "peak_truth_sipm"
    data_kind = "peaks_sipm"
    sensor = parts.Sensor.SIPM


class PeakTruthEXT(PeakTruth):
    """True energy in each peak of the NaI detector: ``n_pe`` is in keV, see `PeakTruth`."""

    depends_on = ("peak_basics_ext", "truth_light")
    provides = "peak_truth_ext"
    data_kind = "peaks_ext"
    sensor = parts.Sensor.EXTERNAL


class RadonPeakTruth(PeakTruth):
    """What each peak of XAMSL is made of, see `PeakTruth`."""

    depends_on = ("radon_peak_basics", "truth_light")
    provides = "radon_peak_truth"
    data_kind = "radon_peaks"
