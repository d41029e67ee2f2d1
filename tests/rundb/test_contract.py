"""The embedded store does what MongoDB does, or refuses: the same operations against either."""

import copy
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from bson import Decimal128, Int64, ObjectId, Regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.errors import PyMongoError, WriteError

from amstrax.exceptions import NotAvailable
from amstrax.rundb.embedded import LocalClient, LocalCollection
from amstrax.rundb.embedded_query import (
    FILTER_OPERATORS,
    UPDATE_OPERATORS,
    checked_filter,
    compiled,
)

T = datetime(2026, 1, 1, 12, 0, 0, 123456)
DOCUMENT = {
    "_id": 1,
    "a": [{"x": 1, "inner": {"x": 1}}, {"x": 2, "inner": {"x": 2}}],
    "n": 1,
    "s": "t",
    "d": {"e": {"f": 1}},
    "l": [3, 1, 2],
    "big": 2**62,
    "nul": None,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory, mongo_server):
    """A collection of the embedded store, and one of a MongoDB server without what is ours."""
    path = tmp_path_factory.mktemp("contract") / "runs.sqlite"
    with mongo_server.client() as client:
        yield LocalClient(path)["run"]["contract"], client["run"]["contract"]


def results(stores, documents, operation):
    """Return what an operation gives in either store, an error as such, and what is there then."""
    both = []
    for store in stores:
        store.drop()
        if documents:
            store.insert_many(copy.deepcopy(documents))
        try:
            answer = operation(store)
        except (PyMongoError, NotAvailable, ValueError, TypeError, OverflowError) as error:
            answer = error
        left = list(store.find({}, sort=[("_id", 1)]))
        for document in left:
            if isinstance(document["_id"], ObjectId):
                document["_id"] = "made"
        both.append((answer, left))
    return both


