"""The run database: MongoDB through an SSH tunnel, or a file for those who have none.

`RunDB` is the storage frontend with which strax finds runs and data; `get_mongo_client` and
`get_mongo_collection` lead to the documents. What is imported here costs neither strax nor pymongo.
"""

from amstrax._lazy import attributes_of

_MEMBERS = {
    "RunDB": "frontend",
    "get_mongo_client": "connection",
    "get_mongo_collection": "connection",
}

__all__ = [*_MEMBERS]


__getattr__ = attributes_of(__name__, _MEMBERS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
