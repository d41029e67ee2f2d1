"""Values, paths and filters of the embedded store, as MongoDB has them.

Values compare by type first and then by value: numbers of all types with each other, a boolean
never with a number, documents with the order of their fields. Paths lead through arrays. `compiled`
makes a function of a filter, once; what is not in `FILTER_OPERATORS`, or would not be done as
MongoDB does it, is refused with `NotAvailable`.
"""

import decimal
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import bson
from bson import Binary, Code, DatetimeMS, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion

from amstrax.exceptions import NotAvailable

Document = dict[str, Any]
Predicate = Callable[[Any], bool]

FILTER_OPERATORS = frozenset(
    ("$and", "$or", "$nor", "$not", "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin")
    + ("$exists", "$type", "$regex", "$options", "$elemMatch", "$size", "$all")
)
LOGICAL = ("$and", "$or", "$nor")

# The order of types; below all is what has no value, as an empty array when documents are sorted
_NOTHING, _NULL, _NUMBER, _TEXT, _DOCUMENT, _ARRAY, _BINARY, _ID, _BOOL, _DATE = range(10)
_TIMESTAMP, _REGEX, _CODE = 10, 11, 13
#: Types that values are compared by <, > with
_ORDERED = frozenset((_NULL, _NUMBER, _TEXT, _BINARY, _ID, _BOOL, _DATE))

#: Names and numbers of types, for $type -> whether a value has it
_TYPES: dict[Any, Predicate] = {
    (1, "double"): lambda v: type(v) is float,
    (2, "string"): lambda v: isinstance(v, str) and not isinstance(v, Code),
    (3, "object"): lambda v: isinstance(v, Mapping),
    (4, "array"): lambda v: isinstance(v, list),
    (5, "binData"): lambda v: isinstance(v, bytes),
    (7, "objectId"): lambda v: isinstance(v, ObjectId),
    (8, "bool"): lambda v: isinstance(v, bool),
    (9, "date"): lambda v: isinstance(v, (datetime, DatetimeMS)),
    (10, "null"): lambda v: v is None,
    (11, "regex"): lambda v: isinstance(v, Regex),
    (16, "int"): lambda v: type(v) is int,
    (18, "long"): lambda v: isinstance(v, bson.Int64),
    (19, "decimal"): lambda v: isinstance(v, Decimal128),
    (None, "number"): lambda v: rank(v) == _NUMBER,
}


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


#: What is at a path that a document does not have
MISSING: Any = _Missing()


#: How documents are decoded: dates beyond Python's as `DatetimeMS`
CODEC: CodecOptions = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)


def plain(value: Any) -> Any:
    """Return a value with types as in decoded BSON."""
    return bson.decode(bson.encode({"": value}), CODEC)[""]


def rank(value: Any) -> int:
    """Return the place of a value's type in MongoDB's order of types."""
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, (int, float, Decimal128)):
        return _NUMBER
    if isinstance(value, str):
        return _CODE if isinstance(value, Code) else _TEXT
    for kinds, place in (
        (Mapping, _DOCUMENT),
        (list, _ARRAY),
        (bytes, _BINARY),
        (ObjectId, _ID),
        ((datetime, DatetimeMS), _DATE),
        (Timestamp, _TIMESTAMP),
        (Regex, _REGEX),
        (MinKey, -1),
        (MaxKey, 127),
    ):
        if isinstance(value, kinds):  # type: ignore[arg-type]
            return place
    if value is MISSING:
        return _NOTHING
    raise NotAvailable(f"the embedded run database does not compare a {type(value).__name__}")