def in_order(value):
    """Return a value as text, in which the order of fields does not matter, and types do."""
    if isinstance(value, dict):
        return {key: in_order(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_order(item) for item in value]
    return type(value).__name__, repr(value)


POSITIONAL = [
    ({"a.x": 2}, {"$set": {"a.$.x": 9}}),
    ({"a.x": 2}, {"$set": {"a.$.inner.x": 9}}),
    ({"a": {"$elemMatch": {"x": 2}}}, {"$set": {"a.$.inner.x": 9}}),
    ({"a": {"$elemMatch": {"x": {"$gte": 2}, "inner.x": 2}}}, {"$inc": {"a.$.inner.x": 5}}),
    ({"a": {"$elemMatch": {"x": 2}}}, {"$set": {"a.$": {"y": 1}}}),
    ({"a": {"$elemMatch": {"x": 2}}}, {"$unset": {"a.$.inner.x": ""}}),
    ({"a": {"$elemMatch": {"x": 2}}}, {"$unset": {"a.$": ""}}),
    ({"a": {"$elemMatch": {"x": 2}}}, {"$push": {"a.$.list": 5}}),
    ({"a": {"$elemMatch": {"x": 2}}}, {"$max": {"a.$.x": 5}, "$min": {"a.$.inner.x": 0}}),
    ({"a.inner.x": 2, "n": 1}, {"$set": {"a.$.x": 9}}),
    ({"l": 1}, {"$set": {"l.$": 9}}),
    ({"l": {"$lte": 2}}, {"$set": {"l.$": 9}}),
    ({"l": {"$in": [2]}}, {"$inc": {"l.$": 9}}),
    ({"l": 3, "a.x": 2}, {"$set": {"l.$": 9}}),
    ({"l": 3, "a.x": 2}, {"$set": {"a.$.x": 9}}),
    ({"n": 1}, {"$set": {"a.$.x": 9}}),
    ({"_id": 1}, {"$set": {"a.$": 9}}),
    ({"$or": [{"a.x": 2}]}, {"$set": {"a.$.x": 9}}),
]
#: Paths, conflicts, kinds of values
UPDATES = [
    {"$set": {"a.1.inner.x": 9, "l.1": 9, "d.e.g": 9, "d.z.g": 9}},
    {"$set": {"l.5": 9}},
    {"$set": {"l.x": 9}},
    {"$set": {"a.x": 9}},
    {"$set": {"n.g": 9}},
    {"$set": {"nul.g": 9}},
    {"$set": {"s.g": 9}},
    {"$set": {"d": 1, "d.e": 2}},
    {"$set": {"n": 1}, "$inc": {"n": 1}},
    {"$set": {"d.e": 1}, "$unset": {"d": 1}},
    {"$set": {"x": T, "y": 2**40, "z": (1, 2), "r": re.compile("a", re.I), "m": Decimal128("1.0")}},
    {"$set": {"x": T.replace(tzinfo=timezone(timedelta(hours=2)))}},
    {"$set": {"": 1}},
    {"$set": {"a..b": 1}},
    {"$set": {"_id": 2}},
    {"$set": {"_id": 1}},
    {"$unset": {"_id": 1}},
    {"$setOnInsert": {"n": 5}},
    {"$unset": {"d.e.f": "", "l.1": "", "a.0.x": "", "none.x": "", "n.x": ""}},
    {"$inc": {"n": 1.5, "new": 1, "d.e.f": 1, "d.q.f": 1, "l.0": 1}},
    {"$inc": {"n": 2**31}},
    {"$inc": {"n": Int64(1)}},
    {"$inc": {"n": 2**62}},
    {"$inc": {"big": 1}},
    {"$inc": {"big": -(2**62) + 5}},
    {"$inc": {"big": 2**62}},
    {"$inc": {"n": True}},
    {"$inc": {"n": "x"}},
    {"$inc": {"s": 1}},
    {"$inc": {"nul": 1}},
    *(
        {op: {field: value}}
        for op in ("$min", "$max")
        for field in ("n", "s", "nul", "l", "d", "new")
        for value in (0, 5, None, "x", True, [3], {"e": 1}, T)
    ),
    {"$push": {"l": 9, "new": 9, "d.new": 9, "q.e": 9, "a.0.l": 9}},
    {"$push": {"l": {"$each": [9, 8]}}},
    {"$push": {"l": [7, 8]}},
    {"$push": {"l": {"$each": 5}}},
    *({"$push": {field: 9}} for field in ("n", "nul", "d.e", "d.e.f", "a.x")),
    {"$addToSet": {"l": {"$each": [3, 9, 9]}}},
    {"$addToSet": {"l": 3.0, "new": 3, "d.new": 3}},
    {"$addToSet": {"l": True}},
    {"$addToSet": {"l": [3]}},
    {"$addToSet": {"a": {"inner": {"x": 1}, "x": 1}}},
    {"$addToSet": {"a": {"x": 1, "inner": {"x": 1}}}},
    *({"$addToSet": {field: 9}} for field in ("n", "nul", "d.e.f")),
    *({"$pull": {"l": value}} for value in (3, 3.0, True, {"$gte": 2}, {"$in": [1, 2]}, [3], None)),
    *(
        {"$pull": {"a": value}}
        for value in (
            {"x": 1},
            {"x": {"$gte": 1}},
            {"inner.x": 1},
            {"inner": {"x": 1}},
            {"y": None},
            {},
            1,
        )
    ),
    {"$pull": {"new": 1, "d.new": 1, "a.0.l": 1}},
    *({"$pull": {field: 1}} for field in ("n", "nul", "d.e")),
    {"$pullAll": {"l": [1, 3], "new": [1]}},
    {"$pullAll": {"a": [{"x": 1}]}},
    {"$pullAll": {"n": [1]}},
    {"$pullAll": {"l": 1}},
]
UPSERTS = [
    ({"_id": 5, "a.b": 1, "a.c": 2}, {"$set": {"a.d": 1}}),
    ({"a.b": 1}, {"$set": {"a": 1}}),
    ({"a": {"$eq": 1}, "b": {"$gt": 3}}, {"$set": {"c": 1}}),
    ({"$and": [{"a": 1}, {"b": 2}]}, {"$set": {"c": 1}}),
    ({"_id": 5, "a": None}, {"$setOnInsert": {"c": 1}, "$set": {"d": 1}}),
    ({"_id": 5, "n": 1}, {"$inc": {"n": 1}, "$push": {"l": 1}, "$addToSet": {"m": 1}}),
    ({"_id": 5, "a": {"b": 1}}, {"$set": {"a.c": 1}}),
    ({"_id": 5, "a": {"$exists": False}}, {"$min": {"m": 1}, "$max": {"k": 2}}),
    ({"_id": 5}, {"$set": {"_id": 6}}),
    ({"_id": 5, "a": 1}, {"$unset": {"a": 1}, "$pull": {"z": 1}}),
    ({"_id": 5}, {"$set": {"a.0": 1}}),
]
#: What the embedded store does not do: it says so, and changes nothing
REFUSED = [
    ({"_id": 1}, {"$set": {"l.9999999": 1}}),
    *(
        (condition, {"$set": {"a.$.x": 9}})
        for condition in (
            {"a.x": {"$ne": 7}},
            {"a.y": None},
            {"a.x": {"$not": {"$gt": 7}}},
            {"a.x": 2, "a.inner.x": 2},
            {"a.x": 2, "$or": [{"n": 1}]},
        )
    ),
    *(
        ({}, update)
        for update in (
            {"$set": {"a.$[].x": 9}},
            {"$set": {"a.$[e].x": 9}},
            {"$set": {"$x": 1}},
            {"$set": {"": 1}},
            {"$set": {"a.$.b.$.c": 9}},
            {"$inc": {"n": Decimal128("1")}},
            {"$rename": {"n": "m"}},
            {"$mul": {"n": 2}},
            {"$currentDate": {"n": True}},
            {"$bit": {"n": 1}},
            {"$pop": {"l": 1}},
            [{"$set": {"n": 2}}],
            {"$pull": {"l": {"$where": "1"}}},
            {"$push": {"l": {"$each": [1], "$slice": -2}}},
            {"$push": {"l": {"$each": [1], "$sort": 1}}},
            {"$push": {"l": {"$each": [1], "$position": 0}}},
        )
    ),
]
REFUSED_UPSERTS = [
    {"a": {"$in": [1]}},
    {"$or": [{"a": 1}]},
    {"a": {"$all": [1]}},
    {"a": {"$elemMatch": {"x": 1}}},
    {"a": re.compile("x")},
    {"_id": {"$in": [5]}},
    {"$nor": [{"a": 1}]},
    {"a": {"$not": {"$gt": 1}}},
]
REFUSED_FILTERS = [
    {"$where": "1"},
    {"$expr": {"$eq": ["$n", 1]}},
    {"$text": {"$search": "x"}},
    {"$comment": "x"},
    {"n": {"$mod": [2, 1]}},
    {"n": {"$geoWithin": 1}},
    {"n": {"$bitsAllSet": 1}},
    {"n": {"$gt": [1]}},
    {"n": {"$lt": {"a": 1}}},
    {"n": {"$gte": re.compile("a")}},
    {"n": {"$ne": re.compile("a")}},
    {"n": {"$size": 1.5}},
    {"n": {"$type": "nonsense"}},
    {"n": {"$all": [None]}},
    {"n": {"$all": [[1]]}},
    {"n": {"$elemMatch": 5}},
    {"n": {"$gt": 1, "x": 3}},
    {"$and": []},
    {"$or": {}},
    {"n": {"$not": 1}},
    {"n": {"$in": 1}},
    {"n": {"$in": [{"$gt": 1}]}},
    {"n.": 1},
    {"n": {"$exists": "no"}},
    {"n": {"$options": "i"}},
    {"n": {"$regex": "(?i)a"}},
    {"n": {"$regex": r"a\z"}},
    {"$not": {"n": 1}},
    {"n": {"$regex": r"a\Z"}},
    {"n": {"$regex": "[[:alpha:]]"}},
    {"n": {"$regex": r"\d", "$options": "i"}},
    {"n": {"$regex": "("}},
    {"n": {"$regex": "a", "$options": "q"}},
    {"n": {"$eq": {"$x": 1}}},
]


def ids(value):
    return re.sub(r"\s+", " ", str(value))[:100]


@pytest.mark.parametrize(("condition", "update"), POSITIONAL, ids=ids)
def test_positional_updates(stores, condition, update):
    check_update(stores, [DOCUMENT], condition, update)


@pytest.mark.parametrize("update", UPDATES, ids=ids)
def test_updates(stores, update):
    check_update(stores, [DOCUMENT], {}, update)


@pytest.mark.parametrize(("condition", "update"), UPSERTS, ids=ids)
def test_upserts(stores, condition, update):
    check_update(stores, [], condition, update, upsert=True)


@pytest.mark.parametrize("replacement", [{"b": 2}, {"_id": 5, "b": 2}, {"_id": 4, "b": 2}], ids=ids)
@pytest.mark.parametrize("condition", [{"_id": 5, "a": 1}, {"a": 1}], ids=ids)
@pytest.mark.parametrize("there", [[], [{"_id": 5, "a": 1}]], ids=ids)
def test_replacements(stores, there, condition, replacement):
    (ours, left), (theirs, expected) = results(
        stores, there, lambda s: s.replace_one(condition, replacement, upsert=True).matched_count
    )
    assert type(ours) is type(theirs) and in_order(left) == in_order(expected)


def test_order_of_fields_of_an_upsert(stores):
    for store in stores:
        store.drop()
        store.update_one({"b.x": 1, "a": 2, "_id": 5}, {"$set": {"c": 3}}, upsert=True)
        assert list(store.find_one()) == ["_id", "a", "b", "c"]


def check_update(stores, documents, condition, update, **options):
    """Check that either store has the same then, or has an error and nothing that is changed."""

    def operation(store):
        done = store.update_one(condition, update, **options)
        return done.matched_count, done.modified_count

    (ours, left), (theirs, expected) = results(stores, documents, operation)
    if isinstance(theirs, Exception):
        assert isinstance(ours, (WriteError, NotAvailable)), ours
    else:
        assert ours == theirs
    assert in_order(left) == in_order(expected)


@pytest.mark.parametrize(("condition", "update"), REFUSED, ids=ids)
def test_refused_updates(stores, condition, update):
    answer, left = results(stores[:1], [DOCUMENT], lambda s: s.update_one(condition, update))[0]
    assert isinstance(answer, NotAvailable) and "embedded run database" in str(answer)
    assert left == [DOCUMENT]
    # Also where no document matches, so that a mistake is seen at once
    if not condition:
        with pytest.raises(NotAvailable):
            stores[0].update_many({"_id": "none"}, update)


@pytest.mark.parametrize("condition", REFUSED_UPSERTS, ids=ids)
def test_refused_upserts(stores, condition):
    answer, left = results(
        stores[:1], [], lambda s: s.update_one(condition, {"$set": {"c": 1}}, upsert=True)
    )[0]
    assert isinstance(answer, NotAvailable) and left == []


@pytest.mark.parametrize("condition", REFUSED_FILTERS, ids=ids)
def test_refused_filters(stores, condition):
    for operation in (
        lambda s: list(s.find(condition)),
        lambda s: s.count_documents({"$or": [{"q": 1}, condition]}),
        lambda s: s.delete_many(condition),
        lambda s: s.update_one(condition, {"$set": {"n": 2}}),
    ):
        answer, left = results(stores[:1], [DOCUMENT], operation)[0]
        assert isinstance(answer, NotAvailable) and "embedded run database" in str(answer)
        assert left == [DOCUMENT]


def test_what_the_server_of_these_tests_does_otherwise_than_mongodb(stores):
    """By MongoDB's manual: numbers of all types have exact values, and are one in ``distinct``."""
    (ours, *_) = stores
    ours.drop()
    values = [
        Decimal128("0.1"),
        0.1,
        Decimal128("1"),
        1,
        True,
        [{"a": 1}, {"a": 2}],
        "\u00e9",
        [[1]],
    ]
    ours.insert_many({"_id": i, "v": value} for i, value in enumerate(values))
    assert [d["_id"] for d in ours.find({"v": 0.1})] == [1]
    assert [d["_id"] for d in ours.find({"v": {"$lt": 0.1}})] == [0]
    assert ours.distinct("v.a") == [1, 2]
    assert len(ours.distinct("v")) == 8
    # Classes of letters are those of ASCII; an array in an array counts as a document
    assert not list(ours.find({"v": {"$regex": r"\w"}}))
    assert [d["_id"] for d in ours.find({"v": {"$elemMatch": {"b": None}}})] == [5, 7]
    with pytest.raises(WriteError, match="positional"):
        ours.update_one({"_id": 5}, {"$set": {"v.$": 1}})
    with pytest.raises(WriteError, match="is no array"):
        ours.update_one({"v": 1}, {"$set": {"v.$": 1}})
    assert ours.find_one(5) == {"_id": 5, "v": values[5]}
    ours.update_one({"v.a": 2}, {"$set": {"v.$.b.new.deep": 9}})
    assert ours.find_one(5)["v"] == [{"a": 1}, {"a": 2, "b": {"new": {"deep": 9}}}]


def test_other_refused_operations(stores):
    ours = stores[0]
    for use in (
        lambda: ours.update_one({}, {"$set": {"n": 1}}, array_filters=[{"e": 1}]),
        lambda: ours.update_many({}, {"$set": {"n": 1}}, array_filters=[{"e": 1}]),
        lambda: ours.find_one_and_update({}, {"$set": {"n": 1}}, array_filters=[{"e": 1}]),
        lambda: list(ours.find({}, sort=[("l.0", 1)])),
        lambda: list(ours.find({}, {"_id.x": 1})),
        lambda: list(ours.find({}, {"a.$": 1})),
        lambda: list(ours.find({}, {"a": {"$elemMatch": {"x": 1}}})),
        lambda: ours.distinct("l.0"),
        lambda: ours.insert_one({"_id": [1]}),
        lambda: ours.insert_one({"_id": Decimal128("1")}),
        lambda: ours.insert_one({"_id": re.compile("a")}),
        lambda: ours.create_index("n", unique=True),
    ):
        with pytest.raises(NotAvailable, match="embedded run database"):
            use()
    for method in ("aggregate", "bulk_write", "find_one_and_delete", "watch", "rename"):
        with pytest.raises(AttributeError, match=f"has no {method}"):
            getattr(ours, method)


# Filters, over values of all kinds

BIG = 2**53
VALUES = [
    1,
    1.0,
    Int64(1),
    True,
    False,
    0,
    "1",
    None,
    Decimal128("1"),
    Decimal128("0.5"),
    0.5,
    0.1,
    float("nan"),
    float("inf"),
    [1, 2],
    [],
    [[1, 2]],
    [None],
    [{"a": 1}, {"a": 2}],
    [{"a": [1, 2]}],
    {"a": 1},
    {},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    T,
    T + timedelta(milliseconds=1),
    b"x",
    ObjectId("0" * 24),
    Regex("a"),
    BIG + 1,
    float(BIG),
    -(2**63),
    "abc\ndef",
    "ABC",
    "\u00e9",
    "e\u0301",
]
DOCUMENTS = [*({"_id": i, "v": v} for i, v in enumerate(VALUES)), {"_id": 99}]
COMPARED = [v for v in VALUES if not isinstance(v, (list, dict, Regex))]
FILTERS = [
    *({"v": v} for v in VALUES),
    *({"v": {op: v}} for v in COMPARED for op in ("$gt", "$gte", "$lt", "$lte")),
    *({"v": {op: v}} for v in VALUES for op in ("$eq", "$ne") if not isinstance(v, Regex)),
    *({"v": {op: [v]}} for v in VALUES for op in ("$in", "$nin")),
    *({"v": {"$not": {"$eq": v}}} for v in VALUES),
    *({"v": {"$all": [v]}} for v in COMPARED if v is not None),
    *({"v": {"$elemMatch": {"$eq": v}}} for v in VALUES),
    *({path: v} for v in VALUES for path in ("v.a", "v.0", "v.a.b", "v.0.a")),
    *({path: {"$exists": flag}} for path in ("v", "v.a", "v.0", "v.a.b") for flag in (True, 0)),
    *(
        {"v": {"$type": t}}
        for t in (
            "double",
            "string",
            "object",
            "array",
            "binData",
            "objectId",
            "bool",
            "date",
            "null",
            "regex",
            "int",
            "long",
            "decimal",
            "number",
            1,
            2,
            3,
            4,
            16,
            ["int", "string"],
        )
    ),
    *({"v": {"$size": n}} for n in (0, 1, 2, 1.0)),
    *(
        {"v": {"$regex": pattern, "$options": options}}
        for pattern in ("abc", "^def", "c.d", "a b c", "c$")
        for options in ("", "i", "m", "s", "x", "im")
    ),
    *({"v": {"$regex": pattern}} for pattern in (r"^\d", "[a-c]+", "(?:b|C)", r"\.", "^$")),
    {"v": re.compile("A", re.IGNORECASE)},
    {"v": {"$not": re.compile("a")}},
    {"v": {"$regex": "a"}},
    {"v": {"$regex": Regex("a")}},
    {"v": {"$not": {"$regex": "a"}}},
    {"v": {"$in": [re.compile("a"), 1]}},
    *(
        {"v": {"$elemMatch": c}}
        for c in (
            {"a": 1},
            {"a": {"$gte": 2}},
            {"$gte": 1, "$lt": 2},
            {},
            {"a": 1, "b": None},
            {"$elemMatch": {"$eq": 1}},
            {"a": {"$elemMatch": {"$eq": 2}}},
            {"$in": [1]},
            {"$ne": 1},
            {"$not": {"$eq": 1}},
            {"a": 1, "$or": [{"a": 1}]},
            {"$exists": True},
        )
    ),
    *({op: [{"v": 1}, {"v": None}]} for op in ("$and", "$or", "$nor")),
    *(
        {"v.a": c}
        for c in (None, {"$ne": 1}, {"$in": [1]}, {"$not": {"$gt": 0}}, {"$gte": 2}, {"$size": 2})
    ),
    {"v": {"$gt": 0, "$lt": 2, "$exists": True}},
    {"v": {"$all": [1, 2]}},
    {"v": {"$all": [{"$elemMatch": {"a": 1}}]}},
    {"v": {"$all": []}},
    {"v": {"$in": []}},
    {"v": T.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=3)))},
]


