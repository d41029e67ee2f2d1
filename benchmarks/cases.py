"""Cases of bench.py, each run in a process of its own with the amstrax on PYTHONPATH.

Imports stay inside functions, since their time is part of some cases.
"""

import ast
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def repeated(times: int, work: Callable[[], object]) -> None:
    """Print a line with seconds of CPU and wall for each of `times` calls."""
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        print(time.process_time() - cpu, time.perf_counter() - wall)


def imports(times: int, module: str) -> None:
    """Import a module."""
    __import__(module)


def process(times: int, *options: str) -> None:
    """Process a run as amstraxer does, into a new folder each time."""

    def work() -> None:
        from amstrax.auto_processing import amstraxer

        with tempfile.TemporaryDirectory() as folder:
            if status := amstraxer.main([*options, "--output_folder", folder]):
                sys.exit(status)

    repeated(times, work)


def copies(times: int, run_id: str, folder: str, n: str, *options: str) -> None:
    """Make event_info of a run, and copy it to `n` runs with the numbers 0 to `n` - 1."""
    from amstrax.auto_processing import amstraxer

    if status := amstraxer.main([run_id, *options, "--output_folder", folder]):
        sys.exit(status)
    (made,) = Path(folder).glob("*-event_info-*")
    for number in range(int(n)):
        copy = made.with_name(made.name.replace(run_id, f"{number:06d}"))
        shutil.copytree(made, copy)
        (metadata,) = copy.glob("*.json")
        metadata.write_text(metadata.read_text().replace(run_id, f"{number:06d}"))


def load(times: int, folder: str, config: str, n: str) -> None:
    """Load event_info of runs 0 to `n` - 1 in one call, with the options in the file `config`."""
    from amstrax import contexts

    st = contexts.xams(output_folder=folder, init_rundb=False)
    st.set_config(json.loads(Path(config).read_text()))

    def work() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            st.get_array([f"{number:06d}" for number in range(int(n))], "event_info")

    repeated(times, work)


def floor_of_chain(times: int, folder: str) -> None:
    """Decompress, sort and compress the raw records of a run; print the CPU seconds of each."""
    import lz4.frame
    import numpy as np
    import strax

    files = [p.read_bytes() for p in sorted(Path(folder).glob("[0-9]*[0-9]/*"))]
    for _ in range(times):
        ends = [time.process_time()]
        blobs = [lz4.frame.decompress(blob, return_bytearray=True) for blob in files]
        ends.append(time.process_time())
        ordered = []
        for blob in blobs:
            records = np.frombuffer(blob, dtype=strax.raw_record_dtype())
            order = np.argsort(records["time"], kind="stable")
            ordered.append(records.view(np.dtype((np.void, records.itemsize)))[order])
        ends.append(time.process_time())
        for records in ordered:
            lz4.frame.compress(records, compression_level=-5)
        ends.append(time.process_time())
        print(ends[-1] - ends[0], 0, *np.diff(ends))


def floor_of_loading(times: int, folder: str) -> None:
    """Read, decompress and join the files of event_info, without metadata."""
    import blosc
    import numpy as np

    paths = [p for p in Path(folder).glob("*-event_info-*/*") if p.suffix != ".json"]
    metadata = next(Path(folder).glob("*-event_info-*/*.json")).read_text()
    dtype = np.dtype(ast.literal_eval(json.loads(metadata)["dtype"]))

    def work() -> None:
        np.concatenate([np.frombuffer(blosc.decompress(p.read_bytes()), dtype) for p in paths])

    repeated(times, work)


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    globals()[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
