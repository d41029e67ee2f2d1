"""Processor that computes in one thread and leaves reading ahead and writing to helper threads.

strax (2.2.3) has a processor with threads, too. Each plugin is one there, and each keeps several
chunks: dense live data takes gigabytes, and most of what is gained is lost to Python's lock. Here
one thread computes. Helper threads do what takes long without that lock: they decompress and sort
the next chunk of live data, and compress and write chunks that have been made.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import strax
from strax.processors.single_thread import SaverSpy

from amstrax.strax_ext.plugin import Plugin
from amstrax.strax_ext.storage import CheckedSaver, Rechunker

#: What may wait to be written [bytes]; a single chunk may be larger
MOST_WAITING = 200_000_000


class HelperThreads(Executor):
    """Threads that read ahead, and an executor of writes.

    Parameters
    ----------
    n_threads
        How many.
    """

    def __init__(self, n_threads: int):
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="helper")
        self._ahead: dict[int, Future] = {}
        self._writes: deque[tuple[Future, int]] = deque()
        #: Chunks that are read ahead
        self.n_ahead = n_threads

    def read_ahead(self, chunk_i: int, read: Callable[[int], Any]) -> None:
        """Begin to read a chunk of live data, if that has not been done."""
        if chunk_i not in self._ahead:
            self._ahead[chunk_i] = self._pool.submit(read, chunk_i)

    def is_ahead(self, chunk_i: int) -> bool:
        """Return whether a chunk is being read, or has been."""
        return chunk_i in self._ahead

    def take(self, chunk_i: int, read: Callable[[int], Any]) -> Any:
        """Return what `read` returns for a chunk, or raise what it raises."""
        ahead = self._ahead.pop(chunk_i, None)
        return read(chunk_i) if ahead is None else ahead.result()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Begin to write an array, once there is less than `MOST_WAITING` that waits for it.

        Parameters
        ----------
        function
            Called with the other arguments, of which ``data`` is the array.
        """
        n_bytes = kwargs["data"].nbytes
        waiting = sum(size for _, size in self._writes)
        while self._writes and (waiting + n_bytes > MOST_WAITING or self._writes[0][0].done()):
            write, size = self._writes.popleft()
            write.exception()  # waits; the saver that has the future raises it
            waiting -= size
        future = self._pool.submit(function, *args, **kwargs)
        self._writes.append((future, n_bytes))
        return future

    def end(self) -> None:
        """Finish running tasks, cancel queued ones."""
        self._pool.shutdown(cancel_futures=True)


class Processor(strax.SingleThreadProcessor):
    """Processor with one thread that computes, and ``max_workers`` - 1 helper threads.

    Writes go to helper threads where the saver checks them (`CheckedSaver`).

    Parameters
    ----------
    components, allow_rechunk, is_superrun, kwargs
        As in strax.
    max_workers
        Threads in all; None for one.
    """

    def __init__(
        self,
        components: strax.ProcessorComponents,
        max_workers: int | None = None,
        allow_rechunk: bool = True,
        is_superrun: bool = False,
        **kwargs: Any,
    ):
        n_helpers = (max_workers or 1) - 1
        self.helper_threads = HelperThreads(n_helpers) if n_helpers > 0 else None
        # strax's spies have a rechunker of strax: these have ours, and are registered below
        super().__init__(
            components._replace(savers={}),
            allow_rechunk=allow_rechunk,
            is_superrun=is_superrun,
            **kwargs,
        )
        self.components = components
        makers = {d: plugin for plugin in components.plugins.values() for d in plugin.provides}
        for plugin in makers.values():
            if isinstance(plugin, Plugin):
                plugin.helper_threads = self.helper_threads
        for data_type, savers in components.savers.items():
            # Data of no plugin is that of runs which are joined to a superrun
            can_rechunk = (
                makers[data_type].can_rechunk(data_type) if data_type in makers else is_superrun
            )
            for saver in savers:
                spy = _SaverSpy(saver, allow_rechunk and can_rechunk, self.helper_threads)
                self.post_office.register_spy(spy, topic=data_type)

    def iter(self) -> Iterator[strax.Chunk]:
        """Compute, and yield the chunks of the target."""
        try:
            yield from super().iter()
        finally:
            if self.helper_threads is not None:
                self.helper_threads.end()


class _SaverSpy(SaverSpy):
    """Gives chunks of one data type to a saver."""

    def __init__(self, saver: strax.Saver, rechunk: bool, executor: Executor | None):
        super().__init__(saver, rechunk)
        self.rechunker = Rechunker(rechunk, saver.md["run_id"])
        self.executor = executor if isinstance(saver, CheckedSaver) else None

    def _save_chunk(self, chunks: list[strax.Chunk]) -> None:
        for chunk in chunks:
            self.saver.save(chunk, self.chunk_number, executor=self.executor)
            self.chunk_number += 1

    def close(self) -> None:
        """Save what is left, and raise what a write has raised, unless an error is handled."""
        is_failing = bool(strax.formatted_exception())
        super().close()
        if self.saver.got_exception is not None and not is_failing:
            raise self.saver.got_exception
