"""Algorithms: functions of arrays, with numba kernels, that know no options and no files."""

from amstrax._lazy import submodules_of

__getattr__ = submodules_of(__name__)
