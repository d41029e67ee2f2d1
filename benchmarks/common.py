"""What benchmarks share: runs to measure with, jobs that are measured, growth that is fitted."""

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import strax
from long_run import repeat_run

from amstrax import redax

#: Run of the table in docs/source/performance.rst: simulated XAMS
RUN_ID, SECONDS, RATE = "100055", 55, 120


def machine() -> str:
    """Return what this runs on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}"


class Run(NamedTuple):
    """A run to measure with: what lies in its folder, how long it is, and its raw data [MB]."""

    folder: Path
    seconds: float
    megabytes: float
    n_records: int

    def options(self, workers: int = 1) -> list[str]:
        """Return the options of amstraxer that process it."""
        return [
            RUN_ID,
            "--target=event_info",
            "--context=xams",
            f"--workers={workers}",
            f"--live_data_dir={self.folder}",
            f"--testing_rundoc={self.folder / f'rundoc_{RUN_ID}.json'}",
            f"--config_kwargs={self.folder / f'config_{RUN_ID}.json'}",
            '--context_kwargs={"init_rundb": false}',
            "--no-progress",
        ]


def simulated_run(folder: Path, seconds: float = SECONDS, rate: float = RATE) -> Run:
    """Simulate a run of XAMS into a folder."""
    arguments = [
        "simulate",
        RUN_ID,
        f"--duration={seconds}",
        f"--rate={rate}",
        "--source=flat",
        f"--output={folder}",
        "--no-progress",
    ]
    command([sys.executable, "-m", "amstrax.cli", *arguments])
    record = np.dtype(strax.raw_record_dtype()).itemsize
    n = _count_records(folder / RUN_ID)
    return Run(folder, seconds, n * record / 1e6, n)


def repeated(run: Run, folder: Path, times: int) -> Run:
    """Write a run that is `times` as long, of the chunks of `run`."""
    folder.mkdir()
    for name in (f"rundoc_{RUN_ID}.json", f"config_{RUN_ID}.json"):
        (folder / name).write_bytes((run.folder / name).read_bytes())
    document = run.folder / f"rundoc_{RUN_ID}.json"
    n = repeat_run(run.folder / RUN_ID, document, folder / RUN_ID, times)
    return Run(folder, run.seconds * times, run.megabytes * n / run.n_records, n)


def _count_records(run_dir: Path) -> int:
    """Return the number of fragments in the chunks, those of overlaps once."""
    dtype = np.dtype(strax.raw_record_dtype())
    directories = [p for p in run_dir.iterdir() if not p.name.endswith(("_pre", redax.THE_END))]
    return sum(
        len(redax.read_file(path, "lz4", dtype))
        for directory in directories
        for path in redax.list_files(directory)
    )


class Job(NamedTuple):
    """What a process took."""

    seconds: float
    cpu_seconds: float
    mebibytes: float
    output: str


_JOB = """
import resource, sys, time
began = time.perf_counter()
from amstrax.auto_processing import amstraxer
status = amstraxer.main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_maxrss / 1024, used.ru_utime + used.ru_stime)
sys.exit(status)
"""


def job(run: Run, workers: int = 1, output: Path | None = None, **environment: str) -> Job:
    """Process a run to event_info in a process of its own, and return what that took."""
    folder = output or run.folder / "out"
    began = time.perf_counter()
    out = command(
        [sys.executable, "-c", _JOB, *run.options(workers), f"--output_folder={folder}"],
        **environment,
    )
    seconds = time.perf_counter() - began
    memory, cpu = map(float, out.split()[-2:])
    if output is None:
        shutil.rmtree(folder)
    return Job(seconds, cpu, memory, out)


def command(arguments: list[str], **environment: str) -> str:
    """Return what a command prints; its errors are shown if it fails."""
    done = subprocess.run(
        arguments, capture_output=True, text=True, env=os.environ | environment, check=False
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        sys.exit(1)
    return done.stdout


def growth(sizes: list[float], seconds: list[float], unit: str) -> str:
    """Return how times grow with sizes: a line fitted to them, and how far from it they are."""
    slope, start = np.polyfit(sizes, seconds, 1)
    off = np.abs(np.polyval([slope, start], sizes) / seconds - 1).max()
    exponent = np.polyfit(np.log(sizes), np.log(np.maximum(np.array(seconds) - start, 1e-9)), 1)[0]
    verdict = "linear" if off < 0.15 else f"not a line: grows as the power {exponent:.2f}"
    return f"{start:.2f} s + {slope:.4f} s per {unit}, within {off:.0%}: {verdict}"
