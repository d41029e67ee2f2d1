#!/usr/bin/env python
"""Measure the simulation: time and peak memory of whole jobs, for runs of several lengths.

The goal is 20 s for 60 s of data at 100 events/s, and memory that does not grow with the run.
Compiling is not part of it: a short job goes first. The light maps are timed too. CPU times tell
more than others where the machine does something else.

Times depend on the machine and on what else it does: compare only numbers of one and the same call
of this script.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from common import Process, machine, python

from amstrax.simulation import sources


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=100.0, help="events/s (%(default)s)")
    parser.add_argument("--detector", default="xams", help="xams or xamsl (%(default)s)")
    parser.add_argument("--source", default="flat", help="see amstrax simulate (%(default)s)")
    parser.add_argument(
        "--sources", nargs="*", help="sources to measure with runs of the first length, too: all"
    )
    parser.add_argument(
        "--seconds", type=int, nargs="+", default=[60, 120, 600], help="lengths of runs [s]"
    )
    args = parser.parse_args()
    print(machine())
    print(f"{args.rate:.0f} events/s in {args.detector}, {args.source} unless it says another")
    usual = [f"--rate={args.rate}", f"--detector={args.detector}"]
    with tempfile.TemporaryDirectory() as folder:
        job(Path(folder), ["--duration=1"])  # compiles
        for seconds in args.seconds:
            options = [*usual, f"--source={args.source}", f"--duration={seconds}"]
            report(f"run of {seconds:5d} s", job(Path(folder), options))
        if args.sources is not None:
            for name in args.sources or [*sources.SOURCES]:
                options = [*usual, f"--source={name}", f"--duration={args.seconds[0]}"]
                report(f"{name:14}", job(Path(folder), options))
        maps = ["-m", "amstrax.simulation.optics", "xams", "xamsl", f"--output={folder}/maps"]
        python([*maps, "--points=300", "--photons=10"])
        report("light maps    ", python(maps))
    return 0


def report(title: str, took: Process) -> None:
    """Print a row of the table."""
    times = f"{took.seconds:8.1f} s{took.cpu_seconds:8.1f} s of CPU"
    print(f"{title}{times}{took.mebibytes:8.0f} MiB", flush=True)


def job(folder: Path, options: list[str]) -> Process:
    """Simulate a run in a process, and return what that took."""
    simulate = ["-m", "amstrax.cli", "simulate", "1", f"--output={folder}"]
    return python([*simulate, "--force", "--no-progress", *options])


if __name__ == "__main__":
    sys.exit(main())
