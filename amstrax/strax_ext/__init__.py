"""Subclasses of strax; nothing of strax itself is replaced.

They rely on the undocumented names in `amstrax.strax_ext.storage.HOOKS`, which are checked in the
installed strax at import.
"""

from amstrax import attributes_of

__getattr__ = attributes_of(__name__)
