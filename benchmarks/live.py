#!/usr/bin/env python
"""Measure a live run: from the last file of a chunk to its events on disk.

Chunks of a simulated run appear one after the other, as the DAQ writes them, but faster. Delays are
those of the data type events; what strax joins to larger chunks (event_info is) it writes at the
end, or when enough has come. The job has one core for itself, where the system can do that.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RUN_ID, Run, machine, simulated_run

from amstrax import redax

_ON_ONE_CORE = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from amstrax.auto_processing import amstraxer
sys.exit(amstraxer.main(sys.argv[1:]))
"""


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[120, 1200, 1920, 2400], help="events/s"
    )
    parser.add_argument("--seconds", type=float, default=44, help="length of the run")
    parser.add_argument("--interval", type=float, default=1.0, help="between chunks [s]")
    args = parser.parse_args()
    print(machine())
    for rate in args.rates:
        with tempfile.TemporaryDirectory() as folder:
            run = simulated_run(Path(folder) / "run", args.seconds, rate)
            delays, stored = measure(run, Path(folder), args.interval)
            per_chunk, stored_of_one = run.megabytes / len(delays), stored // len(delays)
            print(
                f"{rate:6.0f} events/s: {len(delays)} chunks of {per_chunk:6.1f} MB, one every "
                f"{args.interval} s ({per_chunk / args.interval:.0f} MB/s): events on disk "
                f"{statistics.median(delays):.2f} s after a chunk's last file (median), "
                f"{max(delays):.2f} s at most, so {max(delays) - args.interval:.2f} s beyond the "
                f"time between chunks; to write the {stored_of_one / 1e6:.0f} MB that are stored "
                f"of one takes {writing(Path(folder), stored_of_one):.2f} s by itself",
                flush=True,
            )
    return 0


def writing(folder: Path, n_bytes: int) -> float:
    """Return how long it takes to write so many bytes to a new file, median of three [s]."""
    content = os.urandom(n_bytes)
    taken = []
    for i in range(3):
        began = time.perf_counter()
        (folder / f"new_{i}").write_bytes(content)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(run: Run, folder: Path, interval: float) -> tuple[list[float], int]:
    """Return for each chunk the delay [s] until its events are on disk, and all bytes stored."""
    complete = run.folder / RUN_ID
    hidden = folder / "hidden"
    complete.rename(hidden)
    complete.mkdir()
    n_chunks = redax.last_chunk(hidden) + 1
    out = folder / "out"
    job = subprocess.Popen(
        [sys.executable, "-c", _ON_ONE_CORE, *run.options(), f"--output_folder={out}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Python, strax and contexts are there when the folder of the first data is
    while job.poll() is None and not list(out.glob(f"{RUN_ID}-events-*")):
        time.sleep(0.05)
    arrived = []
    for chunk_i in range(n_chunks):
        began = time.time()
        for name in (f"{chunk_i:06d}_pre", f"{chunk_i:06d}", f"{chunk_i:06d}_post"):
            if (hidden / name).is_dir():
                os.rename(hidden / name, complete / name)
        arrived.append(time.time())
        if chunk_i + 1 == n_chunks:
            os.rename(hidden / redax.THE_END, complete / redax.THE_END)
        time.sleep(max(0.0, interval - (time.time() - began)))
    _, errors = job.communicate()
    if job.returncode:
        sys.exit(errors)
    files = sorted(next(out.glob(f"{RUN_ID}-events-*")).glob("events-*-0*"))
    written = [path.stat().st_mtime for path in files]
    stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return [done - came for done, came in zip(written, arrived, strict=False)], stored


if __name__ == "__main__":
    sys.exit(main())
