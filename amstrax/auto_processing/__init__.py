"""Command-line tools, and what they share."""

from amstrax._lazy import submodules_of

__getattr__ = submodules_of(__name__)
