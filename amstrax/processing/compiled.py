"""Kernels: numba functions that are compiled for one signature and cached on disk.

numba compiles a function for each combination of argument types, and arrays that differ only in
memory layout or field names have different types. The types that a `kernel` declares fit arrays of
any layout. Each kernel thus has one compiled form, and concurrent processes write the same files.
"""

import functools
import logging
import pickle
import pickletools
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, models, overload, register_model
from numba.np.arrayobj import populate_array
from numpy.typing import DTypeLike

from amstrax.exceptions import CacheDamaged, IndexOutOfBounds

log = logging.getLogger(__name__)

#: Scalars
BOOL, I16, I32, I64 = types.boolean, types.int16, types.int32, types.int64
F32, F64 = types.float32, types.float64

_lock = threading.RLock()


def column(dtype: types.Type, ndim: int = 1) -> types.Array:
    """Return the type of an array to read: of any layout, aligned or not."""
    return types.Array(dtype, ndim, "A", readonly=True, aligned=False)


def output(dtype: types.Type, ndim: int = 1) -> types.Array:
    """Return the type of an array that is written to: of any layout, aligned or not."""
    return types.Array(dtype, ndim, "A", readonly=False, aligned=False)


class _Columns(types.NamedTuple):
    """Type of a named tuple of arrays, each of which converts as it does alone."""

    def can_convert_from(self, typingctx, other):
        if getattr(other, "fields", None) != self.fields:
            return None
        found = [typingctx.can_convert(*pair) for pair in zip(other, self, strict=True)]
        return None if None in found else max(found)


register_model(_Columns)(models.TupleModel)


def columns(
    module: str, name: str, dtype: DTypeLike, access: Callable[..., types.Array], names: str = ""
) -> Any:
    """Return a class of named tuples of arrays, which stands for its type in `kernel`.

    It is found as `name` in `module`, since numba's cache refers to it. ``class.of(array)`` takes
    the fields `names` (by default all) of an array of the structured `dtype`; `access` is `column`
    or `output`.
    """
    dtype = np.dtype(dtype)
    fields = tuple(names.split()) or dtype.names or ()
    members = {
        "__module__": module,
        "__qualname__": name,
        "__slots__": (),
        "types": tuple(
            access(numba.from_dtype(dtype[field].base), 1 + dtype[field].ndim) for field in fields
        ),
        "of": classmethod(lambda cls, array: cls(*(array[field] for field in fields))),
    }
    # numba tells classes of the same array types apart by ``__name__``
    return type(f"{module}.{name}", (namedtuple(name, fields),), members)  # type: ignore[misc]


class Kernel:
    """A function that is compiled for one signature; ``py_func`` is its plain Python."""

    #: Kernels of all imported modules
    known: list["Kernel"] = []

    def __init__(self, function: Callable, signature: Iterable[Any]):
        functools.update_wrapper(self, function)
        self.py_func = function
        self._signature = tuple(
            _Columns(each.types, each) if hasattr(each, "of") else each for each in signature
        )
        self._compiled = numba.njit(nogil=True, cache=True)(function)
        # With NUMBA_DISABLE_JIT the function stays plain
        self._is_ready = not hasattr(self._compiled, "compile")
        self.known.append(self)

    def compile(self) -> None:
        """Load the function from the cache, or else compile and cache it."""
        with _lock:
            if self._is_ready:
                return
            try:
                self._compiled.compile(self._signature)
            except NumbaError:
                raise
            except Exception as error:
                # Reading or writing the cache can fail in any way
                log.debug("numba's cache", exc_info=True)
                self._compile_again(error)
            self._compiled.disable_compile()
            self._is_ready = True

    def _compile_again(self, error: Exception) -> None:
        """Compile the function after an error of the cache, if need be without a cache."""
        name, own = self.py_func.__name__, self._cached_files()
        if self._compiled.signatures:
            log.warning("%s is compiled, but cannot be kept: %s", name, error)
            return
        try:
            _remove([*_damaged_files(self.cache_folder() or ""), *own])
            self._compiled.compile(self._signature)
        except (CacheDamaged, OSError) as unusable:
            log.warning("%s; %s is not kept", unusable, name)
            self._compiled = numba.njit(nogil=True)(self.py_func)
            self._compiled.compile(self._signature)

    def _cached_files(self) -> list[Path]:
        """Return the files of the function in numba's cache."""
        prefix = f"{Path(self.py_func.__code__.co_filename).stem}.{self.py_func.__qualname__}-"
        prefix = prefix.replace("<", "").replace(">", "")
        found = Path(self.cache_folder() or "").glob("*.nb[ic]")
        return [path for path in found if path.name.startswith(prefix)]

    def needs_compiling(self) -> bool:
        """Return whether the function is neither compiled nor cached, whatever the cache's age."""
        return not self._is_ready and not self._cached_files()

    def cache_folder(self) -> str | None:
        """Return where numba keeps the compiled function; None if it is not compiled."""
        return self._compiled.stats.cache_path if hasattr(self._compiled, "stats") else None

    def __call__(self, *args: Any) -> Any:
        if not self._is_ready:
            self.compile()
        return self._compiled(*args)


