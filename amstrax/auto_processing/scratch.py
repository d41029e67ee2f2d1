"""Making data again beside what is stored, and putting it in its place when it is complete."""

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

import strax

from amstrax.contexts import raw_data_types
from amstrax.strax_ext.storage import DataDirectory

log = logging.getLogger(__name__)


class Scratch:
    """Within it, what is stored of a run is not seen, and new data goes to a folder apart.

    At the end, if all went well, each new piece takes the place of the old one in `output`; else
    the new ones are removed, and the old ones are as they were.

    Parameters
    ----------
    st
        Context whose storage is changed meanwhile.
    run_id
        Run that is processed.
    output
        Folder of the context's storage that data is written to.
    remake_raw
        Do not see stored raw data either.
    """

    def __init__(self, st: strax.Context, run_id: str, output: Path, remake_raw: bool):
        self._st = st
        self._run_id = run_id
        self._output = output
        self._remake_raw = remake_raw
        self._storage = list(st.storage)

    def __enter__(self) -> "Scratch":
        prefix = f".from_scratch_{self._run_id}_"
        for left_behind in self._output.glob(f"{prefix}*"):
            # By a process that was killed: this is the only one at work on the run
            shutil.rmtree(left_behind, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(dir=self._output, prefix=prefix))
        new = DataDirectory(str(self._folder))
        raw_types = raw_data_types(self._st)
        stored = [] if self._remake_raw else [_only(old, raw_types) for old in self._storage]
        self._st.storage = [*stored, new]
        return self

    def __exit__(self, kind, _error, _traceback) -> None:
        self._st.storage = self._storage
        try:
            if kind is None:
                for path in sorted(self._folder.glob(f"{self._run_id}-*-*")):
                    self._replace(path)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _replace(self, new: Path) -> None:
        old = self._output / new.name
        aside = self._folder / f"old_{new.name}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(old, aside)
        os.rename(new, old)
        log.debug("replaced %s", old)


def _only(frontend: strax.StorageFrontend, data_types: tuple[str, ...]) -> strax.StorageFrontend:
    """Return a frontend on the same folder that gives and takes only some data types."""
    if not isinstance(frontend, strax.DataDirectory):
        return frontend
    return DataDirectory(frontend.path, readonly=True, take_only=data_types)
