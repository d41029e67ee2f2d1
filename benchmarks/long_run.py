"""Live data of any length, from a short run of which chunks are written again and again."""

import json
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
    n_records = 0
    overlap_before = np.zeros(0, dtype=dtype)
    for chunk_i in range(n_chunks * times):
        _, central, post = redax.chunk_intervals(source, chunk_i % n_chunks, length, overlap)
        parts = [
            redax.read_file(path, compressor, dtype)
            for directory in (central.path, post.path)
            for path in redax.list_files(directory)
        ]
        records = np.concatenate(parts)
        n_records += len(records)
        records["time"] += (chunk_i - chunk_i % n_chunks) * (length + overlap)
        redax.write_chunk(
            target,
            chunk_i,
            np.concatenate([overlap_before, records]),
            threads,
            length,
            overlap,
            compressor,
        )
        end = chunk_i * (length + overlap) + length
        overlap_before = records[records["time"] >= end]
    redax.write_end(target, threads)
    return n_records
