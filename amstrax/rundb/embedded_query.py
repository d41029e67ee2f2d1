"""What the embedded store understands of MongoDB's filters, projections and sort orders.

Values compare by type first and then by value: numbers of all types with each other, a boolean
never with a number, documents with the order of their fields. Paths lead through arrays. `compiled`
makes a function of a filter, once; `Lookup` finds the documents that match it in a table. Documents
are plain dicts, as `bson.decode` gives them.

Whatever is outside the subset below is refused with `NotAvailable`, never ignored or done otherwise
than by MongoDB.

- filters: fields (with dots, through arrays), the operators in `FILTER_OPERATORS`
- projections: names of fields to have, or to leave out; ``_id`` on its own
- sort: one or several fields, 1 or -1
"""

import decimal
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, TypeGuard

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
#: Number of bytes that a BSON element's value has, by its type, for types where that is always so
_FIXED_LENGTH = {
    0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16,
    0x7F: 0, 0xFF: 0,
}  # fmt: skip
#: What to add to the length that is written before the value
_LENGTH_PREFIX = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
_REGULAR_EXPRESSION = 0x0B
#: Why a document is odd: the index says nothing of its name or number, or of the other columns
ODD_NAME, ODD_WORK = 1, 2
#: Forms of the status, a word or a document, in the index
AS_WORD, AS_DOCUMENT = "w:", "d:"
_STATUS_FORMS = {"processing_status": AS_WORD, "processing_status.status": AS_DOCUMENT}
#: Documents read at a time
_BATCH = 256
#: With more values than this a lookup reads all documents
_MOST_VALUES = 500


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


def checked_filter(condition: Mapping[str, Any] | None) -> Document:
    """Return a filter ready for `compiled`.

    Raises
    ------
    NotAvailable
        For operators that the embedded store does not know.
    """
    if condition is None:
        return {}
    if not isinstance(condition, Mapping):
        raise TypeError(f"a filter must be a mapping, not {condition!r}")
    checked = plain(dict(condition))
    compiled(checked)
    return checked


def top_level_fields(condition: Document) -> set[str]:
    """Return the fields of the document that a filter looks at."""
    fields: set[str] = set()
    for key, value in condition.items():
        if key in LOGICAL:
            fields.update(*map(top_level_fields, value))
        else:
            fields.add(key.partition(".")[0])
    return fields


def needed_bytes(condition: Document) -> list[bytes]:
    """Return byte strings that are in the BSON of every document that fulfils a filter.

    They are those of texts that some field, or an entry of an array, must be equal to. To look for
    them is far quicker than to decode a document.
    """
    needed = []
    for key, value in condition.items():
        if key == "$and":
            needed += [text for part in value for text in needed_bytes(part)]
        elif isinstance(value, str) and not key.startswith("$"):
            text = value.encode() + b"\0"
            needed.append(struct.pack("<i", len(text)) + text)
        elif isinstance(value, dict) and value.keys() == {"$elemMatch"}:
            needed += needed_bytes(value["$elemMatch"])
    return needed


def sort_order(key: Any, direction: int | None = None) -> list[tuple[str, int]]:
    """Return pymongo's forms of a sort order as pairs of field and direction."""
    if isinstance(key, str):
        pairs = [(key, 1 if direction is None else direction)]
    else:
        items = key.items() if isinstance(key, Mapping) else key
        pairs = [(item, 1) if isinstance(item, str) else tuple(item) for item in items]
    for name, way in pairs:
        is_path = isinstance(name, str) and not any(map(str.isdigit, parts_of(name)))
        if not is_path or way not in (1, -1):
            raise NotAvailable(
                f"the embedded run database cannot sort by {name!r}: {way!r}; give fields with 1, "
                "or -1"
            )
    return pairs


