#!/usr/bin/env python
"""Compile all functions for processing, once per installation and machine, before jobs need them.

Usable as ``amstrax warmup``. numba caches compiled functions in NUMBA_CACHE_DIR if it is set,
otherwise next to the code if that is writable, otherwise in the user's cache folder.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amstrax.commands import base
from amstrax.commands.base import CONTEXTS
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("amstrax.warmup")

_RUN_ID = "000001"
_THREADS = {"warmup_reader_0": 1}
_LENGTH, _OVERLAP = 1_000_000_000, 100_000_000
#: Channels and sample width [ns] of the run that is processed, for each context
_RUNS = {"xams": (range(7), 10), "xams_led": (range(5), 10), "xams_little": (range(2), 2)}
#: Options without default that plugins need
_OPTIONS = {"xams": {"g1": 0.1, "g2": 5.0}}


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Compile all functions for processing, before jobs need them, and report where "
        "they are cached",
    )
    parser.add_argument(
        "--context",
        nargs="+",
        type=base.context_name,
        default=list(CONTEXTS),
        help=f"contexts to compile for: {', '.join(CONTEXTS)} (default: all)",
    )
    base.add(parser, "--debug")
    return parser.parse_args(argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    from amstrax.auto_processing import job

    return job.run_strax_tool(
        args,
        log,
        lambda stop: warm_up(args.context, stop),
        "warmup",
        tempfile.gettempdir(),
        "TMPDIR",
    )


def warm_up(contexts: Sequence[str], stop: Stop) -> str:
    """Load or compile all functions for processing in `contexts`, and return a report.

    numba compiles functions when they are called: a run of a few pulses is processed to every data
    type.
    """
    import numba.core.event

    from amstrax.processing import live_data, running_baseline, splitting  # noqa: F401
    from amstrax.processing.compiled import Kernel, remove_damaged_cache
    from amstrax.strax_ext import storage

    began = time.monotonic()
    remove_damaged_cache()
    with numba.core.event.install_recorder("numba:compile") as recorder:
        for name in contexts:
            _process_all(name, stop)
        storage.warm_up()
        for kernel in Kernel.known:
            stop.check()
            kernel.compile()
    folders = sorted({folder for kernel in Kernel.known if (folder := kernel.cache_folder())})
    n_compiled = sum(event.is_start for _, event in recorder.buffer)
    done = f"{n_compiled} functions compiled" if n_compiled else "all was compiled already"
    where = ", ".join(folders) or "memory only: NUMBA_DISABLE_JIT is set"
    return (
        f"{done}, in {time.monotonic() - began:.0f} s, for {', '.join(contexts)}; kept in {where}"
    )


def _process_all(name: str, stop: Stop) -> None:
    """Make all data types of a context, from a run of a few pulses."""
    from amstrax import contexts

    with tempfile.TemporaryDirectory(prefix="amstrax_warmup_") as folder:
        live = Path(folder) / "live"
        document = _write_run(live, *_RUNS[name])
        st = getattr(contexts, name)(
            output_folder=Path(folder) / "data",
            init_rundb=False,
            config={"live_data_dir": str(live), **_OPTIONS.get(name, {})},
        )
        contexts.context_for_daq_reader(st, _RUN_ID, run_doc=document)
        for data_type in st._plugin_class_registry:
            stop.check()
            log.debug("making %s in %s", data_type, name)
            st.make(_RUN_ID, data_type, save=data_type, progress_bar=False)


def _write_run(folder: Path, channels: Sequence[int], dt: int) -> dict[str, Any]:
    """Write live data of two chunks, and return the run document."""
    from amstrax import redax

    for chunk_i in range(2):
        records = _pulses(channels, dt)
        redax.write_chunk(folder / _RUN_ID, chunk_i, records, _THREADS, _LENGTH, _OVERLAP)
    redax.write_end(folder / _RUN_ID, _THREADS)
    return {
        "number": int(_RUN_ID),
        "name": _RUN_ID,
        "start": "2024-01-01T00:00:00Z",
        "daq_config": {
            "compressor": "lz4",
            "processing_threads": _THREADS,
            "strax_chunk_length": _LENGTH / 1e9,
            "strax_chunk_overlap": _OVERLAP / 1e9,
            "strax_fragment_payload_bytes": 220,
            "registers": [],
        },
    }


def _pulses(channels: Sequence[int], dt: int) -> "np.ndarray":
    """Return negative pulses of two fragments each, at the same times in all channels."""
    import numpy as np
    import strax

    starts = np.arange(1, 110) * 20_000_000
    records = np.zeros((len(starts), 2, len(channels)), dtype=strax.raw_record_dtype())
    records["time"] = starts[:, None, None] + np.array([0, 110 * dt])[:, None]
    records["channel"] = list(channels)
    records["record_i"] = np.array([0, 1])[:, None]
    records["length"], records["dt"], records["pulse_length"] = 110, dt, 220
    records["data"] = 16_000
    records["data"][:, 0, :, 40:90] -= 800
    records["data"][:, 0, :, 60:70] += 800
    return records.ravel()


if __name__ == "__main__":
    raise SystemExit(main())
