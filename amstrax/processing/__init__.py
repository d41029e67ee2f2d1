"""Algorithms: functions of arrays, with numba kernels, that know no options and no files."""

from amstrax import attributes_of

__getattr__ = attributes_of(__name__)
