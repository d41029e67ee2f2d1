"""A detector to try things on: simulated live data, as redax writes it, with the truth beside it.

The steps from energy deposits to files are functions in modules of their own: `sources` (what
happens in the xenon), `yields` (photons and electrons), `electrons` (drift), `light` (S1 and S2
photoelectrons), `sensors` (charges, after-pulses, dark counts), `digitizer` (pulses and fragments),
`writer` (files). All numbers are those of a `Detector`.
"""

from amstrax import attributes_of

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

__getattr__ = attributes_of(__name__, _MEMBERS)
