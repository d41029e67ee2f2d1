"""What benchmarks share: runs to measure with, measured processes, and how times grow."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import strax

from amstrax import redax, rundoc

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
    options = [f"--duration={seconds}", f"--rate={rate}", "--source=flat", "--no-progress"]
    python(["-m", "amstrax.cli", "simulate", RUN_ID, f"--output={folder}", *options])
    record = np.dtype(strax.raw_record_dtype()).itemsize
    n = _count_records(folder / RUN_ID)
    return Run(folder, seconds, n * record / 1e6, n)


def repeated(run: Run, folder: Path, times: int) -> Run:
    """Write a run that is `times` as long, of the chunks of `run` again and again."""
    folder.mkdir()
    for name in (f"rundoc_{RUN_ID}.json", f"config_{RUN_ID}.json"):
        shutil.copy(run.folder / name, folder / name)
    document = (folder / f"rundoc_{RUN_ID}.json").read_text(encoding="utf-8")
    config = rundoc.reader_config(json.loads(document))
    compressor, dtype = config["daq_compressor"], strax.raw_record_dtype(config["record_length"])
    source, target = run.folder / RUN_ID, folder / RUN_ID
    n_chunks = redax.last_chunk(source) + 1
    duration = n_chunks * (config["daq_chunk_duration"] + config["daq_overlap_chunk_duration"])
    # Of the two copies of an overlap, the first is read
    parts = {
        (i, kind): {
            path.name: redax.read_file(path, compressor, np.dtype(dtype)).copy()
            for path in redax.list_files(source / f"{i:06d}{kind}")
        }
        for i in range(n_chunks)
        for kind in ("", "_post")
    }
    for repeat in range(times):
        for (i, kind), files in parts.items():
            chunk_i = repeat * n_chunks + i
            folders = [f"{chunk_i:06d}{kind}"]
            if kind and chunk_i + 1 < times * n_chunks:
                folders.append(f"{chunk_i + 1:06d}_pre")
            for name, records in files.items():
                for each in folders:
                    (target / each).mkdir(parents=True, exist_ok=True)
                    redax.write_file(target / each / name, records, compressor)
                records["time"] += duration
    redax.write_end(target, config["readout_threads"])
    n = times * sum(len(records) for files in parts.values() for records in files.values())
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


class Process(NamedTuple):
    """What a process took: time and CPU time [s], largest resident memory [MiB]; its output."""

    seconds: float
    cpu_seconds: float
    mebibytes: float
    output: str
    errors: str
    status: int


def measured(arguments: list[str], **environment: str) -> Process:
    """Run a command, and return what it took."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=out, stderr=err, env=os.environ | environment)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        return Process(wall, cpu, memory, out.read(), err.read(), process.returncode)


def python(arguments: list[str]) -> Process:
    """Run Python, and return what it took; end with its errors if it fails."""
    done = measured([sys.executable, *arguments])
    if done.status:
        sys.exit(done.errors)
    return done


def job(run: Run, workers: int = 1) -> Process:
    """Process a run to event_info in a process of its own, and return what that took."""
    folder = run.folder / "out"
    amstraxer = ["-m", "amstrax.auto_processing.amstraxer", f"--output_folder={folder}"]
    done = python([*amstraxer, *run.options(workers)])
    shutil.rmtree(folder)
    return done


def growth(sizes: list[float], seconds: list[float], unit: str) -> str:
    """Return how times grow with sizes: a line fitted to them, and how far from it they are."""
    slope, start = np.polyfit(sizes, seconds, 1)
    off = np.abs(np.polyval([slope, start], sizes) / seconds - 1).max()
    exponent = np.polyfit(np.log(sizes), np.log(np.maximum(np.array(seconds) - start, 1e-9)), 1)[0]
    verdict = "linear" if off < 0.15 else f"not a line: grows as the power {exponent:.2f}"
    return f"{start:.2f} s + {slope:.4f} s per {unit}, within {off:.0%}: {verdict}"
