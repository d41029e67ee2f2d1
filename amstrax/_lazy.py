"""Modules as attributes of their package, imported when they are first used."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType


def submodules_of(package: str) -> Callable[[str], ModuleType]:
    """Return a ``__getattr__`` for `package` that imports the module of the name asked for."""

    def getattr_(name: str) -> ModuleType:
        full_name = f"{package}.{name}"
        if not name.startswith("_"):
            try:
                return import_module(full_name)
            except ModuleNotFoundError as error:
                if error.name != full_name:
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_
