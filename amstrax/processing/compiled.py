"""Compilation of kernels: each for one signature, when it is first called, kept on disk.

numba compiles a function for every combination of types that it is called with, and arrays that
differ only in how they lie in memory, or in the names of their fields, are of different types. A
`kernel` takes columns, and says of which types; arrays of any layout then fit the same code. So
there is one of each on disk, and processes that compile at the same time write the same.
"""

import functools
import logging
import pickle
import pickletools
import sys
import threading
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
from numba.extending import intrinsic, overload
from numba.np.arrayobj import populate_array

from amstrax.exceptions import CacheDamaged

log = logging.getLogger(__name__)

#: Scalars
BOOL, I64, F64 = types.boolean, types.int64, types.float64

_lock = threading.RLock()


def column(dtype: types.Type, ndim: int = 1) -> types.Array:
    """Return the type of an array to read: of any layout, aligned or not."""
    return types.Array(dtype, ndim, "A", readonly=True, aligned=False)


def output(dtype: types.Type, ndim: int = 1) -> types.Array:
    """Return the type of an array that is written to: of any layout, aligned or not."""
    return types.Array(dtype, ndim, "A", readonly=False, aligned=False)


class Kernel:
    """A function that is compiled for one signature; ``py_func`` is as it is written."""

    #: All that there are, in modules that have been imported
    known: list["Kernel"] = []

    def __init__(self, function: Callable, signature: Iterable[types.Type]):
        functools.update_wrapper(self, function)
        self.py_func = function
        self._signature = tuple(signature)
        self._compiled = numba.njit(nogil=True, cache=True)(function)
        # With NUMBA_DISABLE_JIT there is nothing to compile
        self._is_ready = not hasattr(self._compiled, "compile")
        self.known.append(self)

    def compile(self) -> None:
        """Load the function from the cache; where it is not there, compile and keep it."""
        with _lock:
            if self._is_ready:
                return
            try:
                self._compiled.compile(self._signature)
            except NumbaError:
                raise
            except Exception as error:
                # Reading the cache, or writing to it, can fail in any way
                log.debug("numba's cache", exc_info=True)
                self._compile_again(error)
            self._compiled.disable_compile()
            self._is_ready = True

    def _compile_again(self, error: Exception) -> None:
        """Compile the function after an error of the cache, without a cache if need be."""
        if self._compiled.signatures:
            log.warning("%s is compiled, but cannot be kept: %s", self.py_func.__name__, error)
            return
        try:
            _remove([*_damaged_files(self.cache_folder()), *self._cache_files()])
            self._compiled.compile(self._signature)
        except (CacheDamaged, OSError) as unusable:
            log.warning("%s; %s is not kept", unusable, self.py_func.__name__)
            self._compiled = numba.njit(nogil=True)(self.py_func)
            self._compiled.compile(self._signature)

    def _cache_files(self) -> list[Path]:
        """Return numba's files of this function."""
        code = self.py_func.__code__
        name = f"{Path(code.co_filename).stem}.{self.py_func.__qualname__}-{code.co_firstlineno}."
        name = name.replace("<", "").replace(">", "")
        folder = Path(self.cache_folder() or "")
        return [path for path in folder.glob("*.nb[ic]") if path.name.startswith(name)]

    def cache_folder(self) -> str | None:
        """Return where numba keeps the compiled function; None if it is not compiled."""
        return self._compiled.stats.cache_path if hasattr(self._compiled, "stats") else None

    def __call__(self, *args: Any) -> Any:
        if not self._is_ready:
            self.compile()
        return self._compiled(*args)


def remove_damaged_cache() -> None:
    """Remove damaged files from numba's cache: functions in them are compiled again when called.

    Looks into the folders that functions of strax, straxen and this package are kept in, of modules
    that have been imported. numba itself fails at such files (``EOFError``), in each process.

    Raises
    ------
    CacheDamaged
        When a file cannot be removed.
    """
    folders = {kernel.cache_folder() for kernel in Kernel.known}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("strax", "straxen"):
            members = list(vars(module).values())
            folders |= {m.stats.cache_path for m in members if isinstance(m, Dispatcher)}
    _remove(path for folder in sorted(filter(None, folders)) for path in _damaged_files(folder))


def _damaged_files(folder: str | None) -> list[Path]:
    """Return indices and data in a folder of numba's cache that do not end as they should."""
    paths = Path(folder).glob("*.nb[ic]") if folder else ()
    return [path for path in sorted(paths) if not _is_whole(path)]


def _is_whole(path: Path) -> bool:
    try:
        state = path.stat()
    except OSError:
        return True  # another process has removed it
    return _ends_as_it_should(path, state.st_ino, state.st_size, state.st_mtime_ns)


# A process reads each file once: that takes a tenth of a second for all kernels
@functools.cache
def _ends_as_it_should(path: Path, *_state: int) -> bool:
    try:
        with path.open("rb") as file:
            # numba ignores the rest of an index of another version
            if path.suffix == ".nbi" and pickle.load(file) != numba.__version__:
                return True
            for _ in pickletools.genops(file):
                pass
            return not file.read(1)
    except FileNotFoundError:
        return True  # another process has removed it
    except Exception:
        return False  # there is no end to what unpickling can raise


def _remove(paths: Iterable[Path]) -> None:
    """Remove files of numba's cache, and say so in one warning."""
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


def kernel(*signature: types.Type) -> Callable[[Callable], Kernel]:
    """Return a decorator for functions that take arguments of these types."""
    return functools.partial(Kernel, signature=signature)


def row(array: np.ndarray, i: int) -> np.ndarray:
    """Return row `i` of a two-dimensional array, for use in kernels.

    There the compiler is told that the row lies side by side, as one of a field of a structured
    array does, and loops over it are vectorised. Unchecked: contiguity, and bounds of `i` unless
    NUMBA_BOUNDSCHECK is set.
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
