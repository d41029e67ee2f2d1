"""Writing simulated fragments as redax does: at once, or as time goes by."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import strax

from amstrax import redax


class Pace:
    """Hold work back until the clock has come as far as the run.

    Parameters
    ----------
    speed
        Seconds of the run in a second; None: nothing is held back.
    stop
        Waiting ends when this returns True.
    """

    _LOOK_EVERY = 0.1  # [s]

    def __init__(self, speed: float | None, stop: Callable[[], bool]):
        self._speed, self._stop = speed, stop
        self._began = time.monotonic()

    def wait_for(self, moment: float) -> None:
        """Return once the run has come to `moment` [ns]."""
        if self._speed is None:
            return
        due = self._began + moment / 1e9 / self._speed
        while not self._stop() and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, self._LOOK_EVERY))


class RunWriter:
    """Writer of a run: directories appear one after the other, when all that is in them is known.

    Parameters
    ----------
    run_dir
        Folder of the run.
    threads
        Number of threads of each readout process.
    length, overlap
        Durations of chunk and overlap [ns].
    compressor
        ``lz4`` or ``blosc``.
    fragment_samples
        Samples in a fragment.
    pace
        What the directories wait for.
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
        self._waiting = np.zeros(0, dtype=strax.raw_record_dtype(fragment_samples))
        self._period = length + overlap
        self._steps = _steps(run_dir, length, overlap)
        self._chunk_i, self._step = next(self._steps)

    def add(self, records: np.ndarray, complete_until: float) -> None:
        """Take fragments (times in ns since the start of the run), and write what is complete.

        Parameters
        ----------
        records
            Fragments of `strax.raw_record_dtype`.
        complete_until
            All fragments that start before this [ns] have been handed over.
        """
        self.n_records += len(records)
        self._waiting = np.concatenate([self._waiting, records])
        while self._step[-1].end <= complete_until:
            self._write_step()

    def end(self, duration: int) -> None:
        """Write what is left of a run of `duration` ns, and that it has ended."""
        self._pace.wait_for(duration)
        self._pace = Pace(None, bool)  # the rest at once: the DAQ has stopped
        while self._chunk_i * self._period < duration:
            self._write_step()
        redax.write_end(self._run_dir, self._threads)

    def _write_step(self) -> None:
        self._pace.wait_for(self._step[-1].end)
        time = self._waiting["time"]
        for part in self._step:
            inside = (time >= part.start) & (time < part.end)
            redax.write_directory(part.path, self._waiting[inside], self._threads, self._compressor)
        self._chunk_i, self._step = next(self._steps)
        self._waiting = self._waiting[time >= self._step[0].start]


def _steps(
    run_dir: Path, length: int, overlap: int
) -> Iterator[tuple[int, tuple[redax.Interval, ...]]]:
    """Yield numbers of chunks, and the directories that are written at the same time."""
    for chunk_i in itertools.count():
        pre, central, post = redax.chunk_intervals(run_dir, chunk_i, length, overlap)
        yield chunk_i, (central,) if pre is None else (pre, central)
        yield chunk_i, (post,)
