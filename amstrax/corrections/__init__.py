"""Corrections: option values for ranges of runs, from published files.

- `amstrax.corrections.store`: find files in a folder, a package, a server or a cache; parse them
- `amstrax.corrections.lookup`: values for a run, ranges of files, look-up strings, versions
- `amstrax.corrections.config`: plugin options whose value is looked up for each run
- `amstrax.corrections.check`: report errors in a folder of files
"""

from amstrax import attributes_of

# Public name -> the module that defines it
_MEMBERS = {
    "CorrectedPlugin": "config",
    "XAMSConfig": "config",
    "get_correction": "store",
}

__getattr__ = attributes_of(__name__, _MEMBERS)