def sorted_documents(
    items: list[Any], order: Sequence[tuple[str, int]], document: Callable[[Any], Document]
) -> list[Any]:
    """Return `items` in order, of which `document` gives the document of each."""
    for name, way in reversed(order):

        def key(item: Any, name: str = name, way: int = way) -> tuple:
            return _sort_key(document(item), parts_of(name), way)

        items = sorted(items, key=key, reverse=way < 0)
    return items


def _sort_key(document: Document, parts: Sequence[str], way: int) -> tuple:
    """Return the key of a document for a sort: of an array, its least or greatest element."""
    found = []
    for value, whole in leaves(document, parts):
        if isinstance(value, list) and not whole:
            found += value or [MISSING]
        else:
            found.append(None if value is MISSING else value)
    keys = [order_key(value) for value in found or [None]]
    return min(keys) if way > 0 else max(keys)


def values_at(document: Document, path: Sequence[str]) -> list[Any]:
    """Return the values at a path, through arrays, as ``distinct`` sees them."""
    values: list[Any] = []
    for value, _ in leaves(document, path):
        values += value if isinstance(value, list) else [value]
    return [value for value in values if value is not MISSING]


def decode_fields(data: bytes, fields: Iterable[str] | None) -> Document:
    """Return some top-level fields of a BSON document, without decoding the others.

    Parameters
    ----------
    data
        The document.
    fields
        Names of those wanted; None for all.
    """
    if fields is None:
        return bson.decode(data, CODEC)
    wanted = {name.encode() for name in fields}
    parts = []
    position, end = 4, len(data) - 1
    while wanted and position < end:
        kind = data[position]
        name_end = data.index(0, position + 1)
        value = name_end + 1
        if kind in _FIXED_LENGTH:
            after = value + _FIXED_LENGTH[kind]
        elif kind == _REGULAR_EXPRESSION:
            after = data.index(0, data.index(0, value) + 1) + 1
        else:
            after = value + struct.unpack_from("<i", data, value)[0] + _LENGTH_PREFIX[kind]
        name = data[position + 1 : name_end]
        if name in wanted:
            wanted.discard(name)
            parts.append(data[position:after])
        position = after
    body = b"".join(parts)
    return bson.decode(struct.pack("<i", len(body) + 5) + body + b"\0", CODEC)


