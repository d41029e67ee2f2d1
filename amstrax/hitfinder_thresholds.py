"""Heights above which a sample belongs to a hit."""

import numbers
from collections.abc import Sequence

import numpy as np

_ADC_COUNTS = 15
_N_XAMSL_THRESHOLDS = 4


def hit_min_amplitude(model: str | int | float | Sequence | np.ndarray, n_tpc_pmts: int = 16):
    """Return the threshold of the hit finder for each channel [ADC counts].

    `model` is a number, for all of `n_tpc_pmts` channels; a tuple or an array of thresholds;
    ``'xamsl_thresholds'``, 15 for the 4 channels of XAMSL; or ``'xams_thresholds'``, 15 for
    `n_tpc_pmts` channels. Anything else raises ValueError.
    """
    if isinstance(model, numbers.Real) and not isinstance(model, bool):
        return np.ones(n_tpc_pmts, dtype=np.int16) * model
    if isinstance(model, (tuple, np.ndarray)):
        return model
    if isinstance(model, str) and model == "xamsl_thresholds":
        return _ADC_COUNTS * np.ones(_N_XAMSL_THRESHOLDS, dtype=np.int16)
    if isinstance(model, str) and model == "xams_thresholds":
        return _ADC_COUNTS * np.ones(n_tpc_pmts, dtype=np.int16)
    raise ValueError(
        f"hit_min_amplitude has no model {model!r}: give a number, a tuple or an array of "
        "thresholds in ADC counts, 'xamsl_thresholds' or 'xams_thresholds'"
    )
