"""Which things in time belong together: peaks within events, and events around peaks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Links(NamedTuple):
    """Things of one kind, as peaks, within things of another, as events; of `within`.

    Attributes
    ----------
    first, last
        For each outer thing the first row of the inner ones that is in it, and the one after the
        last, shape (n_outer,).
    n_inner
        Number of inner things.
    """

    first: np.ndarray
    last: np.ndarray
    n_inner: int

    def inside(self, outer: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return the rows of the inner things in any of these rows of the outer ones, sorted."""
        outer = np.asarray(outer, dtype=np.int64)
        begins = np.bincount(self.first[outer], minlength=self.n_inner + 1)
        ends = np.bincount(self.last[outer], minlength=self.n_inner + 1)
        return np.flatnonzero(np.cumsum(begins - ends)[: self.n_inner])

    def around(self, inner: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return the rows of the outer things that any of these rows is in, sorted."""
        before = np.zeros(self.n_inner + 1, dtype=np.int64)
        before[np.asarray(inner, dtype=np.int64) + 1] = 1
        before = np.cumsum(before)
        return np.flatnonzero(before[self.last] > before[self.first])


def within(time: np.ndarray, start: np.ndarray, end: np.ndarray) -> Links:
    """Return which times are within which intervals; these may overlap.

    Parameters
    ----------
    time
        Of the inner things [ns since unix epoch], sorted, shape (n_inner,).
    start, end
        Of the outer things [ns since unix epoch], shape (n_outer,); `end` does not belong to them.
    """
    first = np.searchsorted(time, start)
    return Links(first, np.maximum(np.searchsorted(time, end), first), len(time))
