"""Attributes of packages that are imported at their first use."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import Any


def attributes_of(package: str, members: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package, which finds its modules and the names in `members`.

    `members` maps public names to modules of the package, or to ``MODULE:NAME``.
    """
    members = members or {}

    def getattr_(name: str) -> Any:
        if name in members:
            module, _, member = members[name].partition(":")
            value = getattr(import_module(f"{package}.{module}"), member or name)
            setattr(sys.modules[package], name, value)
            return value
        full_name = f"{package}.{name}"
        if not name.startswith("_"):
            try:
                return import_module(full_name)
            except ModuleNotFoundError as error:
                if error.name is None:
                    raise AttributeError(error.msg) from None  # of amstrax._legacy
                if error.name != full_name:
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_


class OldModules:
    """Finder of modules of amstrax 2, which Python calls last."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of an old module; None for other names."""
        if not name.startswith("amstrax."):
            return None
        from amstrax import _legacy

        return _legacy.find_spec(name)
