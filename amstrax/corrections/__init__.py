"""Corrections: option values for ranges of runs, from published files."""

from amstrax import attributes_of

# Public name -> the module that defines it
_MEMBERS = {
    "CorrectedPlugin": "config",
    "XAMSConfig": "config",
    "get_correction": "store",
}

__getattr__ = attributes_of(__name__, _MEMBERS)
