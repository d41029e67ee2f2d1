"""Command-line tools, and what they share."""

from amstrax import attributes_of

__getattr__ = attributes_of(__name__)
