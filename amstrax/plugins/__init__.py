"""strax plugins: thin classes with options and types, around amstrax.processing."""

from amstrax._lazy import attributes_of

__getattr__ = attributes_of(__name__)
