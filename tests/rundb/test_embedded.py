"""The embedded store: it answers as MongoDB does, and keeps what it has acknowledged."""

import contextlib
import math
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from bson import Code, DatetimeMS, Decimal128, Int64, MinKey, ObjectId, Regex, Timestamp
from bson.errors import InvalidDocument
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, WriteError
from rundb_stores import collection, count_up, numbered, real_document  # noqa: F401

from amstrax.auto_processing import loop
from amstrax.exceptions import LocalDatabaseError, NotAvailable
from amstrax.rundb import documents, embedded, embedded_query
from amstrax.rundb.embedded import LocalClient

NOW = datetime(2026, 11, 22, 12, 0, 0, 123000)
RUNS = [
    {"_id": 1, "number": 1, "name": "000001", "end": NOW, "tags": [{"name": "a"}, {"name": "b"}]},
    {"_id": 2, "number": 2, "end": None, "tags": ["b", "c"], "processing_status": "done"},
    {"_id": 3, "number": 3, "processing_status": {"status": "done", "time": NOW}},
    {"_id": 4, "name": ["000004", "odd"], "number": "4", "processing_failed": "often"},
    {
        "_id": 5,
        "number": 5.0,
        "tags": None,
        "processing_failed": 2,
        "data": [
            {"type": "live", "host": "daq", "location": "/live"},
            {"type": "peaks", "host": "stbc", "location": "/p", "meta": {"n": [1, {"x": 2}]}},
        ],
    },
    {"_id": 6, "number": True, "data": {"type": "live"}, "tags": "b"},
]


@pytest.fixture
def runs(collection):  # noqa: F811
    collection.insert_many([dict(run) for run in RUNS])
    return collection


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"number": 2}, [2]),
        ({"number": 5}, [5]),
        ({"number": {"$in": [1, "4", 7]}}, [1, 4]),
        ({"number": {"$gt": 1, "$lte": 3}}, [2, 3]),
        ({"name": "000004"}, [4]),
        ({"name": {"$in": ["000004", "000001"]}}, [1, 4]),
        ({"name": None}, [2, 3, 5, 6]),
        ({"name": {"$exists": True}}, [1, 4]),
        ({"name": "000001", "number": 1, "_id": 1}, [1]),
        ({"name": "000001", "number": 2}, []),
        ({"_id": {"$in": [1, 3, 99]}}, [1, 3]),
        ({"end": None}, [2, 3, 4, 5, 6]),
        ({"end": {"$ne": None}}, [1]),
        ({"end": {"$gte": NOW - timedelta(seconds=1)}}, [1]),
        ({"end": NOW.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=2)))}, [1]),
        ({"tags.name": "b"}, [1]),
        ({"tags": "b"}, [2, 6]),
        ({"$or": [{"tags.name": "b"}, {"tags": "b"}]}, [1, 2, 6]),
        ({"tags.name": {"$ne": "a"}}, [2, 3, 4, 5, 6]),
        ({"tags": {"$nin": ["b"]}}, [1, 3, 4, 5]),
        ({"processing_status": "done"}, [2]),
        ({"processing_status.status": "done"}, [3]),
        ({"processing_status": {"$regex": "^do"}}, [2]),
        ({"processing_status": re.compile("^DO", re.IGNORECASE)}, [2]),
        ({"processing_failed": {"$gte": 1}}, [5]),
        ({"processing_failed": {"$not": {"$gte": 2}}}, [1, 2, 3, 4, 6]),
        ({"data": {"$elemMatch": {"type": "live", "host": "daq"}}}, [5]),
        ({"data": {"$not": {"$elemMatch": {"type": "live", "host": "daq"}}}}, [1, 2, 3, 4, 6]),
        ({"data": {"$elemMatch": {"type": "live", "lineage_hash": None}}}, [5]),
        ({"data": {"$elemMatch": {"type": "peaks", "host": {"$in": ["a", "stbc"]}}}}, [5]),
        ({"data.type": "live"}, [5, 6]),
        ({"data.meta.n.x": 2}, [5]),
        ({"$and": [{"number": {"$gte": 2}}, {"$nor": [{"number": 3}]}]}, [2, 5]),
        ({"tags": {"$size": 2}}, [1, 2]),
        ({"tags": {"$all": ["b", "c"]}}, [2]),
        ({"number": {"$type": "string"}}, [4]),
    ],
    ids=str,
)
def test_filters(runs, condition, expected):
    assert [run["_id"] for run in runs.find(condition, {"_id": 1}, sort=[("_id", 1)])] == expected
    assert runs.count_documents(condition) == len(expected)