def kernel(*signature: Any) -> Callable[[Callable], Kernel]:
    """Return a decorator for functions of these types: scalars, `column`, `output`, `columns`."""
    return functools.partial(Kernel, signature=signature)


def remove_damaged_cache() -> None:
    """Remove damaged files from numba's cache; their functions are compiled again when called.

    Covers the functions of strax, straxen and this package in modules that have been imported.
    numba itself fails at such files (``EOFError``), in each process. Raises CacheDamaged when a
    file cannot be removed.
    """
    folders = {kernel.cache_folder() for kernel in Kernel.known}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("strax", "straxen"):
            members = list(vars(module).values())
            folders |= {m.stats.cache_path for m in members if isinstance(m, Dispatcher)}
    _remove(path for folder in sorted(filter(None, folders)) for path in _damaged_files(folder))


def _damaged_files(folder: str) -> list[Path]:
    """Return the files in a folder of numba's cache that are incomplete."""
    damaged = []
    for path in sorted(Path(folder).glob("*.nb[ic]")):
        try:
            state = path.stat()
            if not _is_whole(path, state.st_ino, state.st_size, state.st_mtime_ns):
                damaged.append(path)
        except FileNotFoundError:
            pass  # another process has removed it
    return damaged


# Each process reads each file once: a tenth of a second for all kernels
@functools.cache
def _is_whole(path: Path, *_state: int) -> bool:
    try:
        with path.open("rb") as file:
            # numba ignores the rest of an index of another version
            if path.suffix == ".nbi" and pickle.load(file) != numba.__version__:
                return True
            for _ in pickletools.genops(file):
                pass
            return not file.read(1)
    except FileNotFoundError:
        raise
    except Exception:
        return False  # unpickling can raise anything


def _remove(paths: Iterable[Path]) -> None:
    """Remove files of numba's cache and log one warning."""
    removed = list(dict.fromkeys(paths))
    for path in removed:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CacheDamaged(
                f"{path} of numba's cache is damaged, and cannot be removed ({error.strerror}): "
                "remove it, or set NUMBA_CACHE_DIR to another folder"
            ) from error
    if removed:
        more = f" and {len(removed) - 1} more" if len(removed) > 1 else ""
        log.warning(
            "damaged in numba's cache, and removed: %s%s; the functions are compiled again",
            removed[0],
            more,
        )


def row(array: np.ndarray, i: int) -> np.ndarray:
    """Return row `i` of a two-dimensional array, for use in kernels.

    The compiler then takes the row as contiguous, as in a field of a structured array, and
    vectorises loops over it: sum waveforms of 347,000 records take 100 instead of 110 ms with
    AVX-512, and instead of 118 ms with AVX2 (baselines 47 for 55, and 54 for 57 ms). Unchecked:
    contiguity, and bounds of `i` unless NUMBA_BOUNDSCHECK is set.
    """
    return array[i]