@pytest.fixture(scope="module")
def filled(stores):
    for store in stores:
        store.drop()
        store.insert_many(copy.deepcopy(DOCUMENTS))
    return stores


def test_filters(filled):
    """Hundreds of them, over values of all kinds."""
    different = []
    for condition in FILTERS:
        found = [[d["_id"] for d in s.find(condition, ["_id"], sort=[("_id", 1)])] for s in filled]
        if found[0] != found[1]:
            different.append((condition, *found))
    assert not different
    assert len(FILTERS) > 500


@pytest.mark.parametrize("field", ["v", "v.a"])
@pytest.mark.parametrize("way", [1, -1])
def test_orders(filled, field, way):
    orders = [
        [d["_id"] for d in store.find({}, ["_id"], sort=[(field, way), ("_id", 1)])]
        for store in filled
    ]
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    "projection",
    [
        {"a": 1},
        {"a.x": 1},
        {"a": 0},
        {"a.x": 0, "d.e.f": 0},
        {"_id": 0},
        {"_id": 0, "a": 1},
        {"_id": 1},
        {"_id": 1, "a": 0},
        {"d.x": 1},
        {"q": 1},
        {},
        [],
        ["a"],
        {"a": True},
        {"a": 2},
        {"a": 1, "a.x": 1},
        {"a": 1, "n": 0},
    ],
    ids=ids,
)
def test_projections(stores, projection):
    (ours, _), (theirs, _) = results(stores, [DOCUMENT], lambda s: list(s.find({}, projection)))
    if isinstance(theirs, Exception):
        assert isinstance(ours, ValueError)
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    "document",
    [
        {"_id": 9, "x": T},
        {"_id": 9, "x": T.replace(tzinfo=timezone(timedelta(hours=2)))},
        {"_id": 9, "x": 2**63 - 1},
        {"_id": 9, "x": 2**31},
        {"_id": 9, "x": 2**63},
        {"_id": 1.0},
        {"_id": True},
        {"_id": None},
        {"_id": {"a": 1}},
        {"_id": 9, "x": Decimal128("1.10")},
        {"_id": 9, "x": re.compile("a", re.I)},
        {"_id": 9, "x": b"y", "y": float("-inf")},
    ],
    ids=ids,
)
def test_inserts(stores, document):
    (ours, left), (theirs, expected) = results(
        stores, [DOCUMENT], lambda s: bool(s.insert_one(dict(document)))
    )
    assert type(ours) is type(theirs)
    assert in_order(left) == in_order(expected)


