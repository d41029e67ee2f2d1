"""Filters, projections, sort orders and updates of the embedded store, with MongoDB's results.

Documents are plain dicts with the types of decoded BSON. Operators outside `FILTER_OPERATORS` and
`UPDATE_OPERATORS`, and requests that would give another result than MongoDB, raise `NotAvailable`.
mongomock cannot replace this file: version 4.3 differs from MongoDB, mostly without an error, for
249 of the 618 filters and 94 of the 166 updates of ``tests/rundb/test_contract.py``.
"""

import copy
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import bson
from bson import Binary, Code, DatetimeMS, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import DEFAULT_RAW_BSON_OPTIONS, RawBSONDocument

from amstrax.exceptions import NotAvailable

Document = dict[str, Any]
Predicate = Callable[[Any], bool]
#: Values at a path; True for an array that only matches as a whole
Leaves = list[tuple[Any, bool]]

LOGICAL = ("$and", "$or", "$nor")
_COMPARISONS = ("$gt", "$gte", "$lt", "$lte")
FILTER_OPERATORS = frozenset(
    (*LOGICAL, *_COMPARISONS, "$not", "$eq", "$ne", "$in", "$nin")
    + ("$exists", "$type", "$regex", "$options", "$elemMatch", "$size", "$all")
)
UPDATE_OPERATORS = frozenset(
    ("$set", "$unset", "$setOnInsert", "$inc", "$min", "$max")
    + ("$push", "$addToSet", "$pull", "$pullAll")
)
#: MongoDB's codes of errors
_FAILED, _CONFLICT, _TYPE_MISMATCH, _NOT_VIABLE, _NOT_SINGLE, _IMMUTABLE = 2, 40, 14, 28, 54, 66
#: Conditions that add no value to an upserted document
_NO_VALUE = frozenset((*_COMPARISONS, "$ne", "$nin", "$exists", "$type", "$size"))
#: Conditions that match no particular element of an array
_NO_ELEMENT = frozenset(("$ne", "$nin", "$not", "$exists", "$size", "$all", "$type"))
#: Largest number of nulls by which an update extends an array
_MOST_NULLS = 1000


class _Missing:
    """Type of `MISSING`."""


#: Value of a path that a document does not have
MISSING: Any = _Missing()
#: Dates beyond Python's are decoded as `DatetimeMS`
CODEC: CodecOptions = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)
_RAW = DEFAULT_RAW_BSON_OPTIONS.with_options(datetime_conversion=DatetimeConversion.DATETIME_MS)

#: Place of each type in MongoDB's order of types; MISSING is an empty array in a sort
_PLACES: dict[type, int] = {
    MinKey: -1, _Missing: 0, type(None): 1, int: 2, float: 2, Int64: 2, Decimal128: 2, str: 3,
    dict: 4, list: 5, bytes: 6, Binary: 6, ObjectId: 7, bool: 8, datetime: 9, DatetimeMS: 9,
    bson.Timestamp: 10, Regex: 11, Code: 13, MaxKey: 127,
}  # fmt: skip
#: Types that are compared by $gt and the like
_ORDERED = {_PLACES[kind] for kind in (type(None), int, str, bytes, ObjectId, bool, datetime)}
#: Names and numbers of types, for $type
_TYPES: dict[tuple, tuple[type, ...]] = {
    (1, "double"): (float,),
    (2, "string"): (str,),
    (3, "object"): (dict,),
    (4, "array"): (list,),
    (5, "binData"): (bytes, Binary),
    (7, "objectId"): (ObjectId,),
    (8, "bool"): (bool,),
    (9, "date"): (datetime, DatetimeMS),
    (10, "null"): (type(None),),
    (11, "regex"): (Regex,),
    (16, "int"): (int,),
    (18, "long"): (Int64,),
    (19, "decimal"): (Decimal128,),
    ("number",): (int, float, Int64, Decimal128),
}


def plain(value: Any) -> Any:
    """Return a value with the types of decoded BSON."""
    return bson.decode(bson.encode({"": value}), CODEC)[""]


