"""What a process does with memory that it has freed, and where it looks for garbage.

What concerns the C library does nothing where that is not glibc.
"""

import contextlib
import ctypes
import gc
from collections.abc import Iterator

#: Arrays from this size on are given back as soon as they go [bytes]
_LARGE = 1 << 20
#: Threads share so many heaps, of which each keeps what it has had
_HEAPS = 2
#: What a job keeps for its next chunk [bytes]
_KEPT = 1 << 30
# Of malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_little() -> None:
    """Let this process give memory of large arrays back, where glibc would learn to keep it."""
    _libc("mallopt", _M_MMAP_THRESHOLD, _LARGE)
    _libc("mallopt", _M_ARENA_MAX, _HEAPS)


def keep_freed() -> None:
    """Let this process keep memory that is freed, of up to 1 GiB, for what comes next.

    By itself glibc gives arrays of more than 32 MB, and what is free at the end of its memory, back
    to the system; that gives them anew for each chunk, page for page, which takes a quarter of the
    time of a job on dense data (benchmarks/PROFILE.md).
    """
    _libc("mallopt", _M_TRIM_THRESHOLD, _KEPT)
    _libc("mallopt", _M_MMAP_THRESHOLD, _KEPT)
    # One heap: those of other threads are of 64 MB
    _libc("mallopt", _M_ARENA_MAX, 1)


def _libc(function: str, *arguments: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL("libc.so.6"), function)(*arguments)


@contextlib.contextmanager
def old_objects_left_out() -> Iterator[None]:
    """Keep Python's garbage collector, within it, from what there is at the start.

    That is over 100,000 objects of imported modules, which it else visits again and again.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def keep_what_is_there() -> None:
    """Take what there is by now for what stays, so that `give_back` need not look through it."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Give memory back that is not in use: pages refer to themselves in circles."""
    gc.collect()
    _libc("malloc_trim", 0)