def test_numbers_and_names_in_the_index(stores):
    """These fields are looked up in an index, which must not change what is found."""
    documents = [
        {"_id": i, field: value}
        for field in ("number", "name")
        for i, value in enumerate(VALUES, 100 if field == "name" else 0)
    ]
    for store in stores:
        store.drop()
        store.insert_many(copy.deepcopy(documents))
    for field in ("number", "name"):
        for value in (
            1,
            1.0,
            "1",
            True,
            0,
            None,
            float(BIG),
            BIG,
            BIG + 1,
            -(2**63),
            Decimal128("1"),
        ):
            for condition in (value, {"$in": [value, "ABC"]}, {"$eq": value}):
                found = [
                    [d["_id"] for d in s.find({field: condition}, ["_id"], sort=[("_id", 1)])]
                    for s in stores
                ]
                assert found[0] == found[1], (field, condition)
        orders = [
            [d["_id"] for d in s.find({}, ["_id"], limit=15, skip=3, sort=[(field, 1), ("_id", 1)])]
            for s in stores
        ]
        assert orders[0] == orders[1]


@pytest.mark.parametrize("field", ["number", "name"])
@pytest.mark.parametrize("way", [1, -1])
def test_order_of_the_index(stores, field, way):
    """Numbers, texts and null, which the index orders itself."""
    values = [3, 1.5, None, "b", 3, 2**53 + 1, "a", float(2**53), -1, "\u00e9", "Z", 3.0, "b"]
    documents = [{"_id": i, field: value, "x": i % 2} for i, value in enumerate(values)]
    for store in stores:
        store.drop()
        store.insert_many([*copy.deepcopy(documents), {"_id": 99, "x": 1}])
    for condition in ({}, {"x": 1}, {field: {"$in": [3, "b", None]}}):
        for skip, limit in ((0, 0), (2, 0), (0, 4), (3, 4), (20, 5)):
            options = {"sort": [(field, way)], "skip": skip, "limit": limit}
            # Equal values may come in any order from MongoDB
            found = [[d.get(field) for d in s.find(condition, **options)] for s in stores]
            assert found[0] == found[1], (condition, skip, limit)


