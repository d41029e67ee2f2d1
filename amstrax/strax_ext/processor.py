"""Work that a job with several workers does beside its main thread: reading ahead, and writing.

strax (2.2.3) has a processor with threads, too. Each plugin is one there, and each keeps several
chunks: dense live data takes gigabytes, and most of what is gained is lost to Python's lock. Here
one thread computes, as with one worker. What it leaves to others is what takes long without that
lock, and is about as much: decompressing and sorting the next chunk of live data, and compressing
and writing what has been made.
"""

import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

#: What may wait to be written [bytes]; a single chunk may be larger
MOST_WAITING = 200_000_000

_current: contextvars.ContextVar["Background | None"] = contextvars.ContextVar(
    "background", default=None
)


class Background(Executor):
    """Threads beside the main one; an executor of writes.

    Parameters
    ----------
    n_threads
        How many.
    """

    def __init__(self, n_threads: int):
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="background")
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
        """Wait for what is being done, and leave what has not been begun."""
        self._pool.shutdown(cancel_futures=True)


def current() -> Background | None:
    """Return the threads beside this one, if it has any."""
    return _current.get()


@contextlib.contextmanager
def beside(n_workers: int) -> Iterator[None]:
    """Let this thread have, within it, others beside it, so that there are `n_workers` in all."""
    if n_workers < 2:
        yield
        return
    background = Background(n_workers - 1)
    before = _current.set(background)
    try:
        yield
    finally:
        _current.reset(before)
        background.end()
