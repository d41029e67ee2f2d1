"""A detector to try things on: simulated live data, as redax writes it, with the truth beside it.

The steps from energy deposits to files are functions in modules of their own: `sources` (what
happens in the xenon), `yields` (photons and electrons), `electrons` (drift), `light` (S1 and S2
photoelectrons), `sensors` (charges, after-pulses, dark counts), `digitizer` (pulses and fragments),
`writer` (files). All numbers are those of a `Detector`.
"""

from importlib import import_module
from typing import Any

from amstrax._lazy import submodules_of

# Public name -> the module that defines it
_MEMBERS = {
    "DETECTORS": "detector",
    "Detector": "detector",
    "SOURCES": "sources",
    "TRUTH_DTYPE": "truth",
    "load_options": "run",
    "load_truth": "truth",
    "match_peaks": "matching",
    "match_truth": "matching",
    "simulate": "run",
}

_submodule = submodules_of(__name__)


def __getattr__(name: str) -> Any:
    if name in _MEMBERS:
        return getattr(import_module(f"{__name__}.{_MEMBERS[name]}"), name)
    return _submodule(name)
