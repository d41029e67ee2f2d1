#!/usr/bin/env python
"""Measure the simulation: time and peak memory of whole jobs, for runs of several lengths.

Times depend on the machine and on what else it does: compare only numbers of one and the same call
of this script.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=100.0, help="events/s (%(default)s)")
    parser.add_argument("--source", default="flat", help="see amstrax simulate (%(default)s)")
    parser.add_argument(
        "--seconds", type=int, nargs="+", default=[60, 120, 600], help="lengths of runs [s]"
    )
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{args.rate:.0f} events/s of {args.source}")
    with tempfile.TemporaryDirectory() as folder:
        job(Path(folder), ["--duration=1"])  # compiles
        for seconds in args.seconds:
            options = [f"--rate={args.rate}", f"--source={args.source}", f"--duration={seconds}"]
            took, memory = job(Path(folder), options)
            print(f"run of {seconds:5d} s{took:8.1f} s{memory:8.0f} MiB", flush=True)
    return 0


def job(folder: Path, options: list[str]) -> tuple[float, float]:
    """Return seconds and peak memory [MiB] of a process that simulates a run."""
    arguments = ["simulate", "1", f"--output={folder}", "--force", "--no-progress", *options]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "amstrax.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"amstrax {' '.join(arguments)} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
