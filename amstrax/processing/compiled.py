"""Compilation of kernels: each for one signature, when it is first called, kept on disk.

numba compiles a function for every combination of types that it is called with, and arrays that
differ only in how they lie in memory, or in the names of their fields, are of different types. A
`kernel` takes columns, and says of which types; arrays of any layout then fit the same code. So
there is one of each on disk, and processes that compile at the same time write the same.
"""

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, overload
from numba.np.arrayobj import populate_array

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
            if not self._is_ready:
                self._compiled.compile(self._signature)
                self._compiled.disable_compile()
                self._is_ready = True

    def cache_folder(self) -> str | None:
        """Return where numba keeps the compiled function; None if it is not compiled."""
        return self._compiled.stats.cache_path if hasattr(self._compiled, "stats") else None

    def __call__(self, *args: Any) -> Any:
        if not self._is_ready:
            self.compile()
        return self._compiled(*args)


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
