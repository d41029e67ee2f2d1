"""strax plugins: thin classes with options and types, around amstrax.processing."""

from amstrax import _MEMBERS, attributes_of

_members = {
    name: module.removeprefix("plugins.")
    for name, module in _MEMBERS.items()
    if module.startswith("plugins.")
}
__all__ = list(_members)  # noqa: PLE0605
__getattr__ = attributes_of(__name__, _members)
