"""Both stores of run documents, for the tests that hold for either."""

import copy
from pathlib import Path

import pytest
from bson import json_util

from amstrax.rundb.embedded import LocalClient


@pytest.fixture(params=["embedded", "mongo"])
def collection(request, tmp_path):
    """An empty collection: of the embedded store, and of a MongoDB server through a tunnel."""
    if request.param == "mongo":
        return request.getfixturevalue("mongo_collection")
    # Where it is with no settings, too
    return LocalClient(tmp_path / "user_data/amstrax/rundb.sqlite")["run"]["runs_gas"]


@pytest.fixture(scope="session")
def real_document(shared) -> dict:
    """The document of a real run, number 2240; it has no name, tags or processing_status."""
    text = Path(shared / "data/rundoc_999999.json").read_text()
    return json_util.loads(text)


def numbered(document: dict, number: int, **fields) -> dict:
    """Return a copy of a run document under another number."""
    new = {k: v for k, v in copy.deepcopy(document).items() if k != "_id"}
    return new | {"number": number, "name": f"{number:06d}"} | fields


def count_up(runs, times: int) -> None:
    """Add 1 to a document, so often. A spawned process finds it here, by the name of the module."""
    for _ in range(times):
        runs.update_one({"_id": 1}, {"$inc": {"n": 1}})
