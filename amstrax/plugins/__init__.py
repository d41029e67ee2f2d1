"""strax plugins: thin classes with options and types, around amstrax.processing."""

from amstrax import attributes_of, members_of

_members = members_of("plugins")
__all__ = list(_members)  # noqa: PLE0605
__getattr__ = attributes_of(__name__, _members)
