#!/usr/bin/env python
"""Measure the chain from live data to event_info: a whole job, warm, memory, import.

A run of the length asked for is made of copies of run 100001 of ../shared/data. Times depend on the
machine and on what else it does: compare only numbers of one and the same call of this script.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import strax
from long_run import repeat_run

SHARED = Path(__file__).resolve().parents[2] / "shared"
RUN_ID = "100001"
SECONDS_OF_RUN = 22


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=int, default=66, help="length of the run [s] (%(default)s)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="as of amstraxer")
    parser.add_argument("--repeat", type=int, default=3, help="take the best of (%(default)s)")
    parser.add_argument("--cold", action="store_true", help="also measure with nothing compiled")
    args = parser.parse_args()
    if not (SHARED / "data").is_dir():
        print(f"there is no {SHARED / 'data'}, whose run {RUN_ID} this measures", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        times = max(1, round(args.seconds / SECONDS_OF_RUN))
        n_records = repeat_run(
            SHARED / f"data/live_data/{RUN_ID}",
            SHARED / f"data/rundoc_{RUN_ID}.json",
            work / "live_data" / RUN_ID,
            times,
        )
        size = n_records * np.dtype(strax.raw_record_dtype()).itemsize
        print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
        print(f"run of {times * SECONDS_OF_RUN} s: {size / 1e6:.1f} MB, {n_records} raw records")
        print(f"{'import strax':44s}{best(args.repeat, python, 'import strax'):8.2f} s")
        for what in ("amstrax", "amstrax.contexts"):
            print(f"{'import ' + what:44s}{best(args.repeat, python, 'import ' + what):8.2f} s")
        if args.cold:
            report("job, nothing compiled", *job(work, 1, cold=True), size)
        for workers in args.workers:
            runs = [job(work, workers) for _ in range(args.repeat)]
            report(f"job, fresh process, {workers} worker(s)", *min(runs), size)
        for workers in args.workers:
            seconds = warm(work, workers, args.repeat)
            report(f"chain in a warm process, {workers} worker(s)", seconds, None, size)
    return 0


def report(what: str, seconds: float, peak: float | None, size: int) -> None:
    """Print a line of the table."""
    memory = f"{peak:8.0f} MiB" if peak else ""
    print(f"{what:44s}{seconds:8.2f} s {size / 1e6 / seconds:8.1f} MB/s{memory}", flush=True)


def best(repeat: int, measure, *args) -> float:
    """Return the least of several measurements."""
    return min(measure(*args) for _ in range(repeat + 1))


def python(code: str) -> float:
    """Return seconds of a process that runs `code`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


def options(work: Path, workers: int) -> list[str]:
    """Return the options of amstraxer for the run."""
    config = json.loads((SHARED / f"parity/run_{RUN_ID}_config.json").read_text())
    return [
        RUN_ID,
        "--target=event_info",
        "--context=xams",
        f"--workers={workers}",
        f"--live_data_dir={work / 'live_data'}",
        f"--testing_rundoc={SHARED / f'data/rundoc_{RUN_ID}.json'}",
        f"--config_kwargs={json.dumps(config)}",
        "--no-progress",
    ]


_JOB = """
import resource, sys
from amstrax.auto_processing import amstraxer
status = amstraxer.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""

_WARM = """
import sys, tempfile, time
from amstrax.auto_processing import amstraxer
for _ in range({repeat} + 1):
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        if amstraxer.main([*sys.argv[1:], "--output_folder", folder]):
            sys.exit(1)
        print(time.perf_counter() - began)
"""


def job(work: Path, workers: int, cold: bool = False) -> tuple[float, float]:
    """Return seconds and peak memory [MiB] of a whole job."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        environment = {"NUMBA_CACHE_DIR": f"{folder}/numba"} if cold else {}
        began = time.perf_counter()
        done = run([_JOB, *options(work, workers), "--output_folder", f"{folder}/out"], environment)
        return time.perf_counter() - began, int(done.split()[-1]) / 1024


def warm(work: Path, workers: int, repeat: int) -> float:
    """Return the median time [s] in a process that has done the same before."""
    done = run([_WARM.format(repeat=repeat), *options(work, workers)], {})
    return statistics.median(map(float, done.split()[1:]))


def run(arguments: list[str], environment: dict[str, str]) -> str:
    """Return what a Python process prints; its errors are shown if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        sys.exit(1)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