@pytest.mark.parametrize(
    ("projection", "expected"),
    [
        (["number", "data.type"], {"number", "data"}),
        ({"number": 1, "_id": 0}, {"number"}),
        ({"data": 0, "tags": False}, {"number", "processing_failed"}),
        ({"data.meta.n": 0}, None),
        ({"data.meta.n.x": 1, "data.host": 1}, {"data"}),
        ({"_id": 1}, set()),
        ({"_id": 0}, None),
        ([], None),
        (None, None),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_projections(runs, projection, expected):
    found = runs.find_one({"_id": 5}, projection)
    with_id = not (isinstance(projection, dict) and projection.get("_id") == 0)
    assert ("_id" in found) == with_id
    if expected is not None:
        assert set(found) - {"_id"} == expected
    if projection == ["number", "data.type"]:
        assert found["data"] == [{"type": "live"}, {"type": "peaks"}]
    if projection == {"data.meta.n": 0}:
        assert found["data"][1] == {"type": "peaks", "host": "stbc", "location": "/p", "meta": {}}
    if projection == {"data.meta.n.x": 1, "data.host": 1}:
        assert found["data"] == [{"host": "daq"}, {"host": "stbc", "meta": {"n": [{"x": 2}]}}]
    if not projection:
        assert found == RUNS[4]


def test_cursors(runs):
    cursor = runs.find({}, {"number": 1}).sort("_id", -1).skip(1).limit(2)
    assert [run["_id"] for run in cursor] == [5, 4]
    assert list(cursor) == []
    assert runs.find_one({}, sort=[("number", 1), ("_id", -1)])["_id"] == 1
    by_number = [run["_id"] for run in runs.find(sort=[("number", -1)])]
    assert by_number == [6, 4, 5, 3, 2, 1]
    with runs.find({"number": 77}) as cursor:
        assert list(cursor) == []
    assert runs.find_one(3)["number"] == 3
    assert runs.find_one({"_id": 77}) is None
    assert runs.estimated_document_count() == 6


@pytest.mark.parametrize(
    "condition",
    [
        {"tags": "\u00e4\u00f6"},
        {"a.b.c": "x"},
        {"a.b": {"$elemMatch": {"c": "x", "d": None}}},
        {"$and": [{"tags": "\u00e4\u00f6"}, {"a.b.c": "x"}]},
    ],
    ids=str,
)
def test_texts_in_filters(collection, condition):  # noqa: F811
    """The embedded store looks for them in the bytes first."""
    fulfilling = {"_id": 1, "tags": ["\u00e4\u00f6", 2], "a": [{"b": [{"c": ["y", "x"]}]}]}
    nearly = {
        "_id": 2,
        "tags": ["\u00e4\u00f6\u00fc", "\u00e4"],
        "a": [{"b": [{"c": ["y", "xx"]}]}],
    }
    elsewhere = {"_id": 3, "tag": "\u00e4\u00f6", "a": {"x": "x"}}
    collection.insert_many([fulfilling, nearly, elsewhere])
    assert [run["_id"] for run in collection.find(condition)] == [1]


def test_distinct(runs):
    assert sorted(runs.distinct("number", {"number": {"$in": [1, 2, 3]}})) == [1, 2, 3]


def test_inserting(collection):  # noqa: F811
    document = {"number": 1, "when": datetime(2026, 1, 1, tzinfo=UTC), "big": 2**40}
    result = collection.insert_one(document)
    assert isinstance(result.inserted_id, ObjectId) and document["_id"] == result.inserted_id
    found = collection.find_one({"number": 1})
    assert found["when"] == datetime(2026, 1, 1) and found["big"] == Int64(2**40)
    with pytest.raises(DuplicateKeyError):
        collection.insert_one({"_id": result.inserted_id})
    with pytest.raises(InvalidDocument):
        collection.insert_one({"number": object()})
    assert len(collection.insert_many([{"number": 2}, {"number": 3}]).inserted_ids) == 2
    assert collection.count_documents({}) == 3


@pytest.mark.parametrize(
    ("number", "update", "field", "expected"),
    [
        (1, {"$set": {"processing_status.status": "x"}}, "processing_status", {"status": "x"}),
        (3, {"$set": {"processing_status.status": "x"}}, "processing_status.status", "x"),
        (1, {"$set": {"end": None}}, "end", None),
        (1, {"$unset": {"end": ""}}, "end", KeyError),
        (2, {"$inc": {"processing_failed": 2}}, "processing_failed", 2),
        (1, {"$push": {"tags": "z"}}, "tags", [{"name": "a"}, {"name": "b"}, "z"]),
        (2, {"$push": {"tags": {"$each": ["x", "y"]}}}, "tags", ["b", "c", "x", "y"]),
        (3, {"$push": {"tags": "z"}}, "tags", ["z"]),
        (1, {"$addToSet": {"tags": {"name": "b"}}}, "tags", [{"name": "a"}, {"name": "b"}]),
        (2, {"$addToSet": {"tags": "d"}}, "tags", ["b", "c", "d"]),
        (1, {"$pull": {"tags": {"name": "a"}}}, "tags", [{"name": "b"}]),
        (1, {"$pull": {"tags": {"name": "a", "user": None}}}, "tags", [{"name": "b"}]),
        (2, {"$pull": {"tags": {"name": "b"}}}, "tags", ["b", "c"]),
        (2, {"$pull": {"tags": "b"}}, "tags", ["c"]),
        (3, {"$pull": {"tags": "b"}}, "tags", KeyError),
        (2, {"$max": {"processing_failed": 3}}, "processing_failed", 3),
    ],
    ids=str,
)
def test_updates(runs, number, update, field, expected):
    assert runs.update_one({"number": number}, update).matched_count == 1
    value = runs.find_one({"_id": number})
    if expected is KeyError:
        assert field not in value
        return
    for name in field.split("."):
        value = value[name]
    assert value == expected


def test_positional_update(runs):
    element = {"data": {"$elemMatch": {"type": "peaks", "lineage_hash": None}}}
    done = runs.update_one({"_id": 5, **element}, {"$set": {"data.$": {"type": "peaks", "n": 9}}})
    assert done.modified_count == 1
    data = runs.find_one(5)["data"]
    assert [entry["type"] for entry in data] == ["live", "peaks"] and data[1]["n"] == 9


@pytest.mark.parametrize(
    ("_id", "update"),
    [
        (5, {"$push": {"tags": "x"}}),
        (6, {"$addToSet": {"tags": "x"}}),
        (6, {"$push": {"data": {}}}),
        (4, {"$inc": {"processing_failed": 1}}),
        (1, {"$set": {"_id": 8}}),
    ],
    ids=str,
)
def test_updates_of_values_that_are_of_another_kind_fail(runs, _id, update):
    before = runs.find_one(_id)
    with pytest.raises(WriteError):
        runs.update_one({"_id": _id}, update)
    assert runs.find_one(_id) == before


def test_results_of_updates(runs):
    done = runs.update_one({"number": 1}, {"$set": {"end": NOW}})
    assert (done.matched_count, done.modified_count, done.upserted_id) == (1, 0, None)
    done = runs.update_many({"number": {"$lte": 3}}, {"$set": {"mode": "x"}})
    assert (done.matched_count, done.modified_count) == (3, 3)
    done = runs.update_one({"number": 9}, {"$set": {"mode": "y"}, "$setOnInsert": {"z": 1}}, True)
    assert (done.matched_count, done.modified_count) == (0, 0)
    made = runs.find_one({"number": 9})
    assert made == {"_id": done.upserted_id, "number": 9, "mode": "y", "z": 1}
    assert runs.update_one({"number": 10}, {"$set": {"mode": "y"}}).matched_count == 0
    assert runs.replace_one({"number": 9}, {"number": 10}).modified_count == 1
    assert runs.find_one({"number": 10}) == {"_id": done.upserted_id, "number": 10}
    assert runs.delete_one({"tags": "b"}).deleted_count == 1
    assert runs.delete_many({"mode": "x"}).deleted_count == 2
    assert runs.delete_one({"mode": "x"}).deleted_count == 0


def test_find_one_and_update(runs):
    old = runs.find_one_and_update({"number": {"$lte": 3}}, {"$set": {"mode": "x"}})
    assert "mode" not in old
    new = runs.find_one_and_update(
        {"number": {"$lte": 3}},
        {"$set": {"mode": "y", "when": NOW.replace(tzinfo=UTC)}},
        projection={"_id": 0, "mode": 1, "when": 1},
        sort=[("number", -1)],
        return_document=ReturnDocument.AFTER,
    )
    assert new == {"mode": "y", "when": NOW}
    assert runs.find_one({"mode": "y"})["_id"] == 3
    assert runs.find_one_and_update({"number": 99}, {"$set": {"mode": "x"}}) is None


def test_a_real_document_stays_as_it_is(collection, real_document):  # noqa: F811
    collection.insert_one(dict(real_document))
    assert collection.find_one({"number": 2240}) == real_document
    collection.update_one({"number": 2240}, {"$set": {"processing_failed": 1}})
    changed = collection.find_one({"number": 2240})
    assert changed == real_document | {"processing_failed": 1}
    assert list(changed) == [*real_document, "processing_failed"]


# The embedded store alone


@pytest.fixture
def client(tmp_path):
    return LocalClient(tmp_path / "folder" / "runs.sqlite")


def test_reading_makes_no_file(client):
    runs = client["run"]["runs_gas"]
    assert runs.find_one({}) is None and list(runs.find()) == [] and runs.distinct("x") == []
    assert client.list_database_names() == [] and runs.estimated_document_count() == 0
    assert not client.path.parent.exists()


def test_databases_and_collections_are_apart(client):
    client["run"]["a"].insert_one({"_id": 1})
    client["daq"]["a"].insert_one({"_id": 1})
    client["run"]["b.c"].insert_one({"_id": 2})
    assert client.list_database_names() == ["daq", "run"]
    assert client["run"].list_collection_names() == ["a", "b.c"]
    client["run"]["a"].drop()
    assert client["daq"]["a"].count_documents({}) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda c: list(c.find({"$where": "1"})),
        lambda c: list(c.find({"a": {"$geoWithin": 1}})),
        lambda c: list(c.find({}, {"a": {"$slice": 1}})),
        lambda c: c.update_one({}, {"$bit": {"a": 1}}),
        lambda c: c.update_one({}, {"$set": {"a.$[]": 1}}),
        lambda c: c.create_index("number", unique=True),
        lambda c: list(c.find().sort("number", "text")),
    ],
)
def test_what_it_does_not_know_is_refused(client, use):
    runs = client["run"]["runs_gas"]
    runs.insert_one({"a": [1]})
    with pytest.raises(NotAvailable, match="embedded run database"):
        use(runs)
    with pytest.raises(AttributeError, match=r"no aggregate: it has .*find_one"):
        runs.aggregate([])


