"""Files of simulated runs: live data as of redax, at once or in real time, and the truth."""

import io
import itertools
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import strax

from amstrax import redax
from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import as_void

TRUTH_DTYPE = np.dtype(
    [
        (("Time of the first deposit since unix epoch [ns]", "time"), np.int64),
        (("Exclusive end time of the event's light since unix epoch [ns]", "endtime"), np.int64),
        (("Number of the event in the run", "event_number"), np.int64),
        (("Energy in the xenon [keV]", "energy"), np.float64),
        (("Position x [mm]", "x"), np.float64),
        (("Position y [mm]", "y"), np.float64),
        (("Position z: 0 at the gate, negative below [mm]", "z"), np.float64),
        (("Photons produced", "photons"), np.int64),
        (("Electrons produced", "electrons"), np.int64),
        (("Photoelectrons of the S1 in the PMTs of the TPC [PE]", "s1_pe"), np.int64),
        (("Photoelectrons of the S2 in the PMTs of the TPC [PE]", "s2_pe"), np.int64),
        (("Mean time of the S1's since unix epoch; -1: none [ns]", "s1_center_time"), np.int64),
        (("Mean time of the S2's since unix epoch; -1: none [ns]", "s2_center_time"), np.int64),
        (("Time between the two; NaN: one is missing [ns]", "drift_time"), np.float64),
        (("Energy that the NaI detector measured; 0: none [keV]", "external_energy"), np.float64),
        (("Number of deposits", "n_deposits"), np.int16),
    ]
)


def load_truth(path: str | Path) -> np.ndarray:
    """Return the truth of a run from its ``truth_RUN.npy``: `TRUTH_DTYPE`, sorted by time.

    Raises InvalidOption (a ValueError) when the file cannot be read, or is something else.
    """
    try:
        truth = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidOption(
            f"truth cannot be read from {path} ({error}): name the file truth_RUN.npy that "
            "`amstrax simulate` writes next to the run"
        ) from None
    if not isinstance(truth, np.ndarray) or truth.dtype != TRUTH_DTYPE:
        raise InvalidOption(
            f"{path} does not hold the truth of a run as this release of amstrax writes it: "
            "simulate the run again"
        )
    return truth


class TruthFile:
    """File of truth to which rows are appended.

    `close` writes the length into the header, whose size numpy keeps when a length grows.
    """

    def __init__(self, path: Path):
        self.n = 0
        self._file = path.open("wb")
        self._file.write(_header(0))

    def append(self, rows: np.ndarray) -> None:
        """Add rows of `TRUTH_DTYPE`."""
        self._file.write(np.ascontiguousarray(rows, dtype=TRUTH_DTYPE).tobytes())
        self.n += len(rows)

    def close(self) -> None:
        """Write the length, and close."""
        if self._file.closed:
            return
        self._file.seek(0)
        self._file.write(_header(self.n))
        self._file.close()


def _header(n: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        buffer,
        {"descr": np.lib.format.dtype_to_descr(TRUTH_DTYPE), "fortran_order": False, "shape": (n,)},
    )
    return buffer.getvalue()


class Pace:
    """Clock of a run with `speed` seconds a second; None: without waiting, which `stop` ends."""

    _LOOK_EVERY = 0.1  # [s]

    def __init__(self, speed: float | None, stop: Callable[[], bool]):
        self._speed, self._stop = speed, stop
        self._began = time.monotonic()

    def wait_for(self, moment: float) -> None:
        """Wait until `moment` of the run [ns]."""
        if self._speed is None:
            return
        due = self._began + moment / 1e9 / self._speed
        while not self._stop() and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, self._LOOK_EVERY))


class RunWriter:
    """Writer of live data: directories appear one after the other, once they are complete.

    `threads` is the number of threads of each readout process, `length` and `overlap` are the
    durations of chunk and overlap [ns], and directories wait for `pace`.
    """

    def __init__(
        self,
        run_dir: Path,
        threads: Mapping[str, int],
        length: int,
        overlap: int,
        compressor: str,
        fragment_samples: int,
        pace: Pace,
    ):
        self.n_records = 0
        self._threads, self._compressor, self._pace = threads, compressor, pace
        self._run_dir = run_dir
        self._waiting = [np.zeros(0, dtype=strax.raw_record_dtype(fragment_samples))]
        self._period = length + overlap
        self._steps = _steps(run_dir, length, overlap)
        self._chunk_i, self._step = next(self._steps)

    def add(self, records: np.ndarray, complete_until: float) -> None:
        """Add fragments of `strax.raw_record_dtype`, and write complete directories.

        Times are in ns since the start of the run. Later fragments start at `complete_until` [ns]
        or after it.
        """
        self.n_records += len(records)
        self._waiting.append(records)
        while self._step[-1].end <= complete_until:
            self._write_step()

    def end(self, duration: int) -> None:
        """Write the rest of a run of `duration` ns, and that it has ended."""
        self._pace.wait_for(duration)
        self._pace = Pace(None, bool)
        while self._chunk_i * self._period < duration:
            self._write_step()
        redax.write_end(self._run_dir, self._threads)

    def _write_step(self) -> None:
        self._pace.wait_for(self._step[-1].end)
        dtype = self._waiting[0].dtype
        waiting = np.concatenate([as_void(part) for part in self._waiting])
        time = waiting.view(dtype)["time"].copy()
        for part in self._step:
            inside = waiting[(time >= part.start) & (time < part.end)].view(dtype)
            redax.write_directory(part.path, inside, self._threads, self._compressor)
        self._chunk_i, self._step = next(self._steps)
        self._waiting = [waiting[time >= self._step[0].start].view(dtype)]


def _steps(
    run_dir: Path, length: int, overlap: int
) -> Iterator[tuple[int, tuple[redax.Interval, ...]]]:
    """Yield numbers of chunks, and directories that appear at the same time."""
    for chunk_i in itertools.count():
        pre, central, post = redax.chunk_intervals(run_dir, chunk_i, length, overlap)
        yield chunk_i, (central,) if pre is None else (pre, central)
        yield chunk_i, (post,)