class Lookup:
    """The rows that can match a filter, and whether each does.

    Conditions on ``_id``, ``name`` and ``number`` that ask for one value or one of some are looked
    up in the index. So are those on status, tags, and types and hosts of data, in every ``$and``
    and ``$or``, see `_sql`; of the documents that the index leaves, each is compared with all of
    the filter. Documents in which name or number is neither missing, null, a text nor a number that
    SQLite keeps, and the like, are "odd": they are always read.
    """

    def __init__(self, collection: str, condition: Document):
        self.collection, self.condition = collection, condition
        self.rest = dict(condition)
        self.sets: dict[str, set] = {}
        for column in ("name", "number"):
            values = _one_of(condition.get(column))
            if values is not None:
                self.sets[column] = values
                del self.rest[column]
        self.ids = None
        ids = _one_of(condition.get("_id"), texts_only=True)
        if ids is not None:
            self.ids = [id_bytes(value) for value in ids]

    def select(
        self,
        read: Callable[[str, Sequence[Any]], list[tuple]],
        order: Sequence[tuple[str, int]] = (),
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[int, bytes]]:
        """Return place and BSON of the documents that match, in the order of insertion or `order`.

        `read` runs a statement with parameters and returns rows; `limit` 0 is none.
        """
        if not self.condition and limit and len(order) == 1 and order[0][0] in ("name", "number"):
            page = self._page(read, *order[0], skip, limit)
            if page is not None:
                return iter(page)
        found = self._matching(read, few=not order and skip + limit == 1)
        if order:
            fields = {name.partition(".")[0] for name, _ in order}
            keyed = [(decode_fields(item[1], fields), item) for item in found]
            in_order = sorted_documents(keyed, order, lambda pair: pair[0])
            found = iter([item for _, item in in_order])
        return islice(found, skip, skip + limit if limit else None)

    def _page(
        self,
        read: Callable[[str, Sequence[Any]], list[tuple]],
        column: str,
        way: int,
        skip: int,
        limit: int,
    ) -> list[tuple[int, bytes]] | None:
        """Return some of all documents, in the order of an index; None where that may be another.

        SQLite's order of what is missing, numbers and texts is MongoDB's.
        """
        odd = "SELECT 1 FROM documents WHERE collection = ? AND odd & 1 LIMIT 1"
        if read(odd, [self.collection]):
            return None
        statement = (
            "SELECT seq, body FROM documents WHERE collection = ? "
            f"ORDER BY {column} {'ASC' if way > 0 else 'DESC'}, seq LIMIT ? OFFSET ?"
        )
        return read(statement, [self.collection, limit, skip])

    def _matching(
        self, read: Callable[[str, Sequence[Any]], list[tuple]], few: bool
    ) -> Iterator[tuple[int, bytes]]:
        fields = top_level_fields(self.rest)
        all_fields = top_level_fields(self.condition)
        texts = needed_bytes(self.rest)
        rest, whole = compiled(self.rest), compiled(self.condition)
        where, parameters = self._where()
        statement = (
            "SELECT seq, name, number, odd, body FROM documents "
            f"WHERE collection = ? AND seq > ?{where} ORDER BY seq LIMIT ?"
        )
        batch, last = (2 if few else _BATCH), -1
        while True:
            rows = read(statement, [self.collection, last, *parameters, batch])
            for seq, name, number, odd, body in rows:
                if odd:
                    test, needed = whole, all_fields
                else:
                    if "name" in self.sets and name not in self.sets["name"]:
                        continue
                    if "number" in self.sets and number not in self.sets["number"]:
                        continue
                    test, needed = rest, fields
                if not all(part in body for part in texts):
                    continue
                if not needed or test(decode_fields(body, needed)):
                    yield seq, body
            if len(rows) < batch:
                return
            last, batch = rows[-1][0], _BATCH

    def _where(self) -> tuple[str, list[Any]]:
        parts, parameters = [], []
        for column, values in self.sets.items():
            if len(values) > _MOST_VALUES:
                continue
            marks = ", ".join("?" * len(values))
            parts.append(
                " AND seq IN ("
                f"SELECT seq FROM documents WHERE collection = ? AND {column} IN ({marks}) "
                "UNION ALL SELECT seq FROM documents WHERE collection = ? AND odd)"
            )
            parameters += [self.collection, *values, self.collection]
        if self.ids is not None and len(self.ids) <= _MOST_VALUES:
            parts.append(f" AND id IN ({', '.join('?' * len(self.ids))})")
            parameters += self.ids
        elif not parts and (said := _sql(self.condition)) is not None:
            parts.append(
                " AND seq IN (SELECT seq FROM documents INDEXED BY by_work "
                f"WHERE collection = ? AND (odd OR {said[0]}))"
            )
            parameters += [self.collection, *said[1]]
        return "".join(parts), parameters


#: A condition in SQL, and its parameters
_Condition = tuple[str, list[Any]]


def _sql(condition: Document) -> _Condition | None:
    """Return what the index says of a filter: a condition that all documents fulfil which match.

    None when it says nothing.
    """
    found: list[_Condition] = []
    for key, value in condition.items():
        said: _Condition | None = None
        if key == "$and":
            known = [part for part in map(_sql, value) if part is not None]
            said = _joined(known, " AND ") if known else None
        elif key == "$or":
            options = [_sql(part) for part in value]
            if options and None not in options:
                said = _joined([part for part in options if part is not None], " OR ")
        elif key == "$nor":
            # Only of this is the index's word exact, so that its opposite is
            forms = [_STATUS_FORMS.get(field) for part in value for field in part]
            is_type = all([*part.values()] == [{"$type": "string"}] for part in value)
            if is_type and None not in forms:
                lacks = [("NOT coalesce(status GLOB ?, 0)", [f"{form}*"]) for form in forms]
                said = _joined(lacks, " AND ")
        else:
            said = _field_sql(key, value)
        if said is not None:
            found.append(said)
    return _joined(found, " AND ") if found else None