def test_bad_files_are_named(tmp_path):
    text = tmp_path / "text.sqlite"
    text.write_text("no database " * 1000)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    newer = tmp_path / "newer.sqlite"
    LocalClient(newer)["run"]["a"].insert_one({})
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version=99")
    (tmp_path / "file").write_text("")
    cases = {
        text: "not a database",
        other: "another program's database",
        newer: "newer amstrax",
        tmp_path: "name another",
        tmp_path / "file" / "x": "name another",
    }
    for path, message in cases.items():
        with pytest.raises(LocalDatabaseError, match=message) as caught:
            LocalClient(path)["run"]["a"].insert_one({})
        assert str(path) in str(caught.value)
    assert text.read_text().startswith("no database")


def test_a_file_that_is_replaced_is_opened_anew(client):
    runs = client["run"]["runs_gas"]
    assert runs.find_one({}) is None
    runs.insert_one({"_id": 1})
    for path in client.path.parent.iterdir():
        path.unlink()
    # It has not become empty, and nothing is written into a second one
    for use in (runs.estimated_document_count, runs.find_one, lambda: runs.insert_one({"_id": 3})):
        with pytest.raises(LocalDatabaseError, match=rf"{client.path} has vanished: bring the"):
            use()
    with LocalClient(client.path) as other:
        other["run"]["runs_gas"].insert_one({"_id": 2})
    assert [run["_id"] for run in runs.find()] == [2]