# Documents, filters and updates that nobody has thought of

_scalars = st.sampled_from(
    [0, 1, 1.0, 2, Int64(1), True, None, "a", "b", datetime(2026, 1, 1), Decimal128("1")]
)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
    max_leaves=5,
)
_documents = st.dictionaries(st.sampled_from("abxy"), _values, max_size=3)
_paths = st.sampled_from(["a", "b", "a.x", "a.y", "a.x.y", "b.x", "a.0", "a.0.x", "x.1"])
_conditions = st.one_of(
    _values,
    st.builds(lambda op, v: {op: v}, st.sampled_from(["$eq", "$ne"]), _values),
    st.builds(lambda op, v: {op: v}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), _scalars),
    st.builds(
        lambda op, v: {op: v}, st.sampled_from(["$in", "$nin"]), st.lists(_values, max_size=3)
    ),
    st.builds(lambda v: {"$exists": v}, st.booleans()),
    st.builds(lambda v: {"$size": v}, st.integers(0, 3)),
    st.builds(lambda v: {"$not": {"$gt": v}}, _scalars),
    st.builds(lambda v: {"$elemMatch": {"x": v}}, _values),
    st.builds(lambda v: {"$elemMatch": {"$gte": v}}, _scalars),
)
_filters = st.dictionaries(_paths, _conditions, max_size=2)
_updates = st.one_of(
    st.builds(
        lambda op, path, v: {op: {path: v}},
        st.sampled_from(["$set", "$unset", "$min", "$max", "$push", "$addToSet", "$pull"]),
        _paths,
        _values,
    ),
    st.builds(lambda path, v: {"$inc": {path: v}}, _paths, st.sampled_from([1, -1, 0.5, Int64(2)])),
    st.builds(
        lambda p, v: {"$set": {p: v}},
        st.sampled_from(["a.$", "a.$.x", "a.$.x.y", "b.$.y"]),
        _values,
    ),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_documents, min_size=1, max_size=6), st.lists(_filters, min_size=1, max_size=4))