def order_key(value: Any) -> tuple:
    """Return a key by which values are in MongoDB's order, and equal where its values are."""
    place = rank(value)
    if place == _NUMBER:
        number = value.to_decimal() if isinstance(value, Decimal128) else value
        if isinstance(number, decimal.Decimal):
            number = float("nan") if number.is_nan() else number
        is_nan = isinstance(number, float) and math.isnan(number)
        return (place, 0) if is_nan else (place, 1, number)
    if place == _DOCUMENT:
        fields = [(rank(item), name, order_key(item)) for name, item in value.items()]
        return (place, *fields)
    if place == _ARRAY:
        return (place, *map(order_key, value))
    if place == _BINARY:
        return place, len(value), value.subtype if isinstance(value, Binary) else 0, bytes(value)
    if place == _DATE:
        return place, int(value) if isinstance(value, DatetimeMS) else _milliseconds(value)
    if place == _TIMESTAMP:
        return place, value.time, value.inc
    if place == _REGEX:
        return place, value.pattern, value.flags
    if place == _CODE:
        return place, str(value), order_key(value.scope or {})
    return (place,) if place in (-1, 127, _NULL, _NOTHING) else (place, value)


def _milliseconds(value: datetime) -> int:
    return int(DatetimeMS(value))


def equal(one: Any, other: Any) -> bool:
    """Return whether two values are equal for MongoDB."""
    if type(one) is str and type(other) is str:
        return one == other
    return rank(one) == rank(other) and order_key(one) == order_key(other)


def parts_of(path: str) -> list[str]:
    """Return the parts of a path with dots.

    Raises
    ------
    NotAvailable
        For one with an empty part.
    """
    parts = path.split(".")
    if not all(parts):
        raise NotAvailable(f"the embedded run database has no path {path!r}: a part of it is empty")
    return parts


class Leaf(NamedTuple):
    """A value at the end of a path; `whole` when its elements do not count, if it is an array."""

    value: Any
    whole: bool = False


def leaves(value: Any, parts: Sequence[str]) -> Iterator[Leaf]:
    """Yield what is at a path, `MISSING` too, through arrays and by their indexes."""
    if not parts:
        yield Leaf(value)
    elif isinstance(value, Mapping):
        yield from leaves(value.get(parts[0], MISSING), parts[1:])
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, Mapping):
                yield from leaves(item, parts)
        if parts[0].isdigit():
            index = int(parts[0])
            item = value[index] if index < len(value) else MISSING
            if len(parts) == 1:
                yield Leaf(item, whole=True)
            else:
                yield from leaves(item, parts[1:])
    else:
        yield Leaf(MISSING)


def candidates(found: Iterator[Leaf]) -> Iterator[Any]:
    """Yield the values that a condition on one value is about: elements of arrays, and arrays."""
    for value, whole in found:
        if isinstance(value, list) and not whole:
            yield from value
        yield value


def compiled(condition: Mapping[str, Any]) -> Predicate:
    """Return a function that says whether a document fulfils a filter.

    Parameters
    ----------
    condition
        Filter, of values as `plain` gives them.

    Raises
    ------
    NotAvailable
        For what the embedded store does not do as MongoDB does it.
    """
    tests = [_test_of(key, value) for key, value in condition.items()]
    if len(tests) == 1:
        return tests[0]
    return lambda document: all(test(document) for test in tests)


def _test_of(key: str, value: Any) -> Predicate:
    if key in LOGICAL:
        if not isinstance(value, list) or not value or not all(map(_is_document, value)):
            raise _refusal(f"{key}: {value!r}; give a list of filters")
        tests = [compiled(part) for part in value]
        if key == "$and":
            return lambda document: all(test(document) for test in tests)
        wanted = key == "$or"
        return lambda document: any(test(document) for test in tests) is wanted
    if key.startswith("$"):
        raise _refusal(f"filter operator {key}; it has {', '.join(sorted(FILTER_OPERATORS))}")
    parts, test = parts_of(key), _on_leaves(value)
    if len(parts) == 1:
        name = key
        return lambda document: test(lambda: iter((Leaf(document.get(name, MISSING)),)))
    return lambda document: test(lambda: leaves(document, parts))


_Leaves = Callable[[], Iterator[Leaf]]