def test_nothing_is_changed_by_a_write_that_fails(client):
    runs = client["run"]["runs_gas"]
    runs.insert_one({"_id": 1, "n": 1})
    with pytest.raises(DuplicateKeyError):
        runs.insert_many([{"_id": 2}, {"_id": 1}])
    runs.insert_one({"_id": 3, "n": "text"})
    with pytest.raises(WriteError):
        runs.update_many({}, {"$inc": {"n": 1}})
    assert [run.get("n") for run in runs.find()] == [1, "text"]


def test_documents_that_change_while_they_are_read(client):
    runs = client["run"]["runs_gas"]
    runs.insert_many([{"_id": i} for i in range(600)])
    for run in runs.find():
        runs.update_one({"_id": run["_id"]}, {"$set": {"seen": True}})
    assert runs.count_documents({"seen": True}) == 600


def test_threads(client):
    runs = client["run"]["runs_gas"]
    runs.insert_one({"_id": 1, "n": 0})

    def count():
        for _ in range(25):
            runs.update_one({"_id": 1}, {"$inc": {"n": 1}})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs.find_one(1)["n"] == 100


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(client, method):
    """The parent's connection is open, also when it forks."""
    runs = client["run"]["runs_gas"]
    runs.insert_one({"_id": 1, "n": 0})
    context = multiprocessing.get_context(method)
    children = [context.Process(target=count_up, args=(runs, 20)) for _ in range(3)]
    for child in children:
        child.start()
    count_up(runs, 20)
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert runs.find_one(1)["n"] == 80