def test_any_filter(stores, documents, conditions):
    documents = [document | {"_id": i} for i, document in enumerate(documents)]
    for store in stores:
        store.drop()
        store.insert_many(copy.deepcopy(documents))
    for condition in conditions:
        found = [[d["_id"] for d in s.find(condition, ["_id"], sort=[("_id", 1)])] for s in stores]
        assert found[0] == found[1], condition


# Fields that the embedded store has an index of

_words = st.sampled_from(["done", "failed", "failed due to x", "", "a\nb", "w:done", "f*d", "\0"])
_odd = _words | st.sampled_from(
    [None, True, 1, 2.5, 2**53 + 1, Decimal128("1"), float("nan"), [], {}, [["done"]], b"done"]
    + [["done"], [{"status": "done"}], {"name": "done"}, [[{"name": "done"}]], Regex("done")]
)


def _fields(**fields):
    return st.fixed_dictionaries({}, optional=fields)


_entries = _fields(type=_odd, host=_odd) | _fields(type=_words, host=_words) | _odd
_indexed = _fields(
    name=_odd,
    number=_odd,
    processing_status=_odd | _fields(status=_odd),
    tags=_odd | st.lists(_odd | _fields(name=_odd), max_size=3),
    data=_odd | _entries | st.lists(_entries | st.lists(_entries, max_size=2), max_size=3),
)
_one_word = st.one_of(
    _odd.filter(lambda value: not isinstance(value, Regex)),
    st.builds(lambda values: {"$in": values}, st.lists(_odd, max_size=3)),
    st.builds(lambda value: {"$regex": value}, st.sampled_from(["^failed", "^", "done", "^w"])),
    st.builds(lambda value: {"$type": value}, st.sampled_from(["string", "array", "object"])),
    st.builds(lambda value: {"$ne": value}, _words),
    st.builds(lambda value: {"$eq": value}, _words),
)
_element = st.builds(
    lambda fields: {"$elemMatch": fields}, _fields(type=_words, host=_words, x=_words)
)
_on_index = st.one_of(
    st.builds(
        lambda field, value: {field: value},
        st.sampled_from(
            ["processing_status", "processing_status.status", "tags", "tags.name", "name", "number"]
        ),
        _one_word,
    ),
    st.builds(lambda value: {"data": value}, _element | _odd),
    st.builds(lambda value: {"data": {"$not": value}}, _element),
)
_on_indexes = st.recursive(
    _on_index,
    lambda inner: st.builds(
        lambda op, parts: {op: parts},
        st.sampled_from(["$and", "$or", "$nor"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_indexed, min_size=1, max_size=8), st.lists(_on_indexes, min_size=1, max_size=8))
def test_the_index_leaves_nothing_out(stores, documents, conditions):
    """Neither of what a scan of all documents finds, nor of what the server does."""
    documents = [document | {"_id": i} for i, document in enumerate(documents)]
    for store in stores:
        store.drop()
        store.insert_many(copy.deepcopy(documents))
    everything = list(stores[0].find())
    for condition in conditions:
        matches = compiled(checked_filter(condition))
        scanned = [d["_id"] for d in everything if matches(d)]
        found = [[d["_id"] for d in s.find(condition, sort=[("_id", 1)])] for s in stores]
        assert found == [scanned, scanned], condition


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_documents, _filters, _updates)
def test_any_update(stores, document, condition, update):
    (ours, left), (theirs, expected) = results(
        stores, [document | {"_id": 1}], lambda s: s.update_one(condition, update).matched_count
    )
    if isinstance(ours, Exception):
        # It may refuse more than MongoDB does, and never changes anything then
        assert isinstance(ours, (NotAvailable, WriteError))
        assert in_order(left) == in_order([document | {"_id": 1}]) or theirs == 0
        # The server lets a $ pass that no condition gives a meaning to; MongoDB does not
        is_positional = any("$" in path for fields in update.values() for path in fields)
        is_refusal = isinstance(ours, NotAvailable) or is_positional
        assert isinstance(theirs, Exception) or is_refusal, (ours, theirs)
    else:
        assert ours == theirs
        assert in_order(left) == in_order(expected)


# The documentation


def operators_in(value):
    """Return all operators in a filter or an update."""
    if isinstance(value, dict):
        inner = [operators_in(item) for item in value.values()]
        return {key for key in value if str(key).startswith("$")}.union(*inner)
    if isinstance(value, (list, tuple)):
        return set().union(*map(operators_in, value))
    return set()


def test_documented_operators_are_those_that_are_tested():
    path = Path(__file__).parents[2] / "docs/source/run_database_use.rst"
    text = path.read_text(encoding="utf-8").partition("The embedded run database\n")[2]
    listed = dict(
        re.findall(r"^   \* - (Filters|Updates|Methods)\n     - (.*(?:\n       .*)*)", text, re.M)
    )
    names = {kind: re.findall(r"``([$\w]+)``", names) for kind, names in listed.items()}
    assert set(names["Filters"]) == FILTER_OPERATORS
    assert set(names["Updates"]) == UPDATE_OPERATORS | {"$", "$each"}
    methods = {name for name in dir(LocalCollection) if not name.startswith("_")}
    assert set(names["Methods"]) == methods
    assert operators_in(FILTERS) >= FILTER_OPERATORS
    assert operators_in([POSITIONAL, UPDATES, UPSERTS]) >= UPDATE_OPERATORS | {"$each"}
