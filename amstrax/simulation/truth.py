"""The truth of simulated runs: a row for each event, in a file beside the run."""

import io
import zipfile
from pathlib import Path

import numpy as np

from amstrax.exceptions import InvalidOption

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
    """Return the truth of a run, an array of `TRUTH_DTYPE`, sorted by time.

    Parameters
    ----------
    path
        Its file, ``truth_RUN.npy``.

    Raises
    ------
    InvalidOption
        (a ValueError) when the file is not there, or holds something else.
    """
    try:
        truth = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidOption(
            f"truth cannot be read from {path} ({error}): name the file truth_RUN.npy that "
            "`amstrax simulate` writes beside the run"
        ) from None
    if not isinstance(truth, np.ndarray) or truth.dtype != TRUTH_DTYPE:
        raise InvalidOption(
            f"{path} does not hold the truth of a run as this release of amstrax writes it: "
            "simulate the run again"
        )
    return truth


class TruthFile:
    """A file of truth that is written bit by bit; its length is put in place by `close`.

    Rows are written as they come; the header, whose size numpy keeps when a length grows, is
    written last.
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