WRITER = """
import sys
from amstrax.rundb.embedded import LocalClient
runs = LocalClient(sys.argv[1])["run"]["runs_gas"]
i = int(sys.argv[2])
while True:
    runs.insert_one({"_id": i, "text": "x" * 5000})
    runs.update_one({"_id": i}, {"$set": {"done": True}})
    print(i, flush=True)
    i += 1
"""


def test_kill_of_a_writer_loses_nothing_acknowledged(client):
    runs = client["run"]["runs_gas"]
    first = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(client.path), str(first)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(20)]
            time.sleep(0.05)
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout]
        found = {run["_id"]: run for run in runs.find()}
        assert set(acknowledged) <= set(found)
        assert all(found[i].get("done") for i in acknowledged)
        first = max(found) + 1
    runs.insert_one({"_id": -1})
    with sqlite3.connect(client.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.binary(),
    st.builds(ObjectId, st.binary(min_size=12, max_size=12)),
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(
        lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)
    ),
    st.just(re.compile("a.b", re.IGNORECASE)),
)
_keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(_keys, _values, max_size=6), st.data())
def test_some_fields_of_bson(document, data):
    """Fields are found in any document, whatever is before them."""
    import bson

    names = data.draw(st.sets(st.sampled_from([*document, "other"])))
    encoded = bson.encode(document)
    whole = bson.decode(encoded)
    expected = {key: value for key, value in whole.items() if key in names}
    assert embedded_query.decode_fields(encoded, names) == expected


# What the index says


def work_documents():
    """Return documents of all forms of status, tags and data, odd ones too."""
    now = datetime(2024, 1, 2)
    words = [None, "", "pending", "done", "failed due to x", "failed", "running", 5, ["done"]]
    words += [{"status": word, "time": now} for word in ("pending", "done", "failed", None, 5)]
    words += [{}, {"status": ["done"]}, [{"status": "done"}], "two\nlines", {"status": "a\0b"}]
    tags = [None, [], ["process"], "process", [{"name": "process"}], {"name": "process"}, 5]
    tags += [[{"name": ["process"]}], ["a\nprocess\nb"], [["process"]], ["other", None, 5]]
    here = {"type": "peaks", "host": "stbc", "location": "/x"}
    data = [None, [], 5, [here], here, [{"type": "peaks"}], [{**here, "host": "daq"}]]
    data += [[{**here, "type": ["peaks"]}], [[here]], [{**here, "type": "peaks\tstbc\n"}]]
    kinds = {"processing_status": words, "tags": tags, "data": data}
    return [
        {"number": i, "name": f"{i:06d}", "processing_status": word, "tags": tag, "data": entries}
        for i, (word, tag, entries) in enumerate(
            [(word, tags[i % 5], data[i % 4]) for i, word in enumerate(words)]
            + [("done", tag, data[i % 4]) for i, tag in enumerate(tags)]
            + [({"status": "done"}, tags[i % 5], entries) for i, entries in enumerate(data)]
            + [({"status": "done"}, None, None)]
        )
    ] + [{"_id": key} for key in kinds]


