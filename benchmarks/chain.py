#!/usr/bin/env python
"""Measure the chain from live data to event_info: a whole job, warm, memory, import, cold.

The last lines are CPU seconds of the lab's and the improved reconstruction, side by side.

The run is a simulated one of XAMS, 55 s at 120 events/s. Times depend on the machine and on what
else it does: compare only numbers of one and the same call of this script.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import Job, Run, command, job, machine, simulated_run


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="as of amstraxer")
    parser.add_argument("--repeat", type=int, default=4, help="take the best of (%(default)s)")
    parser.add_argument("--cold", action="store_true", help="also measure with nothing compiled")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        run = simulated_run(Path(folder) / "run")
        print(f"run of {run.seconds} s: {run.megabytes:.1f} MB, {run.n_records} raw records")
        for what in ("strax", "amstrax", "amstrax.contexts"):
            seconds = min(python(f"import {what}") for _ in range(args.repeat + 1))
            print(f"{'import ' + what:44s}{seconds:8.2f} s")
        if args.cold:
            cache = Path(folder) / "numba"
            report("job, nothing compiled", run, job(run, NUMBA_CACHE_DIR=str(cache)))
            shutil.rmtree(cache)
            began = time.perf_counter()
            command([sys.executable, "-m", "amstrax.cli", "warmup"], NUMBA_CACHE_DIR=str(cache))
            print(f"{'amstrax warmup, nothing compiled':44s}{time.perf_counter() - began:8.2f} s")
        for workers in args.workers:
            runs = [job(run, workers) for _ in range(args.repeat)]
            report(f"job, fresh process, {workers} worker(s)", run, min(runs))
        for workers in args.workers:
            report(f"warm process, {workers} worker(s)", run, warm(run, workers, args.repeat))
        lab, improved = side_by_side(run, args.repeat)
        ratio = statistics.median(b / a for a, b in zip(lab, improved, strict=True))
        print(f"{'lab, CPU, median':44s}{statistics.median(lab):8.2f} s")
        print(f"{'improved, CPU, median':44s}{statistics.median(improved):8.2f} s")
        print(f"{'improved / lab, median of pairs':44s}{ratio:8.2f}")
    return 0


def report(what: str, run: Run, took: Job) -> None:
    """Print a line of the table."""
    print(
        f"{what:44s}{took.seconds:8.2f} s {run.megabytes / took.seconds:8.1f} MB/s"
        f"{took.cpu_seconds:8.2f} s of CPU{took.mebibytes:8.0f} MiB",
        flush=True,
    )


def python(code: str) -> float:
    """Return seconds of a process that runs `code`."""
    began = time.perf_counter()
    command([sys.executable, "-c", code])
    return time.perf_counter() - began


_WARM = """
import resource, sys, tempfile, time
from amstrax.auto_processing import amstraxer
for _ in range({repeat} + 2):
    with tempfile.TemporaryDirectory() as folder:
        began, cpu_began = time.perf_counter(), time.process_time()
        if amstraxer.main([*sys.argv[1:], "--output_folder", folder]):
            sys.exit(1)
        took = time.perf_counter() - began, time.process_time() - cpu_began
    print(*took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def warm(run: Run, workers: int, repeat: int) -> Job:
    """Return the best of several in a process that has done the same before."""
    code = _WARM.format(repeat=repeat)
    out = command([sys.executable, "-c", code, *run.options(workers)])
    return min(Job(*map(float, line.split()), "") for line in out.splitlines()[1:])


_SIDE_BY_SIDE = """
import sys, tempfile, time
from amstrax.auto_processing import amstraxer
for i in range({repeat} + 1):
    for name in ("lab", "improved"):
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            if amstraxer.main([*sys.argv[1:], "--output_folder", folder, "--reconstruction", name]):
                sys.exit(1)
            print(name, time.process_time() - began)
"""


def side_by_side(run: Run, repeat: int) -> tuple[list[float], list[float]]:
    """Return CPU seconds of the lab's and the improved reconstruction, in turns in one process."""
    code = _SIDE_BY_SIDE.format(repeat=repeat)
    lines = command([sys.executable, "-c", code, *run.options()]).splitlines()
    found: dict[str, list[float]] = {"lab": [], "improved": []}
    for line in lines:
        name, _, seconds = line.partition(" ")
        if name in found:
            found[name].append(float(seconds))
    # The first of each compiles, or loads what is compiled
    return found["lab"][1:], found["improved"][1:]


if __name__ == "__main__":
    sys.exit(main())