def decode_fields(data: bytes, fields: Iterable[str] | None) -> Document:
    """Decode only some top-level fields of a BSON document; None for all."""
    if fields is not None:
        raw = RawBSONDocument(data, _RAW)
        data = bson.encode({name: value for name, value in raw.items() if name in fields})
    return bson.decode(data, CODEC)


def _rank(value: Any) -> int:
    """Return the place of a value's type in MongoDB's order of types."""
    place = _PLACES.get(type(value))
    if place is None:
        raise _refusal(f"comparison of a {type(value).__name__}")
    return place


def order_key(value: Any) -> tuple:
    """Return a key that orders values as MongoDB does, and is equal for equal values.

    Numbers of all types compare by value, booleans are not numbers, and the order of a document's
    fields matters.
    """
    kind, place = type(value), _rank(value)
    if kind in (str, ObjectId, bool):
        return place, value
    if place == _PLACES[int]:
        number = value.to_decimal() if kind is Decimal128 else value
        is_nan = number.is_nan() if kind is Decimal128 else number != number
        return (place, 0) if is_nan else (place, 1, number)
    if kind is dict:
        return (place, *((_rank(v), name, order_key(v)) for name, v in value.items()))
    if kind is list:
        return (place, *map(order_key, value))
    if place == _PLACES[bytes]:
        return place, len(value), getattr(value, "subtype", 0), bytes(value)
    if place == _PLACES[datetime]:
        return place, int(DatetimeMS(value) if kind is datetime else value)
    if kind is bson.Timestamp:
        return place, value.time, value.inc
    if kind is Regex:
        return place, value.pattern, value.flags
    if kind is Code:
        return place, str(value), order_key(value.scope or {})
    return (place,)


def equal(one: Any, other: Any) -> bool:
    """Return whether two values are equal for MongoDB."""
    return order_key(one) == order_key(other)


def parts_of(path: str) -> list[str]:
    """Return the parts of a path with dots; an empty part raises `NotAvailable`."""
    parts = path.split(".")
    if not all(parts):
        raise _refusal(f"path {path!r}: a part of it is empty")
    return parts


def leaves(value: Any, parts: Sequence[str]) -> Leaves:
    """Return the values at a path, through arrays and by their indexes, or `MISSING`."""
    if not parts:
        return [(value, False)]
    if type(value) is dict:
        return leaves(value.get(parts[0], MISSING), parts[1:])
    if type(value) is not list:
        return [(MISSING, False)]
    found = [leaf for item in value if type(item) is dict for leaf in leaves(item, parts)]
    if parts[0].isdigit():
        index = int(parts[0])
        item = value[index] if index < len(value) else MISSING
        found += leaves(item, parts[1:]) if len(parts) > 1 else [(item, True)]
    return found


def values_at(document: Document, parts: Sequence[str]) -> list[Any]:
    """Return the values at a path, through arrays, as for ``distinct``."""
    found = [v if type(v) is list else [v] for v, _ in leaves(document, parts)]
    return [value for values in found for value in values if value is not MISSING]


# Filters


def checked_filter(condition: Mapping[str, Any] | None) -> Document:
    """Return a filter ready for `compiled`; unknown operators raise `NotAvailable`."""
    if not isinstance(condition, Mapping | None):
        raise TypeError(f"a filter must be a mapping, not {condition!r}")
    checked = plain(dict(condition or {}))
    compiled(checked)
    return checked


def compiled(condition: Document) -> Predicate:
    """Return a function that tells whether a document matches a filter of `plain` values."""
    tests = [_field_test(key, value) for key, value in condition.items()]
    if len(tests) == 1:
        return tests[0]
    return lambda document: all(test(document) for test in tests)


def _field_test(key: str, value: Any) -> Predicate:
    if key in LOGICAL:
        if type(value) is not list or not value or any(type(part) is not dict for part in value):
            raise _refusal(f"{key}: {value!r}; give a list of filters")
        tests = [compiled(part) for part in value]
        if key == "$and":
            return lambda document: all(test(document) for test in tests)
        wanted = key == "$or"
        return lambda document: any(test(document) for test in tests) is wanted
    if key.startswith("$"):
        raise _unknown(key)
    parts, matches = parts_of(key), _leaves_test(value)
    if len(parts) == 1:
        return lambda document: matches([(document.get(key, MISSING), False)])
    return lambda document: matches(leaves(document, parts))


