"""Truth of each thing in a simulated run: deposits, their light, and what peaks are made of.

The file ``parts_RUN.npz`` holds the tables ``deposits`` and ``light`` in pieces, as ``light_0003``,
which `numpy.load` reads too. It is written block by block.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import numba
import numpy as np
import strax

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import sort_by_time
from amstrax.simulation.detector import Detector
from amstrax.simulation.light import NO_DEPOSIT, Light, Origin, is_pmt
from amstrax.simulation.sources import Deposits, External

#: Light of one deposit, origin and sensor within so long is one row [ns]
GRAIN = 50
#: Rows of a piece of a table; pieces are held in memory
PIECE = 100_000
#: An S1 or S2 contributes to a peak if this share of the peak's photoelectrons is its own
LEAST_SHARE = 0.05


class Sensor(IntEnum):
    """Sensors that see light."""

    TPC = 0  #: PMTs of the TPC
    SIPM = 1
    EXTERNAL = 2  #: the NaI detector


DEPOSIT_DTYPE = np.dtype(
    [
        (("Time since unix epoch [ns]", "time"), np.int64),
        (("Number of the deposit in the run", "deposit"), np.int64),
        (("Number of its event in the run", "event_number"), np.int64),
        (("Kind of deposit, an amstrax.simulation.sources.Interaction", "interaction"), np.int8),
        (("Energy [keV]", "energy"), np.float32),
        (("Position x [mm]", "x"), np.float32),
        (("Position y [mm]", "y"), np.float32),
        (("Position z: 0 at the gate, negative below [mm]", "z"), np.float32),
        (("Photons produced", "photons"), np.int32),
        (("Electrons produced", "electrons"), np.int32),
        (("Electrons extracted into the gas", "electrons_extracted"), np.int32),
        (("Photoelectrons of its S1 in the PMTs of the TPC [PE]", "s1_pe"), np.int32),
        (("Photoelectrons of its S2 in the PMTs of the TPC [PE]", "s2_pe"), np.int32),
    ]
)

LIGHT_DTYPE = np.dtype(
    [
        (("Mean time since unix epoch [ns]", "time"), np.int64),
        (("Number of the deposit in the run; -1: none", "deposit"), np.int64),
        (("Number of the event in the run; -1: none", "event_number"), np.int64),
        (("Origin, an amstrax.simulation.light.Origin", "origin"), np.int8),
        (("Sensor: 0 PMTs of the TPC, 1 SiPM, 2 NaI detector", "sensor"), np.int8),
        (("Photoelectrons [PE]; of the NaI detector: energy [keV]", "size"), np.float32),
        (("Size of all light of that event, origin and sensor", "size_of_signal"), np.float32),
    ]
)

#: The tables of the file, by name
TABLES = {"deposits": DEPOSIT_DTYPE, "light": LIGHT_DTYPE}

#: Origins whose photoelectrons peaks count, each in its field
ORIGIN_FIELDS = {origin: f"{origin.name.lower()}_pe" for origin in Origin}
_TITLES = {
    Origin.S1: "S1s",
    Origin.S2: "S2s",
    Origin.AFTERPULSE: "after-pulses",
    Origin.DARK_COUNT: "dark counts",
    Origin.PHOTOIONISATION: "electrons of photoionisation",
    Origin.DELAYED_ELECTRON: "delayed electrons",
    Origin.LED: "flashes of the LED",
}

PEAK_TRUTH_DTYPE = np.dtype(
    [
        (("Photoelectrons in the peak's time [PE]", "n_pe"), np.float32),
        *(
            ((f"Photoelectrons of {_TITLES[origin]} [PE]", field), np.float32)
            for origin, field in ORIGIN_FIELDS.items()
        ),
        (("Origin of most photoelectrons; -1: noise, no photoelectrons", "origin"), np.int8),
        (("Deposit of most photoelectrons; -1: none", "deposit"), np.int64),
        (("Photoelectrons of that deposit [PE]", "deposit_pe"), np.float32),
        (("Event of the largest S1 or S2 in it; -1: none", "event_number"), np.int64),
        (("Kind of that signal: 1 S1, 2 S2; 0: none", "kind"), np.int8),
        (("S1s and S2s of deposits with at least 5 % of the light", "n_signals"), np.int32),
        (("Fraction of the light that belongs to that signal [1]", "purity"), np.float32),
        (("Fraction of the event's signal that is in the peak [1]", "completeness"), np.float32),
    ]
)


def deposit_table(
    deposits: Deposits,
    photons: np.ndarray,
    electrons: np.ndarray,
    extracted: np.ndarray,
    s1_pe: np.ndarray,
    s2_pe: np.ndarray,
) -> np.ndarray:
    """Return a row of `DEPOSIT_DTYPE` for each deposit, times from the start of the run."""
    n = len(deposits.time)
    table = np.zeros(n, dtype=DEPOSIT_DTYPE)
    table["deposit"], table["event_number"] = np.arange(n), deposits.event
    table["interaction"] = deposits.kind
    for field in ("time", "energy", "x", "y", "z"):
        table[field] = getattr(deposits, field)
    table["photons"], table["electrons"] = photons, electrons
    table["electrons_extracted"] = extracted
    table["s1_pe"], table["s2_pe"] = s1_pe, s2_pe
    return table


def light_table(light: Light, event: np.ndarray, detector: Detector) -> np.ndarray:
    """Return rows of `LIGHT_DTYPE` of light in `GRAIN`, sorted by time from the start of the run.

    `event` has the shape of the columns of `light`.
    """
    if not len(light.time):
        return np.zeros(0, dtype=LIGHT_DTYPE)
    in_pmt = is_pmt(detector)
    first, total, delay = _neighbours(*light, in_pmt)
    light = Light(*(column[first] for column in light))
    light, event = light._replace(time=light.time + delay, n_pe=total), event[first]
    sensor = np.where(in_pmt[light.channel], Sensor.TPC, Sensor.SIPM)
    grain = np.floor(light.time / GRAIN).astype(np.int64)
    grain -= grain.min()
    # Most light is generated in this order, so the sort below is quick
    columns = (light.deposit + 1, light.origin.astype(np.int64), grain, sensor)
    shape = tuple(int(column.max()) + 1 for column in columns)
    key = np.ravel_multi_index(columns, shape)
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    rows = order[first]
    table = np.zeros(len(rows), dtype=LIGHT_DTYPE)
    size = light.n_pe[order].astype(np.float64)
    table["size"] = total = np.add.reduceat(size, first)
    start = light.time[rows]
    # Relative to the first, since sums of times are too large for exact floats
    delay = light.time[order] - np.repeat(start, np.diff(np.append(first, len(key))))
    table["time"] = start + np.add.reduceat(size * delay, first) / total
    table["deposit"], table["event_number"] = light.deposit[rows], event[rows]
    table["origin"], table["sensor"] = light.origin[rows], sensor[rows]
    signal = np.ravel_multi_index(
        (event[rows] + 1, light.origin[rows].astype(np.int64), sensor[rows]),
        (int(event.max()) + 2, len(Origin), len(Sensor)),
    )
    table["size_of_signal"] = np.bincount(signal, total)[signal]
    alone = table["event_number"] == NO_DEPOSIT
    table["size_of_signal"][alone] = table["size"][alone]
    return sort_by_time(table)


@numba.njit(cache=True, nogil=True)
def _neighbours(time, channel, n_pe, deposit, origin, in_pmt):
    """Merge entries of one `GRAIN` that only those of the other sensor separate.

    Returns the first of each group, its photoelectrons, and its mean time after that of the first.
    """
    first = np.empty(len(time), dtype=np.int64)
    total, moment = np.empty(len(time)), np.empty(len(time))
    n = 0
    latest = np.full(2, -1)  # group of each sensor
    grain = np.empty(2)
    for i in range(len(time)):
        sensor = int(in_pmt[channel[i]])
        own = math.floor(time[i] / GRAIN)
        group = latest[sensor]
        of = first[group]
        if (
            group < 0
            or own != grain[sensor]
            or deposit[of] != deposit[i]
            or origin[of] != origin[i]
        ):
            group, of = n, i
            latest[sensor], grain[sensor] = n, own
            first[n], total[n], moment[n] = i, 0.0, 0.0
            n += 1
        total[group] += n_pe[i]
        moment[group] += n_pe[i] * (time[i] - time[of])
    return first[:n], total[:n], moment[:n] / total[:n]


def external_table(external: External, measured: np.ndarray, detector: Detector) -> np.ndarray:
    """Return a row of `LIGHT_DTYPE` for each deposit in the NaI detector, of `measured` keV."""
    table = np.zeros(len(measured), dtype=LIGHT_DTYPE)
    if len(table):
        table["time"] = external.time + detector.external_delay
        table["event_number"], table["deposit"] = external.event, NO_DEPOSIT
        table["origin"], table["sensor"] = Origin.S1, Sensor.EXTERNAL
        table["size"] = table["size_of_signal"] = measured
    return table


class PartsFile:
    """File ``parts_RUN.npz``, to which rows of the tables are appended in order of time."""

    def __init__(self, path: Path):
        self._file = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self._waiting = {name: np.zeros(0, dtype) for name, dtype in TABLES.items()}
        self._n_pieces = dict.fromkeys(TABLES, 0)

    def append(self, name: str, rows: np.ndarray, complete_until: int) -> None:
        """Add rows of a table; later ones have times from `complete_until` on."""
        waiting = sort_by_time(np.concatenate([self._waiting[name], rows]))
        while len(waiting) >= PIECE and waiting["time"][PIECE - 1] < complete_until:
            self._write(name, waiting[:PIECE])
            waiting = waiting[PIECE:]
        self._waiting[name] = waiting.copy()

    def _write(self, name: str, rows: np.ndarray) -> None:
        # Without the time of writing: the same seed gives the same bytes
        member = zipfile.ZipInfo(f"{name}_{self._n_pieces[name]:06d}.npy")
        content = io.BytesIO()
        np.lib.format.write_array(content, rows, allow_pickle=False)
        # Higher levels take three times as long for files that are 10 % smaller
        self._file.writestr(member, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)
        self._n_pieces[name] += 1

    def close(self) -> None:
        """Write the rest, and close."""
        for name, rows in self._waiting.items():
            self._write(name, rows)
        self._file.close()


def load_parts(path: str | Path, name: str) -> Iterator[np.ndarray]:
    """Yield the pieces of the table ``deposits`` or ``light`` of a run, in order of time.

    Raises InvalidOption (a ValueError) when the file cannot be read, or is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            members = sorted(member for member in file.files if member.startswith(f"{name}_"))
            if not members:
                raise ValueError(f"it has no table {name}")
            for member in members:
                piece = file[member]
                if piece.dtype != TABLES[name]:
                    raise ValueError(f"{member} has the columns of another release")
                yield piece
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidOption(
            f"parts of the truth cannot be read from {path} ({error}): name the file parts_RUN.npz "
            "that this release's `amstrax simulate` writes next to the run"
        ) from None


