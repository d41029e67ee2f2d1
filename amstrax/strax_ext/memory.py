"""Memory of a process: what it keeps after use, and where its garbage collector looks.

Functions for the C library do nothing unless that is glibc.
"""

import contextlib
import ctypes
import gc
from collections.abc import Iterator

#: Size from which arrays are returned to the system when they are freed [bytes]
_LARGE = 1 << 20
#: Number of heaps, shared by threads; each keeps the most it has had
_HEAPS = 2
#: Memory that a job keeps for its next chunk [bytes]
_KEPT = 1 << 30
# Of malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def return_large_arrays() -> None:
    """Return memory of large arrays to the system when they are freed; glibc may keep it."""
    _libc("mallopt", _M_MMAP_THRESHOLD, _LARGE)
    _libc("mallopt", _M_ARENA_MAX, _HEAPS)


def retain_freed_memory() -> None:
    """Keep up to 1 GiB of freed memory for later use.

    By default glibc returns freed arrays of more than 32 MB, and free memory at the end of its
    heap, to the system. To map it again, page by page, for each chunk takes a quarter of the time
    of a job on dense data (benchmarks/PROFILE.md).
    """
    _libc("mallopt", _M_TRIM_THRESHOLD, _KEPT)
    _libc("mallopt", _M_MMAP_THRESHOLD, _KEPT)
    # One heap, since those of other threads are limited to 64 MB
    _libc("mallopt", _M_ARENA_MAX, 1)


def _libc(function: str, *arguments: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL("libc.so.6"), function)(*arguments)


@contextlib.contextmanager
def existing_objects_frozen() -> Iterator[None]:
    """Hide existing objects from the garbage collector within the context.

    More than 100,000 objects belong to imported modules, and would be visited again and again.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def freeze_existing_objects() -> None:
    """Freeze existing objects for the garbage collector, so that `trim_heap` skips them."""
    gc.collect()
    gc.freeze()


def trim_heap() -> None:
    """Collect garbage, such as pages with reference cycles, and return free memory."""
    gc.collect()
    _libc("malloc_trim", 0)
