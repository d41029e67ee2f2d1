"""Parts that amstrax adds to strax, through strax's own hooks."""

from amstrax._lazy import attributes_of

__getattr__ = attributes_of(__name__)
