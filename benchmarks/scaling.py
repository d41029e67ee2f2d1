#!/usr/bin/env python
"""Measure how time and memory of a job grow with the length of the run, its rate, and workers.

Long runs are made of the chunks of a simulated one, again and again. Times depend on the machine
and on what else it does: compare only numbers of one and the same call of this script.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from common import RATE, Run, growth, job, machine, repeated, simulated_run


def main() -> int:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--times", type=int, nargs="+", default=[1, 4, 8, 16], help="lengths of runs [55 s]"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[120, 480, 1920], help="events/s")
    parser.add_argument("--seconds", type=float, default=22, help="of runs of several rates")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="as of amstraxer")
    parser.add_argument("--repeat", type=int, default=2, help="take the best of (%(default)s)")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"\nlength of the run, {RATE} events/s, 1 worker; the last with several")
        run = simulated_run(folder / "short")
        sizes, seconds = [], []
        for times in args.times:
            long = repeated(run, folder / "long", times)
            took = report(long, 1, args.repeat)
            sizes.append(long.megabytes)
            seconds.append(took)
            if times == args.times[-1]:
                for workers in args.workers:
                    if workers > 1:
                        more = report(long, workers, args.repeat)
                        print(f"{workers} workers are {took / more:.2f} times as fast as 1")
            shutil.rmtree(long.folder)
        print(growth(sizes, seconds, "MB"))
        print(f"\nrate of events, runs of {args.seconds:.0f} s, 1 worker")
        sizes, seconds = [], []
        for rate in args.rates:
            dense = simulated_run(folder / "dense", args.seconds, rate)
            print(f"{rate:6.0f} events/s ", end="")
            sizes.append(dense.megabytes)
            seconds.append(report(dense, 1, args.repeat))
            shutil.rmtree(dense.folder)
        print(growth(sizes, seconds, "MB"))
    return 0


def report(run: Run, workers: int, repeat: int) -> float:
    """Process a run, print a line, and return the time [s]."""
    best = min(job(run, workers) for _ in range(repeat))
    print(
        f"{run.seconds:6.0f} s {run.megabytes:8.1f} MB{workers:3d} worker(s){best.seconds:8.2f} s"
        f"{run.megabytes / best.seconds:8.1f} MB/s{best.mebibytes:8.0f} MiB",
        flush=True,
    )
    return best.seconds


if __name__ == "__main__":
    sys.exit(main())
