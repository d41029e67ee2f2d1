"""Rows of structured arrays as plain bytes."""

import numpy as np


def plain(data: np.ndarray) -> np.ndarray:
    """Return a view of rows, or a copy of it if they do not lie side by side, as numpy's ``void``.

    numpy copies structured rows field by field, which takes up to seven times as long.
    """
    return np.ascontiguousarray(data).view(np.dtype((np.void, data.dtype.itemsize)))
