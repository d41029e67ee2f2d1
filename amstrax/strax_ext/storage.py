"""Folders of data, as strax stores it, with failed writes noticed.

When strax (2.2.3) works with several threads it writes chunks in the background, and never looks
whether that went well: with a full disk it ends without an error, and calls the data complete. What
is here differs from strax's own classes in that, and in how, and how often, metadata is written.
"""

import json
import os
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import strax

from amstrax.strax_ext import processor as background

#: How often metadata is written while chunks come fast, after the first few [s]; and what that may
#: take of the time of one of a job's dozen savers, where the list of chunks is long
_SECONDS_BETWEEN, _SHARE_OF_TIME, _FIRST_CHUNKS = 1.0, 0.005, 3


class CheckedSaver(strax.FileSaver):
    """Saver that fails, as strax's do without threads, when a chunk could not be written.

    The list of chunks grows with each, and strax writes it after each, over the one before. Here it
    is put in place whole, so that who reads along with a live run finds no half of it, and is left
    out while chunks come faster than one a second.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # Writing of a chunk, in the background -> what metadata says of that chunk
        self._writes: dict[Future, dict] = {}
        self._next_flush = 0.0
        super().__init__(*args, **kwargs)

    @property
    def _flush_md_for_every_chunk(self) -> bool:
        is_time = time.monotonic() >= self._next_flush
        return is_time or len(self.md["chunks"]) <= _FIRST_CHUNKS

    def _flush_metadata(self) -> None:
        began = time.thread_time()
        self._look_at_writes()
        # Without chunks that are not on disk yet, or come after such a one
        n_written = min((chunk["chunk_i"] for chunk in self._writes.values()), default=None)
        # Indented only at the end: that is left to slower code of the library
        options = self.json_options if self.closed else {"sort_keys": True}
        text = json.dumps({**self.md, "chunks": self.md["chunks"][:n_written]}, **options)
        path = Path(self.tempdirname, self.metadata_json)
        beside = path.with_name(f"{path.name}.new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
        # Not by the clock: a process that is paused would then write nothing for long
        took = time.thread_time() - began
        self._next_flush = time.monotonic() + max(_SECONDS_BETWEEN, took / _SHARE_OF_TIME)

    def _save_chunk(
        self, data: np.ndarray, chunk_info: dict, executor: Executor | None = None
    ) -> tuple[dict, Future | None]:
        self._look_at_writes()
        executor = background.current() if executor is None else executor
        info, write = super()._save_chunk(data, chunk_info, executor)
        if write is not None:
            self._writes[write] = chunk_info
        return info, write

    def _look_at_writes(self, wait: bool = False) -> None:
        """Note the sizes of what has been written, and raise what a write has raised."""
        for write in [write for write in self._writes if wait or write.done()]:
            chunk = self._writes.pop(write)
            chunk["filesize"] = write.result(self.timeout)

    def close(self, wait_for: list | tuple = ()) -> None:
        is_failing = bool(strax.formatted_exception())
        if self.closed and is_failing:
            return  # all savers are closed then, also those that have been
        try:
            self._look_at_writes(wait=True)
        except Exception as error:
            self._writes = {}
            # The processor with threads raises it at the end; strax notes in the metadata what is
            # being handled
            self.got_exception = error
            super().close(wait_for)
            if background.current() is not None and not is_failing:
                raise
        else:
            super().close(wait_for)


class CheckedBackend(strax.FileSytemBackend):
    """Backend that saves with `CheckedSaver`."""

    saver_class: type[CheckedSaver] = CheckedSaver

    def _saver(self, dirname: str, metadata: dict, **kwargs: Any) -> CheckedSaver:
        parent = Path(dirname).absolute().parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise strax.DataNotAvailable(f"cannot write {dirname}: {error}") from error
        if not os.access(parent, os.W_OK):
            raise strax.DataNotAvailable(f"cannot write {dirname}: no permission in {parent}")
        return self.saver_class(dirname, metadata=metadata, **kwargs)


class DataDirectory(strax.DataDirectory):
    """Folder of data; parameters are those of `strax.DataDirectory`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.backends = [CheckedBackend()]