def _on_leaves(value: Any) -> Callable[[_Leaves], bool]:
    """Return a test of what is at a path, by the value that a filter has for it."""
    if not is_operators(value):
        return _any(_equality(value))
    if ("$options" in value) and "$regex" not in value:
        raise _refusal("$options without $regex")
    tests = []
    for operator, operand in value.items():
        if operator == "$options":
            continue
        if operator == "$regex":
            tests.append(_any(_regex_of(operand, value.get("$options"))))
        else:
            tests.append(_operator(operator, operand))
    return lambda found: all(test(found) for test in tests)


def is_operators(value: Any) -> bool:
    """Return whether a value in a filter is made of operators."""
    if not isinstance(value, Mapping):
        return False
    with_dollar = [name.startswith("$") for name in value]
    if any(with_dollar) and not all(with_dollar):
        raise _refusal(f"{value!r}, with fields among operators")
    return bool(value) and all(with_dollar)


def _any(predicate: Predicate) -> Callable[[_Leaves], bool]:
    return lambda found: any(predicate(value) for value in candidates(found()))


def _operator(operator: str, operand: Any) -> Callable[[_Leaves], bool]:
    if operator == "$eq":
        return _any(_equality(_no_operators(operand), literally=True))
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        return _any(_comparison(operator, operand))
    if operator in ("$in", "$nin", "$all") and not isinstance(operand, list):
        raise _refusal(f"{operator}: {operand!r}; give a list")
    if operator == "$in":
        return _any(_membership(operand))
    if operator == "$all":
        if any(item is None or isinstance(item, (list, Regex)) for item in operand):
            raise _refusal(f"$all: {operand!r}, with null, lists or regular expressions")
        each = [_on_leaves(item) for item in operand]
        return lambda found: bool(each) and all(test(found) for test in each)
    if operator in ("$ne", "$nin", "$not"):
        if operator == "$ne" and isinstance(operand, Regex):
            raise _refusal("$ne of a regular expression; take $not")
        if operator == "$not" and not isinstance(operand, Regex) and not is_operators(operand):
            raise _refusal(f"$not: {operand!r}; give operators or a regular expression")
        if operator == "$not":
            test = _on_leaves(operand)
        else:
            test = _operator({"$ne": "$eq", "$nin": "$in"}[operator], operand)
        return lambda found: not test(found)
    if operator == "$exists":
        if not isinstance(operand, (bool, int, float)):
            raise _refusal(f"$exists: {operand!r}; give true or false")
        wanted = bool(operand)
        return lambda found: any(v.value is not MISSING for v in found()) is wanted
    if operator == "$type":
        return _any(_type_test(operand))
    if operator == "$size":
        is_number = isinstance(operand, (int, float)) and not isinstance(operand, bool)
        if not is_number or operand < 0 or operand != int(operand):
            raise _refusal(f"$size: {operand!r}; give a number")
        return lambda found: any(isinstance(v, list) and len(v) == operand for v, _ in found())
    if operator == "$elemMatch":
        element = element_test(operand)
        return lambda found: any(
            isinstance(value, list) and any(element(item) for item in value) for value, _ in found()
        )
    raise _refusal(f"filter operator {operator}; it has {', '.join(sorted(FILTER_OPERATORS))}")


def element_test(condition: Any) -> Predicate:
    """Return a function that says whether an element of an array is one that $elemMatch means."""
    if not _is_document(condition):
        raise _refusal(f"$elemMatch: {condition!r}; give a filter")
    if any(name.startswith("$") and name not in LOGICAL for name in condition):
        is_operators(condition)
        test = _on_leaves(condition)
        return lambda item: test(lambda: iter((Leaf(item, whole=True),)))
    matches = compiled(condition)

    def test_document(item: Any) -> bool:
        if isinstance(item, list):
            # An array counts as a document of its indexes
            item = {str(i): value for i, value in enumerate(item)}
        return isinstance(item, Mapping) and matches(item)

    return test_document


