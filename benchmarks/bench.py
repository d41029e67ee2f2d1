#!/usr/bin/env python
"""Run all benchmarks, and write what they print, with machine, date and versions, to RESULTS.md."""

import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from common import machine

HERE = Path(__file__).resolve().parent
#: In this order: what is measured, script, options
BENCHMARKS = (
    ("The chain, from live data to event_info", "chain.py", ["--cold"]),
    ("Growth with length, rate, and workers", "scaling.py", []),
    ("A high rate for long", "steady.py", ["--minutes", "3"]),
    ("Live", "live.py", []),
    ("Simulation", "simulation.py", ["--seconds", "60", "240", "--sources"]),
    ("Run database", "run_database.py", ["--runs", "2000", "--finds", "50", "--repeat", "2"]),
    ("Plots", "plots.py", []),
    ("Dashboard", "dashboard.py", ["--views", "200"]),
    ("Batch", "batch.py", ["--pending", "300", "--jobs", "20", "--runs", "3", "--repeat", "3"]),
)
PACKAGES = ("amstrax", "strax", "numba", "numpy", "lz4", "blosc", "zstd", "pymongo")


def main() -> int:
    """Measure, print as it comes, and write the file; 1 if a benchmark has failed."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = f"# What `make bench` measured\n\n{now}\n\n{machine()}\n\n{versions}\n"
    failed = []
    for title, script, options in BENCHMARKS:
        print(f"\n{title}", flush=True)
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, HERE / script, *options], stdout=subprocess.PIPE, text=True
        )
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
        if process.wait():
            failed.append(script)
            lines.append(f"{script} failed\n")
        took = time.perf_counter() - began
        call = " ".join([f"benchmarks/{script}", *options])
        text += f"\n## {title}\n\n`{call}`, in {took:.0f} s:\n\n```text\n{''.join(lines)}```\n"
    new = HERE / "RESULTS.md.new"
    new.write_text(text, encoding="utf-8")
    new.rename(HERE / "RESULTS.md")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
