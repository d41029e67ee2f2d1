"""Subcommands of ``amstrax`` other than batch processing, and code shared by all tools."""

from amstrax import attributes_of

__getattr__ = attributes_of(__name__)
