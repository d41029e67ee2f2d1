"""Subcommands of ``amstrax`` that process no run of the run database, and what all tools share."""

from amstrax._lazy import attributes_of

__getattr__ = attributes_of(__name__)