class Between:
    """Rows of sorted pieces for intervals of time that follow each other."""

    def __init__(self, pieces: Iterator[np.ndarray], dtype: np.dtype):
        self._pieces, self._rows = pieces, np.zeros(0, dtype)
        self._ended = False

    def __call__(self, start: int, end: int) -> np.ndarray:
        """Return the rows from `start` to before `end` [ns since unix epoch]."""
        while not self._ended and not (len(self._rows) and self._rows["time"][-1] >= end):
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
            else:
                self._rows = np.concatenate([self._rows, piece])
        first, beyond = np.searchsorted(self._rows["time"], (start, end))
        found, self._rows = self._rows[first:beyond], self._rows[beyond:].copy()
        return found


def peak_composition(
    peaks: np.ndarray, light: np.ndarray, sensor: Sensor = Sensor.TPC
) -> np.ndarray:
    """Return what peaks are made of: `PEAK_TRUTH_DTYPE`, shape (p,).

    Light belongs to the peak in whose time its mean time is. Light of less than `GRAIN` is in one
    row, so that some of it at the edges of peaks may count for a neighbour.

    Parameters
    ----------
    peaks
        Shape (p,), sorted by time and disjoint: time, endtime.
    light
        Rows of `LIGHT_DTYPE`, sorted by time.
    sensor
        Sensor of the peaks; light of others does not count.
    """
    n = len(peaks)
    result = np.zeros(n, dtype=PEAK_TRUTH_DTYPE)
    result["purity"] = result["completeness"] = np.nan
    for field in ("origin", "deposit", "event_number"):
        result[field] = NO_DEPOSIT
    light = light[light["sensor"] == sensor]
    peak = np.searchsorted(peaks["time"], light["time"], side="right") - 1
    inside = peak >= 0
    inside[inside] = light["time"][inside] < strax.endtime(peaks)[peak[inside]]
    light, peak = light[inside], peak[inside]
    size = light["size"].astype(np.float64)
    origin = light["origin"].astype(np.int64)
    by_origin = np.bincount(peak * len(Origin) + origin, size, n * len(Origin))
    by_origin = by_origin.reshape(n, len(Origin))
    total = result["n_pe"] = by_origin.sum(axis=1)
    for of, field in ORIGIN_FIELDS.items():
        result[field] = by_origin[:, of]
    has_light = total > 0
    result["origin"][has_light] = by_origin.argmax(axis=1)[has_light]

    of_deposit = np.flatnonzero(light["deposit"] != NO_DEPOSIT)
    row, sums = _sums(size, of_deposit, peak, light["deposit"])
    largest = _largest(peak[row], sums, n)
    has_deposit = largest >= 0
    result["deposit"][has_deposit] = light["deposit"][row[largest[has_deposit]]]
    result["deposit_pe"][has_deposit] = sums[largest[has_deposit]]
    result["event_number"][has_deposit] = light["event_number"][row[largest[has_deposit]]]

    is_signal = np.isin(origin, (Origin.S1, Origin.S2)) & (light["event_number"] >= 0)
    of_signal = np.flatnonzero(is_signal)
    row, sums = _sums(size, of_signal, peak, light["deposit"], origin)
    counted = peak[row][sums >= LEAST_SHARE * total[peak[row]]]
    result["n_signals"] = np.bincount(counted, minlength=n)
    row, sums = _sums(size, of_signal, peak, light["event_number"], origin)
    largest = _largest(peak[row], sums, n)
    has_signal = largest >= 0
    row, sums = row[largest[has_signal]], sums[largest[has_signal]]
    result["event_number"][has_signal] = light["event_number"][row]
    result["kind"][has_signal] = np.where(origin[row] == Origin.S1, 1, 2)
    result["purity"][has_signal] = sums / total[has_signal]
    result["completeness"][has_signal] = sums / light["size_of_signal"][row]
    return result


def _sums(size: np.ndarray, rows: np.ndarray, *keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of `rows` of each combination of the keys, and the sum of its sizes."""
    order = rows[np.lexsort([key[rows] for key in reversed(keys)])]
    if not len(order):
        return order, np.zeros(0)
    changes = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    first = np.flatnonzero(np.append(True, changes))
    return order[first], np.add.reduceat(size[order], first)


def _largest(peak: np.ndarray, sums: np.ndarray, n_peaks: int) -> np.ndarray:
    """Return the index of the largest sum of each peak, or -1."""
    result = np.full(n_peaks, -1)
    order = np.lexsort((sums, peak))
    is_last = np.append(peak[order][1:] != peak[order][:-1], True)[: len(order)]
    result[peak[order][is_last]] = order[is_last]
    return result