def work_filters():
    """Return filters that the index has something to say of, and some like them."""
    lacks = {"data": {"$not": {"$elemMatch": {"type": "peaks", "host": "stbc"}}}}
    plain = [
        *({"processing_status": word} for word in (None, "done", "pending", 5)),
        *({"processing_status.status": word} for word in (None, "done", "two", 5)),
        {"processing_status.status": {"$in": ["done", "pending"]}},
        {"processing_status": {"$in": [None, "done"]}},
        {"processing_status": {"$regex": "^failed"}},
        {"processing_status": {"$regex": "due"}},
        {"processing_status": {"$regex": "^Failed", "$options": "i"}},
        *(documents.has_tag(tag) for tag in ("process", "other")),
        {"tags": {"$ne": "process"}},
        documents.has_no_status(),
        {"$nor": [{"processing_status": "done"}]},
        *(documents.has_status(word) for word in documents.STATUSES),
        documents.has_data("peaks", host="stbc"),
        documents.has_data("peaks", host="stbc", location="/y"),
        documents.has_data("peaks"),
        lacks,
        {"data": {"$not": {"$elemMatch": {"type": "peaks", "host": "stbc", "location": "/y"}}}},
        {"number": {"$in": [3, 4.0, 5]}},
        {"number": {"$gte": 5}},
        {"name": "000003"},
    ]
    both = [{"$and": [one, other]} for one in plain for other in (lacks, plain[0])]
    return plain + both + [{"$or": [*pair["$and"]]} for pair in both]


def matches(document, condition):
    return embedded_query.compiled(embedded_query.checked_filter(condition))(document)


def test_the_index_leaves_nothing_out(client):
    runs = client["run"]["runs_gas"]
    runs.insert_many(work_documents())
    everything = list(runs.find())
    used = 0
    for condition in work_filters():
        used += embedded._sql(embedded_query.checked_filter(condition)) is not None
        expected = [d["_id"] for d in everything if matches(d, condition)]
        assert [d["_id"] for d in runs.find(condition)] == expected, condition
        assert runs.count_documents(condition) == len(expected)
    assert used > 50
    # It follows changes
    runs.update_many({}, {"$set": {"processing_status": "pending", "tags": ["process"]}})
    assert runs.count_documents(documents.has_status("pending")) == len(everything)
    assert runs.count_documents(documents.has_tag("process")) == len(everything)


def test_the_loop_does_not_look_at_runs_that_are_done(client, monkeypatch, tmp_path):
    """Neither at those that say so, nor at those that have the data and say nothing."""
    monkeypatch.setenv("AMSTRAX_HOST", "stbc")
    runs = client["run"]["runs_gas"]
    live = {"type": "live", "host": "stbc", "location": str(tmp_path)}
    made = {"type": "peaks", "host": "stbc", "location": "/x"}
    plain = {"end": datetime(2024, 1, 2), "data": [live, made], "tags": [{"name": "good"}]}
    done = {"processing_status": {"status": "done"}}
    count = 400
    runs.insert_many({"number": i, **plain, **(done if i % 2 else {})} for i in range(count))
    (tmp_path / f"{count:06d}").mkdir()
    runs.insert_one({"number": count, **plain, "processing_status": {"status": "pending"}})
    decoded = []
    decode = embedded_query.decode_fields

    def decode_and_note(*arguments):
        decoded.append(1)
        return decode(*arguments)

    monkeypatch.setattr(embedded_query, "decode_fields", decode_and_note)
    wanted = loop.RunSelection("xams", ("peaks",), ("raw_records",))
    [found] = loop.find_runs(runs, wanted, 10)
    assert found["number"] == count
    assert runs.count_documents(wanted.filter(datetime.now(UTC))) == 1
    assert loop.followed_runs(runs, "local") == []
    assert len(decoded) < 20


