"""strax plugins: thin classes with options and types, around amstrax.processing."""

from amstrax._lazy import submodules_of

__getattr__ = submodules_of(__name__)