def _leaves_test(value: Any) -> Callable[[Leaves], bool]:
    """Return a test of the values at a path, for its condition in a filter."""
    if not is_operators(value):
        return _any(_equality(value))
    if "$options" in value and "$regex" not in value:
        raise _refusal("$options without $regex")
    tests = [
        _any(_regex(operand, value.get("$options")))
        if operator == "$regex"
        else _operator(operator, operand)
        for operator, operand in value.items()
        if operator != "$options"
    ]
    return tests[0] if len(tests) == 1 else lambda found: all(test(found) for test in tests)


def is_operators(value: Any) -> bool:
    """Return whether a value in a filter consists of operators."""
    if type(value) is not dict:
        return False
    with_dollar = [name.startswith("$") for name in value]
    if any(with_dollar) and not all(with_dollar):
        raise _refusal(f"{value!r}, with fields among operators")
    return any(with_dollar)


def _any(predicate: Predicate) -> Callable[[Leaves], bool]:
    """Return a test for any value, or element of an array, that fulfils a predicate."""

    def matches(found: Leaves) -> bool:
        for value, is_whole in found:
            if predicate(value):
                return True
            if type(value) is list and not is_whole and any(map(predicate, value)):
                return True
        return False

    return matches


def _operator(operator: str, operand: Any) -> Callable[[Leaves], bool]:
    if operator == "$eq":
        return _any(_equality(_check_no_operators(operand), is_literal=True))
    if operator in _COMPARISONS:
        return _any(_comparison(operator, operand))
    if operator in ("$in", "$nin", "$all") and type(operand) is not list:
        raise _refusal(f"{operator}: {operand!r}; give a list")
    if operator == "$in":
        return _any(_membership(operand))
    if operator == "$all":
        if any(item is None or type(item) in (list, Regex) for item in operand):
            raise _refusal(f"$all: {operand!r}, with null, lists or regular expressions")
        each = [_leaves_test(item) for item in operand]
        return lambda found: bool(each) and all(test(found) for test in each)
    if operator in ("$ne", "$nin", "$not"):
        if operator == "$ne" and type(operand) is Regex:
            raise _refusal("$ne of a regular expression; take $not")
        if operator == "$not" and type(operand) is not Regex and not is_operators(operand):
            raise _refusal(f"$not: {operand!r}; give operators or a regular expression")
        opposite = {"$ne": "$eq", "$nin": "$in"}.get(operator)
        test = _operator(opposite, operand) if opposite else _leaves_test(operand)
        return lambda found: not test(found)
    if operator == "$exists":
        if type(operand) not in (bool, int, Int64, float):
            raise _refusal(f"$exists: {operand!r}; give true or false")
        return lambda found: any(value is not MISSING for value, _ in found) is bool(operand)
    if operator == "$type":
        return _any(_type_test(operand))
    if operator == "$size":
        if type(operand) not in (int, Int64, float) or operand < 0 or operand != operand // 1:
            raise _refusal(f"$size: {operand!r}; give a number")
        return lambda found: any(type(v) is list and len(v) == operand for v, _ in found)
    if operator == "$elemMatch":
        matches = _element_test(operand)
        return lambda found: any(type(v) is list and any(map(matches, v)) for v, _ in found)
    raise _unknown(operator)


def _element_test(condition: Any) -> Predicate:
    """Return the test of an $elemMatch for each element of an array."""
    if type(condition) is not dict:
        raise _refusal(f"$elemMatch: {condition!r}; give a filter")
    if any(name.startswith("$") and name not in LOGICAL for name in condition):
        test = _leaves_test(condition)
        return lambda item: test([(item, True)])
    matches = compiled(condition)

    def matches_document(item: Any) -> bool:
        if type(item) is list:
            # MongoDB treats a nested array as a document with its indexes as fields
            item = {str(i): value for i, value in enumerate(item)}
        return type(item) is dict and matches(item)

    return matches_document


