"""The run database: MongoDB through an SSH tunnel, or a file for those who have none.

`RunDB` is the storage frontend with which strax finds runs and data; `get_mongo_client` and
`get_mongo_collection` lead to the documents. What is imported here costs neither strax nor pymongo.
"""

from importlib import import_module
from typing import Any

from amstrax._lazy import submodules_of

_MEMBERS = {
    "RunDB": "frontend",
    "get_mongo_client": "connection",
    "get_mongo_collection": "connection",
}

__all__ = [*_MEMBERS]


def __getattr__(name: str) -> Any:
    if name not in _MEMBERS:
        return submodules_of(__name__)(name)
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MEMBERS[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
