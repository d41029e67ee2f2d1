"""Runs that tests write: live data with a few pulses, and contexts set up for it."""

import json
from pathlib import Path

import numpy as np
import strax

from amstrax import contexts, redax
from amstrax.commands.base import CONTEXTS
from amstrax.processing.compiled import sort_by_time

THREADS = {"xams-daq_reader_0": 1}
LENGTH, OVERLAP = 5_000_000_000, 500_000_000
RUN_ID = "000123"
START = 1_704_164_645

RAW_DTYPE = np.dtype(strax.raw_record_dtype())

#: Context and release, as `context` takes them
RELEASED = [(name, None) for name in CONTEXTS] + [("xams", "2.2"), ("xams_led", "2.2")]


def rundoc(threads=THREADS, **daq_config) -> dict:
    """Return a run document."""
    settings = {
        "compressor": "lz4",
        "processing_threads": threads,
        "strax_chunk_length": LENGTH / 1e9,
        "strax_chunk_overlap": OVERLAP / 1e9,
        "strax_fragment_payload_bytes": 220,
        "registers": [],
    }
    return {
        "number": int(RUN_ID),
        "name": RUN_ID,
        "start": {"$date": "2024-01-02T03:04:05Z"},
        "daq_config": settings | daq_config,
    }


def pulses(times, channels=0, n_fragments=1, dt=10, height=800, width=20, baseline=16000, sign=-1):
    """Return fragments of pulses, sorted by time.

    A pulse starts at each of `times` [ns] in each of `channels`; it is flat but for a triangle of
    `height` ADC counts and `width` samples (an even number) that begins at sample 40.
    """
    times, channels = np.atleast_1d(times), np.atleast_1d(channels)
    shape = np.zeros(110 * n_fragments)
    slope = np.linspace(0.1, 1, width // 2)
    shape[40 : 40 + width] = height * np.concatenate([slope, slope[::-1]])
    result = np.zeros((len(times), len(channels), n_fragments), dtype=RAW_DTYPE)
    fragment = np.arange(n_fragments)
    result["time"] = times[:, np.newaxis, np.newaxis] + fragment * 110 * dt
    result["channel"] = channels[:, np.newaxis]
    result["record_i"] = fragment
    result["length"] = 110
    result["dt"] = dt
    result["pulse_length"] = 110 * n_fragments
    result["data"] = (baseline + sign * shape).reshape(n_fragments, 110).astype(np.int16)
    return sort_by_time(result.ravel())


def write_run(folder: Path, records, n_chunks=1, threads=THREADS, compressor="lz4", end=True):
    """Write live data of run RUN_ID into `folder`, and return its directory."""
    run_dir = folder / RUN_ID
    run_dir.mkdir(parents=True)
    for chunk_i in range(n_chunks):
        redax.write_chunk(run_dir, chunk_i, records, threads, LENGTH, OVERLAP, compressor)
    if end:
        redax.write_end(run_dir, threads)
    return run_dir


def options(folder: Path, *more: str, document=None, run_id=RUN_ID) -> list[str]:
    """Return the options of amstraxer to process a run, live data in `folder`."""
    return [
        run_id,
        f"--live_data_dir={folder}",
        f"--testing_rundoc={json.dumps(rundoc() if document is None else document)}",
        f"--output_folder={folder / 'out'}",
        *more,
    ]


def context(folder: Path, name="xams", document=None, release=None, reconstruction=None, **config):
    """Return a context that is set up to read run RUN_ID, live data in `folder`.

    g1 and g2, which event_energy needs, have values.
    """
    if name == "xams":
        config = {"g1": 0.1, "g2": 10.0} | config
    st = getattr(contexts, name)(
        output_folder=folder / "out",
        init_rundb=False,
        config={"live_data_dir": str(folder), **config},
        **({} if release is None else {"release": release}),
        **({} if reconstruction is None else {"reconstruction": reconstruction}),
    )
    return contexts.context_for_daq_reader(st, RUN_ID, run_doc=document or rundoc())


def load(st, data_type):
    """Return the data of run RUN_ID."""
    return st.get_array(RUN_ID, data_type, progress_bar=False)