def _joined(parts: list[_Condition], operator: str) -> _Condition:
    text = operator.join(text for text, _ in parts)
    return f"({text})", [value for _, values in parts for value in values]


def _field_sql(field: str, value: Any) -> _Condition | None:
    """Return what the index says of a condition on a field, as `_sql`."""
    if field in ("name", "number"):
        values = _one_of(value)
        if values is None or len(values) > _MOST_VALUES:
            return None
        return f"{field} IN ({', '.join('?' * len(values))})", [*values]
    if field in ("tags", "tags.name"):
        return ("instr(tags, ?)", [f"\n{value}\n"]) if is_text(value) else None
    if field == "data":
        return _data_sql(value)
    form = _STATUS_FORMS.get(field)
    if form is None:
        return None
    if value is None and form == AS_WORD:
        return "status IS NULL", []
    if isinstance(value, dict) and value.keys() == {"$regex"}:
        begin = re.match(r"\^(\w+)$", str(value["$regex"]))
        return "status GLOB ?", [f"{form}{begin[1] if begin else ''}*"]
    values = _one_of(value)
    if values is None or not all(map(is_text, values)):
        return None
    marks = ", ".join("?" * len(values))
    return f"status IN ({marks})", [f"{form}{word}" for word in sorted(values)]


def _data_sql(value: Any) -> _Condition | None:
    """Return what the index says of a condition on the entries of data, as `_sql`."""
    if not isinstance(value, dict) or len(value) != 1:
        return None
    lacks = isinstance(value.get("$not"), dict)
    entry = (value["$not"] if lacks else value).get("$elemMatch")
    if not isinstance(entry, dict) or not all(is_text(entry.get(k)) for k in ("type", "host")):
        return None
    parameters = [f"\n{entry['type']}\t{entry['host']}\n"]
    if not lacks:
        return "instr(made, ?)", parameters
    return ("NOT instr(coalesce(made, ''), ?)", parameters) if len(entry) == 2 else None


def is_text(value: Any) -> TypeGuard[str]:
    """Return whether a value is a text that can be part of a column."""
    return type(value) is str and fits(value) and not re.search("[\n\t\0]", value)


def _one_of(condition: Any, texts_only: bool = False) -> set | None:
    """Return the values of which a field must have one, where the filter says just that."""
    if isinstance(condition, dict):
        if condition.keys() == {"$in"}:
            values = condition["$in"]
        elif condition.keys() == {"$eq"}:
            values = [condition["$eq"]]
        else:
            return None
    else:
        values = [condition]
    kinds = (str, ObjectId) if texts_only else (str, int, float)
    if all(isinstance(v, kinds) and not isinstance(v, (bool, Code)) and fits(v) for v in values):
        return set(values)
    return None


def fits(value: Any) -> bool:
    """Return whether SQLite keeps this value as it is."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value == value and not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))


def id_bytes(value: Any) -> bytes:
    """Return the bytes of an ``_id``, by which there is one document of it.

    Raises
    ------
    NotAvailable
        For kinds that MongoDB does not take, or does not tell from others by their bytes.
    """
    if isinstance(value, (list, tuple, re.Pattern, bson.Regex, bson.Decimal128)):
        raise NotAvailable(
            f"the embedded run database has no _id as {value!r}: take a number, text or ObjectId"
        )
    if isinstance(value, float) and value.is_integer() and fits(int(value)):
        value = int(value)
    return bson.encode({"": value})
