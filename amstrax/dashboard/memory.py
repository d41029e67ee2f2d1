"""How little memory the dashboard keeps: of glibc, what large arrays have taken is given back."""

import contextlib
import ctypes
import gc

#: Arrays from this size on are given back as soon as they go [bytes]
_LARGE = 1 << 20
#: Threads share so many heaps, of which each keeps what it has had
_HEAPS = 2
# Of malloc.h
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def keep_little() -> None:
    """Let this process give memory of large arrays back, where glibc would learn to keep it."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_ARENA_MAX, _HEAPS)


def keep_what_is_there() -> None:
    """Take what there is by now for what stays, so that `give_back` need not look through it."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Give memory back that is not in use: pages refer to themselves in circles."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