def _equality(value: Any, is_literal: bool = False) -> Predicate:
    if type(value) is Regex and not is_literal:
        return _regex_test(value)
    if value is None:
        return lambda other: other is None or other is MISSING
    if type(value) is str:
        return lambda other: type(other) is str and other == value
    place, key = _rank(value), order_key(value)
    return lambda other: _rank(other) == place and order_key(other) == key


def _membership(items: list) -> Predicate:
    """Return a test for the values in $in, fast for many texts and integers."""
    known = {kind: frozenset(i for i in items if type(i) is kind) for kind in (str, int)}
    tests = [_equality(_check_no_operators(item)) for item in items if type(item) not in known]

    def matches(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            is_known = value in known[str]
        elif kind in (int, Int64, float):
            is_known = value in known[int]
        else:
            is_known = kind is Decimal128 and any(equal(i, value) for i in known[int])
        return is_known or any(test(value) for test in tests)

    return matches


def _comparison(operator: str, value: Any) -> Predicate:
    key = order_key(value)
    if key[0] not in _ORDERED:
        raise _refusal(f"{operator} of a {type(value).__name__}")
    with_equal = operator in ("$gte", "$lte")
    if value is None:
        return lambda other: with_equal and (other is None or other is MISSING)
    is_greater = operator in ("$gt", "$gte")
    nan = order_key(float("nan"))

    def matches(other: Any) -> bool:
        if _rank(other) != key[0]:
            return False
        other_key = order_key(other)
        if other_key == key:
            return with_equal
        # NaN is neither above nor below other numbers
        return nan not in (other_key, key) and (other_key > key) is is_greater

    return matches


def _type_test(names: Any) -> Predicate:
    kinds: tuple[type, ...] = ()
    for name in names if type(names) is list else [names]:
        found = [kinds for known, kinds in _TYPES.items() if name in known]
        if type(name) is bool or not found:
            raise _refusal(f"$type: {name!r}")
        kinds += found[0]
    return lambda value: type(value) in kinds


def _regex(pattern: Any, options: Any) -> Predicate:
    if type(pattern) is Regex and options is None:
        return _regex_test(pattern)
    if type(pattern) is Regex:
        pattern = pattern.pattern
    if not isinstance(pattern, str) or not isinstance(options or "", str):
        raise _refusal(f"$regex: {pattern!r} with $options: {options!r}; give texts")
    if set(options or "") - set("imsx"):
        raise _refusal(f"$options: {options!r}; it has i, m, s and x")
    return _regex_test(Regex(pattern, options or ""))


def _regex_test(regex: Regex) -> Predicate:
    """Return a test by a regular expression; refuse one that Python and MongoDB read differently.

    It also matches values that are the same expression.
    """
    pattern, flags = regex.pattern, regex.flags & ~re.UNICODE
    odd = re.search(r"\\(?![\\dDwWsSbBnrt]|[^\w\s])|\(\?(?![:=!])|\[\[?:|\[\^?\]", pattern)
    has_classes = re.search(r"(?<!\\)(?:\\\\)*\\[dDwWsSbB]", pattern)
    if not isinstance(pattern, str) or odd or flags & (re.LOCALE | re.DEBUG):
        raise _refusal(f"regular expression {pattern!r}, which has another meaning in Python")
    if has_classes and flags & re.IGNORECASE:
        raise _refusal(f"regular expression {pattern!r} with option i: it has classes of letters")
    try:
        search = re.compile(pattern, flags | (re.ASCII if has_classes else 0)).search
    except re.error as error:
        raise _refusal(f"regular expression {pattern!r} ({error})") from error

    def matches(value: Any) -> bool:
        if type(value) is str:
            return search(value) is not None
        return type(value) is Regex and equal(value, regex)

    return matches


def _check_no_operators(value: Any) -> Any:
    if type(value) is dict and any(name.startswith("$") for name in value):
        raise _refusal(f"operators inside a value: {value!r}")
    return value


def top_level_fields(condition: Document) -> set[str]:
    """Return the fields of the document that a filter uses."""
    fields: set[str] = set()
    for key, value in condition.items():
        if key in LOGICAL:
            fields.update(*map(top_level_fields, value))
        else:
            fields.add(key.partition(".")[0])
    return fields


def needed_bytes(condition: Document) -> list[bytes]:
    """Return byte strings that the BSON of every matching document contains.

    They are the texts that a filter requires. Searching for them is much faster than decoding.
    """
    needed = []
    for key, value in condition.items():
        if key == "$and":
            needed += [text for part in value for text in needed_bytes(part)]
        elif type(value) is str and not key.startswith("$"):
            text = value.encode() + b"\0"
            needed.append(struct.pack("<i", len(text)) + text)
        elif type(value) is dict and value.keys() == {"$elemMatch"}:
            needed += needed_bytes(value["$elemMatch"])
    return needed


# Projections and sort orders


def projection(
    wanted: Mapping[str, Any] | Iterable[str] | None,
) -> tuple[set[str] | None, Callable[[Document], Document]]:
    """Return the top-level fields that a projection needs (None for all), and its function.

    `wanted` is as for pymongo: names, or a mapping of names to 1 (include) or 0 (exclude); None for
    all. Raises NotAvailable for operators, ValueError for included together with excluded fields,
    or a field together with a part of it.
    """
    if isinstance(wanted, str):
        raise TypeError(f"projection must be names of fields or a mapping, not {wanted!r}")
    if wanted is not None and not isinstance(wanted, Mapping):
        wanted = dict.fromkeys(wanted, 1)
    flags = {}
    for name, flag in (wanted or {}).items():
        if not isinstance(flag, (bool, int, float)) or "$" in name or name[:4] == "_id.":
            raise _refusal(
                f"projection {{{name!r}: {flag!r}}}; give names of fields with 1, or with 0"
            )
        flags[name] = bool(flag)
    with_id = flags.pop("_id", None)
    if len(set(flags.values())) > 1:
        raise ValueError(f"projection {wanted!r} includes some fields and excludes others")
    is_included = next(iter(flags.values()), bool(with_id))
    tree: Document = {}
    for name in flags:
        if any(other.startswith(f"{name}.") for other in flags):
            raise ValueError(f"projection {wanted!r} has {name!r} and a part of it")
        *path, last = parts_of(name)
        below = tree
        for part in path:
            below = below.setdefault(part, {})
        below[last] = None

    def project(document: Document) -> Document:
        result = _pruned(document, tree, is_included)
        _id = document.get("_id", MISSING)
        result.pop("_id", None)
        return result if with_id is False or _id is MISSING else {"_id": _id, **result}

    return ({*tree, "_id"} if is_included else None), project


def _pruned(value: Any, tree: Document, is_included: bool) -> Any:
    """Return a document, or list of them, with only the paths in a tree, or without these."""
    if type(value) is list:
        kept = (v for v in value if not is_included or type(v) in (dict, list))
        return [_pruned(item, tree, is_included) for item in kept]
    if type(value) is not dict:
        return value
    result = {}
    for name, item in value.items():
        below = tree.get(name, MISSING)
        if below is MISSING or below is None:
            if (below is None) is is_included:
                result[name] = item
        elif not is_included or type(item) in (dict, list):
            result[name] = _pruned(item, below, is_included)
    return result


def sort_order(key: Any, direction: int | None = None) -> list[tuple[str, int]]:
    """Return pymongo's forms of a sort order as pairs of field and direction."""
    if isinstance(key, str):
        key = [(key, 1 if direction is None else direction)]
    items = key.items() if isinstance(key, Mapping) else key
    pairs = [(item, 1) if isinstance(item, str) else tuple(item) for item in items]
    for name, way in pairs:
        is_path = isinstance(name, str) and not any(map(str.isdigit, parts_of(name)))
        if not is_path or way not in (1, -1):
            raise _refusal(f"sort by {name!r}: {way!r}; give fields with 1, or -1")
    return pairs


def sort_key(document: Document, field: str, way: int) -> tuple:
    """Return the sort key of a document; an array sorts by its smallest or largest element."""
    keys: list[tuple] = []
    for value, is_whole in leaves(document, parts_of(field)):
        if type(value) is list and not is_whole:
            keys += map(order_key, value or [MISSING])
        else:
            keys.append(order_key(None if value is MISSING else value))
    return (min if way > 0 else max)(keys or [order_key(None)])


# Updates

#: Function that changes a document at a path, given in parts
_Step = Callable[[Document, list[str]], None]


def compiled_update(update: Any, condition: Document) -> Callable[[Document | None], Document]:
    """Return a function that returns a document with an update applied.

    `condition` is the filter that found the document. ``$`` in a path is the array element that it
    matched. For None, the function returns the document of an upsert, with the filter's equalities.
    Raises NotAvailable, ValueError or pymongo.errors.WriteError for an update that is invalid, or
    cannot be applied.
    """
    steps = _steps(update)

    def apply(document: Document | None) -> Document:
        is_new = document is None
        before = _from_filter(condition) if document is None else document
        touched = {path.partition(".")[0] for path, _, _ in steps}
        after = {k: copy.deepcopy(v) if k in touched else v for k, v in before.items()}
        for path, operator, step in steps:
            if is_new or operator != "$setOnInsert":
                parts = parts_of(path)
                step(after, _with_index(parts, after, condition) if "$" in parts else parts)
        _id = before.get("_id", MISSING)
        if _id is not MISSING and not equal(after.get("_id", MISSING), _id):
            raise _error(f"an update cannot change _id ({_id!r})", _IMMUTABLE)
        if is_new:
            return {"_id": after.pop("_id") if "_id" in after else ObjectId(), **after}
        return after

    return apply


def _steps(update: Any) -> list[tuple[str, str, _Step]]:
    """Return path, operator and change for each path of an update, in the order of new fields."""
    if isinstance(update, list):
        raise _refusal("pipelines as updates: give operators")
    if not isinstance(update, Mapping) or not update:
        raise ValueError(f"an update must be a mapping of operators, not {update!r}")
    steps = []
    for operator, fields in update.items():
        if not operator.startswith("$"):
            raise ValueError(f"an update must consist of operators such as $set, not {operator!r}")
        if operator not in UPDATE_OPERATORS:
            names = ", ".join(sorted(UPDATE_OPERATORS))
            raise _refusal(f"update operator {operator}: it has {names}")
        if not isinstance(fields, Mapping):
            raise _error(f"{operator}: {fields!r} is no mapping of fields", _FAILED)
        for path, value in plain(dict(fields)).items():
            parts = parts_of(path)
            if any(p.startswith("$") and p != "$" for p in parts) or parts.count("$") > 1:
                raise _refusal(f"update of {path!r}: one $ is allowed in a path")
            if parts[0] == "$":
                raise _error(f"the path {path!r} begins with $", _FAILED)
            steps.append((path, operator, _step(operator, value, path)))
    # The order of new fields; it puts a path directly before those that begin with it
    steps.sort(
        key=lambda step: [
            (0, int(part), "") if _is_index(part) else (1, 0, part) for part in step[0].split(".")
        ]
    )
    for (one, *_), (other, *_) in pairwise(steps):
        if one == other or other.startswith(f"{one}."):
            raise _error(f"two updates of {one!r} are in conflict: {other!r}", _CONFLICT)
    return steps


def _step(operator: str, value: Any, path: str) -> _Step:
    if operator == "$unset":
        return _unset
    if operator in ("$pull", "$pullAll"):
        test = _pull_test(operator, value, path)
        return lambda document, parts: _pull(document, parts, path, test)
    change = _change_of(operator, value, path)
    return lambda document, parts: _change(document, parts, path, change)


def _change_of(operator: str, value: Any, path: str) -> Callable[[Any], Any]:
    """Return a function from the old value at a path, or `MISSING`, to the new one."""
    if operator in ("$set", "$setOnInsert"):
        return lambda old: value
    if operator == "$inc":
        _sum(MISSING, value, path)
        return lambda old: _sum(old, value, path)
    if operator in ("$min", "$max"):

        def extreme(old: Any) -> Any:
            new_key, old_key = order_key(value), order_key(old)
            is_beyond = new_key > old_key if operator == "$max" else new_key < old_key
            return value if old is MISSING or is_beyond else old

        return extreme
    items = [value]
    if type(value) is dict and any(name.startswith("$") for name in value):
        if value.keys() != {"$each"}:
            raise _refusal(f"{', '.join(value)} in {operator}: it has $each")
        items = value["$each"]
        if type(items) is not list:
            raise _error(f"$each of {operator} for {path!r} must be a list", _FAILED)

    def extended(old: Any) -> list:
        if old is not MISSING and type(old) is not list:
            raise _no_array(operator, path, old)
        result = [] if old is MISSING else list(old)
        for item in items:
            if operator == "$push" or not any(equal(item, other) for other in result):
                result.append(item)
        return result

    return extended


def _sum(old: Any, value: Any, path: str) -> Any:
    for number in (value, old):
        if type(number) is Decimal128:
            raise _refusal(f"$inc of {path!r} with a Decimal128")
        if type(number) not in (int, Int64, float) and number is not MISSING:
            raise _error(f"cannot $inc {path!r}: {number!r} is no number", _TYPE_MISMATCH)
    if old is MISSING:
        return value
    result = old + value
    if isinstance(result, int) and not -(2**63) <= result < 2**63:
        raise _error(f"cannot $inc {path!r} beyond 8 bytes", _FAILED)
    is_long = Int64 in (type(old), type(value))
    return Int64(result) if is_long and isinstance(result, int) else result


def _pull_test(operator: str, value: Any, path: str) -> Predicate:
    if operator == "$pullAll":
        if type(value) is not list:
            raise _error(f"$pullAll of {path!r} needs a list", _FAILED)
        return lambda item: any(equal(item, other) for other in value)
    if is_operators(value) or type(value) is Regex:
        matches = compiled({"x": value})
        return lambda item: matches({"x": item})
    if type(value) is dict:
        matches = compiled(value)
        return lambda item: type(item) is dict and matches(item)
    return lambda item: equal(item, value)


def _pull(document: Document, parts: list[str], path: str, test: Predicate) -> None:
    parent, last = _parent(document, parts)
    if parent is None:
        return
    if type(parent[last]) is not list:
        raise _no_array("$pull", path, parent[last])
    parent[last] = [item for item in parent[last] if not test(item)]


def _unset(document: Document, parts: list[str]) -> None:
    parent, last = _parent(document, parts)
    if type(parent) is list:
        parent[last] = None
    elif parent is not None:
        del parent[last]


def _parent(document: Document, parts: list[str]) -> tuple[Any, Any]:
    """Return the container of the value at a path and its key or index; None if it is missing."""
    parent: Any = None
    key: Any = None
    value: Any = document
    for part in parts:
        parent, key = value, part
        if type(value) is list and _is_index(part) and int(part) < len(value):
            key = int(part)
        elif type(value) is not dict or part not in value:
            return None, None
        value = parent[key]
    return parent, key


def _change(document: Document, parts: list[str], path: str, change: Callable[[Any], Any]) -> None:
    """Set a value at a path; missing parent documents are made."""
    value: Any = document
    for i, part in enumerate(parts):
        key: Any = part
        old: Any = MISSING
        if type(value) is list:
            if not _is_index(part):
                raise _error(f"cannot create field {part!r} of {path!r} in an array", _NOT_VIABLE)
            key = int(part)
            if key > len(value) + _MOST_NULLS:
                raise _refusal(f"arrays as long as {path!r} would make one")
            if key < len(value):
                old = value[key]
        elif type(value) is dict:
            old = value.get(part, MISSING)
        else:
            raise _error(
                f"cannot create field {part!r} of {path!r} in a {type(value).__name__}", _NOT_VIABLE
            )
        new = change(old) if i == len(parts) - 1 else ({} if old is MISSING else old)
        if type(value) is list:
            value += [None] * (key + 1 - len(value))
        value[key] = new
        value = new


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and (part == "0" or not part.startswith("0"))


def _with_index(parts: list[str], document: Document, condition: Document) -> list[str]:
    """Return a path with ``$`` replaced by the index of the element that a filter matched."""
    place = parts.index("$")
    array, path, whole_path = parts[:place], ".".join(parts[:place]), ".".join(parts)
    about = [key for key in condition if key == path or key.startswith(f"{path}.")]
    if not about:
        raise _error(
            f"the positional operator in {whole_path!r} needs a condition on {path!r}", _FAILED
        )
    value = condition[about[0]]
    matches_no_element = value is None or (is_operators(value) and bool(_NO_ELEMENT & set(value)))
    through_arrays = any(
        type(v) is list for n in range(1, place) for v, _ in leaves(document, array[:n])
    )
    has_others = len(about) > 1 or any(key in LOGICAL for key in condition)
    if has_others or matches_no_element or through_arrays:
        raise _refusal(
            f"update of {whole_path!r} without exactly one condition on {path!r} that selects an "
            "element"
        )
    [(found, _), *_] = leaves(document, array) or [(MISSING, False)]
    if type(found) is not list:
        raise _error(f"{path!r} is no array, for {whole_path!r}", _FAILED)
    is_selected = _element_filter(about[0].removeprefix(path).removeprefix("."), value, whole_path)
    for index, item in enumerate(found):
        if is_selected(item):
            return [*array, str(index), *parts[place + 1 :]]
    raise _refusal(f"update of {whole_path!r}, whose element the filter does not select")


def _element_filter(field: str, value: Any, whole_path: str) -> Predicate:
    """Return the test for elements of an array, from a condition on it or on a field in it."""
    if field:
        inner = compiled({field: value})
        return lambda item: type(item) is dict and inner(item)
    if not is_operators(value) or "$elemMatch" not in value:
        whole = compiled({"x": value})
        return lambda item: type(item) is not list and whole({"x": item})
    if len(value) > 1:
        raise _refusal(f"other conditions with $elemMatch for {whole_path!r}")
    return _element_test(value["$elemMatch"])


def _from_filter(condition: Document) -> Document:
    """Return the initial document of an upsert, from the equalities in a filter."""
    made: Document = {}
    for path, value in sorted(_equalities(condition), key=lambda pair: pair[0]):

        def set_once(old: Any, path: str = path, value: Any = value) -> Any:
            if old is not MISSING:
                raise _error(f"the filter of an upsert has two values for {path!r}", _NOT_SINGLE)
            return value

        _change(made, parts_of(path), path, set_once)
    return made


def _equalities(condition: Document) -> Iterator[tuple[str, Any]]:
    for key, value in condition.items():
        if key == "$and":
            for part in value:
                yield from _equalities(part)
        elif key.startswith("$") or type(value) is Regex:
            raise _refusal(f"upsert by {key}: {value!r}")
        elif not is_operators(value):
            yield key, value
        elif "$eq" in value:
            yield key, value["$eq"]
        elif not set(value) <= _NO_VALUE or key.partition(".")[0] == "_id":
            raise _refusal(f"upsert by {key}: {value!r}; name its value")


def _refusal(what: str) -> NotAvailable:
    return NotAvailable(f"the embedded run database has no {what[:150]}")


def _unknown(operator: str) -> NotAvailable:
    return _refusal(f"filter operator {operator}; it has {', '.join(sorted(FILTER_OPERATORS))}")


def _no_array(operator: str, path: str, value: Any) -> Exception:
    kind = type(value).__name__
    return _error(f"the field {path!r} must be an array for {operator}, but is {kind}", _FAILED)


def _error(text: str, code: int) -> Exception:
    from pymongo.errors import WriteError  # slow to import, and not needed to read

    return WriteError(text, code)
