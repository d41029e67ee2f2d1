"""Live data of any length, from a short run of which chunks are written again and again."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import strax

from amstrax import redax, rundoc


def repeat_run(source: Path, run_document: Path, target: Path, times: int) -> int:
    """Write live data of `times` the length of a run, and return its number of fragments.

    Parameters
    ----------
    source
        Live data of the run, which has ended.
    run_document
        File with its run document.
    target
        Folder to write, which does not exist.
    times
        How often the run's chunks are written, one after the other.
    """
    config = rundoc.reader_config(json.loads(run_document.read_text(encoding="utf-8")))
    length, overlap = config["daq_chunk_duration"], config["daq_overlap_chunk_duration"]
    threads, compressor = config["readout_threads"], config["daq_compressor"]
    dtype = np.dtype(strax.raw_record_dtype(config["record_length"]))
    n_chunks = redax.last_chunk(source) + 1
    duration = n_chunks * (length + overlap)
    # What lies between two chunks is in two directories, of which the first one is read
    directories = {
        name: {
            path.name: redax.read_file(path, compressor, dtype).copy()
            for path in redax.list_files(source / name)
        }
        for i in range(n_chunks)
        for name in (f"{i:06d}", f"{i:06d}_post")
    }
    with ThreadPoolExecutor() as pool:
        for repeat in range(times):
            for i in range(n_chunks):
                chunk_i = repeat * n_chunks + i
                targets = {f"{i:06d}": [f"{chunk_i:06d}"]}
                targets[f"{i:06d}_post"] = [f"{chunk_i:06d}_post"]
                if chunk_i + 1 < times * n_chunks:
                    targets[f"{i:06d}_post"].append(f"{chunk_i + 1:06d}_pre")
                writes = [
                    pool.submit(_write, target / directory, name, records, compressor)
                    for kind, names in targets.items()
                    for directory in names
                    for name, records in directories[kind].items()
                ]
                for write in writes:
                    write.result()
            for files in directories.values():
                for records in files.values():
                    records["time"] += duration
    redax.write_end(target, threads)
    return times * sum(len(r) for files in directories.values() for r in files.values())


def _write(directory: Path, name: str, records: np.ndarray, compressor: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    redax.write_file(directory / name, records, compressor)
