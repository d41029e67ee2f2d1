"""The run database: MongoDB through an SSH tunnel or, without settings for it, a file.

`RunDB` is the storage frontend with which strax finds runs and data; `get_mongo_client` and
`get_mongo_collection` give access to the documents. Importing this package imports neither strax
nor pymongo.
"""

from amstrax import attributes_of

_MEMBERS = {
    "RunDB": "frontend",
    "get_mongo_client": "connection",
    "get_mongo_collection": "connection",
}

__all__ = [*_MEMBERS]


__getattr__ = attributes_of(__name__, _MEMBERS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
