"""Corrections: values that options have for ranges of runs, from files that are published.

- `amstrax.corrections.lookup`: from the text of a file and a run to a value
- `amstrax.corrections.store`: where files are: a folder, a package, a server, a cache on disk
- `amstrax.corrections.config`: options of plugins whose value is looked up for each run
- `amstrax.corrections.versions`: which options a version of the corrections sets, and to what
- `amstrax.corrections.check`: what is wrong with a folder of files
"""

from amstrax._lazy import attributes_of

# Public name -> the module that defines it
_MEMBERS = {
    "CorrectedPlugin": "config",
    "XAMSConfig": "config",
    "get_correction": "store",
}

__getattr__ = attributes_of(__name__, _MEMBERS)
