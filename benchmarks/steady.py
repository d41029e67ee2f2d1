#!/usr/bin/env python
"""Measure whether a long run of a high rate is processed at a steady rate, in bounded memory.

The run is made of the chunks of a simulated one, again and again. Live data and results come to
one and a half times its raw data, so 30 minutes at 20 MB/s take 55 GB of disk.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from common import Process, job, machine, repeated, simulated_run

#: Of the run that is repeated [s], a multiple of the 5.5 s of a chunk
_SECONDS = 22
#: What events of the table in docs/source/performance.rst come to [MB of raw data an event]
_MEGABYTES_PER_EVENT = 0.00776

_LINE = re.compile(r"chunk \d+, ([\d.]+) s into the run, ([\d.]+) MB/s, (\d+) MiB")


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="length of the run (%(default)s)")
    parser.add_argument("--rate", type=float, default=20, help="raw data [MB/s] (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="as of amstraxer")
    parser.add_argument("--folder", type=Path, help="where there is room (default: temporary)")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        needed = 1.6 * args.minutes * 60 * args.rate * 1e6
        free = shutil.disk_usage(folder).free
        if free < needed:
            print(f"not done: {folder} has {free / 1e9:.0f} GB free, and {needed / 1e9:.0f} GB are")
            print("needed; name another folder with --folder, or fewer --minutes")
            return 0
        short = simulated_run(folder / "short", _SECONDS, args.rate / _MEGABYTES_PER_EVENT)
        run = repeated(short, folder / "long", round(args.minutes * 60 / _SECONDS))
        size = f"{run.seconds / 60:.1f} min at {run.megabytes / run.seconds:.1f} MB/s"
        print(f"run of {size}: {run.megabytes / 1000:.1f} GB of raw data")
        for workers in args.workers:
            report(workers, job(run, workers), run.megabytes / run.seconds)
    return 0


def report(workers: int, done: Process, rate: float) -> None:
    """Print rate and memory of each quarter of the run, from the lines that a job logs."""
    lines = [tuple(map(float, match.groups())) for match in _LINE.finditer(done.errors)]
    # Rates are since the start
    took = [seconds * rate / mean for seconds, mean, _ in lines]
    before = 0
    print(f"{workers} worker(s), quarters of the run:")
    for quarter in range(1, 5):
        i = len(lines) * quarter // 4 - 1
        part = slice(before, i + 1)
        megabytes = (lines[i][0] - lines[before][0]) * rate
        mean = megabytes / (took[i] - took[before])
        memory = max(memory for _, _, memory in lines[part])
        print(f"  until {lines[i][0] / 60:5.1f} min {mean:7.1f} MB/s {memory:7.0f} MiB")
        before = i
    mean = lines[-1][0] * rate / took[-1]
    peak = f"at most {done.mebibytes:.0f} MiB"
    print(f"  in all {took[-1]:8.0f} s, {mean:.1f} MB/s, {peak}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
