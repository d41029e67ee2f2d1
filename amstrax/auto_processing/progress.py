"""Progress of a job: a bar in a terminal, a line a chunk in a log."""

import logging
import resource
import time

import psutil
from tqdm.auto import tqdm

log = logging.getLogger(__name__)

_MIB = 2**20
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}{postfix}]"
_BAR_WITHOUT_END = "{desc}: {n:.1f} s [{elapsed}{postfix}]"


class Progress:
    """Tell how far the processing of a run has come.

    Parameters
    ----------
    what
        What is made of which run.
    start
        Start of the run [ns since unix epoch].
    duration
        Duration of the run [s]; None while that is not known.
    show_bar
        Show a bar, and no lines.
    """

    def __init__(self, what: str, start: int, duration: float | None, show_bar: bool):
        self.what = what
        self.start = start
        self.duration = duration
        self.raw_bytes = 0
        self.rows = 0
        self.n_chunks = 0
        self.seconds = 0.0
        self._began = time.monotonic()
        self._bar = tqdm(
            total=duration,
            desc=what,
            unit="s",
            disable=not show_bar,
            bar_format=_BAR if duration else _BAR_WITHOUT_END,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_exception) -> None:
        self._bar.close()

    def add_raw(self, n_bytes: int) -> None:
        """Count raw data that has been read."""
        self.raw_bytes += n_bytes

    def add_chunk(self, end: int, rows: int) -> None:
        """Count a chunk of the target: where it ends [ns since unix epoch], and its rows."""
        self.n_chunks += 1
        self.rows += rows
        before, self.seconds = self.seconds, max(self.seconds, (end - self.start) / 1e9)
        memory = psutil.Process().memory_info().rss // _MIB
        if self._bar.disable:
            log.info(
                "%s: chunk %d, %.1f s into the run, %.1f MB/s, %d MiB%s",
                self.what,
                self.n_chunks - 1,
                self.seconds,
                self.rate(),
                memory,
                self._time_left(),
            )
            return
        if self._bar.total:
            self._bar.total = max(self._bar.total, self.seconds)
        self._bar.set_postfix_str(f"{self.rate():.1f} MB/s, {memory} MiB", refresh=False)
        self._bar.update(self.seconds - before)

    def elapsed(self) -> float:
        """Return seconds since the start of the work."""
        return time.monotonic() - self._began

    def rate(self) -> float:
        """Return MB/s of raw data so far."""
        return self.raw_bytes / 1e6 / max(self.elapsed(), 1e-9)

    def totals(self) -> str:
        """Return a line with the totals."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return (
            f"{self.what}: {self.rows} rows in {self.n_chunks} chunks, {self.seconds:.1f} s of "
            f"data in {self.elapsed():.1f} s, {self.raw_bytes / 1e6:.1f} MB of raw data at "
            f"{self.rate():.1f} MB/s, at most {peak:.0f} MiB of memory"
        )

    def _time_left(self) -> str:
        if not self.duration or self.seconds <= 0:
            return ""
        left = self.elapsed() * max(self.duration - self.seconds, 0) / self.seconds
        return f", {left:.0f} s left"
