"""Simulated runs: live data as redax writes it, and the truth.

The steps are `sources` (energy deposits), `yields` (photons and electrons), `light` (drift, S1 and
S2 photoelectrons), `sensors` (charges, after-pulses, dark counts), `digitizer` (pulses and
fragments) and `writer` and `parts` (files). All numbers are those of a `Detector`.
"""

from amstrax import attributes_of

# Public name -> the module that defines it
_MEMBERS = {
    "DETECTORS": "detector",
    "Detector": "detector",
    "EFFECTS": "effects",
    "SOURCES": "sources",
    "SimulatedRun": "run",
    "TRUTH_DTYPE": "writer",
    "load_options": "run",
    "load_truth": "writer",
    "match_peaks": "matching",
    "match_truth": "matching",
    "simulate": "run",
}

__getattr__ = attributes_of(__name__, _MEMBERS)