def _equality(value: Any, literally: bool = False) -> Predicate:
    if isinstance(value, Regex) and not literally:
        return _regex_test(value)
    if value is None:
        return lambda other: other is None or other is MISSING
    if type(value) is str:
        return lambda other: type(other) is str and other == value
    place, key = rank(value), order_key(value)
    return lambda other: rank(other) == place and order_key(other) == key


def _membership(items: list) -> Predicate:
    """Return a test for values of which an item of $in is one, fast for many texts and numbers."""
    plain_types = (str, int)
    known = {kind: frozenset(i for i in items if type(i) is kind) for kind in plain_types}
    tests = [_equality(_no_operators(item)) for item in items if type(item) not in plain_types]

    def test(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            is_known = value in known[str]
        elif kind in (int, bson.Int64, float):
            is_known = value in known[int]
        else:
            is_known = kind is Decimal128 and any(_equality(i)(value) for i in known[int])
        return is_known or any(test(value) for test in tests)

    return test


def _comparison(operator: str, value: Any) -> Predicate:
    place, key = rank(value), order_key(value)
    if place not in _ORDERED:
        raise _refusal(f"{operator} of a {type(value).__name__}")
    with_equal = operator in ("$gte", "$lte")
    if place == _NULL:
        return lambda other: with_equal and (other is None or other is MISSING)
    greater = operator in ("$gt", "$gte")
    nan = (_NUMBER, 0)

    def test(other: Any) -> bool:
        if rank(other) != place:
            return False
        its = order_key(other)
        if its == key:
            return with_equal
        # What is not a number is neither above nor below others
        return nan not in (its, key) and (its > key) is greater

    return test


def _type_test(names: Any) -> Predicate:
    tests = []
    for name in names if isinstance(names, list) else [names]:
        found = [test for kind, test in _TYPES.items() if name in kind and name is not None]
        if isinstance(name, bool) or not found:
            raise _refusal(f"$type: {name!r}")
        tests += found
    return lambda value: value is not MISSING and any(test(value) for test in tests)


def _regex_of(pattern: Any, options: Any) -> Predicate:
    if isinstance(pattern, Regex) and options is None:
        return _regex_test(pattern)
    if isinstance(pattern, Regex):
        pattern = pattern.pattern
    if not isinstance(pattern, str) or not isinstance(options or "", str):
        raise _refusal(f"$regex: {pattern!r} with $options: {options!r}; give texts")
    if set(options or "") - set("imsx"):
        raise _refusal(f"$options: {options!r}; it has i, m, s and x")
    return _regex_test(Regex(pattern, options or ""))


def _regex_test(regex: Regex) -> Predicate:
    """Return a test of texts by a regular expression that Python and MongoDB read alike.

    The same expression as a value passes, too.
    """
    pattern, flags = regex.pattern, regex.flags & ~re.UNICODE
    odd = re.search(r"\\(?![\\dDwWsSbBnrt]|[^\w\s])|\(\?(?![:=!])|\[\[?:|\[\^?\]", pattern)
    has_classes = re.search(r"(?<!\\)(?:\\\\)*\\[dDwWsSbB]", pattern)
    if not isinstance(pattern, str) or odd or flags & (re.LOCALE | re.DEBUG):
        raise _refusal(f"regular expression {pattern!r}, with what Python reads otherwise")
    if has_classes and flags & re.IGNORECASE:
        raise _refusal(f"regular expression {pattern!r} with option i: it has classes of letters")
    try:
        search = re.compile(pattern, flags | (re.ASCII if has_classes else 0)).search
    except re.error as error:
        raise _refusal(f"regular expression {pattern!r} ({error})") from error

    def test(value: Any) -> bool:
        return search(value) is not None if type(value) is str else equal(value, regex)

    return test


def _no_operators(value: Any) -> Any:
    if isinstance(value, Mapping) and any(name.startswith("$") for name in value):
        raise _refusal(f"operators inside a value: {value!r}")
    return value


def _is_document(value: Any) -> bool:
    return isinstance(value, Mapping)


def _refusal(what: str) -> NotAvailable:
    return NotAvailable(f"the embedded run database has no {what[:150]}")