@intrinsic
def _row(_, array, i):
    result = types.Array(array.dtype, 1, "C", readonly=not array.mutable, aligned=array.aligned)

    def codegen(context, builder, signature, arguments):
        rows = context.make_array(signature.args[0])(context, builder, arguments[0])
        _, n = cgutils.unpack_tuple(builder, rows.shape, 2)
        step, _ = cgutils.unpack_tuple(builder, rows.strides, 2)
        found = context.make_array(signature.return_type)(context, builder)
        populate_array(
            found,
            data=cgutils.pointer_add(builder, rows.data, builder.mul(arguments[1], step)),
            shape=[n],
            strides=[rows.itemsize],
            itemsize=rows.itemsize,
            meminfo=rows.meminfo,
        )
        return impl_ret_borrowed(context, builder, signature.return_type, found._getvalue())

    return result(array, types.intp), codegen


@overload(row)
def _compiled_row(array, i):
    if numba.config.BOUNDSCHECK:  # type: ignore[attr-defined]  # set by numba from the environment
        return lambda array, i: array[i]
    return lambda array, i: _row(array, i)  # type: ignore[call-arg]  # numba adds the context


# Rows of structured arrays: views as raw bytes, order, and checks of the indices they hold


def as_void(data: np.ndarray) -> np.ndarray:
    """Return a view of contiguous rows, or a copy of other rows, as numpy's ``void``.

    numpy copies structured rows field by field, which takes up to seven times as long.
    """
    return np.ascontiguousarray(data).view(np.dtype((np.void, data.dtype.itemsize)))


def sort_by_time(intervals: np.ndarray) -> np.ndarray:
    """Return rows sorted by time, then by channel if they have one; the same array if they are.

    The order is that of `strax.sort_by_time`: equal rows keep their order.
    """
    channel = intervals["channel"] if "channel" in (intervals.dtype.names or ()) else None
    order = time_order(intervals["time"], channel)
    if order is None:
        return intervals
    return as_void(intervals)[order].view(intervals.dtype)


def time_order(time: np.ndarray, channel: np.ndarray | None = None) -> np.ndarray | None:
    """Return indices that sort by time [ns], then by channel; None for sorted rows.

    Equal rows keep their order. Shapes (n,).
    """
    if len(time) < 2:
        return None
    if channel is None:
        key = time
    else:
        channel = channel.astype(np.int64)
        channel -= min(channel.min(), 0)
        n_channels = int(channel.max()) + 1
        first, last = time.min(), time.max()
        if int(last) - int(first) >= np.iinfo(np.int64).max // n_channels:
            return np.lexsort((channel, time))  # years apart: the key exceeds 64 bits
        key = (time - first) * n_channels + channel
    if (key[1:] >= key[:-1]).all():
        return None
    return np.argsort(key, kind="stable")


def latest_in_channel(channel: np.ndarray, is_wanted: np.ndarray) -> np.ndarray:
    """Return the index of the latest wanted row of the same channel, up to each row, or -1."""
    order = np.argsort(channel, kind="stable")
    place = np.maximum.accumulate(np.where(is_wanted[order], np.arange(len(order)), -1))
    found = order[place]
    is_same = (place >= 0) & (channel[found] == channel[order])
    latest = np.full(len(channel), -1)
    latest[order[is_same]] = found[is_same]
    return latest


def check_bounds(
    name: str, values: np.ndarray, low: int, high: int, remedy: str, time: np.ndarray | None = None
) -> None:
    """Check that all integers in `values` are in [low, high), before a kernel uses them as indices.

    Raises IndexOutOfBounds (a ValueError) with `name`, the first value out of bounds, its row, its
    time [ns] where `time` is given, and `remedy`.
    """
    # Rows are wide: each is fetched from memory once
    values = np.ascontiguousarray(values)
    if not len(values) or (values.min() >= low and values.max() < high):
        return
    i = int(np.argmax((values < low) | (values >= high)))
    at = "" if time is None else f" at {time[i]} ns"
    raise IndexOutOfBounds(
        f"{name} {values[i]} in row {i}{at} is not in {low} to {high - 1}: {remedy}"
    )


def check_records(records: np.ndarray) -> None:
    """Check that channels are not negative, and that lengths are those of a fragment.

    Raises IndexOutOfBounds (a ValueError).
    """
    remedy = "not what redax writes; copy the run again from the DAQ"
    n_samples = records["data"].shape[1]
    check_bounds("channel", records["channel"], 0, 2**15, remedy, records["time"])
    check_bounds("length", records["length"], 0, n_samples + 1, remedy, records["time"])