@pytest.mark.parametrize("condition", [{"_id": "7"}, {"name": "000007"}, {"number": 7}], ids=str)
def test_a_run_is_looked_up_in_the_index(client, monkeypatch, condition):
    """Also where the condition is one of several in $and, as in the updates of a status."""
    runs = client["run"]["runs_gas"]
    runs.insert_many({"_id": str(i), "number": i, "name": f"{i:06d}"} for i in range(300))
    decoded = []
    decode = embedded_query.decode_fields

    def decode_and_note(*arguments):
        decoded.append(1)
        return decode(*arguments)

    monkeypatch.setattr(embedded_query, "decode_fields", decode_and_note)
    for wanted in (condition, {"$and": [condition, {"$nor": [{"processing_status": 5}]}]}):
        decoded.clear()
        assert [d["_id"] for d in runs.find(wanted)] == ["7"]
        assert documents.update_status(runs, wanted, {"status": "done"})
        assert len(decoded) < 10


_NUMBERS = (0, 1, -1, 5.0, 2**53, 2**53 + 1, float(2**53), math.nan, Decimal128("5"), Int64(5))
_OTHERS = (True, None, "5", "", Code("x"), Regex("5"), [5], {}, {"a": 5}, Decimal128("sNaN"))


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.sampled_from([*_NUMBERS, *_OTHERS])), st.sampled_from([*_NUMBERS, *_OTHERS]))
def test_one_of_many_values(items, value):
    """The fast way to look among many gives what each of them gives."""
    equal = any(embedded_query._equality(item)(value) for item in items)
    assert embedded_query._membership(items)(value) == equal


_SCHEMA_1 = """
CREATE TABLE documents (seq INTEGER PRIMARY KEY, collection TEXT NOT NULL, id BLOB NOT NULL, name,
    number, odd INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (collection, id));
CREATE INDEX by_name ON documents (collection, name);
CREATE INDEX by_number ON documents (collection, number);
CREATE INDEX by_odd ON documents (collection, odd) WHERE odd;
PRAGMA user_version=1;
PRAGMA application_id=1634562932;
"""


def test_a_file_of_an_earlier_version_gets_the_index(tmp_path):
    path = tmp_path / "old.sqlite"
    before = [{"_id": i, **document} for i, document in enumerate(work_documents())]
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(_SCHEMA_1)
        for document in before:
            row = ("run.runs_gas", *embedded.row_of(document)[:5])
            marks = "collection, id, name, number, odd, body) VALUES (?, ?, ?, ?, ?, ?)"
            old.execute(f"INSERT INTO documents ({marks}", row)
        old.commit()
    runs = LocalClient(path)["run"]["runs_gas"]
    assert list(runs.find()) == before
    for condition in work_filters():
        expected = [d["_id"] for d in before if matches(d, condition)]
        assert [d["_id"] for d in runs.find(condition)] == expected, condition
    assert LocalClient(path)["run"]["runs_gas"].count_documents({}) == len(before)


@pytest.mark.parametrize(
    "value",
    [
        *(Decimal128("7"), Decimal128("NaN"), DatetimeMS(10**17), DatetimeMS(-(10**17))),
        *(MinKey(), Timestamp(1, 1), Code("x"), Regex("x"), b"x", math.nan, 2**63 - 1),
    ],
    ids=str,
)
def test_values_that_python_does_not_compare(client, value):
    """They hide no other document, and stay what they are."""
    runs = client["run"]["runs_gas"]
    runs.insert_one({"_id": 1, "number": 8, "time": datetime(2024, 1, 2)})
    runs.insert_one({"_id": 2, "number": value, "time": value, "a": [{"b": value}]})
    assert 1 in [d["_id"] for d in runs.find({"number": {"$gte": 5}})]
    assert 1 in [d["_id"] for d in runs.find({"time": {"$lte": datetime(2025, 1, 1)}})]
    assert len(list(runs.find({}, sort=[("number", -1), ("time", 1)]))) == 2
    assert runs.update_one({"_id": 2, "c": None}, {"$set": {"c": 1}}).matched_count == 1
    after = runs.find_one({"_id": 2})
    assert repr(after["number"]) == repr(value) and repr(after["a"]) == repr([{"b": value}])
